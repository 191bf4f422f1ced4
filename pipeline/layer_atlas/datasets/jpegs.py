"""Photographs as they are kept: JPEG files of one size, one behind the other."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 92


def as_jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) as the bytes of a JPEG file (n,): a tenth of its size."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def from_jpeg(file: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The picture (size, size, 3) in a JPEG file.

    Raises:
        ValueError: it is no JPEG file, or of another size.
    """
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=["JPEG"]) as picture:
            if picture.size != (size, size) or picture.mode != "RGB":
                raise ValueError(f"{picture.mode} {picture.size}")
            return np.asarray(picture)
    except Exception as error:
        raise ValueError(f"no picture of {size} x {size} pixels: {error}") from error


def joined(files: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.int64] | NDArray[np.uint8]]:
    """Files one behind the other: their bytes `picture`, and where each ends `picture_end`."""
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return {"picture": np.concatenate([*files, np.zeros(0, np.uint8)]), "picture_end": ends}


def parted(picture: NDArray[np.uint8], picture_end: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """The inverse of `joined`."""
    return np.split(picture, picture_end)[:-1]
