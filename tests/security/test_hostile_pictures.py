"""Image bombs among photographs: not decoded, told by name, and the others go on."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bombs import lying_jpeg, lying_webp, png, saved
from PIL import EpsImagePlugin, Image

from layer_atlas.datasets.image_files import MOST_PIXELS, picture_size, read_picture
from layer_atlas.datasets.sources import Entry, FolderImages, View, read_view, stream_views
from layer_atlas.errors import UserError

pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "bomb.png": lambda: png(50_000, 50_000),
    "warned.png": lambda: png(12_000, 12_000, rows=12),
    "cut.png": lambda: saved("PNG")[:-40],
    "nothing.png": lambda: png(0, 0),
    "negative.png": lambda: png(2**31 + 1, 5),
    "bomb.jpg": lambda: lying_jpeg(65_500, 65_500),
    "cut.jpg": lambda: saved("JPEG")[:-300],
    "bomb.webp": lambda: lying_webp(16_384, 16_384),
    "lying.webp": lambda: lying_webp(5_000, 5_000),
    "cut.webp": lambda: saved("WEBP")[:-20],
    "postscript.jpg": lambda: saved("EPS"),
    "bomb.gif.png": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b";",
}


def folder_of(tmp_path: Path) -> FolderImages:
    for name, make in HOSTILE.items():
        (tmp_path / name).write_bytes(make())
    for name in ("first.png", "zlast.png"):
        (tmp_path / name).write_bytes(saved("PNG"))
    return FolderImages(tmp_path)


def test_hostile_pictures_are_unreadable_and_the_others_go_on(tmp_path: Path) -> None:
    dataset_images = folder_of(tmp_path)
    entries = list(dataset_images.entries())
    views = dict(
        zip(
            (entry.path for entry in entries),
            stream_views(dataset_images, enumerate(entries), 32, threads=2),
            strict=True,
        )
    )
    readable = {name for name, view in views.items() if view.pixels is not None}
    assert readable == {"first.png", "zlast.png"}
    assert all(views[name].reason for name in HOSTILE)
    for name in readable:
        pixels = views[name].pixels
        assert pixels is not None
        assert (pixels == [200, 100, 0]).all()


def viewed(path: Path) -> View:
    return read_view(FolderImages(path.parent), 0, Entry(path.name, path.stat().st_size), 32)


def test_pillows_limit_is_kept_where_pillow_only_warns(tmp_path: Path) -> None:
    side = int(MOST_PIXELS**0.5)
    (tmp_path / "just.png").write_bytes(png(side, 64, rows=64))
    (tmp_path / "over.png").write_bytes(png(side + 1, side + 1))
    assert viewed(tmp_path / "just.png").reason is None
    told = f"{side + 1} x {side + 1} pixels are more than the limit of {MOST_PIXELS}"
    assert told in str(viewed(tmp_path / "over.png").reason)


def test_pillow_says_nothing_between_the_lines_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "over.png").write_bytes(png(12_000, 12_000))
    code = (
        "import sys; from pathlib import Path;"
        "from layer_atlas.datasets.image_files import open_image;"
        "print(open_image(Path(sys.argv[1])).size)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "over.png")]
    child = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("(12000, 12000)\n", "")


def test_a_jpeg_that_lies_of_its_size_takes_little(tmp_path: Path) -> None:
    # The library fills up what is not there.
    (tmp_path / "lying.jpg").write_bytes(lying_jpeg(9_000, 9_000))
    view = viewed(tmp_path / "lying.jpg")
    assert view.pixels is None or view.pixels.shape == (32, 32, 3)


def test_a_photograph_of_a_hundred_million_pixels_is_read_where_that_takes_little(
    tmp_path: Path,
) -> None:
    # A JPEG is decoded at an eighth of its size.
    Image.new("L", (12_000, 9_000), 90).save(tmp_path / "large.jpg", quality=30)
    view = viewed(tmp_path / "large.jpg")
    assert view.reason is None
    assert (view.width, view.height) == (12_000, 9_000)
    assert np.abs(view.pixels.astype(int) - 90).max() <= 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "make"), HOSTILE.items(), ids=HOSTILE)
def test_a_picture_that_a_user_gives_is_told(
    tmp_path: Path, name: str, make: Callable[[], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(make())
    for read in (lambda: read_picture(path, 3, (16, 16)), lambda: picture_size(path)):
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            read()


def test_no_program_is_run_for_postscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it is looked for once
    path = tmp_path / "picture.jpg"
    path.write_bytes(saved("EPS"))
    with pytest.raises(UserError):
        read_picture(path, 3, (16, 16))
    assert not (tmp_path / "ran").exists()
