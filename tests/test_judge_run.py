"""Recognisability from end to end: a sweep with a judge, and what a plain hook makes of it."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runs import (
    TINY,
    assert_same_atlas,
    atlas,
    atlas_here,
    collating_here,
    kill_group,
    run_here,
    start,
    wait_for_shards,
)
from test_dataset_run import picture

from layer_atlas import open_atlas
from layer_atlas.cli import commands
from layer_atlas.cli.tables import summary
from layer_atlas.config.config import ModelConfig
from layer_atlas.datasets.sources import FolderImages, read_view
from layer_atlas.errors import UserError
from layer_atlas.models.load import load_network
from layer_atlas.store.folder import OutputFolder

pytestmark = pytest.mark.slow


JUDGE = "judge={name: demo, weights: none, layers: [conv4]}"
COUNT = 60


@pytest.fixture(scope="module")
def dataset_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(COUNT):
        picture(folder / f"{i:03}.png", i)
    (folder / "030.png").write_text("no picture")  # rows of both networks must still match
    return folder


def with_dataset(dataset_images: Path, *more: str) -> tuple[str, ...]:
    return (*TINY, "dataset=folder", f"dataset.path={dataset_images}", "dataset.examples=1", *more)


@pytest.fixture(scope="module")
def judged(dataset_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a sweep with a judge."""
    root = tmp_path_factory.mktemp("judged")
    assert run_here(root, *with_dataset(dataset_images, JUDGE, "seeds=[0,1]")) == 0
    return root / "demo"


def test_the_summary_names_it_with_its_ceiling_and_chance(judged: Path) -> None:
    lines = summary(OutputFolder(judged)).splitlines()
    (line,) = [line for line in lines if line.startswith("  judged")]
    with h5py.File(judged / "atlas.h5") as file:
        groups = [file["demo/conv1"], file["demo/conv2"]]
        images, photographs = (
            np.nanmean(np.concatenate([group[name][()].ravel() for group in groups]))
            for name in ("recognisability", "dataset/recognisability")
        )
    assert line == (
        f"  judged    recognisability {images:.2f}; of the strongest dataset images "
        f"{photographs:.2f}, by chance 0.50"
    )


def features(pixels: NDArray[np.uint8], layer: str, weights: str, size: int) -> NDArray[Any]:
    """Mean responses (N, K) of a layer of a fresh demo network, by a plain hook."""
    network = load_network(ModelConfig("demo", weights=weights)).module.eval()
    maps: list[torch.Tensor] = []
    dict(network.named_modules())[layer].register_forward_hook(
        lambda module, inputs, output: maps.append(output)
    )
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0
    images = torch.nn.functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        network((images - 0.5) / 0.25)
    return maps[0].numpy().mean(axis=(2, 3)).astype(np.float64)


def views(dataset_images: Path, size: int) -> NDArray[np.uint8]:
    """The readable dataset images, as a network of that input size sees them."""
    dataset = FolderImages(dataset_images)
    read = [read_view(dataset, i, entry, size) for i, entry in enumerate(dataset.entries())]
    return np.stack([view.pixels for view in read if view.pixels is not None])


def apart(units: NDArray[Any]) -> NDArray[Any]:
    """Each row less the mean of all others."""
    return np.stack([row - np.delete(units, i, axis=0).mean(axis=0) for i, row in enumerate(units)])


def choices(
    similarity: NDArray[Any], responses: NDArray[Any], without: tuple[int, ...] = ()
) -> float:
    """Fraction of right choices between the ten strongest and weakest images of even number."""
    even = [i for i in range(0, len(responses), 2) if i not in without]
    by_response = sorted(even, key=lambda i: responses[i])
    weak, strong = by_response[:10], by_response[-10:]
    pairs = [(s, w) for s in strong for w in weak if responses[s] > responses[w]]
    return float(np.mean([similarity[s] > similarity[w] for s, w in pairs]))


