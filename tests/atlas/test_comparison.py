"""Similarity of channels: known answers, and what cannot be compared is refused before any work."""

import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from compared import CHANNELS, IMAGES, collated, network, permuted, responses, stored, two_models
from numpy.typing import NDArray
from torch import nn
from toys import layer_info

from layer_atlas import open_atlas
from layer_atlas.atlas import comparison
from layer_atlas.atlas.comparison import (
    Similarity,
    compare_layers,
    encode_comparison,
    paired_layers,
    similarity_by_index,
    similarity_of,
)
from layer_atlas.datasets.statistics import DatasetStats, Ranking
from layer_atlas.datasets.tasks import all_statistics
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest


def stats(rows: NDArray[np.float32], index: Any = None) -> DatasetStats:
    nothing = np.zeros(rows.shape[1], np.float32)
    empty = Ranking(*(np.zeros((rows.shape[1], 0), np.int64) for _ in range(3)))  # type: ignore[arg-type]
    return DatasetStats(
        count=len(rows),
        mean=nothing,
        std=nothing,
        min=nothing,
        max=nothing,
        responding=nothing,  # type: ignore[arg-type]
        top=empty,
        bottom=empty,
        rows=rows,
        row_index=np.arange(len(rows)) if index is None else np.asarray(index),
        unreadable=np.zeros(0, np.int64),
    )


def compared(one: nn.Sequential, other: nn.Sequential) -> Similarity:
    return similarity_of(stats(responses(one)), stats(responses(other)))


# --- known answers -------------------------------------------------------------------------------


def test_identical_networks_are_alike_in_every_channel() -> None:
    found = compared(network(3), network(3))
    assert found.images == IMAGES
    assert found.by_index == pytest.approx(1, abs=1e-6)
    assert found.match.tolist() == list(range(CHANNELS))
    assert found.match_similarity == pytest.approx(1, abs=1e-6)


def test_a_permutation_of_channels_is_found_exactly() -> None:
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    found = compared(network(3), permuted(network(3), order))
    # Channel k of the permuted network is channel order[k] of the other.
    assert found.match.tolist() == np.argsort(order.numpy()).tolist()
    assert found.match_similarity == pytest.approx(1, abs=1e-6)
    assert np.abs(found.by_index).mean() < 0.9


def test_independent_channels_are_unlike() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(500, 20)).astype(np.float32) for _ in range(2)]
    found = similarity_of(*map(stats, rows))
    assert np.abs(found.by_index).mean() < 0.1
    assert found.match_similarity.max() < 0.25


def test_random_networks_are_less_alike_than_a_network_and_itself() -> None:
    found = compared(network(3), network(4))
    assert np.abs(found.by_index).mean() < 0.7
    assert found.match_similarity.mean() >= found.by_index.mean()


