"""What is made of a Job, its pods and the events: one table of cases.

tests/k8s/recorded is what a real cluster said (``python -m tests.rig.record``); tests/k8s/cases, in the same shapes,
is what no rig of one node brings about, with what is expected in each file.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.outcome import Outcome, outcome
from ledger.events import CAUSES

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "cases").glob("*.yaml"))
RECORDED = sorted(path.stem for path in (HERE / "recorded").glob("*.yaml"))


def read(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(
        (HERE / folder / f"{name}.yaml").read_text(), yaml.CSafeLoader
    )
    return found


def of(case: dict[str, Any]) -> Outcome:
    return outcome(case["job"], case["pods"], case["events"])


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str) -> None:
    case = read("cases", name)
    expected = case["expected"]
    found = asdict(of(case))
    assert {key: found[key] for key in expected} == {
        **expected,
        **({"disruptions": tuple(expected["disruptions"])} if "disruptions" in expected else {}),
    }
    # What a file does not say is as it is of nothing special.
    for key, usual in (("cause", None), ("exit_code", None), ("disruptions", ())):
        assert key in expected or found[key] == usual, key


#: (state, cause, exit code, gone, certain, words) of each recording.
_WORDS: dict[str, tuple[str, str | None, int | None, bool, bool, str]] = {
    "deadline": ("failed", "timeout", None, True, False, "its Job was not done within 3 s"),
    "deleted": ("absent", None, None, True, False, ""),
    "deleting": ("leaving", None, None, False, False, "its Job is deleted, and it is being ended"),
    "evicted": ("pending", None, None, False, False, "its pod was evicted, as when its node is drained; another"),
    "evicted-and-replaced": ("starting", None, None, False, False, "its containers are being started"),
    "exit-7": ("failed", "application", 7, True, True, "the command ended with exit code 7"),
    "fetch-failed": ("failed", "storage", None, True, True, "what it needs could not be fetched (exit 3)"),
    "image-missing": ("image_error", "image", None, False, False, "the image rig.local/absent:1 cannot be had"),
    "image-name-invalid": ("image_error", "image", None, False, True, "the image Rig.local/UPPER:1 cannot be had"),
    "image-never-pulled": ("image_error", "image", None, False, True, "the image rig.local/absent:1 cannot be had"),
    "node-refused": ("failed", "lost", None, True, True, "its node refused it (OutOfnvidia.com/gpu): Pod was rejected"),
    "out-of-memory": ("failed", "out_of_memory", None, True, True, "it met its memory limit of 32Mi"),
    "out-of-memory-child": ("failed", "out_of_memory", None, True, True, "it met its memory limit of 32Mi"),
    "preempted": ("pending", None, None, False, False, "its pod was preempted by a pod of higher priority; another"),
    "quota": ("blocked", "unschedulable", None, False, True, "asks for 1 pods, and the quota none allows 0"),
    "refused-by-pod-security": ("blocked", "unschedulable", None, False, True, "the namespace refuses such pods"),
    "running": ("running", None, None, False, False, ""),
    "secret-missing": ("stuck", "unschedulable", None, False, False, 'command cannot be started: secret "absent"'),
    "sidecar-crashing": ("running", None, None, False, False, "beside ended 2 times (exit 1)"),
    "sidecar-never-started": ("stuck", "unschedulable", None, False, False, "beside ended 2 times (exit 1)"),
    "succeeded": ("completed", None, None, True, False, ""),
    "suspended": ("queued", None, None, False, False, "it is suspended"),
    "suspended-while-running": ("queued", None, None, False, False, "it was suspended; it goes on in the same attempt"),
    "unschedulable": ("unschedulable", "unschedulable", None, False, False, "of 1 node, 1 has too little"),
    "volume-limit": ("failed", "application", None, True, True, "it was evicted for its own use of the disk: Usage"),
    "waiting-for-gpu": ("unschedulable", "unschedulable", None, False, False, "of 1 node, 1 has too little"),
}  # fmt: skip


def test_every_recording_has_a_row() -> None:
    assert set(RECORDED) == set(_WORDS)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording(name: str) -> None:
    found = of(read("recorded", name))
    *facts, words = _WORDS[name]
    assert [found.state, found.cause, found.exit_code, found.gone, found.certain] == facts
    assert found.message.startswith(words)
    assert bool(found.message) == bool(words)


@pytest.mark.parametrize(
    "name", [f"recorded/{n}" for n in RECORDED] + [f"cases/{n}" for n in CASES]
)
def test_it_only_looks(name: str) -> None:
    """Pure: nothing is changed, the order of lists says nothing, and an empty list is as good as None."""
    folder, _, case_name = name.partition("/")
    case = read(folder, case_name)
    before = copy.deepcopy(case)
    found = of(case)
    assert case == before
    turned = {**case, "pods": case["pods"][::-1], "events": case["events"][::-1]}
    assert of(turned) == found
    assert of(_without_empty(case)) == found
    assert found.cause is None or found.cause in CAUSES


@pytest.mark.parametrize(
    "name", [f"recorded/{n}" for n in RECORDED] + [f"cases/{n}" for n in CASES]
)
def test_only_an_end_or_a_give_up_has_a_cause(name: str) -> None:
    folder, _, case_name = name.partition("/")
    found = of(read(folder, case_name))
    if found.state in ("failed", "blocked", "unschedulable", "image_error", "stuck", "unreachable"):
        assert found.cause
    else:
        assert found.cause is None
        assert not found.certain
    assert "\n" not in found.message


def test_every_state_has_a_case() -> None:
    """So that a state that nothing leads to is noticed."""
    from typing import get_args

    from k8s.outcome import State

    names = [("recorded", name) for name in RECORDED] + [("cases", name) for name in CASES]
    assert {of(read(*name)).state for name in names} == set(get_args(State))


def test_without_events_it_is_said_more_vaguely_and_never_wrongly() -> None:
    """They are kept for an hour."""
    for name in RECORDED:
        case = read("recorded", name)
        with_them, without = of(case), of({**case, "events": []})
        assert without.cause in (with_them.cause, None)
        assert without.gone == with_them.gone
        assert without.exit_code == with_them.exit_code


def _without_empty(value: Any, depth: int = 0) -> Any:
    """As other clients give it: what is empty is left out; Job, pods and events themselves stay."""
    if isinstance(value, dict):
        kept = {key: _without_empty(one, depth + 1) for key, one in value.items()}
        return {key: one for key, one in kept.items() if depth == 0 or one not in ({}, [], None)}
    return [_without_empty(one, depth + 1) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "name", [f"recorded/{n}" for n in RECORDED] + [f"cases/{n}" for n in CASES]
)
def test_whatever_waits_says_for_what(name: str) -> None:
    folder, _, case_name = name.partition("/")
    found = of(read(folder, case_name))
    # A command that runs waits for nothing, nor does what is over.
    assert found.message or found.state in ("running", "absent") or found.gone
