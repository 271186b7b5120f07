"""Drives one run to its end: look, decide (``reconcile``), do, say so to the ledger; then look again.

Rules:

1. An intent is in the ledger before its effect. Whatever dies in between is found again by looking.
2. A stage's end is what its create-only result says, never what this process believes.
3. A fact is appended only to the very state that it was decided on. Has the ledger moved on since (a
   second launcher, a job that checked the tags, this process stopped for an hour), nothing is said and
   the run is looked at again.
4. After every fact the documents are written; where stages run elsewhere, once what was intended is begun, so that
   no node waits for a disk. Nothing here is needed to go on: ``resume`` is ``run``.
5. A bucket or cluster that does not answer for a while is outlasted (``launcher.outlasting``): every step is safe to
   do again, by rule 3.
6. The first interrupt asks the stage to stop and records that; a second one leaves at once, and the
   supervisor finishes by itself. Of a cluster's run the first one leaves: its Jobs go on without this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from launcher import clock
from launcher import reconcile as r
from launcher.config import Config
from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.executors.looks import Looks
from launcher.executors.port import (
    Ended,
    Executor,
    Observation,
    Pod,
    Running,
    StageResult,
    StageSpec,
    StillRunningError,
)
from launcher.interrupts import Interrupts
from launcher.outcomes import result_events
from launcher.outlasting import Outlasting
from launcher.progress import Progress, tell_changes
from launcher.project import relative_to_project
from launcher.promotion import Moved, RaceLostError
from launcher.request import make_folders
from launcher.storage.bucket_url import look_seconds
from launcher.surroundings import log_path, run_dir, stage_spec
from launcher.usage import measure
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState, StageState, conclude, may_retry

__all__ = ["NO_CODE", "RunOutcome", "Runner", "exit_code_of"]

#: What a command ends with where its run has no code of its own to say.
NO_CODE: Final = 70
_WAIT_SECONDS = 1.0
#: One step waits no longer, for after it what was away is said to be back.
_STEP_SECONDS = 5.0
#: What others say of a run on a cluster they do to its Job first, of which is heard at once.
_REMOTE_LOOK_SECONDS = 300.0
#: How long a run's end waits for the ends of its Jobs, which tell nothing new.
_BOOKS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended and what became of its promotion; ``exit_code`` is the command's."""

    state: RunState
    exit_code: int
    promotion: Moved | None = None
    promotion_error: ConflictError | IntegrityError | None = None


def exit_code_of(state: RunState) -> int:
    """0, the failed stage's own code, 70 where there is none, 130 when cancelled."""
    if state.status == "succeeded":
        return 0
    if isinstance(state.end, e.RunFailed):
        return state.end.exit_code or NO_CODE
    return 130 if isinstance(state.end, e.RunCancelled) else NO_CODE


def _ended_attempts(state: RunState) -> set[tuple[e.StageName, int]]:
    """The attempts whose end is on record."""
    return {
        (name, number)
        for name, stage in state.stages.items()
        for number in range(1, stage.attempt + 1)
        if number < stage.attempt or stage.status in ("succeeded", "failed")
    }


def _started(stage: StageState, pods: tuple[Pod, ...]) -> list[e.EventData]:
    """The pods that are not on record yet."""
    return [
        e.StageStarted(
            stage=stage.plan.name,
            attempt=stage.attempt,
            node=pod.node,
            image_digest=pod.image_digest,
            pod_uid=pod.uid,
            held_since=pod.held_since,
        )
        for pod in pods
        if pod.uid not in stage.pods
    ]


