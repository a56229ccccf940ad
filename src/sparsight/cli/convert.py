"""`sparsight convert-mgm`: makes a folder that can be loaded of one of Mini-Gemini's authors."""
# ruff: noqa: PLC0415

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sparsight.cli.app import Verbose, app, command
from sparsight.cli.choices import CHATS
from sparsight.cli.streams import put, say

Source = Annotated[
    Path, typer.Argument(metavar="IN", help="Folder as the authors publish it, such as MGM-7B.")
]
Target = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist, or be empty.")
]
Tower = Annotated[
    Path | None,
    typer.Option(help="Folder with CLIP's config.json; needed if its heads are not 64 wide."),
]
Chat = Annotated[
    str | None, typer.Option(help=f"Chat template: {CHATS}; default: as the text model asks for.")
]


@app.command(name="convert-mgm")
@command
def convert_command(
    source: Source,
    target: Target,
    *,
    vision_tower: Tower = None,
    chat: Chat = None,
    verbose: Verbose = False,
) -> None:
    """Convert a Mini-Gemini folder, so that transformers and sparsight load it."""
    del verbose
    from sparsight.models.mini_gemini import convert

    is_watched = sys.stderr is not None and sys.stderr.isatty()
    progress = show_progress if is_watched else None
    with interrupted_by_sigterm():
        made = convert(source, target, vision_tower, chat=chat, progress=progress)
    if made.template is None:
        say(
            f"note: {source} has no tokenizer, so {target} has no processor; put the tokenizer's "
            "files into IN and convert again to ask about images."
        )
    chosen = "none" if made.template is None else made.template
    put(
        f"{made.folder}: {made.size / 1e9:.2f} GB of weights, {made.tokens} visual tokens an "
        f"image, chat template {chosen}.\n"
    )


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Have SIGTERM interrupt the block, so that what it wrote so far is removed.

    Outside of the main thread, which alone gets signals, it changes nothing.
    """

    def stop(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_progress(done: int, total: int) -> None:
    """Say how many files of weights are converted."""
    say(f"converted {done} of {total} files of weights.")
