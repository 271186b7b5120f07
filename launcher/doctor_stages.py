"""Are a profile's stages those that a release's policies and roles are made for: labels and service account.

No cluster is asked. A profile that somebody wrote by hand runs just as well without them. But then a network policy
does not select its pods, so that a stage reaches what it should not, and a role of the account is not theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from k8s.profile import StageProfile
from launcher.errors import UsageError
from launcher.findings import Finding, failed, ok, warning
from ledger.events import StageName

__all__ = ["account", "label"]

Stages = Mapping[StageName, StageProfile]


def label(stages: Stages, name: str, value: str) -> Finding:
    """Whether the pods of every stage have it."""
    without = _those(stages, lambda one: one.labels.get(name) != value)
    if not without:
        return ok("labels", f"{name}={value}")
    what = f"pods of {without} have no label {name}={value}: network policies do not select them"
    return failed(
        "labels", what, f"defaults: {{labels: {{{name}: {value}}}}} in the profile", UsageError
    )


def account(stages: Stages, wanted: str) -> Finding:
    """Whether every stage runs as this service account: another may be meant, and is not what the release made."""
    others = sorted({one.service_account or "default" for one in stages.values()} - {wanted})
    if not others:
        return ok("stage account", wanted)
    of = _those(stages, lambda one: one.service_account != wanted)
    what = f"{', '.join(others)} in {of}, not {wanted}: a role of that is not theirs"
    return warning(
        "stage account", what, f"defaults: {{service_account: {wanted}}}, or as you mean it"
    )


def _those(stages: Stages, wrong: Callable[[StageProfile], bool]) -> str:
    """The stages of which it holds; empty for none."""
    found = [name for name, one in stages.items() if wrong(one)]
    return "all stages" if len(found) == len(stages) else ", ".join(found)
