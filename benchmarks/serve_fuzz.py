"""Sends thousands of hostile requests to a running server, and looks at what is left behind.

python benchmarks/serve_fuzz.py --requests 10000 --out benchmarks/results/serve-fuzz-cpu.json

The server is a process of its own with the embedded model, started as `sparsight serve` starts it;
it tells at its end which hooks are left on the model. What is sent is drawn by `serve_hostile`.
"""

import argparse
import asyncio
import json
import random
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from serve_bombs import data_url
from serve_hostile import CLOSED, WEIGHTS, Attack, Attacker

from sparsight.bench.timing import collect_facts
from sparsight.models.embedded import load
from sparsight.run import run_of
from sparsight.serve.server.app import Service
from sparsight.serve.server.running import bind, run
from sparsight.serve.server.settings import Limits, Settings

KEY = "key"
BODY = 2_000_000
LONGEST = 120.0  # seconds until a request counts as not answered
HEAD = 300  # bytes that are read of a response before a client leaves
SCENE = Path(__file__).parent.parent / "examples" / "scene.png"
LIMITS = Limits(body_bytes=BODY, body_seconds=3.0, tokens=128, queue=256)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=10_000, help="how many are sent")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--at-once", type=int, default=16, help="connections at the same time")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of the results")
    parser.add_argument("--serve", action="store_true", help="be the server; for internal use")
    return parser.parse_args()


# ---- the server


def serve() -> None:
    """Serve until SIGTERM, then tell what is left on the model."""
    warnings.simplefilter("ignore")
    model, processor = load()
    plain = list_traces(model)
    bound = bind("127.0.0.1", 0)
    service = Service(model, processor, Settings(api_key=KEY, limits=LIMITS))
    run(service, bound, lambda: print(bound.getsockname()[1], flush=True))
    left = list_traces(model)
    print(json.dumps({"before": plain, "after": left}), flush=True)


def list_traces(model: Any) -> dict[str, Any]:
    """Return what a run puts on a model: hooks, attributes, and the run itself.

    Hooks of transformers and torch are not counted; some are put there when a model runs first.
    """
    hooks = 0
    attributes = set()
    for module in model.modules():
        own = vars(module)
        found = [*own["_forward_pre_hooks"].values(), *own["_forward_hooks"].values()]
        homes = [getattr(hook, "__module__", None) or type(hook).__module__ for hook in found]
        hooks += sum(home.split(".")[0] not in ("transformers", "torch") for home in homes)
        attributes |= {name for name in own if "sparsight" in name or name == "generate"}
    return {"hooks": hooks, "attributes": sorted(attributes), "run": run_of(model) is not None}


