"""Every number and name of captions and methods is that of the atlas."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.objectives import LogitObjective, PrototypeObjective
from layer_atlas.config.outputs import (
    FigureSettings,
    Group,
    ImagesFigure,
    ProfileFigure,
    ResponsesFigure,
    TracesFigure,
)
from layer_atlas.config.recipe import Recipe
from layer_atlas.plan.jobs import UNTRAINED, Origin
from layer_atlas.plan.targets import DRAW, TargetSpace, select_targets
from layer_atlas.presentation.figures.captions import SCALES
from layer_atlas.presentation.figures.latex import escaped
from layer_atlas.presentation.figures.make import KINDS
from layer_atlas.presentation.figures.methods import texts_of
from layer_atlas.presentation.layout.figure import style

WIDTH, DRAWN, SEEDS = 52, 24, (0, 3, 7)
CHANNELS = select_targets({"random": DRAWN}, TargetSpace((WIDTH,)), "toy/conv")
ORIGIN = Origin(UNTRAINED, "given in the config", "given in the config", "assumed")
FATES = {CHANNELS[2]: "dead", CHANNELS[5]: "dead", CHANNELS[9]: "diverged"}


def drawn(root: Path, layers: dict[str, int], **changes: Any) -> Path:
    """An atlas of 24 channels of each layer, drawn at random, by a network that was not trained."""
    settings = {"channels": CHANNELS, "selection": {"random": DRAWN}, "origin": ORIGIN, **changes}
    return made_up(root, layers, **settings)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """One layer, three seeds, photographs, three images that came to nothing."""
    file = drawn(tmp_path_factory.mktemp("a"), {"conv": WIDTH}, seeds=SEEDS, status=FATES)
    add_photographs(file, dataset_images=3)
    return open_atlas(file)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Two layers of one width, without photographs."""
    return open_atlas(drawn(tmp_path_factory.mktemp("b"), {"conv": WIDTH, "fc": WIDTH}))


def words(atlas: Atlas, settings: FigureSettings) -> tuple[str, str, str]:
    """Caption, caption for LaTeX, and methods."""
    with style(settings):
        drawing = KINDS[settings.name](atlas, settings)
    texts = texts_of(atlas, drawing)
    return drawing.caption, texts.caption, texts.markdown


def layer_of(atlas: Atlas, name: str = "conv") -> Layer:
    return atlas[f"toy/{name}"]


SAMPLED = f"{DRAWN} of {WIDTH} channels of layer conv of toy (random weights) drawn at random"


@pytest.mark.parametrize(
    ("selection", "shown"),
    [
        ("all", SAMPLED),
        ({"top": 16}, f"the 16 channels with the largest agreement among {SAMPLED}"),
        ({"top": 1}, f"the channel with the largest agreement among {SAMPLED}"),
        (
            {"bottom": 3, "by": "selectivity"},
            f"the 3 channels with the smallest selectivity among {SAMPLED}",
        ),
        ({"random": 5, "seed": 2}, f"5 channels drawn at random (seed 2) from {SAMPLED}"),
        ({"diverse": 4}, f"the 4 most dissimilar channels among {SAMPLED}"),
        ({"label": "curve*"}, f"the channel labelled 'curve*' among {SAMPLED}"),
        ([CHANNELS[0], CHANNELS[4]], f"2 channels chosen by hand from {SAMPLED}"),
    ],
)
def test_captions_and_methods_say_how_channels_came_to_be_shown(
    atlas: Atlas, selection: Any, shown: str
) -> None:
    names = {f"conv:{CHANNELS[1]}": "curves"}
    caption, latex, methods = words(atlas, ImagesFigure(channels=selection, names=names))
    assert caption.startswith(f"Feature visualizations of {shown}.")
    assert latex.startswith(rf"\caption{{Feature visualizations of {shown}.")
    assert f"The figure shows {shown}. {DRAW}" in methods
    assert SCALES not in caption + methods


