"""Later turns of a chat: after an error, at another scale, with other weights, without an end."""

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor

from sparsight import Chat, SparseVLM, sparsify
from sparsight.engine.turns import position_offset, restore_position_offset
from sparsight.errors import PromptError
from sparsight.methods import Downscale
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny, tiny_processor
from tests.test_chat import FIRST, SECOND, picture

METHOD = SparseVLM(retain=12)


@pytest.fixture
def model():
    return tiny.tiny_llava()


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor(TURNS)


class Trap(LogitsProcessor):
    """Raises at the second token once it is set."""

    def __init__(self):
        self.error, self.steps = None, 0

    def __call__(self, input_ids, scores):
        self.steps += 1
        if self.error is not None and self.steps == 2:
            error, self.error = self.error, None
            raise error
        return scores

    def set(self, error):
        self.error, self.steps = error, 0


def chat(model, processor, **options):
    return Chat(model, processor, max_new_tokens=4, do_sample=False, **options)


@pytest.mark.parametrize(
    "error", [ValueError("stop"), KeyboardInterrupt()], ids=["error", "interrupt"]
)
@pytest.mark.parametrize("reuse", ["cache", "image"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_turn_that_breaks_off_can_be_asked_again(model, processor, error, reuse, sparse):
    def talk(broken):
        trap = Trap()
        talking = chat(model, processor, reuse=reuse, logits_processor=[trap])
        said = [talking.ask(FIRST, [picture()])]
        if broken:
            trap.set(error)
            with pytest.raises(type(error)):
                talking.ask(SECOND)
        return [*said, talking.ask(SECOND), talking.ask(FIRST)]

    if not sparse:
        assert talk(broken=True) == talk(broken=False)
        return
    with sparsify(model, METHOD):
        assert talk(broken=True) == talk(broken=False)


def test_a_cache_that_cannot_be_cut_back_ends_the_conversation(model, processor, monkeypatch):
    monkeypatch.setattr("sparsight.chat.cut_back", lambda *_: None)
    trap = Trap()
    talk = chat(model, processor, reuse="cache", logits_processor=[trap])
    talk.ask(FIRST, [picture()])
    trap.set(ValueError("stop"))
    with pytest.raises(ValueError, match="stop"):
        talk.ask(SECOND)
    with pytest.raises(PromptError, match=r"half written.*start a new Chat"):
        talk.ask(SECOND)


def test_an_end_that_a_given_config_leaves_open(model, processor):
    model.generation_config.eos_token_id = 2
    given = {"max_new_tokens": 4, "do_sample": False, "forced_eos_token_id": 2}
    plain = Chat(model, processor, reuse="cache", **given)
    config = Chat(model, processor, reuse="cache", generation_config=GenerationConfig(**given))
    for talk in (plain, config):
        talk.ask(FIRST, [picture()])
        talk.ask(SECOND)
    assert torch.equal(plain._sequence, config._sequence)


def test_remembered_images_are_those_of_the_scale(model, processor):
    small, large = Downscale(retain=4), Downscale(retain=9)

    def asked(*steps):
        """Ask two questions, each under a method or none; return answers and features."""
        talk, said = chat(model, processor), []
        for question, method in zip((FIRST, SECOND), steps, strict=True):
            images = [] if said else [picture()]
            if method is None:
                said.append(talk.ask(question, images))
            else:
                with sparsify(model, method):
                    said.append(talk.ask(question, images))
        return talk._memory["get_image_features"][1].pooler_output[0]

    dense = asked(None, None)
    assert torch.equal(asked(small, None), dense)
    assert torch.equal(asked(None, large), asked(large, large))
    assert torch.equal(asked(small, large), asked(large, large))
    assert not torch.equal(asked(small, small), asked(large, large))


def test_images_are_encoded_anew_by_other_weights(model, processor):
    talk = chat(model, processor)
    talk.ask(FIRST, [picture()])
    before = talk._memory["get_image_features"][1].pooler_output[0]
    talk.ask(SECOND)
    assert talk._memory["get_image_features"][1].pooler_output[0] is before
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.mul_(2)
    talk.ask(FIRST)
    assert not torch.equal(talk._memory["get_image_features"][1].pooler_output[0], before)


def test_the_offset_of_a_prompt_comes_back():
    base, plain = nn.Module(), nn.Module()
    base.rope_deltas = torch.tensor([[3]])
    offset = position_offset(base)
    base.rope_deltas = torch.tensor([[7]])
    restore_position_offset(base, offset)
    assert base.rope_deltas.item() == 3
    restore_position_offset(plain, position_offset(plain))
    assert "rope_deltas" not in vars(plain)
