"""status: everything about one run; for a failed one why, and what differs since the last good one.

``--json`` prints the run's metadata document (see docs/reference.md), each stage with ``seconds``, ``outputs``
(files, size_bytes), ``time``, ``gpus``, ``held`` and ``cost`` besides, and: run_dir, attended, cluster, held, cost,
note, labels, actor, provenance, student, tags, result, failure (stage, attempt, cause, exit_code, message, log),
kept, since_last_good (run_id, changes), live, next.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import click

from launcher.cli.common import (
    age,
    duration,
    home_option,
    json_option,
    print_json,
    seconds_between,
    workspace,
)
from launcher.cli.differences import Change, changes
from launcher.cli.kept import kept_json, kept_lines
from launcher.cli.live import follower_lines, live_json, live_line, live_lines, unseen_lines
from launcher.cli.logfile import tail_of_attempt
from launcher.cli.next_steps import next_commands
from launcher.cli.spending import cost_json, held_json, run_cost, stage_json, totals
from launcher.cli.stages import outputs_of, remaining, stage_line, stage_seconds
from launcher.cli.terminal import fact, facts, is_terminal, one_line, paint
from launcher.cli.view import View, why
from launcher.cli.waits import ClusterLook, cluster_lines, look_with_driver
from launcher.errors import LauncherError, UsageError
from launcher.refs import find_run
from launcher.workspace import translated
from ledger.decider import RunState, TagState
from ledger.events import RunFailed, RunRequested
from ledger.held import run_held
from ledger.projections.metadata import metadata_document
from ledger.projections.storage_alert import human_bytes

__all__ = ["state_line", "status_command"]

_LOG_LINES: Final = 5
_STUDENT_KEYS: Final = {"path", "digest", "size_bytes", "also_matched"}
_COLOURS: Final = {"failed": "red", "succeeded": "green", "cancelled": "yellow", "open": "yellow"}


@click.command(
    "status",
    help="Everything about RUN, by default the newest: its stages, what came of it, what to type next.",
)
@click.argument("run", required=False)
@json_option
@home_option
def status_command(run: str | None, as_json: bool, home: str | None) -> int:
    view = View(workspace(home, writing=False))
    with translated():
        if run is None and not view.run_ids:
            raise UsageError(f"no run yet in {view.ws.ledger.where}", "launcher submit starts one")
        run_id = find_run(view.ws.journal, run) if run is not None else view.run_ids[-1]
        state = view.run(run_id)
        job = view.driver_job(state)
        cluster, end = look_with_driver(view.ws, state, job.partition("/")[0] if job else None)
        if end:
            view.driver_ends[run_id] = end
        if as_json:
            print_json(_document(view, state, cluster))
        else:
            for line in _lines(view, state, cluster):
                click.echo(line)
    return 0


# --- for people ---------------------------------------------------------------------------------


def state_line(view: View, state: RunState) -> str:
    """``0607-aa31  FAILED in retrain: out of memory  31m  1.9 GPU-h  by cron nightly``."""
    spent = seconds_between(state.requested_at, state.ended_at) or 0.0
    shown: str = state.status
    if state.status == "open":
        shown = view.going(state)
        shown += ": nobody drives it" if shown == "left alone" else ""
    if isinstance(state.end, RunFailed):
        shown = f"FAILED in {state.end.stage}: {why(state.end.cause, state.end.exit_code)}"
    parts = [
        paint(view.name(state.run_id) if is_terminal() else state.run_id, bold=True),
        paint(shown, _COLOURS.get(state.status)),
        duration(spent),
        *totals(view.ws.settings.prices, state),
        f"{age(state.requested_at)} ago",
        f"by {one_line(state.actor or '')}",
    ]
    return "  ".join(parts)


def _lines(view: View, state: RunState, cluster: ClusterLook | None) -> list[str]:
    request = _request(state)
    lines = [state_line(view, state)]
    lines += [stage_line(view.ws.store, state, stage) for stage in state.stages.values()]
    lines += fact("driver", _driver(view, state))
    lines += _under_way(view, state, cluster)
    lines += fact("note", one_line(request.note or ""))
    labels = (f"{name}={value}" for name, value in request.labels.items())
    lines += fact("labels", "  ".join(labels))
    if isinstance(state.end, RunFailed):
        lines += _failure(view, state)
    lines += kept_lines(view.ws.store, state, view.name(state.run_id))
    if state.status == "succeeded":
        lines += _student(state)
        lines += fact("result", one_line(view.result(state)))
    lines += _live(view, state)
    return lines + facts("next", next_commands(view, state))


def _driver(view: View, state: RunState) -> str:
    job, end = view.driver_job(state), view.driver_ends.get(state.run_id)
    return f"Job {job}{f', which ended: {one_line(end)}' if end else ''}" if job else ""


def _under_way(view: View, state: RunState, cluster: ClusterLook | None) -> list[str]:
    current = state.current()
    if state.status != "open" or current is None or not current.attempt:
        return []
    name = current.plan.name
    left = remaining(view.usual_seconds(state, name), stage_seconds(current) or 0.0)
    tail = tail_of_attempt(view.ws, state, name, current.attempt, 1)
    waits = cluster_lines(cluster)
    return [*waits, *fact("left", left), *(paint(line, dim=True) for line in facts("log", tail))]


def _failure(view: View, state: RunState) -> list[str]:
    failed = state.current()
    if failed is None or not failed.failures:
        return []
    last = failed.failures[-1]
    tail = tail_of_attempt(view.ws, state, failed.plan.name, last.attempt, _LOG_LINES)
    lines = [*fact("why", one_line(last.message)), *facts("log", tail)]
    good = view.last_good(state)
    if good is None:
        return lines
    since = f"since last good ({view.name(good.run_id)})"
    found = changes_since(view, good, state)
    if found is None:
        return [*lines, f"{since}: its config cannot be read"]
    if not found:
        return [*lines, f"{since}: same config, code, teacher and inputs"]
    if is_terminal():
        return [*lines, f"{since}: {', '.join(map(str, found))}"]
    return [*lines, *(f"{since}: {change}" for change in found)]


def changes_since(view: View, good: RunState, state: RunState) -> list[Change] | None:
    """What differs from an earlier run; None where a config is not to be had any more."""
    requests = _request(good), _request(state)
    try:
        was, now = (_variables(view, request) for request in requests)
    except LauncherError:
        return None
    found = changes(*requests, was, now)
    numbers = view.teacher_generation(good), view.teacher_generation(state)
    if None in numbers:
        return found
    teacher = Change("teacher", *(f"g{number}" for number in numbers))
    return [teacher if change.name == "teacher" else change for change in found]


def _variables(view: View, request: RunRequested) -> dict[str, str]:
    from launcher.config import Config  # here, because only a failed run asks for it

    stored = view.ws.store.read_blob(request.config.digest)
    return dict(Config.from_stored(stored, request.config.path or "config").variables)


def _student(state: RunState) -> list[str]:
    student = state.student
    if student is None:
        return []
    about = f"{student.path}  {human_bytes(student.size_bytes)}  {student.digest[:19]}…"
    others = [f"also matched: {path}" for path in student.also_matched]
    return facts("student", [about, *others])


def _live(view: View, state: RunState) -> list[str]:
    """What is live; of a run that failed or was cancelled also that it changed nothing."""
    if state.status not in ("failed", "cancelled"):
        return live_lines(view, followers=True)
    lines = []
    for pointer in view.live():
        if pointer.broken:
            lines += fact("BROKEN", f"{pointer.name}: {pointer.broken}")
            continue
        lines += fact("live", f"{live_line(view, pointer)}  unchanged by this run")
        lines += follower_lines(view, pointer)
    return lines + unseen_lines(view)


def _request(state: RunState) -> RunRequested:
    assert state.request is not None
    return state.request


# --- for programs -------------------------------------------------------------------------------


def _document(view: View, state: RunState, cluster: ClusterLook | None) -> dict[str, Any]:
    request, prices = _request(state), view.ws.settings.prices
    document = metadata_document(state, view.ws.ledger.root_at(state.position + 1))
    for shown, stage in zip(document["stages"], state.stages.values(), strict=True):
        outputs = outputs_of(view.ws.store, stage)
        shown["seconds"] = stage_seconds(stage)
        shown["outputs"] = asdict(outputs) if outputs else None
        shown.update(stage_json(prices, stage))
    student = state.student
    return {
        **document,
        "run_dir": str(view.ws.documents.run_dir(request)),
        "attended": view.attended(state),
        "machine": view.elsewhere(state),
        "cluster": asdict(cluster) if cluster else None,
        "driver_job": view.driver_job(state),
        "driver_ended": view.driver_ends.get(state.run_id),
        "held": held_json(run_held(state)),
        "cost": cost_json(run_cost(prices, state)),
        "note": request.note,
        "labels": dict(sorted(request.labels.items())),
        "actor": state.actor,
        "provenance": request.provenance.model_dump(mode="json"),
        "student": student.model_dump(mode="json", include=_STUDENT_KEYS) if student else None,
        "tags": _tags_document(state.tags),
        "result": view.result(state),
        "failure": _failure_document(view, state),
        "kept": kept_json(view.ws.store, state),
        "since_last_good": _since_document(view, state),
        "live": live_json(view),
        "next": next_commands(view, state),
    }


def _tags_document(tags: TagState | None) -> dict[str, Any] | None:
    if tags is None:
        return None
    return {"status": tags.status, "counts": dict(tags.counts), "errors": list(tags.errors)}


def _failure_document(view: View, state: RunState) -> dict[str, Any] | None:
    failed = state.current()
    if not isinstance(state.end, RunFailed) or failed is None or not failed.failures:
        return None
    last = failed.failures[-1]
    tail = tail_of_attempt(view.ws, state, failed.plan.name, last.attempt, _LOG_LINES)
    told = {name: getattr(last, name) for name in ("attempt", "cause", "exit_code", "message")}
    return {"stage": failed.plan.name, **told, "log": tail}


def _since_document(view: View, state: RunState) -> dict[str, Any] | None:
    good = view.last_good(state) if isinstance(state.end, RunFailed) else None
    if good is None:
        return None
    found = changes_since(view, good, state)
    return {
        "run_id": good.run_id,
        "changes": [asdict(change) for change in found] if found is not None else None,
    }