def test_what_is_shown_is_what_the_words_say(atlas: Atlas) -> None:
    settings, layer = ImagesFigure(channels={"top": 5}), layer_of(atlas)
    with style(settings):
        (found,) = KINDS["images"](atlas, settings).selections
    best = layer["agreement"][:, layer["best_seed_index"][0]]
    assert list(found.channels) == [layer.channels[row] for row in np.argsort(-best)[:5]]


@pytest.mark.parametrize(
    "settings",
    [
        ImagesFigure(channels={"top": 3, "by": "activation"}),
        ImagesFigure(order="activation_max"),
        ImagesFigure(groups=(Group(name="a", channels={"bottom": 2, "by": "activation_robust"}),)),
        TracesFigure(channels={"top": 3, "by": "activation"}),
        ResponsesFigure(order="activation", dendrogram=False),
        ProfileFigure(statistics=("activation",)),
    ],
)
def test_a_ranking_by_activation_says_what_it_cannot_tell(plain: Atlas, settings: Any) -> None:
    assert words(plain, settings)[0].count(SCALES) == 1


@pytest.mark.parametrize("settings", [ImagesFigure(), ResponsesFigure(), ProfileFigure()])
def test_other_figures_do_not(plain: Atlas, settings: Any) -> None:
    assert SCALES not in words(plain, settings)[0]


def test_layers_are_counted_together_and_one_by_one(plain: Atlas) -> None:
    caption, _, methods = words(plain, ImagesFigure(channels={"top": 7}))
    told = (
        "14 channels of toy (random weights) (7 of each of the layers conv and fc), those with the "
        f"largest selectivity in each layer, out of {DRAWN} of {WIDTH} channels of each of conv, "
        "fc drawn at random."
    )
    assert caption == f"Feature visualizations of {told}"
    assert told in methods
    assert words(plain, TracesFigure())[0].startswith(
        "Objective during the optimization of 48 channels of toy (random weights) (24 of each of "
        f"the layers conv and fc): {DRAWN} of {WIDTH} channels of each of conv, fc drawn at random."
    )


def test_every_number_of_the_methods_is_of_the_atlas(atlas: Atlas) -> None:
    layer = layer_of(atlas)
    _, _, methods = words(atlas, ImagesFigure(channels={"top": 24}))
    with h5py.File(atlas.path, "r") as file:
        group = file["toy/conv"]
        shown = group["status"][:, group["best_seed_index"][0]]
        agreement = group["agreement"][:, group["best_seed_index"][0]]
        dataset_images = group["dataset"].attrs["photographs"]
    counts = {word: int((shown == code).sum()) for code, word in ((1, "dead"), (2, "diverged"))}
    assert counts == {"dead": 2, "diverged": 1}
    recipe = layer.recipe
    for told in (
        "layer conv (Conv2d) of toy (random weights) (SHA-256 of the weights c0ffeec0ffee)",
        "Preprocessing of toy: mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25): given "
        "in the config; input size 16 px: image_size in the config.",
        f"an image of {recipe['image_size'][0]} x {recipe['image_size'][1]} pixels",
        f"by Adam (Kingma & Ba 2015) with {recipe['optimizer']['steps']} steps",
        f"learning rate of {recipe['optimizer']['learning_rate']:g}",
        "random seeds were 0, 3, 7.",
        f"Of the images of {len(layer.channels)} channels, 2 are dead and 1 diverged.",
        f"The layers' responses to {dataset_images} dataset images were recorded.",
        f"9 strongest dataset images, without the channel itself, is {np.median(agreement):.2f}.",
        "resampled to 300 pixels per inch",
        "Made with torch 2",
    ):
        assert told in methods, told


def test_a_figure_of_one_seed_says_which(atlas: Atlas) -> None:
    _, _, methods = words(atlas, ImagesFigure(seeds=(3,)))
    assert "The random seeds were 0, 3, 7; shown is seed 3." in methods
    assert "agrees most" not in methods


