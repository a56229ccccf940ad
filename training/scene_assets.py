"""Makes the pictures of scenes out of three public packages, and lists whose they are.

Run: python training/scene_assets.py --emoji package/assets --monuments explore_monuments.rcc
--textures skimage/data

The emoji are those of npm's @lobehub/fluent-emoji-3d 1.1.0 (MIT), the photographs those of Debian's
gcompris-qt-data 3.1-2 whose README says public domain or CC0, the textures three of scikit-image
0.26.0 (CC0). The pictures that come out ship with sparsight; this script is only needed to change
them.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from sparsight.evaluate.scenes.catalogue import ASSETS, BACKGROUND_SIZE, THINGS

CODES = Path(__file__).with_name("scene_emoji.json")
TEXTURES = ("brick", "grass", "gravel")
FREE = ("Public Domain", "CC0-1.0")
THING_SIZE = 128
_RECORD = 22  # bytes of a Qt resource tree record


def resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file in a Qt resource archive."""
    data = path.read_bytes()
    _, _, tree, content, names = struct.unpack_from(">4sIIII", data, 0)

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + _RECORD * index
        name_at, flags = struct.unpack_from(">IH", data, at)
        length = struct.unpack_from(">H", data, names + name_at)[0] if index else 0
        name = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{folder}{name}/")
            return
        start = content + struct.unpack_from(">I", data, at + 10)[0]
        size = struct.unpack_from(">I", data, start)[0]
        body = data[start + 4 : start + 4 + size]
        yield folder + name, zlib.decompress(body[4:]) if flags & 1 else body

    return walk(0, "")


def free_photos(readme: str) -> Iterator[dict[str, str]]:
    """Yield file, author, licence and source of every photograph that may be copied freely."""
    for block in readme.split("\n\n"):
        matches = [re.search(rf"{key}: (.*)", block) for key in ("Copyright", "License", "Source")]
        files = re.search(r"Files:\n(.*)", block, re.DOTALL)
        values = [match[1].strip() for match in matches if match]
        if files and len(values) == len(matches):
            author, licence, source = values
            if licence in FREE:
                yield from (
                    {"file": name, "author": author, "licence": licence, "source": source}
                    for name in files[1].split()
                    if name.endswith(".webp")
                )


def squared(image: Image.Image) -> Image.Image:
    """Return the middle square of an image, scaled to BACKGROUND_SIZE."""
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((BACKGROUND_SIZE, BACKGROUND_SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    """Write the pictures and `sources.json` beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--emoji", type=Path, required=True, help="folder `assets` of the npm package"
    )
    parser.add_argument("--monuments", type=Path, required=True, help="explore_monuments.rcc")
    parser.add_argument(
        "--textures", type=Path, required=True, help="folder `data` of scikit-image"
    )
    args = parser.parse_args()
    for folder in ("things", "backgrounds"):
        (ASSETS / folder).mkdir(parents=True, exist_ok=True)
    codes = json.loads(CODES.read_text(encoding="utf-8"))
    for thing in THINGS:
        image = Image.open(args.emoji / f"{codes[thing.name]}.webp").convert("RGBA")
        image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())
        image.thumbnail((THING_SIZE, THING_SIZE), Image.Resampling.LANCZOS)
        image.save(ASSETS / "things" / f"{thing.name}.webp", quality=90, method=6)
    files = dict(resources(args.monuments))
    readme = next(text for name, text in files.items() if name.endswith("/README")).decode("utf-8")
    sources = []
    for photo in free_photos(readme):
        body = next(
            (body for name, body in files.items() if name.endswith("/" + photo["file"])), None
        )
        if body is not None:
            name = Path(photo["file"]).stem.lower()
            squared(Image.open(io.BytesIO(body))).save(
                ASSETS / "backgrounds" / f"{name}.webp", quality=80, method=6
            )
            sources.append({**photo, "file": f"{name}.webp"})
    for name in TEXTURES:
        squared(Image.open(args.textures / f"{name}.png")).save(
            ASSETS / "backgrounds" / f"{name}.webp", quality=80, method=6
        )
        sources.append(
            {"file": f"{name}.webp", "author": "scikit-image", "licence": "CC0-1.0", "source": name}
        )
    (ASSETS / "sources.json").write_text(
        json.dumps(sources, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
