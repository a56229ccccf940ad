"""The command line: report, JSON document, picture; a refusal is one line and exit code 2."""

import json
import re
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from sparsight import __version__
from sparsight.cli import app
from sparsight.cli.method import read_method
from sparsight.cli.report import join_equal_layers
from sparsight.errors import EmbeddedModelError, SettingError
from sparsight.inputs import MOST_PIXELS
from sparsight.methods import DivPrune, Random, Restore, SparseVLM, SparseVLMPlus
from sparsight.models import embedded
from tests.support import tiny, tiny_processor

QUESTION = "what color is the shape ?"
QUICK = ["--runs", "1", "--max-new-tokens", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_processor.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.linear_gradient("L").convert("RGB").resize((60, 40)).save(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result, *parts):
    """Exit code 2, nothing on stdout, one line on stderr that holds all of `parts`."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], (part, lines[0])


def test_says_its_version():
    assert run("--version").stdout == f"sparsight {__version__}\n"


def test_lists_methods_and_families():
    shown = run("methods")
    assert shown.exit_code == 0
    assert "sparsevlm-plus" in shown.stdout
    shown = run("models")
    assert shown.exit_code == 0
    assert "LlavaForConditionalGeneration" in shown.stdout


@pytest.mark.parametrize("words", [["ask"], ["ask", "photo.png"], ["ask", QUESTION]])
def test_refuses_fewer_than_two_words(words):
    refused(run(*words), "at least one image")


def test_refuses_a_missing_image():
    refused(run("ask", "nowhere.png", QUESTION), "nowhere.png", "no such file")


def test_refuses_a_folder(tmp_path):
    refused(run("ask", tmp_path, QUESTION), "is a folder")


def test_refuses_what_is_no_image(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no picture")
    refused(run("ask", path, QUESTION), "cannot be read as an image")


@pytest.mark.parametrize("end", [60, 200, 1200])
def test_refuses_a_broken_image(tmp_path, end):
    path = tmp_path / "broken.png"
    Image.effect_noise((60, 60), 90).save(path)
    path.write_bytes(path.read_bytes()[:end])
    refused(run("ask", path, QUESTION), "cannot be read as an image")


@pytest.mark.parametrize(
    "side", [8_000, 10_000, 20_000]
)  # below, above and far above Pillow's own limit
def test_refuses_a_huge_image(tmp_path, side):
    path = tmp_path / "huge.png"
    Image.new("1", (side, side)).save(path)
    assert side * side > MOST_PIXELS
    refused(run("ask", path, QUESTION), "too large")


@pytest.mark.parametrize("question", ["", "  "])
def test_refuses_an_empty_question(photo, question):
    refused(run("ask", photo, question), "question is empty")


def test_refuses_a_file_for_a_question(photo):
    refused(run("ask", photo, photo), "is a file")


@pytest.mark.parametrize(
    ("retain", "part"), [("0", "retain=0"), ("1.5", "retain=1.5"), ("many", "is no number")]
)
def test_refuses_a_budget_that_says_nothing(photo, retain, part):
    refused(run("ask", photo, QUESTION, "--retain", retain), part)


def test_says_when_nothing_is_pruned(photo, folder):
    words = ("ask", photo, QUESTION, "--model", folder, "--runs", 1, "--max-new-tokens", 1)
    said = "nothing was pruned: the prompt has 36 visual tokens"
    assert said in " ".join(run(*words, "--retain", tiny.VISUAL + 1).output.split())
    assert said not in " ".join(run(*words, "--retain", tiny.VISUAL - 1).output.split())


def test_refuses_a_budget_that_was_not_published(photo):
    words = ["ask", photo, QUESTION, "--paper", "--retain"]
    refused(run(*words, "100", "--method", "sparsevlm"), "was not published")
    refused(run(*words, "192"), "sparsight has no published settings")
    refused(run(*words, "600", "--method", "sparsevlm"), "use SparseVLM(retain=600)")
    refused(run(*words, "64", "--method", "sparsevlm:sites=2"), "--paper takes sites of sparsevlm")


def test_refuses_an_unknown_method(photo):
    refused(run("ask", photo, QUESTION, "--method", "magic"), "'magic'", "sparsevlm-plus")


def test_refuses_an_unsupported_model(photo, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"]})
    )
    refused(
        run("ask", photo, QUESTION, "--model", tmp_path),
        "BertModel is not supported",
        "LlavaForCondition",
    )


def test_refuses_a_folder_without_a_model(photo, tmp_path):
    refused(run("ask", photo, QUESTION, "--model", tmp_path), "cannot be loaded as a model")


def test_refuses_a_file_for_a_model(photo):
    refused(run("ask", photo, QUESTION, "--model", photo), "is a file")


def test_refuses_weights_that_are_not_safetensors(photo, folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(
        run("ask", photo, QUESTION, "--model", copy), "cannot be loaded as a model", "safetensors"
    )


def test_refuses_damaged_weights(photo, folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(run("ask", photo, QUESTION, "--model", copy), "cannot be loaded as a model")


@pytest.mark.usefixtures("no_network")
def test_refuses_without_a_network(photo):
    refused(run("ask", photo, QUESTION, "--model", "nobody/nothing"), "model hub", "embedded model")


def test_refuses_an_unprepared_model(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path))
    refused(run("ask", photo, QUESTION), "sparsight prepare")


def test_refuses_a_damaged_adapter(photo, monkeypatch):
    def load():
        raise EmbeddedModelError(
            "adapter_model.safetensors is damaged:\nSHA-256 differs; reinstall sparsight."
        )

    monkeypatch.setattr(embedded, "load", load)
    refused(run("ask", photo, QUESTION), "is damaged")


def test_refuses_to_prepare_in_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSIGHT_CACHE", str(tmp_path / "file" / "below"))
    refused(run("prepare"), "SPARSIGHT_CACHE")


def test_refuses_the_image_placeholder_in_a_question(photo, folder):
    refused(run("ask", photo, "what is <image> ?", "--model", folder), "'<image>'")


@pytest.mark.parametrize(
    ("name", "part"), [("out.jpg", "must end in .png"), ("no/such/out.png", "folder")]
)
def test_refuses_a_picture_that_cannot_be_written(photo, folder, tmp_path, name, part):
    refused(run("ask", photo, QUESTION, "--model", folder, "--picture", tmp_path / name), part)


@pytest.mark.parametrize(
    "words", [["ask", "--bogus"], ["nothing"], ["ask", "a.png", "q", "--runs", "0"]]
)
def test_usage_errors_exit_with_2(words):
    result = run(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("count", [1, 2])
def test_answers_in_one_json_document(photo, folder, count):
    words = [
        "ask",
        *[photo] * count,
        QUESTION,
        "--model",
        folder,
        "--retain",
        "12",
        "--json",
        *QUICK,
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert found["question"] == QUESTION
    assert set(found["answers"]) == {"dense", "sparse", "same"}
    tokens = found["tokens"]
    assert tokens["visual"] == tiny.VISUAL * count
    assert len(tokens["visual_per_layer"]) == 8
    assert tokens["mean_visual_entering"] == pytest.approx(sum(tokens["visual_per_layer"]) / 8)
    assert tokens["mean_visual_entering"] <= 12
    for cost in ("prefill_flops", "kv_cache_bytes"):
        assert found[cost]["ratio"] == pytest.approx(found[cost]["dense"] / found[cost]["sparse"])
    for time in ("ttft_ms", "prefill_ms", "decode_ms_per_token"):
        assert len(found[time]["sparse"]["runs"]) == 1
        assert found[time]["dense"]["median"] > 0
    assert found["ttft_ms"]["sparse"]["median"] > found["prefill_ms"]["sparse"]["median"]
    assert {"cpu", "threads", "dtype", "torch", "transformers", "sparsight"} <= set(found["facts"])


def test_full_retention_gives_the_same_answer(photo, folder):
    result = run(
        "ask", photo, QUESTION, "--model", folder, "--retain", "1.0", "--json", "--runs", "1"
    )
    assert json.loads(result.stdout)["answers"]["same"] is True


def test_reports_to_people_and_draws(photo, folder, tmp_path):
    target = tmp_path / "kept.png"
    words = [
        "ask",
        photo,
        photo,
        QUESTION,
        "--model",
        folder,
        "--retain",
        "0.4",
        "--picture",
        target,
        *QUICK,
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for part in (
        QUESTION,
        "dense",
        "sparse",
        "prefill, GFLOPs",
        "decode, ms per token",
        "visual tokens by layer  0-6: ",
        "interleaved runs",
    ):
        assert part in result.stdout
    with Image.open(target) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 500


def test_reads_methods():
    assert read_method("sparsevlm", "192", paper=True) == SparseVLM.paper(192)
    assert read_method("sparsevlm-plus", "0.25", paper=False) == SparseVLMPlus(retain=0.25)
    assert read_method("SparseVLMPlus", "64", paper=True) == SparseVLMPlus.paper(64)


def test_writes_counts_by_layer_shortly():
    assert (
        join_equal_layers((576, 576, 30, 7, 7))
        == "0-1: 576 \N{MIDDLE DOT} 2: 30 \N{MIDDLE DOT} 3-4: 7"
    )


def test_settings_follow_a_method():
    assert read_method("sparsevlm:sites=3/7/15:recycle=false", "64", paper=False) == SparseVLM(
        retain=64, sites=(3, 7, 15), recycle=False
    )
    assert read_method("random:seed=4", "0.5", paper=False) == Random(retain=0.5, seed=4)
    assert read_method("sparsevlm:level=rank:tau=0.5", "64", paper=False) == SparseVLM(
        retain=64, level="rank", tau=0.5
    )


def test_settings_of_a_base_follow_it():
    assert read_method("restore", "64", paper=False) == Restore(retain=64)
    assert read_method("restore", "64", paper=True) == Restore.paper(64)
    base = SparseVLM(recycle=False, tau=0.5)
    wanted = Restore(retain=0.3, gamma=1.0, base=base, sites=(1, 5))
    name = "restore:base=sparsevlm:gamma=1:recycle=false:sites=1/5:tau=0.5"
    assert read_method(name, "0.3", paper=False) == wanted
    centred = Restore(retain=64, base=DivPrune(centred=True))
    assert read_method("restore:centred=true", "64", paper=False) == centred
    for text, message in (
        ("restore:base=sparsevlm", "SparseVLM merges tokens itself"),
        ("restore:base=nothing", "method 'nothing' is not known"),
        ("restore:depth=1", "setting 'depth=1' is not known; divprune has"),
        ("restore:centred=true:centred=false", "'centred' is given twice"),
    ):
        with pytest.raises(SettingError, match=message):
            read_method(text, "64", paper=False)


@pytest.mark.parametrize(
    "name",
    [
        "sparsevlm:depth=1",
        "sparsevlm:sites=a",
        "random:seed=x",
        "sparsevlm:recycle",
        "sparsevlm:recycle=1",
        "sparsevlm:retain=3",
        "sparsevlm:level=none",
    ],
)
def test_settings_that_do_not_exist_are_named(name):
    with pytest.raises(SettingError, match=re.escape(name.split(":")[1].split("=")[0])):
        read_method(name, "64", paper=False)
