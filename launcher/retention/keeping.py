"""How long the store keeps what a run left, once its folder here is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from launcher import clock
from launcher.agent.protocol import machine_id
from launcher.retention.gather import gather
from launcher.retention.reach import Policy, needed
from launcher.workspace import Workspace
from ledger import events as e

__all__ = ["Keeping", "keeping"]


@dataclass(frozen=True, slots=True)
class Keeping:
    """``why``: what needs the run, for as long as it does; None: only the grace keeps it, up to ``until`` (epoch
    seconds) at least, by the policy of now."""

    why: str | None
    until: float | None


def keeping(
    ws: Workspace, run_ids: Iterable[str], policy: Policy, now: float
) -> dict[str, Keeping]:
    """How long each run is kept if its folder goes ``now``, or went when this machine said so before. Reads only.

    Raises ForeignLedgerError, WrongStoreError, UnavailableError.
    """
    lasting = needed(gather(ws, now).facts, replace(policy, grace_seconds=0), now).runs
    return {
        run_id: Keeping(lasting[run_id], None)
        if run_id in lasting
        else Keeping(None, _goes(ws, run_id, now) + policy.grace_seconds)
        for run_id in run_ids
    }


def _goes(ws: Workspace, run_id: str, now: float) -> float:
    last = ws.documents.folders.last(run_id)
    if last is None or not isinstance(last.data, e.RunFolderRetired):
        return now
    ours = last.data.machine_id == machine_id()
    return clock.parse_time(last.time).timestamp() if ours else now
