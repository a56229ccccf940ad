"""From every kind of image to RGB: the pixel values that a model sees."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from sparsight.errors import InputError, InputWarning
from sparsight.pixels import to_rgb

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def pixels(image):
    """The pixels of an image once converted, row by row."""
    found = to_rgb(image)
    assert (found.mode, found.info) == ("RGB", {})
    return [tuple(pixel) for row in np.asarray(found).tolist() for pixel in row]


def greys(image):
    found = pixels(image)
    assert all(r == g == b for r, g, b in found)
    return [pixel[0] for pixel in found]


def stored(image, kind, **options):
    """An image as it comes back from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def png(width, depth, colour, data, *chunks):
    """A PNG of one row, byte by byte: what Pillow cannot write."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + data)) + chunk(b"IEND", b"")
    parts = b"".join(chunk(*pair) for pair in chunks)
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + parts + body))


def tiff(bits, photometric, kind, data, width=2):
    """A TIFF of one row of greys; `kind` is 1 for unsigned, 2 for signed, 3 for floating point."""
    tags = {
        256: width,
        257: 1,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 1,
        279: len(data),
        339: kind,
    }
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return Image.open(io.BytesIO(head + struct.pack("<H", len(tags)) + table + bytes(4)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_16_bits(kind):
    image = stored(Image.fromarray(np.array([[0, 257, 20000, 65535]], dtype=np.uint16)), kind)
    assert image.mode == "I;16"
    assert greys(image) == [0, 1, 78, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bits_in_memory(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), 0x8000)
    assert greys(image) == [0, 128]


def test_other_depths_of_tiff():
    assert greys(tiff(12, 1, 1, bytes([0x12, 0x3F, 0xFF]))) == [round(0x123 / 4095 * 255), 255]
    assert greys(tiff(16, 0, 1, struct.pack("<HH", 0, 60000))) == [255, 255 - 233]  # white is zero
    assert greys(tiff(8, 0, 1, bytes([0, 200]))) == [255, 55]
    assert greys(tiff(32, 0, 3, struct.pack("<ff", 0, 1))) == [255, 0]
    assert greys(tiff(16, 1, 2, struct.pack("<hh", 0, 30000))) == [0, 117]
    with pytest.raises(InputError, match="from -5 to 30000"):
        to_rgb(tiff(16, 1, 2, struct.pack("<hh", -5, 30000)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 99.6, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
    ],
)
@pytest.mark.parametrize("kind", ["F", "array", "TIFF"])
def test_floats_by_their_range(kind, given, expected):
    values = np.array([given], dtype=np.float32)
    image = values if kind == "array" else Image.fromarray(values)
    assert greys(stored(image, "TIFF") if kind == "TIFF" else image) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [([0, 1], [0, 255]), ([0, 9, 255], [0, 9, 255]), ([300, 65535], [1, 255])],
)
def test_integers_by_their_range(given, expected):
    values = np.array([given], dtype=np.int32)
    assert greys(Image.fromarray(values)) == expected
    assert greys(stored(Image.fromarray(values), "TIFF")) == expected
    assert greys(values.astype(np.int64)) == expected


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([-1.0, 1.0], "from -1 to 1"),
        ([0.0, 70000.0], "from 0 to 70000"),
        ([0.0, np.nan], "NaN"),
        ([np.inf, 0], "NaN"),
    ],
)
def test_values_of_no_known_range_are_refused(given, part):
    with pytest.raises(InputError, match=f'the image, of mode "F", holds values.*{part}'):
        to_rgb(Image.fromarray(np.array([given], dtype=np.float32)))


def test_formats_that_scale_to_16_bits_say_their_range():
    dark = Image.open(io.BytesIO(b"P5 2 1 65535\n" + struct.pack(">HH", 100, 200)))
    assert greys(dark) == [0, 1]
    assert greys(Image.open(io.BytesIO(b"P5 2 1 4095\n" + struct.pack(">HH", 0, 4095)))) == [0, 255]
    assert greys(Image.open(io.BytesIO(b"Pf 2 1 -1.0\n" + struct.pack("<ff", 0.5, 1)))) == [
        128,
        255,
    ]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (200, 0, 0, 0), WHITE),
        ("RGBA", (200, 0, 100, 51), (244, 204, 224)),
        ("RGBa", (40, 0, 20, 51), (244, 204, 224)),
        ("LA", (100, 0), WHITE),
        ("LA", (100, 255), (100, 100, 100)),
        ("La", (20, 51), (224, 224, 224)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
    ],
)
def test_modes(mode, value, expected):
    assert pixels(Image.new(mode, (1, 1), value)) == [expected]


def test_lab():
    found = [
        pixels(Image.new("LAB", (1, 1), value))[0] for value in ((255, 128, 128), (128, 188, 128))
    ]
    assert np.abs(np.array(found) - [WHITE, (206, 63, 122)]).max() <= 2


def test_palettes():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    assert pixels(image) == [(10, 20, 30), (200, 0, 0)]
    assert pixels(stored(image, "PNG", transparency=1)) == [(10, 20, 30), WHITE]
    assert pixels(stored(image, "PNG", transparency=bytes([51, 255]))) == [
        (206, 208, 210),
        (200, 0, 0),
    ]
    assert pixels(stored(image, "GIF", transparency=0)) == [WHITE, (200, 0, 0)]
    both = image.convert("PA")
    both.putalpha(Image.fromarray(np.array([[0, 255]], dtype=np.uint8)))
    assert pixels(both) == [WHITE, (200, 0, 0)]


@pytest.mark.parametrize(
    ("depth", "colour", "data", "key", "expected"),
    [
        (1, 0, b"\x40", b"\0\1", [BLACK, WHITE]),
        (1, 0, b"\x40", b"\0\0", [WHITE, WHITE]),
        (2, 0, b"\x18", b"\0\1", [BLACK, WHITE]),  # samples 0, 1
        (4, 0, b"\x25", b"\0\2", [WHITE, (85, 85, 85)]),
        (8, 0, b"\x10\x20", b"\0\x10", [WHITE, (32, 32, 32)]),
        (16, 0, b"\x10\x00\x10\x01", b"\x10\x01", [(16, 16, 16), WHITE]),
        (8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3", [WHITE, (4, 5, 6)]),
        (16, 2, b"\1\0\2\0\3\0\4\0\5\0\6\0", b"\4\0\5\0\6\0", [(1, 2, 3), WHITE]),
        (16, 4, b"\1\0\0\0\2\0\xff\xff", None, [WHITE, (2, 2, 2)]),
    ],
)
def test_transparent_colours_of_png(depth, colour, data, key, expected):
    image = png(2, depth, colour, data, *([] if key is None else [(b"tRNS", key)]))
    before = dict(image.info)
    assert pixels(image) == expected
    assert image.info == before


def test_cmyk_jpeg_is_not_inverted():
    (found,) = set(pixels(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)))
    assert found[0] > 250
    assert max(found[1:]) < 5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_shown_and_said(kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    image = stored(first, kind, save_all=True, append_images=[second], lossless=True)
    with pytest.warns(InputWarning, match=r"photo has several (frames|pages); only the first"):
        assert to_rgb(image, "photo").getpixel((0, 0)) == (255, 0, 0)
    image.seek(1)
    assert pixels(image)[0] == (0, 0, 255)  # a frame that the caller chose


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "RGBA", "P"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(mode, turn):
    values = np.arange(6).reshape(2, 3) * 40
    image = Image.fromarray(values.astype(np.uint8)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray((values * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: values[::-1].T,
        7: values[::-1, ::-1].T,
        8: values.T[::-1],
    }[turn]
    turned = to_rgb(stored(image, "PNG", exif=exif))
    assert np.asarray(turned)[:, :, 0].tolist() == upright.tolist()
    assert np.array_equal(np.asarray(to_rgb(turned)), np.asarray(turned))  # not turned twice


def wide_gamut():
    """A profile whose red and green have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = data.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    start = data.find(b"s\0R\0G\0B")
    return bytes(data if start < 0 else data[:start] + b"t" + data[start + 1 :])


