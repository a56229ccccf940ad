"""Reading images: paths, URLs of files and of data, and what a caller hands over."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.errors import InputError
from sparsight.inputs import MOST_PIXELS, read_image, rgb_images
from sparsight.pixels import to_rgb
from tests.support import tiny

QUESTION = "what color is the shape ?"
RED = (255, 0, 0)
BOS = 1


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red photo.png"
    Image.new("RGB", (3, 2), RED).save(path)
    return path


def embedded_in_url(path, kind="image/png", end=None):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()[:end]).decode()}"


def squares(count):
    return [Image.new("RGB", (tiny.SIDE, tiny.SIDE), RED)] * count


def test_turns_images_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("L", (40, 20)).save(path, exif=exif)
    image = read_image(path)
    assert image.size == (20, 40)
    assert image.mode == "RGB"


def test_paths_and_urls_of_files(red, monkeypatch):
    monkeypatch.setenv("HOME", str(red.parent))
    (red.parent / "~odd.png").write_bytes(red.read_bytes())
    monkeypatch.chdir(red.parent)
    sources = [red, str(red), red.as_uri(), f"file://localhost{red}", "~/red photo.png", "~odd.png"]
    sources += [
        embedded_in_url(red),
        embedded_in_url(red, "IMAGE/PNG;name=x").replace("data", "DATA"),
    ]
    sources += ["data:image/png;base64," + embedded_in_url(red).split(",")[1].replace("=", "%3D")]
    for source in sources:
        assert read_image(source).getpixel((0, 0)) == RED, source


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (
            "https://example.org/a.png",
            "https://example.org/a.png is a URL.*fetches nothing; download",
        ),
        (Path("https://example.org/a.png"), "is a URL"),
        ("HTTP://example.org/a.png", "is a URL"),
        ("s3://bucket/a.png", "is a URL"),
        ("file://elsewhere/a.png", "on another machine"),
        ("file:///nowhere/a.png", "no such file"),
        ("~nobodyatall/a.png", "no such user"),
        ("data:image/png,raw", "no image in base64"),
        ("data:text/plain;base64,YQ==", "no image in base64"),
        ("data:image/png;base64,YQ", "no base64"),
        (
            "data:image/png;base64,YWJj" + "YWJj" * 50,
            r"^data:image/png;base64,.{18}\.\.\. \(226 char.*format is not known",
        ),
        ("data:image/png;base64,", "format is not known"),
        ("a" * 300 + ".png", "cannot be looked up: File name too long"),
        ("a\0b.png", "cannot be looked up: embedded null byte"),
        ("", "the path of an image is empty"),
        (".", "is a folder"),
        ("/dev/null", "no regular file"),
    ],
)
def test_sources_that_hold_no_image_are_refused(source, part):
    with pytest.raises(InputError, match=part):
        read_image(source)


def test_size_limits_hold_for_embedded_images(tmp_path):
    path = tmp_path / "huge.png"
    image = Image.new("1", (8000, 8000))
    image.save(path)
    assert image.width * image.height > MOST_PIXELS
    with pytest.raises(InputError, match="too large: 8000 x 8000"):
        read_image(embedded_in_url(path))


def test_cut_off_and_programmed_images_are_refused(tmp_path):
    Image.effect_noise((60, 60), 90).save(tmp_path / "noise.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(embedded_in_url(tmp_path / "noise.png", end=900))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(InputError, match="PostScript program"):
        read_image(tmp_path / "a.eps")


def test_images_of_a_caller(red):
    dark = Image.fromarray(np.full((2, 3), 25700, np.uint16))
    assert [
        image.getpixel((0, 0)) for image in rgb_images([red, str(red), dark, np.asarray(dark)])
    ] == [
        RED,
        RED,
        (100, 100, 100),
        (100, 100, 100),
    ]
    for one in (dark, red, str(red), np.zeros((2, 3), np.uint8)):
        assert len(rgb_images(one)) == 1
    assert rgb_images(None) == rgb_images(()) == []
    assert len(rgb_images(iter(squares(2)))) == 2


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (torch.zeros(3, 4, 4), "images is of type Tensor"),
        (7, "images is of type int"),
        ({"a": 1}, "images is of type dict; give one image or a list"),
        (b"abc", "images is of type bytes; give one image or a list"),
        (bytearray(3), "images is of type bytearray"),
        (io.BytesIO(b"abc"), "images is of type BytesIO"),
        ({"a.png"}, "images is of type set"),
        ("", "the path of an image is empty"),
        (["a" * 300], "File name too long"),
        ([None], "image 1 is of type NoneType"),
        ([*squares(1), torch.zeros(3, 4, 4)], "image 2 is of type Tensor"),
    ],
)
def test_what_is_no_image_is_refused(given, part):
    with pytest.raises(InputError, match=part):
        rgb_images(given)


def test_broken_images_are_refused():
    file = io.BytesIO()
    Image.effect_noise((60, 60), 90).save(file, "PNG")
    with pytest.raises(InputError, match="photo cannot be read as an image"):
        to_rgb(Image.open(io.BytesIO(file.getvalue()[:900])), "photo")
    closed = Image.open(io.BytesIO(file.getvalue()))
    closed.close()
    with warnings.catch_warnings(), pytest.raises(InputError, match="cannot be read"):
        to_rgb(closed)
