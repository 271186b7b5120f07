"""A stage on one line: how it stands, how long it took, and what it left."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.cli.common import duration, seconds_between
from launcher.cli.spending import spent_facts
from launcher.cli.terminal import is_terminal, mark, one_line, paint
from launcher.cli.view import METRIC, why
from launcher.errors import LauncherError
from launcher.storage.manifest import Manifest
from launcher.storage.port import ObjectStore
from ledger.decider import RunState, StageState
from ledger.projections.storage_alert import human_bytes

__all__ = ["Outputs", "outputs_of", "remaining", "stage_line", "stage_seconds"]

#: How large a manifest may be to be read for a line on a screen.
_MANIFEST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a stage left: files that were new or changed."""

    files: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{plural(self.files, 'file')}, {human_bytes(self.size_bytes)}"


def plural(count: int | float, noun: str) -> str:
    """``1 file``, ``1,204 files``."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def outputs_of(store: ObjectStore, stage: StageState) -> Outputs | None:
    """The outputs of a stage that ended well; None where there are none, or where they cannot be read now."""
    if stage.manifest_digest is None:
        return None
    try:
        manifest = Manifest.from_bytes(store.read_blob(stage.manifest_digest, _MANIFEST_BYTES))
    except (LauncherError, ValueError):
        return None
    return Outputs(len(manifest.entries), sum(entry.size_bytes for entry in manifest.entries))


def stage_seconds(stage: StageState) -> float | None:
    """How long the newest attempt took, or has taken up to now; None before the first."""
    return seconds_between(stage.started_at, stage.completed_at) if stage.attempt else None


def remaining(usual: tuple[float, int] | None, spent: float) -> str:
    """``~52m left (median of 9)``; past that how long is usual; empty where no earlier run tells."""
    if usual is None:
        return ""
    median, count = usual
    of = f"median of {count}" if count > 1 else "1 run before"
    if spent < median:
        return f"~{duration(median - spent)} left ({of})"
    return f"longer than the usual {duration(median)} ({of})"


def stage_line(store: ObjectStore, state: RunState, stage: StageState) -> str:
    """`` ✓ retrain  18m30s  student 1.9 MB``; where nothing is drawn ``retrain  succeeded  18m30s  …``."""
    spent = stage_seconds(stage)
    took = duration(spent) if spent is not None else ""
    facts = "  ".join([*_facts(store, state, stage), *spent_facts(stage)])
    if is_terminal():
        return f" {mark(stage.status)} {stage.plan.name:<8} {took:>7}  {facts}".rstrip()
    return "  ".join(part for part in (stage.plan.name, stage.status, took, facts) if part)


def _facts(store: ObjectStore, state: RunState, stage: StageState) -> list[str]:
    again = [f"attempt {stage.attempt}"] if stage.attempt > 1 else []
    if stage.status == "failed":
        last = stage.failures[-1]
        more = "" if last.cause == "application" else f": {one_line(last.message)}"
        return [*again, paint(f"{why(last.cause, last.exit_code)}{more}", "red")]
    if stage.status == "skipped":
        return [one_line(stage.reason or "")]
    if stage.status == "reused":
        return [f"of run {stage.reused_from}"]
    if stage.status != "succeeded":
        return again
    outputs = outputs_of(store, stage)
    said = [*again, *_own_facts(state, stage)]
    return [*said, str(outputs)] if outputs and outputs.files else said


def _own_facts(state: RunState, stage: StageState) -> list[str]:
    """What only this stage has to tell; counts come from a check of the tags, else from the run's metrics."""
    match stage.plan.name:
        case "llm_on":
            return _counted(state, ("planlets",))
        case "relabel":
            return [*_counted(state, ("kept", "duplicates")), *_tags(state)]
        case "retrain":
            return _student(state)
        case _:
            rate = state.metrics.get(METRIC)
            return [f"{METRIC} {rate:.3f}"] if rate is not None else []


def _counted(state: RunState, names: tuple[str, ...]) -> list[str]:
    counts = {**state.metrics, **_tag_counts(state)}
    found = {name: counts[name] for name in names if name in counts}
    words = {"planlets": "planlet", "duplicates": "duplicate"}
    return [
        f"{number:,.0f} kept" if name == "kept" else plural(number, words[name])
        for name, number in found.items()
    ]


def _tag_counts(state: RunState) -> dict[str, float]:
    counts = dict(state.tags.counts) if state.tags else {}
    if "valid" in counts:
        counts["kept"] = counts["valid"]
    counts.pop("planlets", None)  # those of the tag file, not of the capture
    return {name: float(number) for name, number in counts.items()}


def _tags(state: RunState) -> list[str]:
    tags = state.tags
    if tags is None or tags.tag_file is None:
        return []
    if tags.digest is None:
        return [paint("no tag file was written", "yellow")]
    colour = {"validated": "green", "rejected": "red"}.get(tags.status)
    return [paint(f"tags {tags.status}", colour)]


def _student(state: RunState) -> list[str]:
    student = state.student
    if student is None:
        return [paint("no student checkpoint", "yellow")]
    others = len(student.also_matched)
    more = [f"{others} other{'s' if others > 1 else ''} matched"] if others else []
    return [f"student {human_bytes(student.size_bytes)}", *more]
