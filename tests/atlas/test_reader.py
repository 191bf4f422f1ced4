"""The reader: what is in an atlas by name, nothing but the atlas, and what is not there is told."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import run_here

from layer_atlas import open_atlas
from layer_atlas.atlas.layers import default_ranking
from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.errors import UserError

SMALL = ("optimizer.steps=2", "image_size=16", "layers=[conv1,conv2]", "channels='0:6'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("atlas")
    assert run_here(root, *SMALL, "seeds=[3,5]", "objective.sign=both", "snapshots=1") == 0
    return root / "demo"


@pytest.fixture
def layer(folder: Path) -> Layer:
    return open_atlas(folder)["demo/conv2"]


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
    assert np.array_equal(layer.image(4, seed=5, variant="negative"), images[4, 1, 1])
    assert np.array_equal(layer.image(4), images[4, 0, 0])
    assert layer.fate(4) == "ok"


def test_the_strongest_are_those_with_the_largest_value_in_any_seed(layer: Layer) -> None:
    for by, asked in (
        (default_ranking(layer.statistics), None),
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


def test_labelled_arrays_have_the_names_of_the_axes(layer: Layer) -> None:
    with layer.to_xarray() as data:
        one = data["activation"].sel(channel=4, seed=5, variant="negative")
        assert float(one) == layer["activation"][4, 1, 1]


def test_a_notebook_shows_images_and_inert_names(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "atlas.h5", tmp_path)
    with h5py.File(tmp_path / "atlas.h5", "a") as file:
        file["demo"].attrs["name"] = "<script>alert(1)</script>"
    atlas = open_atlas(tmp_path)
    shown = next(iter(atlas.values()))._repr_html_() + atlas._repr_html_()
    assert shown.count("data:image/png;base64,") == 6
    assert "<script>" not in shown


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
