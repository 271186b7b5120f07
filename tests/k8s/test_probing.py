"""A stage's Job as a probe, and what its pod's end means."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.manifest import job_manifest
from k8s.probing import Judged, is_done, judged, probe_job
from tests.k8s.golden import stage_job
from tests.k8s.profiles import read

Object = dict[str, Any]

_TEXT = """
agent: {image: r/agent, secret_env: {AWS_SECRET_ACCESS_KEY: {secret: store, key: secret}}}
defaults: {image: r/train, node_selector: {gpu: h100}, resources: {gpus: 2}}
stages:
  llm_on: {services: [{name: planner, image: r/vllm, port: 8000, resources: {gpus: 1}}]}
"""


def test_a_probe_is_where_the_stage_would_be_and_does_nothing() -> None:
    job = job_manifest(stage_job("llm_on", store="s3://b/p"), read(_TEXT), "llm_on")
    probe = probe_job(job, seconds=300)
    own, spec = job["spec"]["template"]["spec"], probe["spec"]["template"]["spec"]
    same = ("nodeSelector", "volumes", "securityContext", "automountServiceAccountToken")
    assert {key: spec[key] for key in same} == {key: own[key] for key in same}
    assert (probe["spec"]["activeDeadlineSeconds"], probe["spec"]["ttlSecondsAfterFinished"]) == (
        360,
        60,
    )
    fetch, store = spec["initContainers"]
    command, planner = spec["containers"]
    assert fetch["args"] == own["initContainers"][0]["args"]
    assert store["command"] == ["python3", "-m", "launcher.agent.trial"]
    assert store["args"] == ["--store=s3://b/p"]
    assert "restartPolicy" not in store
    assert store["env"] == own["initContainers"][1]["env"]
    assert [one["image"] for one in spec["containers"]] == ["r/train", "r/vllm"]
    assert planner["resources"] == {
        "requests": {"nvidia.com/gpu": "1"},
        "limits": {"nvidia.com/gpu": "1"},
    }
    assert command["env"] == own["containers"][0]["env"]
    # The Job that it was made from is its caller's.
    assert own["initContainers"][1]["restartPolicy"] == "Always"


def pod(**codes: int | str | None) -> Object:
    """A pod that ended: its containers' exit codes, or a reason that they never ran for; a message after a colon."""

    def status(name: str, said: int | str | None) -> Object:
        if said is None:
            return {"name": name, "state": {"waiting": {"reason": "PodInitializing"}}}
        code, _, message = str(said).partition(":")
        ended = {"exitCode": int(code), "message": message}
        return {"name": name, "imageID": "x@sha256:1", "state": {"terminated": ended}}

    made = {"fetch": 0, "store": 0, "command": 0, **codes}
    every = [status(name, said) for name, said in made.items()]
    return {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"nodeName": "gpu-1"},
        "status": {
            "phase": "Succeeded" if not any(codes.values()) else "Failed",
            "initContainerStatuses": every[:2],
            "containerStatuses": every[2:],
        },
    }


_WELL = "on gpu-1: its image has bash and coreutils, the store is written and create-only holds"
CASES: list[tuple[str, Object, Judged]] = [
    ("well", pod(), Judged(True, _WELL)),
    ("a service that was pulled", pod(planner=128), Judged(True, f"{_WELL}; pulled for planner")),
    (
        "a service that was not",
        pod(planner=None),
        Judged(False, "the image of planner was not pulled"),
    ),
    (
        "no store",
        pod(store="5:trial: it is away\n", command=None),
        Judged(False, "the store cannot be used from inside: it is away"),
    ),
    (
        "an agent of another version",
        pod(store="1:python3: No module named launcher.agent.trial", command=None),
        Judged(
            False,
            "the store cannot be used from inside: python3: No module named launcher.agent.trial "
            "(is agent.image of this launcher's version?)",
        ),
    ),
    (
        "no code",
        pod(fetch="4:fetch: the code: gone", store=None, command=None),
        Judged(False, "what it needs could not be fetched (exit 4): fetch: the code: gone"),
    ),
    ("no tee", pod(command="3:its image has no tee"), Judged(False, "its image has no tee")),
]


@pytest.mark.parametrize(("ended", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_a_probes_end_means(ended: Object, said: Judged) -> None:
    assert is_done(ended)
    assert judged(ended) == said


def test_a_pod_that_runs_is_not_done() -> None:
    assert not is_done({"metadata": {}, "status": {"phase": "Running"}})
    assert not is_done({"metadata": {}})
