"""Image files for `serve_hostile`: right ones, and small ones that grow large when decoded."""

import base64
import io
import struct
import zlib

from PIL import Image


def data_url(data: bytes) -> str:
    """Return a data: URL of an image file."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def make_files() -> list[bytes]:
    """Return an image in each format."""
    image = Image.effect_noise((64, 48), 90).convert("RGB")
    return [_encode(image, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def make_bombs() -> list[bytes]:
    """Return small files that grow large when they are decoded."""
    wide = Image.new("1", (12_000, 12_000))
    grey = Image.new("L", (9_000, 9_000))
    return [
        _encode(wide, "PNG"),
        _encode(grey, "PNG"),
        _encode(wide.resize((6_000, 6_000)), "GIF"),
        _encode(grey.resize((6_000, 6_000)).convert("RGB"), "JPEG"),
        make_png(9_000, 9_000, b"\x00" * 20_000_000),
        make_png(64, 64, b"\x00" * 20_000_000, text=b"\x00" * 100_000_000),
        make_png(50_000_000, 1, b"x"),
    ]


def make_png(width: int, height: int, pixels: bytes, text: bytes = b"") -> bytes:
    """Return a PNG of 8-bit grey, whatever its pixels are; a text is compressed into it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head)]
    if text:
        chunks.append((b"zTXt", b"k\x00\x00" + zlib.compress(text, 1)))
        chunks.append((b"iCCP", b"k\x00\x00" + zlib.compress(text, 1)))
    chunks += [(b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        check = struct.pack(">I", zlib.crc32(name + data))
        parts.append(struct.pack(">I", len(data)) + name + data + check)
    return b"".join(parts)
