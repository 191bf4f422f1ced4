"""The display of an atlas: images of any number of colours as RGB, and HTML for notebooks."""

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert pixels (..., C) of any number of colours to RGB (..., 3).

    One colour is grey, two are red and green; of more than three the first three are shown.
    """
    count = pixels.shape[-1]
    if count == 1:
        return np.repeat(pixels, 3, axis=-1)
    if count == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


def colours_shown(count: int) -> str:
    """Name the bands that `in_colour` shows; empty where all are shown as they are."""
    if count in (1, 3):
        return ""
    return "2 bands in red and green" if count == 2 else f"bands 0 to 2 of {count}"


_SIDE = 96
"""Longer side of an image in pixels, at most."""


def listed(title: str, lines: Iterable[str]) -> str:
    """Lines under a title."""
    rows = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<p>{html.escape(title)}</p><ul>{rows}</ul>"


def sheet(
    title: str, name: str, images: Iterable[tuple[str, NDArray[np.uint8]]], more: int = 0
) -> str:
    """Images (H, W, colours) side by side under a title, each above its label.

    Args:
        title: in words.
        name: of the layer, for those who do not see the images.
        images: with their labels.
        more: number of images that are not shown.
    """
    cells = "".join(_cell(f"{name} {label}", label, pixels) for label, pixels in images)
    rest = f"<span>and {more} more</span>" if more else ""
    return f"<p>{html.escape(title)}</p>{cells}{rest}"


def _cell(text: str, label: str, pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(in_colour(pixels))
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(buffer, "PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="display:inline-block;margin:2px;text-align:center">'
        f'<img alt="{html.escape(text)}" src="data:image/png;base64,{source}">'
        f'<figcaption style="font-size:10px;max-width:{_SIDE}px">{html.escape(label)}</figcaption>'
        f"</figure>"
    )
