"""The init container: all that a command needs, verified and in its place, or one line that says why not."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from launcher.agent.pod_checkpoints import Watch, structure
from launcher.agent.pod_code import pack, unpack
from launcher.agent.pod_progress import Progress, SavedFile, newest_progress, progress_key
from launcher.agent.task import Input, Private, Task, read_task, write_task
from launcher.errors import IntegrityError, UsageError
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import blob_key
from launcher.storage.s3 import S3Store
from tests.launcher.agent.pods import Pods, made_pods, previous_manifest, until
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with made_pods(tmp_path) as made:
        yield made


def put(pods: Pods, path: str, data: bytes, **more: bool) -> Input:
    blob = pods.store.ingest_bytes(data)
    return Input(path=path, digest=blob.digest, size_bytes=blob.size_bytes, **more)


def code_of(pods: Pods, files: dict[str, bytes]) -> str:
    root = pods.folder / "code"
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "run.sh").chmod(0o700)
    out = pods.folder / "code.tar"
    pack(root, files, out)
    return pods.store.ingest(out).digest


def found(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def blob_file(pods: Pods, digest: str) -> Path:
    return pods.folder / "store" / blob_key(digest)


def test_a_pod_of_an_attempt_that_has_its_result_starts_nothing(pods: Pods) -> None:
    """Whoever made it: a Job that did not see its first pod's end, or a launcher that woke up late."""
    task = pods.task("true", code=code_of(pods, {"run.sh": b"#!/bin/sh\n"}))
    pods.store.create(task.key("result.json"), b"{}")
    pod = pods.pod(task)
    code, line = pod.fetch()
    assert (code, "has its result already" in line) == (3, True), line
    assert found(pod.workspace) == {}


# --- what it brings ---


def everything(pods: Pods) -> Task:
    return pods.task(
        "true",
        code=code_of(pods, {"run.sh": b"#!/bin/sh\n", "src/a.py": b"a = 1\n"}),
        inputs=(put(pods, "teachers/t.pt", b"teacher"), put(pods, "tool", b"x", executable=True)),
        previous_manifests=(
            previous_manifest(pods.store, {"artifacts/a": b"old", "artifacts/b": b"b"}),
            previous_manifest(pods.store, {"artifacts/a": b"new"}),
        ),
        tag_file="tags/t.jsonl",
    )


EVERYTHING = {
    "run.sh": b"#!/bin/sh\n",
    "src/a.py": b"a = 1\n",
    "teachers/t.pt": b"teacher",
    "tool": b"x",
    "runs/r/artifacts/a": b"new",
    "runs/r/artifacts/b": b"b",
}


def test_code_inputs_and_what_earlier_stages_left_are_there(pods: Pods) -> None:
    pod = pods.pod(everything(pods))
    assert pod.fetch() == (0, "fetch: all is there")
    assert found(pod.workspace) == EVERYTHING
    assert os.access(pod.workspace / "run.sh", os.X_OK)
    assert os.access(pod.workspace / "tool", os.X_OK)
    assert not os.access(pod.workspace / "src" / "a.py", os.X_OK)
    assert {p.name for p in pod.run_dir.iterdir()} == {
        *("logs", "checkpoints", "artifacts", "metadata")
    }
    assert (pod.workspace / "tags").is_dir()
    assert list(pod.handover.iterdir()) == []


def test_run_again_it_mends_what_is_not_right_and_leaves_the_rest(pods: Pods) -> None:
    pod = pods.pod(everything(pods))
    assert pod.fetch()[0] == 0
    kept = (pod.workspace / "teachers" / "t.pt").stat().st_ino
    (pod.run_dir / "artifacts" / "a").write_bytes(b"xxx")
    (pod.workspace / "src" / "a.py").unlink()
    assert pod.fetch()[0] == 0
    assert found(pod.workspace) == EVERYTHING
    assert (pod.workspace / "teachers" / "t.pt").stat().st_ino == kept, "it was brought again"


def test_from_a_bucket(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = s3_server.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.bucket()}/p"
    with made_pods(tmp_path, S3Store(url), url, environment) as pods:
        pod = pods.pod(everything(pods))
        assert pod.fetch() == (0, "fetch: all is there")
        assert found(pod.workspace) == EVERYTHING


