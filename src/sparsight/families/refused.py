"""Models that are refused by name, and why: what they do between tokens cannot be shortened yet."""

LINEAR = "its linear-attention layers fold all tokens into one state, from which none can be taken out later"
SHARED = "its later layers read the keys of earlier ones, which hold other tokens once a site stands between"

REFUSED = {
    "Qwen3_5ForConditionalGeneration": LINEAR,
    "Qwen3_5Model": LINEAR,
    "Qwen3_5MoeForConditionalGeneration": LINEAR,
    "Qwen3_5MoeModel": LINEAR,
    "Llama4ForConditionalGeneration": "its chunked attention and complex rotary tables are not hosted",
    "Gemma3nForConditionalGeneration": SHARED,
    "Gemma3nModel": SHARED,
    "Gemma4ForConditionalGeneration": SHARED,
    "Gemma4Model": SHARED,
}
