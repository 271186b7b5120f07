"""The sidecar beside a real command: what becomes of all that a pod leaves, in every order of ends."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k8s.wrapper import STOPPED, TERMINATED, UNCOLLECTED
from launcher.agent.protocol import process_start
from launcher.executors.port import StageResult
from launcher.storage.port import ObjectNotFoundError
from tests.launcher.agent.pods import Pods, made_pods, previous_manifest, until

_UP = "touch $SEEN/up; sleep 60"


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with made_pods(tmp_path) as made:
        yield made


@pytest.mark.parametrize(("code", "left"), [(0, 0), (7, 7), (143, 1)])
def test_what_a_command_left_is_its_result(pods: Pods, code: int, left: int) -> None:
    pod = pods.run(f"echo said; echo s >$C/s.pt; echo a >$R/artifacts/a; exit {code}")
    assert pod.left() == left
    result = pods.result
    assert (result["exit_code"], result["closed_by"]) == (code, None)
    assert pods.outputs() == {"checkpoints/s.pt": b"s\n", "artifacts/a": b"a\n"}
    assert pods.store.read_blob(result["log_digest"]) == b"said\n"
    assert result["pod"] == {"name": "pod-uid-0", "uid": "uid-0", "node": "node"}
    parsed = StageResult.parse(json.dumps(result).encode(), "result.json")
    assert [c.path for c in parsed.checkpoints if c.student] == ["checkpoints/s.pt"]
    assert parsed.running_seconds is not None
    assert pods.object("collected.json") is None
    # The launcher hears it from the log, before the pod has ended.
    assert pod.collector.stderr is not None
    assert pod.collector.stderr.read().decode().splitlines()[-1] == "collect: committed"


def test_only_what_is_new_is_an_output_and_the_tag_file_wherever_it_is(pods: Pods) -> None:
    before = previous_manifest(pods.store, {"artifacts/a": b"1", "artifacts/b": b"1"})
    pod = pods.run(
        "cat $R/artifacts/a; echo 2 >$R/artifacts/b; echo t >tags.jsonl; rm $R/artifacts/a; "
        "echo m >$R/artifacts/x.me",
        stage="retrain",
        previous_manifests=(before,),
        collect_exclude=("*.me",),
        tag_file="tags.jsonl",
    )
    assert pod.left() == 0
    assert pods.outputs() == {"artifacts/b": b"2\n"}
    assert pods.result["tag_file"]["path"] == "tags.jsonl"
    assert pods.store.read_blob(pods.result["tag_file"]["digest"]) == b"t\n"


def test_outputs_that_may_not_be_collected_are_no_success(pods: Pods) -> None:
    pod = pods.run("ln -s /etc/passwd $R/artifacts/x; echo s >$C/s.pt")
    assert pod.left() == UNCOLLECTED
    assert (pods.result["exit_code"], pods.result["closed_by"]) == (None, "outputs")
    assert "a symlink that leaves the run's folder" in pods.result["message"]
    saved = pods.object("collected.json")
    assert saved is not None
    assert [one["path"] for one in saved["checkpoints"]] == ["checkpoints/s.pt"]


def test_a_log_that_cannot_be_written_is_said(pods: Pods) -> None:
    pod = pods.pod(pods.task("true"))
    assert pod.fetch()[0] == 0
    (pod.run_dir / "logs").rmdir()
    (pod.run_dir / "logs").write_text("no folder")
    pod.start_collect()
    pod.start_wrapper()
    assert pod.left() == UNCOLLECTED
    assert (pods.result["exit_code"], pods.result["closed_by"]) == (None, "storage")


# --- told to end ---


def test_told_to_end_it_saves_and_the_next_pod_goes_on_from_there(pods: Pods) -> None:
    command = (
        'if [ -n "${RESUME_CHECKPOINT-}" ]; then echo from $(cat $RESUME_CHECKPOINT); '
        "echo 2 >$C/b.pt; exit 0; fi; echo first; echo 1 >$C/a.pt; touch -d yesterday $C/a.pt; "
        "trap 'echo late >$C/late.pt; exit 0' TERM; touch $SEEN/up; while :; do sleep 0.05; done"
    )
    task = pods.task(command)
    first = pods.pod(task).start()
    first.saw("up")
    assert first.evict() == TERMINATED
    assert pods.object("result.json") is None, "what was told to end counted"
    last = pods.progress()[-1]
    assert [one["path"] for one in last["checkpoints"]] == [
        "checkpoints/a.pt",
        "checkpoints/late.pt",
    ]
    second = pods.pod(task).start()
    assert (second.handover / "resume").read_text() == str(second.run_dir / "checkpoints/late.pt")
    assert second.left() == 0
    log = pods.store.read_blob(pods.result["log_digest"])
    assert log.startswith(b"first\n")
    assert log.endswith(b"from late\n")
    assert pods.result["pod"]["uid"] == "uid-1"
    outputs = pods.outputs()
    assert outputs["checkpoints/a.pt"] == b"1\n"
    assert outputs["checkpoints/late.pt"] == b"late\n"
    assert [c["path"] for c in pods.result["checkpoints"] if c["student"]] == ["checkpoints/b.pt"]


def test_told_to_end_while_collecting_there_is_no_result(pods: Pods) -> None:
    """The collector is held up until the pod is told; its next look is right before the result."""
    pod = pods.pod(pods.task("echo s >$C/s.pt; exit 0"))
    assert pod.fetch()[0] == 0
    pod.start_wrapper()
    until((pod.handover / "exit.json").exists)
    pod.wrapper.send_signal(signal.SIGTERM)
    until((pod.handover / "terminating").exists)
    pod.start_collect()
    assert pod.left() == TERMINATED
    assert pods.object("result.json") is None
    assert [one["path"] for one in pods.progress()[-1]["checkpoints"]] == ["checkpoints/s.pt"]


def test_a_result_that_was_there_when_the_pod_was_told_stands(pods: Pods) -> None:
    """The collector was killed between the two effects, and the next one meets a pod that is being ended."""
    pod = pods.pod(pods.task("exit 7"))
    assert pod.fetch()[0] == 0
    pod.start_wrapper()
    until((pod.handover / "exit.json").exists)
    pods.store.create("runs/r/retrain/1/result.json", b'{"exit_code": 7, "closed_by": null}')
    pod.wrapper.send_signal(signal.SIGTERM)
    until((pod.handover / "terminating").exists)
    pod.start_collect()
    assert pod.left() == 7
    assert pods.progress() == []


def test_a_command_that_was_killed_leaves_only_what_is_known_to_be_whole(pods: Pods) -> None:
    command = "echo torn >$C/torn.pt; printf 'PK\\003\\004torn' >$C/zip.pt; trap '' TERM; " + _UP
    pod = pods.pod(pods.task(command, limits={"fetch": 0, "collect": 30, "quiet": 3600}))
    pod.start(grace=1)
    pod.saw("up")
    assert pod.evict() == TERMINATED
    assert [one["checkpoints"] for one in pods.progress()] == [[]]


# --- killed ---


def test_a_container_that_was_killed_leaves_its_checkpoints_and_no_result(pods: Pods) -> None:
    pod = pods.run(f"echo first; echo 1 >$C/a.pt; {_UP}")
    pod.saw("up")
    until(lambda: pods.progress())
    pod.kill_command()
    assert pod.end_collector() == 0
    assert pods.object("result.json") is None
    assert pods.object("collected.json") is None
    last = pods.progress()[-1]
    assert [one["path"] for one in last["checkpoints"]] == ["checkpoints/a.pt"]
    assert pods.store.read_blob(last["log_digest"]) == b"first\n"


def test_killed_with_its_collector_the_next_pod_has_what_was_saved_before(pods: Pods) -> None:
    task = pods.task(f'[ -z "${{RESUME_CHECKPOINT-}}" ] || exit 0; echo 1 >$C/a.pt; {_UP}')
    pod = pods.pod(task).start()
    until(lambda: pods.progress())
    pod.kill_collector()
    pod.kill_command()
    assert pods.pod(task).start().left() == 0
    assert pods.outputs() == {"checkpoints/a.pt": b"1\n"}


def test_a_pod_that_ends_before_its_command_began_saves_nothing(pods: Pods) -> None:
    pod = pods.pod(pods.task("true"))
    assert pod.fetch()[0] == 0
    pod.start_collect()
    assert pod.end_collector() == 0
    assert list(pods.store.list("runs/")) == []


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_collector_that_is_killed_while_the_command_runs_is_not_missed(
    pods: Pods, restarts: int
) -> None:
    command = "touch $SEEN/up; until [ -e $SEEN/go ]; do sleep 0.05; done; echo s >$C/s.pt; exit 7"
    pod = pods.run(command)
    pod.saw("up")
    for _ in range(restarts):
        pod.kill_collector()
        pod.start_collect()
    (pod.seen / "go").touch()
    assert pod.left() == 7
    assert pods.result["exit_code"] == 7
    assert pods.outputs() == {"checkpoints/s.pt": b"s\n"}


def test_a_collector_that_ended_and_is_started_again_only_waits(pods: Pods) -> None:
    pod = pods.run("exit 0")
    assert pod.wrapper.wait(30) == 0
    pod.kill_collector()
    before = [info.key for info in pods.store.list("")]
    pod.start_collect()
    assert pod.end_collector() == 0
    assert [info.key for info in pods.store.list("")] == before


def test_without_a_collector_outputs_are_not_collected(pods: Pods) -> None:
    pod = pods.pod(pods.task("exit 0"))
    assert pod.fetch()[0] == 0
    pod.start_wrapper(collect=1)
    assert pod.wrapper.wait(30) == UNCOLLECTED
    assert pods.object("result.json") is None


# --- closed, and raced ---


def test_an_attempt_that_was_closed_ends_its_command_and_saves_beside(pods: Pods) -> None:
    pod = pods.run(
        "echo 1 >$C/a.pt; trap 'exit 0' TERM; touch $SEEN/up; while :; do sleep 0.05; done"
    )
    pod.saw("up")
    pods.store.create(
        "runs/r/retrain/1/result.json", b'{"exit_code": null, "closed_by": "cancelled"}'
    )
    assert pod.left() == STOPPED
    assert pods.result == {"exit_code": None, "closed_by": "cancelled"}
    saved = pods.object("collected.json")
    assert saved is not None
    assert [one["path"] for one in saved["checkpoints"]] == ["checkpoints/a.pt"]


def test_a_command_past_its_time_is_closed_then_ended_with_all_that_it_started(pods: Pods) -> None:
    """By the collector alone: no launcher is about. It and its child ignore TERM; what it saved is kept."""
    child = "(trap '' TERM; while :; do sleep 0.05; done) & echo $! >$SEEN/child"
    task = pods.task(
        f"trap '' TERM; {child}; echo 1 >$C/a.pt; while :; do sleep 0.05; done", timeout_seconds=1
    )
    pod = pods.pod(task).start(grace=1)
    assert pod.left() == 137
    result = pods.result
    assert (result["exit_code"], result["closed_by"]) == (None, "timeout")
    assert result["message"] == "it ran longer than 1 s and was stopped"
    assert process_start(int((pod.seen / "child").read_text())) is None
    saved = pods.object("collected.json")
    assert saved is not None
    assert [one["path"] for one in saved["checkpoints"]] == ["checkpoints/a.pt"]


def test_what_collecting_takes_is_not_the_commands_time(pods: Pods) -> None:
    pod = pods.pod(pods.task("echo 1 >$C/a.pt", timeout_seconds=0.5))
    assert pod.fetch()[0] == 0
    pod.start_wrapper()
    until((pod.handover / "exit.json").exists)
    began = (pod.handover / "started").stat().st_mtime
    until(lambda: time.time() - began > 1)
    pod.start_collect()
    assert pod.left() == 0
    assert (pods.result["exit_code"], pods.result["closed_by"]) == (0, None)


@pytest.mark.parametrize(("winner", "left"), [(7, 7), (0, UNCOLLECTED)])
def test_the_second_pod_of_an_attempt_takes_the_winners_word(
    pods: Pods, winner: int, left: int
) -> None:
    """Two pods of one attempt, as after a node that was thought lost: the result is the first one's."""
    task = pods.task("touch $SEEN/up; until [ -e $SEEN/go ]; do sleep 0.05; done; exit 7")
    pod = pods.pod(task)
    assert pod.fetch()[0] == 0
    pod.start_wrapper()
    pod.saw("up")
    (pod.seen / "go").touch()
    until((pod.handover / "exit.json").exists)
    said = json.dumps({"exit_code": winner, "closed_by": None}).encode()
    pods.store.create("runs/r/retrain/1/result.json", said)
    pod.start_collect()
    assert pod.left() == left
    assert pods.store.read("runs/r/retrain/1/result.json") == said


def test_of_two_pods_one_commits_and_both_know_it(pods: Pods) -> None:
    task = pods.task("until [ -e $SEEN/go ]; do sleep 0.01; done; echo $SEEN >$C/s.pt; exit 0")
    both = [pods.pod(task).start(), pods.pod(task).start()]
    for pod in both:
        (pod.seen / "go").touch()
    assert [pod.left() for pod in both] == [0, 0]
    winner = next(pod for pod in both if pod.uid == pods.result["pod"]["uid"])
    assert pods.outputs() == {"checkpoints/s.pt": f"{winner.seen}\n".encode()}


def test_a_task_that_is_not_there_ends_it(pods: Pods) -> None:
    pod = pods.pod(pods.task("true"))
    pod.digest = f"sha256:{'0' * 64}"
    pod.start_collect()
    assert pod.collector.wait(30) == 4
    with pytest.raises(ObjectNotFoundError):
        pods.store.read("runs/r/retrain/1/result.json")
