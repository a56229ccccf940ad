"""Reads the JSON of a chat completion, strictly: what would be ignored is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from sparsight.serve.server.errors import RequestError

MOST_VALUES = 200_000  # commas and brackets of a body, texts included; bounds the parsed document
LEAST_TEMPERATURE = 0.001  # below it, logits divided by it leave the range of float32
LONGEST_WORD = 256

# what is not implemented, with the values that ask for nothing beyond what is done anyway
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "top_k": (),
    "min_p": (),
    "repetition_penalty": (),
    "mm_processor_kwargs": (),
}


class Strict(BaseModel):
    """A part of a request: no other fields, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(Strict):
    """Words of a turn."""

    type: Literal["text"]
    text: str


class Link(Strict):
    """Where an image is."""

    url: str
    detail: Literal["auto"] | None = None


class ImagePart(Strict):
    """An image of a turn."""

    type: Literal["image_url"]
    image_url: Link


class Message(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] = Field(
        min_length=1, max_length=64
    )

    @field_validator("content", mode="before")
    @classmethod
    def as_parts(cls, value: Any) -> Any:
        """Return text as a list of one part."""
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @property
    def text(self) -> str:
        """The words of the turn."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def urls(self) -> list[str]:
        """Where its images are."""
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class Pruning(Strict):
    """The field `sparsight`: what prunes this request, and how much is kept."""

    method: str | None = Field(default=None, max_length=LONGEST_WORD)
    retain: Any = None
    settings: dict[str, Any] = Field(default_factory=dict, max_length=32)


class StreamOptions(Strict):
    """What a stream tells."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(Strict):
    """The body of a chat completion."""

    model: str = Field(max_length=LONGEST_WORD)
    messages: list[Message] = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: list[str] = Field(default_factory=list, max_length=4)
    sparsight: Pruning = Pruning()
    # who asks; nothing depends on it
    user: str | None = Field(default=None, max_length=LONGEST_WORD)
    safety_identifier: str | None = Field(default=None, max_length=LONGEST_WORD)
    prompt_cache_key: str | None = Field(default=None, max_length=LONGEST_WORD)

    @field_validator("stop", mode="before")
    @classmethod
    def as_list(cls, value: Any) -> Any:
        """Return one stop text as a list of one."""
        return [value] if isinstance(value, str) else value


def read_request(body: bytes) -> ChatRequest:
    """Return a request's body, checked.

    Raises: RequestError: it is no JSON, or a field is wrong, missing or not supported.
    """
    document = _parse(body)
    fields = {name: value for name, value in document.items() if value is not None}
    for name, neutral in NEUTRAL.items():
        if name in fields and not any(_is_same(fields.pop(name), value) for value in neutral):
            raise _refuse(name)
    if isinstance(fields.get("messages"), list):
        fields["messages"] = [_drop_empty(message) for message in fields["messages"]]
    try:
        request = ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _explain(error) from None
    _check(request)
    return request


def _parse(body: bytes) -> dict[str, Any]:
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        message = f"the body holds more than {MOST_VALUES} values."
        raise RequestError(400, message, code="invalid_json")
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is no JSON: {error}."
        raise RequestError(400, message, code="invalid_json") from None
    if not isinstance(document, dict):
        message = f"the body is a JSON {type(document).__name__}; give an object."
        raise RequestError(400, message, code="invalid_json")
    return document


def _is_same(value: Any, neutral: Any) -> bool:
    """Return whether a value is the neutral one; true is not 1, but 0.0 is 0."""
    kinds = {type(value), type(neutral)}
    return value == neutral and (len(kinds) == 1 or kinds == {int, float})


def _drop_empty(message: Any) -> Any:
    """Return a turn without fields that hold nothing, as clients send an earlier answer back."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None and value != []}


def _refuse(name: str) -> RequestError:
    return RequestError(
        400, f"{name} is not supported; leave it out.", param=name, code="unsupported_parameter"
    )


def _explain(error: ValidationError) -> RequestError:
    """Return the first thing that is wrong as one sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    tags = ("text", "image_url")  # kinds of parts, which pydantic names behind their number
    path = [str(step) for step in first["loc"]]
    path = [step for at, step in enumerate(path) if at != 4 or step not in tags]
    name = ".".join(path)[:LONGEST_WORD]
    if first["type"] == "extra_forbidden":
        return _refuse(name)
    if first["type"] == "missing":
        return RequestError(400, f"{name} is missing.", param=name, code="missing_parameter")
    return RequestError(400, f"{name}: {first['msg']}.", param=name, code="invalid_value")


def _check(request: ChatRequest) -> None:
    """Check what several fields say together."""
    if 0 < request.temperature < LEAST_TEMPERATURE:
        _fail("temperature", f"give 0, or {LEAST_TEMPERATURE} to 2")
    if any(not text or len(text) > LONGEST_WORD for text in request.stop):
        _fail("stop", f"give texts of 1 to {LONGEST_WORD} characters")
    if request.max_tokens and request.max_completion_tokens:
        _fail("max_tokens", "give it or max_completion_tokens, not both")
    if request.stream_options is not None and not request.stream:
        _fail("stream_options", "give it with stream=true")
    _check_turns(request.messages)


def _check_turns(turns: list[Message]) -> None:
    """Check the order of turns, and that each says something."""
    if turns[-1].role != "user":
        _fail("messages", "the last turn must be the user's")
    for number, turn in enumerate(turns):
        name = f"messages.{number}"
        if turn.role == "system" and number:
            _fail(name, "a system turn must be the first")
        if turn.urls and turn.role != "user":
            _fail(name, f"images stand in turns of the user, not of the {turn.role}")
        if not turn.text.strip():
            _fail(name, "a turn needs words, which decide what is kept of its images")


def _fail(name: str, what: str) -> None:
    raise RequestError(400, f"{name}: {what}.", param=name, code="invalid_value")
