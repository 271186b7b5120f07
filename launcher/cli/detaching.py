"""Leaving a run alone: what goes on by itself, its driver in the cluster, and how to come back.

Without a driver only the Job of the current stage goes on; what follows it waits for somebody who drives the run.
"""

from __future__ import annotations

from typing import Final

from k8s.driver import DriverJob, DriverSeen, driver_manifest, driver_seen
from k8s.outcome import has_ended
from launcher import clock
from launcher import reconcile as r
from launcher.cli.common import settings
from launcher.cli.executing import client_of, executor_of, on_pods, profile_in, profile_of
from launcher.cli.terminal import echo, facts, one_line
from launcher.cli.view import View
from launcher.drivers import note_driver, noted_driver
from launcher.errors import ConflictError, LauncherError, UnavailableError, UsageError
from launcher.executors.cluster_calls import asked
from launcher.executors.kubernetes import KubernetesExecutor
from launcher.storage.bucket_url import is_bucket
from launcher.workspace import Workspace, translated
from ledger.decider import RunState
from ledger.events import RunRequested

__all__ = [
    "driver_yaml",
    "end_driver",
    "hand_over",
    "left_words",
    "refuse_unreachable",
    "seen_driver",
    "start_driver",
    "try_driver",
]

#: How long ``submit --detach`` stays to see the driver at work.
_STAY_SECONDS: Final = 90.0
#: What keeps the driver's pod from starting is given so long to pass.
_STUCK_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 1.0


def refuse_unreachable(home: str | None) -> None:
    """Refuse a driver that would reach neither store nor ledger. Raises UsageError."""
    given = settings(home)
    if given.store is None or not is_bucket(given.store):
        raise UsageError(
            "--detach needs a store in a bucket: a driver reaches no folder of this machine",
            "--store s3://BUCKET/PREFIX; launcher ledger copy brings this project's ledger there",
        )
    if given.ledger != "store":
        raise UsageError(
            "--detach needs the ledger in the bucket: a driver reaches no file of this machine",
            "launcher ledger copy brings it there; then without LAUNCHER_LEDGER=sqlite",
        )


def driver_job(ws: Workspace, wanted: RunRequested) -> DriverJob:
    """The driver of a run, the same wherever it is asked for."""
    given = ws.settings
    return DriverJob(
        project=wanted.project,
        run_id=wanted.run_id,
        spec_digest=wanted.config.digest,
        environment={
            "LAUNCHER_STORE": given.store or "",
            "LAUNCHER_LEDGER": "store",
            "LAUNCHER_PROJECT": wanted.project,
            "LAUNCHER_ACTOR": f"driver for {given.actor}"[:200],
            "LAUNCHER_PATIENCE": f"{given.patience_seconds:g}",
        },
    )


def driver_yaml(ws: Workspace, wanted: RunRequested, profile: str | None) -> str:
    """The driver's Job as ``kubectl apply`` takes it."""
    from k8s.yaml_text import to_yaml

    return to_yaml(driver_manifest(driver_job(ws, wanted), profile_in(profile or "", wanted)))


def try_driver(ws: Workspace, wanted: RunRequested, profile: str | None, *, dry_run: bool) -> None:
    """Make sure that the API server would take the driver of a run that is about to be requested. Raises UsageError.

    What lies at the target is brought under its pointer, for the driver does not see it.
    """
    driver, read = driver_job(ws, wanted), profile_in(profile or "", wanted)
    if not dry_run:
        client, made = client_of(read), driver_manifest(driver, read)
        asked(lambda: client.try_job(made))
        _make_ready(ws, wanted)


def _make_ready(ws: Workspace, wanted: RunRequested) -> None:
    if wanted.promotion is not None:
        ws.promoter.make_ready(wanted.promotion.target)


def hand_over(ws: Workspace, state: RunState, *, force: bool) -> int:
    """Give an open run a driver; the place of one that has ended is taken. Returns the exit code.

    Raises UsageError, ConflictError, UnavailableError.
    """
    wanted, name = state.request, View(ws).name(state.run_id)
    if wanted is None or not on_pods(state):
        raise UsageError(f"run {name} has no Jobs", f"launcher resume {name}")
    if force:
        raise UsageError(
            "a driver does not give up what may still run", f"launcher resume {name} --force"
        )
    if state.status != "open":
        raise ConflictError(f"run {name} has {state.status}", f"launcher resume {name}")
    _make_ready(ws, wanted)
    client, job_name = client_of(profile_of(ws, wanted)), driver_job(ws, wanted).name
    old = asked(lambda: client.job(job_name))
    if old is not None and has_ended(old):
        asked(lambda: client.delete_job(job_name, old["metadata"]["uid"]))
        gone = clock.deadline(_STAY_SECONDS)
        while asked(lambda: client.job(job_name)) is not None:
            if gone():
                raise UnavailableError(f"Job {job_name}, the driver that ended, is not gone yet")
            clock.sleep(_LOOK_SECONDS)
    return start_driver(ws, wanted)


