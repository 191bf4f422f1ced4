"""The reader: what is in an atlas by name, nothing but the atlas, and what is not there is told."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import run_here

from layer_atlas import open_atlas
from layer_atlas.atlas.frames import column_name
from layer_atlas.atlas.layers import default_ranking
from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.config import CollateSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.layout.grid import Layout, plan_layout

SMALL = ("optimizer.steps=2", "image_size=16", "layers=[conv1,conv2]", "channels='0:6'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("atlas")
    assert run_here(root, *SMALL, "seeds=[3,5]", "objective.sign=both", "snapshots=1") == 0
    return root / "demo"


@pytest.fixture
def layer(folder: Path) -> Layer:
    return open_atlas(folder)["demo/conv2"]


@pytest.mark.slow
def test_layers_are_found_by_model_and_name_in_order(folder: Path) -> None:
    with open_atlas(folder / "atlas.h5") as atlas:
        assert list(atlas) == ["demo/conv1", "demo/conv2"]
        assert list(atlas.models) == ["demo"]
        assert "torch" in atlas.versions
        assert "optimizer:" in atlas.config


def test_what_is_along_the_axes(layer: Layer) -> None:
    assert layer.channels == [0, 1, 2, 3, 4, 5]
    assert (layer.seeds, layer.variants) == ([3, 5], ["positive", "negative"])
    assert layer.steps == [0, 1, 2]
    assert layer.recipe["optimizer"]["steps"] == 2
    assert layer.facts["module_type"] == "ConvReLU"
    assert 0 < layer.facts["flops_share"] < 1


def test_an_image_is_that_of_its_channel_seed_and_variant(layer: Layer) -> None:
    images = layer["image"]
    assert np.array_equal(layer.pixels(4, seed=5, variant="negative"), images[4, 1, 1])
    assert np.array_equal(layer.pixels(4), images[4, 0, 0])
    assert layer.fate(4) == "ok"
    assert np.array_equal(np.asarray(layer.image(4, seed=5)), images[4, 1, 0])  # PIL
    assert np.array_equal(layer.images, images)


def test_one_model_needs_no_name(folder: Path) -> None:
    atlas = open_atlas(folder)
    assert atlas["conv2"].title == "demo/conv2"
    assert "conv2" in atlas
    assert "demo/conv2" in atlas
    assert "conv9" not in atlas
    assert atlas.images["conv1"].shape == (6, 2, 2, 16, 16, 3)
    with pytest.raises(UserError, match="unknown layer 'conv_2'; choose from: conv2"):
        atlas["conv_2"]


def test_a_table_has_a_row_for_each_image_and_all_statistics(folder: Path) -> None:
    atlas = open_atlas(folder)
    frame, layer = atlas.to_frame(), atlas["conv2"]
    assert len(frame) == 2 * 6 * 2 * 2
    assert {column_name(name) for name in layer.statistics} <= set(frame.columns)
    one = frame.query("layer == 'conv2' and channel == 4 and seed == 5 and variant == 'negative'")
    assert one["activation"].tolist() == [layer["activation"][4, 1, 1]]
    assert one["status"].tolist() == ["ok"]
    # One number per job counts for each of its images.
    assert one["start"].tolist() == [layer["start"][4, 1]]


def test_an_atlas_is_compared_with_another(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "atlas.h5", tmp_path)
    with h5py.File(tmp_path / "atlas.h5", "a") as file:
        file["demo"].attrs["name"] = "retrained"
        file["demo/conv2/image"][4, 1, 1] = 255 - file["demo/conv2/image"][4, 1, 1]
        file["demo/conv2/response"][4, 1, 1] = -file["demo/conv2/response"][4, 1, 1]
        file["demo/conv2/activation"][4, 1, 1] = 7
    with open_atlas(folder) as before, open_atlas(tmp_path) as after:
        table = before.compare(after)
    assert len(table) == 48
    changed = table[table["image_rms"] > 0]
    where = changed[["layer", "channel", "seed", "variant"]].to_numpy().tolist()
    assert where == [["conv2", 4, 5, "negative"]]
    assert changed["activation_other"].item() == 7
    assert changed["response_correlation"].item() == pytest.approx(-1)
    assert table["response_correlation"].drop(changed.index).to_numpy() == pytest.approx(1)
    with h5py.File(tmp_path / "atlas.h5", "a") as file:
        for name in ("conv1", "conv2"):
            file[f"demo/{name}"].attrs["name"] = f"another.{name}"
    message = r"no image in common.*conv1.*another.conv1"
    before, after = open_atlas(folder), open_atlas(tmp_path)
    with before, after, pytest.raises(UserError, match=message):
        before.compare(after)


def test_a_montage_shows_the_chosen_images_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = open_atlas(folder)["conv2"]
    headings: list[list[str]] = []
    monkeypatch.setattr(Layout, "heading", lambda self, title, facts: headings.append(facts) or ())
    drawn = np.asarray(layer.montage([5, 1], tile=16))
    layout = plan_layout(2, 2, (16, 16), CollateSettings(tile=16), 2)
    for position, channel in enumerate([5, 1]):
        for index, seed in enumerate(layer.seeds):
            for variant, name in enumerate(layer.variants):
                left, top, right, bottom = layout.tile_box(position, index, variant)
                shown = drawn[top:bottom, left:right]
                assert np.array_equal(shown, layer.pixels(channel, seed, name))
    layer.montage()
    # What the heading states is what is shown.
    assert headings == [["2 of 40 channels chosen by hand"], ["channels 0 to 5 of 40"]]
    with pytest.raises(UserError, match="at least one channel"):
        layer.montage([])
    with pytest.raises(UserError, match="unknown channel"):
        layer.montage([77])


@pytest.mark.slow
def test_similar_channels_respond_alike_to_their_images(tmp_path: Path) -> None:
    assert run_here(tmp_path, *SMALL) == 0
    layer = open_atlas(tmp_path / "demo")["conv2"]
    responses = layer["response"][:, 0].astype(float)
    rows = (responses - responses.mean(axis=0)) / np.maximum(responses.std(axis=0), 1e-6)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = rows @ rows[3]
    expected[3] = -np.inf
    found = layer.similar(3, 2)
    assert list(found) == np.argsort(-expected)[:2].tolist()
    assert list(found.values()) == pytest.approx(np.sort(expected)[::-1][:2].tolist(), abs=1e-3)


def test_the_strongest_are_those_with_the_largest_value_in_any_seed(layer: Layer) -> None:
    for by, asked in (
        (default_ranking(layer), None),
        ("activation_robust", "activation_robust"),
    ):
        best = layer[by].reshape(6, -1).max(axis=1)
        assert layer.strongest(3, asked) == np.argsort(-best)[:3].tolist()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda layer: layer["activation_robst"], "activation_robust"),
        (lambda layer: layer.image(77), "unknown channel of demo/conv2"),
        (lambda layer: layer.image(0, seed=4), "unknown seed 4; choose from: 3, 5"),
        (lambda layer: layer.image(0, variant="both"), "unknown variant"),
    ],
)
def test_what_is_not_there_is_told_nearest_first(layer: Layer, ask: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ask(layer)  # type: ignore[operator]


def test_files_that_are_no_atlas_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="atlas collate"):
        open_atlas(tmp_path)
    (tmp_path / "atlas.h5").write_text("no")
    with pytest.raises(UserError, match="no readable atlas"):
        open_atlas(tmp_path)


def test_an_atlas_is_found_by_whatever_leads_to_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "outputs" / "mine"
    shutil.copytree(folder, copy)
    (picture,) = copy.glob("montages/demo/conv1.png")
    other_name = Path(shutil.copy(copy / "atlas.h5", tmp_path / "of_paper.hdf5"))
    for path in (copy, copy / "atlas.h5", picture, copy / "store", copy.parent, tmp_path):
        assert open_atlas(path).path == copy / "atlas.h5"
    assert open_atlas(other_name).path == other_name
    monkeypatch.chdir(copy.parent)
    assert len(open_atlas(".")) == 2


def test_several_atlases_or_a_wrong_name_list_those_there(folder: Path, tmp_path: Path) -> None:
    for age, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "atlas.h5", tmp_path / name)
        os.utime(tmp_path / name / "atlas.h5", (1e9 - age, 1e9 - age))
    newest_first = f"{str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}."
    with pytest.raises(UserError) as several:
        open_atlas(tmp_path)
    assert f"several atlases in {str(tmp_path)!r}; open one of these" in str(several.value)
    assert str(several.value).endswith(newest_first)
    with pytest.raises(UserError) as wrong:
        open_atlas(tmp_path / "c")
    assert f"there is no {str(tmp_path / 'c')!r}" in str(wrong.value)
    assert str(wrong.value).endswith(newest_first)


def test_a_statistic_in_which_most_channels_tie_ranks_none(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "demo"))
    with h5py.File(copy / "atlas.h5", "a") as file:
        robust = file["demo/conv2/activation_robust"]
        robust[...] = np.arange(robust.size).reshape(robust.shape)
        file["demo/conv1"]["selectivity"] = np.linspace(0, 1, robust.size).reshape(robust.shape)
        most_tie = np.ones(robust.shape)
        most_tie[0] = 0.5
        file["demo/conv2"]["selectivity"] = most_tie
    atlas = open_atlas(copy)
    assert default_ranking(atlas["conv2"]) == "activation_robust"
    assert atlas["conv2"].strongest(2) == [5, 4]
    assert default_ranking(atlas["conv1"]) == "selectivity"


def test_labelled_arrays_have_the_names_of_the_axes(layer: Layer) -> None:
    with layer.to_xarray() as data:
        one = data["activation"].sel(channel=4, seed=5, variant="negative")
        assert float(one) == layer["activation"][4, 1, 1]
        assert {column_name(name) for name in layer.statistics} <= set(data.variables)


def test_a_notebook_shows_images_and_inert_names(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "atlas.h5", tmp_path)
    with h5py.File(tmp_path / "atlas.h5", "a") as file:
        file["demo"].attrs["name"] = "<script>alert(1)</script>"
    atlas = open_atlas(tmp_path)
    layer, whole = next(iter(atlas.values()))._repr_html_(), atlas._repr_html_()
    assert layer.count("data:image/png;base64,") == 6
    assert whole.count("data:image/png;base64,") == 12  # of both layers
    assert "<script>" not in layer + whole


def test_links_out_of_the_file_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "atlas.h5", tmp_path)
    with h5py.File(tmp_path / "atlas.h5", "a") as file:
        file["demo"]["stolen"] = h5py.ExternalLink(str(folder / "atlas.h5"), "/demo/conv1")
        file["demo/conv1/stolen"] = h5py.ExternalLink(str(folder / "atlas.h5"), "/demo/conv1/image")
        file["demo/conv1"].create_dataset("file", 8, "u1", external="/etc/hostname")
        layout = h5py.VirtualLayout((6,), "i8")
        layout[:] = h5py.VirtualSource(str(folder / "atlas.h5"), "/demo/conv1/channel", (6,))
        file["demo/conv1"].create_virtual_dataset("virtual", layout)
    atlas: Atlas = open_atlas(tmp_path)
    assert list(atlas) == ["demo/conv1", "demo/conv2"]
    layer = atlas["demo/conv1"]
    assert not [
        name for name in ("stolen", "file", "virtual") if name in layer or name in layer.names
    ]
