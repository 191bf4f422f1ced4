"""Data as scripts: inert whatever it holds, and numbers that sort as they did."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer_atlas.presentation.site.files import numbers, script


@given(st.text(), st.text())
def test_a_script_is_one_line_of_ascii_that_no_text_can_leave(name: str, text: str) -> None:
    made = script(name, {"text": text}).decode("ascii")
    assert not set(made[:-1]) & set("<>&\n\r")
    arguments = made.removeprefix("layerAtlas.take(").removesuffix("));\n")
    told, value = json.loads(f"[{arguments.replace(', JSON.parse(', ', ', 1)}]")
    assert told == name
    assert json.loads(value) == {"text": text}


def test_what_is_not_finite_has_no_script() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        script("name", float("nan"))


@given(st.lists(st.floats(width=32), min_size=1))
def test_floats_keep_their_order_and_their_ties(values: list[float]) -> None:
    array = np.asarray(values, np.float32)
    told = numbers(array)
    pairs = list(zip(array, told, strict=True))
    for (a, x), (b, y) in pairwise(pairs):
        if np.isfinite(a) and np.isfinite(b):
            assert (a < b, a == b) == (x < y, x == y)
    assert [x is None for x in told] == (~np.isfinite(array)).tolist()


def test_floats_are_as_short_as_can_be() -> None:
    assert numbers(np.asarray([0.1, 1 / 3], np.float32)) == [0.1, 0.33333334]
    assert numbers(np.asarray([[1 / 3, np.inf]]), 3) == [[0.333, None]]
    assert numbers(np.asarray([3, 4], np.int64)) == [3, 4]
