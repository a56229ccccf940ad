"""vLLM's OpenAI server as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from tests.support.vllm_engine import ENVIRONMENT

STARTING = 400  # seconds
STOPPING = 120


@contextmanager
def server(folder, architecture, sparsight, *words, log):
    """Yield the address of a server that answers; it is ended after.

    Args: log: file of what it says.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overrides = {"architectures": [architecture], "sparsight": sparsight}
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"),
        *("--hf-overrides", json.dumps(overrides), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "1024", "--max-num-seqs", "12", "--block-size", "32", *words),
    ]
    settings = {**os.environ, **ENVIRONMENT}
    settings.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # as users run it
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=settings)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield Served(f"http://127.0.0.1:{port}", process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url, process, log):
    """Wait until a server answers."""
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


class Served:
    """A server that answers.

    Args:
        url: of the server.
        process: that it is.
    """

    def __init__(self, url, process):
        self.url, self.process = url, process

    def chat(self, image, question, **given):
        """Status and body of a chat completion about one image, given as a data URL."""
        parts = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": question},
        ]
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": 8,
            "temperature": 0,
            **given,
        }
        return self.post("/v1/chat/completions", body)

    def post(self, path, body):
        """Status and body of what is answered."""
        request = urllib.request.Request(  # noqa: S310
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")
