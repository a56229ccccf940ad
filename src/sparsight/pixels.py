"""From an image of any kind to 8-bit RGB as a model takes it: depth, transparency, colour profile, turn and frame.

Rules, in the order they are applied:

- An animation, or a file of several pages, shows the frame that is open, the first one in a file; a
warning says so.
- EXIF orientation is applied.
- Greys of more than 8 bits are scaled from their own range: 16 bits by 65535, the 12 bits of a TIFF
by 4095. Modes "I"
  and "F" say no range: 0 to 1, 0 to 255 or 0 to 65535, the least of these that holds all values;
  any other is refused.
- An ICC profile is followed into sRGB; one that cannot be followed is left out, and a warning says
so.
- What is transparent stands before white.

Private details of Pillow touched here: `tile`, whose raw mode says how many bits a PNG's samples
had.
"""

import io
import struct
import warnings
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps

from sparsight.errors import InputError, InputWarning

WHITE = (255, 255, 255)
RANGES = (1, 255, 65535)  # what white may be where a mode does not say
WHITE_IN = {
    "PNG": 65535,
    "PPM": 65535,
}  # formats that Pillow opens in mode "I" with values scaled to 16 bits
PROFILES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the mode of what a profile speaks of
TAKES = {
    "1": ("L", "RGB"),
    "L": ("L", "RGB"),
    "CMYK": ("CMYK",),
}  # profiles that fit a mode; all others: RGB
CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's readers raise on broken files
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    MemoryError,
)
BROKEN_FILE = (*BROKEN, AttributeError, struct.error)

Pixels = np.ndarray[Any, np.dtype[Any]]


def to_rgb(image: Any, name: str = "the image") -> Image.Image:
    """Return an image in RGB, upright, on white, as a new one.

    Args:
        image: of Pillow, in any mode; or a NumPy array, (H, W) or (H, W, C) with C of 1 (grey), 2
            (grey, alpha), 3 (RGB) or 4 (RGBA), uint8, uint16, bool, or other numbers of 0 to 1, 0
            to 255 or 0 to 65535, alpha too.
        name: what an error calls it.
    Raises: InputError: it is neither, has no pixels, is broken, or holds values of no known range,
    or its alpha channel
        values of another range than its colours.
    """
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"{name} is of type {type(image).__name__}; give a Pillow image, a path, or a NumPy array (H, W, channels)."
        )
    if not image.width or not image.height:
        raise InputError(f"{name} has no pixels: {image.width} x {image.height}.")
    try:
        return _converted(image, name)
    except InputError:
        raise
    except BROKEN_FILE as error:
        raise InputError(f"{name} cannot be read as an image: {_sentence(error)}.") from error


def _sentence(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _converted(image: Image.Image, name: str) -> Image.Image:
    _note_frames(image, name)
    profile = image.info.get("icc_profile")
    grey = image.mode.startswith("I") or image.mode == "F"
    eight = _grey(image, name) if grey else _with_alpha(image)
    turn = TURNS.get(
        image.getexif().get(ORIENTATION, 1)
    )  # read after the pixels: a TIFF is turned while it is read
    alpha = eight.getchannel("A") if eight.mode in ("LA", "RGBA") else None
    colours = eight if alpha is None else eight.convert(eight.mode[:-1])
    rgb = _in_srgb(colours, profile, name) if profile else colours.convert("RGB")
    whole = Image.new(
        "RGB", rgb.size, WHITE
    )  # a new image keeps no profile or turn that could be applied again
    whole.paste(rgb, mask=alpha)
    return whole if turn is None else whole.transpose(turn)


def _note_frames(image: Image.Image, name: str) -> None:
    """Say that one frame of several is shown; the views of a photograph and layers of a drawing are no frames."""
    if (
        getattr(image, "is_animated", False)
        and image.format not in ("MPO", "PSD")
        and image.tell() == 0
    ):
        kind = "pages" if image.format == "TIFF" else "frames"
        warnings.warn(
            f"{name} has several {kind}; only the first is shown.", InputWarning, stacklevel=4
        )


def _grey(image: Image.Image, name: str) -> Image.Image:
    """Scale greys of more than 8 bits to 8, with the transparency that a PNG gives one of them."""
    values = np.asarray(image)
    scaled = Image.fromarray(_scaled(values, _white(image, values, name)), "L")
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = ImageOps.invert(scaled)
    key = image.info.get("transparency")
    if key is not None:
        scaled.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8), "L"))
    return scaled


