"""A stage's attempt as a Job: the golden ones, what must hold of all, and what cannot become one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client

from k8s.errors import ProfileError
from k8s.manifest import job_manifest
from k8s.names import Attempt
from k8s.profile_text import parse_profile
from k8s.yaml_text import parse_yaml
from ledger.events import STAGES, StageName
from tests.k8s.golden import CASES, FOLDER, document, manifest, profile, stage_job
from tests.k8s.profiles import LEAST, read
from tests.k8s.refusals import in_retrain

RETRAIN: StageName = "retrain"


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = job["spec"]["template"]["spec"]
    yield from spec["initContainers"]
    yield from spec["containers"]


def named(job: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in containers(job) if one["name"] == name)


def variables(job: dict[str, Any], name: str = "command") -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in named(job, name)["env"]}


# --- the golden Jobs ---


@pytest.mark.parametrize("name", CASES)
def test_a_job_is_the_golden_one(name: str) -> None:
    """Meant? ``python -m tests.k8s.golden`` writes them again; look at the difference."""
    assert document(name) == (FOLDER / f"{name}.yaml").read_text()


def test_there_is_no_golden_job_of_nothing() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_what_is_printed_is_what_is_sent(name: str) -> None:
    assert parse_yaml(document(name)).value == manifest(name)
    assert yaml.safe_load(document(name)) == manifest(name)


@pytest.mark.parametrize("name", CASES)
def test_the_clients_models_know_every_field(name: str) -> None:
    """What they do not know they drop: the Job comes back as it went in, only where each field is one of theirs."""
    api: Any = client.ApiClient()
    job = manifest(name)
    read_back = api.deserialize(json.dumps(job), "V1Job", "application/json")
    assert api.sanitize_for_serialization(read_back) == job


# --- what holds of all ---


@pytest.mark.parametrize("name", CASES)
def test_every_pod_is_restricted(name: str) -> None:
    job = manifest(name)
    spec = job["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(job):
        security = one["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", CASES)
def test_mounts_and_volumes_belong_together(name: str) -> None:
    job = manifest(name)
    volumes = [one["name"] for one in job["spec"]["template"]["spec"]["volumes"]]
    assert len(volumes) == len(set(volumes))
    mounted = set()
    for one in containers(job):
        places = [mount["mountPath"] for mount in one["volumeMounts"]]
        assert len(places) == len(set(places)), one["name"]
        mounted |= {mount["name"] for mount in one["volumeMounts"]}
    assert mounted == set(volumes)


@pytest.mark.parametrize("name", CASES)
def test_a_job_is_left_to_whoever_has_its_result(name: str) -> None:
    spec = manifest(name)["spec"]
    assert "ttlSecondsAfterFinished" not in spec
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    rules = [rule["action"] for rule in spec["podFailurePolicy"]["rules"]]
    assert rules == ["Ignore", "Ignore", "Ignore", "FailJob"]
    assert ("suspend" in spec) == (
        "kueue.x-k8s.io/queue-name" in manifest(name)["metadata"]["labels"]
    )


def test_the_same_attempt_is_the_same_job_and_another_is_another() -> None:
    least = read(LEAST)
    one = job_manifest(stage_job(RETRAIN), least, RETRAIN)
    turned = dict(reversed(list(stage_job(RETRAIN).environment.items())))
    assert job_manifest(stage_job(RETRAIN, environment=turned), least, RETRAIN) == one
    other = Attempt("robots", "20261125T091500Z-ab12", RETRAIN, 2, f"sha256:{'5' * 64}")
    made = job_manifest(stage_job(RETRAIN, attempt=other), least, RETRAIN)
    assert made["metadata"]["name"] != one["metadata"]["name"]


def test_a_manifest_is_its_callers_to_change() -> None:
    least = read(LEAST)
    before = job_manifest(stage_job(RETRAIN), least, RETRAIN)
    kept = copy.deepcopy(before)
    before["spec"]["podFailurePolicy"]["rules"].clear()
    before["metadata"]["labels"].clear()
    assert job_manifest(stage_job(RETRAIN), least, RETRAIN) == kept


@pytest.mark.parametrize("name", CASES)
def test_kubernetes_expands_nothing(name: str) -> None:
    """``$(NAME)`` in values, commands and arguments is Kubernetes' to expand; written twice, the $ is only itself."""
    for one in containers(manifest(name)):
        values = [entry["value"] for entry in one["env"] if "value" in entry]
        for text in [*values, *one.get("command", []), *one.get("args", [])]:
            assert not re.search(r"(?<!\$)(?:\$\$)*\$\(", text), text


def test_quantities_are_text() -> None:
    """The client's models take nothing else."""
    for name in CASES:
        for one in containers(manifest(name)):
            for amounts in one["resources"].values():
                assert all(type(value) is str for value in amounts.values())


def test_the_stores_credentials_reach_the_agent_alone() -> None:
    job = manifest("gpu-llm_on")
    for one in containers(job):
        has = {name for name in variables(job, one["name"]) if name.startswith("AWS_")}
        assert bool(has) == (one["name"] in ("fetch", "collect")), one["name"]


# --- llm: off ---


