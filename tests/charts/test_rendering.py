"""What the charts make, looked at without a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.permissions import LOOK, RUN
from k8s.profile_text import parse_profile
from tests.charts.golden import CASES, FOLDER, VALUES, objects, rendered
from tests.charts.readme import CHARTS, rows, with_table
from tests.rig.helm import builds_helm, lint

pytestmark = builds_helm

_POLICIES = Path(__file__).resolve().parents[2] / "docs" / "policies"
_README = Path(__file__).resolve().parents[2] / "charts" / "distill-ledger" / "README.md"
_OWN = [case for case, chart in CASES.items() if chart == "distill-ledger"]


@pytest.mark.parametrize("case", CASES)
def test_a_rendering_is_the_golden_one(case: str) -> None:
    """Meant? ``python -m tests.charts.golden`` writes them again; look at the difference."""
    assert rendered(case) == (FOLDER / f"{case}.yaml").read_text()


def test_there_is_no_golden_rendering_of_nothing() -> None:
    assert {one.stem for one in FOLDER.iterdir()} == set(CASES)
    assert {one.stem for one in VALUES.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_helm_has_nothing_to_say_against_it(case: str) -> None:
    done = lint(CASES[case], f"--values={VALUES / case}.yaml")
    assert done.returncode == 0, done.stdout


# --- what must hold of all ---


def kinds(case: str, *names: str) -> list[dict[str, Any]]:
    return [one for one in objects(case) if one["kind"] in names]


def pods(case: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, labels, spec) of every pod that the chart's objects come to."""
    for one in kinds(case, "CronJob", "Deployment", "Pod"):
        spec, about = one["spec"], one["metadata"]
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if one["kind"] != "Pod":
            about, spec = spec["template"]["metadata"], spec["template"]["spec"]
        yield one["metadata"]["name"], about["labels"], spec


