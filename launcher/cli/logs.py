"""logs: a stage's log, byte for byte; ``-f`` follows a run from stage to stage to its end.

Following ends with the stage that was named, with the attempt that was named, else with the run. It also
ends where nobody drives the run any more and no supervisor writes: then it says so and exits 5.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from launcher import clock
from launcher.agent.protocol import AttemptPaths, is_alive, machine_id
from launcher.cli.common import home_option, workspace
from launcher.cli.driving import is_driven
from launcher.cli.logfile import log_path, opened_log
from launcher.cli.terminal import is_terminal, paint
from launcher.errors import UnavailableError, UsageError
from launcher.refs import find_run, short_id
from launcher.storage.port import ObjectNotFoundError
from launcher.workspace import Workspace, translated
from ledger.decider import RunState, StageState
from ledger.events import STAGES, StageName
from ledger.run_state import SETTLED_WELL

if TYPE_CHECKING:
    from launcher.cli.pod_logs import PodLogs

__all__ = ["logs_command"]

_CHUNK_BYTES: Final = 1024 * 1024
_POLL_SECONDS: Final = 0.2
#: How long nobody must have driven a run before it counts as left: a resume may be on its way.
_LEFT_SECONDS: Final = 1.0


@click.command(
    "logs",
    help="A stage's log, byte for byte; by default the newest stage's.",
    epilog="\b\nExamples:\n  launcher logs 7f3a -f\n  launcher logs 7f3a retrain | less",
)
@click.argument("run")
@click.argument("stage", required=False, type=click.Choice(STAGES))
@click.option(
    "-f", "--follow", is_flag=True, help="Go on as it grows, to the end of STAGE, else of RUN."
)
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Default the newest.")
@home_option
def logs_command(
    run: str, stage: StageName | None, follow: bool, attempt: int | None, home: str | None
) -> int:
    if sys.stdout is None:
        raise UsageError("there is no standard output to write a log to")
    ws = workspace(home, writing=False)
    with translated():
        state = ws.journal.run(find_run(ws.journal, run))
        if follow:
            _Following(ws, state.run_id, stage, attempt, sys.stdout.buffer).run()
            return 0
        chosen = _chosen(state, stage)
        number = attempt or chosen.attempt
        if number > chosen.attempt:
            raise UsageError(f"{chosen.plan.name} has had {chosen.attempt} attempts, not {number}")
        if number == chosen.attempt and _is_in_pod(ws, state, chosen):
            with _pod_logs(ws, state) as pods:
                if pods.copy(chosen.plan.name, number, sys.stdout.buffer):
                    sys.stdout.buffer.flush()
                    return 0
        with opened_log(ws, state, chosen.plan.name, number) as log:
            _copy(log, sys.stdout.buffer)
    return 0


def _is_in_pod(ws: Workspace, state: RunState, stage: StageState) -> bool:
    """Whether the newest attempt's output is with its pod alone: no launcher here writes it down."""
    runs = state.status == "open" and stage.status in ("submitted", "running")
    return runs and _on_pods(state) and not is_driven(ws, state.run_id)


def _on_pods(state: RunState) -> bool:
    return state.request is not None and state.request.executor == "kubernetes"


def _pod_logs(ws: Workspace, state: RunState) -> PodLogs:
    from launcher.cli.pod_logs import PodLogs  # here: few logs are asked of a cluster

    assert state.request is not None
    return PodLogs(ws, state.request)


def _copy(log: BinaryIO, out: BinaryIO) -> None:
    shutil.copyfileobj(log, out, _CHUNK_BYTES)
    out.flush()


def _chosen(state: RunState, stage: StageName | None) -> StageState:
    """The stage that was named, or the newest that has begun. Raises UsageError where it has no log."""
    begun = [s for s in state.stages.values() if s.attempt and s.status != "reused"]
    found = begun[-1] if begun and stage is None else state.stages.get(stage or "llm_on")
    if found is None:
        raise UsageError(f"{state.run_id} has no stage {stage}")
    name = short_id(state.run_id)
    if found.status == "reused":
        elsewhere = f"launcher logs {found.reused_from} {found.plan.name}"
        raise UsageError(f"{found.plan.name} of {name} was reused", elsewhere)
    if found.status == "skipped":
        raise UsageError(f"{found.plan.name} of {name} was skipped: {found.reason}")
    if not found.attempt:
        what = f"{stage} of {name} has not begun" if stage else f"no stage of {name} has begun"
        raise UsageError(what, f"launcher logs {name} -f waits for it")
    return found


_Attempt = tuple[StageName, int]


