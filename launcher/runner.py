"""Drives one run to its end: look, decide (``reconcile``), do, say so to the ledger; then look again.

Rules:

1. An intent is in the ledger before its effect. Whatever dies in between is found again by looking.
2. A stage's end is what its create-only result says, never what this process believes.
3. After every fact the documents are written. Nothing here is needed to go on: ``resume`` is ``run``.
4. The first interrupt asks the stage to stop and records that; a second one leaves at once, and the
   supervisor finishes by itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher import reconcile as r
from launcher.config import Config
from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.executors.port import Executor, Observation, Running, StageResult, StageSpec
from launcher.outcomes import result_events
from launcher.pipeline import LOG_NUMBER, log_name
from launcher.project import relative_to_project
from launcher.promotion import Moved, RaceLostError
from launcher.request import make_folders, own_paths
from launcher.tokens import stage_environment, substitute
from launcher.usage import measure
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState, StageState, conclude

__all__ = ["Progress", "RunOutcome", "Runner", "exit_code_of"]

_WAIT_SECONDS = 1.0


class Progress(Protocol):
    """What a screen is told while a run goes on."""

    def stage_began(self, state: RunState, stage: StageState, log: Path) -> None: ...
    def stage_waits(self, state: RunState, stage: StageState, log: Path) -> None: ...
    def stage_ended(self, state: RunState, stage: StageState, log: Path) -> None: ...
    def note(self, text: str) -> None: ...


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
        return state.end.exit_code if state.end.exit_code else 70
    return 130 if isinstance(state.end, e.RunCancelled) else 70


class Runner:
    """Runs of one workspace. ``variables`` are the config's own, secrets included, for the stages only."""

    def __init__(
        self, ws: Workspace, executor: Executor, config: Config, progress: Progress
    ) -> None:
        self.ws, self.executor, self.config, self.progress = ws, executor, config, progress
        self.force = False

    def run(self, run_id: str) -> RunOutcome:
        """Drive an open run to its end, then finish its promotion. Safe to call again and from anywhere.

        Raises ConflictError (another machine has it), KeyboardInterrupt (the second one).
        """
        state = self.ws.journal.run(run_id)
        if state.request is None:
            raise UsageError(f"run {run_id} was never requested")
        make_folders(self._run_dir(state))
        state = self.ws.documents.write(run_id)
        while state.status == "open":
            try:
                state = self._step(state)
            except KeyboardInterrupt:
                self.progress.note("stopping; a second Ctrl-C leaves at once")
                state = self.cancel(run_id, "interrupted")
        return self._finish(state)

    def cancel(self, run_id: str, reason: str) -> RunState:
        """Ask the current attempt to stop, wait for it, and record the end. Idempotent."""
        state = self.ws.journal.run(run_id)
        current = r.needs_observation(state)
        if current is not None:
            self.executor.stop(
                run_id,
                current.plan.name,
                current.attempt,
                closed_by="cancelled",
                grace_seconds=self.ws.settings.grace_seconds,
            )
            state = self._step(state)
        elif state.status == "open":
            at = state.current()
            end = e.RunCancelled(stage=at.plan.name if at else None, reason=reason)
            state = self._record(run_id, end)
        return state

    # --- one step ---

    def _step(self, state: RunState) -> RunState:
        watched = r.needs_observation(state)
        seen: Observation | None = None
        if watched is not None:
            seen = self.executor.observe(state.run_id, watched.plan.name, watched.attempt)
        return self._do(state, r.reconcile(state, seen))

    def _do(self, state: RunState, action: r.Action) -> RunState:
        run_id = state.run_id
        match action:
            case r.Skip(stage=stage, reason=reason):
                return self._ended(
                    self._record(run_id, e.StageSkipped(stage=stage, reason=reason)), stage
                )
            case r.Intend(stage=stage, attempt=attempt):
                return self._intend(state, stage, attempt)
            case r.Start(stage=stage, attempt=attempt):
                handle = self.executor.start(self._spec(state, stage, attempt))
                return self._submitted(state, stage, attempt, handle)
            case r.Adopt(stage=stage, attempt=attempt, handle=handle):
                return self._submitted(state, stage, attempt, handle)
            case r.Wait(stage=stage, attempt=attempt):
                return self._wait(state, stage, attempt)
            case r.Record(stage=stage, attempt=attempt, result=result):
                return self._result(state, stage, attempt, result)
            case r.CloseLost(stage=stage, attempt=attempt, reason=reason):
                self.executor.close_lost(run_id, stage, attempt, reason)
                return self.ws.journal.run(run_id)
            case r.EndOrphan(stage=stage, attempt=attempt):
                self.progress.note(f"{stage}: its supervisor is gone; ending the command it left")
                self.executor.stop(
                    run_id,
                    stage,
                    attempt,
                    closed_by="lost",
                    grace_seconds=self.ws.settings.grace_seconds,
                )
                return self.ws.journal.run(run_id)
            case r.Refuse(stage=stage, attempt=attempt, machine=machine):
                return self._elsewhere(state, stage, attempt, machine)
            case r.Conclude():
                return self._record(run_id, conclude(state))

    def _intend(self, state: RunState, stage: e.StageName, attempt: int) -> RunState:
        plan = state.stages[stage].plan
        intended = e.StageIntended(
            stage=stage, attempt=attempt, executor="local", spec_digest=plan.spec_digest
        )
        return self._record(state.run_id, intended)

    def _submitted(
        self, state: RunState, stage: e.StageName, attempt: int, handle: e.Handle
    ) -> RunState:
        log = relative_to_project(self._log(state, stage, attempt), self.ws.root)
        moved = self._record(
            state.run_id,
            e.StageSubmitted(stage=stage, attempt=attempt, handle=handle, log=log),
            e.StageStarted(stage=stage, attempt=attempt, node=handle.machine_id or "unknown"),
        )
        self.progress.stage_began(moved, moved.stages[stage], self._log(state, stage, attempt))
        return moved

    def _wait(self, state: RunState, stage: e.StageName, attempt: int) -> RunState:
        seen = self.executor.wait(state.run_id, stage, attempt, timeout_seconds=_WAIT_SECONDS)
        if isinstance(seen, Running):
            log = self._log(state, stage, attempt)
            self.progress.stage_waits(state, state.stages[stage], log)
        return self.ws.journal.run(state.run_id)

    def _result(
        self, state: RunState, stage: e.StageName, attempt: int, result: StageResult
    ) -> RunState:
        log = relative_to_project(self._log(state, stage, attempt), self.ws.root)
        assert state.request is not None
        events = result_events(state.request, state.stages[stage], result, log)
        moved = self._record(state.run_id, *events)
        return self._ended(moved, stage)

    def _elsewhere(
        self, state: RunState, stage: e.StageName, attempt: int, machine: str
    ) -> RunState:
        if not self.force:
            raise ConflictError(
                f"{stage} attempt {attempt} of {state.run_id} was started on machine {machine}",
                "resume it there, or --force once you know that it is gone",
            )
        reason = f"given up on machine {machine} by force"
        self.executor.close_lost(state.run_id, stage, attempt, reason)
        return self.ws.journal.run(state.run_id)

    def _ended(self, state: RunState, stage: e.StageName) -> RunState:
        settled = state.stages[stage]
        log = self._log(state, stage, max(settled.attempt, 1))
        self.progress.stage_ended(state, settled, log)
        return state

    def _record(self, run_id: str, *events: e.EventData) -> RunState:
        def propose(state: RunState) -> tuple[e.EventData, ...]:
            return events if state.status == "open" else ()

        state = self.ws.journal.record_run(run_id, propose)
        self.ws.documents.write(run_id)
        return state

    # --- a stage's surroundings ---

    def _run_dir(self, state: RunState) -> Path:
        assert state.request is not None
        return self.ws.documents.run_dir(state.request)

    def _log(self, state: RunState, stage: e.StageName, attempt: int) -> Path:
        return self._run_dir(state) / "logs" / log_name(stage, attempt)

    def _spec(self, state: RunState, stage: e.StageName, attempt: int) -> StageSpec:
        request, plan = state.request, state.stages[stage].plan
        assert request is not None
        root, run_dir = Path(request.project_root), self._run_dir(state)
        own = self._own(state, stage, attempt)
        tag_file = root / request.relabel_tag_file if request.relabel_tag_file else None
        done = [s.manifest_digest for s in state.stages.values() if s.manifest_digest]
        return StageSpec(
            run_id=state.run_id,
            stage=stage,
            attempt=attempt,
            index=LOG_NUMBER[stage],
            command=substitute(plan.command or "", own),
            cwd=str(root),
            environment=stage_environment(os.environ, self.config.variables, own),
            run_dir=str(run_dir),
            log_path=str(self._log(state, stage, attempt)),
            store=self.ws.store.where,
            home=str(self.ws.home),
            previous_manifests=tuple(done),
            collect_exclude=self.config.collect_exclude,
            student_glob=self.config.student_glob,
            tag_file=str(tag_file) if tag_file and stage == "relabel" else None,
            timeout_seconds=plan.timeout_seconds,
            grace_seconds=self.ws.settings.grace_seconds,
            spec_digest=plan.spec_digest,
        )

    def _own(self, state: RunState, stage: e.StageName, attempt: int) -> Mapping[str, str | None]:
        request = state.request
        assert request is not None
        root, run_dir = Path(request.project_root), self._run_dir(state)
        student = state.student

        def place(given: e.InputRef | None) -> str | None:
            return str(self._fetched(given, root)) if given else None

        return {
            **own_paths(state.run_id, run_dir),
            "STAGE": stage,
            "ATTEMPT": str(attempt),
            "TEACHER_CHECKPOINT": place(request.teacher_checkpoint),
            "TEACHER_SCORECARD": place(request.teacher_scorecard),
            "RELABEL_TAG_FILE": str(root / request.relabel_tag_file)
            if request.relabel_tag_file
            else None,
            "STUDENT_CHECKPOINT": str(root / student.path) if student else None,
            "RESUME_CHECKPOINT": None,
        }

    def _fetched(self, given: e.InputRef, root: Path) -> Path:
        """Where an input lies. One that was named by run, pointer or digest is brought from the store."""
        path = root / given.path
        if given.ref.startswith(("run:", "pointer:", "sha256:")) and not path.exists():
            self.ws.store.fetch_blob(given.digest, path)
        return path

    # --- the end ---

    def _finish(self, state: RunState) -> RunOutcome:
        request, code = state.request, exit_code_of(state)
        if state.status != "succeeded" or request is None or request.promotion is None:
            return RunOutcome(state, code)
        plan = request.promotion
        try:
            moved = self.ws.promoter.promote(state, plan.target, automatic=True, plan=plan)
        except (RaceLostError, IntegrityError) as exc:
            self.ws.documents.write(state.run_id)
            return RunOutcome(state, exc.exit_code, promotion_error=exc)
        if moved.outcome == "moved":
            measured = measure(self.ws, run_id=state.run_id, alert_file=plan.alert_file)
            self.ws.journal.record_storage(measured, f"promotion/{state.run_id}/{plan.target}")
        self.ws.documents.write(state.run_id)
        refused = moved.outcome == "refused" and moved.cause != "gate"
        return RunOutcome(state, 3 if refused else code, moved)
