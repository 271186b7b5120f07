"""Names, labels and annotations of what we create in a cluster. Pure.

1. A Job's name follows from the run, stage, attempt and spec digest alone: whoever creates it again meets the first.
   It leaves room for the six characters by which Kubernetes tells pods apart.
2. Labels are for selecting: a value that Kubernetes refuses, or would cut, is shortened and told apart by a hash.
   Annotations hold the facts, to the letter.
3. A Job of our name is ours only where its annotations say so (``difference``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.canonical import canonical_json

__all__ = [
    "LLM",
    "PREFIX",
    "PROFILE_DIGEST",
    "PROJECT",
    "QUEUE",
    "RUN",
    "STAGE",
    "TASK_DIGEST",
    "Attempt",
    "difference",
    "job_annotations",
    "job_labels",
    "job_name",
    "label_value",
    "name_start",
    "selector",
]

PREFIX: Final = "distill-ledger"
RUN: Final = f"{PREFIX}/run"
PROJECT: Final = f"{PREFIX}/project"
STAGE: Final = f"{PREFIX}/stage"
ATTEMPT: Final = f"{PREFIX}/attempt"
SPEC_DIGEST: Final = f"{PREFIX}/spec-digest"
PROFILE_DIGEST: Final = f"{PREFIX}/profile-digest"
TASK_DIGEST: Final = f"{PREFIX}/task-digest"
#: ``on`` or ``off``; a network policy keeps pods that say off from reaching a model.
LLM: Final = f"{PREFIX}/llm"
#: What Kueue looks for.
QUEUE: Final = "kueue.x-k8s.io/queue-name"

#: Kubernetes allows 63, and a pod is called like its Job, a dash and five characters more.
_NAME_LIMIT: Final = 57
_VALUE_LIMIT: Final = 63
_HASH_DIGITS: Final = 12
#: The longest end of a name, its stage, attempt and hash, leaves a run's slug at least so much.
_START_DIGITS: Final = 24

_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a stage: what makes it one and the same Job everywhere."""

    project: str
    run_id: str
    stage: str
    attempt: int
    spec_digest: str


def job_name(attempt: Attempt) -> str:
    """A DNS label of at most 57 characters: something of the run, the stage, the attempt, and a hash of all."""
    facts = [attempt.run_id, attempt.stage, attempt.attempt, attempt.spec_digest]
    tail = f"{_slug(attempt.stage)}-{attempt.attempt}-{_hash(canonical_json(facts))}"
    head = _slug(attempt.run_id)[: max(_NAME_LIMIT - len(tail) - 1, 0)].rstrip("-")
    return f"{head}-{tail}"[-_NAME_LIMIT:].lstrip("-")


def name_start(run_id: str) -> str:
    """What the names of all Jobs of a run begin with, and those of their pods; perhaps other runs' too."""
    return _slug(run_id)[:_START_DIGITS].rstrip("-")


def label_value(text: str) -> str:
    """``text`` as a label's value: itself where it may be one, else what is left of it and a hash."""
    if not text or (len(text) <= _VALUE_LIMIT and _VALUE.fullmatch(text)):
        return text
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: _VALUE_LIMIT - _HASH_DIGITS - 1].strip("._-")
    digest = _hash(text.encode("utf-8", "surrogatepass"))
    return f"{kept}-{digest}" if kept else digest


def job_labels(attempt: Attempt, *, llm: str) -> dict[str, str]:
    """The labels of a Job and of its pods. ``llm`` is on or off."""
    return {
        "app.kubernetes.io/name": PREFIX,
        "app.kubernetes.io/managed-by": PREFIX,
        PROJECT: label_value(attempt.project),
        RUN: label_value(attempt.run_id),
        STAGE: label_value(attempt.stage),
        ATTEMPT: str(attempt.attempt),
        LLM: llm,
    }


def selector(project: str, run_id: str) -> str:
    """The label selector of everything of one run."""
    return f"{PROJECT}={label_value(project)},{RUN}={label_value(run_id)}"


def job_annotations(attempt: Attempt) -> dict[str, str]:
    """What a Job says it is, to the letter."""
    return {
        PROJECT: attempt.project,
        RUN: attempt.run_id,
        STAGE: attempt.stage,
        ATTEMPT: str(attempt.attempt),
        SPEC_DIGEST: attempt.spec_digest,
    }


def difference(job: Mapping[str, Any], attempt: Attempt) -> str | None:
    """None if ``job``, as the API gives it, is this very attempt's; else what it says instead, in words."""
    said = (job.get("metadata") or {}).get("annotations") or {}
    for key, wanted in job_annotations(attempt).items():
        if (found := said.get(key)) != wanted:
            name = key.removeprefix(f"{PREFIX}/")
            return f"its {name} is {found}, not {wanted}" if found else f"it has no {name}"
    return None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]