def test_what_an_earlier_pod_saved_is_there_with_its_times(pods: Pods) -> None:
    blobs = {name: pods.store.ingest_bytes(name.encode()) for name in ("a", "b", "log")}
    saved = tuple(
        SavedFile(f"checkpoints/{name}.pt", blobs[name].digest, 1, modified)
        for name, modified in (("a", 1_700_000_000_123_456_789), ("b", 1_600_000_000_000_000_000))
    )
    task = pods.task("true")
    for pod_uid, number, files in (("z", 1, saved[1:]), ("a", 12, saved), ("m", 2, ())):
        progress = Progress(pod_uid, number, "2026-01-01T00:00:00Z", files, blobs["log"].digest)
        key = progress_key(task.key("progress"), pod_uid, number)
        pods.store.create(key, progress.to_bytes())
    pod = pods.pod(task)
    code, said = pod.fetch()
    assert (code, "checkpoints/a.pt" in said) == (0, True)
    newest = pod.run_dir / "checkpoints" / "a.pt"
    assert newest.read_bytes() == b"a"
    assert newest.stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (pod.handover / "resume").read_text() == str(newest)
    assert (pod.workspace / task.log).read_bytes() == b"log"


def test_another_attempts_progress_is_not_this_ones(pods: Pods) -> None:
    progress = Progress("a", 1, "2026-01-01T00:00:00Z", (), None)
    pods.store.create("runs/r/retrain/2/progress/a/000001.json", progress.to_bytes())
    assert newest_progress(pods.store, "runs/r/retrain/1/progress") is None


# --- what it says where it cannot ---


