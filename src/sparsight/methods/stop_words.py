"""Stop words: token ids that say nothing about an image, for methods that cover the words."""

from collections.abc import Iterable
from typing import Any

from sparsight.errors import SettingError

# the kinds of words that MMTok (arXiv 2508.18264) leaves out, each with its common English words
ARTICLES = ("a", "an", "the")
AUXILIARIES = (
    *("am", "are", "be", "been", "being", "is", "was", "were"),
    *("had", "has", "have", "having", "did", "do", "does", "doing"),
)
PRONOUNS = (
    *("he", "her", "hers", "him", "his", "i", "it", "its", "me", "mine", "my", "our", "ours"),
    *("she", "that", "their", "theirs", "them", "these", "they", "this", "those", "us", "we"),
    *("you", "your", "yours"),
)
QUESTION_WORDS = ("how", "what", "when", "where", "which", "who", "whom", "whose", "why")
CONJUNCTIONS = ("and", "but", "if", "or", "so", "then")
PREPOSITIONS = (
    *("about", "at", "by", "for", "from", "in", "into", "of", "off", "on", "onto", "over", "to"),
    *("under", "with", "without"),
)
STOP_WORDS = (
    *ARTICLES,
    *AUXILIARIES,
    *PRONOUNS,
    *QUESTION_WORDS,
    *CONJUNCTIONS,
    *PREPOSITIONS,
    *("question", "answer"),
)


def list_stop_ids(tokenizer: Any, words: Iterable[str] = STOP_WORDS) -> tuple[int, ...]:
    """Return the ids of stop words and of a tokenizer's special tokens, ascending.

    A word that the tokenizer splits into several tokens is left in, as each of them may belong to
    another word.

    Args:
        tokenizer: of the vision-language model.
        words: in lower case; each is looked up in lower case and capitalised, at the beginning of a
            text and behind a blank. Add what a chat template writes, such as "assistant" and ":".
    Raises: SettingError: the tokenizer does not encode, or names no special tokens.
    """
    encode, special = (getattr(tokenizer, name, None) for name in ("encode", "all_special_ids"))
    if not callable(encode) or special is None:
        raise SettingError(
            f"{type(tokenizer).__name__} is no tokenizer; give the processor's tokenizer, which "
            "encodes text and names its special tokens."
        )
    found = {int(token) for token in special}
    for word in words:
        for form in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
            ids = encode(form, add_special_tokens=False)
            if len(ids) == 1:
                found.add(int(ids[0]))
    # a word that the tokenizer does not know may be any word
    found.discard(getattr(tokenizer, "unk_token_id", None))
    return tuple(sorted(found))
