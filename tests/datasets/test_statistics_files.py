"""Files of studies: what is merged is what the blocks say; damage is told and kept out."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from toys import IDENTITY, fill_study, layer_info, make_listing

from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics_files import (
    SCHEMA,
    DatasetEvidence,
    _flat,
    _whole,
    merge_statistics,
    read_evidence,
    read_product,
    write_arrays,
)
from layer_atlas.datasets.tasks import LayerStatistics, blocks_of
from layer_atlas.plan.jobs import Product
from layer_atlas.store.files import Arrays, ArraySpec, AtMost, CorruptFile
from layer_atlas.store.folder import OutputFolder

N, K, POSITIONS, UNREADABLE = 150, 6, 16, (3, 70)
PLACES = np.tile(np.arange(N)[:, None] % POSITIONS, (1, K))
LEFT = np.arange(POSITIONS) // 2
BOXES = np.stack([LEFT, 0 * LEFT, LEFT + 4, 0 * LEFT + 8], 1)


def responses() -> NDArray[Any]:
    mean = np.random.default_rng(0).normal(size=(N, K))
    mean[list(UNREADABLE)] = np.nan
    return mean


def make_study(folder: OutputFolder, n: int = N, **changes: Any) -> LayerStatistics:
    plan = make_listing(folder, (f"{i}.png" for i in range(n)), **changes)
    return LayerStatistics("toy", IDENTITY, layer_info(), 16, plan)


def merged(folder: OutputFolder, statistics: LayerStatistics) -> list[Path]:
    listing = Listing(folder.listing(statistics.plan.listing))
    return merge_statistics(folder, statistics, blocks_of((statistics,), listing))


def leaves(evidence: DatasetEvidence) -> dict[str, NDArray[Any]]:
    return _flat(evidence)


# --- files ---------------------------------------------------------------------------------------

PRODUCT = Product("toy", "a/b", "f" * 64, "shelf")
ARRAYS: dict[str, NDArray[Any]] = {
    "saliency": np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8),
    "nothing": np.zeros((0, 4), np.float32),
    "number": np.asarray(7),
    "wild": np.asarray([np.nan, -0.0, np.inf]),
}
SPECS = {
    "saliency": ArraySpec("u1", (2, AtMost(4, "maps"), 8, 8)),
    "nothing": ArraySpec("f4", (AtMost(1, "rows"), 4)),
    "number": ArraySpec("i8", (), range(8)),
    "wild": ArraySpec("f8", (3,)),
}


def read_arrays(folder: OutputFolder) -> Arrays:
    return read_product(folder, PRODUCT, SPECS)


def test_what_was_written_comes_back(folder: OutputFolder) -> None:
    write_arrays(folder, PRODUCT, ARRAYS)
    read = read_arrays(folder)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in read.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in ARRAYS.items()
    }
    first = folder.product(PRODUCT).read_bytes()
    write_arrays(folder, PRODUCT, ARRAYS)
    assert folder.product(PRODUCT).read_bytes() == first


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data.replace(SCHEMA.encode(), b"x")],
)
def test_a_corrupt_file_is_set_aside(
    folder: OutputFolder, damage: Callable[[bytes], bytes]
) -> None:
    write_arrays(folder, PRODUCT, ARRAYS)
    path = folder.product(PRODUCT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFile, match=path.name):
        read_arrays(folder)
    assert not path.exists()
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1
    with pytest.raises(FileNotFoundError):
        read_arrays(folder)


# --- merging -------------------------------------------------------------------------------------


def test_a_merged_study_is_what_numpy_says(folder: OutputFolder) -> None:
    statistics, mean = make_study(folder), responses()
    fill_study(folder, statistics, mean, PLACES, BOXES)
    assert merged(folder, statistics) == []
    found = read_evidence(folder, statistics).stats
    seen = np.delete(mean, UNREADABLE, axis=0)
    assert found.count == N - 2
    assert found.unreadable.tolist() == list(UNREADABLE)
    np.testing.assert_allclose(found.mean, seen.mean(axis=0), atol=1e-6)
    best = np.argsort(-np.nan_to_num(mean, nan=-np.inf), axis=0)[:4].T
    assert np.array_equal(found.top.index, best)
    assert np.array_equal(found.row_index, np.setdiff1d(np.arange(0, N, 2), UNREADABLE))


def test_boxes_of_photographs_known_by_hand(folder: OutputFolder) -> None:
    statistics = make_study(folder)
    fill_study(folder, statistics, responses(), PLACES, BOXES)
    merged(folder, statistics)
    found = read_evidence(folder, statistics)
    left = LEFT[found.stats.top.index % POSITIONS]
    eight = np.full_like(left, 8)
    assert np.array_equal(found.top.view, np.stack([left, 0 * left, left + 4, eight], -1))
    # A view of 16 x 16 shows the middle half of 64 x 32 pixels, at half their size.
    across = [16 + 2 * left, 0 * left, 24 + 2 * left, 2 * eight]
    assert np.array_equal(found.top.photograph, np.stack(across, -1))


def test_places_that_no_photograph_takes_have_no_boxes(folder: OutputFolder) -> None:
    statistics = make_study(folder, 3)
    fill_study(folder, statistics, responses()[10:13], PLACES[10:13], BOXES)
    merged(folder, statistics)
    found = read_evidence(folder, statistics)
    assert (found.stats.top.index[:, 3:] == -1).all()
    assert not found.top.view[:, 3:].any()
    assert not found.top.photograph[:, 3:].any()
    assert found.top.view[:, :3].any(axis=(1, 2)).all()


@pytest.mark.parametrize("bottom", [0, 3])
def test_findings_come_back_bit_for_bit(folder: OutputFolder, bottom: int) -> None:
    statistics = make_study(folder, bottom=bottom)
    fill_study(folder, statistics, responses(), PLACES, BOXES)
    merged(folder, statistics)
    found = read_evidence(folder, statistics)
    flat, again = leaves(found), leaves(_whole(leaves(found)))
    assert {n: (a.dtype, a.tobytes()) for n, a in flat.items()} == {
        n: (a.dtype, a.tobytes()) for n, a in again.items()
    }
    assert found.bottom.view.shape == (K, bottom, 4)
    assert isinstance(found.stats.count, int)


@pytest.mark.parametrize("missing", range(4))
def test_nothing_is_merged_while_anything_is_missing(folder: OutputFolder, missing: int) -> None:
    statistics = make_study(folder)
    products = fill_study(folder, statistics, responses(), PLACES, BOXES)
    folder.product(products[missing]).unlink()
    assert merged(folder, statistics) == []
    assert not folder.exists(statistics.product)
    with pytest.raises(FileNotFoundError):
        read_evidence(folder, statistics)


@pytest.mark.parametrize("damaged", [[0], [1], [3], [0, 2], [1, 2, 3], [0, 1, 2, 3]], ids=str)
def test_all_that_is_corrupt_is_told_at_once_and_nothing_merged(
    folder: OutputFolder, damaged: list[int]
) -> None:
    statistics = make_study(folder)
    products = fill_study(folder, statistics, responses(), PLACES, BOXES)
    paths = [folder.product(products[i]) for i in damaged]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    assert sorted(merged(folder, statistics)) == sorted(paths)
    assert not folder.exists(statistics.product)
    assert not any(path.exists() for path in paths)
    fill_study(folder, statistics, responses(), PLACES, BOXES)
    assert merged(folder, statistics) == []
    assert folder.exists(statistics.product)


def test_blocks_for_several_layers_serve_for_each(folder: OutputFolder) -> None:
    statistics = make_study(folder)
    fill_study(folder, statistics, responses(), PLACES, BOXES)
    other = LayerStatistics("toy", IDENTITY, layer_info("another"), 16, statistics.plan)
    listing = Listing(folder.listing(statistics.plan.listing))
    blocks = list(blocks_of((other, statistics), listing))
    assert list(chain(*(merge_statistics(folder, s, blocks) for s in (statistics, other)))) == []
    assert folder.exists(statistics.product)
    assert not folder.exists(other.product)


def test_a_study_of_nothing_readable_is_merged(folder: OutputFolder) -> None:
    statistics = make_study(folder)
    fill_study(folder, statistics, np.full((N, K), np.nan), PLACES, BOXES)
    assert merged(folder, statistics) == []
    found = read_evidence(folder, statistics)
    assert found.stats.count == 0
    assert len(found.stats.unreadable) == N
    assert not found.top.photograph.any()