def _white(image: Image.Image, values: Pixels, name: str) -> int:
    """Return the value that stands for white."""
    if image.mode.startswith("I;16"):
        bits = _tag(image, BITS)
        return 65535 if bits is None else 2 ** int(bits) - 1
    known = WHITE_IN.get(image.format or "") if image.mode == "I" else None
    return known or _range(values, f'{name}, of mode "{image.mode}",')


def _range(values: Pixels, name: str) -> int:
    """Return the least known range that holds all values."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            f"{name} holds values that are no numbers (NaN or infinite); replace them first."
        )
    for white in RANGES:
        if low >= 0 and high <= white:
            return white
    raise InputError(
        f"{name} holds values from {low:g} to {high:g}; 0 to 1, 0 to 255 and 0 to 65535 are known, so scale it first."
    )


def _range_of_all(values: Pixels, name: str) -> int:
    """Return the least known range that holds all channels.

    Raises: InputError: there is none, or the colours lie in another one than the alpha channel.
    """
    white = _range(values, name)
    if values.shape[2] in (2, 4):
        parts = values[:, :, :-1], values[:, :, -1]
        colours, alpha = (
            _range(part, name) if part.any() else white for part in parts
        )  # 0 is 0 in each of them
        if colours != alpha:
            raise InputError(
                f"{name} holds colours of 0 to {colours} and an alpha channel of 0 to {alpha}; scale them alike, or "
                "give uint8 or uint16."
            )
    return white


def _scaled(values: Pixels, white: int) -> Pixels:
    """Scale values of 0 to `white` to uint8, rounded."""
    if values.dtype.kind == "f":
        return np.rint(values * (255 / white)).astype(np.uint8)
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _tag(image: Image.Image, number: int) -> Any:
    """Return a tag of a TIFF, None if it has none or is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _with_alpha(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits; what is transparent in it, by whatever means, is an alpha channel of LA or RGBA."""
    if image.mode == "La":
        return image.convert("LA")
    if image.mode == "LA" or not image.has_transparency_data:
        return image
    key, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    raw = str(tiles[0].args) if tiles else ""
    if (
        isinstance(key, tuple) and max(key) > 255
    ):  # Pillow reads 16-bit colours in 8 bits, but not the transparent one
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and raw in (
        "L;2",
        "L;4",
    ):  # nor does it scale the transparent one of few greys
        image = image.copy()
        image.info["transparency"] = key * (85 if raw == "L;2" else 17)
    return image.convert("RGBA")


def _in_srgb(image: Image.Image, data: bytes, name: str) -> Image.Image:
    """Follow an ICC profile into sRGB."""
    if image.mode in ("LAB", "HSV"):  # they are defined without one
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return image.convert("RGB")
        space = profile.profile.xcolor_space.strip()
        wanted = PROFILES.get(space)
        if wanted not in TAKES.get(image.mode, ("RGB",)):
            raise ValueError(f"a profile of {space} in an image of {image.mode}")
        converted = ImageCms.profileToProfile(
            image if image.mode == wanted else image.convert(wanted),
            profile,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
        return cast("Image.Image", converted)  # a new one, as `inPlace` is not asked for
    except (*BROKEN, ImageCms.PyCMSError, ImportError) as error:
        warnings.warn(
            f"{name}: its colour profile cannot be followed ({_sentence(error)}); its colours are taken as sRGB.",
            InputWarning,
            stacklevel=5,
        )
        return image.convert("RGB")


def _from_array(values: Pixels, name: str) -> Image.Image:
    """Make an image of an array.

    Raises: InputError: its shape, type or range of values is none of an image.
    """
    shaped = values[:, :, None] if values.ndim == 2 else values
    if shaped.ndim != 3 or shaped.shape[2] not in CHANNELS:
        raise InputError(
            f"{name} is an array of shape {values.shape}; give (H, W), or (H, W, C) with C of 1, 2, 3 or 4."
        )
    if values.dtype.kind not in "buif":
        raise InputError(
            f"{name} is an array of {values.dtype}; give uint8, uint16, bool or floating-point numbers."
        )
    if not values.size:
        raise InputError(f"{name} has no pixels: an array of shape {values.shape}.")
    if values.dtype == np.uint8:
        pixels = shaped
    elif values.dtype.kind == "b":
        pixels = shaped.astype(np.uint8) * 255
    else:
        white = (
            65535
            if values.dtype == np.uint16
            else _range_of_all(shaped, f"{name}, an array of {values.dtype},")
        )
        pixels = _scaled(shaped, white)
    mode = CHANNELS[shaped.shape[2]]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels))
