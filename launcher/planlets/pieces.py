"""A tag file cut into its planlets, one at a time, in bounded memory.

Rules:

1. A file whose first character, white space aside, is ``[`` is a JSON array; any other is JSON Lines.
2. Nothing is parsed here. Of an array only strings and brackets are followed, so that one broken planlet
   does not hide the next; lines end at a newline and at nothing else, and blank ones are passed over.
3. A planlet of more than ``LIMIT_BYTES`` is passed over and said; no more than that is ever held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

__all__ = ["LIMIT_BYTES", "Form", "Piece", "form_of", "pieces"]

#: What one planlet may take. Parsed, the worst of them needs some 30 times as much memory.
LIMIT_BYTES: Final = 4 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
#: JSON's own white space (RFC 8259, section 2).
_SPACE: Final = b" \t\r\n"
_TOO_LONG: Final = f"it is longer than {LIMIT_BYTES // 1024**2} MiB"
_OUTSIDE: Final = re.compile(rb'["\[\]{},]')
_IN_STRING: Final = re.compile(rb'["\\]')

Form = Literal["lines", "array"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One planlet's bytes, or what is wrong where one should be (``problem``; ``raw`` is then None).

    ``index`` counts planlets from 0, and is None for what is wrong with the file itself; ``line``, from 1,
    is where it begins.
    """

    index: int | None
    line: int
    raw: bytes | None
    problem: str = ""


def form_of(file: BinaryIO) -> Form:
    """Which of the two the rest of a seekable file is; an empty one counts as JSON Lines. Does not move it."""
    start = file.tell()
    found: Form = "lines"
    while chunk := file.read(_CHUNK_BYTES):
        if text := chunk.lstrip(_SPACE):
            found = "array" if text.startswith(b"[") else "lines"
            break
    file.seek(start)
    return found


def pieces(file: BinaryIO, form: Form) -> Iterator[Piece]:
    """The planlets of ``file``, read from where it stands, in order."""
    return _lines(file) if form == "lines" else _elements(file)


def _lines(file: BinaryIO) -> Iterator[Piece]:
    index = line = 0
    while text := file.readline(LIMIT_BYTES + 1):
        line += 1
        if len(text) > LIMIT_BYTES and not text.endswith(b"\n"):
            while text and not text.endswith(b"\n"):
                text = file.readline(_CHUNK_BYTES)
            yield Piece(index, line, None, _TOO_LONG)
        elif raw := text.strip(_SPACE):
            yield Piece(index, line, raw)
        else:
            continue
        index += 1


class _Element:
    """The array's element that is being read; ``line`` is where the comma or bracket before it stands."""

    def __init__(self, index: int, line: int) -> None:
        self.index, self.line, self.newlines = index, line, 0
        self.held, self.begins, self.too_long = bytearray(), line, False

    def add(self, part: bytes) -> None:
        if not self.too_long:
            if not self.held:
                bare = part.lstrip(_SPACE)
                self.begins += part.count(b"\n", 0, len(part) - len(bare))
                self.held += bare
            else:
                self.held += part
            if len(self.held) > LIMIT_BYTES:
                self.too_long = bool(self.held[LIMIT_BYTES:].strip(_SPACE))
                del self.held[LIMIT_BYTES:]
        self.newlines += part.count(b"\n")

    def blank(self) -> bool:
        return not self.held

    def piece(self) -> Piece:
        if self.too_long:
            return Piece(self.index, self.begins, None, _TOO_LONG)
        if self.blank():
            return Piece(self.index, self.begins, None, "there is nothing between two commas")
        return Piece(self.index, self.begins, bytes(self.held.rstrip(_SPACE)))

    def following(self) -> _Element:
        return _Element(self.index + 1, self.line + self.newlines)


def _elements(file: BinaryIO) -> Iterator[Piece]:
    element, depth, in_string, escaped = _Element(0, 1), 0, False, False
    while chunk := file.read(_CHUNK_BYTES):
        start = at = 0
        while at < len(chunk):
            if escaped:
                at, escaped = at + 1, False
                continue
            found = (_IN_STRING if in_string else _OUTSIDE).search(chunk, at)
            if found is None:
                break
            at, sign = found.end(), found[0]
            if in_string:
                in_string, escaped = sign != b'"', sign == b"\\"
            elif sign == b'"':
                in_string = True
            elif sign in b"[{":
                depth += 1
                if depth == 1:
                    line = 1 + element.newlines + chunk.count(b"\n", 0, at)
                    element = _Element(0, line)
                    start = at
            elif sign in b"]}":
                depth -= 1
                if depth == 0:
                    element.add(chunk[start : at - 1])
                    yield from _end(element, sign, chunk[at:], file)
                    return
            elif depth == 1:
                element.add(chunk[start : at - 1])
                yield element.piece()
                element, start = element.following(), at
        element.add(chunk[start:])
    yield _unfinished(element)


def _end(element: _Element, sign: bytes, rest: bytes, file: BinaryIO) -> Iterator[Piece]:
    """What the array's last bracket says: its last element, and that nothing follows."""
    if not element.blank():
        yield element.piece()
    elif element.index:
        yield Piece(None, element.begins, None, "there is nothing after the last comma")
    line = element.line + element.newlines
    if sign == b"}":
        yield Piece(None, line, None, "the array is closed by '}'; the rest was not read")
        return
    while rest and not (text := rest.lstrip(_SPACE)):
        line += rest.count(b"\n")
        rest = file.read(_CHUNK_BYTES)
    if rest:
        line += rest.count(b"\n", 0, len(rest) - len(text))
        yield Piece(None, line, None, "more follows the end of the array")


def _unfinished(element: _Element) -> Piece:
    if element.blank():
        return Piece(None, element.begins, None, "the array does not end: ']' is missing")
    return Piece(element.index, element.begins, None, "the file ends inside it")
