"""The recipe: values out of range are refused by name, and the trace has its ends."""

from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any

import pytest
from toys import make_recipe

from pipeline.recipe import Fourier, Maco, Pixel, Regularizers, Transforms, trace_steps

OUT_OF_RANGE = [
    (Fourier, {"decay_power": -0.1}, "decay_power must be 0 or more, not -0.1"),
    (Fourier, {"initial_sd": 0.0}, "initial_sd must be above 0, not 0.0"),
    (Fourier, {"contrast": float("nan")}, "contrast must be above 0, not nan"),
    (Pixel, {"initial_sd": float("inf")}, "initial_sd must be above 0, not inf"),
    (Transforms, {"jitter": -1.0}, "jitter must be 0 or more"),
    (Transforms, {"rotate": float("nan")}, "rotate must be 0 or more"),
    (Transforms, {"scale": (0.0, 1.0)}, r"scale\[0\] must be above 0"),
    (Transforms, {"scale": (1.1, 0.9)}, r"scale must ascend, not \[1.1, 0.9\]"),
    (Maco, {"contrast": 0.0}, "contrast must be above 0, not 0.0"),
    (Regularizers, {"total_variation": -1.0}, "total_variation must be 0 or more, not -1.0"),
    (Regularizers, {"clip": float("nan")}, "clip must be 0 or more, not nan"),
]


@pytest.mark.parametrize(("record", "values", "message"), OUT_OF_RANGE, ids=lambda x: str(x)[:40])
def test_values_out_of_range_are_refused_by_name(
    record: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        record(**values)


def test_recipes_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_recipe().image_size = 8  # type: ignore[misc]


@pytest.mark.parametrize("steps", [1, 2, 3, 32, 33, 34, 64, 65, 96, 257, 1000])
def test_trace_holds_at_most_33_steps_evenly_with_both_ends(steps: int) -> None:
    recorded = trace_steps(steps)
    assert len(recorded) == min(steps, 33)
    assert (recorded[0], recorded[-1]) == (0, steps - 1)
    gaps = {b - a for a, b in pairwise(recorded)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
