"""Records from plain data and back: exact inverses, and every mistake is told with its place."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from toys import make_plan, make_recipe

from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import (
    Bounds,
    Choice,
    Record,
    build,
    canonical_json,
    digest,
    list_choices,
    plain,
    records_of,
    register,
    setting,
)
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan


@dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more, not {self.size}.")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    names: tuple[str, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    choice: Literal["row", "grid"] = "row"
    amount: int | Literal["auto"] = "auto"
    extra: dict[str, int] | None = None
    family: Fourier | Pixel = field(default_factory=Fourier)
    anything: Any = None
    flag: bool = False


@pytest.mark.parametrize("parameterization", [Fourier(contrast=2.0), Pixel(initial_sd=0.1)])
def test_build_is_the_inverse_of_plain(parameterization: Fourier | Pixel) -> None:
    recipe = make_recipe(parameterization)
    assert build(Recipe, plain(recipe)) == recipe
    plan = make_plan(seeds=(0, 5), recipe=recipe)
    assert build(Plan, json.loads(json.dumps(plain(plan)))) == plan


def test_build_follows_defaults_and_converts_whole_numbers_to_floats() -> None:
    built = build(Outer, {"inner": {}, "pair": [1, 2], "extra": {"a": 1}})
    assert built == Outer(Inner(), pair=(1.0, 2.0), extra={"a": 1})
    assert [type(x) for x in built.pair] == [float, float]


@pytest.mark.parametrize(
    "anything", [None, "text", True, -(2**63), 3.4e38, [1, [2.5, None]], {"a": {"b": ["c", False]}}]
)
def test_anything_is_what_json_holds(anything: Any) -> None:
    built = build(Outer, {"inner": {}, "anything": anything})
    assert json.dumps(plain(built.anything)) == json.dumps(anything)
    assert build(Outer, {"inner": {}, "anything": {1: (2,)}}).anything == {"1": [2]}


@pytest.mark.parametrize(("value", "names"), [("abc", ("abc",)), (["a", "b"], ("a", "b"))])
def test_a_single_value_stands_for_a_list_of_one(value: Any, names: tuple[str, ...]) -> None:
    assert build(Outer, {"inner": {}, "names": value}).names == names


def test_family_member_is_chosen_by_name() -> None:
    built = build(Outer, {"inner": {}, "family": {"name": "pixel", "initial_sd": 1}})
    assert built.family == Pixel(initial_sd=1.0)
    assert [cls.name for cls in (Fourier, Pixel)] == ["fourier", "pixel"]


MISTAKES = [
    ({"iner": {}}, ["unknown config key 'sweep.iner'", "choose from: sweep.inner"]),
    ({"inner": {"sise": 2}}, ["'sweep.inner.sise'", "choose from: sweep.inner.size"]),
    ({}, ["sweep.inner is missing"]),
    ({"inner": 3}, ["sweep.inner must be a mapping, not 3"]),
    ({"inner": {"size": 0}}, ["sweep.inner: size must be 1 or more, not 0"]),
    ({"inner": {"size": "2"}}, ["sweep.inner.size must be a whole number, not '2'"]),
    ({"inner": {"size": True}}, ["sweep.inner.size must be a whole number, not True"]),
    ({"inner": {"size": 2.0}}, ["sweep.inner.size must be a whole number, not 2.0"]),
    ({"inner": {}, "names": 5}, ["sweep.names must be a text, not 5"]),
    ({"inner": {}, "names": ["a", 3]}, ["sweep.names[1] must be a text, not 3"]),
    ({"inner": {}, "pair": [1]}, ["sweep.pair must be a list of 2, not [1]"]),
    ({"inner": {}, "pair": [1, "b"]}, ["sweep.pair[1] must be a number, not 'b'"]),
    ({"inner": {}, "choice": "grit"}, ["unknown sweep.choice 'grit'", "choose from: grid"]),
    ({"inner": {}, "amount": "aut"}, ["sweep.amount", "a whole number or 'auto'", "'aut'"]),
    ({"inner": {}, "extra": {"a": "b"}}, ["sweep.extra.a must be a whole number, not 'b'"]),
    ({"inner": {}, "extra": 3}, ["sweep.extra must be a mapping or null, not 3"]),
    ({"inner": {}, "family": {"name": "pixl"}}, ["unknown sweep.family.name 'pixl'", "pixel"]),
    ({"inner": {}, "family": {"initial_sd": 1}}, ["unknown sweep.family.name None", "fourier"]),
    ({"inner": {}, "family": {"name": ["pixel"]}}, ["sweep.family.name", "pixel"]),
    ({"inner": {}, "family": "pixel"}, ["sweep.family must be a mapping, not 'pixel'"]),
    ({"inner": {"size": 2**63}}, ["sweep.inner.size must be a whole number of 64 bits, not 922"]),
    ({"inner": {}, "pair": [0, -(2**63) - 1]}, ["sweep.pair[1] must be a whole number of 64 bits"]),
    (
        {"inner": {}, "pair": [0, float("inf")]},
        ["sweep.pair[1] must be a number of at most 3.4e+38"],
    ),
    ({"inner": {}, "pair": [0, float("nan")]}, ["sweep.pair[1] must be a number of at most"]),
    ({"inner": {}, "anything": {"a": [1, b"x"]}}, ["sweep.anything.a[1] must be a text, not b'x'"]),
    ({"inner": {}, "anything": [{"a": 10**400}]}, ["sweep.anything[0].a", "of 64 bits"]),
    ({"inner": {}, "anything": -1e39}, ["sweep.anything must be a number of at most"]),
    ({"inner": {}, "flag": "yes"}, ["sweep.flag must be true or false, not 'yes'"]),
]


@pytest.mark.parametrize(("values", "told"), MISTAKES, ids=lambda x: str(x)[:50])
def test_mistakes_are_told_with_place_value_and_choices(values: Any, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(Outer, values, "sweep")
    for words in told:
        assert words in str(caught.value)


def test_mistake_inside_an_optional_value_is_told_at_its_own_place() -> None:
    @dataclass(frozen=True)
    class Optional:
        mean: tuple[float, ...] | None = None

    with pytest.raises(UserError, match=r"mean\[1\] must be a number, not 'b'"):
        build(Optional, {"mean": [0.5, "b"]})


def test_canonical_json_is_one_text_per_value() -> None:
    assert canonical_json({"b": [1, 2.5], "a": {"y": None, "x": "ü"}}) == (
        '{"a":{"x":"\\u00fc","y":null},"b":[1,2.5]}'
    )
    assert canonical_json({"a": (1, 2)}) == canonical_json({"a": [1, 2]})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_digest_is_sha256_of_the_canonical_json() -> None:
    assert digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


# --- declared settings and families --------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (Bounds(at_least=1), "1 or more", (1, 10**9), (0, float("nan"), float("inf"))),
        (Bounds(above=0), "above 0", (1e-9,), (0.0, -1.0)),
        (Bounds(at_least=0.0, at_most=1.0), "0 to 1", (0.0, 1.0), (-0.1, 1.1)),
        (Bounds(at_least=0, at_most=1), "0 or 1", (0, 1), (2,)),
        (Bounds(at_least=0, below=1), "in [0, 1)", (0, 0.99), (1,)),
        (Bounds(above=1, at_most=4), "above 1 and at most 4", (1.1, 4), (1, 4.1)),
    ],
)
def test_bounds_hold_what_they_word(
    bounds: Bounds, words: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert str(bounds) == words
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)


@dataclass(frozen=True)
class Shape(Choice, family="test_shape"):
    """A shape."""


@register("square")
class Square(Shape):
    """A square."""

    sides: tuple[int, ...] = setting((1,), at_least=1, phrase="{} side(s)")
    file: str = setting("", needs="name a file", file="picture")


@dataclass(frozen=True)
class Holder(Record):
    shape: Shape


def test_a_registered_record_is_a_choice_of_its_family() -> None:
    built = build(Holder, {"shape": {"name": "square", "file": "a.png"}})
    assert built == Holder(Square(file="a.png"))
    assert records_of(Shape) == [Square]
    assert list_choices("test_shape") == "square: A square\n    sides=[1]  file=???"
    assert built.shape.describe() == "a square with 1 side"
    with pytest.raises(UserError, match=r"unknown shape.name 'sqare'; choose from: square"):
        build(Holder, {"shape": {"name": "sqare"}})
    with pytest.raises(UserError, match=r"shape: sides\[1\] must be 1 or more, not 0"):
        build(Holder, {"shape": {"name": "square", "file": "a.png", "sides": [1, 0]}})
    with pytest.raises(UserError, match="shape: file must name a file"):
        build(Holder, {"shape": {"name": "square"}})


def test_two_records_of_one_name_are_refused() -> None:
    with pytest.raises(AssertionError, match="both called 'square'"):

        @register("square")
        class Other(Shape):
            """Another square."""
