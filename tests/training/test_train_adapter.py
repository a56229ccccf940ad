"""The trainer runs end to end on a tiny model, and what it writes loads as what it trained."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from sparsight.inputs import prompt_inputs, user_message
from sparsight.models import embedded
from sparsight.models.embedded.adapter import apply_adapter, check_adapter
from sparsight.models.embedded.assemble import model_dir

TRAINING = Path(__file__).parents[2] / "training"
pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(not embedded.is_prepared(), reason="run `sparsight prepare`"),
]


@pytest.fixture(scope="module")
def code():
    """Return the training's modules by name."""
    import importlib

    sys.path.insert(0, str(TRAINING))
    names = (
        "decoder",
        "eye",
        "labels",
        "packing",
        "recipes",
        "shipping",
        "stage",
        "student",
        "train_adapter",
    )
    yield argparse.Namespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(TRAINING))


@pytest.fixture(scope="module")
def processor():
    return LlavaProcessor.from_pretrained(model_dir(), local_files_only=True)


@pytest.fixture(scope="module")
def rows(code, processor):
    """Return a few rows of every shape."""
    source = code.recipes.Source(code.packing.Prompt.of(processor), None, ())
    names = {(1, 336): ["dense", "document", "first"], (2, 336): ["two"], (8, 168): ["clip2"]}
    rows = {}
    for shape, recipes in names.items():
        draws = [code.recipes.RECIPES[name][2] for name in recipes]
        rows[shape] = [draw(source, "a/0", "train") for draw in draws]
    return rows


class Rows:
    """A supply that draws nothing and repeats the rows that it has."""

    def __init__(self, rows):
        self._rows = {**rows, (3, 336): rows[2, 336]}
        self.held_out = {"dense": ((1, 336), rows[1, 336][:1]), "clip2": ((8, 168), rows[8, 168])}
        self.shards, self.drawn = 0, Counter()
        self.shares = dict.fromkeys(self._rows, 0.25)

    def take(self, shape, count):
        rows = self._rows[shape]
        return [rows[i % len(rows)] for i in range(count)]

    def facts(self):
        return {}

    def forget(self):
        pass


