"""What to do next: the whole table, then a world in which launchers and supervisors die at any step."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import pytest

from launcher import reconcile as r
from launcher.executors import port
from launcher.outcomes import result_events
from ledger import events as e
from ledger.decider import RunState, conclude
from tests.launcher.run_samples import HANDLE, RUN, journal, plan, request, result

RESULT = result()
SEEN: dict[str, port.Observation] = {
    "not started": port.NotStarted(),
    "running": port.Running(HANDLE),
    "ended": port.Ended(RESULT),
    "lost": port.Lost("why"),
    "orphaned": port.Orphaned(HANDLE),
    "elsewhere": port.Elsewhere("there"),
}
INTENDED = e.StageIntended(stage="llm_on", attempt=1, executor="local", spec_digest="sha256:x")
SUBMITTED = e.StageSubmitted(stage="llm_on", attempt=1, handle=HANDLE, log="l")
STARTED = e.StageStarted(stage="llm_on", attempt=1, node="here")
STORY = {
    "intended": [INTENDED],
    "submitted": [INTENDED, SUBMITTED],
    "running": [INTENDED, SUBMITTED, STARTED],
}


def failed(cause: e.Cause, attempt: int = 1) -> e.StageFailed:
    code = 3 if cause == "application" else None
    return e.StageFailed(stage="llm_on", attempt=attempt, exit_code=code, cause=cause, message="m")


EXPECTED: dict[tuple[str, str], r.Action] = {
    ("intended", "not started"): r.Start("llm_on", 1),
    ("intended", "running"): r.Adopt("llm_on", 1, HANDLE),
    **{(s, "ended"): r.Record("llm_on", 1, RESULT) for s in STORY},
    **{(s, "lost"): r.CloseLost("llm_on", 1, "why") for s in STORY},
    **{(s, "orphaned"): r.EndOrphan("llm_on", 1) for s in STORY},
    **{(s, "elsewhere"): r.Refuse("llm_on", 1, "there") for s in STORY},
    **{(s, "running"): r.Wait("llm_on", 1) for s in ("submitted", "running")},
    **{
        (s, "not started"): r.CloseLost("llm_on", 1, "its start record is gone from the store")
        for s in ("submitted", "running")
    },
}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("status", STORY)
def test_an_attempt_under_way(status: str, seen: str) -> None:
    state = journal(request(), *STORY[status]).run(RUN)
    watched = r.needs_observation(state)
    assert watched is not None
    assert (watched.plan.name, watched.status) == ("llm_on", status)
    assert r.reconcile(state, SEEN[seen]) == EXPECTED[status, seen]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("status", STORY)
def test_what_is_unreachable_is_waited_for_until_somebody_knows_better(
    status: str, force: bool
) -> None:
    state = journal(request(), *STORY[status]).run(RUN)
    handle = e.Handle(job_name="j", job_uid="u")
    seen = port.Running(handle, waits_for="its node gpu-1 does not answer", unreachable=True)
    usual = r.Adopt("llm_on", 1, handle) if status == "intended" else r.Wait("llm_on", 1)
    reason = "given up by force: its node gpu-1 does not answer"
    wanted = r.GiveUp("llm_on", 1, reason) if force else usual
    assert r.reconcile(state, seen, force=force) == wanted


@pytest.mark.parametrize("status", STORY)
def test_nothing_is_decided_about_an_attempt_that_was_not_looked_at(status: str) -> None:
    with pytest.raises(ValueError, match="not observed"):
        r.reconcile(journal(request(), *STORY[status]).run(RUN), None)


@pytest.mark.parametrize("command", [None, "", " \n"])
def test_a_stage_without_a_command_is_skipped(command: str | None) -> None:
    state = journal(request(plan("llm_on", command), plan("retrain"))).run(RUN)
    assert r.needs_observation(state) is None
    assert r.reconcile(state, None) == r.Skip("llm_on", "no command")
    skipped = journal(*[state.request, e.StageSkipped(stage="llm_on", reason="no command")])  # type: ignore[list-item]
    assert r.reconcile(skipped.run(RUN), None) == r.Intend("retrain", 1)


def test_a_run_whose_stages_are_settled_is_concluded() -> None:
    state = journal(
        request(plan("llm_off", None)), e.StageSkipped(stage="llm_off", reason="no command")
    ).run(RUN)
    assert r.reconcile(state, None) == r.Conclude()


@pytest.mark.parametrize("cause", e.CAUSES)
@pytest.mark.parametrize(("retries", "infrastructure"), [(0, 0), (1, 0), (0, 1)])
def test_a_failed_attempt(cause: e.Cause, retries: int, infrastructure: int) -> None:
    asked = request(plan("llm_on", retries=retries), infrastructure_retries=infrastructure)
    state = journal(asked, INTENDED, failed(cause)).run(RUN)
    owed = {"application": retries, "lost": infrastructure, "storage": infrastructure}
    owed["image"] = infrastructure
    again = owed.get(cause, 0) > 0
    assert r.reconcile(state, None) == (r.Intend("llm_on", 2) if again else r.Conclude())


# --- a world that dies ---------------------------------------------------------------------------


@dataclass
class Attempt:
    """What an executor keeps of one attempt, and who is alive of it."""

    started: bool = False
    result: port.StageResult | None = None
    holder: object | None = None
    command: bool = False


@dataclass
class World:
    """A ledger, attempts, launchers and supervisors; each step of each of them is one ``next``."""

    codes: list[int]
    retries: int
    infrastructure: int
    cancels: float = 0.0
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    supervisors: list[tuple[Attempt, Iterator[None], object]] = field(default_factory=list)
    ran: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        plans = (plan("llm_on", retries=self.retries), plan("retrain", retries=self.retries))
        asked = request(*plans, infrastructure_retries=self.infrastructure)
        self.journal = journal(asked)
        self.launchers: list[Iterator[None]] = []

    # a supervisor, as launcher.agent.supervisor says it

    def supervisor(self, stage: str, number: int, attempt: Attempt, me: object) -> Iterator[None]:
        while attempt.holder is not None:
            if attempt.started:
                return
            yield
        attempt.holder = me
        yield
        if not attempt.started:
            attempt.started = True
            yield
            if attempt.result is None:
                yield
                assert not any(a.command for a in self.attempts.values()), "two at once"
                assert (stage, 0) not in {(s, c) for s, _, c in self.ran}, "again after a success"
                attempt.command = True
                yield
                code = self.codes[len(self.ran) % len(self.codes)]
                closed = attempt.result is not None
                attempt.command = False
                yield
                if attempt.result is None:
                    attempt.result = result(code)
                    self.ran.append((stage, number, code))
                assert closed <= (attempt.result.closed_by is not None)
                yield
        attempt.holder = None

    def kill_supervisor(self, which: int) -> None:
        attempt, _, me = self.supervisors.pop(which)
        if attempt.holder is me:
            attempt.holder = "command" if attempt.command else None

    # the executor

    def observe(self, stage: str, number: int) -> port.Observation:
        attempt = self.attempts.setdefault((stage, number), Attempt())
        if attempt.result is not None and attempt.result.closed_by is None:
            return port.Ended(attempt.result)
        if not attempt.started:
            return port.Ended(attempt.result) if attempt.result else port.NotStarted()
        if attempt.holder == "command":
            return port.Orphaned(HANDLE)
        if attempt.holder is not None:
            return port.Running(HANDLE)
        return port.Ended(attempt.result) if attempt.result else port.Lost("gone")

    def close(self, attempt: Attempt, closed_by: str) -> None:
        if attempt.result is None:
            attempt.result = result(None, closed_by)

    # a launcher, as launcher.runner says it

    def launcher(self) -> Iterator[None]:
        while (state := self.journal.run(RUN)).status == "open":
            yield
            watched = r.needs_observation(state)
            seen = self.observe(watched.plan.name, watched.attempt) if watched else None
            yield
            facts = yield from self.effect(state, r.reconcile(state, seen))
            yield
            version = state.version
            self.journal.record_run(RUN, lambda s: facts if s.version == version else [])  # noqa: B023

    def effect(self, state: RunState, action: r.Action) -> Generator[None, None, list[e.EventData]]:
        """What an action does, and the facts that are to be recorded then."""
        match action:
            case r.Intend(stage=stage, attempt=number):
                return [_intended(stage, number)]
            case r.Start(stage=stage, attempt=number):
                return (yield from self.start(stage, number))
            case r.Adopt(stage=stage, attempt=number):
                return _submitted(stage, number)
            case r.Record(stage=stage, attempt=number, result=found):
                assert state.request is not None
                return result_events(state.request, state.stages[stage], found, "l")
            case r.CloseLost(stage=stage, attempt=number):
                if self.attempts[stage, number].holder is None:
                    self.close(self.attempts[stage, number], "lost")
            case r.EndOrphan(stage=stage, attempt=number):
                attempt = self.attempts[stage, number]
                self.close(attempt, "lost")
                yield
                if attempt.holder == "command":
                    attempt.command, attempt.holder = False, None
            case r.Conclude():
                return [conclude(state)]
            case other:
                assert isinstance(other, r.Wait)
        return []

    def start(self, stage: e.StageName, number: int) -> Generator[None, None, list[e.EventData]]:
        attempt = self.attempts[stage, number]
        me = object()
        one = (attempt, self.supervisor(stage, number, attempt, me), me)
        self.supervisors.append(one)
        while not attempt.started and attempt.result is None:
            if one not in self.supervisors:
                return []
            yield
        return _submitted(stage, number)

    def canceller(self) -> Iterator[None]:
        """Runner.cancel: whoever closed an attempt sees it gone before the run's end is recorded."""
        while (state := self.journal.run(RUN)).status == "open":
            active, version = r.needs_observation(state), state.version
            facts: list[e.EventData] = [e.RunCancelled(stage=None, reason="by hand")]
            yield
            if active is not None:
                name, number = active.plan.name, active.attempt
                attempt = self.attempts.setdefault((name, number), Attempt())
                self.close(attempt, "cancelled")
                yield
                while attempt.started and attempt.holder is not None:
                    if attempt.holder == "command":
                        attempt.command, attempt.holder = False, None
                    yield
                seen = self.observe(name, number)
                facts = []
                if isinstance(seen, port.Ended) and state.request is not None:
                    facts = result_events(state.request, state.stages[name], seen.result, "l")
            yield
            now = self.journal.run(RUN)
            if now.version == version:
                assert not any(a.command for a in self.attempts.values()), "runs on unseen"
                self.journal.record_run(RUN, lambda _s: facts)  # noqa: B023
            yield

    # what happens next

    def step(self, chance: random.Random, deaths: float) -> None:
        """One step of somebody, or the end of somebody."""
        dies = chance.random() < deaths
        launchers, supervisors = len(self.launchers), len(self.supervisors)
        if not launchers or (launchers < 3 and chance.random() < 0.05):
            cancels = chance.random() < self.cancels
            self.launchers.append(self.canceller() if cancels else self.launcher())
        elif chance.randrange(launchers + supervisors) < launchers:
            which = chance.randrange(launchers)
            self.launchers.pop(which) if dies else self.advance_launcher(which)
        else:
            which = chance.randrange(supervisors)
            self.kill_supervisor(which) if dies else self.advance_supervisor(which)

    def advance_launcher(self, which: int) -> None:
        if next(self.launchers[which], "end") == "end":
            self.launchers.pop(which)

    def advance_supervisor(self, which: int) -> None:
        if next(self.supervisors[which][1], "end") == "end":
            self.supervisors.pop(which)

    def recover(self) -> None:
        """Nobody dies any more, and one more launcher resumes."""
        self.launchers.append(self.launcher())
        for _ in range(2000):
            for i in reversed(range(len(self.launchers))):
                self.advance_launcher(i)
            for i in reversed(range(len(self.supervisors))):
                self.advance_supervisor(i)
            if not self.launchers and not self.supervisors:
                return
        raise AssertionError("it never ends")


