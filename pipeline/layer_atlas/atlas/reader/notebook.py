"""HTML of an atlas for notebooks, self-contained."""

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.display import in_colour

_SIDE = 64
"""Longer side of an image in pixels, at most."""


def listed(title: str, lines: Iterable[str]) -> str:
    """Lines under a title."""
    rows = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<p>{html.escape(title)}</p><ul>{rows}</ul>"


def sheet(title: str, name: str, images: Iterable[tuple[int, NDArray[np.uint8]]]) -> str:
    """Images (H, W, colours) side by side under a title, each above its channel.

    Args:
        title: in words.
        name: of the layer, for those who do not see the images.
        images: with their channels.
    """
    cells = "".join(_cell(f"{name} {channel}", channel, pixels) for channel, pixels in images)
    return f"<p>{html.escape(title)}</p>{cells}"


def _cell(text: str, channel: int, pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(in_colour(pixels))
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(buffer, "PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="display:inline-block;margin:2px;text-align:center">'
        f'<img alt="{html.escape(text)}" src="data:image/png;base64,{source}">'
        f'<figcaption style="font-size:10px">{channel}</figcaption></figure>'
    )