def test_profiles_are_followed():
    image = stored(Image.new("RGB", (1, 1), (255, 0, 0)), "PNG", icc_profile=wide_gamut())
    (red, green, blue) = pixels(image)[0]
    assert green > 250
    assert max(red, blue) < 5
    clear = stored(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "PNG", icc_profile=wide_gamut())
    assert pixels(clear) == [WHITE]
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert pixels(stored(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", icc_profile=plain)) == [
        (9, 8, 7)
    ]


@pytest.mark.parametrize(("mode", "profile"), [("RGB", b"no profile"), ("CMYK", wide_gamut())])
def test_profiles_that_cannot_be_followed_are_said(mode, profile):
    image = Image.new(mode, (1, 1))
    image.info["icc_profile"] = profile
    with pytest.warns(InputWarning, match="its colour profile cannot be followed"):
        assert to_rgb(image).getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0))


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 3), (1, 2, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(shape, kind):
    values = np.full(shape, 1.0)
    values[0, 0, ...] = 0.2
    if shape[2:] in ((2,), (4,)):
        values[..., -1] = 1
    most = {np.uint8: 255, np.uint16: 65535}.get(kind, 1)
    assert greys((values * most).astype(kind)) == [51, 255]


def test_arrays_of_marks():
    assert greys(np.array([[True, False]])) == [255, 0]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); give \(H, W\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((0, 8), np.uint8), "no pixels"),
        (np.zeros((2, 2), np.complex64), "an array of complex64"),
        (np.full((2, 2), 70000), "from 70000 to 70000"),
        (Image.new("RGB", (0, 5)), "no pixels: 0 x 5"),
        (torch.zeros(3, 8, 8), "of type Tensor; give a Pillow image"),
        (b"bytes", "of type bytes"),
        (None, "of type NoneType"),
    ],
)
def test_what_is_no_image_is_refused(given, part):
    with pytest.raises(InputError, match=part):
        to_rgb(given)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "F", "CMYK", "LA"])
def test_the_image_given_is_not_changed(mode):
    image = Image.new(mode, (2, 1))
    exif = image.getexif()
    exif[0x0112] = 6
    before = image.copy(), dict(image.info), dict(exif)
    found = to_rgb(image)
    found.putpixel((0, 0), (1, 2, 3))
    assert (image, image.info, dict(image.getexif())) == before