@pytest.mark.parametrize("how", ["gone", "flipped", "cut"])
@pytest.mark.parametrize("what", ["input", "code", "output", "manifest"])
def test_what_is_damaged_or_gone_is_named_and_has_no_name_here(
    pods: Pods, what: str, how: str
) -> None:
    task = everything(pods)
    digests = {
        "input": task.inputs[0].digest,
        "code": str(task.code),
        "output": pods.store.ingest_bytes(b"new").digest,
        "manifest": task.previous_manifests[1],
    }
    file = blob_file(pods, digests[what])
    data = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(data[:-1] if how == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    pod = pods.pod(task)
    code, said = pod.fetch()
    assert code == 4
    assert digests[what] in said
    assert said.startswith("fetch: ")
    place = {"input": "teachers/t.pt", "code": "src/a.py", "output": "runs/r/artifacts/a"}
    if what in place:
        assert not (pod.workspace / place[what]).exists()


def test_what_is_never_stored_is_compared_and_neither_brought_nor_kept(pods: Pods) -> None:
    content = b"a game" * 1000
    blob = digest_bytes(content)
    for path in ("/workspace/roms/crystal.gbc", "/srv/roms/crystal.gbc"):
        private = (Private(path=path, digest=blob.digest, size_bytes=blob.size_bytes),)
        said = []
        for there in (None, content[1:], content[1:] + b"x", content):
            pod = pods.pod(pods.task("true", private=private))
            place = Path(f"{pod.private}{path}")
            if there is not None:
                place.parent.mkdir(parents=True)
                place.write_bytes(there)
            code, words = pod.fetch()
            said.append(code)
            assert code == 0 or f"{path} (INPUTS_PRIVATE) is " in words, words
            assert not list(pod.workspace.rglob("crystal.gbc"))
        assert said == [4, 4, 4, 0]
    assert pods.store.stat_blob(blob.digest) is None


def test_a_store_that_is_away_is_another_exit_code(tmp_path: Path, s3_server: S3Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**s3_server.environment(nowhere), "LAUNCHER_FETCH_SECONDS": "0.1"}
    store = FilesystemStore(tmp_path / "other")
    with made_pods(tmp_path, store, "s3://bucket/p", environment) as pods:
        code, said = pods.pod(pods.task("true")).fetch()
        assert code == 5
        assert "bucket" in said
        assert "\n" not in said


def test_told_to_end_it_leaves_as_the_job_expects(tmp_path: Path, s3_server: S3Server) -> None:
    """While it waits for a store that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        environment = s3_server.environment(f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = FilesystemStore(tmp_path / "other")
        with made_pods(tmp_path, store, "s3://bucket/p", environment) as pods:
            process = pods.pod(pods.task("true")).start_fetch()
            asked, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=10)
            asked.close()
            assert process.returncode == 143
            assert said.decode().splitlines()[-1] == "fetch: told to end"


def test_a_disk_that_is_in_the_way_is_said(pods: Pods) -> None:
    pod = pods.pod(everything(pods))
    outside = pods.folder / "outside"
    outside.mkdir()
    (pod.workspace / "teachers").symlink_to(outside)
    code, said = pod.fetch()
    assert (code, "symlink" in said) == (3, True)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--store=x"], ["--frobnicate"]])
def test_arguments_that_are_none(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "launcher.agent.fetch", *arguments]
    said = subprocess.run(command, capture_output=True, check=False)
    assert said.returncode == 2


# --- the task ---


def test_a_task_is_what_was_written(pods: Pods) -> None:
    task = everything(pods)
    digest = write_task(pods.store, task)
    assert read_task(pods.store, digest) == task
    assert write_task(pods.store, task) == digest


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_dir": "../r"},
        {"run_dir": "/r"},
        {"log": "runs/./l"},
        {"run_id": "a/b"},
        {"attempt": 0},
        {"code": "sha256:x"},
        {"stage": "other"},
        {"unknown": 1},
        {"cwd": "a/../.."},
        {"inputs": ({"path": "a/../../b", "digest": f"sha256:{'0' * 64}"},)},
        {"limits": {"collect": -1}},
    ],
)
def test_a_task_that_makes_no_sense_is_none(pods: Pods, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        pods.task("true", **wrong)


def test_a_task_of_another_version_is_said(pods: Pods) -> None:
    data = pods.task("true").to_bytes().replace(b'"format":1', b'"format":2')
    pod = pods.pod(pods.task("true"))
    pod.digest = pods.store.ingest_bytes(data).digest
    code, said = pod.fetch()
    assert code == 4
    assert "format" in said
    assert "agent.image" in said


# --- code ---


def test_code_is_the_same_bytes_for_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        for path in ("b", "a", "ü"):
            (root / path).write_text(path)
        (root / "link").symlink_to("a")
    pack(tmp_path / "one", ["b", "a", "link", "ü"], tmp_path / "1.tar")
    os.utime(tmp_path / "two" / "a", (1, 1))
    pack(tmp_path / "two", ["link", "ü", "a", "b", "a"], tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert unpack(tmp_path / "1.tar", tmp_path / "three") == 4
    assert (tmp_path / "three" / "link").read_text() == "a"


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../out", tarfile.REGTYPE, ""),
        ("/abs", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "../../etc"),
        ("link", tarfile.SYMTYPE, "/etc"),
        ("hard", tarfile.LNKTYPE, "../../etc/passwd"),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_code_does_not_leave_its_folder(
    tmp_path: Path, name: str, kind: bytes, target: str
) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member, io.BytesIO())
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "bad.tar", tmp_path / "deep" / "er")
    assert {p.name for p in tmp_path.rglob("*")} <= {"bad.tar", "deep", "er"}


def test_code_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no tar" * 1000)
    with pytest.raises(IntegrityError, match="no tar"):
        unpack(tmp_path / "x", tmp_path / "out")


def test_code_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(UsageError, match="neither"):
        pack(tmp_path, ["p"], tmp_path / "out")


# --- which checkpoints are finished ---


def safetensors(size: int, said: int | None = None) -> bytes:
    header = f'{{"w":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{said or size}]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def a_zip() -> bytes:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("data.pkl", b"x" * 500)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "whole"),
    [
        ("a.safetensors", safetensors(100), True),
        ("a.safetensors", safetensors(100)[:-1], False),
        ("a.safetensors", safetensors(100, 200), False),
        ("a.safetensors", safetensors(100)[:20], False),
        ("a.safetensors", b"\x05\0\0", False),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0[]", False),
        ("a.pt", a_zip(), True),
        ("a.pt", a_zip()[:-30], False),
        ("a.pt", b"\x80\x02pickled", None),
    ],
)
def test_a_checkpoint_that_says_where_it_ends(
    tmp_path: Path, name: str, data: bytes, whole: bool | None
) -> None:
    (tmp_path / name).write_bytes(data)
    assert structure(tmp_path / name) is whole


class Moments:
    """A clock that the test winds."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_a_checkpoint_is_finished_when_quiet_or_renamed_into_place(tmp_path: Path) -> None:
    places = tmp_path / "checkpoints"
    places.mkdir()
    moments = Moments()
    watch = Watch(tmp_path, 10, moments)

    def names(**more: bool) -> list[str]:
        return [one.path.removeprefix("checkpoints/") for one in watch.look(**more)]

    (places / "plain.pt").write_bytes(b"\x80")
    (places / "torn.pt").write_bytes(a_zip()[:-30])
    (places / ".hidden.pt").write_bytes(b"x")
    (places / "half.pt.tmp").write_bytes(b"x")
    (places / "empty.pt").write_bytes(b"")
    (places / "link.pt").symlink_to("plain.pt")
    assert names() == []
    moments.at = 9.9
    assert names() == []
    moments.at = 10
    assert names() == ["plain.pt"]
    (places / "plain.pt").write_bytes(b"\x80\x80")
    assert names() == [], "it began to change again"
    part = places / "new.pt.part"
    part.write_bytes(a_zip())
    until(lambda: _renamed(part, places / "new.pt"))
    assert names() == ["new.pt"], "one that was renamed into place waits for nothing"
    assert names(gone=True) == ["new.pt"]
    assert names(gone=True, ended_well=True) == ["new.pt", "plain.pt"]


def _renamed(part: Path, to: Path) -> bool:
    """Renamed, at a tick of the file system's clock after the last byte."""
    part.replace(to)
    found = to.stat()
    if found.st_ctime_ns > found.st_mtime_ns:
        return True
    to.replace(part)
    return False
