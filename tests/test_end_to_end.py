"""The main path of the README, every command once in a real process, on a tiny sweep."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from runs import TINY, atlas, atlas_here, run_here


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    code, said = atlas("run", root, *TINY, "seeds=[0,3]", "channels='0:10'")
    assert code == 0, said
    return root


def test_the_run_says_what_it_made_and_where(sweep: Path) -> None:
    code, said = atlas_here("run", sweep, *TINY, "seeds=[0,3]", "channels='0:10'")
    assert code == 0
    assert "40 images: 40 ok" in said
    assert str(sweep / "demo" / "atlas.h5") in said


def test_the_atlas_holds_images_and_statistics(sweep: Path) -> None:
    with h5py.File(sweep / "demo" / "atlas.h5") as file:
        assert file.attrs["schema"] == "layer-atlas/1"
        layer = file["demo/conv2"]
        assert layer["image"].shape == (10, 2, 32, 32, 3)
        assert layer["seed"][:].tolist() == [0, 3]
        target = layer["response"][:][np.arange(10), :, np.arange(10)]
        np.testing.assert_allclose(layer["activation"][:], target, rtol=1e-5)
        assert layer["trace"][:][..., -1].mean() > 1.5 * layer["trace"][:][..., 0].mean()


def test_there_is_a_montage_per_layer(sweep: Path) -> None:
    for layer in ("conv1", "conv2"):
        with Image.open(sweep / "demo" / "montages" / "demo" / f"{layer}.png") as picture:
            assert picture.mode == "RGB"
            assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


@pytest.mark.slow
def test_collate_rebuilds_everything_from_the_store_alone(sweep: Path) -> None:
    folder = sweep / "demo"
    before = (folder / "montages" / "demo" / "conv1.png").read_bytes()
    (folder / "atlas.h5").unlink()
    (folder / "montages" / "demo" / "conv1.png").unlink()
    code, _ = atlas("collate", sweep)
    assert code == 0
    assert (folder / "montages" / "demo" / "conv1.png").read_bytes() == before
    assert (folder / "atlas.h5").exists()


def test_verify_measures_the_stored_images_again(sweep: Path) -> None:
    code, said = atlas("verify", sweep)
    assert code == 0
    assert "0 problems" in said
    found = re.search(r"largest difference (\S+) %", said)
    assert found
    assert float(found[1]) < 0.01


def test_verify_sees_an_atlas_that_does_not_match_its_store(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "demo", tmp_path / "demo")
    changed = tmp_path / "demo" / "atlas.h5"
    with h5py.File(changed, "r+") as file:
        file["demo/conv1/activation"][3, 0] += 1.0
    code, said = atlas_here("verify", tmp_path)
    assert code == 1
    assert "demo/conv1/activation of channel 3 differs from its shard" in said


@pytest.mark.parametrize("damaged", ["selectivity", "x", "attrs"])
def test_verify_sees_damage_of_what_no_shard_holds_and_the_next_run_mends_it(
    sweep: Path, tmp_path: Path, damaged: str
) -> None:
    shutil.copytree(sweep / "demo", tmp_path / "demo")
    with h5py.File(tmp_path / "demo" / "atlas.h5", "r+") as file:
        layer = file["demo/conv2"]
        if damaged == "attrs":
            layer.attrs["recipe"] = layer.attrs["recipe"].replace("natural", "notural")
        else:
            layer[damaged][1] += 1
    code, said = atlas_here("verify", tmp_path)
    assert (code, "1 problem" in said) == (1, True), said
    assert "atlas.h5 is not the file that was written" in said
    assert "the next run makes what is damaged again" in said
    assert run_here(tmp_path, *TINY, "seeds=[0,3]", "channels='0:10'") == 0
    code, said = atlas_here("verify", tmp_path)
    assert (code, "0 problems" in said) == (0, True), said


def test_a_damaged_shard_is_no_image_of_unknown_versions(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "demo", tmp_path / "demo")
    shard = next((tmp_path / "demo" / "store").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    code, said = atlas_here("verify", tmp_path)
    assert code == 1
    assert "corrupt shard set aside" in said
    assert "missing; run it again" in said
    assert "environments" not in said


@pytest.mark.slow
def test_collate_mends_a_damaged_atlas(sweep: Path) -> None:
    file = sweep / "demo" / "atlas.h5"
    data = bytearray(file.read_bytes())
    data[1000:1400] = bytes(400)
    file.write_bytes(data)
    code, said = atlas_here("verify", sweep)
    assert code == 1
    assert "Traceback" not in said
    assert atlas_here("collate", sweep)[0] == 0
    assert atlas_here("verify", sweep)[0] == 0


@pytest.mark.slow
def test_verify_tells_an_atlas_of_another_plan(sweep: Path, tmp_path: Path) -> None:
    small = (*TINY, "layers=[conv1]")
    assert run_here(tmp_path, *small, "channels='0:4'") == 0
    old = (tmp_path / "demo" / "atlas.h5").read_bytes()
    assert run_here(tmp_path, *small, "channels='0:12'") == 0
    (tmp_path / "demo" / "atlas.h5").write_bytes(old)
    code, said = atlas_here("verify", tmp_path)
    assert code == 1
    assert "is of another plan or layout; collate it" in said


def test_status_counts_what_is_done(sweep: Path) -> None:
    code, said = atlas("status", sweep)
    assert code == 0
    assert "40 of 40 images done" in said
    assert "no process is at work" in said


@pytest.mark.slow
def test_plan_tells_and_writes_nothing(sweep: Path, tmp_path: Path) -> None:
    code, said = atlas("plan", tmp_path, *TINY)
    assert code == 0
    assert "64, of which 64 are missing" in said
    assert not list(tmp_path.iterdir())
    code, said = atlas_here("plan", sweep, *TINY, "seeds=[0,3]")
    assert code == 0
    assert "128, of which 88 are missing" in said


@pytest.mark.slow
def test_layers_lists_every_layer(tmp_path: Path) -> None:
    code, said = atlas("layers", tmp_path)
    assert code == 0
    assert "conv6" in said
    assert "48x12x12" in said
    assert not list(tmp_path.iterdir())
