"""Whether a store keeps what we need of it: tried, not asked.

Everything rests on create-only: a store that ignores ``If-None-Match`` lets two promoters win. So nothing is
written to a store that has not shown that it holds, among many writers at once.

That a store is good is remembered for a week in the user's cache, by endpoint and bucket: it costs no request
then. It is not remembered in the bucket, which may be reached through another server that is not good.
What is tried lies under ``probe/`` and is deleted, where that is allowed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.errors import LauncherError, UnavailableError, UsageError
from launcher.storage.caches import user_cache
from launcher.storage.s3.client import Client, insisted
from launcher.storage.s3.faults import ContestedError, TakenError, WrongBytesError

__all__ = ["WRITERS", "CreateOnlyIgnoredError", "Probe", "ProbeReport"]

#: As many as ever promote at once, in the worst night.
WRITERS: Final = 20
_GOOD_FOR_SECONDS: Final = 7 * 24 * 3600


class CreateOnlyIgnoredError(UsageError):
    """The store overwrites what it was asked to create only once: two promoters could both win."""

    def __init__(self, where: str, server: str, missing: str) -> None:
        super().__init__(
            f"{where} ({server}) cannot be written to: {missing}",
            "use a server that honours If-None-Match: * on PUT",
        )
        self.where, self.server, self.missing = where, server, missing


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was found. ``server`` as it names itself; ``skew_seconds``: its clock less ours, None if it says
    no time; ``winners`` of WRITERS that created one key at once, which should be 1."""

    server: str
    create_only: bool
    winners: int
    list_after_write: bool
    read_after_write: bool
    checksums: bool
    skew_seconds: float | None

    @property
    def missing(self) -> str:
        """What is missing for writing, in words; empty if nothing is."""
        if not self.create_only:
            return "it ignores If-None-Match: * and overwrites what is there"
        if self.winners != 1:
            return f"of {WRITERS} writers of one new key {self.winners} were told that they won"
        if not self.read_after_write:
            return "what was written is not what is read"
        if not self.list_after_write:
            return "what was written is not listed"
        return ""


class _Outcome(Enum):
    """What a writer knows of its create. UNSURE: the key is taken, perhaps by an attempt of its own that was not
    answered."""

    WON = auto()
    LOST = auto()
    UNSURE = auto()


