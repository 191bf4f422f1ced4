"""Rows, columns and sections: which image stands where, and what it is called."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
from atlases import add_photographs, made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.outputs import Group, ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.image_content import Content, Line, Section, short_number
from layer_atlas.presentation.figures.selection import LayerData, choose_bracketed, chosen_layers

RECIPE = replace(make_recipe(), objective=ChannelObjective(sign="both"), snapshots=6)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    layers = {"block.conv": 6, "block.fc": 4}
    fates = {3: "dead", 5: "missing"}
    root = tmp_path_factory.mktemp("atlas")
    return open_atlas(made_up(root, layers, (0, 5), fates, recipe=RECIPE, shard_size=1))


def content(atlas: Atlas, **settings: Any) -> Content:
    figure = ImagesFigure(**settings)
    layers = chosen_layers(atlas, figure)
    shown = [choose_bracketed(LayerData(layer), figure) for layer in layers]
    return Content(shown, figure)


def told(line: Line) -> list[Any]:
    """What is told apart of each image."""
    return [s and (s.layer.name, s.channel, s.seed, s.variant, s.step) for s in line]


def labels(section: Section) -> list[str]:
    return [strip.label for strip in section.strips]


def test_by_default_channels_are_wrapped_a_section_per_layer(atlas: Atlas) -> None:
    found = content(atlas).sections
    assert [(s.title, s.headings, len(s.strips)) for s in found] == [
        ("block.conv", (), 6),
        ("block.fc", (), 4),
    ]
    assert told(found[0].strips[2].images) == [("block.conv", 2, 0, None, None)]
    words = [strip.texts for strip in found[0].strips]
    assert words == [(("0",),), (("1",),), (("2",),), (("3†",),), (("4",),), (("5",),)]
    assert labels(found[0]) == [""] * 6


def test_one_layer_needs_no_title(atlas: Atlas) -> None:
    assert [s.title for s in content(atlas, layers=("block.fc",)).sections] == [""]


def test_seeds_across(atlas: Atlas) -> None:
    (section,) = content(atlas, layers=("block.fc",), columns="seeds").sections
    assert section.headings == ("seed 0", "seed 5")
    assert labels(section) == ["0", "1", "2", "3"]
    assert [seed for _, _, seed, _, _ in told(section.strips[1].images)] == [0, 5]
    # What columns tell is not repeated, unless there are no columns any more.
    assert section.strips[1].texts == ((), ())
    assert section.strips[1].broken_texts == (("seed 0",), ("seed 5",))


def test_layers_down_and_their_own_channels_across(atlas: Atlas) -> None:
    found = content(atlas, rows="layers", columns="channels", channels={"top": 2})
    (section,) = found.sections
    assert labels(section) == ["block.conv", "block.fc"]
    assert section.headings == ()  # the strongest channels of layers differ
    tops = [list(chosen.channels) for chosen in found.selections]
    assert [[channel for _, channel, *_ in told(s.images)] for s in section.strips] == tops
    marks = {3: "†"}  # the dead one
    assert section.strips[0].texts == tuple((f"{c}{marks.get(c, '')}",) for c in tops[0])


def test_columns_that_are_the_same_in_all_rows_have_headings(atlas: Atlas) -> None:
    (section,) = content(atlas, rows="layers", columns="channels", channels=[1, 2]).sections
    assert section.headings == ("1", "2")


def test_rows_of_several_names_are_told_below_each_image(atlas: Atlas) -> None:
    found = content(atlas, rows="channels", columns="layers", channels={"top": 2})
    (section,) = found.sections
    assert section.headings == ("block.conv", "block.fc")
    assert labels(section) == ["", ""]
    images = section.strips[0].images
    assert [image.channel for image in images if image] == [c.channels[0] for c in found.selections]
    labels_shown = [image.label + ("†" if image.channel == 3 else "") for image in images if image]
    assert section.strips[0].texts == tuple((label,) for label in labels_shown)
    names = [image.layer.name for image in images if image]
    broken = tuple(zip(names, labels_shown, strict=True))
    assert section.strips[0].broken_texts == broken


def test_layers_of_fewer_channels_leave_places_empty(atlas: Atlas) -> None:
    (section,) = content(atlas, rows="channels", columns="layers").sections
    assert section.headings == ("block.conv", "block.fc")
    assert told(section.strips[5].images)[1] is None


def test_variants_and_steps(atlas: Atlas) -> None:
    one = {"layers": ("block.fc",), "channels": [1]}
    (section,) = content(atlas, rows="variants", columns="steps", **one).sections
    assert labels(section) == ["positive", "negative"]
    assert section.headings == ("step 0", "step 6", "step 12")
    assert told(section.strips[1].images)[2] == ("block.fc", 1, 0, "negative", 12)
    (section,) = content(atlas, rows="seeds", columns="variants", seeds=(5,), **one).sections
    assert labels(section) == ["seed 5"]


def test_channels_that_are_no_axis_have_sections(atlas: Atlas) -> None:
    one = {"layers": ("block.fc",), "channels": [1, 3]}
    found = content(atlas, rows="seeds", columns="variants", **one).sections
    assert [section.title for section in found] == ["channel 1", "channel 3"]


def test_models_down_and_layers_across(tmp_path: Path) -> None:
    atlas = made_up(tmp_path, {"a": 3, "b": 3})
    with h5py.File(atlas, "a") as file:
        file.copy("toy", "other")
        file["other"].attrs["name"] = "other"
        del file["other/a"]
    both = open_atlas(atlas)
    (section,) = content(both, rows="models", columns="layers", channels=[2]).sections
    assert labels(section) == ["toy", "other"]
    assert section.headings == ("a", "b")
    assert section.strips[1].images[0] is None
    (section,) = content(both, rows="layers", columns="channels").sections
    assert [strip.group for strip in section.strips] == ["toy", "toy", "other"]
    (section,) = content(both, rows="channels", columns="layers").sections
    assert section.groups == ("toy", "toy", "other")
    with pytest.raises(UserError, match="model 'toy' has several layers"):
        content(both, rows="models", columns="channels")


def test_clusters_are_groups(atlas: Atlas) -> None:
    found = content(atlas, layers=("block.conv",), order="similarity", clusters=4)
    groups = [strip.group for strip in found.sections[0].strips]
    assert groups == [*sorted(groups[:4]), "", ""]
    assert len(set(groups)) == 5


def test_clusters_along_columns_are_groups_of_columns(atlas: Atlas) -> None:
    how = {"rows": "seeds", "columns": "channels", "order": "similarity", "clusters": 3}
    (section,) = content(atlas, layers=("block.fc",), **how).sections
    assert section.groups == ("1", "2", "3", "")  # the dead one is in no group
    assert {strip.group for strip in section.strips} == {""}
    how["rows"] = "layers"
    with pytest.raises(UserError, match=r"choose one layer by figure\.layers"):
        _ = content(atlas, **how).sections


def groups(**named: Any) -> tuple[Group, ...]:
    return tuple(Group(name=name, channels=which) for name, which in named.items())


def test_groups_are_those_of_channels_along_rows_or_columns(atlas: Atlas) -> None:
    named = groups(curves=[3, 1], colours="4:6")
    for section in content(atlas, layers=("block.conv",), groups=named).sections:
        assert [strip.group for strip in section.strips] == ["curves"] * 2 + ["colours"] * 2
        assert [strip.texts for strip in section.strips][1:] == [(("1",),), (("4",),), (("5",),)]
    how = {"rows": "layers", "columns": "channels"}
    (section,) = content(atlas, groups=groups(b=[3, 1], a=[0]), **how).sections
    assert section.groups == ("b", "b", "a")
    assert section.headings == ("3", "1", "0")
    (section,) = content(
        atlas, groups=groups(b=[2, 1], a=[0]), rows="channels", columns="layers"
    ).sections
    assert [strip.group for strip in section.strips] == ["b", "b", "a"]


@pytest.mark.parametrize(
    "how", [{"rows": "layers", "columns": "channels"}, {"rows": "channels", "columns": "layers"}]
)
def test_groups_of_other_sizes_in_other_layers_are_told(atlas: Atlas, how: dict[str, Any]) -> None:
    named = groups(rest="1:6", first=[0])  # of the second layer there are but four
    with pytest.raises(UserError, match=r"choose one layer by figure\.layers"):
        _ = content(atlas, groups=named, **how).sections
    (section,) = content(atlas, layers=("block.fc",), groups=named, **how).sections
    assert (section.groups or tuple(s.group for s in section.strips)) == ("rest",) * 3 + ("first",)


def test_a_statistic_is_told_below_each_image(atlas: Atlas) -> None:
    found = content(atlas, layers=("block.fc",), columns="variants", tell="activation")
    layer, strip = atlas["toy/block.fc"], found.sections[0].strips[2]
    values = layer["activation"][2, 0]
    assert strip.texts == tuple((short_number(value),) for value in values)


def test_images_without_labels(atlas: Atlas) -> None:
    found = content(atlas, labels=False)
    assert {texts for s in found.sections[0].strips for texts in s.texts} == {()}


def test_photographs_stand_beside_channels_where_there_are_any(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 3})
    with open_atlas(file) as none:
        assert content(none).dataset_images == 0
    add_photographs(file, 6)
    known = open_atlas(file)
    assert content(known).dataset_images == 4
    assert content(known, dataset_images=6).dataset_images == 6
    assert content(known, dataset_images=0).dataset_images == 0
    assert content(known, rows="layers", columns="channels").dataset_images == 0
    assert known["toy/a"].dataset_images(1)[0].shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (0, 5)}, "figure.seeds names 2"),
        ({"rows": "layers", "columns": "seeds"}, "figure.channels selects 6 channels"),
        ({"columns": "seeds", "seeds": (7,)}, "unknown figure.seeds"),
        ({"columns": "steps", "steps": (5,)}, "unknown figure.steps"),
    ],
)
def test_what_two_axes_cannot_show_is_told(
    atlas: Atlas, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _ = content(atlas, **settings).sections


def test_axes_that_the_atlas_does_not_have_are_told(tmp_path: Path) -> None:
    atlas = open_atlas(made_up(tmp_path, {"a": 2}))
    with pytest.raises(UserError, match="has no steps: they come of, for instance, snapshots=4"):
        _ = content(atlas, columns="steps").sections
