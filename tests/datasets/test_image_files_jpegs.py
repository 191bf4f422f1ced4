"""Photographs as JPEG files, one behind the other."""

import io

import numpy as np
import pytest
from PIL import Image

from layer_atlas.datasets.image_files import as_jpeg, from_jpeg, joined, parted

GREY = np.full((24, 24, 3), 90, np.uint8)


def test_a_picture_comes_back_about_as_it_was() -> None:
    assert np.abs(from_jpeg(as_jpeg(GREY), 24).astype(int) - 90).max() <= 2


@pytest.mark.parametrize("lengths", [(), (5,), (5, 5, 5), (3, 0, 7)], ids=str)
def test_files_one_behind_the_other_come_back(lengths: tuple[int, ...]) -> None:
    files = [np.arange(length, dtype=np.uint8) for length in lengths]
    read = parted(**joined(files))
    assert [file.tolist() for file in read] == [file.tolist() for file in files]


def encoded(picture: Image.Image, kind: str) -> np.ndarray:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return np.frombuffer(buffer.getvalue(), np.uint8)


@pytest.mark.parametrize(
    "file",
    [
        np.zeros(0, np.uint8),
        np.zeros(100, np.uint8),
        as_jpeg(GREY)[:-200],
        as_jpeg(np.zeros((24, 25, 3), np.uint8)),
        encoded(Image.new("L", (24, 24)), "JPEG"),
        encoded(Image.new("RGB", (24, 24)), "PNG"),
        encoded(Image.new("RGB", (24, 24)), "EPS"),
    ],
    ids=["empty", "zeros", "cut short", "other size", "grey", "PNG", "PostScript"],
)
def test_what_is_no_such_jpeg_file_is_told(file: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no picture of 24 x 24"):
        from_jpeg(file, 24)
