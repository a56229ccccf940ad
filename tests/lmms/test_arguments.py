"""--model_args: what is read, with which defaults, and what is refused by name."""

from dataclasses import replace

import pytest
import torch

from sparsight import SparseVLM
from sparsight.cli.app import ask_command
from sparsight.cli.method import read_method
from sparsight.errors import BudgetError, SettingError, UnsupportedError
from sparsight.lmms.arguments import Ranks, read_arguments, read_ranks

ALONE = Ranks()


def read(ranks=ALONE, **given):
    return read_arguments({"device": "cpu", **given}, ranks)


def test_defaults():
    arguments = read()
    assert arguments.model is None
    assert arguments.method == read_method("sparsight", "192", paper=False)
    assert (arguments.dtype, arguments.attention) == (None, None)
    assert (arguments.batch, arguments.most) == (1, 128)
    assert (arguments.images, arguments.videos) == ({}, {})


def test_the_method_and_budget_default_as_in_sparsight_ask():
    defaults = ask_command.__wrapped__.__kwdefaults__
    method = read_method(defaults["method"], defaults["retain"], defaults["paper"])
    assert read().method == method


def test_values_as_lmms_eval_turns_them():
    arguments = read(
        pretrained="folder",
        method="sparsevlm:sites=3/7",
        retain=64,
        dtype="float16",
        attn_implementation="eager",
        batch_size="4",
        max_new_tokens=16,
        do_pad=True,
        num_frames=8,
    )
    assert arguments.model == "folder"
    assert arguments.method == SparseVLM(retain=64, sites=(3, 7))
    assert arguments.dtype == torch.float16
    assert arguments.attention == "eager"
    assert (arguments.batch, arguments.most) == (4, 16)
    assert (arguments.images, arguments.videos) == ({"do_pad": True}, {"num_frames": 8})


@pytest.mark.parametrize(("retain", "kind"), [(1, int), (1.0, float), (0.25, float)])
def test_a_count_stays_a_count(retain, kind):
    method = read(method="sparsevlm", retain=retain).method
    assert method.retain == retain
    assert isinstance(method.retain, kind)


def test_published_settings():
    assert read(method="sparsevlm", retain=64, paper=True).method == SparseVLM.paper(64)
    method = read(method="sparsevlm:recycle=false", retain=64, paper=True).method
    assert method == replace(SparseVLM.paper(64), recycle=False)
    with pytest.raises(UnsupportedError, match="published"):
        read(method="random", retain=64, paper=True)


def test_dense():
    assert read(method="dense").method is None
    with pytest.raises(SettingError, match="leave retain"):
        read(method="dense", retain=64)


def test_what_is_none_is_not_given():
    assert read(max_batch_size=None, dtype=None) == read()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"methd": "dense"}, "no argument methd; it has pretrained, method"),
        ({"max_batch_size": 8}, "no argument max_batch_size"),
        ({"trust_remote_code": True}, "no argument trust_remote_code"),
        ({"method": "sparsevlmm"}, "'sparsevlmm' is not known"),
        ({"method": "sparsevlm:site=3"}, "setting 'site=3' is not known"),
        ({"paper": "yes"}, "paper='yes'"),
        ({"dtype": "int8"}, "dtype='int8' is not known; give one of float32"),
        ({"dtype": 16}, "dtype=16"),
        ({"device": "tpu"}, "'tpu' is not known"),
        ({"attn_implementation": "flash_attention_2"}, "give eager or sdpa"),
        ({"batch_size": "auto"}, "batch_size='auto' is not allowed"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens=1\.5"),
        ({"do_pad": 1}, "do_pad=1 is not allowed; give true or false"),
        ({"num_frames": 8, "fps": 1}, "give one of them"),
        ({"num_frames": -1}, "num_frames=-1"),
        ({"fps": 0}, "fps=0"),
        ({"fps": "many"}, "fps='many'"),
    ],
)
def test_what_is_refused(given, says):
    with pytest.raises(SettingError, match=says):
        read(**given)


@pytest.mark.parametrize("retain", [0, -1, 1.5, "many", "nan"])
@pytest.mark.parametrize("method", ["sparsevlm", "dense"])
def test_no_budget(method, retain):
    with pytest.raises(BudgetError):
        read(method=method, retain=retain)


def test_ranks():
    assert read_ranks({}) == Ranks(0, 0, 1)
    assert read_ranks({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}) == Ranks(3, 1, 4)


@pytest.mark.parametrize(
    "places", [{"RANK": "one"}, {"RANK": "4", "WORLD_SIZE": "4"}, {"LOCAL_RANK": "1"}]
)
def test_ranks_that_cannot_be(places):
    with pytest.raises(SettingError, match="accelerate launch"):
        read_ranks(places)


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_each_process_has_a_gpu_of_its_own():
    ranks = Ranks(rank=6, local=2, count=8)
    assert read(ranks, device=None).device == torch.device("cuda:2")
    assert read(ranks, device="cuda").device == torch.device("cuda:2")
    assert read(ranks, device="cpu").device == torch.device("cpu")
    assert read(device="cuda:1").device == torch.device("cuda:1")
    with pytest.raises(SettingError, match="8 processes on one GPU"):
        read(ranks, device="cuda:0")
    with pytest.raises(SettingError, match="finds 4"):
        read(Ranks(rank=5, local=5, count=8), device=None)
