"""The slot of a pod that a CronJob started.

Kubernetes writes a Job's scheduled time on the Job and not on its pod; one that a person made from the CronJob has
none, and means the newest slot at its creation, so that its pod and the pod's replacement mean the same one.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from launcher.cron.schedule import Schedule, parse_slot, slot_text
from launcher.errors import UsageError
from launcher.executors.cluster_calls import asked

if TYPE_CHECKING:
    from k8s.client import Client

__all__ = ["slot_of_job"]

_SCHEDULED: Final = "batch.kubernetes.io/cronjob-scheduled-timestamp"


def slot_of_job(client: Client, name: str, schedule: Schedule) -> str:
    """The slot that the Job ``name`` was made for.

    Raises UsageError (no such Job, or no right to read it), UnavailableError.
    """
    job: dict[str, Any] | None = asked(lambda: client.job(name))
    if job is None:
        raise UsageError(f"there is no Job {name} in {client.namespace}", "--slot TIME says it")
    about = job["metadata"]
    scheduled = (about.get("annotations") or {}).get(_SCHEDULED)
    if scheduled is None:
        return schedule.newest(datetime.fromisoformat(about["creationTimestamp"]))
    return slot_text(parse_slot(scheduled))
