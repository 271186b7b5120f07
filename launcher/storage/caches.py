"""Where this user's caches lie: what can be read or found out again at any time."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_cache"]


def user_cache(name: str) -> Path | None:
    """The folder of the cache ``name`` (not made here); None where this user has no home."""
    try:
        above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(above) / "distill-ledger" / name
