"""Sheets from the atlas: a row per channel, as many pages as it takes, and no old ones."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from toys import fill_store

from layer_atlas.atlas.gather import LayerView
from layer_atlas.datasets.image_files import as_jpeg
from layer_atlas.presentation.montages.evidence_pages import _row, n_pages, overlay, write_pages
from layer_atlas.store.folder import OutputFolder
from tests.atlas.test_dataset_group import collated, fill, make_photographed

TILE = 16


def make_view(folder: OutputFolder, fates: dict[int, str] | None = None) -> LayerView:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan, fates)
    fill(folder, plan)
    (view,) = collated(folder, plan)
    return view


def sheets(view: LayerView) -> list[Path]:
    return view.folder.sheets("toy", "conv")


def test_a_layer_has_a_sheet(folder: OutputFolder) -> None:
    view = make_view(folder)
    write_pages(view, TILE)
    (path,) = sheets(view)
    assert path == folder.sheet("toy", "conv", 1)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    shown = {tuple(colour) for colour in pixels.reshape(-1, 3)}
    for channel in (0, 2, 3, 5):
        assert (10 * channel + 90,) * 3 in shown, "the weakest photograph is not on the sheet"


def test_rows_tell_what_the_atlas_holds(folder: OutputFolder) -> None:
    view = make_view(folder, {5: "dead"})
    with h5py.File(folder.atlas, "r+") as file:
        group = file["toy/conv"]
        group["best_seed_index"][1] = 1
        row, dead = _row(group, 1), _row(group, 3)
        assert (row.target, len(row.images), row.fates) == (2, 2, ("", ""))
        assert np.array_equal(row.images[1], group["image"][1, 1])
        assert (row.strongest == np.asarray([20, 21], np.uint8)[:, None, None, None]).all()
        assert row.boxes.tolist() == [[1, 2, 9, 8]] * 2
        expected = overlay(row.strongest[0], group["dataset/top_saliency"][1, 0])
        assert len(row.saliency) == 1
        assert np.array_equal(row.saliency[0], expected)
        assert row.facts["agreement"] == f"{group['agreement'][1, 1]:.2f}"
        assert row.facts["rank"] == str(group["agreement_rank"][1, 1])
        assert row.facts["activation"] == f"{group['activation'][1, 1]:.4g}"
        assert dead.fates == ("dead", "dead")
    write_pages(view, TILE)


def test_images_that_are_missing_leave_words_and_no_numbers(folder: OutputFolder) -> None:
    view = make_view(folder, {0: "missing"})
    with h5py.File(folder.atlas) as file:
        row = _row(file["toy/conv"], 0)
        assert row.images == (None, None)
        assert row.fates == ("missing", "missing")
        assert row.facts == {}
    write_pages(view, TILE)
    assert len(sheets(view)) == 1


def test_many_rows_take_several_pages_and_old_ones_go(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view(folder)
    monkeypatch.setattr(
        "layer_atlas.presentation.montages.evidence_pages.rows_per_page", lambda tile, facts: 1
    )
    write_pages(view, TILE)
    assert [path.name for path in sheets(view)] == [f"conv.evidence-00{i}.png" for i in range(1, 5)]
    with h5py.File(folder.atlas) as file:
        assert n_pages(file["toy/conv"], TILE) == 4
    monkeypatch.undo()
    write_pages(view, TILE)
    assert [path.name for path in sheets(view)] == ["conv.evidence-001.png"]


def test_where_photographs_are_unknown_there_is_no_sheet(folder: OutputFolder) -> None:
    view = make_view(folder)
    write_pages(view, TILE)
    assert view.statistics is not None
    folder.product(view.statistics.product).unlink()
    (view,) = collated(folder, view.plan)
    with h5py.File(folder.atlas) as file:
        assert n_pages(file["toy/conv"], TILE) == 0
    write_pages(view, TILE)
    assert sheets(view) == []


def test_a_row_of_a_facet_has_its_image_its_members_and_its_numbers() -> None:
    files = [as_jpeg(np.full((8, 8, 3), 40 * rank, np.uint8)) for rank in range(5)]
    with h5py.File(io.BytesIO(), "w") as file:
        file["channel"], file["seed"], file["variant"] = [7], [0], [b"facet 1", b"facet 2"]
        file["status"] = np.zeros((1, 1), np.uint8)
        file["image"] = np.stack([np.full((8, 8, 3), 9 * v, np.uint8) for v in (1, 2)])[None, None]
        file["activation"] = np.asarray([[[1.5, 2.5]]], np.float32)
        file["facet"] = np.asarray([[[1, 2, 1, 1, 2]]], np.uint8)
        dataset = file.create_group("dataset")
        dataset["top_view_box"] = np.asarray([[[0, 0, rank + 1, 8] for rank in range(5)]])
        dataset.create_dataset("top_jpeg", (1, 5), dtype=h5py.vlen_dtype(np.uint8))
        for rank, jpeg in enumerate(files):
            dataset["top_jpeg"][0, rank] = jpeg
        rows = [_row(file, 0, facet) for facet in (0, 1)]
    assert [int(row.images[0][0, 0, 0]) for row in rows] == [9, 18]
    for row, members in zip(rows, ([0, 2, 3], [1, 4]), strict=True):
        assert row.strongest.mean(axis=(1, 2, 3)) == pytest.approx([40 * m for m in members], abs=2)
        assert row.boxes[:, 2].tolist() == [m + 1 for m in members]
    assert [dict(row.facts) for row in rows] == [
        {"facet": "1", "images": "3", "activation": "1.5"},
        {"facet": "2", "images": "2", "activation": "2.5"},
    ]
