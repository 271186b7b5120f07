"""What ``submit --dry-run`` prints: all that would be run, where, with what, and what would come of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from launcher.cli.live import live_line
from launcher.cli.terminal import is_terminal, one_line, paint
from launcher.cli.view import View
from launcher.config import Config
from launcher.pipeline import log_name
from launcher.project import relative_to_project
from ledger.events import InputRef, RunRequested, StagePlan
from ledger.projections.storage_alert import human_bytes

__all__ = ["plan_lines"]

#: So many inputs are named.
_NAMED = 10


def plan_lines(view: View, config: Config, wanted: RunRequested) -> list[str]:
    """The plan of a run that was checked but not requested; a command's further lines are indented."""
    said = "dry run: nothing was started or written"
    lines = [f"run {paint(wanted.run_id, bold=True)}  ({said})"]
    for name, text in _facts(view, config, wanted):
        lines.append(f"{name:<10} {text}")
    lines.append("")
    for plan in wanted.stages:
        lines += _stage(plan)
    return [*lines, "", *_promotion(view, wanted)]


def _facts(view: View, config: Config, wanted: RunRequested) -> Iterator[tuple[str, str]]:
    yield "config", f"{wanted.config.path}  {_digest(wanted.config.digest)}"
    for name, value in wanted.config.overrides.items():
        yield "--set", f"{name}={one_line(value) if value is not None else '(secret)'}"
    secret = sorted(config.secret_names)
    if secret:
        yield "secrets", f"{', '.join(secret)}: for the stages only, stored nowhere"
    if wanted.teacher_checkpoint:
        yield "teacher", _input(wanted.teacher_checkpoint)
    if wanted.teacher_scorecard:
        yield "scorecard", _input(wanted.teacher_scorecard)
    for given in wanted.inputs[:_NAMED]:
        yield "input", _input(given) + ("" if given.stored else "  digested, not stored")
    if len(wanted.inputs) > _NAMED:
        yield "input", f"… and {len(wanted.inputs) - _NAMED} more"
    if wanted.relabel_tag_file:
        shown = relative_to_project(view.ws.root / wanted.relabel_tag_file, view.ws.root)
        yield "tag file", shown
    if config.student_glob:
        yield "student", f"the newest that matches {config.student_glob}"
    yield "folder", str(view.ws.documents.run_dir(wanted))
    yield "store", view.ws.store.where
    commit, dirty = wanted.provenance.source_commit, wanted.provenance.dirty
    if commit:
        yield "code", commit[:12] + (f" +{dirty} dirty" if dirty else "")
    for name, value in wanted.labels.items():
        yield "label", f"{name}={value}"
    if wanted.note:
        yield "note", one_line(wanted.note)


def _input(given: InputRef) -> str:
    named = f"{given.ref}: " if given.ref != given.path and ":" in given.ref else ""
    return f"{named}{given.path}  {human_bytes(given.size_bytes)}  {_digest(given.digest)}"


def _digest(digest: str) -> str:
    return f"{digest[:19]}…"


def _stage(plan: StagePlan) -> Iterable[str]:
    if plan.command is None:
        yield f"{plan.name:<10} (skipped: no command)"
        return
    limits = [f"log {log_name(plan.name, 1)}"]
    limits += [f"at most {plan.timeout_seconds:g} s"] if plan.timeout_seconds else []
    if plan.retries:
        limits.append(f"{plan.retries} {'retry' if plan.retries == 1 else 'retries'}")
    yield f"{paint(f'{plan.name:<10}', bold=is_terminal())} {', '.join(limits)}"
    for line in plan.command.splitlines():
        yield f"    {line}"


def _promotion(view: View, wanted: RunRequested) -> Iterator[str]:
    plan = wanted.promotion
    if plan is None:
        yield "promotion  none: no --promotion-target"
        return
    yield f"promotion  to {plan.target}, if every stage succeeds and retrain leaves a student"
    for label, path in (("record", plan.record), ("alert", plan.alert_file)):
        if path:
            yield f"{label:<10} {path}"
    pointer = next((p for p in view.live() if p.name == plan.target), None)
    if pointer is None:
        yield "live now   nothing under this name"
    elif pointer.broken:
        yield f"live now   cannot be read: {pointer.broken}"
    else:
        yield f"live now   {live_line(view, pointer)}"
        if pointer.held is not None:
            yield "           it would be refused while the pointer is held"