def start_driver(ws: Workspace, wanted: RunRequested) -> int:
    """Start the driver of a run that was requested, and stay until it is seen at work. Returns the exit code.

    Raises UnavailableError, UsageError; the run is open then, and anybody may drive it.
    """
    name = View(ws).name(wanted.run_id)
    read, driver = profile_of(ws, wanted), driver_job(ws, wanted)
    made, executor = driver_manifest(driver, read), executor_of(ws, wanted, looks_only=True)
    try:
        client = client_of(read)
        executor.seen(wanted.run_id)
        job = asked(lambda: client.create_or_adopt_job(made, driver.attempt))
        namespace = job["metadata"]["namespace"]
        note_driver(ws.store, wanted.run_id, namespace, driver.name)
        echo(f"driver  Job {namespace}/{driver.name}")
        _stay(ws, executor, wanted.run_id, name)
    except KeyboardInterrupt:
        echo(f"launcher: left {name}: its driver goes on", err=True)
        return 130
    except LauncherError as exc:
        hint = exc.hint or f"launcher attach {name} drives it from here"
        raise type(exc)(f"run {name} has no driver: {exc.message}", hint) from exc
    finally:
        executor.close()
    steps = (f"launcher attach {name}", f"launcher logs {name} -f", f"launcher cancel {name}")
    for line in facts("next", steps):
        echo(line)
    return 0


def _stay(ws: Workspace, executor: KubernetesExecutor, run_id: str, name: str) -> None:
    """Until the driver has a stage's Job. Raises UnavailableError where it will not come to that by itself."""
    over, stuck = clock.deadline(_STAY_SECONDS), clock.deadline(_STUCK_SECONDS)
    while True:
        with translated():
            state = ws.journal.run(run_id)
        at = state.current()
        if state.status != "open" or at is None or at.status in ("submitted", "running"):
            doing = (
                f"{at.plan.name} is submitted" if at and state.status == "open" else state.status
            )
            echo(f"{name}  detached: {doing}; this machine is not needed any more")
            return
        driver = seen_driver(executor, run_id)
        if driver is not None and not driver.drives:
            raise UnavailableError(f"it ended: {one_line(driver.message)}")
        if driver is None or not driver.stuck:
            stuck = clock.deadline(_STUCK_SECONDS)
        elif stuck():
            raise UnavailableError(
                f"it does not start: {one_line(driver.message)}",
                f"mend that, and it starts by itself; else launcher cancel {name}",
            )
        if over():
            waits = driver.message if driver and driver.message else "its driver has not begun"
            echo(f"{name}  detached, and waits: {one_line(waits)}")
            return
        clock.sleep(_LOOK_SECONDS)


def seen_driver(executor: KubernetesExecutor, run_id: str) -> DriverSeen | None:
    """The driver of a run as the cluster has it; None where there is none. Raises UnavailableError, UsageError."""
    seen = executor.seen(run_id)
    return driver_seen(seen.jobs, seen.pods, seen.events)


def end_driver(ws: Workspace, state: RunState) -> None:
    """Take away the driver of a run that has ended: it would see that itself, if it ever started."""
    noted = noted_driver(ws.store, state.run_id)
    if noted is None or state.request is None:
        return
    client, name = client_of(profile_of(ws, state.request)), noted[1]
    job = asked(lambda: client.job(name))
    if job is not None:
        asked(lambda: client.delete_job(name, job["metadata"]["uid"]))


def left_words(ws: Workspace, run_id: str) -> str:
    """What goes on of a run that was left, and how to come back to it, in one line."""
    with translated():
        state, name = ws.journal.run(run_id), View(ws).name(run_id)
    if not on_pods(state):
        return f"left {name}; what was started goes on: launcher resume {name}"
    back = f"launcher attach {name}"
    if state.status != "open":
        return f"left {name}, which has {state.status}; its promotion is finished by: {back}"
    ways = f"{back}; to stop it: launcher cancel {name}"
    if noted_driver(ws.store, run_id):
        return f"left {name}, which its driver in the cluster goes on with; to follow it: {ways}"
    at = r.needs_observation(state)
    if at is None or at.status == "intended":
        return f"left {name}, of which nothing runs now; to go on with it: {ways}"
    goes_on = f"{at.plan.name} goes on in its Job, and what follows waits for: {ways}"
    return f"left {name}: {goes_on}"
