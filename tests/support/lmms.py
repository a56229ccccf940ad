"""Modules with the names that the plug-in takes from lmms-eval, and requests as it makes them."""

from dataclasses import dataclass, field
from types import ModuleType

from PIL import Image

TASK = "shapes"
GREEDY = {"max_new_tokens": 6, "do_sample": False, "temperature": 0, "until": []}


@dataclass
class Instance:
    """A request of a chat model."""

    arguments: tuple
    metadata: dict = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple = ()


class CacheHook:
    """Remembers what it was given."""

    def __init__(self):
        self.kept = []

    def add_partial(self, kind, request, answer):
        self.kept.append((kind, request, answer))


class lmms:
    is_simple = True

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.cache_hook = CacheHook()
        self.task_dict = {}

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size

    def clean(self):
        self.cleaned = True


class ChatMessages:
    """Messages of parts with a `url`, turned into those of chat templates."""

    def __init__(self, messages):
        self.messages = messages

    def to_hf_messages(self):
        return [
            {"role": turn["role"], "content": [*map(_rename, turn["content"])]}
            for turn in self.messages
        ]


def _rename(part):
    kind = part["type"]
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    named = {"type": kind, kind: part["url"]}
    return named | {name: part[name] for name in ("video_start", "video_end") if name in part}


class Logger:
    """Remembers warnings as loguru would print them."""

    def __init__(self):
        self.warnings = []

    def warning(self, text, *values):
        self.warnings.append(text.format(*values))


def make_modules():
    """Return the modules by name; `log_metrics` appends to `logged` of its module."""
    metrics = {"logged": []}

    def log_metrics(**values):
        metrics["logged"].append(values)

    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "GenerationResult": GenerationResult,
            "TokenCounts": TokenCounts,
        },
        "lmms_eval.api.model": {"lmms": type("lmms", (lmms,), {})},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.models.model_utils.gen_metrics": metrics | {"log_metrics": log_metrics},
        "lmms_eval.protocol": {"ChatMessages": ChatMessages},
        "loguru": {"logger": Logger()},
    }
    modules = {}
    for name, values in contents.items():
        module = modules[name] = ModuleType(name)
        vars(module).update(values)
    return modules


def picture(shade=90):
    """Return an image that is not of one colour."""
    image = Image.linear_gradient("L").resize((40, 30))
    return image.point(lambda value: (value + shade) % 256).convert("RGB")


def messages(text="what color is the shape ?", *images, kind="image"):
    """Return the messages of one question."""
    parts = [{"type": kind, "url": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def requests(model, rows, asked=None):
    """Return requests of a task, whose documents are put where a model finds them.

    Args:
        model: that is asked.
        rows: messages of each question.
        asked: `generation_kwargs`, of all questions or a list of each.
    """
    model.task_dict[TASK] = {"test": list(rows)}
    options = asked if isinstance(asked, list) else [asked or GREEDY] * len(rows)
    return [
        Instance((f"question {index}", _show, dict(options[index]), index, TASK, "test"))
        for index in range(len(rows))
    ]


def _show(document):
    return document
