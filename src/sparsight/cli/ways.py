"""What `sparsight ways` shows: every way to generate, whether it works, and the test that says so."""

from typing import Literal, NamedTuple

from rich.table import Table

HEADS = ("way", "verdict", "what holds", "test")
PAGE = """# Ways to generate

Written by `sparsight ways --markdown`; tests keep this page up to date and see that every test named here exists.

"works" means: with everything kept, bit for bit the untouched model; pruned, what a slow run says in which dropped
tokens are masked, or what the plain greedy pruned run says. "refused" means: an error that names what was given and
what to do, before any image is encoded unless the row says otherwise. Tests run on the CPU, on tiny random models.

{table}
"""


class Way(NamedTuple):
    """One way to run a model.

    Args:
        name: what the user does.
        verdict: whether it works.
        note: what holds, with the families that differ and the reason.
        test: file and function that show it.
    """

    name: str
    verdict: Literal["works", "refused", "not guarded"]
    note: str
    test: str


SLIDES = "Gemma 3, Qwen2-VL with windows and LLaVA with sliding windows"
WAYS = (
    Way(
        "greedy",
        "works",
        "every family, alone and in ragged batches",
        "test_families.py::test_generate_alone_and_in_a_batch",
    ),
    Way("greedy", "works", "M-RoPE, DeepStack, windows, two-way blocks", "test_rotary.py::test_pruned_equals_masked"),
    Way("sampling", "works", "repeats with its seed", "test_masked.py::test_sampling_repeats_with_its_seed"),
    Way("sampling, several answers", "works", "every family", "test_ways.py::test_several_answers"),
    Way("beam search, several answers", "works", "every family", "test_ways.py::test_several_answers"),
    Way("beam search", "works", "M-RoPE, windows, two-way blocks", "test_rotary.py::test_beams"),
    Way("`guidance_scale`, `streamer`", "works", "", "test_ways_calls.py::test_guidance_and_streams"),
    Way(
        "`assistant_model`",
        "works",
        "equals greedy decoding; candidates never rate the image; a pruned model may draft as well",
        "test_ways.py::test_drafted_tokens",
    ),
    Way("`prompt_lookup_num_tokens`", "works", "the same", "test_ways.py::test_drafted_tokens"),
    Way(
        "`prompt_lookup_num_tokens` with M-RoPE",
        "works",
        "an `assistant_model` must take the same images; transformers refuses one of text alone",
        "test_ways.py::test_looked_up_tokens_with_m_rope",
    ),
    Way(
        f"`assistant_model`, `prompt_lookup_num_tokens` with {SLIDES}; PaliGemma",
        "refused",
        "candidates cannot be taken back from a window, nor from a block that sees itself",
        "test_ways.py::test_drafts_that_cannot_be_taken_back",
    ),
    Way(
        "`assistant_model`, `prompt_lookup_num_tokens` on a cache that holds tokens",
        "refused",
        "transformers answers otherwise than greedy decoding there, pruned or not",
        "test_ways.py::test_drafts_in_a_later_turn",
    ),
    Way(
        "`assistant_early_exit`, `use_mtp`, `speculation_type`",
        "refused",
        "they draft from layers, caches or hidden states that were shortened",
        "test_refusals.py::test_options_of_generate",
    ),
    Way(
        "contrastive search (`penalty_alpha`), `dola_layers`",
        "refused",
        "need remote code",
        "test_refusals.py::test_options_of_generate",
    ),
    Way("`custom_generate`", "refused", "a custom loop may not prefill once", "test_ways_calls.py::test_a_custom_loop"),
    Way(
        "a hand-written loop",
        "works",
        "with and without `position_ids`; M-RoPE models place later tokens as `generate()` does",
        "test_contract.py::test_manual_loop_without_position_ids_equals_generate",
    ),
    Way("a hand-written loop", "works", "M-RoPE, windows", "test_rotary.py::test_manual_loop_and_second_turn"),
    Way(
        "continuous batching (`generate_batch`, `init_continuous_batching`)",
        "refused",
        "its paged cache is one row of many prompts",
        "test_ways_calls.py::test_continuous_batching",
    ),
    Way("`pipeline`", "works", "`image-text-to-text`", "test_ways_calls.py::test_a_pipeline"),
    Way(
        "options in the model's own generation config, or by place",
        "works",
        "read as transformers reads them: a refusal cannot be missed",
        "test_ways_calls.py::test_a_model_config_fills_what_the_given_one_leaves_open",
    ),
    Way(
        "`GenerationMixin.generate(model, ...)`, past the model's own attribute",
        "not guarded",
        "no option is checked, and candidates of assisted decoding rate the image: call `model.generate`",
        "test_ways.py::test_candidates_would_rate",
    ),
    Way("left padding, ragged rows", "works", "every family", "test_families.py::test_contract"),
    Way("text-only rows and prompts", "works", "untouched", "test_families.py::test_text_only_prompt_is_untouched"),
    Way(
        "`logits_to_keep` as an int",
        "works",
        "counts from the right, in what is left of the sequence",
        "test_ways_calls.py::test_last_logits_count_from_the_right",
    ),
    Way(
        "`logits_to_keep` as a tensor, `labels`",
        "refused",
        "they name places that may be pruned",
        "test_refusals.py::test_labels_and_scattered_logits",
    ),
    Way(
        "`output_hidden_states`, `output_attentions`",
        "works",
        "each as long as its layer's sequence; attentions with eager attention alone, as in transformers",
        "test_ways_calls.py::test_outputs_of_generate_are_as_long_as_the_layers",
    ),
    Way(
        "`DynamicCache`",
        "works",
        "crop, reorder, repeat, select, reset and copies follow",
        "test_cache.py::test_chosen_and_repeated_samples",
    ),
    Way(
        "sliding and hybrid dynamic caches",
        "works",
        '`cache_implementation="hybrid"` is dynamic in transformers',
        "test_rotary_edges.py::test_chosen_repeated_and_reordered_samples",
    ),
    Way(
        "`StaticCache`, with and without torch.compile",
        "refused",
        "its layers have one length",
        "test_ways_calls.py::test_caches_are_refused_before_an_image_is_encoded",
    ),
    Way(
        "quantised caches (FP8)",
        "refused",
        "their entries are counted apart from what is stored",
        "test_ways_calls.py::test_caches_are_refused_before_an_image_is_encoded",
    ),
    Way(
        "quantised caches (quanto, HQQ)",
        "refused",
        "the same; HQQ is tested where it is installed",
        "test_ways_calls.py::test_quantised_caches_of_other_packages",
    ),
    Way(
        "offloaded caches",
        "refused",
        "a layer may be elsewhere when its length is asked",
        "test_ways_calls.py::test_caches_are_refused_before_an_image_is_encoded",
    ),
    Way(
        "a pruned cache in another model, or after its block",
        "refused",
        "only the engine that pruned it knows the masks; the error comes from the first pruned layer",
        "test_ways_calls.py::test_a_pruned_cache_in_another_model",
    ),
    Way(
        "`prefill_chunk_size`",
        "refused",
        "a chunk may hold an image without its question",
        "test_refusals.py::test_options_of_generate",
    ),
    Way(
        "`use_cache=False`",
        "refused",
        "in `generate()`: every step would prune a longer prompt",
        "test_refusals.py::test_options_of_generate",
    ),
    Way("a second turn of text", "works", "", "test_masked.py::test_second_text_turn_with_generate"),
    Way(
        "a second turn with an image",
        "works",
        "LLaVA and its like, Gemma 3",
        "test_rotary_turns.py::test_second_turn_with_a_new_image",
    ),
    Way(
        "a second turn with an image, M-RoPE",
        "works",
        "given `position_ids`; without, transformers itself fails, as it looks for the grids of both turns",
        "test_rotary_turns.py::test_second_turn_with_a_new_image_and_m_rope",
    ),
    Way("`sdpa`, `eager`", "works", "every family", "test_families.py::test_keeping_everything_is_bit_identical"),
    Way(
        "`flex_attention`, `flash_attention_2`, `flash_attention_3`, paged attention",
        "refused",
        "their masks are not made yet",
        "test_refusals.py::test_attention_kernels",
    ),
    Way(
        "`device_map` over several devices",
        "works",
        "tested with devices that do not exist: CPU tensors that refuse to meet",
        "test_ways_devices.py::test_two_devices",
    ),
    Way(
        "accelerate's offload hooks",
        "works",
        "put on before or inside the block",
        "test_ways_devices.py::test_weights_that_are_offloaded",
    ),
    Way(
        "quantised weights",
        "works",
        "int8 of torch and quanto; torchao where it is installed",
        "test_ways_wrappers.py::test_quantised_weights",
    ),
    Way(
        "PEFT adapters",
        "works",
        "give `sparsify` the wrapper or the model in it; adapters may come before or inside the block",
        "test_ways_wrappers.py::test_adapters_are_weights",
    ),
    Way(
        "`model.train()` on the model or a part",
        "refused",
        "choosing tokens has no gradient",
        "test_ways_wrappers.py::test_training_mode_of_any_part",
    ),
    Way(
        "gradients and gradient checkpointing in evaluation mode",
        "works",
        "transformers checkpoints while training alone",
        "test_ways_wrappers.py::test_gradients_in_evaluation_mode",
    ),
    Way("autocast to bfloat16 and float16", "works", "scores stay float32", "test_ways_wrappers.py::test_autocast"),
    Way(
        "torch.compile before `sparsify`",
        "refused",
        "where a module shows it (`model.compile()`, the wrapper itself)",
        "test_refusals.py::test_a_compiled_model",
    ),
    Way(
        "torch.compile before `sparsify`, hidden in a wrapper or a `forward`",
        "works",
        "it is compiled anew; what runs past the hooks all the same raises after the pass",
        "test_ways_calls.py::test_code_compiled_before",
    ),
)


def cells(way: Way) -> tuple[str, ...]:
    """Return the cells of one way, under HEADS."""
    return way.name, way.verdict, way.note or "-", f"`tests/{way.test}`"


def ways_table() -> Table:
    """Return the table for people."""
    table = Table(*HEADS[:-1], box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for way in WAYS:
        table.add_row(*cells(way)[:-1])
    return table


def ways_page() -> str:
    """Return the page in Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join(["---"] * len(HEADS)) + " |"]
    lines += ["| " + " | ".join(cells(way)) + " |" for way in WAYS]
    return PAGE.format(table="\n".join(lines))