def _intended(stage: e.StageName, attempt: int) -> e.EventData:
    return e.StageIntended(stage=stage, attempt=attempt, executor="local", spec_digest="sha256:x")


def _submitted(stage: e.StageName, attempt: int) -> list[e.EventData]:
    return [
        e.StageSubmitted(stage=stage, attempt=attempt, handle=HANDLE, log="l"),
        e.StageStarted(stage=stage, attempt=attempt, node="here"),
    ]


@pytest.mark.parametrize("seed", range(8))
def test_whoever_dies_whenever_the_books_are_right(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(80):
        codes = chance.choices([0, 0, 3], k=4)
        retries, infrastructure = chance.randrange(3), chance.randrange(4)
        world = World(codes, retries, infrastructure, chance.choice([0.0, 0.3]))
        deaths = chance.choice([0.0, 0.02, 0.1])
        for _ in range(200):
            world.step(chance, deaths)
        world.recover()
        check_the_books(world, retries, infrastructure)


def check_the_books(world: World, retries: int, infrastructure: int) -> None:
    """The run ended once; a stage succeeded where a result says so; attempts are bounded; nobody is left."""
    state = world.journal.run(RUN)
    ends = [
        record.data
        for record in world.journal.store.read_stream(f"run/{RUN}")
        if isinstance(record.data, e.RunSucceeded | e.RunFailed | e.RunCancelled)
    ]
    assert len(ends) == 1
    assert not any(a.command for a in world.attempts.values())
    for name, stage in state.stages.items():
        results = {n: a.result for (s, n), a in world.attempts.items() if s == name}
        succeeded = [n for n, found in results.items() if found and found.exit_code == 0]
        assert succeeded == ([stage.attempt] if stage.status == "succeeded" else [])
        assert stage.attempt <= 1 + retries + infrastructure
        assert [f.attempt for f in stage.failures] == list(range(1, len(stage.failures) + 1))
    whole = all(s.status == "succeeded" for s in state.stages.values())
    assert state.status == "cancelled" or (state.status == "succeeded") == whole
