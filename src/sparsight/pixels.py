"""Converts an image of any kind to 8-bit RGB as a model takes it.

Rules, in the order they are applied:

- Of an animation, or a file of several pages, the current frame is taken: in a file, the first. A
  warning says so.
- EXIF orientation is applied.
- Greys of more than 8 bits are scaled by their range: 16 bits by 65535, the 12 bits of a TIFF by
  4095. Pillow's modes "I" and "F" do not say their range. They are scaled by the least of 1, 255
  and 65535 that holds all values; negative, larger or non-finite values are refused.
- An ICC profile is converted to sRGB. A profile that cannot be converted is ignored, and a warning
  says so.
- Transparent pixels are composed over white.

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
RANGES = (1, 255, 65535)  # the values that may stand for white where a mode does not say it
SCALED_TO_16_BITS = ("PNG", "PPM")  # formats of which Pillow scales mode "I" to 0 ... 65535
PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by the colour space of a profile
# which modes of a profile fit an image of a mode; for all other modes: RGB
FITTING_PROFILES = {"1": ("L", "RGB"), "L": ("L", "RGB"), "CMYK": ("CMYK",)}
CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
BITS, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0  # value of PHOTOMETRIC
ORIENTATION = 0x0112  # tag of EXIF
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
    """Return a new image: in RGB, upright, composed over white.

    Args:
        image: a Pillow image of any mode; or a NumPy array, (H, W) or (H, W, C) with C of 1 (grey),
            2 (grey, alpha), 3 (RGB) or 4 (RGBA). An array is uint8, uint16 or bool, or holds other
            numbers from 0 to 1, 0 to 255 or 0 to 65535, the same range for colours and alpha.
        name: what an error calls the image.

    Raises:
        InputError: the image is of another type, has no pixels, is broken, or holds values of no
            known range; or its alpha channel has another range than its colours.
    """
    if isinstance(image, np.ndarray):
        image = _convert_array(image, name)
    if not isinstance(image, Image.Image):
        raise InputError(
            f"{name} is of type {type(image).__name__}; "
            "give a Pillow image, a path, or a NumPy array (H, W, channels)."
        )
    if not image.width or not image.height:
        raise InputError(f"{name} has no pixels: {image.width} x {image.height}.")
    try:
        return _convert(image, name)
    except InputError:
        raise
    except BROKEN_FILE as error:
        raise InputError(f"{name} cannot be read as an image: {_format_error(error)}.") from error


def _format_error(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _convert(image: Image.Image, name: str) -> Image.Image:
    _warn_of_frames(image, name)
    profile = image.info.get("icc_profile")
    deep_grey = image.mode.startswith("I") or image.mode == "F"
    eight_bit = _scale_grey(image, name) if deep_grey else _move_to_alpha(image)
    # Read only after the pixels: Pillow turns a TIFF, and drops its tag, while it reads them.
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    if eight_bit.mode in ("LA", "RGBA"):
        alpha = eight_bit.getchannel("A")
        colours = eight_bit.convert(eight_bit.mode[:-1])
    else:
        alpha = None
        colours = eight_bit
    rgb = _convert_to_srgb(colours, profile, name) if profile else colours.convert("RGB")
    # A new image holds no profile or orientation that somebody could apply a second time.
    result = Image.new("RGB", rgb.size, WHITE)
    result.paste(rgb, mask=alpha)
    return result if turn is None else result.transpose(turn)


def _warn_of_frames(image: Image.Image, name: str) -> None:
    """Warn that one frame of several is shown.

    The views of an MPO photograph and the layers of a PSD drawing count as one image.
    """
    several = getattr(image, "is_animated", False) and image.format not in ("MPO", "PSD")
    if several and image.tell() == 0:
        kind = "pages" if image.format == "TIFF" else "frames"
        warnings.warn(
            f"{name} has several {kind}; only the first is shown.", InputWarning, stacklevel=4
        )


def _scale_grey(image: Image.Image, name: str) -> Image.Image:
    """Return greys of more than 8 bits as 8 bits; LA where a PNG declares one grey transparent."""
    values = np.asarray(image)
    scaled = Image.fromarray(_scale(values, _find_white(image, values, name)), "L")
    if _read_tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = ImageOps.invert(scaled)
    transparent = image.info.get("transparency")
    if transparent is not None:
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        scaled.putalpha(Image.fromarray(alpha, "L"))
    return scaled


def _find_white(image: Image.Image, values: Pixels, name: str) -> int:
    """Return the value that stands for white in an image of greys."""
    if image.mode.startswith("I;16"):
        bits = _read_tag(image, BITS)
        return 65535 if bits is None else 2 ** int(bits) - 1
    if image.mode == "I" and image.format in SCALED_TO_16_BITS:
        return 65535
    return _find_range(values, f'{name}, of mode "{image.mode}",')


def _find_range(values: Pixels, name: str) -> int:
    """Return the upper end of the least known range that holds all values."""
    low = values.min()
    high = values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            f"{name} holds values that are no numbers (NaN or infinite); replace them first."
        )
    for white in RANGES:
        if low >= 0 and high <= white:
            return white
    raise InputError(
        f"{name} holds values from {low:g} to {high:g}; "
        "0 to 1, 0 to 255 and 0 to 65535 are known, so scale it first."
    )


def _find_common_range(values: Pixels, name: str) -> int:
    """Return the upper end of the least known range that holds all channels of (H, W, C).

    Raises:
        InputError: there is none, or colours and alpha have different ranges.
    """
    white = _find_range(values, name)
    if values.shape[2] not in (2, 4):
        return white
    ranges = []
    for part in (values[:, :, :-1], values[:, :, -1]):
        # a part of zeros fits every range
        ranges.append(_find_range(part, name) if part.any() else white)
    colours, alpha = ranges
    if colours != alpha:
        raise InputError(
            f"{name} holds colours of 0 to {colours} and an alpha channel of 0 to {alpha}; "
            "scale them alike, or give uint8 or uint16."
        )
    return white


def _scale(values: Pixels, white: int) -> Pixels:
    """Return values of 0 to `white` as uint8, rounded."""
    if values.dtype.kind == "f":
        return np.rint(values * (255 / white)).astype(np.uint8)
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _read_tag(image: Image.Image, number: int) -> Any:
    """Return a tag of a TIFF; None where there is none, or where the image is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _move_to_alpha(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits; any transparency in it becomes the alpha channel of LA or RGBA."""
    if image.mode == "La":
        return image.convert("LA")
    if image.mode == "LA" or not image.has_transparency_data:
        return image
    transparent = _scale_transparent_colour(image)
    if transparent is not None:
        image = image.copy()
        image.info["transparency"] = transparent
    return image.convert("RGBA")


def _scale_transparent_colour(image: Image.Image) -> Any:
    """Return the transparent colour in 8 bits where Pillow left it unscaled, else None."""
    colour = image.info.get("transparency")
    # Pillow reads a PNG's 16-bit colours in 8 bits, but not the transparent one of them.
    if isinstance(colour, tuple) and max(colour) > 255:
        return tuple(value >> 8 for value in colour)
    # Pillow scales greys of 2 and 4 bits to 8, but not the transparent one of them.
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0].args) if tiles else ""
    if isinstance(colour, int) and raw in ("L;2", "L;4"):
        return colour * (85 if raw == "L;2" else 17)
    return None


def _convert_to_srgb(image: Image.Image, data: bytes, name: str) -> Image.Image:
    """Return an image converted from its ICC profile to sRGB, in RGB."""
    if image.mode in ("LAB", "HSV"):  # these modes are defined without a profile
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if ImageCms.getProfileDescription(profile).startswith("sRGB"):
            return image.convert("RGB")
        space = profile.profile.xcolor_space.strip()
        mode = PROFILE_MODES.get(space)
        if mode not in FITTING_PROFILES.get(image.mode, ("RGB",)):
            raise ValueError(f"a profile of {space} in an image of {image.mode}")
        converted = ImageCms.profileToProfile(
            image if image.mode == mode else image.convert(mode),
            profile,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
        return cast("Image.Image", converted)  # None only with inPlace=True
    except (*BROKEN, ImageCms.PyCMSError, ImportError) as error:
        warnings.warn(
            f"{name}: its colour profile cannot be followed ({_format_error(error)}); "
            "its colours are taken as sRGB.",
            InputWarning,
            stacklevel=5,
        )
        return image.convert("RGB")


def _convert_array(values: Pixels, name: str) -> Image.Image:
    """Return a NumPy array as an image of 8 bits.

    Raises:
        InputError: the shape, the dtype or the range of values is none of an image.
    """
    pixels = values[:, :, None] if values.ndim == 2 else values  # (H, W, C)
    if pixels.ndim != 3 or pixels.shape[2] not in CHANNELS:
        raise InputError(
            f"{name} is an array of shape {values.shape}; "
            "give (H, W), or (H, W, C) with C of 1, 2, 3 or 4."
        )
    if values.dtype.kind not in "buif":
        raise InputError(
            f"{name} is an array of {values.dtype}; "
            "give uint8, uint16, bool or floating-point numbers."
        )
    if not values.size:
        raise InputError(f"{name} has no pixels: an array of shape {values.shape}.")
    if values.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * 255
    elif values.dtype == np.uint16:
        pixels = _scale(pixels, 65535)
    elif values.dtype != np.uint8:
        pixels = _scale(pixels, _find_common_range(pixels, f"{name}, an array of {values.dtype},"))
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))
