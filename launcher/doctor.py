"""Is this machine fit for it: tools, disk, store, locks, clock, ledger; and what was left half done.

Rules:

1. Each finding says ok, warning or failed, and what to do. A warning never stops anybody.
2. Judgements are plain functions of what was seen; looking is apart, in ``examine``.
3. Nothing of the user's is changed. To see that the store creates a name only once, that locks hold and what
   time the disk has, hidden files of our own are made in the store and removed; ``probe=False`` leaves that out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Final

from launcher import clock
from launcher.clock import new_id
from launcher.errors import LauncherError, UsageError
from launcher.findings import Finding, exit_code, failed, ok, warning
from launcher.leftovers import leftovers
from launcher.project import network_filesystem
from launcher.settings import Settings
from launcher.storage.bucket_url import is_bucket
from launcher.storage.port import TEMPORARY_PREFIX, ObjectStore
from launcher.storage.trial import created_once
from launcher.workspace import Workspace, open_parts, open_workspace, translated
from ledger.projections.storage_alert import human_bytes
from ledger.stores.port import EventStore
from ledger.stores.sqlite import wal_is_safe

__all__ = ["Finding", "examine", "exit_code"]

_GIGABYTE: Final = 10**9
_SKEW_SECONDS: Final = 5.0
_PYTHON: Final = (3, 11)


def examine(
    settings: Settings,
    root: Path,
    *,
    probe: bool = True,
    is_driven: Callable[[Workspace, str], bool],
) -> Generator[Finding]:
    """Every finding, in the order in which they are made.

    ``is_driven``: whether a launcher is at work on the run of that id.
    """
    home, store = open_parts(settings, root)
    yield python(sys.version_info[:3])
    yield bash()
    yield git()
    places = {"home": home}
    if not is_bucket(store.where):
        places["store"] = Path(store.where)
    for name, folder in places.items():
        yield writable(name, folder)
        yield network(name, folder, network_filesystem(folder))
    place = _existing(places.get("store", home))
    yield space(shutil.disk_usage(place).free, os.statvfs(place).f_favail)
    reached = True
    if is_bucket(store.where):
        for finding in _bucket(store, probe=probe):
            reached &= finding.name != "store" or finding.state != "failed"
            yield finding
    elif probe and places["store"].is_dir():
        yield from probed(places["store"])
    elif probe:
        what = f"{places['store']} is not there yet: nothing to try create-only and locks in"
        yield ok("probe", what)
    if not reached:
        yield from _not_reached(settings)
        return
    yield sqlite(sqlite3.sqlite_version_info, _journal_mode(home / "ledger.db"))
    try:
        ws = open_workspace(settings, root, writing=False)
        with translated():
            yield from _ledger(ws.ledger)
            left = leftovers(ws, lambda run_id: is_driven(ws, run_id))
            yield from (warning(name, what, do) for name, what, do in left)
    except LauncherError as exc:
        yield failed("ledger", exc.message, exc.hint or "launcher audit", type(exc))


def _bucket(store: ObjectStore, *, probe: bool) -> Iterator[Finding]:
    from launcher import doctor_bucket  # here: a folder needs none of it
    from launcher.storage.s3 import S3Store

    assert isinstance(store, S3Store)
    yield from doctor_bucket.look(store, probe=probe)


def _not_reached(settings: Settings) -> Iterator[Finding]:
    """One trouble is said once; what stands on the bucket is not looked at."""
    if settings.ledger == "store":
        yield warning("ledger", "it is in the store: not looked at", "see store above")


# --- tools --------------------------------------------------------------------------------------------


def python(version: tuple[int, ...]) -> Finding:
    """The interpreter."""
    text = ".".join(map(str, version))
    if version[:2] < _PYTHON:
        return failed("python", text, "Python 3.11 or newer is needed", UsageError)
    return ok("python", text)


def sqlite(version: tuple[int, int, int], mode: str | None) -> Finding:
    """The linked SQLite, and the journal ``mode`` of the ledger that is there (None for no ledger)."""
    text = ".".join(map(str, version))
    if wal_is_safe(version):
        return ok("sqlite", f"{text}, write-ahead log is safe; this ledger: {mode or 'none yet'}")
    if mode == "write-ahead log":
        what = f"{text} can lose committed writes in WAL mode, which this ledger is in"
        return warning(
            "sqlite", what, "use SQLite 3.51.3 or newer, or set PRAGMA journal_mode=TRUNCATE"
        )
    return ok("sqlite", f"{text}, rollback journal (its write-ahead log could lose commits)")


def _journal_mode(path: Path) -> str | None:
    """Read from the file's header (bytes 18 and 19: 2 means WAL); opening it could change it."""
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return None
    return "write-ahead log" if header[18:20] == b"\x02\x02" else "rollback journal"


def bash() -> Finding:
    """What stages are run with."""
    path = shutil.which("bash")
    code = _run("bash", "-o", "pipefail", "-c", "false | true") if path else None
    if path is None or code != 1:
        return failed(
            "bash", "no bash that knows pipefail", "install bash: stages run in it", UsageError
        )
    return ok("bash", path)


def git() -> Finding:
    """What tells which code a run used."""
    path = shutil.which("git")
    if path is None or _run("git", "--version") != 0:
        return warning("git", "no git", "without it a run does not say which commit it ran")
    return ok("git", path)


