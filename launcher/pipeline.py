"""From a config to a plan: which stages, under which rules. Pure.

A stage's spec digest is the SHA-256 of the canonical JSON of what decides its behaviour: its name, its
command as written, its limits, and the stored config's digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from ledger.canonical import canonical_json
from ledger.events import STAGES, StageName, StagePlan

__all__ = [
    "LOG_NUMBER",
    "log_name",
    "plan_stages",
    "skip_warnings",
    "with_infrastructure_retries",
]

#: A stage's number in its log's name, from 1.
LOG_NUMBER: Final[Mapping[StageName, int]] = {name: i for i, name in enumerate(STAGES, start=1)}


def log_name(stage: StageName, attempt: int) -> str:
    """``01_llm_on.log``; a later attempt ``01_llm_on.2.log``."""
    again = f".{attempt}" if attempt > 1 else ""
    return f"{LOG_NUMBER[stage]:02d}_{stage}{again}.log"


def plan_stages(
    commands: Mapping[StageName, str | None],
    timeouts: Mapping[StageName, float | None],
    retries: Mapping[StageName, int],
    config_digest: str,
) -> tuple[StagePlan, ...]:
    """One plan per stage, in order; a stage without a command has ``command`` None and is skipped."""
    return tuple(
        _plan(name, commands.get(name), timeouts.get(name), retries.get(name, 0), config_digest)
        for name in STAGES
    )


def _plan(
    name: StageName, command: str | None, timeout: float | None, retries: int, config_digest: str
) -> StagePlan:
    command = command if command and command.strip() else None
    spec = {
        "stage": name,
        "command": command,
        "timeout_seconds": timeout,
        "retries": retries,
        "config": config_digest,
    }
    return StagePlan(
        name=name,
        command=command,
        spec_digest="sha256:" + hashlib.sha256(canonical_json(spec)).hexdigest(),
        retries=retries,
        timeout_seconds=timeout,
    )


def with_infrastructure_retries(
    stages: tuple[StagePlan, ...], retries: Mapping[StageName, int | None]
) -> tuple[StagePlan, ...]:
    """``stages`` with what a profile says of each; where it says nothing (None) the config's number holds."""
    return tuple(
        plan.model_copy(update={"infrastructure_retries": retries.get(plan.name)})
        for plan in stages
    )


def skip_warnings(stages: tuple[StagePlan, ...]) -> list[str]:
    """A line for each stage that will be skipped though a loop usually has it."""
    return [
        f"{plan.name.upper()}_CMD is absent: {plan.name} will be skipped"
        for plan in stages
        if plan.command is None and plan.name != "llm_off"
    ]
