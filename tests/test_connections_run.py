"""Weights between channels in a sweep: computed once, kept, made again, and on no other's way."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import TINY, assert_same_atlas, atlas_here, run_here

from layer_atlas.atlas.hdf5 import compare
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.models.demo import DemoNet
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest

SOME = (*TINY, "optimizer.steps=2", "channels='0:6'", "connections=3", "collate.site=false")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    assert run_here(root, *SOME) == 0
    return root / "demo"


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("store/demo/*/connections/*")}


def test_the_atlas_has_the_weights_of_the_network(made: Path) -> None:
    from safetensors.torch import load_file

    import layer_atlas

    network = DemoNet()
    network.load_state_dict(load_file(Path(layer_atlas.__file__).parent / "data/demo.safetensors"))
    kernel = network.conv2.weight.detach().numpy()
    with open_atlas(made) as atlas:
        found = atlas["conv2"].connections
        assert found.sources == ["conv1"]
        strength = np.abs(kernel).sum(axis=(1, 2, 3))
        for channel in range(6):
            first = found.incoming(channel)[0]
            # Average pooling of 3 x 3 by steps of two lies between them.
            by_hand = np.zeros((7, 7))
            for i, j in np.ndindex(3, 3):
                rows, columns = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3)
                by_hand[rows, columns] += kernel[channel, first.channel, i, j] / 9
            assert np.allclose(first.kernel, by_hand, rtol=1e-4, atol=1e-7)
            assert first.weight == pytest.approx(kernel[channel, first.channel].sum(), rel=1e-3)
            assert 0 < first.share <= 1
            assert strength[channel] > 0
        assert atlas["conv1"].connections.sources == []
        assert {c.layer for c in atlas["conv1"].connections.outgoing(0)} <= {"conv2"}


def test_what_is_done_is_not_done_again(made: Path) -> None:
    before = files(made)
    assert len(before) == 2
    assert run_here(made.parent, *SOME) == 0
    assert files(made) == before


@pytest.mark.slow
def test_a_corrupt_file_is_made_again_as_it_was(made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "atlas.h5"
    kept.write_bytes((made / "atlas.h5").read_bytes())
    path = next(path for path in files(made) if "conv2" in str(path))
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\0\0\0\0")
    (made / "atlas.json").unlink()
    assert run_here(made.parent, *SOME) == 0
    assert path.read_bytes() == data
    aside = next(made.glob("store/demo/conv2/connections/*.corrupt-*"))
    assert_same_atlas(kept, made / "atlas.h5")
    code, said = atlas_here("clean", made.parent, "yes")
    assert code == 0, said
    assert not aside.exists()
    assert path.exists()
    assert atlas_here("verify", made.parent)[0] == 0


def test_verify_finds_weights_that_are_not_those_of_their_file(made: Path, tmp_path: Path) -> None:
    copy = OutputFolder(Path(shutil.copytree(made, tmp_path / "demo")))
    assert compare(copy) == []
    with h5py.File(copy.atlas, "a") as file:
        file["demo/conv2/connections/weight"][4, 1] += 1
        file["demo/conv2/connections/incoming_channel"][2, 0] += 1
    assert compare(copy) == [
        "demo/conv2/connections/incoming_channel of channel 2 differs from its file",
        "demo/conv2/connections/weight of channel 4 differs from its file",
    ]
    with h5py.File(copy.atlas, "a") as file:
        del file["demo/conv2/connections/kernel"]
    (problem,) = [text for text in compare(copy) if "kernel" in text]
    assert "demo/conv2/connections cannot be read: there is no 'kernel' of float32" in problem


def test_weights_are_added_to_images_that_are_there(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "without"
    assert run_here(root, *SOME, "connections=0") == 0
    folder = root / "demo"
    assert not files(folder)
    assert "connections" not in read_manifest(OutputFolder(folder))["plan"]
    with h5py.File(folder / "atlas.h5") as file:
        assert not any("connections" in group for group in file["demo"].values())
    # Weights are added to images that are there, and decide none of them.
    shards = {path.name for path in folder.glob("store/demo/*/*.safetensors")}
    assert run_here(root, *SOME) == 0
    assert {path.name for path in folder.glob("store/demo/*/*.safetensors")} == shards
    assert len(files(folder)) == 2
    assert_same_atlas(made / "atlas.h5", folder / "atlas.h5")
    assert "connections" in json.loads((folder / "manifest.json").read_text())["timings"]
