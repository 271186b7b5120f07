"""The agent in a pod when it is killed before each of its effects, and when its store is away for a while."""

from __future__ import annotations

import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8s.wrapper import STOPPED, TERMINATED, UNCOLLECTED
from launcher.agent.pod_door import Given
from launcher.agent.pod_fetch import Fetch
from launcher.agent.task import Limits
from launcher.storage.s3 import S3Store
from tests.fault.collecting import doomed
from tests.launcher.agent.pods import Pod, Pods, made_pods, until
from tests.rig.s3 import S3Server, serving
from tests.rig.s3 import s3_server as s3_server

_FOREVER = -1
_LEAVES = "echo said; echo s >$C/s.pt; echo a >$R/artifacts/a; exit 7"
_SAVES = "echo 1 >$C/a.pt; trap 'exit 0' TERM; touch $SEEN/up; while :; do sleep 0.02; done"


def fetched(pod: Pod) -> str:
    """Fetch in this process: it is not what these tests kill."""
    asked = Given(pod.store, pod.digest, pod.workspace, pod.handover, {"uid": pod.uid})
    return Fetch(asked, lambda _: None).run()


def ready(pods: Pods, command: str) -> Pod:
    """A pod with its command started, without a collector."""
    pod = pods.pod(pods.task(command))
    fetched(pod)
    with zipfile.ZipFile(pod.seen / "whole.pt", "w") as whole:
        whole.writestr("data.pkl", b"1")
    pod.start_wrapper()
    return pod


def each_death(
    folder: Path,
    command: str,
    before: Callable[[Pods, Pod], object],
    after: Callable[[Pods, Pod], object],
    between: Callable[[Pods, Pod], object] = lambda pods, pod: None,
) -> list[str]:
    """A pod for each effect that its collector has, killed before that effect and started again.

    ``before`` is done before it starts, ``between`` while none runs, ``after`` must find all as it should be.
    Returns the effects of the one that lived.
    """
    for death in range(50):
        with made_pods(folder / str(death)) as pods:
            pod = ready(pods, command)
            before(pods, pod)
            with doomed(pod, death) as first:
                killed, steps = first.end(), first.steps
            if killed:
                between(pods, pod)
                with doomed(pod, _FOREVER) as second:
                    assert not second.end()
            after(pods, pod)
            # Once more, as Kubernetes would: there is nothing left to do.
            objects = [info.key for info in pods.store.list("")]
            with doomed(pod, 0) as third:
                assert not third.end()
            assert [info.key for info in pods.store.list("")] == objects
            if not killed:
                return steps
    raise AssertionError("it never came to its end")


def has_ended(pods: Pods, pod: Pod) -> None:
    until((pod.handover / "exit.json").exists)


def test_killed_while_it_commits_the_result_is_whole_and_there_once(tmp_path: Path) -> None:
    def right(pods: Pods, pod: Pod) -> None:
        assert pod.wrapper.wait(30) == 7
        assert (pods.result["exit_code"], pods.result["closed_by"]) == (7, None)
        assert pods.outputs() == {"checkpoints/s.pt": b"s\n", "artifacts/a": b"a\n"}
        assert pods.store.read_blob(pods.result["log_digest"]) == b"said\n"
        assert pods.object("collected.json") is None

    steps = each_death(tmp_path, _LEAVES, has_ended, right)
    # Two files, the manifest, the log; then what is said.
    assert steps[4:] == ["result.json", "collected"]


def test_killed_while_it_commits_and_then_the_pod_is_told_to_end(tmp_path: Path) -> None:
    """There is a result exactly where the wrapper leaves with the command's code."""

    def tell(pods: Pods, pod: Pod) -> None:
        pod.wrapper.send_signal(signal.SIGTERM)
        until(lambda: (pod.handover / "terminating").exists() or pod.wrapper.poll() is not None)

    def agree(pods: Pods, pod: Pod) -> None:
        found[pod.wrapper.wait(30)] = result = pods.object("result.json")
        assert (pod.wrapper.returncode == 7) == (result is not None)
        if result is None:
            last = pods.progress()[-1]
            # It ended by itself, but with an error: of a file that does not say where it ends nobody can tell.
            assert pods.store.read_blob(last["log_digest"]) == b"said\n"

    found: dict[int, object] = {}
    each_death(tmp_path, _LEAVES, has_ended, agree, tell)
    assert found.keys() == {7, TERMINATED}


def test_killed_while_it_saves_what_a_pod_leaves_that_was_told_to_end(tmp_path: Path) -> None:
    def told(pods: Pods, pod: Pod) -> None:
        pod.saw("up")
        pod.wrapper.send_signal(signal.SIGTERM)
        has_ended(pods, pod)

    def saved(pods: Pods, pod: Pod) -> None:
        assert pod.wrapper.wait(30) == TERMINATED
        assert pods.object("result.json") is None
        last = pods.progress()[-1]
        assert [one["path"] for one in last["checkpoints"]] == ["checkpoints/a.pt"]
        assert last["log_digest"] is not None
        another = pods.pod(pod.task)
        assert "it goes on from checkpoints/a.pt" in fetched(another)
        assert (another.run_dir / "checkpoints" / "a.pt").read_bytes() == b"1\n"

    steps = each_death(tmp_path, _SAVES, told, saved)
    assert steps[-1] == "collected"
    assert "000001.json" in steps