def test_methods_state_it_with_what_nine_photographs_reach(judged: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "demo"))
    shown = ["figure.layers=[conv2]", "figure.channels=[0,3,7]"]
    assert commands.main(["figure", f"output_root={tmp_path}", *shown]) == 0
    with h5py.File(copy / "atlas.h5") as file:
        group = file["demo/conv2"]
        best = np.maximum(group["best_seed_index"][()][[0, 3, 7]], 0)
        images = 100 * np.nanmean(group["recognisability"][()][[0, 3, 7], best])
        photographs = 100 * np.nanmean(group["dataset/recognisability"][()][[0, 3, 7]])
    assert (
        f"in {images:.0f} % of pairs, and in {photographs:.0f} % given 9 dataset images of the "
        "target instead."
    ) in (copy / "figures" / "images.methods.md").read_text()


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_recognisability_is_the_choice_of_another_network(
    judged: Path, dataset_images: Path, layer: str
) -> None:
    responses = features(views(dataset_images, 32), layer, "default", 32)
    seen = features(views(dataset_images, 96), "conv4", "none", 96)
    mean, std = seen.mean(axis=0), seen.std(axis=0, ddof=1)
    varies = std > 1e-7
    assert len(seen) == COUNT - 1

    def unit(rows: NDArray[Any]) -> NDArray[Any]:
        z = ((rows - mean) / np.where(varies, std, 1.0))[:, varies]
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    with h5py.File(judged / "atlas.h5") as file:
        group = file[f"demo/{layer}"]
        assert group["recognisability"].attrs["judge"] == (
            "conv4 of demo, untrained (random weights)"
        )
        assert 0 < group["recognisability"].attrs["shuffled"] < 1
        measured, ceiling = group["recognisability"][:], group["dataset/recognisability"][:]
        images, live = group["image"][:], group["status"][:] == 0
    assert measured.shape == (responses.shape[1], 2)
    for seed in (0, 1):
        similar = apart(unit(features(images[:, seed], "conv4", "none", 96))) @ unit(seen).T
        for k in np.flatnonzero(live[:, seed]):
            expected = choices(similar[k], responses[:, k])
            assert measured[k, seed] == pytest.approx(expected, abs=0.021)
    odd = np.arange(1, len(responses), 2)
    nine = [odd[np.argsort(responses[odd, k])[-9:]] for k in range(len(ceiling))]
    similar = apart(np.stack([unit(seen)[rows].mean(axis=0) for rows in nine])) @ unit(seen).T
    for k in np.flatnonzero(responses.std(axis=0) > 1e-6):
        assert ceiling[k] == pytest.approx(choices(similar[k], responses[:, k]), abs=0.021)


