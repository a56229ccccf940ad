"""What commands print, whatever the encoding of the output; what libraries print meanwhile; and how a command ends."""

import errno
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

import typer

from sparsight.errors import InputWarning, SparsightError

UNEXPECTED, REFUSED, INTERRUPTED = 1, 2, 130
READER_GONE = 141  # as of a program that SIGPIPE ended
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF)


def print_json(document: Any) -> None:
    """Print one JSON document on one line; what the output cannot encode is escaped."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document)
    put(text + "\n")


def put(text: str) -> None:
    """Print a result on standard output, in its own encoding; typer would write UTF-8 into some that are not."""
    sys.stdout.write(text)
    sys.stdout.flush()


def check_output() -> None:
    """Check that there is a standard output, before any work is done for it; Python has none where it was closed.

    Raises: SystemExit: there is none.
    """
    if sys.stdout is None:
        say(
            "error: the output cannot be written: standard output is closed; send it to a file or to /dev/null."
        )
        sys.exit(UNEXPECTED)


@contextmanager
def any_encoding() -> Iterator[None]:
    """Have standard output and error escape what they cannot encode, instead of failing."""
    with ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stack.callback(_reconfigure, stream, stream.errors or "strict")
                _reconfigure(stream, "backslashreplace")
        yield


def _reconfigure(stream: Any, errors: str) -> None:
    with suppress(
        OSError, ValueError
    ):  # what is left to write cannot be written, or the stream is closed
        stream.reconfigure(errors=errors)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the notices of other libraries out of what a person reads, for as long as a command runs.

    Warnings about what was given (`InputWarning`) become notes on standard error.
    """
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - takes seconds

    switch: Any = transformers_logging
    hub = logging.getLogger("huggingface_hub")
    with ExitStack() as stack:
        stack.callback(hub.setLevel, hub.level)
        stack.callback(switch.set_verbosity, switch.get_verbosity())
        if switch.is_progress_bar_enabled():
            stack.callback(switch.enable_progress_bar)
        stack.enter_context(warnings.catch_warnings())
        switch.set_verbosity(logging.ERROR)
        switch.disable_progress_bar()
        hub.setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=InputWarning)
        warnings.filterwarnings("always", message="transformers .* is newer", category=UserWarning)
        warnings.showwarning = _note
        yield


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"note: {message}")


def say(text: str) -> None:
    """Print one line on standard error, if anybody can read it."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(" ".join(text.split()) + "\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        _leave(sys.stderr)


@contextmanager
def told(verbose: bool = False) -> Iterator[None]:
    """Have an error end the command: one line on standard error and an exit code, as docs/command-line.md lists them.

    Raises: typer.Exit: in place of any error.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except SystemExit as error:
        if isinstance(
            error.__context__, BrokenPipeError
        ):  # rich ends a program whose reader is gone with 1
            raise typer.Exit(READER_GONE) from None
        raise
    except (Exception, KeyboardInterrupt) as error:
        code = _tell(error, verbose)
        if isinstance(error, OSError):
            _leave(sys.stdout)
        raise typer.Exit(code) from None


def _tell(error: BaseException, verbose: bool) -> int:
    """Say why a command ends, and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        say("stopped.")
        return INTERRUPTED
    if isinstance(error, SparsightError):
        say(f"error: {error}")
        return REFUSED
    if hasattr(error, "format_message"):  # wrong usage, told by typer
        return _tell_usage(error)
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        say(f"error: the output cannot be written: {error.strerror}.")
        return UNEXPECTED
    if verbose:
        with suppress(OSError, ValueError):
            traceback.print_exception(error, file=sys.stderr)
    hint = "" if verbose else " Give --verbose behind the command to see where it comes from."
    say(f"error: unexpected {type(error).__name__}: {str(error).rstrip('.')}.{hint}")
    return UNEXPECTED


def _tell_usage(error: Any) -> int:
    """Say what is wrong with the words given; a bare command shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = "" if context is None else f"; {context.command_path} --help shows what there is"
    say(f"error: {error.format_message().rstrip('.')}{hint}.")
    return int(error.exit_code)


def _leave(stream: TextIO | None) -> None:
    """Send what a stream still holds nowhere, so that Python does not fail on it again when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)
