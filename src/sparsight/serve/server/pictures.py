"""Opens the images of a request under limits: PNG, JPEG, WebP and GIF, sizes before pixels."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image

from sparsight.errors import InputError
from sparsight.images import decode_data_url, is_data_url, name_source, open_image
from sparsight.serve.server.settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def is_remote(url: str) -> bool:
    """Return whether an image must be fetched."""
    return url[:8].lower().startswith(("http://", "https://"))


def check_urls(urls: Sequence[str], settings: Settings) -> None:
    """Check the number and the kind of URLs, before any image is read.

    Raises: InputError: there are too many, or one is no data: URL and none that may be fetched.
    """
    most = settings.limits.images
    if len(urls) > most:
        raise InputError(f"the request has {len(urls)} images; {most} are allowed.")
    for number, url in enumerate(urls, 1):
        if is_data_url(url) or (is_remote(url) and settings.remote_images):
            continue
        what = "this server fetches no images" if is_remote(url) else "it is no such URL"
        raise InputError(f"image {number}: {what}; give data:image/png;base64,...")


def open_pictures(
    urls: Sequence[str], fetched: Mapping[str, bytes], settings: Settings
) -> list[Image.Image]:
    """Return the images in RGB.

    Args:
        urls: of the images, checked by `check_urls`.
        fetched: bytes of remote images, by URL.
        settings: of the server.

    Raises:
        InputError: an image is broken or of another format, or all together have too many pixels.
    """
    left = settings.limits.pixels
    pictures = []
    for number, url in enumerate(urls, 1):
        name = f"image {number}"
        data = fetched[url] if url in fetched else decode_data_url(url, name_source(url))
        picture = open_image(io.BytesIO(data), name, formats=FORMATS, most_pixels=left)
        left -= picture.width * picture.height
        pictures.append(picture)
    return pictures
