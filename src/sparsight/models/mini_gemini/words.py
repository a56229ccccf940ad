"""The tokenizer of an authors' folder, with a word for visual tokens.

Private details of transformers touched here: names of tokenizers' files, `AutoTokenizer`, which
reads them by `config.json` beside them, and `add_special_tokens`.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sparsight.errors import ModelError, SettingError
from sparsight.models.mini_gemini.checkpoint import read_json
from sparsight.models.mini_gemini.config import MiniGeminiConfig
from sparsight.models.mini_gemini.images import MiniGeminiImageProcessor
from sparsight.models.mini_gemini.processor import IMAGE_TOKEN, MiniGeminiProcessor
from sparsight.models.mini_gemini.reading import Original
from sparsight.models.mini_gemini.templates import ENDS, TEMPLATES, choose_template

VOCABULARIES = ("tokenizer.json", "tokenizer.model")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Words:
    """Words of a folder.

    Args:
        image_token_id: of the word that stands for a visual token.
        tokenizer: with that word; None if the folder has none.
        template: name of the chat template; None without a tokenizer.
        ids: fields of the generation config that the tokenizer knows.
        end: id of the word that ends an answer, besides the config's; None for no other.
    """

    image_token_id: int
    tokenizer: Any = None
    template: str | None = None
    ids: dict[str, int] = field(default_factory=dict)
    end: int | None = None


def read_words(folder: Path, original: Original, chat: str | None) -> Words:
    """Return the words of a folder.

    Args:
        folder: as the authors save it; without a tokenizer the new word stands behind all others.
        original: its config.
        chat: name of the chat template; None to choose it.

    Raises:
        ModelError: the tokenizer cannot be read.
        SettingError: there is no template of that name.
    """
    if chat is not None and chat not in TEMPLATES:
        raise SettingError(
            f"chat={chat!r} is no template; allowed: {', '.join(TEMPLATES)}, or None to choose."
        )
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return Words(original.words)
    tokenizer = _load_tokenizer(folder, original)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    template = chat or choose_template(original.decoder, tokenizer)
    known = tokenizer.get_vocab()
    named = {name: getattr(tokenizer, name) for name in ("bos_token_id", "pad_token_id")}
    ids = {name: int(value) for name, value in named.items() if value is not None}
    return Words(
        int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)),
        tokenizer,
        template,
        ids,
        known.get(ENDS.get(template, ""), tokenizer.eos_token_id),
    )


def _load_tokenizer(folder: Path, original: Original) -> Any:
    """Return a folder's tokenizer, read beside a config that names the text model alone."""
    with tempfile.TemporaryDirectory() as work:
        for name in (*VOCABULARIES, *SETTINGS):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(work) / name)
        settings = Path(work) / SETTINGS[0]
        if settings.exists():
            kept = {k: v for k, v in read_json(settings).items() if k != "auto_map"}
            settings.write_text(json.dumps(kept), encoding="utf-8")
        (Path(work) / "config.json").write_text(json.dumps({"model_type": original.decoder}))
        try:
            return AutoTokenizer.from_pretrained(
                work, local_files_only=True, trust_remote_code=False, padding_side="left"
            )
        except Exception as error:  # transformers raises anything on broken files
            raise ModelError(f"the tokenizer in {folder} cannot be read: {error}") from error


def build_processor(config: MiniGeminiConfig, words: Words) -> MiniGeminiProcessor:
    """Return the processor of a converted model."""
    vision: Any = config.vision_config
    images = MiniGeminiImageProcessor(
        side=vision.image_size,
        high_res_size=config.high_res_size,
        image_grid=config.image_grid,
        image_global=config.image_global,
    )
    return MiniGeminiProcessor(
        images,
        words.tokenizer,
        chat_template=TEMPLATES[str(words.template)],
        image_seq_length=config.image_seq_length,
    )
