"""`sparsight ask` answers wrong inputs with one line on standard error and exit code 2."""

import base64
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsight.cli import ask as cli
from sparsight.cli.inputs import as_text, read_device
from sparsight.errors import InputError
from tests.cli.test_cli import QUESTION, refused, run
from tests.support import tiny_processor

HERE = "photo.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images and models, most of them wrong."""
    folder = tmp_path_factory.mktemp("place")
    noise = Image.effect_noise((60, 40), 90)
    noise.convert("RGB").save(folder / HERE)
    whole = (folder / HERE).read_bytes()
    (folder / "cut.png").write_bytes(whole[:900])
    (folder / "head.png").write_bytes(whole[:20])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "paper.pdf").write_bytes(b"%PDF-1.7\n")
    noise.convert("RGB").save(folder / "drawing.eps")
    noise.convert("RGB").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:300])
    Image.fromarray(np.array([[-1.0, 1.0]], np.float32)).save(folder / "signed.tif")
    Image.fromarray(np.array([[np.nan, 1.0]], np.float32)).save(folder / "nan.tif")
    Image.fromarray(np.array([[0, 2**31 - 1]], np.int32)).save(folder / "deep.tif")
    Image.new("1", (8000, 8000)).save(folder / "huge.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    tiny_processor.save(folder / "model")
    tiny_processor.save(folder / "blind", template="{{- 'what' -}}")
    (folder / "again.png").symlink_to(HERE)
    (folder / "folder.png").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"]})
    )
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    return folder


