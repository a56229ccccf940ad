"""`sparsight serve` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager


@contextmanager
def started(*words, **environment):
    """Yield a running server: `url`, `port`, and its process as `process`; it is ended after."""
    command = [sys.executable, "-m", "sparsight", "serve", "--port", "0", *map(str, words)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"on (http://.*:(\d+)/v1)$", line.strip())
        assert found, line + process.stderr.read()
        yield Started(process, found[1], int(found[2]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Started:
    """A server that runs.

    Args:
        process: of the server.
        url: of its API.
        port: on which it listens.
    """

    def __init__(self, process, url, port):
        self.process = process
        self.url = url
        self.port = port

    def stop(self):
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)