class _Following:
    """Shows one attempt after the other, each while it grows."""

    def __init__(
        self,
        ws: Workspace,
        run_id: str,
        stage: StageName | None,
        attempt: int | None,
        out: BinaryIO,
    ) -> None:
        self.ws, self.run_id, self.stage, self.attempt, self.out = ws, run_id, stage, attempt, out
        self._left: Callable[[], bool] | None = None
        self._pods: PodLogs | None = None

    def run(self) -> None:
        """Raises UnavailableError where the run was left alone."""
        state = self._state()
        if state.status == "open" and _on_pods(state) and not is_driven(self.ws, self.run_id):
            with _pod_logs(self.ws, state) as self._pods:
                self._follow()
        else:
            self._follow()

    def _follow(self) -> None:
        shown: _Attempt | None = None
        while True:
            state = self._state()
            following = self._next(state, shown)
            if following is not None:
                self._show(state, *following)
                shown = following
            elif self._is_over(state, shown):
                return
            else:
                self._pause(None)

    def _state(self) -> RunState:
        return self.ws.journal.run(self.run_id)

    # --- which attempt ---

    def _next(self, state: RunState, shown: _Attempt | None) -> _Attempt | None:
        """The attempt to show after ``shown``, if it has begun; the first one is the newest there is."""
        begun = [
            (name, number)
            for name, stage in state.stages.items()
            for number in range(1, stage.attempt + 1)
            if stage.status != "reused"
            and self.stage in (None, name)
            and self.attempt in (None, number)
        ]
        if shown is None:
            return begun[-1] if begun else None
        return next((a for a in begun if _order(a) > _order(shown)), None)

    def _is_over(self, state: RunState, shown: _Attempt | None) -> bool:
        if state.status != "open":
            if shown is None:
                _chosen(state, self.stage)  # says why there is nothing to show
            return True
        if self.stage is None:
            return False
        settled = state.stages[self.stage].status in SETTLED_WELL
        return settled or (shown is not None and self.attempt is not None)

    # --- one attempt ---

    def _show(self, state: RunState, stage: StageName, attempt: int) -> None:
        if is_terminal() and self.stage is None:
            again = f" attempt {attempt}" if attempt > 1 else ""
            click.echo(paint(f"==> {stage}{again} <==", dim=True), err=True)
        path = log_path(self.ws, state, stage, attempt)
        if self._pods is not None:
            path = self._pods.path(stage, attempt)
        while not path.is_file():
            if self._has_ended(stage, attempt):
                with suppress(UsageError), opened_log(self.ws, state, stage, attempt) as log:
                    _copy(log, self.out)
                return
            self._pause((stage, attempt))
        with path.open("rb") as log:
            while True:
                ended = self._has_ended(stage, attempt)
                _copy(log, self.out)
                if ended:
                    self._finish(log.tell(), stage, attempt)
                    return
                self._pause((stage, attempt))

    def _finish(self, shown_bytes: int, stage: StageName, attempt: int) -> None:
        """Of a pod's log, what came too late to be followed."""
        state = self._state()
        if _on_pods(state):
            with suppress(UsageError), opened_log(self.ws, state, stage, attempt) as log:
                log.seek(shown_bytes)
                _copy(log, self.out)

    def _has_ended(self, stage: StageName, attempt: int) -> bool:
        now = self._state().stages[stage]
        return now.attempt > attempt or now.status in ("succeeded", "failed")

    # --- whether more can come ---

    def _pause(self, at: _Attempt | None) -> None:
        """Wait a moment. Raises UnavailableError once nothing more can come by itself."""
        clock.sleep(_POLL_SECONDS)
        if self._more_may_come(at):
            self._left = None
        elif self._left is None:
            self._left = clock.deadline(_LEFT_SECONDS)
        elif self._left():
            name = short_id(self.run_id)
            back = "attach" if _on_pods(self._state()) else "resume"
            raise UnavailableError(
                f"nobody drives run {name} now; its log ends here", f"launcher {back} {name}"
            )

    def _more_may_come(self, at: _Attempt | None) -> bool:
        if self._pods is not None and self._pods.goes_on(at):
            return True
        return is_driven(self.ws, self.run_id) or (at is not None and self._is_written(*at))

    def _is_written(self, stage: StageName, attempt: int) -> bool:
        """Whether an attempt's supervisor may still be at work: it lives, or it is out of sight."""
        paths = AttemptPaths(self.ws.home, self.run_id, stage, attempt)
        if self.ws.store.exists(paths.key("result.json")):
            return False
        try:
            record = json.loads(self.ws.store.read(paths.key("start.json")))
        except (ObjectNotFoundError, ValueError):
            return False
        return record.get("machine_id") != machine_id() or is_alive(record)


def _order(attempt: _Attempt) -> tuple[int, int]:
    return STAGES.index(attempt[0]), attempt[1]
