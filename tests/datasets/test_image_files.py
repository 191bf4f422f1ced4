"""Every kind of picture is read as what it shows, for dataset images, photographs and masks alike.

Known answers are the numbers that the test wrote. PNG files are written here byte by byte, and the
samples of opaque files are compared with torchvision's decoder, which is libpng, libjpeg or giflib.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torchvision.io import ImageReadMode, decode_gif, decode_jpeg, decode_png

from layer_atlas.datasets.image_files import picture_size, read_picture
from layer_atlas.datasets.sources import Entry, FolderImages, read_view

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SIDE = 32
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG."""

Pixels = NDArray[np.int64]


def png(
    kind: int, depth: int, rows: Sequence[bytes], key: bytes = b"", palette: bytes = b""
) -> bytes:
    """A PNG of SIDE x SIDE pixels from its packed rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", SIDE, len(rows), depth, kind, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", key)] if key else []
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join([*parts, chunk(b"IDAT", packed), chunk(b"IEND", b"")])


def deep(samples: NDArray[np.uint16]) -> list[bytes]:
    """Rows of samples of 16 bits."""
    return [row.astype(">u2").tobytes() for row in samples]


def waves(side: int = SIDE) -> NDArray[np.uint8]:
    """A picture that is not like itself turned, mirrored, or with its colours swapped."""
    y, x = np.mgrid[:side, :side] / side
    planes = [0.2 + 0.7 * x, 0.9 - 0.8 * y, 0.5 + 0.4 * np.sin(9 * x * y)]
    return (255 * np.stack(planes, axis=2)).astype(np.uint8)


def samples16(planes: int) -> NDArray[np.uint16]:
    """Samples of 16 bits that reach from black to white, with low bits that matter to nobody."""
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 2**16, (SIDE, SIDE, planes), dtype=np.uint16)
    samples[0, 0], samples[0, 1], samples[0, 2] = 0, 65535, 300
    return samples


def seen(tmp_path: Path, data: bytes, name: str = "a.png") -> Pixels:
    """The pixels (H, W, 3) that both a dataset and a photograph or mask of this file give."""
    path = tmp_path / name
    path.write_bytes(data)
    view = read_view(FolderImages(tmp_path), 0, Entry(name, len(data)), SIDE)
    assert view.pixels is not None, view.reason
    picture = read_picture(path, 3, (SIDE, SIDE))[0].transpose(1, 2, 0)
    given = np.round(picture * 255).astype(np.int64)
    assert np.array_equal(given, view.pixels)
    grey = np.round(read_picture(path, 1, (SIDE, SIDE))[0, 0] * 255)
    assert np.abs(grey - given @ [0.299, 0.587, 0.114]).max() <= 1
    return given


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def by_libpng(data: bytes, mode: ImageReadMode = ImageReadMode.UNCHANGED) -> Pixels:
    """The samples (H, W, planes) of a PNG by another library."""
    return decode_png(as_tensor(data), mode=mode).permute(1, 2, 0).to(torch.int64).numpy()


# --- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "planes"), [(GREY, 1), (COLOUR, 3)])
def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, kind: int, planes: int) -> None:
    samples = samples16(planes)
    data = png(kind, 16, deep(samples))
    assert np.array_equal(by_libpng(data), samples)
    pixels = seen(tmp_path, data)
    assert np.array_equal(pixels, np.broadcast_to(samples >> 8, pixels.shape))
    assert np.abs(pixels - samples / 257).max() <= 1
    assert (pixels[0, :2] == [[0] * 3, [255] * 3]).all()


@pytest.mark.parametrize(("kind", "planes"), [(GREY_ALPHA, 2), (COLOUR_ALPHA, 4)])
def test_16_bits_with_alpha_lie_on_white(tmp_path: Path, kind: int, planes: int) -> None:
    samples = samples16(planes)
    data = png(kind, 16, deep(samples))
    assert np.array_equal(by_libpng(data), samples)
    colour, alpha = samples[..., :-1] / 65535, samples[..., -1:] / 65535
    expected = 255 * np.broadcast_to(colour * alpha + 1 - alpha, (SIDE, SIDE, 3))
    assert np.abs(seen(tmp_path, data) - expected).max() <= 2


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_reach_from_black_to_white(tmp_path: Path, depth: int) -> None:
    levels = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2**depth
    bits = (levels[..., None] >> np.arange(depth)[::-1]) & 1
    rows = [np.packbits(row.ravel()).tobytes() for row in bits.astype(np.uint8)]
    expected = levels * 255 // (2**depth - 1)
    data = png(GREY, depth, rows)
    assert np.array_equal(by_libpng(data)[..., 0], expected)
    assert (seen(tmp_path, data) == expected[..., None]).all()
    # One of the levels transparent: Pillow by itself does not find it.
    keyed = png(GREY, depth, rows, key=struct.pack(">H", 1))
    assert (seen(tmp_path, keyed) == np.where(levels == 1, 255, expected)[..., None]).all()


# --- transparency --------------------------------------------------------------------------------


def test_colours_under_alpha_are_not_seen(tmp_path: Path) -> None:
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[:, 8:16], alpha[:, 16:] = 128, 255
    layers = np.dstack([waves(), alpha])
    expected = 255 + (waves() - 255.0) * alpha[..., None] / 255
    for name, kind in (("a.png", "PNG"), ("a.webp", "WEBP")):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        pixels = seen(tmp_path, saved(Image.fromarray(layers), kind, **options), name)
        assert (pixels[:, :8] == 255).all()
        assert np.abs(pixels - expected).max() <= 1
    assert np.array_equal(by_libpng(saved(Image.fromarray(layers))), layers)


def test_grey_with_alpha(tmp_path: Path) -> None:
    grey = waves()[..., 0]
    alpha = np.where(np.arange(SIDE) < 16, 0, 255).astype(np.uint8) * np.ones_like(grey)
    data = saved(Image.merge("LA", [Image.fromarray(plane) for plane in (grey, alpha)]))
    pixels = seen(tmp_path, data)
    assert (pixels[:, :16] == 255).all()
    assert (pixels[:, 16:] == grey[:, 16:, None]).all()


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    places = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3).astype(np.uint8)
    colours = np.asarray([[9, 9, 9], [200, 100, 0], [1, 2, 3]], np.uint8)
    data = png(PALETTE, 8, [row.tobytes() for row in places], bytes([0, 128]), colours.tobytes())
    alpha = np.asarray([[0], [128], [255]]) / 255
    expected = colours * alpha + 255 * (1 - alpha)
    assert np.abs(seen(tmp_path, data) - expected[places]).max() <= 1
    opaque = png(PALETTE, 8, [row.tobytes() for row in places], palette=colours.tobytes())
    assert np.array_equal(by_libpng(opaque, ImageReadMode.RGB), colours[places])
    assert np.array_equal(seen(tmp_path, opaque), colours[places])


@pytest.mark.parametrize(("kind", "planes"), [(GREY, 1), (COLOUR, 3)])
@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_may_be_transparent(tmp_path: Path, kind: int, planes: int, depth: int) -> None:
    samples = samples16(planes) if depth == 16 else samples16(planes) >> 8
    key = samples[5, 7]
    rows = deep(samples) if depth == 16 else [row.astype(np.uint8).tobytes() for row in samples]
    data = png(kind, depth, rows, key=key.astype(">u2").tobytes())
    expected = np.broadcast_to(samples >> (depth - 8), (SIDE, SIDE, 3)).astype(np.int64)
    clear = (samples == key).all(axis=2)
    assert 1 <= clear.sum() < 20
    assert np.array_equal(seen(tmp_path, data), np.where(clear[..., None], 255, expected))


# --- JPEG ----------------------------------------------------------------------------------------


def test_grey_and_cmyk_jpegs(tmp_path: Path) -> None:
    whole = Image.fromarray(waves())
    for mode in ("L", "CMYK"):
        data = saved(whole.convert(mode), "JPEG", quality=100, subsampling=0)
        pixels = seen(tmp_path, data, "a.jpg")
        other = decode_jpeg(as_tensor(data), mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
        assert np.abs(pixels - other).max() <= 3, mode
        expected = np.asarray(whole.convert(mode).convert("RGB"), np.int64)
        assert np.abs(pixels - expected).max() <= 12, mode


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    """Eight notes of a camera, one scene: each file is stored turned, and seen as it was."""
    scene = waves()
    mirrored, upside, half = scene[:, ::-1], scene[::-1], scene[::-1, ::-1]
    stored = [scene, mirrored, half, upside]
    stored += [np.swapaxes(scene, 0, 1), np.rot90(scene), np.swapaxes(half, 0, 1)]
    stored.append(np.rot90(scene, -1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}
    image = Image.fromarray(np.ascontiguousarray(stored[orientation - 1]))
    data = saved(image, kind, exif=exif, **options[kind])
    name = f"a.{'jpg' if kind == 'JPEG' else kind.lower()}"
    assert np.abs(seen(tmp_path, data, name) - scene).max() <= (6 if kind == "JPEG" else 0)
    if kind == "JPEG":
        other = decode_jpeg(as_tensor(data), apply_exif_orientation=True).permute(1, 2, 0).numpy()
        assert np.abs(seen(tmp_path, data, name) - other).max() <= 3


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.fromarray(np.tile(waves(300), (1, 2, 1)))
    (tmp_path / "a.jpg").write_bytes(saved(tall, "JPEG", exif=exif))
    assert picture_size(tmp_path / "a.jpg") == (600, 300)
    entry = Entry("a.jpg", (tmp_path / "a.jpg").stat().st_size)
    view = read_view(FolderImages(tmp_path), 0, entry, SIDE)
    assert (view.width, view.height) == (300, 600)
    # It is decoded at a fraction of its size, and only its middle is cut out.
    upright = tall.transpose(Image.Transpose.ROTATE_270).crop((0, 150, 300, 450))
    expected = np.asarray(upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.int64)
    assert view.pixels is not None
    assert np.abs(view.pixels - expected).mean() < 3


def test_damaged_exif_data_does_no_harm(tmp_path: Path) -> None:
    data = saved(
        Image.fromarray(waves()), "JPEG", quality=100, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"
    )
    assert np.abs(seen(tmp_path, data, "a.jpg") - waves()).max() <= 40


def test_jpegs_that_hold_several_pictures_show_the_first(tmp_path: Path) -> None:
    """As telephones write them, with a depth map or a thumbnail behind the photograph."""
    first, second = (Image.fromarray(pixels) for pixels in (waves(), waves()[::-1].copy()))
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=100)
    assert np.abs(seen(tmp_path, data, "a.jpg") - waves()).max() <= 40


# --- more ----------------------------------------------------------------------------------------


def test_of_animations_the_first_frame_is_read(tmp_path: Path) -> None:
    colours = [(10, 200, 30), (250, 0, 250)]
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in colours]
    for name, kind in (("a.png", "GIF"), ("b.png", "PNG"), ("c.webp", "WEBP")):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (seen(tmp_path, data, name) == colours[0]).all(), kind
        if kind == "GIF":
            assert (decode_gif(as_tensor(data))[0].permute(1, 2, 0).numpy() == colours[0]).all()


def test_colour_profiles_change_no_pixel(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = saved(Image.fromarray(waves()), icc_profile=profile)
    assert b"iCCP" in data
    assert np.array_equal(by_libpng(data), waves())
    assert np.array_equal(seen(tmp_path, data), waves())


def test_bmp_files_under_another_name(tmp_path: Path) -> None:
    assert np.array_equal(seen(tmp_path, saved(Image.fromarray(waves()), "BMP")), waves())
