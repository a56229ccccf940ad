"""A judge for tests: chat completions on the loopback that may be told to behave badly.

Without orders it says yes where the reference answer stands in the given one.
"""

import json
import re
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

TEXTS = re.compile(r"Reference answer: (.*)\nGiven answer: (.*)\n")


def reply_honestly(prompt):
    """Return a verdict in the form that the prompt asks for."""
    expected, given = (text.strip().lower() for text in TEXTS.search(prompt).groups())
    right = expected.split("<and>")[0] in given
    if "from 0.0" in prompt:
        return "0.8" if right else "0.1"
    return json.dumps({"pred": "yes" if right else "no", "score": 4 if right else 1})


class Fault:
    """One bad turn of the judge, in place of a reply.

    Args:
        status: of HTTP; 0 cuts the connection.
        seconds: that pass before the reply.
        body: raw, in place of a completion.
        location: that a redirect leads to.
    """

    def __init__(self, status=200, seconds=0.0, body=None, location=None):
        self.status = status
        self.seconds = seconds
        self.body = body
        self.location = location


@contextmanager
def run_judge(*orders, always=None, path="/v1/chat/completions"):
    """Yield the address of a judge, and the list of what it was asked.

    Args:
        orders: for the first turns: a text that is replied, or a Fault.
        always: for all later turns; None replies honestly.
        path: that is served; others are not found.
    """
    left = list(orders)
    seen = []
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                order = left.pop(0) if left else always
            if order is None:
                order = reply_honestly(body["messages"][-1]["content"])
            fault = order if isinstance(order, Fault) else Fault()
            time.sleep(fault.seconds)
            if fault.status == 0:
                self.connection.close()
                return
            self.answer(order, fault, body["model"])

        def answer(self, order, fault, model):
            content = order if isinstance(order, str) else "0.5"
            choices = [{"message": {"role": "assistant", "content": content}}]
            text = fault.body or json.dumps({"model": f"{model}-0613", "choices": choices})
            self.send_response(404 if self.path != path else fault.status)
            if fault.location:
                self.send_header("Location", fault.location)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
