"""`sparsight serve`: the command and its options; what it needs is imported when it runs."""
# ruff: noqa: PLC0415

import sys
import warnings
from contextlib import closing
from typing import Annotated

import typer

from sparsight.cli.app import Device, Model, Verbose, app, command
from sparsight.cli.choices import DTYPES, METHOD_NAMES
from sparsight.cli.streams import put, say
from sparsight.errors import InputWarning, RaterWarning, UnsupportedError

NEEDED = ("fastapi", "uvicorn", "httpx", "prometheus_client")
LIMITS = "Limits"


@app.command(name="serve")
@command
def serve_command(
    *,
    model: Model = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model, in requests; default: as --model, embedded.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"What prunes where a request does not say: dense, {METHOD_NAMES}.",
        ),
    ] = "sparsevlm",
    retain: Annotated[
        str, typer.Option(help="Budget where a request gives none: a count, or a fraction.")
    ] = "192",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SPARSIGHT_API_KEY", show_envvar=True, help="That requests must bring."
        ),
    ] = None,
    remote_images: Annotated[
        bool,
        typer.Option("--remote-images", help="Fetch images of http and https URLs too."),
    ] = False,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Requests answered together.", rich_help_panel=LIMITS)
    ] = 8,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests that wait.", rich_help_panel=LIMITS)
    ] = 64,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of an answer.", rich_help_panel=LIMITS)
    ] = 1024,
    max_images: Annotated[
        int, typer.Option(min=1, help="Images of a request.", rich_help_panel=LIMITS)
    ] = 8,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, help="Of a request's images.", rich_help_panel=LIMITS)
    ] = 25,
    max_body_mb: Annotated[
        float, typer.Option(min=0.01, help="Of a request's body.", rich_help_panel=LIMITS)
    ] = 20,
    queue_seconds: Annotated[
        float, typer.Option(min=0.1, help="That a request waits.", rich_help_panel=LIMITS)
    ] = 60,
    answer_seconds: Annotated[
        float, typer.Option(min=0.1, help="That an answer takes.", rich_help_panel=LIMITS)
    ] = 300,
    body_seconds: Annotated[
        float, typer.Option(min=0.1, help="For a body to arrive.", rich_help_panel=LIMITS)
    ] = 30,
    stop_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="For answers to end after SIGTERM.", rich_help_panel=LIMITS),
    ] = 30,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"dtype of the weights: {DTYPES}; default: their own.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Answer OpenAI's chat completions over HTTP, with every method and budget per request."""
    del verbose
    check_extra()
    from sparsight.cli.inputs import read_device, read_dtype
    from sparsight.cli.load import EMBEDDED, load_model
    from sparsight.cli.method import read_method, read_retain
    from sparsight.evaluate.asking import cast_weights
    from sparsight.serve.server.app import Service
    from sparsight.serve.server.running import bind, run
    from sparsight.serve.server.settings import MEGABYTE, Limits, Settings, is_open

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
    place = read_device(device)
    weights = read_dtype(dtype)
    with closing(bind(host, port)) as bound:  # before the model is loaded, which takes longer
        vlm, processor = load_model(model, place)
        if weights is not None:
            cast_weights(vlm, weights)
        for kind in (InputWarning, RaterWarning):  # what clients send is no event of the server
            warnings.filterwarnings("ignore", category=kind)
        service = Service(vlm, processor, settings)
        if is_open(host) and api_key is None:
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
