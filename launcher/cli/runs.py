"""submit, resume, cancel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from launcher import clock, request
from launcher.cli.common import home_option, project_root, short_id, workspace
from launcher.cli.driving import driving
from launcher.cli.executing import jobs_yaml, on_cluster, on_pods, refuse_mixed, runner_for
from launcher.cli.plan import plan_lines
from launcher.cli.progress import Screen, say_end
from launcher.cli.terminal import echo
from launcher.cli.view import View
from launcher.config import Config, load
from launcher.drivers import noted_driver
from launcher.errors import ConflictError, UsageError
from launcher.pipeline import skip_warnings
from launcher.project import network_filesystem
from launcher.refs import find_run
from launcher.run_folders import machine_of
from launcher.workspace import Workspace, translated
from ledger.decider import RunState
from ledger.events import RunRequested

__all__ = ["cancel_command", "config_of", "drive", "end_run", "resume_command", "submit_command"]


def _pairs(values: tuple[str, ...], flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {value!r} is not NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{flag} {name} is given twice")
        pairs[name] = text
    return pairs


def _slot(text: str | None) -> str | None:
    if text is None:
        return None
    from launcher.cron.schedule import parse_slot, slot_text

    return slot_text(parse_slot(text))


_SUBMIT_EXAMPLES = """\b
Examples:
  launcher submit --config configs/self_distill/mine.env --teacher-checkpoint checkpoints/preplan.pt \\
    --teacher-scorecard results/scorecard.json --promotion-target checkpoints/stable/student_latest.pt
  launcher submit --config mine.env --teacher-checkpoint pointer:student --set BATCH=256 --dry-run

