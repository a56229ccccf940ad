"""`sparsight convert-mgm`, and what other commands do with its folder."""

import json
import os
import signal
import threading
import time

import pytest
from PIL import Image
from typer.testing import CliRunner

from sparsight.cli import app
from sparsight.cli import convert as program
from sparsight.cli.convert import interrupted_by_sigterm
from tests.support import mgm_folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = mgm_folder.write(tmp_path_factory.mktemp("mgm") / "in", grid=2, whole=True)
    mgm_folder.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return path


def test_converts_and_asks(source, photo, tmp_path):
    made = run("convert-mgm", source, tmp_path / "out", "--vision-tower", source / "clip")
    assert made.exit_code == 0, made.output
    assert made.stdout == (
        f"{tmp_path / 'out'}: 0.00 GB of weights, 180 visual tokens an image, chat template "
        "vicuna.\n"
    )
    assert made.stderr == ""
    quick = ["--runs", "1", "--max-new-tokens", "3", "--json", "--retain", "0.5"]
    asked = run("ask", photo, "what color ?", "--model", tmp_path / "out", *quick)
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["facts"]["dtype"] == "float32"


def test_a_folder_without_a_tokenizer(tmp_path):
    source = mgm_folder.write(tmp_path / "in")
    made = run("convert-mgm", source, tmp_path / "out", "--vision-tower", source / "clip")
    assert made.exit_code == 0
    assert "note: " in made.stderr
    assert "has no tokenizer, so" in made.stderr
    assert made.stdout.endswith("36 visual tokens an image, chat template none.\n")


def test_refusals_are_one_line(source, photo, tmp_path):
    for words, part in (
        (("convert-mgm", tmp_path, tmp_path / "out"), "no folder with a config.json"),
        (("convert-mgm", source, tmp_path / "out"), "give vision_tower"),
        (("convert-mgm", source, tmp_path / "out", "--chat", "alpaca"), "allowed: vicuna"),
        (("ask", photo, "what ?", "--model", source), "run `sparsight convert-mgm IN OUT` first"),
    ):
        result = run(*words)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert part in line
    assert not (tmp_path / "out").exists()


def test_says_how_far_it_is(capsys):
    program.show_progress(2, 3)
    assert capsys.readouterr().err == "converted 2 of 3 files of weights.\n"


def test_models_tells_the_family():
    shown = run("models")
    assert "mini-gemini" in shown.stdout
    assert "MiniGeminiForConditionalGeneration" in shown.stdout
    page = run("models", "--markdown").stdout
    assert "| mini-gemini | MiniGeminiForConditionalGeneration<br>MiniGeminiModel |" in page
    assert "convert-mgm" in run("--help").stdout


def test_sigterm_interrupts_the_conversion_alone():
    before = signal.getsignal(signal.SIGTERM)

    def wait():
        with interrupted_by_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # the signal comes before this ends

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_converts_without_the_signal():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with interrupted_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
