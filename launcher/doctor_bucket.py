"""What doctor looks at in a bucket: is it reached and allowed, and is it a store at all. See ``launcher.doctor``.

Everything is tried, through ``S3Store.probe``: objects under ``probe/`` are made and deleted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from launcher.errors import LauncherError, UsageError
from launcher.findings import Finding, failed, ok, warning

if TYPE_CHECKING:
    from launcher.storage.s3 import S3Store
    from launcher.storage.s3.probe import ProbeReport

__all__ = ["judged", "look"]

_SKEW_SECONDS: Final = 5.0
_WRITERS: Final = 20


def look(store: S3Store, *, probe: bool) -> Iterator[Finding]:
    """Every finding about the bucket; one alone where it cannot be reached or read."""
    try:
        next(store.list("pointers/"), None)
    except LauncherError as exc:
        hint = exc.hint or "look at AWS_ENDPOINT_URL, AWS_REGION and AWS_PROFILE"
        yield failed("store", exc.message, hint, type(exc))
        return
    yield ok("store", store.identity.replace(" ", ", "))
    if probe:
        try:
            yield from judged(store.probe())
        except LauncherError as exc:
            hint = exc.hint or "reading commands work; writing ones need PutObject"
            yield failed("probe", exc.message, hint, type(exc))
    yield from _protection(store)


def judged(report: ProbeReport) -> Iterator[Finding]:
    """What a probe found, one thing a line."""
    server = report.server
    yield ok("server", server)
    yield _good(
        report.create_only and report.winners == 1,
        "create-only",
        f"two creates of one key, and {_WRITERS} at once: one won",
        f"{server}: {report.missing or 'a key can be created twice'}",
        "two promoters could both win: use a server that honours If-None-Match: * on PUT",
    )
    seen = report.read_after_write and report.list_after_write
    late = "read" if not report.read_after_write else "listed"
    yield _good(
        seen,
        "consistency",
        "what was written is read and listed at once",
        f"{server}: what was written is not {late} at once",
        "use a store with read-after-write and list-after-write consistency",
    )
    if report.checksums:
        yield ok("checksums", "wrong bytes are refused by the server")
    else:
        yield warning(
            "checksums",
            f"{server} does not check SHA-256 of what it is sent",
            "unset AWS_REQUEST_CHECKSUM_CALCULATION if you can; blobs are hashed on every read all the same",
        )
    yield _skew(report.skew_seconds)


def _good(well: bool, name: str, what: str, missing: str, do: str) -> Finding:
    return ok(name, what) if well else failed(name, missing, do, UsageError)


def _skew(seconds: float | None) -> Finding:
    if seconds is None:
        return warning("clock", "the server says no time", "gc goes by the server's clock")
    if abs(seconds) > _SKEW_SECONDS:
        what = f"the server's clock and this machine's are {abs(seconds):.0f} s apart"
        return warning(
            "clock", what, "set this machine's (NTP): requests are refused at 15 minutes"
        )
    return ok("clock", "the server's and this machine's agree")


def _protection(store: S3Store) -> Iterator[Finding]:
    for name, said in store.protection().items():
        yield ok(name, said)
