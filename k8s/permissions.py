"""What the launcher may have to do in a cluster: one list, which docs/policies grants and doctor asks about. Pure.

RUN is what a run takes, no more and no less; LOOK is what ``launcher doctor`` reads besides. Nothing here writes a
Secret, a node or a pod: pods are the Job controller's to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = ["LOOK", "RUN", "Permission"]


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one resource; ``resource`` with its subresource as in ``pods/log``.

    ``why`` says what does not work without it. ``everywhere``: the resource is of no namespace.
    """

    verb: str
    resource: str
    group: str = ""
    why: str = ""
    everywhere: bool = False

    @property
    def words(self) -> str:
        """``list pods``, ``delete jobs.batch``."""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"

    def asked(self, namespace: str) -> dict[str, Any]:
        """The attributes of a SelfSubjectAccessReview."""
        resource, _, sub = self.resource.partition("/")
        return {
            "verb": self.verb,
            "group": self.group,
            "resource": resource,
            **({"subresource": sub} if sub else {}),
            **({} if self.everywhere else {"namespace": namespace}),
        }


RUN: Final = (
    Permission("create", "jobs", "batch", "no stage can be started"),
    Permission("get", "jobs", "batch", "a Job that is there already cannot be adopted"),
    Permission("list", "jobs", "batch", "a run cannot be followed"),
    Permission("watch", "jobs", "batch", "a run cannot be followed"),
    Permission("patch", "jobs", "batch", "finished Jobs stay for ever"),
    Permission("delete", "jobs", "batch", "nothing can be cancelled, or given up in time"),
    Permission("list", "pods", why="a run cannot be followed"),
    Permission("watch", "pods", why="a run cannot be followed"),
    Permission("delete", "pods", why="what a lost node had cannot be given up (--force)"),
    Permission("get", "pods/log", why="no log is shown while a stage runs"),
    Permission("list", "events", why="what a stage waits for is not known"),
    Permission("watch", "events", why="what a stage waits for is not known"),
)

_KUEUE: Final = "kueue.x-k8s.io"
LOOK: Final = (
    Permission("get", "namespaces"),
    Permission("list", "nodes", everywhere=True),
    Permission("list", "resourcequotas"),
    Permission("list", "limitranges"),
    Permission("get", "localqueues", _KUEUE),
    Permission("get", "priorityclasses", "scheduling.k8s.io", everywhere=True),
    Permission("get", "runtimeclasses", "node.k8s.io", everywhere=True),
    Permission("get", "storageclasses", "storage.k8s.io", everywhere=True),
    Permission("get", "serviceaccounts"),
    Permission("get", "secrets"),
    Permission("get", "configmaps"),
    Permission("get", "persistentvolumeclaims"),
)
