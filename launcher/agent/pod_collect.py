"""What the sidecar does: one attempt's outputs, from its pod into the store.

Rules:

1. Only ``result.json``, create-only, closes an attempt. ``committed`` is said where it holds this very exit code,
   whoever created it.
2. A pod that was told to end has no result, whatever its command says: its checkpoints and log are saved, and the
   attempt goes on in another pod. That is looked at last right before the result is created.
3. A result that somebody else created ends the command; what it saved goes to ``collected.json``. So does this one's
   own, for a command that is past its time limit.
4. No exit code, no result: a wrapper that was killed leaves it to the Job and the pod to say why.
5. It may be killed anywhere and begins again: what is in the store is not sent twice, what was said is said again.
6. A store that is away is waited for as long as the wrapper waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from launcher.agent.outputs import collect_checkpoints, collect_outputs, log_digest
from launcher.agent.pod_checkpoints import Watch
from launcher.agent.pod_door import Given, Told
from launcher.agent.pod_handover import Exit, Handover
from launcher.agent.pod_saving import Saving
from launcher.agent.pod_store import sparing
from launcher.agent.task import read_task, stage_spec
from launcher.clock import now
from launcher.errors import IntegrityError, LauncherError, UnavailableError
from launcher.retry import outlasted
from launcher.storage.bucket_url import look_seconds
from launcher.storage.opening import open_store
from launcher.storage.placing import place_of
from launcher.storage.port import AccessRefusedError, ObjectExistsError, ObjectNotFoundError
from ledger.canonical import canonical_json

__all__ = ["Collector"]

#: How often the handover folder is looked at: this is in memory.
_POLL_SECONDS: Final = 0.05
#: How often checkpoints are looked at, and a folder is asked whether somebody closed the attempt.
_LOOK_SECONDS: Final = 1.0
#: The longest wait for a store that is away once this process was told to end.
_HURRY_SECONDS: Final = 1.0
_FIRST_SECONDS: Final = 3600.0
_KILLED: Final = 137

T = TypeVar("T")


class _ToldToEndError(Exception):
    """The pod is being ended, so that what was being committed is no result."""


class Collector:
    """One collector. ``run`` does all of it and returns its exit code; ``say`` hears what somebody may want to know."""

    def __init__(self, asked: Given, told: Told, say: Callable[[str], object]) -> None:
        self._asked, self._told, self._say = asked, told, say
        self._handover = Handover(asked.handover)
        self._store = sparing(open_store(asked.store))
        self._closed_look_seconds = look_seconds(asked.store, _LOOK_SECONDS)
        self._patience = _FIRST_SECONDS
        self._began = time.monotonic()

    def run(self) -> int:
        """Collect, then wait to be told to end."""
        if not self._handover.has("collected"):
            self._prepare()
            ended = self._await()
            if ended is None:
                self._abandoned()
                return 0
            word = self._finish(ended)
            # The launcher listens: by this line it knows sooner than by the pod's end.
            self._say(word)
            self._handover.say("collected", word)
        while not self._told:
            self._told.wait(None)
        return 0

    def _prepare(self) -> None:
        task = self._patiently(lambda: read_task(self._store, self._asked.task))
        workspace = self._asked.workspace.resolve()
        self._task, self._patience = task, task.limits.collect
        self._spec = stage_spec(task, workspace, self._asked.store)
        run_dir = place_of(workspace, task.run_dir)
        watch = Watch(run_dir, task.limits.quiet)
        self._saving = Saving(task, self._store, run_dir, self._asked.pod_uid, watch)

    # --- while the command runs ---

    def _await(self) -> Exit | None:
        """How the command ended; None if its container is gone without a word."""
        looked = asked = again = time.monotonic()
        saving: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="saving") as beside:
            while not self._told:
                ended = self._handover.exit()
                if ended is not None:
                    return ended
                moment = time.monotonic()
                idle = saving is None or saving.done()
                if idle and moment - looked >= _LOOK_SECONDS and self._handover.has("started"):
                    looked, saving = moment, beside.submit(self._save)
                if moment - asked >= self._closed_look_seconds:
                    asked = moment
                    self._look_whether_closed()
                if moment >= again and self._is_late():
                    again = moment + _LOOK_SECONDS
                    self._close_late()
                self._told.wait(_POLL_SECONDS)
        return self._handover.exit()

    def _save(self) -> None:
        """What is finished; what cannot be stored now is tried again at the next look."""
        try:
            self._saving.save()
        except LauncherError as exc:
            self._say(f"a checkpoint waits: {exc}")

    def _look_whether_closed(self) -> None:
        if self._handover.has("stop"):
            return
        try:
            if self._store.exists(self._task.key("result.json")):
                self._handover.say("stop", "closed")
        except (UnavailableError, AccessRefusedError):
            return

    def _is_late(self) -> bool:
        limit = self._task.timeout_seconds
        return limit is not None and self._handover.seconds_since_start() > limit

    def _close_late(self) -> None:
        """The result first, then the signal: whatever the command makes of it is no success."""
        if self._handover.has("stop"):
            return
        words = f"it ran longer than {self._task.timeout_seconds:g} s and was stopped"
        self._began = time.monotonic()
        try:
            self._create_result(None, exit_code=None, closed_by="timeout", message=words)
        except ObjectExistsError:
            pass  # its own word is heard by the next look
        except _ToldToEndError:
            return
        except LauncherError as exc:
            self._say(f"it is past its time, and that cannot be said in the store: {exc}")
            return
        self._handover.say("stop", "timeout")

    # --- after ---

    def _finish(self, ended: Exit) -> str:
        """Keep what there is; returns the word for the wrapper."""
        self._began = time.monotonic()
        try:
            known = self._patiently(self._result)
            if known is not None:
                return self._closed(ended, known)
            if self._is_told(ended):
                return self._saved(ended)
            if ended.ended == "stopped":
                return self._closed(ended, None)
            if ended.code is None:
                return self._give_up("storage", f"cannot write {self._task.log}")
            return self._commit(ended)
        except _ToldToEndError:
            return self._saved(ended)
        except LauncherError as exc:
            self._say(f"nothing could be kept: {exc}")
            return "storage"

    def _is_told(self, ended: Exit) -> bool:
        return ended.ended == "terminated" or self._handover.has("terminating")

    def _commit(self, ended: Exit) -> str:
        def attempt() -> None:
            outputs = collect_outputs(self._spec, self._store)
            if outputs["tag_file"] is not None:
                outputs["tag_file"]["path"] = self._task.tag_file
            self._create_result(ended, exit_code=ended.code, closed_by=None, **outputs)

        try:
            self._patiently(attempt, while_told=False)
        except ObjectExistsError:
            return self._closed(ended, self._patiently(self._result))
        except (UnavailableError, AccessRefusedError, IntegrityError) as exc:
            return self._give_up("storage", str(exc), ended)
        except LauncherError as exc:
            return self._give_up("outputs", str(exc), ended)
        return "committed"

    def _create_result(
        self,
        ended: Exit | None,
        *,
        exit_code: int | None,
        closed_by: str | None,
        message: str | None = None,
        **outputs: Any,
    ) -> None:
        """Raises ObjectExistsError, UnavailableError, _ToldToEndError."""
        task, collecting = self._task, time.monotonic() - self._began
        result = {
            "run_id": task.run_id,
            "stage": task.stage,
            "attempt": task.attempt,
            "exit_code": exit_code,
            "closed_by": closed_by,
            "message": message,
            "started_at": self._handover.started_at() or now(),
            "ended_at": now(),
            "handle": None,
            "pod": self._asked.pod,
            "oom_kills": ended.oom_kills if ended else 0,
            "seconds": {"running": self._handover.running_seconds(), "collecting": collecting},
            **outputs,
        }
        if self._handover.has("terminating"):
            raise _ToldToEndError
        self._store.create(task.key("result.json"), canonical_json(result))

    def _give_up(self, closed_by: str, message: str, ended: Exit | None = None) -> str:
        """Outputs that could not be kept are no success; what can be kept of them is."""
        self._say(f"no result: {message}")
        try:
            self._create_result(ended, exit_code=None, closed_by=closed_by, message=message)
        except ObjectExistsError:
            pass
        except LauncherError as exc:
            self._say(f"nor could that be said in the store: {exc}")
            return closed_by
        self._save_closed()
        return closed_by

    def _result(self) -> dict[str, Any] | None:
        """The result that is there, whoever created it. Raises IntegrityError, UnavailableError."""
        key = self._task.key("result.json")
        try:
            return dict(json.loads(self._store.read(key)))
        except ObjectNotFoundError:
            return None
        except (ValueError, TypeError) as exc:
            raise IntegrityError(f"{key} is no result: {exc}") from exc

    def _closed(self, ended: Exit, result: dict[str, Any] | None) -> str:
        """There is a result: the word for one that says this very exit code, or what this pod saved."""
        if result and result.get("closed_by") is None and result.get("exit_code") == ended.code:
            return "committed"
        self._save_closed()
        return "closed"

    def _save_closed(self) -> None:
        def attempt() -> None:
            saved = collect_checkpoints(self._spec, self._store)
            seconds = {"running": self._handover.running_seconds()}
            data = canonical_json({**saved, "seconds": seconds, "saved_at": now()})
            self._store.create(self._task.key("collected.json"), data)

        try:
            self._patiently(attempt)
        except ObjectExistsError:
            return
        except LauncherError as exc:
            self._say(f"not saved: {exc}")

    def _saved(self, ended: Exit) -> str:
        """The pod is being ended: all that the next one goes on from."""
        well = ended.ended != "command" or ended.code == 0
        self._save_all(ended_well=well and ended.code not in (None, _KILLED))
        return "saved"

    def _save_all(self, *, ended_well: bool) -> None:
        self._patiently(
            lambda: self._saving.save_all(
                ended_well=ended_well, log_digest=lambda: log_digest(self._spec, self._store)
            )
        )

    def _abandoned(self) -> None:
        """Told to end, and the command's container ended without a word: killed, or never started."""
        if not self._handover.has("started"):
            return
        self._save_all(ended_well=False)
        if self._store.exists(self._task.key("result.json")):
            self._save_closed()

    # --- waiting ---

    def _patiently(self, step: Callable[[], T], *, while_told: bool = True) -> T:
        """``step``, while the store is away for no longer than it may; ``while_told``: in an ending pod, too."""

        def away(error: BaseException) -> None:
            if not while_told and self._handover.has("terminating"):
                raise _ToldToEndError from error
            if self._told and not self._handover.has("started"):
                raise error  # nothing is here that could be lost
            self._say(f"it waits for the store: {error}")

        return outlasted(
            step,
            seconds=self._patience,
            is_passing=lambda exc: isinstance(exc, UnavailableError | AccessRefusedError),
            before_wait=away,
            sleep=self._nap,
        )

    def _nap(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        hurried = time.monotonic() + _HURRY_SECONDS
        while (moment := time.monotonic()) < end:
            if (self._told or self._handover.has("terminating")) and moment >= hurried:
                return
            self._told.wait(min(_POLL_SECONDS, end - moment))
