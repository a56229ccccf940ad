"""Threads on one model and on two: each answers as if alone and reads its own stats."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from PIL import Image

from sparsight import Chat, SparseVLM, run_of, sparsify
from sparsight.engine.image_memory import remembered_images
from sparsight.errors import AttachError
from sparsight.methods import Uniform
from tests.evaluate.test_evaluate import TURNS
from tests.support import tiny, tiny_processor
from tests.support.footprint import snapshot

THREADS, ROUNDS = 4, 2
METHOD = SparseVLM(retain=12)
MODES = ("image", "image, no history", "cache", "generate")


@pytest.fixture(scope="module")
def processor():
    return tiny_processor.processor(TURNS)


def warm(seed=0):
    """Return a model that has run once, as transformers hooks an image encoder in its first run."""
    model = tiny.tiny_llava(seed=seed)
    with torch.no_grad():
        model(**tiny.batch([["image", 4]]).inputs)
    return model


def picture(seed):
    pixels = torch.randint(
        0, 256, (tiny.SIDE, tiny.SIDE, 3), generator=torch.Generator().manual_seed(seed)
    )
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def words(seed, count):
    drawn = torch.randint(14, tiny.VOCAB, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{word}" for word in drawn.tolist())


def facts(run):
    """What a caller reads of its last prefill."""
    sites = [
        (site.site, site.keep.tolist(), site.centres.tolist()) for site in run.trace.samples[0]
    ]
    return (
        run.stats.text_tokens,
        run.stats.visual_tokens_per_layer,
        sites,
        run.trace.raters[0].tolist(),
    )


def conversation(model, processor, run, mode, seed):
    """One caller's work: what was said, and what its run says of it after each prompt."""
    said = []
    if mode == "generate":
        for step in range(3):
            inputs = tiny.batch([["image", 5 + (seed + step) % 4]], seed=seed * 10 + step).inputs
            said += [
                model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist(),
                facts(run),
            ]
        return said
    reuse = "cache" if mode == "cache" else "image"
    options = {"max_new_tokens": 3, "do_sample": False}
    talk = Chat(model, processor, reuse=reuse, history=mode != "image, no history", **options)
    for turn in range(3):
        answer = talk.ask(
            words(seed * 10 + turn, 3 + (seed + turn) % 3), [picture(seed)] if turn == 0 else []
        )
        said.append(answer)
        if turn == 0 or mode != "cache":
            said.append(facts(run))
    return said