def watch(process: int) -> dict[str, int]:
    """Return megabytes, threads and open files of a process."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "megabytes": int(status["VmRSS"].split()[0]) // 1024,
        "threads": int(status["Threads"]),
        "files": len(list(Path(f"/proc/{process}/fd").iterdir())),
    }


# ---- the client


async def send(port: int, attack: Attack, patience: float) -> tuple[int, bytes]:
    """Return status and body of a response; status CLOSED where there is none.

    Args:
        port: of the server.
        attack: sent.
        patience: seconds after which a client that leaves does so.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    reading = asyncio.create_task(read(reader, attack, patience))
    try:
        with suppress(ConnectionError):  # refused before all of it was sent
            writer.write(encode(attack))
            await writer.drain()
        return await asyncio.wait_for(reading, LONGEST)
    finally:
        reading.cancel()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def encode(attack: Attack) -> bytes:
    """Return an attack as bytes; a slow one is half of its body."""
    if attack.manner == "raw":
        return attack.body
    headers = {"Host": "here", "Connection": "close", "Content-Length": str(len(attack.body))}
    lines = [f"{attack.method} {attack.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**headers, **attack.headers}.items()]
    half = len(attack.body) // 2 if attack.manner == "slow" else len(attack.body)
    return "\r\n".join([*lines, "", ""]).encode() + attack.body[:half]


async def read(reader: asyncio.StreamReader, attack: Attack, patience: float) -> tuple[int, bytes]:
    """Return status and body of a response, as far as the client stays to read it."""
    data = b""
    stays = attack.manner in ("plain", "slow")
    with suppress(TimeoutError, ConnectionError):
        # a head that never ends gets no response; the others are answered at once
        most = 2.0 if attack.manner == "raw" else patience
        async with asyncio.timeout(LONGEST if stays else most):
            while piece := await reader.read(2**16):
                data += piece
                if not stays and len(data) > HEAD:
                    break
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else CLOSED
    return status, body


class Result:
    """What came back.

    Args:
        number: of requests that are sent.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.statuses: dict[str, Counter[str]] = {}
        self.wrong: list[dict[str, Any]] = []
        self.sent = 0

    def add(self, attack: Attack, status: int, body: bytes) -> None:
        """Note one response."""
        self.sent += 1
        name = "closed" if status == CLOSED else str(status)
        self.statuses.setdefault(attack.kind, Counter())[name] += 1
        if status not in attack.right or not is_shaped(attack, status, body):
            start = attack.body[:200].decode("utf-8", "replace")
            told = body[:200].decode("utf-8", "replace")
            self.wrong.append({"kind": attack.kind, "status": name, "sent": start, "told": told})
            print(self.wrong[-1], file=sys.stderr)
        if self.sent % 1000 == 0:
            print(f"{self.sent} of {self._number}, wrong: {len(self.wrong)}", file=sys.stderr)


def is_shaped(attack: Attack, status: int, body: bytes) -> bool:
    """Return whether an error has the shape of OpenAI's."""
    if attack.manner in ("raw", "leave") or status in (200, CLOSED):
        return True
    try:
        return set(json.loads(body)) == {"error"}
    except ValueError:
        return False


async def probe(port: int) -> list[str]:
    """Return the answers to three requests that are right."""
    attacker = Attacker(0, "embedded", KEY)
    url = data_url(SCENE.read_bytes())
    question = "What color is the fish?"
    asked = [
        attacker.ask(url, text=question, max_tokens=12, sparsight={"method": "dense"}),
        attacker.ask(url, text=question, max_tokens=12, sparsight={"retain": 64}),
        attacker.ask(text="Name a fruit.", max_tokens=12),
    ]
    answers = []
    for body in asked:
        headers = attacker.make("right").headers
        attack = Attack("probe", frozenset({200}), json.dumps(body).encode(), headers=headers)
        status, told = await send(port, attack, LONGEST)
        if status != 200:
            raise RuntimeError(f"a right request got {status}: {told!r}")
        answers.append(json.loads(told)["choices"][0]["message"]["content"])
    return answers


async def read_gauges(port: int) -> dict[str, float]:
    """Return how many requests wait and run, as the server counts them."""
    attack = Attack("metrics", frozenset({200}), method="GET", path="/metrics")
    _, told = await send(port, attack, LONGEST)
    lines = [line.split() for line in told.decode().splitlines() if not line.startswith("#")]
    wanted = ("sparsight_queue_length", "sparsight_running")
    return {line[0]: float(line[1]) for line in lines if line and line[0] in wanted}


async def attack_all(port: int, process: int, args: argparse.Namespace) -> dict[str, Any]:
    """Send everything, and return what came back and what it left."""
    before = await probe(port)
    attacks = Attacker(args.seed, "embedded", KEY, BODY).draw(args.requests)
    patience = random.Random(args.seed)  # noqa: S311
    result = Result(args.requests)
    course = [watch(process)]

    async def work() -> None:
        for attack in attacks:
            # one half leaves at any time, the other one in the middle of the response
            seconds = patience.choice([patience.uniform(0.0, 2.0), LONGEST])
            status, body = await send(port, attack, seconds)
            result.add(attack, status, body)
            if result.sent % max(args.requests // 5, 1) == 0:
                course.append(watch(process))

    start = time.monotonic()
    await asyncio.gather(*[work() for _ in range(args.at_once)])
    seconds = time.monotonic() - start
    await asyncio.sleep(3)
    course.append(watch(process))
    gauges = await read_gauges(port)
    after = await probe(port)
    return {
        "requests": result.sent,
        "seconds": round(seconds, 1),
        "wrong": len(result.wrong),
        "wrong_examples": result.wrong[:20],
        "statuses": summarise(result.statuses),
        "by_kind": {kind: dict(result.statuses.get(kind, {})) for kind in WEIGHTS},
        "process": course,
        "left_in_line": gauges,
        "answers": before,
        "same_answers_afterwards": before == after,
    }


def summarise(statuses: dict[str, Counter[str]]) -> dict[str, int]:
    """Return how often each status came back."""
    total: Counter[str] = Counter()
    for counted in statuses.values():
        total.update(counted)
    return dict(sorted(total.items()))


def main() -> None:
    """Start a server, attack it, and write what happened."""
    args = parse()
    if args.serve:
        serve()
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        try:
            port = int(server.stdout.readline())
            result = asyncio.run(attack_all(port, server.pid, args))
            server.send_signal(signal.SIGTERM)
            left = json.loads(server.stdout.readline())
            code = server.wait(60)
        finally:
            server.kill()
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "facts": collect_facts(torch.device("cpu"), torch.float32),
        "exit_code": code,
        "model": left,
        **result,
    }
    text = json.dumps(document, indent=2) + "\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
