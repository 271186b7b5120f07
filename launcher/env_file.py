"""The text of an ``.env`` file: bytes in, variables with their lines out. Nothing is executed or interpolated.

Rules:

1. Parsed by python-dotenv's parser with its interpolation left out: ``${RUN_ID:-x}`` stays as it is written.
   In single quotes only ``\\'`` and ``\\\\`` are escapes; in double quotes also ``\\"`` and the ``\\n`` family.
2. What is wrong is said with file and line. A line that is no assignment may be a piece of a secret (a key
   pasted without quotes), so no message shows more of one than the name before its ``=``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream

from launcher.errors import UsageError

__all__ = ["NAME", "Assignment", "parse_assignments", "read_text"]

LIMIT_BYTES: Final = 1024 * 1024
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_ASSIGNED = re.compile(r"\s*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(['\"]?)")
_NEWLINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One ``NAME=VALUE``; ``line`` from 1. ``swallowed`` is the (line, key) of an assignment inside its quotes."""

    name: str
    value: str
    line: int
    swallowed: tuple[int, str] | None = None


def read_text(path: Path) -> str:
    """The text of a config file, line ends made ``\\n``. Raises UsageError, with the line where it has one."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError as exc:
        raise UsageError(f"no config {path}", "--config names an .env file") from exc
    except IsADirectoryError as exc:
        raise UsageError(f"config {path} is a folder", "--config names an .env file") from exc
    except OSError as exc:
        raise UsageError(f"config {path} cannot be read: {exc.strerror}") from exc
    if len(data) > LIMIT_BYTES:
        raise UsageError(f"config {path} is larger than {LIMIT_BYTES} bytes", "is it an .env file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{path}:{line}: byte {exc.start} is not UTF-8 text") from exc
    return text.replace("\r\n", "\n")


def parse_assignments(text: str, path: str, known: Collection[str]) -> list[Assignment]:
    """The assignments of ``text``, in order, each name once. Raises UsageError with ``path:line``.

    ``known`` are the names that are looked for inside a quoted value, where a forgotten quote hides them.
    """
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise UsageError(f"{path}:{line}: a NUL byte is not allowed")
    found: dict[str, Assignment] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.line + _leading_lines(binding)
        if binding.error:
            raise UsageError(f"{path}:{line}: {_complaint(binding)}")
        if binding.key is None:
            continue
        name = binding.key
        if binding.value is None:
            raise UsageError(f"{path}:{line}: there is no '=' on this line", "NAME=VALUE")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{path}:{line}: what stands before '=' is no variable name",
                "letters, digits and _, first no digit",
            )
        if name in found:
            raise UsageError(
                f"{path}:{line}: {name} is set twice, first on line {found[name].line}"
            )
        found[name] = Assignment(name, binding.value, line, _swallowed(binding, line, known))
    return list(found.values())


def _leading_lines(binding: Binding) -> int:
    """dotenv counts from where the previous binding ended; blank lines before the key are not its own."""
    original = binding.original.string
    return len(_NEWLINE.findall(original[: len(original) - len(original.lstrip())]))


def _complaint(binding: Binding) -> str:
    found = _ASSIGNED.match(binding.original.string)
    if found is None:
        return "this line is no NAME=VALUE"
    if not found[2]:
        return f"the value of {found[1]} cannot be parsed"
    return (
        f"the value of {found[1]} has no closing {found[2]}, or more text after it "
        rf"(within {found[2]} write \{found[2]})"
    )


def _swallowed(binding: Binding, line: int, known: Collection[str]) -> tuple[int, str] | None:
    lines = _NEWLINE.split(binding.original.string.strip())
    for offset, text in enumerate(lines[1:], start=1):
        found = _ASSIGNED.match(text)
        if found and found[1] in known:
            return line + offset, found[1]
    return None
