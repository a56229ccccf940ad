"""`sparsight serve`: the command and its options; what it needs is imported when it runs."""
# ruff: noqa: PLC0415

import sys
import warnings
from contextlib import closing
from typing import Annotated, Any

import typer

from sparsight.cli.app import Device, Model, Verbose, app, command
from sparsight.cli.choices import DTYPES, METHOD_NAMES
from sparsight.cli.streams import put, say
from sparsight.errors import InputWarning, RaterWarning, UnsupportedError

NEEDED = ("fastapi", "uvicorn", "httpx", "prometheus_client")


Name = Annotated[
    str | None, typer.Option(help="Of the model, in requests; default: as --model, embedded.")
]
MethodOption = Annotated[
    str,
    typer.Option(help=f"What prunes where a request does not say: dense, {METHOD_NAMES}."),
]
Retain = Annotated[
    str, typer.Option(help="Budget where a request gives none: a count, or a fraction.")
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Key = Annotated[
    str | None,
    typer.Option(envvar="SPARSIGHT_API_KEY", show_envvar=True, help="That requests must bring."),
]
Remote = Annotated[
    bool, typer.Option("--remote-images", help="Fetch images of http and https URLs too.")
]
Dtype = Annotated[
    str | None, typer.Option(help=f"dtype of the weights: {DTYPES}; default: their own.")
]


def _limit(text: str, least: float) -> Any:
    """Return the option of a limit."""
    return typer.Option(min=least, help=text, rich_help_panel="Limits")


Batch = Annotated[int, _limit("Requests answered together.", 1)]
Queue = Annotated[int, _limit("Requests that wait.", 1)]
Tokens = Annotated[int, _limit("Tokens of an answer.", 1)]
Images = Annotated[int, _limit("Images of a request.", 1)]
Megapixels = Annotated[float, _limit("Of a request's images.", 0.01)]
BodySize = Annotated[float, _limit("Of a request's body.", 0.01)]
Waiting = Annotated[float, _limit("That a request waits.", 0.1)]
Answering = Annotated[float, _limit("That an answer takes.", 0.1)]
Arriving = Annotated[float, _limit("For a body to arrive.", 0.1)]
Stopping = Annotated[float, _limit("For answers to end after SIGTERM.", 0.1)]


@app.command(name="serve")
@command
def serve_command(
    *,
    model: Model = None,
    name: Name = None,
    method: MethodOption = "sparsight",
    retain: Retain = "192",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Key = None,
    remote_images: Remote = False,
    max_batch: Batch = 8,
    max_queue: Queue = 64,
    max_tokens: Tokens = 1024,
    max_images: Images = 8,
    max_megapixels: Megapixels = 25,
    max_body_mb: BodySize = 20,
    queue_seconds: Waiting = 60,
    answer_seconds: Answering = 300,
    body_seconds: Arriving = 30,
    stop_seconds: Stopping = 30,
    device: Device = None,
    dtype: Dtype = None,
    verbose: Verbose = False,
) -> None:
    """Answer OpenAI's chat completions over HTTP, with a method and budget per request."""
    del verbose
    check_extra()
    from sparsight.cli.inputs import read_device, read_dtype
    from sparsight.cli.load import EMBEDDED
    from sparsight.cli.method import read_method, read_retain
    from sparsight.serve.server.settings import MEGABYTE, Limits, Settings

    limits = Limits(
        body_bytes=int(max_body_mb * MEGABYTE),
        body_seconds=body_seconds,
        images=max_images,
        pixels=int(max_megapixels * MEGABYTE),
        tokens=max_tokens,
        queue=max_queue,
        queue_seconds=queue_seconds,
        answer_seconds=answer_seconds,
        batch=max_batch,
        stop_seconds=stop_seconds,
    )
    settings = Settings(
        name=name or model or EMBEDDED,
        method=None if method == "dense" else read_method(method, retain, paper=False),
        retain=read_retain(retain),
        api_key=api_key,
        remote_images=remote_images,
        limits=limits,
    )
    _serve(settings, model, read_device(device), read_dtype(dtype), host=host, port=port)


def _serve(
    settings: Any, model: str | None, place: Any, dtype: Any, *, host: str, port: int
) -> None:
    """Load the model, and serve it until a signal ends that."""
    from sparsight.cli.load import load_model
    from sparsight.evaluate.asking import cast_weights
    from sparsight.serve.server.app import Service
    from sparsight.serve.server.running import bind, run
    from sparsight.serve.server.settings import is_open

    with closing(bind(host, port)) as bound:  # before the model is loaded, which takes longer
        vlm, processor = load_model(model, place)
        if dtype is not None:
            cast_weights(vlm, dtype)
        for kind in (InputWarning, RaterWarning):  # what clients send is no event of the server
            warnings.filterwarnings("ignore", category=kind)
        service = Service(vlm, processor, settings)
        if is_open(host) and settings.api_key is None:
            say(f"note: whoever reaches {host} can use this server; --api-key asks for a key.")
        address, at = bound.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        run(service, bound, lambda: put(f"Serving {settings.name} on http://{shown}:{at}/v1\n"))


def check_extra() -> None:
    """Check that the packages of the extra are here.

    Raises: UnsupportedError: one is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in NEEDED if name not in sys.modules and find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"sparsight serve needs {', '.join(missing)}, not installed here; "
            'run: pip install "sparsight[serve]"'
        )