@pytest.mark.parametrize("at_once", [7, 1024])
def test_similarity_is_the_correlation_of_numpy(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(comparison, "_AT_ONCE", at_once)
    one, other = responses(network(3)), responses(network(4))
    found = similarity_of(stats(one), stats(other))
    wanted = np.corrcoef(one.T, other.T)[:CHANNELS, CHANNELS:]
    assert found.matrix == pytest.approx(wanted, abs=1e-5)
    assert found.by_index == pytest.approx(np.diagonal(wanted), abs=1e-5)
    assert similarity_by_index(stats(one), stats(other)) == pytest.approx(
        np.diagonal(wanted), abs=1e-5
    )
    rows = np.arange(CHANNELS)
    assert found.match_similarity == pytest.approx(wanted[rows, found.match], abs=1e-5)
    # No two channels can exchange their matches and gain.
    total = wanted[rows, found.match]
    swapped = wanted[rows[:, None], found.match] + wanted[rows[:, None], found.match].T
    assert (total[:, None] + total >= swapped - 1e-6).all()


def test_a_channel_that_responds_alike_to_all_images_has_no_similarity() -> None:
    rows = responses(network(3))
    rows[:, 5] = 0.1
    found = similarity_of(stats(rows), stats(rows))
    assert np.flatnonzero(np.isnan(found.by_index)).tolist() == [5]
    assert found.match.tolist() == [*range(5), -1, *range(6, CHANNELS)]
    assert np.isnan(found.match_similarity[5])
    assert np.flatnonzero(np.isnan(similarity_by_index(stats(rows), stats(rows)))).tolist() == [5]


def test_images_that_only_one_model_saw_do_not_count() -> None:
    rows = responses(network(3))
    other = np.concatenate([rows[:1] + 50, rows[20:50]])
    found = similarity_of(stats(rows), stats(other, [100, *range(20, 50)]))
    assert found.images == 30
    assert found.by_index == pytest.approx(1, abs=1e-6)
    with pytest.raises(
        UserError, match="responses to 8 dataset images in common, and a similarity"
    ):
        similarity_of(stats(rows), stats(rows[:8]))
    assert np.isnan(similarity_by_index(stats(rows), stats(rows[:8]))).all()


# --- stores --------------------------------------------------------------------------------------


def test_responses_come_from_the_stores(tmp_path: Path) -> None:
    one, other = responses(network(3)), responses(network(4))
    folders = [
        OutputFolder(stored(tmp_path / name, rows)) for name, rows in (("a", one), ("b", other))
    ]
    pairs = paired_layers(folders[0], folders[1])
    assert list(pairs) == ["block.conv"]
    found = similarity_of(*(layer.stats() for layer in pairs["block.conv"]))
    assert found.by_index == pytest.approx(
        [np.corrcoef(one[:, k], other[:, k])[0, 1] for k in range(CHANNELS)], abs=1e-5
    )
    folders[1].product(pairs["block.conv"][1].statistics.product).unlink()
    with pytest.raises(UserError, match="are not finished: start its run again"):
        pairs["block.conv"][1].stats()


def test_two_models_of_one_run_are_paired_by_layer(tmp_path: Path) -> None:
    folder = OutputFolder(stored(tmp_path / "a", responses(network(3)), two_models))
    pairs = paired_layers(folder, folder, ("toy", "twin"), ["block.*@Conv2d"])
    assert [layer.model.label for layer in pairs["block.conv"]] == ["toy", "twin"]
    assert list(paired_layers(folder, folder)) == ["toy/block.conv", "twin/block.conv"]
    with pytest.raises(UserError, match=r"unknown model of .*'twim'; choose from: twin"):
        paired_layers(folder, folder, ("toy", "twim"))
    with pytest.raises(UserError, match="unknown layer that both have 'conv9'"):
        paired_layers(folder, folder, ("toy", "twin"), ["conv9"])


def wider(plan: Plan) -> Plan:
    model = plan.models[0]
    layer = replace(model.layers[0], info=layer_info(n_channels=CHANNELS + 1))
    return replace(plan, models=(replace(model, layers=(layer,)),))


def renamed(plan: Plan) -> Plan:
    model = plan.models[0]
    layer = replace(model.layers[0], info=layer_info("other.conv", CHANNELS))
    return replace(plan, models=(replace(model, layers=(layer,)),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wider, "block.conv has 12 channels in 'toy' and 13 in 'toy', and only models of one"),
        (renamed, "no layer in common.*one has block.conv; the other other.conv"),
        (
            lambda p: replace(p, dataset_plan=None),
            "b' has no responses to dataset images.*dataset=",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: Callable[[Plan], Plan], message: str
) -> None:
    rows = responses(network(3))
    one = OutputFolder(stored(tmp_path / "a", rows))
    other = OutputFolder(stored(tmp_path / "b", rows, change))
    with pytest.raises(UserError, match=message):
        paired_layers(one, other)


def test_other_images_are_refused(tmp_path: Path) -> None:
    rows = responses(network(3))
    one = OutputFolder(stored(tmp_path / "a", rows))
    other = OutputFolder(stored(tmp_path / "b", rows[:50]))
    message = r"by the same images, and .*a' saw 60 images.* and .*b' saw 50 images.*run both again"
    with pytest.raises(UserError, match=message):
        paired_layers(one, other)


# --- atlases -------------------------------------------------------------------------------------


def test_atlases_give_the_same_numbers(tmp_path: Path) -> None:
    folders = [collated(stored(tmp_path / name, rows)) for name, rows in two_rows()]
    found = similarity_of(*(stats(rows) for _, rows in two_rows()))
    with open_atlas(folders[0].root) as one, open_atlas(folders[1].atlas) as other:
        similarity = one.similarity(other)["block.conv"]
        table = one.compare(other)
    assert similarity.matrix.tolist() == found.matrix.tolist()
    assert table["similarity"].tolist() == found.by_index.tolist()
    assert table["match"].tolist() == found.match.tolist()
    assert table["match_similarity"].tolist() == found.match_similarity.tolist()


def test_two_models_of_an_atlas_are_compared(tmp_path: Path) -> None:
    folder = collated(stored(tmp_path / "a", responses(network(3)), two_models))
    with open_atlas(folder.atlas) as atlas:
        found = atlas.similarity(atlas, ("toy", "twin"))
    assert found["block.conv"].by_index == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2**29])
def test_an_atlas_has_the_similarity_between_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(comparison, "_AT_ONCE_BYTES", at_once)
    root = stored(tmp_path / "a", responses(network(3)), two_models)
    plan = plan_of(read_manifest(OutputFolder(root)))
    twin = all_statistics(plan.models[1], plan.dataset_plan)[0]
    # The twin's responses are those of another network.
    other = OutputFolder(stored(tmp_path / "b", responses(network(4))))
    shutil.copy(next(other.store.rglob("study/*")), OutputFolder(root).product(twin.product))
    folder = collated(root)
    wanted = similarity_of(*(stats(rows) for _, rows in two_rows())).by_index
    with open_atlas(folder.atlas) as atlas:
        for model, counterpart in (("toy", "twin"), ("twin", "toy")):
            layer = atlas[f"{model}/block.conv"]
            assert layer["similarity"][:, 0] == pytest.approx(wanted, abs=1e-6)
            assert layer.dataset("other_model").asstr()[()].tolist() == [counterpart]
            assert [axis.label for axis in layer.dataset("similarity").dims] == [
                "channel",
                "other_model",
            ]
            assert "similarity" not in layer.statistics


