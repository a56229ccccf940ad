"""VQA accuracy, by which TextVQA is scored: answers are normalised, then compared with ten others.

Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015, and its evaluation code, in the
    form that TextVQA's servers use.
"""

import re
from collections import Counter
from collections.abc import Sequence

ENOUGH = 3  # people with the same answer that make it fully right
ARTICLES = ("a", "an", "the")
NUMBERS = "none zero one two three four five six seven eight nine ten"
DIGITS = {word: str(max(number - 1, 0)) for number, word in enumerate(NUMBERS.split())}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # that the evaluation code takes out of one answer
# Spelt right; each is also found where one of its apostrophes is missing.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _list_spellings() -> dict[str, str]:
    """Return the right spelling of each contraction by each wrong one."""
    spellings = {"somebody'd": "somebodyd"}  # the other way round in the evaluation code
    for word in CONTRACTED.split():
        for at, letter in enumerate(word):
            if letter == "'":
                spellings[word[:at] + word[at + 1 :]] = word
    return spellings


SPELLINGS = _list_spellings()


def normalise(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles.

    Numbers up to ten become digits, contractions get their apostrophe.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = [DIGITS.get(word, word) for word in _strip_marks(text).split()]
    return " ".join(SPELLINGS.get(word, word) for word in words if word not in ARTICLES)


def _strip_marks(text: str) -> str:
    """Return a text without punctuation: beside a space it goes, within a word it is a space."""
    result = text
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside else " ")
    return PERIOD.sub("", result, count=MOST_PERIODS)


def mark_vqa(answer: str, target: Sequence[str]) -> float:
    """Return how right an answer is, in 0..1.

    For each of the expected answers, it is compared with the others: three that agree are enough.

    Args: target: what people answered, ten of them in TextVQA.
    """
    expected = [normalise(one) for one in target]
    same = Counter(expected)[normalise(answer)]
    own = [same - (one == normalise(answer)) for one in expected]
    return sum(min(1.0, count / ENOUGH) for count in own) / len(expected)
