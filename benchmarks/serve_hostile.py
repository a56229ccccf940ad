"""Malformed and hostile requests for `sparsight serve`, drawn by a seed, and what must answer them.

Every request says which status is right. Those that cannot be told wrong before the model runs ask
for more tokens than the server allows, so that they are refused after their images and their prompt
were read.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from serve_bombs import data_url, make_bombs, make_files, make_png

from sparsight.methods import methods

Manner = Literal["plain", "slow", "leave", "raw"]

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
CLOSED = 0  # the connection ends without a response
TOO_MANY = 10**6  # tokens, more than any server here allows
REFUSED = frozenset({400})
QUESTION = "what color is the shape ?"


@dataclass(frozen=True)
class Attack:
    """A request, and the statuses that are right.

    Args:
        kind: name of what draws it.
        right: statuses.
        body: sent; with `manner` "raw" all that is sent.
        method: of HTTP.
        path: asked for.
        headers: besides Host, Connection and Content-Length.
        manner: "slow" stops in the middle of the body, "leave" goes away before the end of the
            response, "raw" sends bytes that are no request.
    """

    kind: str
    right: frozenset[int] = REFUSED
    body: bytes = b""
    method: str = "POST"
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    manner: Manner = "plain"


class Attacker:
    """Draws attacks.

    Args:
        seed: of the draws.
        model: name that the server serves.
        key: of the server; "" for none.
        most_body: bytes of a body that the server takes.
    """

    def __init__(self, seed: int, model: str, key: str = "", most_body: int = 2_000_000) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._model = model
        self._headers = {**JSON, **({"Authorization": f"Bearer {key}"} if key else {})}
        self._key = key
        self._most_body = most_body
        self._files = make_files()
        self._bombs = make_bombs()

    def draw(self, number: int, kinds: dict[str, int] | None = None) -> Iterator[Attack]:
        """Yield attacks of all kinds, in a random order.

        Args:
            number: of attacks.
            kinds: weights, by name; None takes WEIGHTS.
        """
        weights = WEIGHTS if kinds is None else kinds
        for kind in self._random.choices(list(weights), list(weights.values()), k=number):
            yield self.make(kind)

    def make(self, kind: str) -> Attack:
        """Return an attack of one kind."""
        made: Attack = getattr(self, f"_make_{kind}")(kind)
        return made

    def ask(self, *urls: str, text: str = QUESTION, **fields: Any) -> dict[str, Any]:
        """Return a request that is right, but for its fields."""
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}} for url in urls
        ]
        parts.append({"type": "text", "text": text})
        turns = [{"role": "user", "content": parts}]
        return {"model": self._model, "messages": turns, "max_tokens": 2, **fields}

    def _attack(self, kind: str, body: Any, right: frozenset[int] = REFUSED, **more: Any) -> Attack:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Attack(kind, right, data, **{"headers": self._headers, **more})

    def _pick_file(self) -> str:
        return data_url(self._random.choice(self._files))

    # ---- JSON

    def _make_right(self, kind: str) -> Attack:
        return self._attack(kind, self.ask(), frozenset({200}))

    def _make_cut_json(self, kind: str) -> Attack:
        whole = json.dumps(self.ask(self._pick_file())).encode()
        return self._attack(kind, whole[: self._random.randrange(len(whole) - 1)])

    def _make_lost_sign(self, kind: str) -> Attack:
        whole = json.dumps(self.ask(data_url(b"x")))
        at = self._random.choice(_find_signs(whole))
        return self._attack(kind, (whole[:at] + whole[at + 1 :]).encode())

    def _make_garbage(self, kind: str) -> Attack:
        size = self._random.choice([1, 10, 1000, 100_000])
        return self._attack(kind, b"\xff" + self._random.randbytes(size))

    def _make_deep(self, kind: str) -> Attack:
        depth = self._random.choice([300, 5_000, 100_000])
        opening = self._random.choice(['{"a":', "[", '{"messages":['])
        return self._attack(kind, (opening * depth).encode())

    def _make_no_object(self, kind: str) -> Attack:
        value = self._random.choice([None, 3, "text", [], [1] * 1000, True, 1e300])
        return self._attack(kind, value)

    def _make_many_values(self, kind: str) -> Attack:
        names = ",".join(f'"f{at}":{at}' for at in range(self._random.choice([1_000, 50_000])))
        return self._attack(kind, b"{" + names.encode() + b"}")

    def _make_odd_text(self, kind: str) -> Attack:
        odd = self._random.choice(["\\ud800", "\\u00", "\\x41", "\n", "\x00"])
        whole = json.dumps(self.ask(text="MARK")).replace("MARK", odd)
        return self._attack(kind, whole.encode("utf-8"))

    # ---- fields

    def _make_wrong_type(self, kind: str) -> Attack:
        body = self.ask()
        wrong: list[Any] = [{}, {"a": 1}, True, 1.5, "text", [None], [[]], -7, 2**80, 10.0**300]
        name = self._random.choice(["max_tokens", "stream", "seed", "stop", "sparsight", "user"])
        fits = {
            "stream": (bool,),
            "stop": (str,),
            "sparsight": (),
            "user": (str,),
            "max_tokens": (),
            "seed": (),
        }[name]
        values = [value for value in wrong if not isinstance(value, fits)]
        if name == "seed":
            values.remove(-7)
        if name == "sparsight":
            values.remove({})
        return self._attack(kind, {**body, name: self._random.choice(values)})

    def _make_wrong_turn(self, kind: str) -> Attack:
        turn = {"role": "user", "content": QUESTION}
        link = {"type": "image_url", "image_url": {"url": data_url(b"x")}}
        turns = [
            [],
            [None],
            ["text"],
            [{}],
            [[]],
            [{**turn, "role": "root"}],
            [{**turn, "role": 3}],
            [{**turn, "content": 3}],
            [{**turn, "content": []}],
            [{**turn, "content": [None]}],
            [{**turn, "content": [{"type": "text"}]}],
            [{**turn, "content": [{"type": "text", "text": 3}]}],
            [{**turn, "content": [{"type": "input_audio", "input_audio": {}}]}],
            [{**turn, "content": [{"type": "file", "file": {}}]}],
            [{**turn, "content": [{"type": "image_url", "image_url": "x"}]}],
            [{**turn, "content": [{"type": "image_url", "image_url": {"url": None}}]}],
            [{**turn, "content": [{**link, "text": "x"}]}],
            [{**turn, "content": [link]}],
            [{**turn, "content": "   "}],
            [{**turn, "content": "what is <image> ?"}],
            [{**turn, "tool_call_id": "x"}],
            [turn, {**turn, "role": "assistant"}],
            [turn, {**turn, "role": "system"}],
            [{"role": "assistant", "content": [link]}, turn],
            [turn] * 300,
        ]
        return self._attack(kind, {**self.ask(), "messages": self._random.choice(turns)})

    def _make_unsupported(self, kind: str) -> Attack:
        fields: list[dict[str, Any]] = [
            {"tools": [{"type": "function", "function": {"name": "x"}}]},
            {"logprobs": True},
            {"n": self._random.randrange(2, 10**6)},
            {"audio": {"voice": "x"}},
            {"response_format": {"type": "json_object"}},
            {"logit_bias": {"5": 100}},
            {"presence_penalty": 1},
            {f"x{self._random.randrange(10**9)}": 1},
            {"__class__": "x"},
            {"sparsight": {"__init__": 1}},
        ]
        return self._attack(kind, self.ask(**self._random.choice(fields)))

    def _make_out_of_range(self, kind: str) -> Attack:
        fields: list[dict[str, Any]] = [
            {"temperature": self._random.choice([-1, 2.1, 1e300, 1e-300])},
            {"top_p": self._random.choice([0, -1, 1.1])},
            {"max_tokens": self._random.choice([0, -1, TOO_MANY, 10**30])},
            {"max_completion_tokens": 3},
            {"seed": self._random.choice([2**63, -(2**70)])},
            {"stop": self._random.choice([[""], ["x"] * 9, ["y" * 10_000]])},
            {"sparsight": {"retain": self._random.choice([0, -1, 1.5, 1e300, True, "x", [1]])}},
            {"user": "x" * 100_000},
        ]
        return self._attack(kind, self.ask(**self._random.choice(fields)))

    def _make_wrong_method(self, kind: str) -> Attack:
        name = self._random.choice(
            [
                "own.py:Own",
                "os:system",
                "/etc/passwd",
                "sparsight.methods:Random",
                "../../x.py:Y",
                "builtins:eval",
                "sparsevlm:recycle=false",
                "__import__('os')",
                "\u202eesrever",
                "x" * 200,
                "",
                " ",
            ]
        )
        return self._attack(kind, self.ask(sparsight={"method": name}))

    def _make_wrong_setting(self, kind: str) -> Attack:
        values: list[Any] = [
            None,
            {},
            [1.5],
            ["x"],
            10**30,
            10.0**300,
            "os:system",
            list(range(1000)),
        ]
        name = self._random.choice(["theta", "sites", "heads", "seed", "tower", "base", "kept"])
        field = {"settings": {name: self._random.choice(values)}}
        method = self._random.choice(["sparsevlm", "divprune", "dart", "fastv", "tome"])
        return self._attack(kind, self.ask(sparsight={"method": method, **field}))

    def _make_odd_setting(self, kind: str) -> Attack:
        """Draw settings that may be right: no status tells beforehand, but 500 is wrong."""
        values: list[Any] = [0, 1, 2, 7, -1, 0.5, 0.99, -0.1, 2**31, 1e9, True, False]
        values += [[0], [1, 2], [3, 2], [5, 9, 12], "mean", "sum", "all", "received", "paper"]
        names = ["tau", "theta", "alpha", "heads", "step", "block", "strips", "window", "ratio"]
        names += ["sites", "kept", "positions", "score", "space", "recycle", "image_pivots", "seed"]
        method = self._random.choice(METHODS)
        pruning = {
            "method": method,
            "retain": self._random.choice([1, 2, 30, 500, 10**6, 0.01, 0.5]),
        }
        if self._random.random() < 0.5:
            pruning["settings"] = {self._random.choice(names): self._random.choice(values)}
        url = self._pick_file()
        body = self.ask(url, max_tokens=1, sparsight=pruning)
        return self._attack(kind, body, frozenset({200, 400}))

    # ---- images

    def _make_cut_image(self, kind: str) -> Attack:
        data = self._random.choice(self._files)
        return self._attack(
            kind, self.ask(data_url(data[: self._random.randrange(len(data) // 2)]))
        )

    def _make_flipped_image(self, kind: str) -> Attack:
        data = bytearray(self._random.choice(self._files))
        for _ in range(self._random.choice([1, 5, 50])):
            data[self._random.randrange(8, len(data))] = self._random.randrange(256)
        return self._attack(kind, self.ask(data_url(bytes(data)), max_tokens=TOO_MANY))

    def _make_bomb(self, kind: str) -> Attack:
        return self._attack(kind, self.ask(data_url(self._random.choice(self._bombs))))

    def _make_large_header(self, kind: str) -> Attack:
        side = self._random.choice([6_000, 65_535, 2**20, 2**31 - 1])
        return self._attack(kind, self.ask(data_url(make_png(side, side, b"x"))))

    def _make_no_image(self, kind: str) -> Attack:
        data = self._random.choice(
            [
                b"",
                b"text",
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                b"%PDF-1.7\n",
                b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
                b"\x89PNG\r\n\x1a\n",
                b"GIF89a",
                b"RIFF\x00\x00\x00\x00WEBP",
                b"\xff\xd8\xff\xe0",
                self._random.randbytes(3_000),
            ]
        )
        return self._attack(kind, self.ask(data_url(data)))

    def _make_wrong_url(self, kind: str) -> Attack:
        url = self._random.choice(
            [
                "",
                "file:///etc/passwd",
                "/etc/passwd",
                "~/.ssh/id_rsa",
                "http://169.254.169.254/latest/meta-data",
                "https://example.org/a.png",
                "ftp://example.org/a.png",
                "javascript:alert(1)",
                "data:image/png,abc",
                "data:text/plain;base64,aGk=",
                "data:image/png;base64,%%%",
                "data:image/png;base64",
                "data:" + "x" * 100_000,
            ]
        )
        return self._attack(kind, self.ask(url))

    def _make_many_images(self, kind: str) -> Attack:
        urls = [self._pick_file()] * self._random.choice([9, 30, 60, 64])
        return self._attack(kind, self.ask(*urls))

    # ---- sizes and HTTP

    def _make_huge_prompt(self, kind: str) -> Attack:
        word = self._random.choice(["w ", "\u20ac", "<|im_start|>", "\u0301", " \n"])
        length = self._random.choice([60_000, 99_999, 200_000])
        text = "x" + (word * length)[:length]
        return self._attack(kind, self.ask(text=text, max_tokens=TOO_MANY))

    def _make_huge_body(self, kind: str) -> Attack:
        body = b" " * (self._most_body + self._random.randrange(1, 100_000))
        return self._attack(kind, body, frozenset({413}))

    def _make_wrong_kind(self, kind: str) -> Attack:
        name = self._random.choice(["text/plain", "multipart/form-data", "", "a" * 500])
        headers = {**self._headers, "Content-Type": name}
        return self._attack(kind, self.ask(), frozenset({415}), headers=headers)

    def _make_wrong_path(self, kind: str) -> Attack:
        path, method, status = self._random.choice(
            [
                ("/", "GET", 404),
                ("/v1/completions", "POST", 404),
                ("/v1/models/../../etc/passwd", "GET", 404),
                ("/v1/models/%2e%2e%2f", "GET", 404),
                ("/docs", "GET", 404),
                ("/openapi.json", "GET", 404),
                (CHAT, "GET", 405),
                (CHAT, "DELETE", 405),
                ("/health", "POST", 405),
                ("/v1/models/gpt", "GET", 404),
            ]
        )
        return self._attack(kind, b"", frozenset({status}), path=path, method=method)

    def _make_wrong_model(self, kind: str) -> Attack:
        name = self._random.choice(["gpt", "../x", "", "x" * 200])
        return self._attack(kind, self.ask(model=name), frozenset({404}))

    def _make_wrong_key(self, kind: str) -> Attack:
        if not self._key:
            return self._make_wrong_path("wrong_path")
        value = self._random.choice(["", "Bearer", f"Bearer {self._key}x", self._key, "Basic eA=="])
        headers = {**JSON, "Authorization": value}
        return self._attack(kind, self.ask(), frozenset({401}), headers=headers)

    # ---- on the wire

    def _make_slow_body(self, kind: str) -> Attack:
        return self._attack(kind, self.ask(), frozenset({408}), manner="slow")

    def _make_left_stream(self, kind: str) -> Attack:
        body = self.ask(stream=True, max_tokens=100, temperature=self._random.choice([0, 1]))
        return self._attack(kind, body, frozenset({200, CLOSED}), manner="leave")

    def _make_left_picture(self, kind: str) -> Attack:
        body = self.ask(self._pick_file(), stream=True, max_tokens=100)
        return self._attack(kind, body, frozenset({200, CLOSED}), manner="leave")

    def _make_left_answer(self, kind: str) -> Attack:
        body = self.ask(max_tokens=100)
        return self._attack(kind, body, frozenset({200, CLOSED}), manner="leave")

    def _make_raw_bytes(self, kind: str) -> Attack:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
        data = self._random.choice(
            [
                self._random.randbytes(200) + b"\r\n\r\n",
                head + b"Content-Length: -5\r\n\r\n",
                head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
                head + b"Transfer-Encoding: gzip\r\n\r\n",
                head + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
                head + b"X Y: 1\r\n\r\n",
                b"GET / HTTP/9.9\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                b"\r\n\r\n\r\n",
                head,
            ]
        )
        return Attack(kind, frozenset({400, 401, CLOSED}), data, manner="raw")


METHODS = [method.name for method in methods()]
# how often each kind is drawn; those that the model answers are rare, as they take its time
WEIGHTS = {
    "right": 2,
    "cut_json": 6,
    "lost_sign": 6,
    "garbage": 4,
    "deep": 4,
    "no_object": 3,
    "many_values": 1,
    "odd_text": 4,
    "wrong_type": 8,
    "wrong_turn": 10,
    "unsupported": 6,
    "out_of_range": 8,
    "wrong_method": 6,
    "wrong_setting": 6,
    "odd_setting": 0.5,
    "cut_image": 8,
    "flipped_image": 6,
    "bomb": 3,
    "large_header": 4,
    "no_image": 6,
    "wrong_url": 6,
    "many_images": 1,
    "huge_prompt": 1,
    "huge_body": 0.5,
    "wrong_kind": 3,
    "wrong_path": 4,
    "wrong_model": 3,
    "wrong_key": 3,
    "slow_body": 1,
    "left_stream": 2,
    "left_picture": 0.3,
    "left_answer": 2,
    "raw_bytes": 5,
}
# those that need sockets
ON_THE_WIRE = ("slow_body", "left_stream", "left_picture", "left_answer", "raw_bytes")


def _find_signs(text: str) -> list[int]:
    """Return where signs of JSON stand outside of strings; the last bracket is one too."""
    inside = False
    places = []
    for at, sign in enumerate(text):
        if sign == '"':
            inside = not inside
        elif not inside and sign in "{}[]:,":
            places.append(at)
    return places