def test_llm_off_has_no_way_to_a_model() -> None:
    text = in_retrain(
        "llm: off, env: {OPENAI_BASE: x, KEPT: y}, secret_env: {ANTHROPIC_API_KEY: {secret: s, key: k}},"
        " services: [{name: m, image: v, port: 80, url_variable: PLANNER_BASE_URL},"
        " {name: c, image: v, port: 81, url_variable: CACHE_URL}]"
    )
    job = job_manifest(stage_job(RETRAIN, secrets={"OPENAI_API_KEY"}), read(text), RETRAIN)
    mine = variables(job)
    assert mine["KEPT"] == "y"
    assert mine["CACHE_URL"] == "http://127.0.0.1:81"
    assert not [name for name in mine if name.startswith(("OPENAI", "ANTHROPIC", "PLANNER"))]
    assert [one["name"] for one in containers(job)] == ["fetch", "collect", "c", "command"]
    assert job["spec"]["template"]["metadata"]["labels"]["distill-ledger/llm"] == "off"


def test_with_a_model_the_service_beats_the_config() -> None:
    text = in_retrain(
        "services: [{name: m, image: v, port: 80, url_variable: PLANNER_BASE_URL, url_path: /v1}]"
    )
    job = job_manifest(stage_job(RETRAIN), read(text), RETRAIN)
    assert variables(job)["PLANNER_BASE_URL"] == "http://127.0.0.1:80/v1"
    assert job["spec"]["template"]["metadata"]["labels"]["distill-ledger/llm"] == "on"


# --- what cannot become a Job ---


def refused(text: str, **more: Any) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        job_manifest(stage_job(RETRAIN, **more), read(text), RETRAIN)
    assert str(caught.value).startswith("p.yaml: ")
    return [str(one) for one in caught.value.problems]


def test_a_secret_that_nobody_brings() -> None:
    said = "stages.retrain.secret_env.WANDB_API_KEY: missing: its value is secret, so a Secret must bring it"
    assert refused(LEAST, secrets={"WANDB_API_KEY"}) == [said]
    brought = in_retrain("secret_env: {WANDB_API_KEY: {secret: w, key: k}}")
    job = job_manifest(stage_job(RETRAIN, secrets={"WANDB_API_KEY"}), read(brought), RETRAIN)
    assert variables(job)["WANDB_API_KEY"] == {"secretKeyRef": {"name": "w", "key": "k"}}


ROM = "/workspace/roms/crystal.gbc"


@pytest.mark.parametrize(
    "volume",
    [
        "{claim: roms, mount_path: /workspace/rom}",
        "{claim: roms, mount_path: /workspace/roms/crystal.gbc/deep}",
        "{empty_dir: 1Gi, mount_path: /workspace/roms}",
        "{claim: roms, mount_path: /workspace/roms}, {empty_dir: 1Gi, mount_path: /workspace/roms/crystal.gbc}",
    ],
)
def test_what_is_never_stored_must_lie_on_a_volume(volume: str) -> None:
    said = f"stages.retrain.volumes: none of them has {ROM}, which INPUTS_PRIVATE names and which is never stored"
    assert refused(LEAST, private=[ROM]) == [said]
    assert refused(in_retrain(f"volumes: [{volume}]"), private=[ROM]) == [said]


@pytest.mark.parametrize("path", ["/workspace/roms", ROM])
def test_fetch_sees_what_is_never_stored_beside_the_workspace_and_cannot_write_it(
    path: str,
) -> None:
    other = "{claim: data, mount_path: /data}"
    text = in_retrain(
        f"volumes: [{other}, {{claim: roms, mount_path: {path}, sub_path: gb, read_only: false}}]"
    )
    job = job_manifest(stage_job(RETRAIN, private=[ROM, ROM]), read(text), RETRAIN)
    seen = [one for one in named(job, "fetch")["volumeMounts"] if "private" in one["mountPath"]]
    own = [one for one in named(job, "command")["volumeMounts"] if one["mountPath"] == path]
    claim = own[-1]["name"]
    assert seen == [
        {"name": claim, "mountPath": f"/private{path}", "subPath": "gb", "readOnly": True}
    ]
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert {"name": claim, "persistentVolumeClaim": {"claimName": "roms"}} in volumes
    assert "private" not in str(named(job, "collect"))


@pytest.mark.parametrize("store", [None, "/srv/store", "runs/self_distill/objects"])
def test_a_store_that_no_pod_reaches(store: str | None) -> None:
    assert refused(LEAST, store=store) == [
        "store: missing: pods do not reach a folder of this machine; name a volume, or have the store in a bucket"
    ]
    job = job_manifest(
        stage_job(RETRAIN, store=store), read(f"{LEAST}store: {{claim: s}}\n"), RETRAIN
    )
    assert "--store=/store" in named(job, "collect")["args"]


def test_all_of_it_is_said_at_once() -> None:
    least = parse_profile("agent: {image: r/agent}", "p.yaml", stages=())
    with pytest.raises(ProfileError) as caught:
        job_manifest(stage_job(RETRAIN, store=None, secrets={"B_KEY", "A_KEY"}), least, RETRAIN)
    assert [one.path for one in caught.value.problems] == [
        "stages.retrain.image", "store", "stages.retrain.secret_env.A_KEY", "stages.retrain.secret_env.B_KEY",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["cpu", "gpu", "kueue"])
def test_every_stage_of_the_profiles_to_begin_with_becomes_a_job(
    name: str, stage: StageName
) -> None:
    job = job_manifest(stage_job(stage), profile(f"configs/profiles/{name}.yaml"), stage)
    assert len(job["metadata"]["name"]) <= 57