@pytest.mark.parametrize("case", _OWN)
def test_every_pod_is_restricted_and_only_launchers_have_a_token(case: str) -> None:
    for name, labels, spec in pods(case):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
        launches = labels["app.kubernetes.io/component"] in ("launcher", "test")
        assert spec["automountServiceAccountToken"] is launches, name
        assert spec["serviceAccountName"].endswith("-launcher") is launches, name
        volumes = {kind for volume in spec["volumes"] for kind in volume} - {"name"}
        assert volumes <= {"emptyDir", "configMap", "projected", "persistentVolumeClaim"}
    for account in kinds(case, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def verbs(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(group, resource, verb)"""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_is_what_a_run_takes_and_nothing_more() -> None:
    run = {(one.group, one.resource, one.verb) for one in RUN}
    (role,) = kinds("small", "Role")
    assert verbs(role) == run
    assert role["rules"] == yaml.safe_load((_POLICIES / "launcher-role.yaml").read_text())["rules"]
    (role,) = kinds("everything", "Role")
    look = {(one.group, one.resource, one.verb) for one in LOOK if not one.everywhere}
    # A namespace is no object of the namespace for a Role to grant more of than its own name.
    assert verbs(role) == run | look - {("", "namespaces", "get")}


def test_no_stage_would_belong_to_the_cron_job_or_to_argo_cd() -> None:
    """Its label for what it tracks is on no stage; with it, it would take a stage's Job for what it has to remove."""
    for case in _OWN:
        for one in kinds(case, "ConfigMap"):
            text = one["data"].get("profile.yaml", "")
            assert "app.kubernetes.io/instance" not in text
            assert "argocd" not in text


def profile(case: str, name: str) -> Any:
    (found,) = [one for one in kinds(case, "ConfigMap") if one["metadata"]["name"] == name]
    text = found["data"]["profile.yaml"]
    parse_profile(text, "profile.yaml", stages=["llm_on", "relabel", "retrain", "llm_off"])
    return yaml.safe_load(text)


def test_a_pipelines_profile_goes_over_the_releases_which_goes_over_what_the_chart_knows() -> None:
    made = profile("everything", "team-nightly")
    assert made["stages"]["retrain"]["resources"]["gpus"] == 2
    assert profile("everything", "team-weekly")["stages"]["retrain"]["resources"]["gpus"] == 1
    assert made["namespace"] == "distill"
    assert made["defaults"]["labels"] == {"team": "blue", "distill-ledger-release": "team"}
    assert made["defaults"]["service_account"] == "team-stages"
    assert made["agent"]["secret_env"]["AWS_ACCESS_KEY_ID"]["secret"] == "stage-store"
    # The role of the stages' account is the agent's, and neither the command's nor a service's.
    skipped = made["defaults"]["annotations"]["eks.amazonaws.com/skip-containers"]
    assert skipped == "command,planner"


def test_a_profile_from_elsewhere_says_itself_what_the_chart_would_have_put_in() -> None:
    """The page's example is a whole profile: what the chart makes of the same values, namespace aside."""
    (text,) = re.findall(r"```yaml profile\n(.*?)```", _README.read_text(), re.DOTALL)
    parse_profile(text, "profile.yaml", stages=["retrain"])
    made = profile("small", "nightly")
    for key in ("image_pull_policy", "namespace", "driver"):
        made.pop(key, None)
        made["agent"].pop(key, None)
    assert yaml.safe_load(text) == made


@pytest.mark.parametrize("case", _OWN)
def test_helm_test_asks_for_what_policies_select_stages_by_and_for_their_account(case: str) -> None:
    (pod,) = [one for one in kinds(case, "Pod") if one["metadata"]["name"].endswith("-doctor")]
    args = pod["spec"]["containers"][0]["args"]
    asked = [one.partition("=")[2] for one in args if one.startswith("--stage-label=")]
    release = "team" if case == "everything" else "nightly"
    assert f"--stage-account={release}-stages" in args
    stages = [p for p in kinds(case, "NetworkPolicy") if "-stages" in p["metadata"]["name"]]
    for one in stages:
        selects = {f"{k}={v}" for k, v in one["spec"]["podSelector"]["matchLabels"].items()}
        # The launcher's own, whatever the profile says.
        own = {"app.kubernetes.io/managed-by=distill-ledger", "distill-ledger/llm=on"}
        assert selects - own == set(asked)
    assert bool(asked) is bool(stages)


def policy(case: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in kinds(case, "NetworkPolicy") if one["metadata"]["name"] == name]
    return dict(found["spec"])


def test_a_stage_without_a_model_has_no_rule_that_leads_to_one() -> None:
    every, model = (policy("everything", f"team-{end}") for end in ("stages", "stages-llm"))
    assert "distill-ledger/llm" not in every["podSelector"]["matchLabels"]
    assert model["podSelector"]["matchLabels"]["distill-ledger/llm"] == "on"
    endpoint = {"ipBlock": {"cidr": "10.2.0.9/32"}}
    assert [endpoint] in [rule["to"] for rule in model["egress"]]
    assert [endpoint] not in [rule["to"] for rule in every["egress"]]
    assert every["ingress"] == []
    for one in kinds("everything", "NetworkPolicy"):
        for rule in one["spec"].get("egress", []):
            assert rule["to"], "a rule without `to` opens everything"


def test_a_rollback_is_pressed_once() -> None:
    """A pod that was killed may have turned the pointer back; another one would turn it further."""
    for case in _OWN:
        for one in kinds(case, "CronJob"):
            name, job = one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]
            assert (job["backoffLimit"] == 0) is ("-rollback" in name), name
            assert ("podFailurePolicy" in job) is ("-rollback" not in name), name


def test_only_pods_are_hooks() -> None:
    """``helm test --logs`` asks for the log of each hook, and fails where one has none."""
    hooks = [
        one["kind"]
        for one in objects("everything")
        if "helm.sh/hook" in one["metadata"].get("annotations", {})
    ]
    assert hooks == ["Pod", "Pod"]


def test_a_name_has_room_for_what_kubernetes_adds() -> None:
    for case in _OWN:
        for one in kinds(case, "CronJob"):
            assert len(one["metadata"]["name"]) <= 52


def test_the_claim_outlives_the_release_and_has_one_writer() -> None:
    (claim,) = kinds("sqlite", "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert not kinds("sqlite", "Deployment")
    (rollback,) = [one for one in pods("sqlite") if one[0] == "nightly-rollback"]
    # It waits for no run that has the claim.
    assert all("persistentVolumeClaim" not in volume for volume in rollback[2]["volumes"])
    assert rollback[2]["containers"][0]["args"][1] == "s3://bucket/prefix#student"


# --- what a person reads ---


@pytest.mark.parametrize("chart", CHARTS, ids=lambda one: one.name)
def test_the_table_of_values_is_of_these_values(chart: Path) -> None:
    """``python -m tests.charts.golden`` writes it again."""
    page = (chart / "README.md").read_text()
    assert with_table(chart, page) == page


@pytest.mark.parametrize("chart", CHARTS, ids=lambda one: one.name)
def test_something_is_said_of_every_value(chart: Path) -> None:
    said = {key for key, _, _ in rows(chart)}

    def leaves(value: Any, at: str) -> Iterator[str]:
        if at in said or not (isinstance(value, dict) and value):
            yield at
        else:
            for key, below in value.items():
                yield from leaves(below, f"{at}.{key}" if at else key)

    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert set(leaves(values, "")) <= said