def test_a_judge_can_be_added_later_and_no_image_is_made_again(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    settings = with_dataset(dataset_images, "seeds=[0,1]")
    assert run_here(tmp_path, *settings) == 0
    with h5py.File(tmp_path / "demo" / "atlas.h5") as file:
        assert "recognisability" not in file["demo/conv1"]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo/store/demo/*/*.saf*")}
    assert run_here(tmp_path, *settings, JUDGE) == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert_same_atlas(judged / "atlas.h5", tmp_path / "demo" / "atlas.h5")


def test_two_workers_find_the_same(judged: Path, dataset_images: Path, tmp_path: Path) -> None:
    code, said = atlas("run", tmp_path, *with_dataset(dataset_images, JUDGE, "seeds=[0,1]"))
    assert code == 0, said
    assert_same_atlas(judged / "atlas.h5", tmp_path / "demo" / "atlas.h5")


def test_a_sweep_killed_while_it_is_judged_ends_in_the_same_atlas(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    settings = with_dataset(dataset_images, JUDGE, "seeds=[0,1]")
    total = len(list(judged.glob("store/*/*/**/*.safetensors")))
    for committed in (total - 14, total - 8, total - 2):
        process = start("run", tmp_path, *settings)
        wait_for_shards(tmp_path / "demo", committed)
        kill_group(process)
    assert run_here(tmp_path, *settings) == 0
    assert_same_atlas(judged / "atlas.h5", tmp_path / "demo" / "atlas.h5")


def test_a_corrupt_judgement_is_made_again(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "demo"))
    first, *_ = sorted(copy.glob("store/demo/conv1/judged/*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-10] ^= 1
    first.write_bytes(data)
    (copy / "atlas.json").unlink()
    settings = with_dataset(dataset_images, JUDGE, "seeds=[0,1]")
    assert run_here(tmp_path, *settings) == 0
    assert_same_atlas(judged / "atlas.h5", copy / "atlas.h5")


def test_a_shard_that_is_found_corrupt_is_made_again_before_it_is_judged(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "demo"))
    shard, *_ = sorted(copy.glob("store/demo/conv1/*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    for path in copy.glob("store/demo/conv1/judged/*.safetensors"):
        path.unlink()
    settings = with_dataset(dataset_images, JUDGE, "seeds=[0,1]")
    assert run_here(tmp_path, *settings) == 0
    assert not list(copy.glob("failures/*.json"))
    assert_same_atlas(judged / "atlas.h5", copy / "atlas.h5")


def test_the_reader_has_it_with_the_judge_and_its_ceiling(judged: Path) -> None:
    layer = open_atlas(judged)["conv2"]
    described = layer.attributes("recognisability")
    assert described["judge"] == "conv4 of demo, untrained (random weights)"
    assert 0 < described["shuffled"] < 1
    assert described.keys() == {"description", "judge", "shuffled"}
    frame = layer.to_frame()
    ceiling = layer["dataset/recognisability"]
    assert frame["dataset_recognisability"].to_numpy() == pytest.approx(np.repeat(ceiling, 2))
    assert frame["recognisability"].to_numpy() == pytest.approx(layer["recognisability"].ravel())


def test_a_run_without_the_judge_says_what_it_drops(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(judged, tmp_path / "demo")
    code, said = atlas_here("plan", tmp_path, *with_dataset(dataset_images, "seeds=[0,1]"))
    assert code == 0
    assert "warning: recognisability by conv4 of demo" in said
    assert "is dropped from the atlas: add judge=... to keep it" in said


def test_an_atlas_without_a_judgement_that_was_missing_is_made_again(
    judged: Path, dataset_images: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "demo"))
    first, *_ = sorted(copy.glob("store/demo/conv1/judged/*.safetensors"))
    kept = first.read_bytes()
    first.unlink()
    with collating_here():
        assert commands.main(["collate", f"output_root={tmp_path}"]) == 0
    with h5py.File(copy / "atlas.h5") as file:
        assert np.isnan(file["demo/conv1/recognisability"][()]).sum() >= 8
    # Another worker's file arrives: nothing is left to do, but the atlas lacks it.
    first.write_bytes(kept)
    assert run_here(tmp_path, *with_dataset(dataset_images, JUDGE, "seeds=[0,1]")) == 0
    assert_same_atlas(judged / "atlas.h5", copy / "atlas.h5")


def test_clean_keeps_what_the_judge_saw(judged: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(judged, tmp_path / "demo"))
    code, said = atlas("clean", tmp_path, "yes")
    assert code == 0, said
    assert "judged" not in said
    kept = {path.relative_to(copy) for path in copy.glob("store/*/*/*/*.safetensors")}
    assert kept == {path.relative_to(judged) for path in judged.glob("store/*/*/*/*.safetensors")}


def test_an_image_is_not_tested_on_the_dataset_image_that_it_started_from(
    dataset_images: Path, tmp_path: Path
) -> None:
    settings = with_dataset(dataset_images, JUDGE, "init=dataset", "layers=[conv1]")
    # No step: each image is its channel's strongest dataset image.
    assert run_here(tmp_path, *settings, "optimizer.steps=1", "optimizer.learning_rate=1e-9") == 0
    responses = features(views(dataset_images, 32), "conv1", "default", 32)
    seen = features(views(dataset_images, 96), "conv4", "none", 96)
    mean, std = seen.mean(axis=0), seen.std(axis=0, ddof=1)
    varies = std > 1e-7
    with h5py.File(tmp_path / "demo" / "atlas.h5") as file:
        group = file["demo/conv1"]
        measured, images = group["recognisability"][:, 0], group["image"][:, 0]
    shown = features(images, "conv4", "none", 96)
    z, zs = (((rows - mean) / np.where(varies, std, 1))[:, varies] for rows in (shown, seen))
    z, zs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (z, zs))
    similar = apart(z) @ zs.T
    for k in range(len(measured)):
        best = int(responses[:, k].argmax())
        expected = choices(similar[k], responses[:, k], without=(best,))
        assert measured[k] == pytest.approx(expected, abs=0.021)


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("judge=demo", "needs one layer"),
        ("judge={name: demo, layers: ['conv*']}", "are 6"),
        ("judge={name: demo, layers: [conv9]}", "conv9"),
        ("judge={name: dmo, layers: [conv1]}", "dmo"),
    ],
)
def test_a_judge_that_is_not_one_layer_is_a_mistake(
    dataset_images: Path, tmp_path: Path, judge: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_here(tmp_path, *with_dataset(dataset_images, judge))
    assert not (tmp_path / "demo").exists()


def test_a_judge_without_dataset_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a judge chooses between photographs"):
        run_here(tmp_path, *TINY, JUDGE)


def test_a_network_does_not_judge_itself(
    dataset_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = "judge={name: demo, layers: [conv4]}"
    settings = with_dataset(dataset_images, judge)
    assert commands.main(["plan", *settings, f"output_root={tmp_path}"]) == 0
    assert "images of demo are not judged" in capsys.readouterr().out