def shuffled_twin(root: Path) -> tuple[OutputFolder, list[int]]:
    """An atlas of a network and its twin of permuted channels, and the matches of the first."""
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    twin = responses(permuted(network(3), order))
    folder = collated(stored(root, responses(network(3)), two_models, {"twin": twin}))
    return folder, np.argsort(order.numpy()).tolist()


def test_an_atlas_has_the_best_matches_between_its_models(tmp_path: Path) -> None:
    folder, wanted = shuffled_twin(tmp_path / "a")
    with open_atlas(folder.atlas) as atlas:
        found = atlas.similarity(atlas, ("toy", "twin"))["block.conv"]
        toy, twin = (atlas[f"{model}/block.conv"] for model in ("toy", "twin"))
        assert toy["match"][:, 0].tolist() == wanted
        assert twin["match"][:, 0].tolist() == np.argsort(wanted).tolist()
        assert toy["match"][:, 0].tolist() == found.match.tolist()
        assert toy["match_similarity"][:, 0].tolist() == found.match_similarity.tolist()
        assert twin["match_similarity"][:, 0] == pytest.approx(1, abs=1e-6)
        for name in ("match", "match_similarity"):
            axes = toy.dataset(name).dims
            assert [axis.label for axis in axes] == ["channel", "other_model"]
            assert name not in toy.statistics


def test_matches_from_the_other_side_are_the_same() -> None:
    rows = [responses(network(seed)) for seed in (3, 4)]
    rows[0][:, 5] = 0.1
    found = similarity_of(*map(stats, rows))
    back, again = similarity_of(*map(stats, rows[::-1])), found.reversed
    assert again.match.tolist() == back.match.tolist()
    assert again.match_similarity == pytest.approx(back.match_similarity, abs=1e-6, nan_ok=True)
    assert again.by_index == pytest.approx(back.by_index, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("lacks", ["scipy", "time"])
def test_an_atlas_without_best_matches_has_the_similarity_by_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "scipy":
        monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    else:
        monkeypatch.setattr(comparison, "_MOST_MATCHED", CHANNELS**2 - 1)
    folder, _ = shuffled_twin(tmp_path / "a")
    with open_atlas(folder.atlas) as atlas:
        layer = atlas["toy/block.conv"]
        assert np.isfinite(layer["similarity"]).all()
        assert "match" not in layer


def test_atlases_without_a_dataset_are_compared_by_their_images(tmp_path: Path) -> None:
    def bare(plan: Plan) -> Plan:
        return replace(plan, dataset_plan=None)

    folders = [collated(stored(tmp_path / name, rows, bare)) for name, rows in two_rows()]
    with open_atlas(folders[0].root) as one, open_atlas(folders[1].root) as other:
        table = one.compare(other)
        with pytest.raises(UserError, match="has no responses to dataset images"):
            one.similarity(other)
    assert len(table) == CHANNELS
    assert table["similarity"].isna().all()
    assert (table["match"] == -1).all()


# --- the file ------------------------------------------------------------------------------------


def test_the_file_has_scales_and_what_was_found(tmp_path: Path) -> None:
    one, other = (OutputFolder(stored(tmp_path / name, rows)) for name, rows in two_rows())
    pairs = paired_layers(one, other)
    found = dict(compare_layers(pairs))
    whole = found["block.conv"]
    data = encode_comparison(("a", "b"), pairs, found, with_matrix=True)
    with h5py.File(io.BytesIO(data)) as file:
        assert file.attrs["schema"] == "layer-atlas-comparison/1"
        assert (file.attrs["one"], file.attrs["other"]) == ("a", "b")
        group = file["block.conv"]
        assert (group.attrs["images"], group.attrs["other"]) == (IMAGES, "toy")
        for name, values in (
            ("similarity", whole.by_index),
            ("match", whole.match),
            ("match_similarity", whole.match_similarity),
        ):
            assert group[name][()].tolist() == values.tolist()
            assert group[name].dims[0].label == "channel"
            assert group[name].dims[0][0].name == "/block.conv/channel"
        assert [axis.label for axis in group["matrix"].dims] == ["channel", "other_channel"]
        assert group["matrix"][()].tolist() == whole.matrix.tolist()
    with h5py.File(io.BytesIO(encode_comparison(("a", "b"), pairs, found))) as file:
        assert "matrix" not in file["block.conv"]


def two_rows() -> list[tuple[str, NDArray[np.float32]]]:
    return [("a", responses(network(3))), ("b", responses(network(4)))]
