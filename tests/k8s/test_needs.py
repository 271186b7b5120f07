"""What a Job refers to by name, read off Jobs as a profile makes them."""

from __future__ import annotations

import pytest

from k8s.manifest import job_manifest
from k8s.needs import Needs, together
from ledger.events import StageName
from tests.k8s.golden import stage_job
from tests.k8s.profiles import read

_TEXT = """
agent:
  image: r/agent
  secret_env: {AWS_SECRET_ACCESS_KEY: {secret: store, key: secret}}
store: {claim: shared}
allow_host_path: true
defaults:
  image: r/train
  image_pull_secrets: [login]
  secret_env:
    HF_TOKEN: {secret: store, key: token}
    WANDB_API_KEY: {secret: wandb, key: key, optional: true}
  volumes:
    - {claim: data, mount_path: /data, read_only: true}
    - {secret: cert, mount_path: /cert}
stages:
  llm_on:
    priority_class: high
    services:
      - {name: planner, image: r/vllm, port: 8000, volumes: [{claim: models, mount_path: /models}],
         secret_env: {API_KEY: {secret: planner, key: key}}}
  retrain:
    runtime_class: nvidia
    service_account: trainer
    queue: gpus
    volumes: [{config_map: prompts, mount_path: /prompts}, {host_path: /srv, mount_path: /srv}]
"""


def needs(*stages: StageName) -> Needs:
    profile = read(_TEXT)
    return together(job_manifest(stage_job(one), profile, one) for one in stages)


def test_everything_of_all_stages_is_named_once() -> None:
    found = needs("llm_on", "retrain")
    assert found == Needs(
        secrets={
            "store": frozenset({"secret", "token"}),
            "planner": frozenset({"key"}),
            "cert": frozenset(),
        },
        pull_secrets=frozenset({"login"}),
        config_maps=frozenset({"prompts"}),
        claims=frozenset({"data", "models", "shared"}),
        written=frozenset({"models", "shared"}),
        service_accounts=frozenset({"trainer"}),
        priority_classes=frozenset({"high"}),
        runtime_classes=frozenset({"nvidia"}),
        queues=frozenset({"gpus"}),
        host_path=True,
    )


@pytest.mark.parametrize("stage", ["relabel", "llm_off"])
def test_what_another_stage_needs_is_not_named(stage: StageName) -> None:
    found = needs(stage)
    assert not found.host_path
    assert not found.queues | found.priority_classes | found.config_maps
    assert found.claims == {"data", "shared"}
