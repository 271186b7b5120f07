"""doctor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from launcher import doctor
from launcher.cli.common import home_option, json_option, print_json, project_root, settings
from launcher.cli.driving import is_driven
from launcher.clock import new_id
from launcher.errors import LauncherError, UsageError
from launcher.findings import Finding, exit_code, failed, warning
from launcher.settings import Settings
from launcher.storage.bucket_url import is_bucket
from launcher.workspace import open_parts
from ledger.events import STAGES, StageName

if TYPE_CHECKING:
    from k8s.client import Client
    from k8s.profile_text import ReadProfile
    from launcher.doctor_cluster import StageLook

__all__ = ["doctor_command"]

_NAME_WIDTH: Final = 13


@click.command(
    "doctor",
    help="Check this machine: tools, disk, store, locks, clock, ledger, leftovers; and a profile's cluster.",
)
@click.option(
    "--no-probe",
    is_flag=True,
    help="Make no hidden file in the store: create-only, locks and the disk's clock are not tried.",
)
@click.option(
    "--profile",
    metavar="FILE",
    help="Check the cluster for this profile too: version, permissions, room for each stage, what it names.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice(STAGES),
    help="With --profile: only this stage; repeatable.",
)
@click.option(
    "--stage-label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="With --profile: what network policies select stages' pods by; repeatable.",
)
@click.option(
    "--stage-account",
    "account",
    metavar="NAME",
    help="With --profile: the service account that stages are to run as.",
)
@click.option(
    "--probe",
    "in_pods",
    is_flag=True,
    help="With --profile: run Jobs that try images, store and code from inside, and delete them.",
)
@click.option(
    "--probe-seconds",
    type=click.IntRange(5, 86400),
    default=300,
    show_default=True,
    help="How long those may take, waiting and pulling included.",
)
@json_option
@home_option
def doctor_command(
    no_probe: bool,
    profile: str | None,
    stages: tuple[StageName, ...],
    labels: tuple[str, ...],
    account: str | None,
    in_pods: bool,
    probe_seconds: int,
    as_json: bool,
    home: str | None,
) -> int:
    """Exit 0 with warnings; 4, 5 or 2 where something failed."""
    wanted = {"--stage-label": labels, "--stage-account": account}
    for flag, given in {"--stage": stages, "--probe": in_pods, **wanted}.items():
        if given and profile is None:
            raise UsageError(f"{flag} needs --profile")
    pairs = [_label(one) for one in labels]
    chosen, findings = settings(home), list[Finding]()
    root = project_root()
    # A profile that cannot be used is said before anything is looked at.
    parts = [doctor.examine(chosen, root, probe=not no_probe, is_driven=is_driven)]
    if profile is not None:
        read, seconds = _read(root, profile), probe_seconds if in_pods else None
        parts.append(_belonging(read, pairs, account))
        parts.append(_cluster(chosen, root, read, stages or STAGES, seconds))
    for part in parts:
        # What a probe made goes, whatever ends this.
        with closing(part):
            for finding in part:
                findings.append(finding)
                if not as_json:
                    _print(finding)
    code = exit_code(findings)
    if as_json:
        rows = [{k: v for k, v in asdict(f).items() if k != "code"} for f in findings]
        print_json({"ok": code == 0, "findings": rows})
    elif code:
        names = ", ".join(dict.fromkeys(f.name for f in findings if f.state == "failed"))
        click.echo(f"launcher: doctor: failed: {names}", err=True)
    return code


def _label(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not (name and is_there):
        raise UsageError(f"--stage-label takes NAME=VALUE, not {text!r}")
    return name, value


def _print(finding: Finding) -> None:
    click.echo(f"{finding.state:<8} {finding.name:<{_NAME_WIDTH}} {finding.what}")
    if finding.do:
        click.echo(f"{'':<{9 + _NAME_WIDTH}} {finding.do}")


def _read(root: Path, profile: str) -> ReadProfile:
    """Raises UsageError for a profile that is none."""
    from k8s.errors import ProfileError
    from k8s.profile_file import read_profile

    try:
        return read_profile(root / profile, stages=())
    except ProfileError as exc:
        raise UsageError(str(exc).replace(str(root / profile), profile, 1)) from exc


def _belonging(
    read: ReadProfile, labels: Sequence[tuple[str, str]], account: str | None
) -> Generator[Finding]:
    """Whether its stages are what somebody's policies and roles are made for."""
    from launcher import doctor_stages

    for name, value in labels:
        yield doctor_stages.label(read.stages, name, value)
    if account is not None:
        yield doctor_stages.account(read.stages, account)


def _cluster(
    chosen: Settings,
    root: Path,
    read: ReadProfile,
    stages: Sequence[StageName],
    probe_seconds: int | None,
) -> Generator[Finding]:
    """Everything about the cluster, looked at as it is taken. Raises UsageError for a profile that is none."""
    from launcher.doctor_cluster import stage_looks

    store = chosen.store if chosen.store and is_bucket(chosen.store) else None

    def looks(**more: str) -> list[StageLook]:
        return stage_looks(read, stages, project=chosen.project, store=store, **more)

    looks()
    return _findings(chosen, root, read, stages, looks, probe_seconds)


def _findings(
    chosen: Settings,
    root: Path,
    read: ReadProfile,
    stages: Sequence[StageName],
    looks: Callable[..., list[StageLook]],
    probe_seconds: int | None,
) -> Generator[Finding]:
    from k8s.client import Client
    from k8s.errors import K8sError
    from k8s.inquiry import Inquiry
    from launcher import doctor_cluster

    for stage in stages:
        if read.stages[stage].image is None:
            yield warning(stage, "has no image: not looked at", "image, or defaults.image")
    try:
        client = Client.connect(read.profile.namespace)
    except K8sError as exc:
        yield failed("cluster", str(exc), "kubectl config get-contexts", UsageError)
        return
    claim, well = read.profile.store.claim if read.profile.store else None, True
    driver = read.profile.driver.service_account
    found = doctor_cluster.look(Inquiry(client), looks(), store_claim=claim, driver=driver)
    for finding in found:
        well &= finding.state != "failed"
        yield finding
    if probe_seconds is None:
        return
    if not well:
        yield warning("probe", "not tried, for what failed above", "mend that first")
        return
    yield from _probes(chosen, root, client, looks, probe_seconds)


def _probes(
    chosen: Settings,
    root: Path,
    client: Client,
    looks: Callable[..., list[StageLook]],
    seconds: int,
) -> Generator[Finding]:
    from launcher import doctor_probe

    run_id = f"doctor-{new_id()[:8]}"
    home, store = open_parts(chosen, root)
    try:
        task, said = doctor_probe.task_of(store, root, run_id, home)
    except LauncherError as exc:
        yield failed("code", exc.message, exc.hint, type(exc))
        return
    yield said
    yield from doctor_probe.probed(client, looks(run_id=run_id, task=task), seconds=seconds)
