"""Data as scripts: pages opened from disk may load those, and nothing else.

A script calls `layerAtlas.take(name, value)`. What it holds is JSON in ASCII without `<`, `>` and
`&`, so that no text from a network or a file name can end the script or begin a tag.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def script(name: str, value: Any) -> bytes:
    """A script that hands over a value under a name.

    Raises:
        ValueError: a number in it is not finite.
    """
    return f"layerAtlas.take({_json(name)}, {_json(value)});\n".encode("ascii")


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def numbers(array: NDArray[Any], digits: int | None = None) -> list[Any]:
    """An array of any shape as lists; what is not finite is `None`.

    Args:
        array: of numbers.
        digits: how many are kept; by default as many as tell floats of this width apart, so that
            they sort as they do in the array.
    """
    if array.ndim > 1:
        return [numbers(row, digits) for row in array]
    if array.dtype.kind != "f":
        return list(array.tolist())
    if digits is not None:
        return [float(f"{x:.{digits}g}") if np.isfinite(x) else None for x in array.tolist()]
    finite = np.isfinite(array)
    texts = array.astype(str).tolist()
    return [float(text) if ok else None for text, ok in zip(texts, finite.tolist(), strict=True)]
