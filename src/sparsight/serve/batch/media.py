"""Opens what a row names: an image, a page of a PDF (pypdfium2) or frames of a video.

`doc.pdf#page=3` names a page, counted from 1; a document of one page needs no number. Frames of a
video are shown as images.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from sparsight.errors import InputError, SparsightError
from sparsight.images import MOST_PIXELS, find_source_file, read_image
from sparsight.needs import load_package
from sparsight.pixels import to_rgb
from sparsight.videos import is_video, read_clip

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PAGE = re.compile(r"(?P<file>.*\.pdf)(#page=(?P<number>[1-9]\d{0,8}))?", re.IGNORECASE | re.DOTALL)
SCALE = 2.0  # pixels for each point, of which an inch has 72


class Page(NamedTuple):
    """A page of a PDF: its file, and its number from 1, or None for the only one."""

    file: str
    number: int | None


def find_page(name: str) -> Page | None:
    """Return the page that an image's name stands for; None where it names no PDF."""
    found = None if name.startswith("data:") else PAGE.fullmatch(name)
    if found is None:
        return None
    number = found["number"]
    return Page(found["file"], None if number is None else int(number))


def open_media(source: str, frames: int) -> list[Image.Image]:
    """Return what is shown of an image, page or video: RGB images.

    Args:
        source: its path or URL.
        frames: shown of a video, at most.

    Raises:
        InputError: it is missing, broken or too large.
        UnsupportedError: the package that reads it is not installed.
    """
    page = find_page(source)
    if page is not None:
        return [_read_page(page)]
    if is_video(source):
        return read_clip(source, frames).images
    return [read_image(source)]


def _find_file(source: str) -> Path:
    path = find_source_file(source)
    try:
        if path is None or not path.is_file():
            raise InputError(f"{source}: no such file.")
    except InputError:  # which is a ValueError too
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{source[:40]}: cannot be looked up: {error}.") from None
    return path


def count_pages(name: str, folder: Path) -> list[str]:
    """Return the names of all pages of a PDF in a folder; the file's own if it cannot be read.

    Raises: UnsupportedError: pypdfium2 is not installed.
    """
    load_package("pypdfium2", name)
    try:
        document = _open_pdf(str(folder / name))
    except SparsightError:
        return [name]  # the row says why
    try:
        return [f"{name}#page={number}" for number in range(1, len(document) + 1)] or [name]
    finally:
        document.close()


def _open_pdf(file: str) -> Any:
    pdf = load_package("pypdfium2", file)
    path = _find_file(file)
    try:
        return pdf.PdfDocument(path)
    except pdf.PdfiumError as error:
        raise InputError(f"{file} cannot be read as a PDF: {str(error).rstrip('.')}.") from error


def _read_page(page: Page) -> Image.Image:
    pdf = load_package("pypdfium2", page.file)
    document = _open_pdf(page.file)
    try:
        count = len(document)
        if page.number is None and count != 1:
            raise InputError(
                f"{page.file} has {count} pages; name one of them, as {page.file}#page=1."
            )
        number = page.number or 1
        if number > count:
            raise InputError(f"{page.file} has {count} pages, and no page {number}.")
        return _draw_page(document[number - 1], f"{page.file}#page={number}")
    except pdf.PdfiumError as error:
        raise InputError(f"{page.file} cannot be drawn: {str(error).rstrip('.')}.") from error
    finally:
        document.close()


def _draw_page(page: Any, name: str) -> Image.Image:
    width, height = page.get_size()
    _check_size(round(width * SCALE), round(height * SCALE), name)
    return to_rgb(page.render(scale=SCALE).to_pil(), name)


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{name} is too large: {width} x {height} pixels; "
            f"{MOST_PIXELS / 10**6:.6g} million are allowed."
        )
