"""Recipes in sentences: every choice has words, what is off has none, every work is in the list."""

import re
from dataclasses import replace
from typing import Any, get_args

import pytest
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
from layer_atlas.config.recipe import Octaves, Recipe, Regularizers, SpectrumInit
from layer_atlas.config.records import choice_name
from layer_atlas.config.transforms import Transforms
from layer_atlas.presentation.figures.captions.methods import tex
from layer_atlas.presentation.figures.captions.recipe import objective_words, recipe_sentences
from layer_atlas.presentation.figures.captions.references import REFERENCES, cited

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
    return record(**NEEDED.get(choice_name(record), {}))


def text(recipe: Recipe) -> str:
    return " ".join(recipe_sentences(recipe))


RECIPES = [
    *(replace(make_recipe(), objective=made(record)) for record in get_args(Objective)),
    *(replace(make_recipe(), parameterization=made(r)) for r in get_args(Parameterization)),
    *(replace(make_recipe(), optimizer=record()) for record in get_args(Optimizer)),
    replace(make_recipe(), octaves=Octaves(), mask=Mask(area="a.png", picture="b.png")),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r.objective).__name__)
def test_every_choice_has_words_and_every_work_is_known(recipe: Recipe) -> None:
    told = text(recipe)
    assert "None" not in told
    assert "{" not in told
    for work in WORK.findall(told):
        assert work in REFERENCES, work
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
        "shifts of up to 3 pixels, magnifications of 0.9 to 1.2, mirror images with",
        "a blur of each step of 0.5 pixels",
        "distance from grey (weight 0.25)",
        "starting from random phases with the mean spectrum of photographs",
        "32-bit",
    ):
        assert words in told, words
    assert "turns" not in told
    assert "total variation" not in told


def test_what_is_off_has_no_words() -> None:
    told = text(make_recipe(leaky_steps=0, starts=1, schedule="constant"))
    assert "The network saw the images as they were." in told
    for word in ("regularized", "leaked", "starts", "falling", "repeated"):
        assert word not in told


def test_signs_and_positions() -> None:
    assert "descent" in text(replace(make_recipe(), objective=ChannelObjective(sign="negative")))
    assert "row 3, column 5" in objective_words(NeuronObjective(position=(3, 5)))
    assert isinstance(made(JointObjective), JointObjective)
    assert "momentum of 0.5" in text(replace(make_recipe(), optimizer=SGD()))
    assert "betas" not in text(replace(make_recipe(), optimizer=LBFGS()))
    assert "mine.build" in text(replace(make_recipe(), parameterization=made(Generator)))


def test_latex_is_inert() -> None:
    assert tex(r"50 % of a_b & \input{x} ~ #1 $x^2$") == (
        r"50 \% of a\_b \& \textbackslash{}input\{x\} \textasciitilde{} \#1 "
        r"\$x\textasciicircum{}2\$"
    )
