"""The four stages as a user runs them: one after another, from the command line, in a folder with a space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from examples.minigrid import capture, make_teacher, relabel, retrain
from examples.minigrid.evaluate import held_out
from examples.minigrid.five_seeds import run_loop, stage_environment
from examples.minigrid.stage import read_json_lines
from examples.minigrid.world import HELD_IN_SEEDS, HELD_OUT_SEEDS
from tests.examples.minigrid.chat_server import ChatServer, fails, says

ROOT = Path(__file__).resolve().parents[3]
REQUIRED = {"planlet_id", "kind", "seed_frame_id", "format", "side", "goal", "script"}
OPTIONAL = {"horizon_steps", "rationale", "metadata"}
STEP_KEYS = {"op", "actor", "target", "fallback"}


class Loop:
    """One finished loop, small."""

    def __init__(self, base: Path) -> None:
        self.teacher, self.scorecard = base / "teacher.safetensors", base / "scorecard.json"
        make_teacher.main(
            [
                *("--checkpoint", str(self.teacher)),
                *("--scorecard", str(self.scorecard)),
                *("--episodes", "20"),
            ]
        )
        self.environment = stage_environment(base / "run 1", self.teacher, self.scorecard)
        self.report = run_loop(self.environment, seed=0, episodes=120, eval_episodes=60)
        self.artifacts = Path(self.environment["ARTIFACT_DIR"])
        self.student = Path(self.environment["CHECKPOINT_DIR"]) / "student.safetensors"

    def metrics(self) -> dict[str, float]:
        text = (Path(self.environment["METADATA_DIR"]) / "metrics.json").read_text()
        numbers: dict[str, float] = json.loads(text)
        return numbers


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    return Loop(tmp_path_factory.mktemp("a project with spaces"))


@pytest.fixture
def stage(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A fresh run's environment, in force for a stage called in this process."""
    environment = stage_environment(tmp_path / "run", loop.teacher, loop.scorecard)
    for name in [n for n in os.environ if n.startswith("PLANNER_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def test_the_student_beats_the_untrained_teacher(loop: Loop) -> None:
    policies = loop.report["policies"]
    student, teacher = policies["student"], policies["untrained teacher"]
    assert student["success_rate_low"] > teacher["success_rate_high"]
    assert loop.report["p_value"] < 1e-4
    assert student["mean_steps"] < teacher["mean_steps"] / 2
    assert student["reliance"] < 0.5 < teacher["reliance"]


def test_metrics_are_flat_numbers_of_both_stages(loop: Loop) -> None:
    metrics = loop.metrics()
    assert metrics["success_rate"] == loop.report["policies"]["student"]["success_rate"]
    assert metrics["out_of_fold_agreement"] > 0.7
    assert all(type(value) in (int, float) for value in metrics.values())


def test_the_encoder_is_frozen_and_the_heads_are_not(loop: Loop) -> None:
    before, after = load_file(loop.teacher), load_file(loop.student)
    assert before.keys() == after.keys()
    for name in before:
        same = before[name].tobytes() == after[name].tobytes()
        assert same is name.startswith("encoder."), name


def test_no_level_is_both_learned_from_and_judged_on(loop: Loop) -> None:
    captured = {step["seed"] for step in read_json_lines(loop.artifacts / "telemetry.jsonl")}
    judged = range(*loop.report["level_seeds"].values())
    assert len(captured) > 50
    assert captured <= set(HELD_IN_SEEDS)
    assert captured.isdisjoint(judged)
    assert set(judged) <= set(HELD_OUT_SEEDS)
    assert set(held_out(0, 1000)).isdisjoint(held_out(1, 1000))


def test_planlets_have_the_written_form(loop: Loop) -> None:
    tagged = list(read_json_lines(Path(loop.environment["RELABEL_TAG_FILE"])))
    assert len({p["planlet_id"] for p in tagged}) == len(tagged) > 50
    for planlet in tagged:
        assert set(planlet) >= REQUIRED
        assert not set(planlet) - REQUIRED - OPTIONAL
        assert (planlet["kind"], planlet["format"], planlet["side"]) == (
            "OVERWORLD",
            "minigrid",
            "p1",
        )
        assert type(planlet["seed_frame_id"]) is int
        assert planlet["script"]
        assert all({"op"} <= set(s) <= STEP_KEYS for s in planlet["script"])
        assert planlet["metadata"]["planner"] == "BabyAIBot"
        assert 0 <= planlet["metadata"]["adherence"] <= 1


def test_duplicates_are_removed_and_counted(loop: Loop) -> None:
    counts = json.loads((loop.artifacts / "relabel.json").read_text())
    captured = list(read_json_lines(loop.artifacts / "planlets.jsonl"))
    assert counts["duplicates"] > 0
    assert counts["kept"] + counts["duplicates"] + counts["without_steps"] == len(captured)


def test_telemetry_says_what_happened_at_each_step(loop: Loop) -> None:
    steps = list(read_json_lines(loop.artifacts / "telemetry.jsonl"))
    assert all(s["gate"] == "open" for s in steps), "an untrained teacher always asks"
    assert all(s["plan_active"] == (s["planlet_id"] is not None) for s in steps)
    asked = [s for s in steps if s["cache_hit"] is not None]
    assert all(s["plan_milliseconds"] > 0 for s in asked)
    assert {s["cache_hit"] for s in asked} == {True, False}
    strayed = [s for s in steps if s["action"] != s["planned_action"]]
    assert 0.05 < len(strayed) / len(steps) < 0.2


def test_the_picture_is_a_png(loop: Loop) -> None:
    png = (loop.artifacts / "comparison.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) > 20_000


def test_nothing_half_written_is_left(loop: Loop) -> None:
    names = {
        p.relative_to(loop.environment["RUN_DIR"]).as_posix()
        for p in Path(loop.environment["RUN_DIR"]).rglob("*")
        if p.is_file()
    }
    assert names == {
        "artifacts/comparison.png",
        "artifacts/eval.json",
        "artifacts/planlet_tags.jsonl",
        "artifacts/planlets.jsonl",
        "artifacts/relabel.json",
        "artifacts/telemetry.jsonl",
        "checkpoints/student.safetensors",
        "metadata/metrics.json",
    }


def test_equal_seeds_give_equal_bytes(
    loop: Loop, stage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    students = []
    for name in ("one", "two"):
        monkeypatch.setenv("CHECKPOINT_DIR", str(Path(stage["RUN_DIR"]) / name))
        capture.main(["--episodes", "20", "--seed", "4"])
        relabel.main([])
        retrain.main(["--seed", "4"])
        made = Path(stage["RUN_DIR"]) / name / "student.safetensors"
        students.append(made.read_bytes())
    assert students[0] == students[1]


def test_a_trained_teacher_asks_less_but_still_yields_lessons(
    loop: Loop, stage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_CHECKPOINT", str(loop.student))
    capture.main(["--episodes", "20", "--seed", "9"])
    steps = list(read_json_lines(Path(stage["ARTIFACT_DIR"]) / "telemetry.jsonl"))
    gates = {
        gate: sum(s["gate"] == gate for s in steps) for gate in ("open", "overruled", "closed")
    }
    assert all(gates.values())
    assert gates["open"] < len(steps) / 2
    assert all(s["plan_active"] is (s["gate"] != "closed") for s in steps)


def test_a_chat_planner_s_planlets_say_who_planned(
    chat_server: ChatServer, stage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [{"op": "GO_TO", "target": {"type": "ball", "color": "red"}}]
    chat_server.script = [says("no idea"), says(json.dumps({"script": steps, "rationale": "why"}))]
    monkeypatch.setenv("PLANNER_BASE_URL", chat_server.base_url)
    monkeypatch.setenv("PLANNER_MODEL", "small")
    monkeypatch.setenv("PLANNER_API_KEY", "planted-secret-value")
    capture.main(["--episodes", "3", "--noise", "0"])
    text = (Path(stage["ARTIFACT_DIR"]) / "planlets.jsonl").read_text()
    planlets = [json.loads(line) for line in text.splitlines()]
    assert "planted-secret-value" not in text
    assert chat_server.requests[0][1]["Authorization"] == "Bearer planted-secret-value"
    fallback, *planned = planlets
    assert fallback["metadata"]["planner"] == "BabyAIBot"
    assert fallback["metadata"]["fallback_for"] == "chat:small"
    assert fallback["metadata"]["fallback_reason"] == "malformed answer: not JSON"
    assert {p["metadata"]["planner"] for p in planned} == {"chat:small"}
    assert {p["rationale"] for p in planned} == {"why"}


def test_a_refusing_endpoint_fails_the_stage(
    chat_server: ChatServer, stage: dict[str, str]
) -> None:
    chat_server.script = [fails(401)]
    done = _run("capture", {**stage, "PLANNER_BASE_URL": chat_server.base_url})
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "capture stopped: the planner's endpoint answered 401 Unauthorized"
    )
    assert not (Path(stage["ARTIFACT_DIR"]) / "planlets.jsonl").exists()


def test_outside_a_run_a_stage_says_what_it_misses() -> None:
    done = _run("relabel", {"RUN_ID": ""})
    assert done.returncode == 1
    assert done.stderr.strip() == "RUN_ID is not set; this command runs as a stage of a run"


def _run(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"examples.minigrid.{name}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
