"""What a person is likely to type after looking at a run. Only commands that there are."""

from __future__ import annotations

import shlex

from launcher.cli.live import release_commands
from launcher.cli.view import View
from ledger.decider import RunState
from ledger.events import InputRef, RunFailed, RunRequested

__all__ = ["next_commands", "submit_again"]


def next_commands(view: View, state: RunState) -> list[str]:
    """What a person is likely to type after looking at this run."""
    name = view.name(state.run_id)
    if state.status == "open":
        jobs = view.has_jobs(state)
        if view.elsewhere(state) is not None:
            return [view.back_to(state) if jobs else f"launcher status {name}"]
        follow = f"launcher logs {name} -f"
        if view.is_driven(state):
            return [follow, *([view.back_to(state)] if jobs else []), f"launcher cancel {name}"]
        return [view.back_to(state), f"launcher cancel {name}"]
    if isinstance(state.end, RunFailed):
        return [f"launcher logs {name} {state.end.stage}", submit_again(state)]
    if state.status == "cancelled":
        return [submit_again(state)]
    held = release_commands(view)
    pointer, wanted = view.pointer_of(state), _asked(state).promotion
    result = view.result(state)
    if "undecided" in result:
        return [f"launcher resume {name}"]
    if result.startswith("live as") and pointer is not None:
        return [*held, f"launcher rollback {shlex.quote(pointer.name)}"]
    if state.student is not None and (result.startswith("refused") or not result):
        target = wanted.target if wanted else pointer.name if pointer else "TARGET"
        return [*held, f"launcher promote {name} {shlex.quote(target)}"]
    return [*held, "launcher list"]


def submit_again(state: RunState) -> str:
    """The command that requests the same once more. Secrets that were ``--set`` are left out."""
    request = _asked(state)
    given = {
        "--config": request.config.path,
        "--teacher-checkpoint": _ref(request.teacher_checkpoint),
        "--teacher-scorecard": _ref(request.teacher_scorecard),
        "--promotion-target": request.promotion.target if request.promotion else None,
    }
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    for name, text in request.config.overrides.items():
        words += ["--set", f"{name}={text}"] if text is not None else []
    return shlex.join(["launcher", "submit", *words])


def _ref(given: InputRef | None) -> str | None:
    return given.ref if given else None


def _asked(state: RunState) -> RunRequested:
    assert state.request is not None
    return state.request
