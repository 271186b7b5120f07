"""What can go wrong in the ledger. Each error carries its facts as attributes."""

from __future__ import annotations

__all__ = [
    "EventTooLargeError",
    "IllegalTransitionError",
    "InvalidNameError",
    "LedgerDamagedError",
    "LedgerError",
    "LedgerUnavailableError",
    "NewerSchemaError",
    "NotACopyError",
    "VersionConflictError",
]


class LedgerError(Exception):
    """The root of every error that ``ledger`` raises."""


class InvalidNameError(LedgerError):
    """A run id, pointer name, label or stream name is outside the allowlist; nothing was touched."""

    def __init__(self, kind: str, value: str, rule: str) -> None:
        shown = value if len(value) <= 60 else value[:57] + "..."
        super().__init__(f"{kind} {shown!r} is not allowed: {rule}")
        self.kind, self.value, self.rule = kind, value, rule


class VersionConflictError(LedgerError):
    """The stream is not where the caller believed; nothing was appended. Read again, decide again."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream} is at version {actual}, not {expected}: read it again")
        self.stream, self.expected, self.actual = stream, expected, actual


class IllegalTransitionError(LedgerError):
    """A command or event does not fit the state it meets; the state is unchanged."""

    def __init__(self, stream: str, state: str, event: str, detail: str = "") -> None:
        super().__init__(
            f"{stream}: {event} is not possible while {state}" + (f": {detail}" if detail else "")
        )
        self.stream, self.state, self.event, self.detail = stream, state, event, detail


class EventTooLargeError(LedgerError):
    """An event's canonical bytes exceed the limit; store the large part as a blob and name its digest."""

    def __init__(self, type_: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{type_} would take {size_bytes} bytes; the limit is {limit_bytes}")
        self.type, self.size_bytes, self.limit_bytes = type_, size_bytes, limit_bytes


class NewerSchemaError(LedgerError):
    """The ledger holds events of a later schema than this program knows; it must not append."""

    def __init__(self, type_: str, schema: int, known: int, written_by: str | None) -> None:
        by = f" (written by distill-ledger {written_by})" if written_by else ""
        super().__init__(
            f"the ledger holds {type_} of schema {schema}{by}; this program knows {known}: "
            "upgrade distill-ledger before you append"
        )
        self.type, self.schema, self.known, self.written_by = type_, schema, known, written_by


class LedgerDamagedError(LedgerError):
    """Stored bytes are not what was written. ``position`` is the first bad one, if it is known."""

    def __init__(self, where: str, detail: str, position: int | None = None) -> None:
        at = f" at position {position}" if position is not None else ""
        super().__init__(f"{where} is damaged{at}: {detail}")
        self.where, self.detail, self.position = where, detail, position


class NotACopyError(LedgerError):
    """A ledger that was to be completed is not the beginning of the other one; neither was changed."""

    def __init__(self, source: str, target: str, detail: str) -> None:
        super().__init__(
            f"{target} is no beginning of {source}: {detail}; copy to an empty place, or go on with the first"
        )
        self.source, self.target, self.detail = source, target, detail


class LedgerUnavailableError(LedgerError):
    """The ledger could not be opened, read or written (disk full, read-only, locked, EIO).

    Nothing was acknowledged; the same command can be run again once the cause is gone.
    """

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(f"{where}: {detail}")
        self.where, self.detail = where, detail
