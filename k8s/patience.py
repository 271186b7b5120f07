"""When a stage that waits on a cluster is given up. Pure.

1. What can never come (``Outcome.certain``) is given up after a minute: a list that was behind is right by then.
2. An image that could not be had for five minutes is not about to come: a name or a tag is wrong, or a login.
3. All else that waits, waits as long as its profile allows; a node that does not answer may still run its pod.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from k8s.outcome import Outcome
from ledger.events import Cause

__all__ = ["given_up"]

_CERTAIN_SECONDS: Final = 60.0
_IMAGE_SECONDS: Final = 300.0


def given_up(
    said: Outcome, pending_deadline_seconds: int | None, now: datetime
) -> tuple[Cause, str] | None:
    """(cause, message) where it is time to; None: it goes on waiting, or does not wait."""
    if said.cause is None or said.state == "unreachable":
        return None
    since = datetime.fromisoformat(said.since) if said.since else now
    waited, limit = (now - since).total_seconds(), pending_deadline_seconds
    if said.certain and waited > _CERTAIN_SECONDS:
        return said.cause, said.message
    if said.cause == "image" and waited > _IMAGE_SECONDS:
        return said.cause, f"for {_IMAGE_SECONDS:g} s {said.message}"
    if limit is not None and waited > limit:
        return said.cause, f"it waited longer than {limit} s: {said.message}"
    return None
