"""attach: come back to a run on Kubernetes, from any machine that has its ledger and its cluster.

Where a driver in the cluster, or a launcher on this machine, drives it, it is only followed; else it is driven from
here, as ``resume`` does, and so it is once whoever drove it has gone. What another machine's launcher does cannot be
seen: two that drive one run do no harm. The first Ctrl-C leaves.
"""

from __future__ import annotations

import click

from launcher.cli.common import home_option, workspace
from launcher.cli.detaching import left_words, seen_driver
from launcher.cli.driving import driving, is_driven
from launcher.cli.executing import executor_of, on_pods
from launcher.cli.progress import Screen
from launcher.cli.runs import config_of, drive
from launcher.cli.terminal import echo, one_line
from launcher.cli.view import View
from launcher.drivers import noted_driver
from launcher.errors import UnavailableError, UsageError
from launcher.onlooker import Onlooker
from launcher.refs import find_run
from launcher.workspace import Workspace, translated
from ledger.decider import RunState

__all__ = ["attach_command"]


@click.command(
    "attach", help="Follow a run on Kubernetes to its end; go on with it where nobody drives it."
)
@click.argument("run")
@home_option
def attach_command(run: str, home: str | None) -> int:
    ws = workspace(home, writing=True)
    with translated():
        run_id = find_run(ws.journal, run)
        state, name = ws.journal.run(run_id), View(ws).name(run_id)
        if not on_pods(state):
            raise UsageError(
                f"run {name} has no Jobs", f"launcher logs {name} -f, or launcher resume {name}"
            )
        screen = Screen(ws)
        try:
            screen.opening(state)
            if state.status == "open" and (noted_driver(ws.store, run_id) or is_driven(ws, run_id)):
                state = _followed(ws, state, screen)
                if state.status == "open":
                    screen.note(f"nobody drives {name} any more; going on from here")
        except KeyboardInterrupt:
            echo(f"launcher: {left_words(ws, run_id)}", err=True)
            return 130
        with driving(ws, run_id):
            return drive(ws, config_of(ws, state, {}), run_id, screen=screen)


def _followed(ws: Workspace, state: RunState, screen: Screen) -> RunState:
    """The run when it has ended, or nobody drives it any more. Raises KeyboardInterrupt, UnavailableError."""
    assert state.request is not None
    executor = executor_of(ws, state.request, say=screen.note, looks_only=True)
    driving_job, noted = False, noted_driver(ws.store, state.run_id)

    def driven(run_id: str) -> bool:
        nonlocal driving_job
        was = driving_job
        if noted:
            try:
                driver = seen_driver(executor, run_id)
            except UnavailableError:
                if not was:
                    raise
                return True  # it may be away for a while, as for the driver itself
            driving_job = driver is not None and driver.drives
            if was and driver is not None and not driver.drives and driver.message:
                screen.note(f"its driver ended: {one_line(driver.message)}")
        return driving_job or is_driven(ws, run_id)

    try:
        with screen:
            return Onlooker(ws, executor, screen, driven).follow(state.run_id)
    finally:
        executor.close()
