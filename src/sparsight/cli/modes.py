"""`sparsight modes`: every generation mode, whether it works, and what holds for it."""

from typing import Literal, NamedTuple

from rich.table import Table

HEADS = ("mode", "verdict", "what holds")
PAGE = """# Generation modes

Written by `sparsight modes --markdown`. Every row has a test that is marked with the name of its
mode: `pytest -m mode` runs them all.

"works" means: when everything is kept, outputs equal those of the dense model bit for bit. When
tokens are pruned, outputs equal those of a slow reference run in which the dropped tokens are
masked, or those of plain greedy decoding of the pruned model. "refused" means: an error that says
what was given and what to do, raised before any image is encoded unless the row says otherwise.
Tests run on the CPU, on tiny random models.

{table}
"""


class Mode(NamedTuple):
    """One way to run a model.

    Args:
        name: what the user does.
        verdict: whether it works.
        note: what holds, the families that differ, and the reason of a refusal.
    """

    name: str
    verdict: Literal["works", "refused", "not guarded"]
    note: str


MODES = (
    Mode("greedy", "works", "every family, alone and in batches of unequal prompts"),
    Mode("greedy", "works", "M-RoPE, DeepStack, sliding windows, bidirectional image blocks"),
    Mode("sampling", "works", "a seed gives its answer again"),
    Mode("sampling, several answers", "works", "every family"),
    Mode("beam search, several answers", "works", "every family"),
    Mode("beam search", "works", "M-RoPE, sliding windows, bidirectional image blocks"),
    Mode("`guidance_scale`, `streamer`", "works", ""),
    Mode(
        "`assistant_model`",
        "works",
        "equals greedy decoding; candidate tokens never rate the image; the assistant may be "
        "pruned too",
    ),
    Mode(
        "`prompt_lookup_num_tokens`",
        "works",
        "equals greedy decoding; candidate tokens never rate the image",
    ),
    Mode(
        "`prompt_lookup_num_tokens` with M-RoPE",
        "works",
        "an `assistant_model` must take the same images; transformers refuses one of text alone",
    ),
    Mode(
        "`assistant_model`, `prompt_lookup_num_tokens` with sliding windows; PaliGemma",
        "refused",
        "rejected candidates cannot be removed from a sliding window, nor from a "
        "bidirectional block",
    ),
    Mode(
        "`assistant_model`, `prompt_lookup_num_tokens` on a cache that holds tokens",
        "refused",
        "transformers itself does not answer as greedy decoding does there, pruned or not",
    ),
    Mode(
        "`assistant_early_exit`, `use_mtp`, `speculation_type`",
        "refused",
        "they draft from layers, caches or hidden states that were shortened",
    ),
    Mode("contrastive search (`penalty_alpha`), `dola_layers`", "refused", "they need remote code"),
    Mode("`custom_generate`", "refused", "a custom loop may split the prefill"),
    Mode(
        "a hand-written loop",
        "works",
        "with and without `position_ids`; in M-RoPE models, later tokens get the positions "
        "that `generate()` gives them",
    ),
    Mode("a hand-written loop", "works", "M-RoPE, sliding windows"),
    Mode(
        "continuous batching (`generate_batch`, `init_continuous_batching`)",
        "refused",
        "its paged cache holds many prompts in one row",
    ),
    Mode("`pipeline`", "works", "`image-text-to-text`"),
    Mode(
        "options in the model's own generation config, or by place",
        "works",
        "read as transformers reads them, and refused there as well",
    ),
    Mode(
        "`GenerationMixin.generate(model, ...)`, past the model's own attribute",
        "not guarded",
        "no option is checked, and candidate tokens of assisted decoding rate the image: "
        "call `model.generate`",
    ),
    Mode("left padding, ragged rows", "works", "every family"),
    Mode("text-only rows and prompts", "works", "untouched"),
    Mode("`logits_to_keep` as an int", "works", "counts from the right, in the shortened sequence"),
    Mode(
        "`logits_to_keep` as a tensor, `labels`",
        "refused",
        "they name tokens that may be pruned",
    ),
    Mode(
        "`output_hidden_states`, `output_attentions`",
        "works",
        "each as long as the sequence in its layer; attentions need eager attention, as in "
        "transformers",
    ),
    Mode(
        "`DynamicCache`",
        "works",
        "crop, reorder, repeat, select, reset and copy work on the pruned cache",
    ),
    Mode(
        "sliding and hybrid dynamic caches",
        "works",
        '`cache_implementation="hybrid"` is dynamic in transformers',
    ),
    Mode(
        "`StaticCache`, with and without torch.compile",
        "refused",
        "its layers all have one length",
    ),
    Mode(
        "quantised caches (FP8)",
        "refused",
        "they count their entries apart from what they store",
    ),
    Mode(
        "quantised caches (quanto, HQQ)",
        "refused",
        "they count their entries apart from what they store; HQQ is tested where it is installed",
    ),
    Mode("offloaded caches", "refused", "a layer may be on another device when its length is read"),
    Mode(
        "a pruned cache in another model, or after its block",
        "refused",
        "only the run that pruned it knows the masks; the error comes from the first pruned layer",
    ),
    Mode("`prefill_chunk_size`", "refused", "a chunk may hold an image without its question"),
    Mode("`use_cache=False`", "refused", "in `generate()`: every step would prune a longer prompt"),
    Mode("a second turn of text", "works", ""),
    Mode("a second turn with an image", "works", "LLaVA-like families, Gemma 3"),
    Mode(
        "a second turn with an image, M-RoPE",
        "works",
        "with `position_ids`; without them transformers itself fails, as it looks for the "
        "grids of both turns",
    ),
    Mode("`sdpa`, `eager`", "works", "every family"),
    Mode(
        "`flex_attention`, `flash_attention_2`, `flash_attention_3`, paged attention",
        "refused",
        "their masks are not implemented",
    ),
    Mode(
        "`device_map` over several devices",
        "works",
        "tested on CPU with simulated devices, whose tensors refuse to be combined",
    ),
    Mode("accelerate's offload hooks", "works", "attached before or inside the block"),
    Mode("quantised weights", "works", "int8 of torch and quanto; torchao where it is installed"),
    Mode(
        "PEFT adapters",
        "works",
        "give `sparsify` the wrapper or the model in it; adapters may be loaded before or "
        "inside the block",
    ),
    Mode("`model.train()` on the model or a part", "refused", "choosing tokens has no gradient"),
    Mode(
        "gradients and gradient checkpointing in evaluation mode",
        "works",
        "transformers applies checkpointing in training mode only",
    ),
    Mode("autocast to bfloat16 and float16", "works", "scores stay float32"),
    Mode(
        "torch.compile before `sparsify`",
        "refused",
        "where it can be seen on a module: `model.compile()`, or the wrapper of "
        "`torch.compile(model)`",
    ),
    Mode(
        "torch.compile before `sparsify`, hidden in a wrapper or a `forward`",
        "works",
        "it is compiled again; a graph that still skips the hooks raises an error after the pass",
    ),
)


def build_modes_table() -> Table:
    """Return the table for people."""
    table = Table(*HEADS, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for mode in MODES:
        table.add_row(*mode)
    return table


def write_modes_page() -> str:
    """Return the page docs/modes.md."""
    rows = [HEADS, ("---",) * len(HEADS), *MODES]
    return PAGE.format(table="\n".join(f"| {' | '.join(row)} |" for row in rows))
