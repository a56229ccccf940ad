"""vLLM in this process, its requests, and what transformers answers with the same tokens."""

import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from sparsight import sparsify

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
LENGTH = 8  # tokens of an answer


def set_environment():
    """Set what vLLM reads when it is imported."""
    os.environ.update(ENVIRONMENT)


@contextmanager
def engine(folder, architecture=None, sparsight=None, **options):
    """Yield an engine; `sparsight` is the server's entry."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    overrides = {} if architecture is None else {"architectures": [architecture]}
    if sparsight is not None:
        overrides["sparsight"] = sparsight
    settings = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "block_size": 32,
        "seed": 0,
        "limit_mm_per_prompt": {"image": 3},
        "hf_overrides": overrides,
    }
    llm = LLM(str(folder), **{**settings, **options})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


@dataclass(frozen=True)
class Request:
    """A request.

    Args:
        text: the prompt, with one placeholder an image.
        images: of PIL.
        retain: the budget of the request; None leaves it to the engine.
    """

    text: str
    images: tuple = ()
    retain: float | None = None

    def given(self):
        """The request as vLLM takes it."""
        made = {"prompt": self.text}
        if self.images:
            made["multi_modal_data"] = {"image": list(self.images)}
        if self.retain is not None:
            made["mm_processor_kwargs"] = {"sparsight_retain": self.retain}
        return made


def ask(llm, requests):
    """Answers of vLLM, greedily: its outputs."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True, detokenize=False)
    return llm.generate([request.given() for request in requests], settings, use_tqdm=False)


def said(outputs):
    """Token ids of answers."""
    return [list(output.outputs[0].token_ids) for output in outputs]


def picture(seed, width=112, height=112):
    """A picture of coloured patches, unlike each other."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (height // 14, width // 14, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


class Reference:
    """transformers with the same tokens cut: what vLLM must answer.

    Args:
        model: of transformers.
        processor: of the checkpoint.
        image: id of the placeholder.
    """

    def __init__(self, model, processor, image):
        self.model, self.processor = model.eval(), processor
        self.image = image
        self.chosen = {}  # kept places by method, image and guide

    @torch.no_grad()
    def answer(self, request, method, behind=None):
        """Token ids of the answer to a request, with a method at the request's budget.

        Args: behind: the text that guides; None for all behind the last image.
        """
        inputs = self.processor(
            text=request.text, images=list(request.images) or None, return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        embeds, positions, extra = self.read(inputs)
        keep = torch.ones(len(ids), dtype=torch.bool)
        visual = (ids == self.image).nonzero().flatten()
        sizes = self.count_tokens(inputs, visual)
        behind = behind or request.text.rpartition(self.processor.image_token)[2]
        for number, own in enumerate(visual.split(sizes)):
            kept = self.choose(
                request.images[number], behind, replace(method, retain=request.retain)
            )
            keep[own] = False
            keep[own[kept]] = True
        return self.decode(ids, embeds, positions, extra, keep)

    def count_tokens(self, inputs, visual):
        """Visual tokens of each image, as transformers counts them."""
        raise NotImplementedError

    def read(self, inputs):
        """Embeddings (L, D), positions (3, L) or None, and features of later layers, dense."""
        raise NotImplementedError

    def choose(self, image, behind, method):
        """What the library keeps of an image alone with the same text behind it."""
        key = (image.tobytes(), image.size, behind, repr(method))  # 1 and 1.0 are equal
        if key not in self.chosen:
            # what stands in front of an image changes nothing
            text = self.wrap(behind)
            inputs = self.processor(text=text, images=[image], return_tensors="pt")
            with sparsify(self.model, method) as run:
                self.model(**inputs)
            sites = run.trace.samples[0]
            total = int((inputs["input_ids"] == self.image).sum())
            self.chosen[key] = sites[-1].keep if sites else torch.arange(total)
        return self.chosen[key]

    def wrap(self, behind):
        """A prompt with one image and the text behind it."""
        return f"USER : {self.processor.image_token}{behind}"

    def decode(self, ids, embeds, positions, extra, keep):
        """Greedy answer to what is left of a prompt."""
        said = []
        base, kept = self.model.model, embeds[keep]
        next_position = 0 if positions is None else int(positions.max()) + 1
        where = None if positions is None else positions[:, keep]
        for _ in range(LENGTH):
            length = len(kept)
            now = torch.arange(length)[None] if where is None else where[:, None]
            hidden = base.language_model(
                inputs_embeds=kept[None], position_ids=now, use_cache=False, **extra(keep, length)
            ).last_hidden_state
            said.append(int(self.model.lm_head(hidden[0, -1]).argmax()))
            new = self.model.get_input_embeddings()(torch.tensor([said[-1]]))
            kept = torch.cat([kept, new])
            if where is not None:
                where = torch.cat([where, torch.full((3, 1), next_position)], dim=1)
                next_position += 1
        return said


class LlavaReference(Reference):
    """LLaVA-1.5: positions are counted anew over what is left."""

    def count_tokens(self, inputs, visual):
        images = len(inputs.get("pixel_values", ()))
        return [len(visual) // images] * images if images else []

    def read(self, inputs):
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])[0]
        if "pixel_values" in inputs:
            features = self.model.model.get_image_features(
                inputs["pixel_values"], return_dict=True
            ).pooler_output
            embeds[inputs["input_ids"][0] == self.image] = torch.cat(list(features))
        return embeds, None, no_extra


class LlavaNextReference(LlavaReference):
    """LLaVA-NeXT: an overview and tiles, in one row of tokens."""

    def count_tokens(self, inputs, visual):
        if "image_sizes" not in inputs:
            return []
        features = self.encode(inputs)
        return [len(image) for image in features]

    def encode(self, inputs):
        return self.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"], return_dict=True
        ).pooler_output

    def read(self, inputs):
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])[0]
        if "pixel_values" in inputs:
            embeds[inputs["input_ids"][0] == self.image] = torch.cat(list(self.encode(inputs)))
        return embeds, None, no_extra


class QwenReference(Reference):
    """Qwen-VL: tokens keep their true positions, and features of later layers are cut with them."""

    def count_tokens(self, inputs, visual):
        if "image_grid_thw" not in inputs:
            return []
        return (inputs["image_grid_thw"].prod(-1) // 4).tolist()

    def read(self, inputs):
        ids = inputs["input_ids"]
        embeds = self.model.get_input_embeddings()(ids)[0]
        if "pixel_values" not in inputs:
            return embeds, torch.arange(ids.shape[1]).expand(3, -1), no_extra
        sizes = inputs["image_grid_thw"]
        made = self.model.model.get_image_features(inputs["pixel_values"], sizes, return_dict=True)
        embeds[ids[0] == self.image] = torch.cat(list(made.pooler_output))
        positions, _ = self.model.model.get_rope_index(
            ids, (ids == self.image).int(), image_grid_thw=sizes
        )
        deep = getattr(made, "deepstack_features", None)
        if deep is None:
            return embeds, positions[:, 0], no_extra
        visual = ids[0] == self.image
        rows = [torch.cat(list(layer)) for layer in deep]

        def extra(keep, length):
            marks = torch.zeros(1, length, dtype=torch.bool)
            marks[0, : int(keep.sum())] = visual[keep]
            return {
                "visual_pos_masks": marks,
                "deepstack_visual_embeds": [layer[keep[visual]] for layer in rows],
            }

        return embeds, positions[:, 0], extra

    def wrap(self, behind):
        return f"USER : <|vision_start|>{self.processor.image_token}{behind}"


def no_extra(keep, length):
    """Nothing is added in later layers."""
    del keep, length
    return {}