def _run(*command: str) -> int | None:
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode


# --- disk ---------------------------------------------------------------------------------------------


def writable(name: str, folder: Path) -> Finding:
    """Whether a writing command could write here, without writing."""
    place = _existing(folder)
    shown = str(folder) if place == folder else f"{folder}, to be made in {place}"
    if not place.is_dir():
        return failed(name, f"{place} is no folder", "choose another place", UsageError)
    if not os.access(place, os.W_OK | os.X_OK):
        return failed(
            name, f"{place} cannot be written", "reading commands work; see its mount and owner"
        )
    return ok(name, shown)


def _existing(folder: Path) -> Path:
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def network(name: str, folder: Path, kind: str | None) -> Finding:
    """``kind``: the network file system that ``folder`` lies on, or None."""
    if kind is None:
        return ok(f"{name} disk", "on no network file system that we know")
    if name == "home":
        do = "locks and SQLite are only as good as its locking: keep LAUNCHER_HOME on a local disk"
    else:
        do = "create-only and durability are only as good as its server's"
    return warning(f"{name} disk", f"{folder} lies on a network file system ({kind})", do)


def space(free_bytes: int, free_inodes: int) -> Finding:
    """Room for checkpoints."""
    shown = f"{human_bytes(free_bytes)} free"
    if free_bytes < _GIGABYTE // 20:
        return failed("space", shown, "free some: launcher storage")
    # Some file systems count no inodes and say 0.
    if free_bytes < 2 * _GIGABYTE or 0 < free_inodes < 1000:
        return warning("space", f"{shown}, {free_inodes} inodes", "free some: launcher storage")
    return ok("space", shown)


# --- probes: hidden files of our own ------------------------------------------------------------------


def probed(folder: Path) -> list[Finding]:
    """Try create-only, locks and the clock in ``folder``; what was made is removed."""
    names = [folder / f"{TEMPORARY_PREFIX}doctor-{new_id()}" for _ in range(3)]
    try:
        return [_create_only(*names), _locks(names[2]), _disk_clock(names[2])]
    except OSError as exc:
        what = f"{folder}: nothing can be written ({exc.strerror})"
        return [failed("probe", what, "reading commands work; see its mount, owner and space")]
    finally:
        for name in names:
            name.unlink(missing_ok=True)


def _create_only(first: Path, second: Path, name: Path) -> Finding:
    """Two creates of one name: exactly one wins, and its bytes stay."""
    if not created_once(first, second, name):
        what = f"{first.parent}: a name can be created twice: two promoters could win"
        return failed("create-only", what, "keep the store on a local disk or NFS", UsageError)
    return ok("create-only", "two creates of one name: one won")


def _locks(path: Path) -> Finding:
    """A second lock of one file must be refused while the first is held, and be had afterwards."""
    with path.open("r+b") as one, path.open("r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        held = not _lock(other)
        fcntl.flock(one, fcntl.LOCK_UN)
        if held and _lock(other):
            return ok("locks", "a held lock is refused to others")
    what = f"{path.parent}: file locks do not hold"
    return failed("locks", what, "keep LAUNCHER_HOME on a local disk", UsageError)


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _disk_clock(path: Path) -> Finding:
    before = clock.parse_time(clock.now()).timestamp()
    path.touch()
    return disk_clock(path.stat().st_mtime, before, clock.parse_time(clock.now()).timestamp())


def disk_clock(stamped: float, before: float, after: float) -> Finding:
    """What the disk stamped on a file that was touched between two looks at our clock (epoch seconds)."""
    off = max(before - stamped, stamped - after, 0.0)
    if off > _SKEW_SECONDS:
        what = f"the disk's clock and this machine's are {off:.0f} s apart"
        return warning(
            "clock", what, "set them alike (NTP): the student is the newest file by the disk's"
        )
    return ok("clock", "the disk's and this machine's agree")


# --- the ledger ---------------------------------------------------------------------------------------


def _ledger(ledger: EventStore) -> Iterator[Finding]:
    head, newer = ledger.head(), ledger.newer_schema()
    if newer is not None:
        type_, schema, by = newer
        what = (
            f"{ledger.where} holds {type_} of schema {schema}{f', written by {by}' if by else ''}"
        )
        yield failed(
            "ledger", what, "upgrade distill-ledger: this one reads and cannot append", UsageError
        )
    elif head.size:
        yield ok("ledger", f"{ledger.where}, {head.size} events; its contents: launcher audit")
    else:
        yield ok("ledger", f"{ledger.where}, nothing in it yet")
    last = next(iter(ledger.read_all(head.size - 1)), None) if head.size else None
    if last is not None:
        yield newest_event(last.time, clock.now())


def newest_event(time_: str, now: str) -> Finding:
    """Both RFC 3339. Order is by position, so a clock that was wrong harms no run; it confuses people."""
    ahead = (clock.parse_time(time_) - clock.parse_time(now)).total_seconds()
    if ahead > _SKEW_SECONDS:
        what = f"the newest event is of {time_}, {ahead:.0f} s from now"
        return warning(
            "newest event", what, "this machine's clock, or the writer's, is wrong: set it (NTP)"
        )
    return ok("newest event", time_)
