"""Views: what a network sees of a photograph, whatever is in its file."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.datasets.sources import (
    Entry,
    FolderImages,
    View,
    read_view,
    stream_views,
    to_original,
)
from tests.datasets.test_sources import picture

SIZE = 32


def view_of(path: Path, size: int = SIZE) -> View:
    return read_view(FolderImages(path.parent), 0, Entry(path.name, path.stat().st_size), size)


def pixels_of(path: Path, size: int = SIZE) -> NDArray[np.int64]:
    view = view_of(path, size)
    assert view.pixels is not None, view.reason
    assert view.pixels.shape == (size, size, 3)
    assert view.pixels.dtype == np.uint8
    return view.pixels.astype(np.int64)


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """Waves of three colours, the same few across any picture."""
    y, x = np.mgrid[:height, :width] * 12.0 / min(width, height)
    waves = np.stack([np.sin(x + y), np.sin(x - 0.7 * y), np.cos(0.3 * x * y)], axis=2)
    return (127.5 + 127.5 * waves).astype(np.uint8)


# --- pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height"), [(32, 32), (64, 48), (48, 64), (45, 33), (20, 16), (400, 33), (1, 7)]
)
def test_shorter_side_resized_and_centre_cut(tmp_path: Path, width: int, height: int) -> None:
    whole = Image.fromarray(smooth(width, height))
    whole.save(tmp_path / "a.png")
    scale = SIZE / min(width, height)
    resized = (max(SIZE, round(width * scale)), max(SIZE, round(height * scale)))
    left, top = (resized[0] - SIZE) // 2, (resized[1] - SIZE) // 2
    expected = np.asarray(
        whole.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + SIZE, top + SIZE))
    )
    assert abs(pixels_of(tmp_path / "a.png") - expected).max() <= 1
    view = view_of(tmp_path / "a.png")
    assert (view.width, view.height, view.reason) == (width, height, None)


def test_a_very_long_picture_takes_little_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1, 60_000), (10, 20, 30)).save(tmp_path / "line.png")
    # Resized as a whole it would have 60,000 x 256 x 256 pixels.
    assert (pixels_of(tmp_path / "line.png", 256) == [10, 20, 30]).all()


@pytest.mark.parametrize("ratio", [1.9, 2.0, 4.0, 7.3])
def test_drafts_of_large_jpegs_look_the_same(tmp_path: Path, ratio: float) -> None:
    size = (round(64 * ratio * 1.3), round(64 * ratio))
    Image.fromarray(smooth(*size)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as file:
        file.convert("RGB").save(tmp_path / "a.png")
    difference = pixels_of(tmp_path / "a.jpg", 64) - pixels_of(tmp_path / "a.png", 64)
    assert np.sqrt((difference**2).mean()) < 1.0
    view = view_of(tmp_path / "a.jpg", 64)
    assert (view.width, view.height) == size


def test_modes(tmp_path: Path) -> None:
    colour = smooth(SIZE, SIZE)
    image = Image.fromarray(colour)
    grey = np.asarray(image.convert("L"))
    image.convert("L").save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 99).save(tmp_path / "deep.png")
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    image.convert("1").save(tmp_path / "bit.png")
    for name in ("grey.png", "deep.png"):
        assert (pixels_of(tmp_path / name) == grey[:, :, None]).all()
    for name in ("palette.png", "ink.jpg"):
        assert abs(pixels_of(tmp_path / name) - colour).mean() < 12
    assert set(np.unique(pixels_of(tmp_path / "bit.png"))) == {0, 255}


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    layer = np.zeros((SIZE, SIZE, 4), np.uint8)
    layer[:, 16:] = (200, 100, 0, 255)
    Image.fromarray(layer).save(tmp_path / "a.png")
    Image.fromarray(layer).save(tmp_path / "a.webp", lossless=True)
    two = Image.fromarray((layer[:, :, 3] > 0).astype(np.uint8), "L").convert("P")
    two.putpalette([9, 9, 9, 200, 100, 0])
    two.save(tmp_path / "p.png", transparency=0)
    for name in ("a.png", "a.webp", "p.png"):
        pixels = pixels_of(tmp_path / name)
        assert (pixels[:, :16] == 255).all(), name
        assert (pixels[:, 16:] == [200, 100, 0]).all(), name


def test_format_is_told_by_the_contents(tmp_path: Path) -> None:
    Image.fromarray(smooth(SIZE, SIZE)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (pixels_of(tmp_path / "a.jpg") == smooth(SIZE, SIZE)).all()


# --- what cannot be read -------------------------------------------------------------------------


def hostile(folder: Path) -> None:
    whole = picture(folder / "whole.jpg", (200, 200)).read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "header.jpg").write_bytes(whole[:30])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "broken.webp").symlink_to(folder / "nowhere")
    (folder / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    png = bytearray(picture(folder / "whole.png").read_bytes())
    png[40:60] = bytes(20)
    (folder / "damaged.png").write_bytes(bytes(png))
    picture(folder / "folder.jpg" / "inner.png")


def test_hostile_files_are_counted_and_do_not_stop_the_others(tmp_path: Path) -> None:
    hostile(tmp_path)
    dataset_images = FolderImages(tmp_path)
    entries = list(dataset_images.entries())
    views = stream_views(dataset_images, enumerate(entries), SIZE, threads=2)
    reasons = {entry.path: view.reason for entry, view in zip(entries, views, strict=True)}
    readable = {path for path, reason in reasons.items() if reason is None}
    assert readable == {"whole.jpg", "whole.png", "folder.jpg/inner.png"}
    assert len(reasons) == 11
    assert "DecompressionBombError" in str(reasons["bomb.png"])
    assert "truncated" in str(reasons["truncated.jpg"])
    assert "UnidentifiedImageError" in str(reasons["script.jpg"])  # and not given to Ghostscript


# --- streaming -----------------------------------------------------------------------------------


def view_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("views")]


@pytest.fixture
def dataset_images(tmp_path: Path) -> FolderImages:
    for number in range(6):
        picture(tmp_path / f"{number}.png", seed=number)
    return FolderImages(tmp_path)


@pytest.mark.parametrize("threads", [1, 3])
def test_views_come_in_order(dataset_images: FolderImages, threads: int) -> None:
    entries = list(dataset_images.entries()) * 40
    views = list(stream_views(dataset_images, enumerate(entries), SIZE, threads))
    assert len(views) == len(entries)
    for number, (entry, view) in enumerate(zip(entries, views, strict=True)):
        alone = read_view(dataset_images, number, entry, SIZE)
        assert view.pixels is not None
        assert alone.pixels is not None
        assert view.pixels.tobytes() == alone.pixels.tobytes()
    assert not view_threads()


def test_leaving_early_leaves_no_thread_and_reads_little_ahead(
    dataset_images: FolderImages,
) -> None:
    (entry, *_), taken = dataset_images.entries(), []

    def endless() -> Iterator[tuple[int, Entry]]:
        while True:
            taken.append(len(taken))
            yield 0, entry

    views = stream_views(dataset_images, endless(), SIZE, 2)
    for _ in range(5):
        assert next(views).pixels is not None
    assert view_threads()
    assert len(taken) < 100
    started = time.monotonic()
    views.close()  # type: ignore[attr-defined]
    assert not view_threads()
    assert time.monotonic() - started < 5


def test_faults_of_our_own_are_raised(dataset_images: FolderImages) -> None:
    numbered = enumerate(dataset_images.entries())
    with pytest.raises(ValueError):
        list(stream_views(dataset_images, numbered, -1, 2))
    assert not view_threads()


# --- the way back --------------------------------------------------------------------------------


def test_known_boxes() -> None:
    assert to_original((0, 0, 32, 32), 32, 32, 32) == (0, 0, 32, 32)
    assert to_original((1, 2, 3, 4), 32, 64, 64) == (2, 4, 6, 8)
    assert to_original((0, 0, 32, 32), 32, 128, 64) == (32, 0, 96, 64)
    assert to_original((0, 0, 1, 1), 32, 16, 16) == (0, 0, 1, 1)
    assert to_original((31, 31, 32, 32), 32, 33, 400) == (31, 215, 33, 217)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (90, 200), (33, 32), (500, 375)])
def test_a_mark_in_a_view_lies_within_its_box_in_the_photograph(
    tmp_path: Path, width: int, height: int
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    expected = (width // 2 + 2, height // 2 - 3, width // 2 + 30, height // 2 + 20)
    expected = tuple(min(*place) for place in zip(expected, (width, height) * 2, strict=True))
    pixels[expected[1] : expected[3], expected[0] : expected[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    bright = np.argwhere(pixels_of(tmp_path / "a.png").mean(axis=2) > 128)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
    found = to_original((left, top, right, bottom), SIZE, width, height)
    pixel = min(width, height) / SIZE
    seen = ((width - min(width, height)) // 2, (height - min(width, height)) // 2)
    limits = (seen[0] + min(width, height), seen[1] + min(width, height))
    visible = np.minimum(expected, limits * 2)
    assert np.abs(np.subtract(found, visible)).max() <= pixel + 2
