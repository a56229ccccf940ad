"""Model classes that are refused by name, and why: their layers cannot run on pruned tokens yet."""

LINEAR = (
    "its linear-attention layers fold all tokens into one state, from which none can be taken out "
    "later"
)
SHARED = (
    "its later layers read the keys of earlier ones, which hold other tokens once a site stands "
    "between"
)
CHUNKED = "its chunked attention and complex rotary tables are not hosted"

REFUSED = {
    "Qwen3_5ForConditionalGeneration": LINEAR,
    "Qwen3_5Model": LINEAR,
    "Qwen3_5MoeForConditionalGeneration": LINEAR,
    "Qwen3_5MoeModel": LINEAR,
    "Llama4ForConditionalGeneration": CHUNKED,
    "Gemma3nForConditionalGeneration": SHARED,
    "Gemma3nModel": SHARED,
    "Gemma4ForConditionalGeneration": SHARED,
    "Gemma4Model": SHARED,
}
