"""What people put around or into a model: adapters, quantised weights, autocast, training."""

import pytest
import torch
from optimum import quanto
from torch import nn

from sparsight import SparseVLM, sparsify
from sparsight.errors import AttachError, UnsupportedError
from tests.support import tiny, tiny_rotary

METHOD = SparseVLM(retain=0.5, positions="keep")
FULL = SparseVLM(retain=1.0, positions="keep")


@pytest.fixture
def model():
    return tiny.tiny_llava(dtype=torch.float32)


@pytest.fixture
def inputs():
    return tiny.batch([["image", 6]], dtype=torch.float32).inputs


def answer(model, inputs):
    return model.generate(**inputs, max_new_tokens=4)


def same_when_full(model, inputs):
    """Return the pruned logits; check that keeping everything changes no bit and pruning does."""
    with torch.no_grad():
        plain = model(**inputs).logits
        with sparsify(model, FULL):
            assert torch.equal(model(**inputs).logits, plain)
        with sparsify(model, METHOD) as run:
            pruned = model(**inputs).logits
            assert pruned.shape[1] == run.stats.tokens_per_layer[0][-1] < plain.shape[1]
        assert torch.equal(model(**inputs).logits, plain)
    return pruned


# of PEFT, and of names that transformers will change
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


# ---- adapters


def adapted(model):
    """PEFT's wrapper, with adapters that change the answer."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        target_modules=["q_proj", "k_proj", "v_proj"], r=4, init_lora_weights=False
    )
    return peft.get_peft_model(model, settings).eval()


@pytest.mark.mode("PEFT adapters")
def test_adapters_are_weights(model, inputs):
    """Pruned with adapters beside the weights is pruned with the two merged."""
    wrapped = adapted(model)
    plain = answer(wrapped, inputs)
    with sparsify(wrapped, FULL):
        assert torch.equal(answer(wrapped, inputs), plain)
    with sparsify(wrapped, METHOD), torch.no_grad():
        said, logits = answer(wrapped, inputs), wrapped(**inputs).logits
        with pytest.raises(AttachError, match="already sparsified"):
            sparsify(wrapped.get_base_model(), METHOD)
    merged = wrapped.merge_and_unload()
    with sparsify(merged, METHOD), torch.no_grad():
        assert torch.equal(answer(merged, inputs), said)
        torch.testing.assert_close(merged(**inputs).logits, logits, rtol=1e-3, atol=1e-3)


def test_adapters_that_come_inside_the_block(model, inputs):
    with sparsify(model, METHOD):
        bare = answer(model, inputs)
        wrapped = adapted(model)
        said = answer(wrapped, inputs)
        with wrapped.disable_adapter():
            assert torch.equal(answer(wrapped, inputs), bare)
    twin = adapted(tiny.tiny_llava(dtype=torch.float32))
    with sparsify(twin, METHOD):
        assert torch.equal(answer(twin, inputs), said)
    assert torch.equal(answer(wrapped, inputs), answer(twin, inputs)), "hooks are left"


def test_a_wrapper_hides_no_refusal(model, inputs):
    wrapped = adapted(model)
    with sparsify(wrapped, METHOD):
        with pytest.raises(UnsupportedError, match="prefill_chunk_size"):
            wrapped.generate(**inputs, prefill_chunk_size=8)
        with pytest.raises(UnsupportedError, match="labels"):
            wrapped(**inputs, labels=inputs["input_ids"])
        with pytest.raises(UnsupportedError, match="logits_to_keep"):
            wrapped(**inputs, logits_to_keep=torch.tensor([40]))


# ---- quantised weights


def of_torch(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def of_torchao(model):
    torchao = pytest.importorskip(
        "torchao.quantization"
    )  # on a CPU it fills standard error, also in the demo
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    return model


def of_quanto(model):
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    return model


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize("quantise", [of_torch, of_torchao, of_quanto])
@pytest.mark.mode("quantised weights")
def test_quantised_weights_are_pruned(model, inputs, quantise):
    same_when_full(quantise(model), inputs)


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llava", "qwen3", "gemma3"])
@pytest.mark.mode("autocast to bfloat16 and float16")
def test_autocast_is_pruned(model, inputs, kind, dtype):
    if kind != "llava":
        model = tiny_rotary.model(kind, "sdpa", torch.float32)
        inputs = tiny_rotary.batch(kind, tiny_rotary.rows(kind), torch.float32).alone[0]
    with torch.autocast("cpu", dtype=dtype):
        assert same_when_full(model, inputs).isfinite().all()


def test_scores_are_float32_under_autocast(model, inputs, monkeypatch):
    """They are those of the very queries and keys that autocast made, multiplied out in float64."""
    from sparsight.sequence.rater_rows import RaterRows

    seen, plain = [], RaterRows.mean_over_heads

    def watch(rows):
        seen.append((rows, plain(rows)))
        return seen[-1][1]

    monkeypatch.setattr(RaterRows, "mean_over_heads", watch)
    with sparsify(model, METHOD), torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        model(**inputs)
    assert seen
    for rows, got in seen:
        call = rows.call
        query, key = call.query[0].double(), call.key[0].double().repeat_interleave(2, dim=0)
        logits = (query @ key.transpose(-1, -2) * call.scaling).masked_fill(
            ~torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).tril(
                key.shape[1] - query.shape[1]
            ),
            -torch.inf,
        )
        want = logits.softmax(dim=-1).mean(dim=0)[rows.rater_rows[0]][:, rows.columns[0]]
        assert float((got[0] - want).abs().max()) < 1e-6


# ---- training


@pytest.mark.parametrize("part", ["", "model", "model.language_model"])
@pytest.mark.mode("`model.train()` on the model or a part")
def test_training_mode_of_any_part_is_refused(model, inputs, part):
    model.get_submodule(part).train()
    with (
        sparsify(model, METHOD),
        pytest.raises(UnsupportedError, match=r"training.*model.eval\(\)"),
    ):
        model(**inputs)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.mode("gradients and gradient checkpointing in evaluation mode")
def test_gradients_in_evaluation_mode_are_unchanged_by_checkpoints(model, inputs, checkpoints):
    """Checkpointing only works while training; in evaluation mode it must change nothing."""
    weights = []
    for on in (False, checkpoints):
        with sparsify(model, METHOD):
            if on:
                model.gradient_checkpointing_enable()
            model.zero_grad()
            model(**inputs).logits.sum().backward()
            weights.append(model.model.language_model.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.equal(*weights)
    assert bool(weights[0].any())