def tiny():
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=49153,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    vision = Dinov2Config(
        hidden_size=64, num_hidden_layers=12, num_attention_heads=2, mlp_ratio=1, image_size=518
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=49152,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=576,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def finished(code, processor, rows, tmp_path_factory):
    """Run both stages on a tiny model; return the run's folder and the trained model's parts."""
    out = tmp_path_factory.mktemp("run")
    args = argparse.Namespace(
        out=out, seed=0, rank=4, rate=1e-2, subsets=0.5, steps=4, tokens=1000, eye_batch=2
    )
    args.eye_minutes = args.decoder_minutes = 60.0
    args.measure_every = 1e9
    args.eye = args.decoder_steps = None
    args.smoke = True
    machine = code.stage.Machine(torch.device("cpu"), torch.float32)
    model = tiny()
    eye = code.eye.Eye(model, machine)
    bits = {"encoder": 5, "projector": 8, "decoder": 8}
    ship = code.shipping.Shipped(out / "adapter", bits, code.shipping.encoder(eye))
    log = code.stage.Log(out / "log.jsonl", "run")
    run = code.train_adapter.Run(args, machine, model, processor, Rows(rows), eye, ship, log)
    code.train_adapter.run_eye(run)
    code.train_adapter.run_decoder(run)
    return run


def test_the_adapter_loads_as_what_was_trained(finished, code, processor, rows):
    adapter = finished.args.out / "adapter"
    assert check_adapter(adapter).rank == 4
    model = tiny()
    before = model.model.language_model.layers[0].mlp.up_proj.weight.clone()
    apply_adapter(model, adapter)
    assert not torch.equal(before, model.model.language_model.layers[0].mlp.up_proj.weight)
    row = rows[1, 336][0]
    prompt = code.packing.Prompt.of(processor)
    question = prompt.encode(code.packing.Asked("Where is it?", (("top left", True),), "a"))
    other = prompt.encode(code.packing.Asked("What is it?", (("red", True),), "a"))
    work = code.decoder.work(prompt, [row], [[other, question]], None, np.random.default_rng(0))
    student = code.student.Student.__new__(code.student.Student)
    torch.nn.Module.__init__(student)
    student.decoder, student._machine = finished.model.model.language_model, finished.machine
    student.embedding = student.decoder.embed_tokens.weight
    student.prefix, student.between = torch.tensor(prompt.prefix), torch.tensor(prompt.between)
    with torch.no_grad():
        trained = student(code.decoder._shown(finished.eye, work), work.layout, work.batch)
        image = code.recipes.Image.fromarray(row.images[0])
        inputs = prompt_inputs(model, processor, [[user_message("Where is it?", [image])]], {})
        alone = model(**inputs).logits[0, -1]
    first = len(other.targets)  # the second question's first prediction
    torch.testing.assert_close(trained[first], alone, atol=1e-4, rtol=1e-3)


def test_the_log_says_what_was_reached(finished):
    text = (finished.args.out / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    eye = [line for line in lines if line["stage"] == "eye"]
    assert set(eye[-1]["held_out"]) == {"dense", "clip2"}
    whole = [line for line in lines if line.get("packed") and line["share"] == 1.0]
    kinds = {kind.split(" ")[0] for kind in whole[0]["held_out"]}
    assert {"dense", "clip"} <= kinds <= {"dense", "clip", "later", "facts"}


def test_a_finished_stage_is_not_repeated(finished, code):
    progress = code.train_adapter.run_eye(finished)
    assert progress["eye_steps"] == 4


def test_the_eye_of_another_adapter_is_taken_as_it_is(finished, code, tmp_path):
    torch.manual_seed(1)
    model = tiny()
    eye = code.eye.Eye(model, finished.machine)
    bits = {"encoder": 5, "projector": 8, "decoder": 8}
    ship = code.shipping.Shipped(tmp_path / "adapter", bits, code.shipping.encoder(eye))
    args = argparse.Namespace(out=tmp_path, eye=finished.args.out / "adapter")
    run = code.train_adapter.Run(args, finished.machine, model, None, None, eye, ship, None)
    told = code.train_adapter.run_eye(run)
    manifest = json.loads((args.eye / "manifest.json").read_text())
    assert told == {"eye_of": manifest["files"]}
    for name, value in eye.state_dict().items():
        assert torch.equal(value, finished.eye.state_dict()[name]), name


def test_some_recipes_have_their_shapes_alone(code):
    shares, all_shares = code.recipes.shares, code.recipes.SHARES
    assert shares(code.recipes.RECIPES) == all_shares
    assert shares(("first", "clip2")) == {
        shape: all_shares[shape] for shape in (code.recipes.ONE, code.recipes.CLIP)
    }


def test_a_shard_is_drawn_by_the_recipes_that_are_asked_for(code, monkeypatch):
    made = []
    recipes = {
        name: (shape, share, lambda *_, name=name: made.append(name))
        for name, (shape, share, _) in code.recipes.RECIPES.items()
    }
    monkeypatch.setattr(code.recipes, "RECIPES", recipes)
    for number in range(6):
        shape, rows = code.recipes.draw(None, number, ("small", "signs"))
        assert shape == code.recipes.ONE
        assert len(rows) == code.recipes.SHARD_ROWS[shape]
    assert set(made) == {"small", "signs"}


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_packing_costs_at_most_half_a_step(code, bits):
    from sparsight.models.embedded.packed import unpack

    value = torch.randn(6, 64, generator=torch.Generator().manual_seed(bits))
    packed = code.shipping.pack(value, bits)
    assert packed["codes"].numel() == value.numel() * bits // 8
    back = unpack(packed["codes"], packed["scales"], tuple(value.shape), bits)
    clipped = value.abs() > (2**bits - 1) / 2 * packed["scales"].float()[:, None]
    error = (back - value).abs()
    assert (error <= 0.51 * packed["scales"].float()[:, None])[~clipped].all()
    assert error.square().mean() <= (value.abs().amax(1) / (2**bits - 1)).square().mean() / 2
