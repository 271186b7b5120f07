"""The program, so many days later by this machine's clock and the store's: ``python -m tests.cli.later DAYS …``."""

from __future__ import annotations

import sys
from datetime import timedelta

from launcher import clock
from launcher.cli.main import main
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.s3.store import S3Store

if __name__ == "__main__":
    days = float(sys.argv[1])
    real_now = clock.now

    def now() -> str:
        moment = clock.parse_time(real_now()) + timedelta(days=days)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def shifted(real):  # type: ignore[no-untyped-def]
        return lambda store: real(store) + days * 86400

    clock.now = now
    for kind in (FilesystemStore, S3Store):
        kind.clock = shifted(kind.clock)  # type: ignore[method-assign]
    main(sys.argv[2:])
