"""In later turns, what was read of the image encoder is remembered with its features."""

import pytest
import torch

from sparsight import Chat, SparseVLM, sparsify
from sparsight.engine.encoder_needs import KEPT
from sparsight.methods import HiPrune
from sparsight.methods.encoder import EncoderNeed
from sparsight.sequence.encoded import Encoded
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny_processor, tiny_towers
from tests.support.watch import ALL, Watch
from tests.test_chat import FIRST, SECOND, passes, picture

FEW = (EncoderNeed("received"),)


@pytest.fixture
def model():
    return tiny_towers.llava()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor(TURNS)


def chat(model, processor, **more):
    return Chat(model, processor, max_new_tokens=3, do_sample=False, **more)


def same(view, other):
    """Whether two views show the same of the encoder."""
    values, others = view.encoder.values, other.encoder.values
    return values.keys() == others.keys() and all(
        torch.equal(values[need], others[need]) for need in values
    )


def test_a_later_turn_sees_what_the_first_one_saw(model, processor):
    method = Watch(retain=12)
    with sparsify(model, method), passes(model.model.vision_tower) as seen:
        talk = chat(model, processor)
        talk.ask(FIRST, [picture()])
        talk.ask(SECOND)
        talk.ask(FIRST, [picture(1)])
    assert len(seen) == 2  # images are encoded anew where one is added
    first, second, both = method.seen
    assert same(first, second)
    assert first.text.embeds.shape != second.text.embeds.shape
    said = [processor.tokenizer.decode(view.text.ids[0]) for view in method.seen]
    assert FIRST in said[0]
    assert SECOND in said[1]
    assert FIRST not in said[1]
    assert both.encoder.received().shape == (2 * len(first.encoder.received()),)


def test_images_are_encoded_anew_for_a_method_that_reads_more(model, processor):
    talk, methods = chat(model, processor), []
    with passes(model.model.vision_tower) as seen:
        for method in (None, Watch(retain=12, needs=FEW), Watch(retain=12), Watch(retain=12)):
            if method is None:
                talk.ask(FIRST, [picture()])
                continue
            methods.append(method)
            with sparsify(model, method):
                talk.ask(SECOND)
        assert len(seen) == 3  # dense, little, all; the last one finds all
        few = Watch(retain=12, needs=FEW)
        for method in (SparseVLM(retain=20), few):
            with sparsify(model, method):
                talk.ask(SECOND)
        assert len(seen) == 3
        assert few.seen[0].encoder.values.keys() == set(FEW)  # though more is remembered
    assert [view.encoder.values.keys() for method in methods for view in method.seen] == [
        set(FEW),
        set(ALL),
        set(ALL),
    ]


def test_answers_are_those_of_fresh_images(model, processor):
    with sparsify(model, HiPrune(retain=12)) as run:
        talk = chat(model, processor, history=False)
        said = [talk.ask(FIRST, [picture()]), talk.ask(SECOND)]
        kept = run.trace.samples[0][0].keep.tolist()
        fresh = [chat(model, processor).ask(words, [picture()]) for words in (FIRST, SECOND)]
        assert said == fresh
        assert kept == run.trace.samples[0][0].keep.tolist()


@pytest.mark.parametrize("lost", ["attribute", "values"])
def test_signals_lost_between_turns_would_be_noticed(model, processor, lost):
    method = Watch(retain=12)
    with sparsify(model, method), passes(model.model.vision_tower) as seen:
        talk = chat(model, processor)
        talk.ask(FIRST, [picture()])
        ((_, output),) = talk._memory.values()
        if lost == "attribute":
            delattr(output, KEPT)
        else:
            setattr(output, KEPT, Encoded({}, 0))
        talk.ask(SECOND)
    assert len(seen) == 2  # so the test of a later turn fails
    assert same(*method.seen)