class Probe:
    """Knows whether one store is good, and finds out. Threads may share it."""

    def __init__(
        self, client: Client, prefix: str, extra: Mapping[str, str], marks: Path | None
    ) -> None:
        self._client, self._prefix, self._extra = client, prefix + "probe/", extra
        self._marks = marks
        self._lock = threading.Lock()
        self._good = False

    def require(self) -> None:
        """Return if the store is known to be good, or turns out to be. Raises CreateOnlyIgnoredError."""
        if self._good:
            return
        with self._lock:
            if self._good or self._remembered():
                self._good = True
                return
            report = self.look()
            if report.missing:
                raise CreateOnlyIgnoredError(self._client.where, report.server, report.missing)
            self._remember(report)
            self._good = True

    def look(self) -> ProbeReport:
        """Try everything. Raises UnavailableError, AccessRefusedError and the like."""
        name = f"{self._prefix}{clock.new_id()}"
        single, raced = f"{name}/single", f"{name}/raced"
        try:
            self._create(single, b"first")
            create_only = self._create(single, b"second") is not _Outcome.WON
            with ThreadPoolExecutor(WRITERS) as pool:
                bodies = [b"writer %d" % number for number in range(WRITERS)]
                outcomes = list(pool.map(lambda body: self._create(raced, body), bodies))
            read = insisted(lambda: self._client.get(raced, 1024).data)
            listed = insisted(lambda: self._client.call("list_objects_v2", Prefix=name + "/"))
            about = listed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            skew = _skew(about.get("date"))
            checksums = self._client.checksums and self._refuses_wrong_bytes(f"{name}/wrong")
        finally:
            for key in (single, raced, f"{name}/wrong"):
                self._delete(key)
        winners = _winners(dict(zip(bodies, outcomes, strict=True)), read)
        keys = [found["Key"] for found in listed.get("Contents", ())]
        return ProbeReport(
            server=_printable(about.get("server", "")) or "a server that does not name itself",
            create_only=create_only,
            winners=len(winners),
            list_after_write=keys == sorted((single, raced)),
            read_after_write=read in winners,
            checksums=checksums,
            skew_seconds=skew,
        )

    # --- inside ---

    def _create(self, key: str, data: bytes) -> _Outcome:
        """What became of a create, made again while it is not answered, as every write is."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        checksum = {"ChecksumSHA256": digest} if self._client.checksums else {}
        taken = _Outcome.LOST

        def attempt() -> _Outcome:
            nonlocal taken
            try:
                self._client.call(
                    "put_object", key, Body=data, IfNoneMatch="*", **checksum, **self._extra
                )
            except TakenError:
                return taken
            except UnavailableError:
                taken = _Outcome.UNSURE
                raise
            return _Outcome.WON

        try:
            return insisted(attempt)
        except ContestedError:
            return _Outcome.LOST

    def _refuses_wrong_bytes(self, key: str) -> bool:
        """Whether the service checks what it gets against the checksum that came with it."""
        wrong = base64.b64encode(hashlib.sha256(b"other bytes").digest()).decode()

        def attempt() -> bool:
            try:
                self._client.call(
                    "put_object",
                    key,
                    Body=b"bytes",
                    IfNoneMatch="*",
                    ChecksumSHA256=wrong,
                    **self._extra,
                )
            except WrongBytesError:
                return True
            return False

        try:
            return insisted(attempt)
        except LauncherError:
            return False

    def _delete(self, key: str) -> None:
        """Where deleting is not allowed, a few bytes stay under ``probe/``."""
        with suppress(LauncherError):
            insisted(lambda: self._client.call("delete_object", key))

    def _mark(self) -> Path:
        folder = self._marks or user_cache("stores")
        if folder is None:
            raise FileNotFoundError("this user has no home")
        of = f"{self._client.endpoint} {self._client.bucket}"
        return folder / f"{hashlib.sha256(of.encode()).hexdigest()[:32]}.json"

    def _remembered(self) -> bool:
        """A cache only: anything that is not a fresh mark of this endpoint and bucket is none."""
        try:
            mark = json.loads(self._mark().read_bytes())
            same = (mark["endpoint"], mark["bucket"]) == (
                self._client.endpoint,
                self._client.bucket,
            )
            age = _seconds(clock.parse_time(mark["time"]), clock.parse_time(clock.now()))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return same and 0 <= age < _GOOD_FOR_SECONDS

    def _remember(self, report: ProbeReport) -> None:
        place = {"endpoint": self._client.endpoint, "bucket": self._client.bucket}
        mark = {**place, "time": clock.now(), "report": asdict(report)}
        try:
            path = self._mark()
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{clock.new_id()}")
            beside.write_text(json.dumps(mark, indent=2) + "\n")
            os.replace(beside, path)
        except OSError:
            return  # no home to write to: every process finds out for itself


def _winners(outcomes: Mapping[bytes, _Outcome], read: bytes) -> set[bytes]:
    """The bodies of those who were told that they won; of none, the one in doubt that is there."""
    told = {body for body, outcome in outcomes.items() if outcome is _Outcome.WON}
    return told or {body for body in outcomes if body == read and outcomes[body] is _Outcome.UNSURE}


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()


def _skew(date: str | None) -> float | None:
    """Our clock is read after the answer was made, to the second: less than two seconds is no skew."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    skew = _seconds(clock.parse_time(clock.now()), theirs)
    return skew if abs(skew) >= 2 else 0.0


def _printable(text: str) -> str:
    return "".join(c for c in text[:80] if c.isprintable())