def in_threads(jobs):
    """Run jobs at once, all started together, and return what each returned."""
    start = threading.Barrier(THREADS)
    threads = torch.get_num_threads()

    def work(own):
        torch.set_num_threads(threads)
        start.wait()
        return [job() for job in own]

    shares = [jobs[number::THREADS] for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, shares))
    return [found[number % THREADS][number // THREADS] for number in range(len(jobs))]


def test_threads_on_one_model_answer_as_if_alone(processor):
    model = warm()
    before = snapshot(model)
    with sparsify(model, METHOD) as run:
        jobs = [
            partial(conversation, model, processor, run, MODES[(seed + number) % 4], seed)
            for number in range(ROUNDS)
            for seed in range(THREADS)
        ]
        alone = [work() for work in jobs]
        assert (
            len({str(said) for said in alone}) > len(alone) // 2
        )  # they differ, so that a mix-up shows
        assert in_threads(jobs) == alone
    assert snapshot(model) == before


def test_threads_on_two_models_answer_as_if_alone(processor):
    models = [warm(), warm(seed=1)]
    before = [snapshot(model) for model in models]
    with sparsify(models[0], METHOD) as first, sparsify(models[1], Uniform(retain=9)) as second:
        runs = [first, second]
        jobs = []
        for number in range(8):
            own = models[number % 2], processor, runs[number % 2], MODES[number // 2 % 4]
            jobs.append(partial(conversation, *own, number))
        alone = [work() for work in jobs]
        assert in_threads(jobs) == alone
    assert [snapshot(model) for model in models] == before


def tensors():
    """Bytes of all tensors that are alive."""
    gc.collect()
    return sum(thing.nbytes for thing in gc.get_objects() if type(thing) is torch.Tensor)


def test_memory_stays_flat(processor):
    model = tiny.tiny_llava()
    with sparsify(model, METHOD) as run:
        jobs = [lambda m=mode: conversation(model, processor, run, m, 1) for mode in MODES]
        sizes = []
        for _ in range(3):
            in_threads(jobs)
            sizes.append(tensors())
    assert max(sizes[1:]) - min(sizes[1:]) < 4096, (
        sizes
    )  # what the last caller holds may differ by a few numbers


def test_a_thread_without_a_prefill_reads_the_newest_one():
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image", 6]]).inputs
    with sparsify(model, METHOD) as run:
        thread = threading.Thread(target=lambda: model.generate(**inputs, max_new_tokens=2))
        thread.start()
        thread.join()
        assert run.stats.visual_tokens == (36,)


def test_rating_holds_for_its_caller_alone():
    model = tiny.tiny_llava()
    inputs, seen = tiny.batch([["image", 9]]).inputs, {}
    with torch.no_grad(), sparsify(model, METHOD) as run:

        def other():
            with torch.no_grad():
                model(**inputs)
            seen["other"] = run.trace.raters[0].tolist()

        model(**inputs)
        plain = run.trace.raters[0].tolist()
        with run.rating(last=1):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            model(**inputs)
            assert run.trace.raters[0].tolist() != plain
    assert seen["other"] == plain


def test_marks_of_a_text_model_are_those_of_the_caller():
    text = tiny.tiny_llava().model.language_model
    masks = [torch.arange(20)[None] < 4 + 4 * number for number in range(THREADS)]
    embeds = torch.randn(1, 20, text.config.hidden_size, dtype=torch.float64)
    with sparsify(text, METHOD, visual_mask=masks[0]) as run:

        def job(mask):
            def work():
                run.visual_mask = mask
                with torch.no_grad():
                    found = [text(inputs_embeds=embeds).last_hidden_state for _ in range(3)]
                return found, run.stats.visual_tokens

            return work

        for (found, count), mask in zip(
            in_threads([job(mask) for mask in masks]), masks, strict=True
        ):
            assert count == (int(mask.sum()),)
            run.visual_mask = mask
            with torch.no_grad():
                assert all(
                    torch.equal(part, text(inputs_embeds=embeds).last_hidden_state)
                    for part in found
                )


def test_images_are_remembered_for_the_caller_alone():
    model = tiny.tiny_llava()
    base = model.model
    one, two = (tiny.batch([["image", 4]], seed=seed).inputs["pixel_values"] for seed in (0, 1))
    plain = vars(base).get("get_image_features")
    inside = threading.Event()
    outside = threading.Event()
    seen = []

    def other():
        inside.wait()
        with torch.no_grad():
            seen.extend(base.get_image_features(pixel_values=two).pooler_output)
        outside.set()

    thread = threading.Thread(target=other)
    thread.start()
    memory = {}
    with torch.no_grad(), remembered_images(base, memory):
        mine = base.get_image_features(pixel_values=one).pooler_output[0]
        inside.set()
        outside.wait()
        assert base.get_image_features(pixel_values=one).pooler_output[0] is mine
    thread.join()
    with torch.no_grad():
        assert torch.equal(seen[0], base.get_image_features(pixel_values=two).pooler_output[0])
    assert vars(base).get("get_image_features") is plain


def test_attaching_at_once_leaves_one_run():
    model = tiny.tiny_llava()
    before = snapshot(model)

    def attach():
        try:
            return sparsify(model, METHOD)
        except AttachError:
            return None

    runs = [run for run in in_threads([attach] * 12) if run is not None]
    assert len(runs) == 1
    assert run_of(model) is runs[0]
    runs[0].detach()
    assert snapshot(model) == before


def test_tasks_after_a_warm_up_do_not_read_its_numbers():
    model = tiny.tiny_llava()
    inputs = [tiny.batch([["image", words]]).inputs for words in (3, 9, 15)]
    with sparsify(model, METHOD) as run:

        def generate(given):
            model.generate(**given, max_new_tokens=2)
            return run.stats.text_tokens

        async def task(given):
            inside = await asyncio.to_thread(generate, given)
            return inside, run.stats.text_tokens

        async def both():
            return await asyncio.gather(task(inputs[1]), task(inputs[2]))

        warm = generate(inputs[0])
        found = asyncio.run(both())
        assert [inside for inside, _ in found] == [(10,), (16,)]
        assert warm not in [
            after for _, after in found
        ]  # a task that handed its prompt on reads the newest
        assert run.stats.text_tokens == warm


def test_a_rule_for_rating_goes_along_to_a_thread_of_the_task():
    model = tiny.tiny_llava()
    inputs = tiny.batch([["image", 9]]).inputs
    with sparsify(model, METHOD) as run:

        def raters():
            model.generate(**inputs, max_new_tokens=1)
            return run.trace.raters[0].tolist()

        async def ruled():
            with run.rating(last=1):
                return await asyncio.to_thread(raters)

        assert len(asyncio.run(ruled())) == 1
        assert raters() != asyncio.run(ruled())
