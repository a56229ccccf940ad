"""What `sparsight modes` shows: every generation mode, whether it works, and what holds."""

from typing import Literal, NamedTuple

from rich.table import Table

HEADS = ("mode", "verdict", "what holds")
PAGE = """# Generation modes

Written by `sparsight modes --markdown`. Every row has a test, marked with the name of its mode: `pytest -m mode` runs
them all.

"works" means: with everything kept, outputs equal those of the dense model bit for bit; when pruned, they equal those
of a slow reference run in which dropped tokens are masked, or plain greedy decoding of the pruned model. "refused"
means: an error that names what was given and what to do, before any image is encoded unless the row says otherwise.
Tests run on the CPU, on tiny random models.

{table}
"""


class Mode(NamedTuple):
    """One way to run a model.

    Args:
        name: what the user does.
        verdict: whether it works.
        note: what holds, the families that differ, and the reason.
    """

    name: str
    verdict: Literal["works", "refused", "not guarded"]
    note: str


MODES = (
    Mode("greedy", "works", "every family, alone and in ragged batches"),
    Mode("greedy", "works", "M-RoPE, DeepStack, windows, two-way blocks"),
    Mode("sampling", "works", "repeats with its seed"),
    Mode("sampling, several answers", "works", "every family"),
    Mode("beam search, several answers", "works", "every family"),
    Mode("beam search", "works", "M-RoPE, windows, two-way blocks"),
    Mode("`guidance_scale`, `streamer`", "works", ""),
    Mode(
        "`assistant_model`",
        "works",
        "equals greedy decoding; candidates never rate the image; a pruned model may draft as well",
    ),
    Mode("`prompt_lookup_num_tokens`", "works", "the same"),
    Mode(
        "`prompt_lookup_num_tokens` with M-RoPE",
        "works",
        "an `assistant_model` must take the same images; transformers refuses one of text alone",
    ),
    Mode(
        "`assistant_model`, `prompt_lookup_num_tokens` with sliding windows; PaliGemma",
        "refused",
        "candidates cannot be taken back from a window, nor from a block that sees itself",
    ),
    Mode(
        "`assistant_model`, `prompt_lookup_num_tokens` on a cache that holds tokens",
        "refused",
        "transformers answers otherwise than greedy decoding there, pruned or not",
    ),
    Mode(
        "`assistant_early_exit`, `use_mtp`, `speculation_type`",
        "refused",
        "they draft from layers, caches or hidden states that were shortened",
    ),
    Mode("contrastive search (`penalty_alpha`), `dola_layers`", "refused", "need remote code"),
    Mode("`custom_generate`", "refused", "a custom loop may not prefill once"),
    Mode(
        "a hand-written loop",
        "works",
        "with and without `position_ids`; M-RoPE models place later tokens as `generate()` does",
    ),
    Mode("a hand-written loop", "works", "M-RoPE, windows"),
    Mode(
        "continuous batching (`generate_batch`, `init_continuous_batching`)",
        "refused",
        "its paged cache is one row of many prompts",
    ),
    Mode("`pipeline`", "works", "`image-text-to-text`"),
    Mode(
        "options in the model's own generation config, or by place",
        "works",
        "read as transformers reads them: a refusal cannot be missed",
    ),
    Mode(
        "`GenerationMixin.generate(model, ...)`, past the model's own attribute",
        "not guarded",
        "no option is checked, and candidates of assisted decoding rate the image: call `model.generate`",
    ),
    Mode("left padding, ragged rows", "works", "every family"),
    Mode("text-only rows and prompts", "works", "untouched"),
    Mode(
        "`logits_to_keep` as an int",
        "works",
        "counts from the right, in what is left of the sequence",
    ),
    Mode(
        "`logits_to_keep` as a tensor, `labels`", "refused", "they name places that may be pruned"
    ),
    Mode(
        "`output_hidden_states`, `output_attentions`",
        "works",
        "each as long as its layer's sequence; attentions with eager attention alone, as in transformers",
    ),
    Mode("`DynamicCache`", "works", "crop, reorder, repeat, select, reset and copies follow"),
    Mode(
        "sliding and hybrid dynamic caches",
        "works",
        '`cache_implementation="hybrid"` is dynamic in transformers',
    ),
    Mode("`StaticCache`, with and without torch.compile", "refused", "its layers have one length"),
    Mode(
        "quantised caches (FP8)", "refused", "their entries are counted apart from what is stored"
    ),
    Mode(
        "quantised caches (quanto, HQQ)", "refused", "the same; HQQ is tested where it is installed"
    ),
    Mode("offloaded caches", "refused", "a layer may be elsewhere when its length is asked"),
    Mode(
        "a pruned cache in another model, or after its block",
        "refused",
        "only the engine that pruned it knows the masks; the error comes from the first pruned layer",
    ),
    Mode("`prefill_chunk_size`", "refused", "a chunk may hold an image without its question"),
    Mode("`use_cache=False`", "refused", "in `generate()`: every step would prune a longer prompt"),
    Mode("a second turn of text", "works", ""),
    Mode("a second turn with an image", "works", "LLaVA and its like, Gemma 3"),
    Mode(
        "a second turn with an image, M-RoPE",
        "works",
        "given `position_ids`; without, transformers itself fails, as it looks for the grids of both turns",
    ),
    Mode("`sdpa`, `eager`", "works", "every family"),
    Mode(
        "`flex_attention`, `flash_attention_2`, `flash_attention_3`, paged attention",
        "refused",
        "their masks are not made yet",
    ),
    Mode(
        "`device_map` over several devices",
        "works",
        "tested with devices that do not exist: CPU tensors that refuse to meet",
    ),
    Mode("accelerate's offload hooks", "works", "put on before or inside the block"),
    Mode("quantised weights", "works", "int8 of torch and quanto; torchao where it is installed"),
    Mode(
        "PEFT adapters",
        "works",
        "give `sparsify` the wrapper or the model in it; adapters may come before or inside the block",
    ),
    Mode("`model.train()` on the model or a part", "refused", "choosing tokens has no gradient"),
    Mode(
        "gradients and gradient checkpointing in evaluation mode",
        "works",
        "transformers checkpoints while training alone",
    ),
    Mode("autocast to bfloat16 and float16", "works", "scores stay float32"),
    Mode(
        "torch.compile before `sparsify`",
        "refused",
        "where a module shows it (`model.compile()`, the wrapper itself)",
    ),
    Mode(
        "torch.compile before `sparsify`, hidden in a wrapper or a `forward`",
        "works",
        "it is compiled anew; what runs past the hooks all the same raises after the pass",
    ),
)


def modes_table() -> Table:
    """Return the table for people."""
    table = Table(*HEADS, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for mode in MODES:
        table.add_row(*mode)
    return table


def modes_page() -> str:
    """Return the page docs/modes.md."""
    rows = [HEADS, ("---",) * len(HEADS), *MODES]
    return PAGE.format(table="\n".join(f"| {' | '.join(row)} |" for row in rows))
