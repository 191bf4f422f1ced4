"""Recipes in sentences: every choice has words, what is off has none, every work is in the list."""

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from toys import make_recipe

from layer_atlas.config.objectives import (
    ActivationAtlasObjective,
    ChannelObjective,
    JointObjective,
    NeuronObjective,
    Objective,
    Term,
)
from layer_atlas.config.optimizers import LBFGS, SGD, Optimizer
from layer_atlas.config.parameterizations import Generator, Mask, Parameterization
from layer_atlas.config.recipe import (
    Growth,
    Init,
    Octaves,
    Recipe,
    Regularizers,
    SpectrumInit,
    Transforms,
)
from layer_atlas.config.records import records_of
from layer_atlas.presentation.figures.works import cited, known_references

NEEDED: dict[str, dict[str, Any]] = {
    "custom": {"function": "mine.score"},
    "joint": {"terms": (Term("a"), Term("b"))},
    "caricature": {"photograph": "x.png"},
    "inversion": {"photograph": "x.png"},
    "accentuation": {"photograph": "x.png"},
    "photograph": {"photograph": "x.png"},
    "lbfgs": {"schedule": "linear"},
    "generator": {"target": "mine.build", "weights": "w.pth", "latent": (8,)},
}
WORK = re.compile(r"[A-Z][\w-]+(?: et al\.| & [A-Z]\w+)? \d{4}[a-z]?")


def made(record: Any) -> Any:
    return record(**NEEDED.get(getattr(record, "name", ""), {}))


def text(recipe: Recipe) -> str:
    return recipe.describe()


RECIPES = [
    *(replace(make_recipe(), objective=made(record)) for record in records_of(Objective)),
    *(replace(make_recipe(), parameterization=made(r)) for r in records_of(Parameterization)),
    *(replace(make_recipe(), optimizer=record()) for record in records_of(Optimizer)),
    replace(make_recipe(steps=10), growth=Growth((0.5, 0.7), (0.125, 0.25))),
    replace(make_recipe(), octaves=Octaves(), mask=Mask(area="a.png", picture="b.png")),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r.objective).__name__)
def test_every_choice_has_words_and_every_work_is_known(recipe: Recipe) -> None:
    told = text(recipe)
    assert "None" not in told
    assert "{" not in told
    works = {reference.cite for reference in known_references()}
    for work in WORK.findall(told):
        assert work in works, work
    assert len(cited(told)) == len(set(WORK.findall(told)))


def test_numbers_are_those_of_the_recipe() -> None:
    recipe = replace(
        make_recipe(image_size=(48, 64), learning_rate=0.25, steps=7),
        transforms=Transforms(jitter=0.25, scale=(0.9, 1.2), rotate=0, flip=0.5),
        regularizers=Regularizers(blur=0.5, l1=0.25),
        init=SpectrumInit(),
    )
    told = text(recipe)
    for words in (
        "48 x 64 pixels",
        "7 steps",
        "learning rate of 0.25",
        "shifts of up to 0.25 of the image's side, magnifications of 0.9 to 1.2 and flips with",
        "a blur of each step of 0.5 pixels",
        "distance from grey (weight 0.25)",
        "starting from random phases with the mean spectrum of photographs",
        "32-bit",
    ):
        assert words in told, words
    assert "rotations" not in told
    assert "total variation" not in told


def test_what_is_off_has_no_words() -> None:
    told = text(make_recipe(leaky_steps=0, starts=1, schedule="constant"))
    assert "The network saw the images as they were." in told
    for word in ("regularized", "leaked", "starts", "falling", "repeated"):
        assert word not in told


def test_signs_and_positions() -> None:
    assert "descent" in text(replace(make_recipe(), objective=ChannelObjective(sign="negative")))
    assert "row 3, column 5" in NeuronObjective(position=(3, 5)).describe()
    assert isinstance(made(JointObjective), JointObjective)
    assert "momentum of 0.5" in text(replace(make_recipe(), optimizer=SGD()))
    assert "beta1" not in text(replace(make_recipe(), optimizer=LBFGS()))
    assert "mine.build" in text(replace(make_recipe(), parameterization=made(Generator)))


# --- every setting -------------------------------------------------------------------------------

CHANGED: dict[str, Any] = {
    "sign": "negative",
    "position": (1, 2),
    "args": {"a": 1},
    "entry": "b",
    "function": "mine.other",
    "target": "mine.other",
    "latent": (9,),
    "levels": 5,
    "top": 12,
    "terms": (Term("a"), Term("b", weight=2.0)),
    "output": (-2.0, 2.0),
    "bounds": (-2.0, 2.0),
    "grid": (10, 40),
    "projection": "pca",
    "classes": ("cats", "dogs"),
    **dict.fromkeys(("beta1", "beta2", "momentum", "flip", "perspective", "jitter"), 0.6),
}
"""Another value of settings for which `changed` finds none."""
UNSAID = {"name", "source", "dataset", "vectors", "photograph", "weights", "maps", "labels"}
"""Settings that are digests of files or code, name a part of a file, or ask for what may not be
there."""
PARTS = {"objective": Objective, "parameterization": Parameterization, "optimizer": Optimizer}
PARTS |= {"init": Init, "transforms": Transforms, "regularizers": Regularizers}


def changed(record: Any, name: str) -> Any:
    """The record with another value of a setting."""
    value = getattr(record, name)
    if name in CHANGED:
        other = CHANGED[name]
    elif name == "schedule":
        other = "cosine" if value == "linear" else "linear"
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, tuple):  # of transforms; a range within all bounds
        other = (0.5, 0.75)
    else:
        other = 2 * value + 1
    return replace(record, **{name: other})


def settings() -> Iterator[tuple[str, Any, str]]:
    for part, family in PARTS.items():
        for record in map(made, records_of(family)):
            for field in fields(record):
                if field.name not in UNSAID:
                    yield part, record, field.name


@pytest.mark.parametrize(
    ("part", "record", "name"),
    list(settings()),
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_every_setting_that_decides_pixels_is_in_the_text(
    part: str, record: Any, name: str
) -> None:
    before, after = (
        text(replace(make_recipe(), **{part: one})) for one in (record, changed(record, name))
    )
    assert before != after


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (9, 8)},
        {"precision": "bf16"},
        {"keep_prefix_tokens": True},
        {"algorithm": 99},
        {"octaves": Octaves()},
        {"growth": Growth((0.5,), (0.5,))},
        {"mask": Mask(area="a.png", picture="b.png")},
    ],
    ids=str,
)
def test_what_else_decides_pixels_is_in_the_text(change: dict[str, Any]) -> None:
    assert text(replace(make_recipe(), **change)) != text(make_recipe())


def test_principal_axes_have_no_neighbours() -> None:
    assert "15 neighbours" in ActivationAtlasObjective().describe()
    assert "neighbours" not in ActivationAtlasObjective(projection="pca").describe()
