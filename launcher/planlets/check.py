"""A tag file held to its rules: counts, and the first of what is wrong.

Rules:

1. A tag file has at least one planlet. Each is an object with a ``planlet_id``: text, not empty, and no
   other planlet's of the file. With a schema it is held to that too.
2. The outcome follows from the file's and the schema's bytes alone. One thing wrong is enough to reject.
3. Memory does not grow with a line's length or with the number of errors, only by some 100 bytes for each
   planlet, to know its id again. Messages are cut to ``MESSAGE_CHARACTERS`` and printable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from launcher.planlets.pieces import Form, Piece, form_of, pieces
from launcher.planlets.schema import Schema
from launcher.planlets.strict import NotStrictError, parse_strict

__all__ = ["KEPT_PROBLEMS", "Checked", "Problem", "check", "nothing_written", "printable"]

#: So many problems are kept with their messages; all are counted.
KEPT_PROBLEMS: Final = 20
#: Of one planlet at most so many problems are counted.
PROBLEMS_EACH: Final = 10
MESSAGE_CHARACTERS: Final = 300
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Problem:
    """``line`` counts from 1; ``index``, from 0, is given for an array; both None where there is no file."""

    line: int | None
    index: int | None
    message: str

    def __str__(self) -> str:
        at = f"line {self.line}" if self.line is not None else "the tag file"
        return f"{at}{f' [{self.index}]' if self.index is not None else ''}: {self.message}"


@dataclass(slots=True)
class Checked:
    """What came of a check. ``valid`` counts planlets with nothing wrong, ``duplicates`` ids that came before."""

    form: Form = "lines"
    planlets: int = 0
    valid: int = 0
    errors: int = 0
    duplicates: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong."""
        return not self.errors

    def counts(self) -> dict[str, int]:
        """As events and documents keep them."""
        return {
            "planlets": self.planlets,
            "valid": self.valid,
            "errors": self.errors,
            "duplicates": self.duplicates,
        }

    def add(self, line: int | None, index: int | None, message: str) -> None:
        """Count a problem, and keep it if it is one of the first."""
        self.errors += 1
        if len(self.problems) < KEPT_PROBLEMS:
            place = index if self.form == "array" else None
            self.problems.append(Problem(line, place, printable(message)))


def printable(text: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """``text`` on one line, nothing in it that a terminal or canonical JSON could not take, its middle cut."""
    if len(text) > limit:
        head = limit // 2
        text = f"{text[:head]} … {text[-(limit - head - 3) :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nothing_written() -> Checked:
    """The outcome where the relabel stage left no tag file."""
    checked = Checked()
    checked.add(None, None, "the relabel stage did not write it")
    return checked


def check(file: BinaryIO, schema: Schema | None = None) -> Checked:
    """Hold a seekable file, open at its start, to the rules. Raises UsageError where the schema cannot be applied."""
    checked = Checked()
    if file.read(len(_BOM)) == _BOM:
        checked.add(1, None, "it begins with a byte order mark; JSON has none")
    else:
        file.seek(0)
    checked.form = form_of(file)
    seen: dict[int, int] = {}
    for piece in pieces(file, checked.form):
        checked.planlets += piece.index is not None
        before = checked.errors
        for line, message in _problems(piece, schema, seen, checked):
            checked.add(line, piece.index, message)
        checked.valid += piece.index is not None and checked.errors == before
    if not checked.planlets and not checked.errors:
        checked.add(1, None, "there is no planlet in it")
    return checked


def _problems(
    piece: Piece, schema: Schema | None, seen: dict[int, int], checked: Checked
) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of one planlet."""
    if piece.raw is None:
        yield piece.line, piece.problem
        return
    try:
        planlet = parse_strict(piece.raw)
    except NotStrictError as exc:
        yield piece.line + exc.line - 1, exc.reason
        return
    if not isinstance(planlet, dict):
        yield piece.line, f"a planlet is an object, not {_kind(planlet)}"
        return
    bad_id = _id_problem(planlet, piece, seen, checked)
    if bad_id:
        yield piece.line, bad_id
    if schema is not None:
        for path, message in schema.problems(planlet, PROBLEMS_EACH):
            # The id is judged already; what a schema says of the same is not said twice.
            if not (bad_id and path == "planlet_id"):
                yield piece.line, f"{printable(path, 100)}: {message}" if path else message


def _id_problem(
    planlet: dict[str, Any], piece: Piece, seen: dict[int, int], checked: Checked
) -> str | None:
    if "planlet_id" not in planlet:
        return "it has no planlet_id"
    value = planlet["planlet_id"]
    if not isinstance(value, str):
        return f"its planlet_id is {_kind(value)}, not text"
    if not value:
        return "its planlet_id is empty"
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        return "its planlet_id is no Unicode text: it has half a surrogate pair"
    key = int.from_bytes(hashlib.blake2b(raw, digest_size=16).digest())
    lines = checked.form == "lines"
    if key in seen:
        checked.duplicates += 1
        first = f"line {seen[key]}" if lines else f"[{seen[key]}]"
        return f"planlet_id {printable(value, 80)!r} is that of {first} too"
    seen[key] = piece.line if lines else piece.index or 0
    return None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"