def test_killed_while_it_ends_a_closed_attempt(tmp_path: Path) -> None:
    closing = b'{"exit_code": null, "closed_by": "timeout"}'

    def close(pods: Pods, pod: Pod) -> None:
        pod.saw("up")
        pods.store.create("runs/r/retrain/1/result.json", closing)

    def closed(pods: Pods, pod: Pod) -> None:
        assert pod.wrapper.wait(30) == STOPPED
        assert pods.store.read("runs/r/retrain/1/result.json") == closing
        saved = pods.object("collected.json")
        assert saved is not None
        assert [one["path"] for one in saved["checkpoints"]] == ["checkpoints/a.pt"]

    steps = each_death(tmp_path, _SAVES, close, closed)
    assert "stop" in steps
    assert steps[-2:] == ["collected.json", "collected"]


def test_killed_while_it_refuses_outputs(tmp_path: Path) -> None:
    def refused(pods: Pods, pod: Pod) -> None:
        assert pod.wrapper.wait(30) == UNCOLLECTED
        assert (pods.result["exit_code"], pods.result["closed_by"]) == (None, "outputs")
        assert pods.object("collected.json") is not None

    steps = each_death(tmp_path, "ln -s / $R/artifacts/x; echo s >$C/s.pt", has_ended, refused)
    assert "result.json" in steps
    assert steps[-2:] == ["collected.json", "collected"]


def test_killed_with_its_pod_the_next_one_finds_what_was_saved_or_nothing(tmp_path: Path) -> None:
    """The command's container was killed; its collector, told to end, is killed before each of its effects."""
    for death in range(50):
        with made_pods(tmp_path / str(death)) as pods:
            pod = ready(pods, f"cp $SEEN/whole.pt $C/b.pt; {_SAVES}")
            pod.saw("up")
            pod.kill_command()
            with doomed(pod, death) as collector:
                killed = collector.tell()
            assert pods.object("result.json") is None
            another = pods.pod(pod.task)
            fetched(another)
            resume = another.handover / "resume"
            assert resume.exists() == bool([p for p in pods.progress() if p["checkpoints"]])
            if resume.exists():
                assert zipfile.is_zipfile(resume.read_text())
            if not killed:
                assert resume.exists()
                return
    raise AssertionError("it never came to its end")


# --- the store is away ---


@contextmanager
def bucket_pods(folder: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    environment = server.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket()}/p"
    with made_pods(folder, S3Store(url), url, environment) as pods:
        yield pods


def test_a_store_that_is_away_while_a_pod_collects_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """… by fetch, too. The server goes before either has begun, and comes back at the same address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(free.getsockname()[1]))
    task_limits = Limits(fetch=60, collect=60, quiet=0.5)
    with serving(tmp_path / "s3", address=address) as server:
        folder, keep = tmp_path / "pods", bucket_pods(tmp_path / "pods", server, monkeypatch)
        pods = keep.__enter__()
        pod = pods.pod(pods.task(_LEAVES, limits=task_limits))
        assert folder.exists()
    try:
        fetching = pod.start_fetch()
        waits(fetching.stderr)
        with serving(tmp_path / "s3", address=address):
            assert fetching.wait(40) == 0
            pod.start_wrapper()
            has_ended(pods, pod)
        collector = pod.start_collect()
        waits(collector.stderr)
        assert not (pod.handover / "collected").exists()
        with serving(tmp_path / "s3", address=address):
            assert pod.left() == 7
            assert pods.result["exit_code"] == 7
            assert pods.outputs() == {"checkpoints/s.pt": b"s\n", "artifacts/a": b"a\n"}
    finally:
        keep.__exit__(None, None, None)


def waits(said: object) -> None:
    """Read what a process says until it says that it waits."""
    assert said is not None
    for line in said:  # type: ignore[attr-defined]
        if b"it waits for the store" in line:
            return
    raise AssertionError("it did not wait")


# --- memory ---


def test_many_files_of_some_size_are_collected_in_bounded_memory(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight of them at once were 274 MiB; a pod's agent is to stay below 200."""
    command = "for i in $(seq 24); do head -c 8000000 /dev/urandom >$R/artifacts/$i; done"
    with bucket_pods(tmp_path, s3_server, monkeypatch) as pods:
        pod = ready(pods, command)
        has_ended(pods, pod)
        collector = pod.start_collect()
        until((pod.handover / "collected").exists)
        status = Path(f"/proc/{collector.pid}/status").read_text()
        assert pod.left() == 0
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 200 * 1024