def data_url(body, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"


WRONG = [
    ([], "at least one image"),
    ([HERE], "at least one image"),
    ([QUESTION], "at least one image"),
    (["", QUESTION], "name of an image is empty"),
    ([HERE, ""], "question is empty"),
    ([HERE, " \t"], "question is empty"),
    ([HERE, HERE], "is a file; put the question behind"),
    ([HERE, "what", "is", "this"], "what: no such file"),
    ([QUESTION, HERE], "is a file; put the question behind"),
    (["nowhere.png", QUESTION], "nowhere.png: no such file"),
    (["x" * 300 + ".png", QUESTION], "cannot be looked up"),
    ([HERE, "nowhere.png", QUESTION], "nowhere.png: no such file"),
    (["gone.png", QUESTION], "no such file"),
    ([HERE, QUESTION, "--frames", "4"], "--frames 4 has no effect: no video is given"),
    (["gone.mp4", QUESTION, "--frames", "0"], "--frames=0 is out of range; give 1 to 128 frames"),
    (["gone.mp4", QUESTION, "--frames", "129"], "--frames=129 is out of range; give 1 to 128"),
    (["gone.mp4", QUESTION, "--frames", "few"], "'--frames'"),
    ([HERE, QUESTION, "--frames"], "requires an argument"),
    (["loop.png", QUESTION], "cannot be looked up"),
    ([".", QUESTION], "is a folder"),
    (["/dev/null", QUESTION], "no regular file"),
    (["~nobodyatall/a.png", QUESTION], "no such user"),
    (["~/nowhere at all.png", QUESTION], "no such file"),
    (["https://example.org/a.png", QUESTION], "https://example.org/a.png is a URL"),
    (["ftp://example.org/a.png", QUESTION], "fetches nothing; download"),
    (["file://elsewhere/a.png", QUESTION], "on another machine"),
    (["data:image/png,abc", QUESTION], "no image in base64"),
    ([data_url(b"abc", "text/plain"), QUESTION], "no image in base64"),
    ([data_url(b"abc"), QUESTION], "format is not known"),
    ([data_url(b"abc")[:-1] + "!", QUESTION], "no base64"),
    (["cut.png", QUESTION], "cannot be read as an image"),
    (["cut.jpg", QUESTION], "cannot be read as an image"),
    (["head.png", QUESTION], "cannot be read as an image"),
    (["empty.png", QUESTION], "format is not known"),
    (["text.png", QUESTION], "format is not known"),
    (["drawing.svg", QUESTION], "format is not known"),
    (["paper.pdf", QUESTION], "format is not known"),
    (["drawing.eps", QUESTION], "PostScript program"),
    (["signed.tif", QUESTION], "from -1 to 1"),
    (["nan.tif", QUESTION], "NaN"),
    (["deep.tif", QUESTION], "from 0 to 2.14748e+09"),
    (["huge.png", QUESTION], "too large"),
    ([HERE, QUESTION, "--retain", "0"], "retain=0"),
    ([HERE, QUESTION, "--retain", "-1"], "retain=-1"),
    ([HERE, QUESTION, "--retain", "nan"], "retain=nan"),
    ([HERE, QUESTION, "--retain", "inf"], "retain=inf"),
    ([HERE, QUESTION, "--retain", "many"], "is no number"),
    ([HERE, QUESTION, "--retain", ""], "is no number"),
    ([HERE, QUESTION, "--method", ""], "is not known"),
    ([HERE, QUESTION, "--method", "magic"], "'magic'"),
    ([HERE, QUESTION, "--method", "sparsevlm:sites=a"], "sites"),
    ([HERE, QUESTION, "--method", "random", "--paper"], "no published settings"),
    ([HERE, QUESTION, "--device", "tpu"], "--device 'tpu' is not known; give cpu, cuda"),
    ([HERE, QUESTION, "--device", ""], "--device '' is not known"),
    ([HERE, QUESTION, "--device", "meta"], "--device 'meta' is not supported"),
    ([HERE, QUESTION, "--device", "cuda:99"], "--device 'cuda:99' is not here"),
    ([HERE, QUESTION, "--device", "cpu:1"], "--device 'cpu:1' is not here"),
    ([HERE, QUESTION, "--dtype", "int8"], "--dtype 'int8' is not known; give one of float32"),
    ([HERE, QUESTION, "--picture", "out.jpg"], "must end in .png"),
    ([HERE, QUESTION, "--picture", "no/out.png"], "its folder does not exist"),
    ([HERE, QUESTION, "--picture", "/proc/out.png"], "--picture /proc/out.png cannot be written"),
    ([HERE, QUESTION, "--picture", "x" * 300 + ".png"], "cannot be written: File name too long"),
    (
        [HERE, QUESTION, "--picture", "x" * 300 + "/out.png"],
        "cannot be written: File name too long",
    ),
    ([HERE, QUESTION, "--picture", "loop.png"], "cannot be written"),
    ([HERE, QUESTION, "--picture", "folder.png"], "is there and no regular file"),
    ([HERE, QUESTION, "--picture", HERE], "is one of the images or videos, and would overwrite"),
    ([HERE, QUESTION, "--picture", "./" + HERE], "is one of the images"),
    (["again.png", QUESTION, "--picture", HERE], "is one of the images"),
    (
        [HERE, QUESTION, "--method", "sparsevlm:sites=3/7:sites=2/5"],
        "setting 'sites' is given twice in sites=3/7:sites",
    ),
    (
        [HERE, QUESTION, "--method", "random:seed=1:positions=keep: seed =1"],
        "setting 'seed' is given twice",
    ),
    ([HERE, QUESTION, "--runs", "0"], "'--runs'"),
    ([HERE, QUESTION, "--runs", "few"], "'--runs'"),
    ([HERE, QUESTION, "--max-new-tokens", "0"], "'--max-new-tokens'"),
    ([HERE, QUESTION, "--model"], "requires an argument"),
    ([HERE, QUESTION, "--bogus"], "ask --help shows what there is"),
    ([HERE, "--what is this"], "--what is this"),
]


@pytest.mark.parametrize(("words", "part"), WRONG, ids=range(len(WRONG)))
def test_before_the_model_is_loaded(place, monkeypatch, words, part):
    monkeypatch.chdir(place)
    monkeypatch.setattr(cli, "load_model", lambda *_: pytest.fail("the model is loaded"))
    before = {path.name: path.is_file() and path.read_bytes() for path in place.iterdir()}
    refused(run("ask", *words), part)
    assert {path.name: path.is_file() and path.read_bytes() for path in place.iterdir()} == before


def test_the_place_of_a_picture_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, link = tmp_path / "old.png", tmp_path / "link.png"
    old.write_bytes(b"a picture")
    link.symlink_to(tmp_path / "nowhere yet.png")
    for name in ("new.png", "old.png", "link.png", old, link):
        cli.check_target(Path(name))
    assert old.read_bytes() == b"a picture"
    assert {path.name for path in tmp_path.iterdir()} == {"old.png", "link.png"}
    opened = []
    monkeypatch.setattr(cli.os, "open", lambda path, *_: opened.append(path) or denied())
    for name in ("new.png", "old.png"):
        with pytest.raises(InputError, match="cannot be written: Permission denied"):
            cli.check_target(Path(name))
    assert [path.name for path in opened] == ["new.png", "old.png"]


def denied():
    raise PermissionError(errno.EACCES, "Permission denied")


BY_LAYERS = ["--method", "sparsevlm"]
LATER = [
    ([HERE, QUESTION, "--model", HERE], "is a file"),
    ([HERE, QUESTION, "--model", "odd"], "BertModel is not supported"),
    ([HERE, QUESTION, "--model", "broken"], "cannot be loaded"),
    ([HERE, QUESTION, "--model", "blind"], "image"),
    ([HERE, "what is <image> ?", "--model", "model"], "'<image>'"),
    ([HERE, QUESTION, "--model", "model", "--retain", "1", *BY_LAYERS], "a layer mean of 1"),
    (
        [HERE, QUESTION, "--model", "model", "--method", "sparsevlm:sites=99", "--retain", "9"],
        "sites",
    ),
]


@pytest.mark.parametrize(("words", "part"), LATER, ids=range(len(LATER)))
def test_before_anything_is_answered(place, monkeypatch, words, part):
    monkeypatch.chdir(place)
    refused(run("ask", *words), part)


def test_a_long_question_with_a_full_stop_is_no_file(place, monkeypatch):
    monkeypatch.chdir(place)
    refused(
        run("ask", "nowhere.png", "what is this. " + "please " * 60), "nowhere.png: no such file"
    )


def test_eval_refuses_devices_and_formats_before_the_model_is_loaded(tmp_path):
    for option, part in (("--device", "--device 'odd' is not known"), ("--dtype", "dtype='odd'")):
        refused(run("eval", "--limit", "1", "--out", tmp_path / "out", option, "odd"), part)
    assert not (tmp_path / "out").exists()


def test_devices():
    assert read_device("cpu") == torch.device("cpu")
    assert read_device(None).type in ("cpu", "cuda")


def test_questions_in_bytes_that_the_locale_does_not_know():
    assert (
        as_text("quelle est la forme é ?".encode().decode("ascii", "surrogateescape"))
        == "quelle est la forme é ?"
    )
    with pytest.raises(InputError, match="no text in UTF-8"):
        as_text(b"\xe9".decode("utf-8", "surrogateescape"))