class Runner:
    """Runs of one workspace. ``config``'s variables, secrets included, are for the stages only.

    ``remote``: the stages run elsewhere, and need neither this process nor anything of this machine.
    """

    def __init__(
        self,
        ws: Workspace,
        executor: Executor,
        config: Config,
        progress: Progress,
        *,
        spec_of: Callable[..., StageSpec] = stage_spec,
        remote: bool = False,
    ) -> None:
        self.ws, self.executor, self.config, self.progress = ws, executor, config, progress
        #: What an attempt is told, where the executor runs it.
        self._spec_of, self.remote = spec_of, remote
        self.force = False
        near = look_seconds(ws.store.where, 0.0)
        self._looks = Looks(_REMOTE_LOOK_SECONDS if remote and near else near)
        self._interrupts = Interrupts()
        self._outlasting = Outlasting(ws.settings, executor, self._interrupts, progress.note)

    def run(self, run_id: str) -> RunOutcome:
        """Drive an open run to its end, then finish its promotion. Safe to call again and from anywhere.

        Raises ConflictError (another machine has it), KeyboardInterrupt (the second one).
        """
        ended = False
        try:
            with self._interrupts:
                state = self._driven(run_id)
            outcome, ended = self.finish(state), True
        finally:
            with suppress(KeyboardInterrupt) if ended else nullcontext():
                self.executor.close(_BOOKS_SECONDS if ended else 0.0)
        return outcome

    def _driven(self, run_id: str) -> RunState:
        """The run, once it has ended."""
        state = self.ws.journal.run(run_id)
        if state.request is None:
            raise UsageError(f"run {run_id} was never requested")
        if state.status == "open":
            self.executor.prepare()
            self._make_folders(state)
            self._tell_recorded(run_id, _ended_attempts(state))
        state = self.ws.documents.write(run_id)
        while state.status == "open":
            if self._interrupts.asked and self.remote:
                raise KeyboardInterrupt
            if self._interrupts.asked:
                self.progress.note("stopping; a second Ctrl-C leaves at once")
                state = self.cancel(run_id, "interrupted")
            else:
                state = self._outlasting.do(partial(self._advance, state))
        if self._interrupts.asked and state.status == "succeeded":
            raise KeyboardInterrupt  # it came too late for the run, but not for its promotion
        return state

    def cancel(self, run_id: str, reason: str) -> RunState:
        """Ask the current attempt to stop, wait for it, and record the run's end. Idempotent.

        A run that ended meanwhile, or whose stage had failed for good, stays what it is.
        """
        state = self.ws.journal.run(run_id)
        while state.status == "open":
            active = r.needs_observation(state)
            if active is not None:
                self._stop(run_id, active.plan.name, active.attempt, "cancelled", reason)
                state = self._advance(state)
            else:
                state = self._record(state, self._cancelled(state, reason))
        return state

    def leave(self, state: RunState) -> None:
        """Let go of a run that was cancelled: the Jobs of its stages need not be kept."""
        self._tell_recorded(state.run_id, _ended_attempts(state))
        self.executor.close()

    def _cancelled(self, state: RunState, reason: str) -> e.EventData:
        at = state.current()
        if at is not None and at.status == "failed" and state.request is not None:
            failed = at.failures[-1].cause != "cancelled"
            if failed and not may_retry(at, state.request.infrastructure_retries):
                return conclude(state)
        return e.RunCancelled(stage=at.plan.name if at else None, reason=reason)

    # --- one step ---

    def _advance(self, state: RunState) -> RunState:
        """One step, and what it changed on the screen, whoever changed it."""
        after = self._step(state)
        self._tell_recorded(state.run_id, _ended_attempts(after) - _ended_attempts(state))
        tell_changes(self.ws, self.progress, state, after)
        return after

    def _step(self, state: RunState) -> RunState:
        watched = r.needs_observation(state)
        seen: Observation | None = None
        if watched is not None:
            seen = self.executor.observe(state.run_id, watched.plan.name, watched.attempt)
        return self._do(state, r.reconcile(state, seen, force=self.force))

    def _do(self, state: RunState, action: r.Action) -> RunState:
        run_id = state.run_id
        match action:
            case r.Skip(stage=stage, reason=reason):
                return self._record(state, e.StageSkipped(stage=stage, reason=reason))
            case r.Intend(stage=stage, attempt=attempt):
                return self._intend(state, stage, attempt)
            case r.Start(stage=stage, attempt=attempt):
                return self._start(state, stage, attempt)
            case r.Adopt(stage=stage, attempt=attempt, handle=handle):
                return self._submitted(state, stage, attempt, handle)
            case r.Wait(stage=stage, attempt=attempt):
                return self._wait(state, stage, attempt)
            case r.Record(stage=stage, attempt=attempt, result=result, pods=pods):
                return self._result(state, stage, attempt, result, pods)
            case r.CloseLost(stage=stage, attempt=attempt, reason=reason, cause=cause):
                self._close_lost(run_id, stage, attempt, reason, cause)
            case r.EndOrphan(stage=stage, attempt=attempt):
                self._end_orphan(run_id, stage, attempt)
            case r.GiveUp(stage=stage, attempt=attempt, reason=reason):
                self._stop(run_id, stage, attempt, "lost", reason)
            case r.Refuse(stage=stage, attempt=attempt, machine=machine):
                self._elsewhere(run_id, stage, attempt, machine)
            case r.Conclude():
                return self._record(state, conclude(state))
        return self.ws.journal.run(run_id)

    def _make_folders(self, state: RunState) -> None:
        """The run's folders; those of a cluster's run only where its project is, for it needs none."""
        assert state.request is not None
        if not self.remote or os.access(state.request.project_root, os.W_OK):
            make_folders(run_dir(self.ws, state))

    def _tell_recorded(self, run_id: str, ended: set[tuple[e.StageName, int]]) -> None:
        for stage, attempt in sorted(ended):
            self.executor.recorded(run_id, stage, attempt)

    def _intend(self, state: RunState, stage: e.StageName, attempt: int) -> RunState:
        intended = self._intent(state, stage, attempt)
        return self._begun(state, intended) if self.remote else self._record(state, intended)

    def _intent(self, state: RunState, stage: e.StageName, attempt: int) -> e.StageIntended:
        plan, request = state.stages[stage].plan, state.request
        assert request is not None
        return e.StageIntended(
            stage=stage,
            attempt=attempt,
            executor=request.executor,
            spec_digest=plan.spec_digest,
            job_name=self.executor.job_name(state.run_id, stage, attempt, plan.spec_digest),
        )

    def _begun(self, state: RunState, *events: e.EventData) -> RunState:
        """Say ``events``, of which the last is an intent, and do it; the documents, which no pod reads, come after."""
        intended = events[-1]
        assert isinstance(intended, e.StageIntended)
        after = self._say(state, *events)
        stage = after.stages[intended.stage]
        ours = (stage.status, stage.attempt) == ("intended", intended.attempt)
        if not ours or self._interrupts.asked:
            return self.ws.documents.write(state.run_id)
        return self._start(after, intended.stage, intended.attempt)

    def _start(self, state: RunState, stage: e.StageName, attempt: int) -> RunState:
        self._make_folders(state)  # an earlier stage may have removed one
        spec = self._spec_of(self.ws, self.config, state, stage, attempt)
        return self._submitted(state, stage, attempt, self.executor.start(spec))

    def _submitted(
        self, state: RunState, stage: e.StageName, attempt: int, handle: e.Handle
    ) -> RunState:
        submitted = e.StageSubmitted(
            stage=stage, attempt=attempt, handle=handle, log=self._log(state, stage, attempt)
        )
        if handle.job_name is not None:  # its pods are recorded as they start
            return self._record(state, submitted)
        node = handle.machine_id or "unknown"
        return self._record(
            state, submitted, e.StageStarted(stage=stage, attempt=attempt, node=node)
        )

    def _wait(self, state: RunState, stage: e.StageName, attempt: int) -> RunState:
        """Until there is more to see, or it is time to look what others say of this run."""
        log, what = log_path(self.ws, state, stage, attempt), (state.run_id, stage, attempt)
        began = time.monotonic()
        while isinstance(
            seen := self._interrupts.wait(
                lambda: self.executor.wait(state.run_id, stage, attempt, _WAIT_SECONDS)
            ),
            Running,
        ):
            if started := _started(state.stages[stage], seen.pods):
                return self._record(state, *started)
            self.progress.stage_waits(state, state.stages[stage], log, seen)
            moment = time.monotonic()
            if self._looks.due(what, moment):
                break
            if moment - began >= _STEP_SECONDS:
                return state
        if isinstance(seen, Ended):  # a result stands: nobody need look again
            return self._do(state, r.reconcile(state, seen))
        return self.ws.journal.run(state.run_id)

    def _result(
        self,
        state: RunState,
        stage: e.StageName,
        attempt: int,
        result: StageResult,
        pods: tuple[Pod, ...],
    ) -> RunState:
        assert state.request is not None
        log, now = self._log(state, stage, attempt), state.stages[stage]
        facts = result_events(state.request, now, result, log)
        # After that it was submitted, which may be among the facts, and before its end.
        at = int(isinstance(facts[0], e.StageSubmitted))
        facts[at:at] = _started(now, pods)
        following = self._following(state, stage)
        if following is None or not any(isinstance(fact, e.StageSucceeded) for fact in facts):
            return self._record(state, *facts)
        # One append says both: what ended, and what begins.
        return self._begun(state, *facts, self._intent(state, following, 1))

    def _following(self, state: RunState, stage: e.StageName) -> e.StageName | None:
        """The stage that begins at once where this one succeeds; None: there is something to settle before."""
        later = [*state.stages][[*state.stages].index(stage) + 1 :]
        if not later or not self.remote or self._interrupts.asked:
            return None
        plan = state.stages[later[0]]
        ready = plan.status == "pending" and (plan.plan.command or "").strip()
        return later[0] if ready else None

    def _end_orphan(self, run_id: str, stage: e.StageName, attempt: int) -> None:
        self.progress.note(f"{stage}: its supervisor is gone; ending the command it left")
        reason = "its supervisor ended while the command ran on; the command was ended"
        self._stop(run_id, stage, attempt, "lost", reason)

    def _close_lost(
        self, run_id: str, stage: e.StageName, attempt: int, reason: str, cause: e.Cause
    ) -> None:
        """Close it, unless it runs after all: then it is looked at again, by rule 3."""
        try:
            self.executor.close_lost(run_id, stage, attempt, reason, cause)
        except StillRunningError:
            self._interrupts.wait(lambda: clock.sleep(_WAIT_SECONDS))

    def _stop(
        self, run_id: str, stage: e.StageName, attempt: int, closed_by: str, reason: str
    ) -> None:
        self.executor.stop(
            run_id,
            stage,
            attempt,
            closed_by=closed_by,
            reason=reason,
            grace_seconds=self.ws.settings.grace_seconds,
            force=self.force,
        )

    def _elsewhere(self, run_id: str, stage: e.StageName, attempt: int, machine: str) -> None:
        if not self.force:
            raise ConflictError(
                f"{stage} attempt {attempt} of {run_id} was started on machine {machine}",
                "resume it there, or --force once you know that it is gone",
            )
        reason = f"given up on machine {machine} by force"
        self.executor.close_lost(run_id, stage, attempt, reason)

    def _record(self, state: RunState, *events: e.EventData) -> RunState:
        """Append what was decided on ``state``; nothing where that is not the newest state any more."""
        self._say(state, *events)
        return self.ws.documents.write(state.run_id)

    def _say(self, state: RunState, *events: e.EventData) -> RunState:
        """As ``_record``, without the documents; returns the newest state."""

        def propose(newest: RunState) -> tuple[e.EventData, ...]:
            return events if newest.version == state.version else ()

        return self.ws.journal.record_run(state.run_id, propose)

    def _log(self, state: RunState, stage: e.StageName, attempt: int) -> str:
        assert state.request is not None
        root = Path(state.request.project_root)
        return relative_to_project(log_path(self.ws, state, stage, attempt), root)

    # --- the end ---

    def finish(self, state: RunState) -> RunOutcome:
        """How a run that has ended came out, its promotion decided if nobody decided it yet. Idempotent."""
        request, code = state.request, exit_code_of(state)
        if state.status != "succeeded" or request is None or request.promotion is None:
            return RunOutcome(state, code)
        plan = request.promotion
        try:
            promote = partial(self.ws.promoter.promote, state, plan.target, automatic=True)
            moved = self._outlasting.do(partial(promote, plan=plan))
        except (RaceLostError, IntegrityError) as exc:
            self.ws.documents.write(state.run_id)
            return RunOutcome(state, exc.exit_code, promotion_error=exc)
        if moved.outcome == "moved":
            measured = measure(self.ws, run_id=state.run_id, alert_file=plan.alert_file)
            self.ws.journal.record_storage(measured, f"promotion/{state.run_id}/{plan.target}")
        self.ws.documents.write(state.run_id)
        refused = moved.outcome == "refused" and moved.cause != "gate"
        return RunOutcome(state, 3 if refused else code, moved)
