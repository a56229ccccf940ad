"""What a command prints, and how it ends.

Covers standard output and error in any encoding, the notices of other libraries, errors and exit
codes.
"""

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

# exit codes, as docs/command-line.md lists them
UNEXPECTED = 1
REFUSED = 2
INTERRUPTED = 130
READER_GONE = 141  # the code of a program that SIGPIPE ended
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBADF)


def print_json(document: Any) -> None:
    """Print a JSON document on one line; characters that the output cannot encode are escaped."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document)
    put(text + "\n")


def put(text: str) -> None:
    """Print a result on standard output, in the encoding of standard output.

    `typer.echo` is not used: it writes UTF-8 into some streams of another encoding.

    Raises: OSError: it cannot be written; what is left of it is thrown away.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        _discard_rest(sys.stdout)
        raise


def check_output() -> None:
    """Check, before any work is done, that standard output is open; Python has None if it is not.

    Raises:
        SystemExit: standard output is closed.
    """
    if sys.stdout is None:
        say(
            "error: the output cannot be written: standard output is closed; "
            "send it to a file or to /dev/null."
        )
        sys.exit(UNEXPECTED)


@contextmanager
def escape_unencodable() -> Iterator[None]:
    """Make standard output and error escape characters that they cannot encode."""
    with ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stack.callback(_reconfigure, stream, stream.errors or "strict")
                _reconfigure(stream, "backslashreplace")
        yield


def _reconfigure(stream: Any, errors: str) -> None:
    # reconfigure() flushes: the buffered text may be unwritable, and the stream may be closed
    with suppress(OSError, ValueError):
        stream.reconfigure(errors=errors)


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Hide the warnings, logs and progress bars of other libraries while a command runs.

    Warnings about what was given (`InputWarning`), and about a version of transformers that is
    newer than the tested ones, become notes on standard error.
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
        warnings.showwarning = _print_note
        yield


def _print_note(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"note: {message}")


def say(text: str) -> None:
    """Print one line on standard error, or nothing where standard error cannot be written."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(" ".join(text.split()) + "\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        _discard_rest(sys.stderr)


@contextmanager
def exit_on_error(verbose: bool = False) -> Iterator[None]:
    """Turn an error into one line on standard error and an exit code.

    docs/command-line.md lists the codes.

    Args:
        verbose: whether the traceback of an unexpected error is printed as well.

    Raises:
        typer.Exit: in place of the error.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except SystemExit as error:
        # rich exits with 1 when the reader of a pipe has gone
        if isinstance(error.__context__, BrokenPipeError):
            raise typer.Exit(READER_GONE) from None
        raise
    except (Exception, KeyboardInterrupt) as error:
        code = _report(error, verbose)
        if isinstance(error, OSError):
            _discard_rest(sys.stdout)
        raise typer.Exit(code) from None


def _report(error: BaseException, verbose: bool) -> int:
    """Print why a command ends, and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        say("stopped.")
        return INTERRUPTED
    if isinstance(error, SparsightError):
        say(f"error: {error}")
        return REFUSED
    if hasattr(error, "format_message"):  # typer's errors of usage
        return _report_usage(error)
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


def _report_usage(error: Any) -> int:
    """Print what is wrong with the arguments, or the help where there are none."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    hint = "" if context is None else f"; {context.command_path} --help shows what there is"
    say(f"error: {error.format_message().rstrip('.')}{hint}.")
    return int(error.exit_code)


def _discard_rest(stream: TextIO | None) -> None:
    """Point a stream at /dev/null, so that Python does not fail again when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)
