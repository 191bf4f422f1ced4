"""Image files that declare another size than they have."""

import io
import struct
import zlib

from PIL import Image


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG that declares a size, with so many rows of black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(rows * (3 * width + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(buffer, kind)
    return buffer.getvalue()


def lying_jpeg(width: int, height: int) -> bytes:
    """A JPEG of 64 x 48 pixels that declares another size in its frame header."""
    data = bytearray(saved("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def lying_webp(width: int, height: int) -> bytes:
    """A WebP of 64 x 48 pixels that declares another size on its canvas."""
    inner = saved("WEBP")[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + inner
    return b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended
