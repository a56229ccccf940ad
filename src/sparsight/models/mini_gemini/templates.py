"""Chat templates of Mini-Gemini's text models.

Source: authors' code dvlab-research/MGM, 769820c: conversation.py, and how prompts begin with their
pictures. Differs: Llama 3's text starts once; the authors write its first token and their
tokenizer adds it again. A system turn of the caller replaces the authors' system sentence, except
for Mixtral and Gemma, which know none and refuse it.
"""

SAY = """\
{%- macro say(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- set pictures = content | selectattr('type', 'equalto', 'image') | list -%}
{%- for picture in pictures -%}
{{- ('Image ' ~ loop.index ~ ':' if pictures | length > 1 else '') ~ '<image>\\n' -}}
{%- endfor -%}
{%- for item in content -%}\
{%- if item['type'] == 'text' -%}{{- item['text'] -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
"""Writes one turn: its pictures first, then its text."""

SYSTEM = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system = say(messages[0]['content']) -%}{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = default_system -%}{%- set turns = messages -%}
{%- endif -%}
"""
NO_SYSTEM = """\
{%- if messages[0]['role'] == 'system' -%}
{{- raise_exception('this model knows no system turn; put it into the question') -}}
{%- endif -%}
{%- set turns = messages -%}
"""


def _with_system(sentence: str, turns: str) -> str:
    return f'{SAY}{{%- set default_system = "{sentence}" -%}}\n{SYSTEM}{turns}'


VICUNA = _with_system(
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.",
    """\
{{- system ~ ' ' -}}
{%- for turn in turns -%}
{%- if turn['role'] == 'user' -%}{{- 'USER: ' ~ say(turn['content']) ~ ' ' -}}
{%- else -%}{{- 'ASSISTANT: ' ~ say(turn['content']) ~ '</s>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
""",
)
LLAMA_3 = _with_system(
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.",
    # the header of answers says system: the models were trained so
    """\
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ system ~ '<|eot_id|>' -}}
{%- for turn in turns -%}
{%- set role = 'user' if turn['role'] == 'user' else 'system' -%}
{{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\\n\\n' -}}
{{- say(turn['content']) ~ '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}\
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' -}}{%- endif -%}
""",
)
CHATML = _with_system(
    "Answer the questions.",
    """\
{{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>' -}}
{%- for turn in turns -%}
{{- '<|im_start|>' ~ turn['role'] ~ '\\n' ~ say(turn['content']) ~ '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""",
)
MISTRAL = (
    SAY
    + NO_SYSTEM
    + """\
{%- for turn in turns -%}
{%- if turn['role'] == 'user' -%}
{{- ('' if loop.first else '<s>') ~ '[INST] ' ~ say(turn['content']) ~ ' [/INST]' -}}
{%- else -%}{{- ' ' ~ say(turn['content']) ~ ' </s>' -}}{%- endif -%}
{%- endfor -%}
"""
)
GEMMA = (
    SAY
    + NO_SYSTEM
    + """\
{%- for turn in turns -%}
{%- set role = 'user' if turn['role'] == 'user' else 'model' -%}
{{- '<start_of_turn>' ~ role ~ '\\n' ~ say(turn['content']) ~ '<end_of_turn>\\n' -}}
{{- '' if role == 'user' else '<eos>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
)

TEMPLATES = {
    "vicuna": VICUNA,
    "llama_3": LLAMA_3,
    "chatml": CHATML,
    "mistral": MISTRAL,
    "gemma": GEMMA,
}
# the word that ends an answer, besides the tokenizer's own end of text
ENDS = {"llama_3": "<|eot_id|>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>"}
BY_DECODER = {"gemma": "gemma", "mixtral": "mistral", "mistral": "mistral"}


def choose_template(decoder: str, tokenizer: object) -> str:
    """Return the name of a folder's template, by its text model and the words it knows.

    Args:
        decoder: model type of the text model.
        tokenizer: of the folder; of Llamas it tells Llama 3, Hermes and Vicuna apart.
    """
    words: dict[str, int] = tokenizer.get_vocab()  # type: ignore[attr-defined]
    if decoder in BY_DECODER:
        return BY_DECODER[decoder]
    known = [name for name in ("llama_3", "chatml") if ENDS[name] in words]
    return known[0] if known else "vicuna"