A REF is a path, run:RUN (its student), pointer:NAME (what is live) or sha256:…. Flags beat --set, --set beats the
config."""


@click.command("submit", help="Start a run and follow it to its end.", epilog=_SUBMIT_EXAMPLES)
@click.option("--config", metavar="FILE", required=True, help="What to run: the .env file.")
@click.option(
    "--teacher-checkpoint", metavar="REF", help="A path, run:RUN, pointer:NAME or sha256:…."
)
@click.option("--teacher-scorecard", metavar="REF", help="The teacher's scorecard.")
@click.option(
    "--promotion-target", metavar="TARGET", help="Promote the student to this file or pointer name."
)
@click.option("--promotion-record", metavar="FILE", help="Where the promotion record goes.")
@click.option("--storage-alert-file", metavar="FILE", help="Where the storage alert goes.")
@click.option("--run-id", metavar="ID", help="Default YYYYMMDDTHHMMSSZ-xxxx.")
@click.option("--output-root", metavar="DIR", help="Where run folders go; default the home.")
@click.option("--relabel-tag-file", metavar="FILE", help="Where the relabel stage leaves its tags.")
@click.option(
    "--set",
    "overrides",
    metavar="NAME=VALUE",
    multiple=True,
    help="Override a config value; recorded.",
)
@click.option(
    "--executor",
    type=click.Choice(["local", "kubernetes"]),
    default="local",
    show_default=True,
    help="Where stages run.",
)
@click.option("--profile", metavar="FILE", help="With kubernetes: images, resources, queues.")
@click.option(
    "--code",
    type=click.Choice(["project", "image"]),
    default="project",
    show_default=True,
    help="With kubernetes: bring the project's code, or use the image's own.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="With kubernetes: a driver in the cluster goes on with it; this machine may go.",
)
@click.option("--slot", metavar="TIME", help="The slot of a schedule that it is for; kept with it.")
@click.option("--label", "labels", metavar="NAME=VALUE", multiple=True, help="Kept with the run.")
@click.option("--note", metavar="TEXT", help="Kept with the run.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything and print the plan; start nothing, write nothing.",
)
@click.option(
    "-o", "output", type=click.Choice(["yaml"]), help="With --dry-run: print the Jobs instead."
)
@home_option
def submit_command(
    config: str,
    teacher_checkpoint: str | None,
    teacher_scorecard: str | None,
    promotion_target: str | None,
    promotion_record: str | None,
    storage_alert_file: str | None,
    run_id: str | None,
    output_root: str | None,
    relabel_tag_file: str | None,
    overrides: tuple[str, ...],
    executor: str,
    profile: str | None,
    code: str,
    detach: bool,
    slot: str | None,
    labels: tuple[str, ...],
    note: str | None,
    dry_run: bool,
    output: str | None,
    home: str | None,
) -> int:
    refuse_mixed(
        executor, profile=profile, code=code, detach=detach, output=output, dry_run=dry_run
    )
    if detach:
        from launcher.cli import detaching

        detaching.refuse_unreachable(home)
    sets = _pairs(overrides, "--set")
    flags = request.Flags(
        run_id=run_id or clock.new_run_id(clock.now()),
        teacher_checkpoint=teacher_checkpoint,
        teacher_scorecard=teacher_scorecard,
        promotion_target=promotion_target,
        promotion_record=promotion_record,
        storage_alert_file=storage_alert_file,
        output_root=output_root,
        relabel_tag_file=relabel_tag_file,
        overrides=sets,
        slot=_slot(slot),
        labels=_pairs(labels, "--label"),
        note=note,
    )
    request.check_names(flags)
    parsed = load(project_root() / config, sets).knowing(os.environ)
    request.check(flags, parsed)
    for warning in parsed.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not dry_run:
        _refuse_early(home, parsed, flags)
    ws = workspace(home, writing=not dry_run)
    with translated():
        wanted = request.request_run(ws, parsed, flags, dry_run=dry_run)
        if profile is not None:
            wanted = on_cluster(ws, parsed, wanted, profile, code=code, dry_run=dry_run)
        if detach:
            detaching.try_driver(ws, wanted, profile, dry_run=dry_run)
        for warning in skip_warnings(wanted.stages):
            click.echo(f"warning: {warning}", err=True)
        _warn_of_network(ws)
        if output == "yaml":
            driver = detaching.driver_yaml(ws, wanted, profile) + "---\n" if detach else ""
            click.echo(driver + jobs_yaml(ws, parsed, wanted, profile), nl=False)
            return 0
        if dry_run:
            for line in plan_lines(View(ws), parsed, wanted):
                click.echo(line)
            return 0
        with driving(ws, wanted.run_id):
            _append_request(ws, wanted)
            if not detach:
                return drive(ws, parsed, wanted.run_id)
        return detaching.start_driver(ws, wanted)


def _refuse_early(home: str | None, config: Config, flags: request.Flags) -> None:
    """Whatever is wrong is said before anything is made, the home included."""
    reading = workspace(home, writing=False)
    try:
        with translated():
            request.preflight(reading, config, flags)
    finally:
        reading.ledger.close()


def _warn_of_network(ws: Workspace) -> None:
    kind = network_filesystem(ws.home) if ws.settings.ledger == "sqlite" else None
    if kind is not None:
        said = f"the ledger in {ws.home} lies on {kind}, where locks may not hold between machines"
        click.echo(
            f"warning: {said}: LAUNCHER_HOME on a local disk, or a bucket's ledger", err=True
        )


def _append_request(ws: Workspace, wanted: RunRequested) -> None:
    def propose(state: RunState) -> list[RunRequested]:
        if state.request is not None:
            raise ConflictError(
                f"run {wanted.run_id} exists",
                f"launcher resume {wanted.run_id}, or another --run-id",
            )
        return [wanted]

    ws.journal.record_run(wanted.run_id, propose)


def drive(
    ws: Workspace,
    config: Config,
    run_id: str,
    *,
    force: bool = False,
    screen: Screen | None = None,
) -> int:
    """Drive a run to its end and say how it came out; ``screen`` has shown its opening. Returns the exit code."""
    state = ws.journal.run(run_id)
    if screen is None:
        screen = Screen(ws)
        screen.opening(state)
    runner = runner_for(ws, config, state, screen)
    runner.force = force
    try:
        with screen:
            outcome = runner.run(run_id)
    except KeyboardInterrupt:
        from launcher.cli.detaching import left_words

        echo(f"launcher: {left_words(ws, run_id)}", err=True)
        return 130
    say_end(ws, outcome)
    return outcome.exit_code


@click.command(
    "resume", help="Go on with a run whose launcher died; finish an undecided promotion."
)
@click.argument("run")
@click.option(
    "--force",
    is_flag=True,
    help="Give up an attempt of another machine, or of a node that does not answer.",
)
@click.option(
    "--detach", is_flag=True, help="Of Jobs: a driver in the cluster goes on with it, a new one."
)
@home_option
def resume_command(run: str, force: bool, detach: bool, home: str | None) -> int:
    if detach:
        from launcher.cli import detaching

        detaching.refuse_unreachable(home)
    ws = workspace(home, writing=True)
    with translated():
        run_id = find_run(ws.journal, run)
        state = ws.journal.run(run_id)
        if detach:
            return detaching.hand_over(ws, state, force=force)
        if not force:
            _refuse_elsewhere(ws, state)
        config = config_of(ws, state, {} if on_pods(state) else os.environ)
        with driving(ws, run_id):
            return drive(ws, config, run_id, force=force)


def _refuse_elsewhere(ws: Workspace, state: RunState) -> None:
    """A run goes on where its files are; between two stages nothing else would keep it from going on twice."""
    if on_pods(state):
        return
    if state.status == "open" and not ws.documents.folders.is_here(state):
        raise ConflictError(
            f"run {state.run_id} belongs to {machine_of(state)}, and its files are not here",
            "resume it there, or --force once you know that nobody drives it",
        )


@click.command("cancel", help="Stop a run: its whole process group, after a grace period.")
@click.argument("run")
@click.option("--reason", default="cancelled by hand", metavar="TEXT", help="Kept with the run.")
@click.option(
    "--force", is_flag=True, help="Take what a node that does not answer has of it as gone."
)
@home_option
def cancel_command(run: str, reason: str, force: bool, home: str | None) -> int:
    ws = workspace(home, writing=True)
    with translated():
        run_id = find_run(ws.journal, run)
        state = ws.journal.run(run_id)
        if state.status != "open":
            raise ConflictError(f"run {run_id} ended already: {state.status}")
        state = end_run(ws, state, reason, force=force)
    click.echo(f"{short_id(run_id)}  {state.status}")
    return 0 if state.status == "cancelled" else 3


def end_run(ws: Workspace, state: RunState, reason: str, *, force: bool = False) -> RunState:
    """Cancel an open run and let go of it, its driver too; returns how it ended."""
    runner, run_id = runner_for(ws, config_of(ws, state, {}), state, Screen(ws)), state.run_id
    runner.force = force
    while state.status == "open":
        state = runner.cancel(run_id, reason)
    ws.documents.write(run_id)
    runner.leave(state)
    if noted_driver(ws.store, run_id):
        from launcher.cli.detaching import end_driver

        end_driver(ws, state)
    return state


def config_of(ws: Workspace, state: RunState, environment: Mapping[str, str]) -> Config:
    """The config that a run was requested with; secret values come from its file or the environment.

    With an empty ``environment`` nothing secret is looked for: enough where no stage will start.
    """
    assert state.request is not None
    ref = state.request.config
    stored = Config.from_stored(ws.store.read_blob(ref.digest), path=ref.path or "config")
    if not environment or not stored.secret_names:
        return stored
    secrets = {name: environment[name] for name in stored.secret_names if name in environment}
    if ref.path is not None:
        path = Path(state.request.project_root, ref.path)
        if path.is_file():
            present = load(path).variables
            # A value that --set gave is not the file's, so the file must not stand in for it.
            names = stored.secret_names - {n for n, value in ref.overrides.items() if value is None}
            secrets |= {name: present[name] for name in names if name in present}
    missing = sorted(stored.secret_names - secrets.keys())
    if missing and state.status == "open":
        raise UsageError(
            f"the secret {', '.join(missing)} is neither in {ref.path} nor in the environment",
            "secrets are never stored; set it and resume again",
        )
    return stored.with_secrets(secrets)
