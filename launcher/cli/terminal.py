"""What standard output is: a terminal that may be drawn on, or a pipe or file that gets one fact a line.

Colour is for terminals alone, and not where NO_COLOR is set; nothing is drawn where TERM is ``dumb``. What
others wrote (logs, notes, reasons) is made printable first: no escape sequence of theirs reaches a terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import click

__all__ = [
    "echo",
    "fact",
    "facts",
    "is_terminal",
    "mark",
    "one_line",
    "paint",
    "silence",
    "transfer_bar",
]

_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])"
)

_MARKS: Final = {
    "succeeded": ("✓", "green"),
    "reused": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("✗", "yellow"),
    "skipped": ("-", "bright_black"),
    "pending": ("·", "bright_black"),
}
_UNDER_WAY: Final = ("●", "yellow")


def is_terminal(stream: IO[Any] | None = None) -> bool:
    """Whether ``stream`` (standard output by default, which may be closed) may be drawn on."""
    stream = stream or sys.stdout
    drawable = os.environ.get("TERM") != "dumb"
    return stream is not None and not stream.closed and stream.isatty() and drawable


def paint(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """``text`` in colour on a terminal, as it is elsewhere and where NO_COLOR is set."""
    if not is_terminal() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour, bold=bold or None, dim=dim or None)


def mark(status: str) -> str:
    """A stage's or run's sign: ``✓``, ``✗``, ``●``, ``·`` or ``-``."""
    sign, colour = _MARKS.get(status, _UNDER_WAY)
    return paint(sign, colour)


def one_line(text: str) -> str:
    """``text`` on one line, without escape sequences and control characters."""
    plain = _ESCAPES.sub("", text)
    return "".join(c if c.isprintable() else " " for c in plain).strip()


def fact(name: str, text: str) -> list[str]:
    """``why     killed at its limit``; nothing where there is nothing to say."""
    return [f"{name:<7} {text}"] if text else []


def facts(name: str, texts: Iterable[str]) -> list[str]:
    """One fact a line. On a terminal the name stands before the first alone."""
    alone = is_terminal()
    return [line for at, t in enumerate(texts) for line in fact("" if at and alone else name, t)]


def echo(text: str, *, err: bool = False) -> None:
    """Print a line of a run's progress. A screen that went away is no reason to leave a run.

    From then on nothing more is printed there; everything is in the ledger and the logs.
    """
    try:
        click.echo(text, err=err)
    except OSError:
        silence(err=err)


def silence(*, err: bool = False) -> None:
    """Send what is still to be printed nowhere."""
    stream = sys.stderr if err else sys.stdout
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def transfer_bar(what: str) -> Iterator[Callable[[int, int], object] | None]:
    """Bytes done, of how many, and the rate, on a terminal; None where nothing is drawn. Gone at its end."""
    if not is_terminal():
        yield None
        return
    from rich import progress
    from rich.console import Console
    from rich.markup import escape

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