def test_every_number_of_a_caption_is_of_the_atlas(atlas: Atlas) -> None:
    caption, latex, _ = words(atlas, ImagesFigure(order="agreement", tell="selectivity"))
    assert caption == (
        f"Feature visualizations of {SAMPLED}, in descending order of agreement. Beside each image "
        "are the 3 dataset images with the largest responses of the channel. The number below each "
        "image is its selectivity. † marks dead channels, which never responded. * marks "
        "optimizations that diverged."
    )
    assert latex.rstrip("}\n").endswith(
        "Made with toy (random weights) (SHA-256 of the weights c0ffeec0ffee); channel, fourier, "
        "adam 12 steps, 16 px, fp32; seeds 0, 3, 7; torch 2."
    )


def test_clusters_pairs_and_cosines(plain: Atlas) -> None:
    caption, _, methods = words(plain, ResponsesFigure(layers=("conv",), clusters=4))
    assert "Brackets mark 4 clusters of similar channels." in caption
    assert "The tree was cut into 4 clusters." in methods
    layer = layer_of(plain)
    responses = layer["response"][:, 0].astype(np.float64)
    z = (responses - responses.mean(axis=0)) / responses.std(axis=0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosine = z @ z.T
    for a, b, told in re.findall(r"(\d+) and (\d+) \((-?[\d.]+)\)", caption):
        assert cosine[layer.row(int(a)), layer.row(int(b))] == pytest.approx(float(told), abs=0.006)
    ordered = np.sort(cosine[np.triu_indices(len(z), 1)])[::-1]
    first = re.search(r"(\d+) and (\d+) \((-?[\d.]+)\)", caption)
    assert first is not None
    assert float(first[3]) == pytest.approx(ordered[0], abs=0.006)


def test_classes_are_called_classes(tmp_path: Path) -> None:
    recipe = Recipe(**{**vars(make_recipe()), "objective": LogitObjective()})
    names = tuple(f"Class {i}" for i in range(6))
    some = {"channels": (1, 4), "selection": ["class 1", 4], "targets": TargetSpace((6,), names)}
    classes = open_atlas(made_up(tmp_path, {"output": 6}, recipe=recipe, **some))
    caption, _, methods = words(classes, ImagesFigure())
    assert (
        caption == "Feature visualizations of 2 of 6 classes of layer output of toy chosen by hand."
    )
    assert "Of the images of 2 classes, none failed." in methods


def test_an_older_atlas_says_no_more_than_it_knows(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"conv": 6}, channels=(1, 4), selection=[1, 4])
    with h5py.File(file, "a") as opened:
        for name in ("selection", "n_targets", "target"):
            del opened["toy/conv"].attrs[name]
        for name in ("weights", "preprocessing"):
            del opened["toy"].attrs[name]
    caption, latex, methods = words(open_atlas(file), ImagesFigure())
    assert caption == "Feature visualizations of 2 of 6 channels of layer conv of toy."
    assert "toy (SHA-256 of the weights" in latex
    assert "Preprocessing" not in methods


def test_latex_is_inert() -> None:
    assert escaped(r"50 % of a_b & \input{x} ~ #1 $x^2$") == (
        r"50 \% of a\_b \& \textbackslash{}input\{x\} \textasciitilde{} \#1 "
        r"\$x\textasciicircum{}2\$"
    )


def test_methods_state_that_images_were_made_from_the_photographs_they_are_compared_with(
    tmp_path: Path,
) -> None:
    recipe = replace(make_recipe(), objective=PrototypeObjective(top=5))
    file = drawn(tmp_path, {"conv": WIDTH}, recipe=recipe)
    add_photographs(file, dataset_images=3)
    *_, methods = words(open_atlas(file), ImagesFigure())
    assert re.search(r"is -?\d\.\d\d; images were made from the 5 strongest\.", methods)
    assert "with 5 photographs per channel" in methods
