"""Stop words: what a tokenizer makes of them."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparsight.errors import SettingError
from sparsight.methods import MMTok
from sparsight.methods.stop_words import STOP_WORDS, list_stop_ids
from tests.support import tiny_processor

KNOWN = [
    "<unk>",
    "</s>",
    "the",
    "The",
    "Ġthe",
    "ĠThe",
    "un",
    "der",
    "cat",
    "what",
    "ASSISTANT",
    "Ġ",
]


def tokenizer():
    """A tokenizer that marks blanks, as byte-level ones do, and splits what it does not know."""
    merges = [("Ġ", "the"), ("Ġ", "The")]
    letters = sorted({letter for word in KNOWN[2:] for letter in word} - set(KNOWN))
    for word in ("the", "The", "un", "der", "cat", "what", "ASSISTANT"):
        for end in range(1, len(word)):
            left, right = word[:end], word[end]
            merges.insert(0, (left, right))
    merges = sorted(set(merges), key=lambda pair: len(pair[0] + pair[1]))
    names = dict.fromkeys([*KNOWN, *letters, *(a + b for a, b in merges)])
    vocabulary = {name: index for index, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
    )


def test_every_form_of_a_word_and_special_tokens():
    own = tokenizer()
    found = own.convert_ids_to_tokens(list_stop_ids(own))
    assert {"the", "The", "Ġthe", "ĠThe", "what", "</s>"} <= set(found)
    assert "cat" not in found
    assert not {"un", "der"} & set(found)  # the parts of "under" belong to other words
    assert "<unk>" not in found
    ids = list_stop_ids(own)
    assert list(ids) == sorted(set(ids))


def test_what_a_template_writes_can_be_added():
    own = tokenizer()
    (assistant,) = own.encode("ASSISTANT")
    assert assistant not in list_stop_ids(own)
    assert assistant in list_stop_ids(own, (*STOP_WORDS, "ASSISTANT"))


def test_a_real_prompt_keeps_its_words():
    own = tiny_processor.tokenizer()
    skip = list_stop_ids(own)
    ids = own.encode("what color is the shape ?", add_special_tokens=False)
    left = [own.decode([token]) for token in ids if token not in skip]
    assert left == ["color", "shape", "?"]
    assert MMTok(64, skip=skip).skip == skip


def test_no_word_is_listed_twice():
    assert len(set(STOP_WORDS)) == len(STOP_WORDS)
    assert all(word == word.lower() for word in STOP_WORDS)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(SettingError, match="str is no tokenizer; give the processor's tokenizer"):
        list_stop_ids("llava")
