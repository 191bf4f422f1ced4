"""Recipes in sentences: every choice has words, what is off has none, every work is in the list."""

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from layer_atlas.presentation.figures.captions.references import cited
from toys import make_recipe

from layer_atlas.config.objectives import (
    ChannelObjective,
    JointObjective,
    NeuronObjective,
    Objective,
    Term,
)
from layer_atlas.config.optimizers import LBFGS, SGD, Optimizer
from layer_atlas.config.parameterizations import Generator, Mask, Parameterization
from layer_atlas.config.recipe import Octaves, Recipe, Regularizers, SpectrumInit, Transforms
from layer_atlas.config.records import FAMILIES, records_of
from layer_atlas.presentation.figures.captions.methods import tex

NEEDED: dict[str, dict[str, Any]] = {
    "custom": {"function": "mine.score"},
    "joint": {"terms": (Term("a"), Term("b"))},
    "caricature": {"photograph": "x.png"},
    "inversion": {"photograph": "x.png"},
    "accentuation": {"photograph": "x.png"},
    "generator": {"target": "mine.build", "weights": "w.pth", "latent": (8,)},
}
WORK = re.compile(r"[A-Z][\w-]+(?: et al\.| & [A-Z]\w+)? \d{4}")


def made(record: Any) -> Any:
    return record(**NEEDED.get(record.name, {}))


def text(recipe: Recipe) -> str:
    return recipe.describe()


RECIPES = [
    *(replace(make_recipe(), objective=made(record)) for record in records_of(Objective)),
    *(replace(make_recipe(), parameterization=made(r)) for r in records_of(Parameterization)),
    *(replace(make_recipe(), optimizer=record()) for record in records_of(Optimizer)),
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
        transforms=Transforms(jitter=3, scale=(0.9, 1.2), rotate=0, flip=0.5),
        regularizers=Regularizers(blur=0.5, l1=0.25),
        init=SpectrumInit(),
    )
    told = text(recipe)
    for words in (
        "48 x 64 pixels",
        "7 steps",
        "learning rate of 0.25",
        "shifts of up to 3 pixels, magnifications of 0.9 to 1.2, flips with",
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


CHANGED: dict[str, Any] = {
    "sign": "negative",
    "position": (1, 2),
    "schedule": "linear",
    "function": "mine.other",
    "args": {"a": 1},
    "terms": (Term("a"), Term("b", weight=2.0)),
    "target": "mine.other",
    "latent": (9,),
    "output": (-2.0, 2.0),
    "bounds": (-2.0, 2.0),
    "beta1": 0.6,
    "beta2": 0.6,
    "momentum": 0.6,
    "nesterov": True,
    "flip": 0.6,
    "perspective": 0.6,
}
"""Another value of settings for which twice the default plus one is none."""
UNSAID = {"name", "entry", "source", "dataset", "vectors", "photograph", "weights"}
"""Settings that are digests of files or code, or say where in a file something is."""


def changes() -> Iterator[tuple[Any, str]]:
    records = [
        made(record) for family in OF_RECIPES for record in FAMILIES[family].choices.values()
    ]
    for record in [*records, Transforms(), Regularizers()]:
        yield from ((record, f.name) for f in fields(record) if f.name not in UNSAID)


OF_RECIPES = ("objective", "parameterization", "optimizer", "init")


@pytest.mark.parametrize(
    ("record", "name"), list(changes()), ids=lambda x: x if isinstance(x, str) else type(x).__name__
)
def test_every_setting_that_decides_pixels_is_in_the_text(record: Any, name: str) -> None:
    value = getattr(record, name)
    if isinstance(record, Transforms) and isinstance(value, tuple):
        other: Any = (value[0], min(value[1] * 1.5 or 0.5, 1.0) if name != "crop" else 1.0)
        other = (0.5, 0.75) if other == value else other
    else:
        other = CHANGED[name] if name in CHANGED else not value
        other = 2 * value + 1 if name not in CHANGED and type(value) is not bool else other
    key = {"Transforms": "transforms", "Regularizers": "regularizers"}.get(type(record).__name__)
    key = key or next(k for k in OF_RECIPES if isinstance(record, FAMILIES[k]))
    before, after = (
        text(replace(make_recipe(), **{key: made_of}))
        for made_of in (record, replace(record, **{name: other}))
    )
    assert before != after


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (9, 8)},
        {"precision": "bf16"},
        {"keep_prefix_tokens": True},
        {"algorithm": 99},
    ],
    ids=str,
)
def test_what_else_decides_pixels_is_in_the_text(change: dict[str, Any]) -> None:
    assert text(replace(make_recipe(), **change)) != text(make_recipe())


def test_latex_is_inert() -> None:
    assert tex(r"50 % of a_b & \input{x} ~ #1 $x^2$") == (
        r"50 \% of a\_b \& \textbackslash{}input\{x\} \textasciitilde{} \#1 "
        r"\$x\textasciicircum{}2\$"
    )
