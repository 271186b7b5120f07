"""doctor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

import click

from launcher import doctor
from launcher.cli.common import home_option, json_option, print_json, project_root, settings
from launcher.cli.driving import is_driven
from launcher.errors import UsageError
from launcher.findings import Finding, exit_code, failed, warning
from launcher.settings import Settings
from launcher.storage.bucket_url import is_bucket
from ledger.events import STAGES, StageName

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
@json_option
@home_option
def doctor_command(
    no_probe: bool,
    profile: str | None,
    stages: tuple[StageName, ...],
    as_json: bool,
    home: str | None,
) -> int:
    """Exit 0 with warnings; 4, 5 or 2 where something failed."""
    if stages and profile is None:
        raise UsageError("--stage needs --profile")
    chosen, findings = settings(home), []
    for finding in _all(chosen, profile, stages or STAGES, probe=not no_probe):
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


def _print(finding: Finding) -> None:
    click.echo(f"{finding.state:<8} {finding.name:<{_NAME_WIDTH}} {finding.what}")
    if finding.do:
        click.echo(f"{'':<{9 + _NAME_WIDTH}} {finding.do}")


def _all(
    chosen: Settings, profile: str | None, stages: Sequence[StageName], *, probe: bool
) -> Iterator[Finding]:
    root = project_root()
    # A profile that cannot be used is said before anything is looked at.
    cluster = _cluster(chosen, profile, stages) if profile is not None else iter(())
    yield from doctor.examine(chosen, root, probe=probe, is_driven=is_driven)
    yield from cluster


def _cluster(chosen: Settings, profile: str, stages: Sequence[StageName]) -> Iterator[Finding]:
    """Everything about the cluster, looked at as it is taken. Raises UsageError for a profile that is none."""
    from k8s.client import Client
    from k8s.errors import K8sError, ProfileError
    from k8s.inquiry import Inquiry
    from k8s.profile_file import read_profile
    from launcher import doctor_cluster

    try:
        read = read_profile(project_root() / profile, stages=())
    except ProfileError as exc:
        raise UsageError(str(exc).replace(f"{project_root()}/", "", 1)) from exc
    store = chosen.store if chosen.store and is_bucket(chosen.store) else None
    looks = doctor_cluster.stage_looks(read, stages, project=chosen.project, store=store)
    claim = read.profile.store.claim if read.profile.store else None

    def findings() -> Iterator[Finding]:
        for stage in stages:
            if read.stages[stage].image is None:
                yield warning(stage, "has no image: not looked at", "image, or defaults.image")
        try:
            inquiry = Inquiry(Client.connect(read.profile.namespace))
        except K8sError as exc:
            yield failed("cluster", str(exc), "kubectl config get-contexts", UsageError)
            return
        yield from doctor_cluster.look(inquiry, looks, store_claim=claim)

    return findings()
