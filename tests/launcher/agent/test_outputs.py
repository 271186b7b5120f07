"""What a stage left: everything that is its own, raw, and nothing that is not."""

from __future__ import annotations

import json
import os
import pickle
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.executors import spawn
from launcher.executors.port import StageResult
from launcher.storage.manifest import Manifest
from tests.launcher.executors.attempts import Attempts, made_attempts


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    with made_attempts(tmp_path / "p") as made:
        yield made


def paths(attempts: Attempts, digest: str | None) -> list[str]:
    assert digest is not None
    return [entry.path for entry in Manifest.from_bytes(attempts.store.read_blob(digest)).entries]


def test_outputs_are_what_is_new_or_changed_but_for_our_own_files(attempts: Attempts) -> None:
    first = attempts.run("cd home/r; echo 1 >artifacts/a; echo 1 >artifacts/b", stage="llm_on")
    assert first.manifest_digest is not None
    (attempts.run_dir / "metadata.json").write_text("{}")
    (attempts.run_dir / "metadata" / "promotion.json").write_text("{}")
    second = attempts.run(
        "cd home/r; echo 2 >artifacts/b; rm artifacts/a; echo 3 >logs/train.log; mkdir -p inputs; "
        "echo 4 >inputs/x; echo 5 >artifacts/skip.me",
        previous_manifests=(first.manifest_digest,),
        collect_exclude=("*.me",),
    )
    assert paths(attempts, first.manifest_digest) == ["artifacts/a", "artifacts/b"]
    assert paths(attempts, second.manifest_digest) == ["artifacts/b", "logs/train.log"]
    stored = Manifest.from_bytes(attempts.store.read_blob(second.manifest_digest or ""))
    assert stored.deleted == ("artifacts/a",)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("ln -s /etc/passwd home/r/artifacts/x", "a symlink that leaves the run's folder"),
        ("ln -s ../../../c home/r/artifacts/x; echo >c", "a symlink that leaves the run's folder"),
        ("ln -s nowhere home/r/artifacts/x", "a symlink that leads nowhere"),
        ("ln -s . home/r/artifacts/x", "a symlink to a folder around it"),
        ("mkfifo home/r/artifacts/x", "neither a file nor a folder"),
        (r"touch home/r/artifacts/$(printf '\xff')", "its name is not UTF-8"),
        (
            "rm home/r/logs/03*; ln -s /etc/passwd home/r/logs/03_retrain.log",
            "a symlink that leaves",
        ),
    ],
)
def test_outputs_that_may_not_be_collected_are_no_success(
    attempts: Attempts, command: str, why: str
) -> None:
    found = attempts.run(f"{command}; echo s >$C/s.pt")
    assert (found.exit_code, found.closed_by) == (None, "outputs")
    assert found.message is not None
    assert why in found.message
    assert not found.checkpoints
    secret = attempts.store.root / "blobs"
    stored = [p.read_bytes() for p in secret.rglob("*") if p.is_file()]
    assert not any(b"root:" in data for data in stored)


def test_a_socket_is_refused_too(attempts: Attempts) -> None:
    place = attempts.run_dir / "artifacts" / "s"
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(place.parent)
        one.bind("s")
        os.chdir(here)
        assert attempts.run("true").closed_by == "outputs"


def test_a_stage_may_clear_its_run_folder(attempts: Attempts) -> None:
    found = attempts.run("rm -rf home/r/*; exit 0")
    assert (found.exit_code, found.closed_by) == (0, None)
    assert (found.log_digest, found.student_refused) == (
        None,
        "the stage left no student checkpoint",
    )


# --- checkpoints ---


def test_a_checkpoint_is_never_unpickled(attempts: Attempts) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(attempts.root / "exploded"),)

    (attempts.root / "bomb").write_bytes(pickle.dumps(Bomb()))
    found = attempts.run("cp bomb $C/s.pt")
    assert [c.student for c in found.checkpoints] == [True]
    assert not (attempts.root / "exploded").exists()


@pytest.mark.parametrize(
    ("command", "student", "also", "refused"),
    [
        ("true", None, (), "the stage left no student checkpoint"),
        ("touch $C/s.pt", None, (), "checkpoints/s.pt is empty"),
        ("echo 1 >$C/.hidden.pt; echo 1 >$C/s.pt.tmp", None, (), "the stage left no student"),
        ("echo 1 >$C/b.pt", "checkpoints/b.pt", (), None),
        (
            "echo 1 >$C/b.pt; echo 2 >$C/a.safetensors; touch -d '1 hour ago' $C/b.pt",
            "checkpoints/a.safetensors",
            ("checkpoints/b.pt",),
            None,
        ),
    ],
)
def test_which_checkpoint_is_the_student(
    attempts: Attempts,
    command: str,
    student: str | None,
    also: tuple[str, ...],
    refused: str | None,
) -> None:
    found = attempts.run(command)
    assert found.exit_code == 0
    assert [c.path for c in found.checkpoints if c.student] == ([student] if student else [])
    assert found.also_matched == also
    assert (found.student_refused or "").startswith(refused or "")
    assert (found.student_refused is None) == (refused is None)


def test_only_the_retrain_stage_has_a_student(attempts: Attempts) -> None:
    found = attempts.run("echo 1 >$C/s.pt", stage="llm_on")
    assert [c.student for c in found.checkpoints] == [False]
    assert found.student_refused is None


def test_what_a_closed_attempt_saved_is_never_taken_from_outside(attempts: Attempts) -> None:
    command = (
        "echo outside >o.pt; mkdir d; echo outside >d/o.pt; cd home/r/checkpoints; "
        r"ln -s ../../../o.pt link.pt; ln -s ../../../d dir; echo 1 >$(printf '\xff').pt; "
        "echo 1 >own.PT; mkfifo pipe.pt; exec sleep 1000"
    )
    assert attempts.run(command, timeout_seconds=0.5).closed_by == "timeout"
    collected = json.loads(attempts.store.read("runs/r/retrain/1/collected.json"))
    assert [c["path"] for c in collected["checkpoints"]] == ["checkpoints/own.PT"]


# --- metrics and tags ---


@pytest.mark.parametrize(
    ("text", "metrics", "ignored"),
    [
        ('{"a": 1, "b": 0.5}', {"a": 1.0, "b": 0.5}, ()),
        (
            '{"a": 1, "n": NaN, "i": Infinity, "t": true, "s": "1", "z": null, "l": [1]}',
            {"a": 1.0},
            ("i", "l", "n", "s", "t", "z"),
        ),
        ('{"a": 1, "big": 1' + "0" * 400 + "}", {"a": 1.0}, ("big",)),
        ('{"a": 1, "\\ud800": 2, "x\\ny": 3}', {"a": 1.0}, ("\\ud800", "x\ny")),
        ("[1]", {}, ("metrics.json",)),
        ("{", {}, ("metrics.json",)),
        ("[" * 100_000, {}, ("metrics.json",)),
        ('{"a": 1' + " " * 2**20 + "}", {}, ("metrics.json",)),
        ('{"a": 1' + "0" * 5000 + "}", {}, ("metrics.json",)),
    ],
    ids=["good", "no numbers", "huge", "names", "list", "torn", "deep", "long", "digits"],
)
def test_metrics_are_finite_numbers_by_name(
    attempts: Attempts, text: str, metrics: dict[str, float], ignored: tuple[str, ...]
) -> None:
    (attempts.root / "m").write_text(text)
    found = attempts.run("cp m home/r/metadata/metrics.json")
    assert found.exit_code == 0
    assert dict(found.metrics) == metrics
    assert sorted(found.metrics_ignored) == sorted(ignored)


def test_metrics_of_an_earlier_stage_are_not_told_again(attempts: Attempts) -> None:
    write = "echo '{\"a\": 1}' >home/r/metadata/metrics.json"
    first = attempts.run(write, stage="llm_on")
    assert dict(first.metrics) == {"a": 1.0}
    assert first.manifest_digest is not None
    again = attempts.run("true", previous_manifests=(first.manifest_digest,))
    assert dict(again.metrics) == {}


def test_the_tag_file_is_kept_wherever_it_is(attempts: Attempts) -> None:
    tags = attempts.root / "elsewhere" / "tags.jsonl"
    write = attempts.run("mkdir elsewhere; echo 1 >elsewhere/tags.jsonl", tag_file=str(tags))
    assert write.tag_file is not None
    assert attempts.store.read_blob(write.tag_file.digest) == b"1\n"
    none = attempts.run("true", attempt=2, tag_file=str(attempts.root / "absent"))
    assert none.tag_file is None


# --- a disk that is full, a store that is damaged ---


def test_outputs_that_do_not_fit_are_a_storage_fault(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the supervisor grows past 64 KiB; its command may write as much as it likes."""
    limited = (
        "import resource, runpy, subprocess, sys;"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1];"
        "plain = subprocess.Popen;"
        "free = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard));"
        "subprocess.Popen = lambda *a, **k: plain(*a, preexec_fn=free, **k);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard));"
        "runpy.run_module('launcher.agent.starter', run_name='__main__')"
    )
    monkeypatch.setattr(spawn, "STARTER", (spawn.STARTER[0], "-c", limited))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    found = attempts.run("head -c 1000000 /dev/zero >$C/s.pt")
    assert (found.exit_code, found.closed_by) == (None, "storage")
    assert found.message is not None
    assert "File too large" in found.message
    assert (attempts.run_dir / "checkpoints/s.pt").stat().st_size == 1_000_000


def test_a_damaged_manifest_of_an_earlier_stage_is_a_storage_fault(attempts: Attempts) -> None:
    blob = attempts.store.ingest_bytes(b"no manifest")
    found = attempts.run("true", previous_manifests=(blob.digest,))
    assert (found.exit_code, found.closed_by) == (None, "storage")
    assert found.message is not None
    assert blob.digest in found.message


def students(found: StageResult) -> list[str]:
    return [saved.path for saved in found.checkpoints if saved.student]


def test_the_student_is_of_its_own_attempt(attempts: Attempts) -> None:
    first = attempts.run("echo old >$C/student.pt; echo x >$C/other.pt; exit 1")
    assert first.exit_code == 1
    # The next one trains nothing and says that all is well.
    second = attempts.run("true", attempt=2)
    assert second.exit_code == 0
    assert students(second) == []
    assert second.student_refused == (
        "the stage left no student checkpoint of its own: what is there is from an attempt before it"
    )
    # What lay there is among what it left all the same.
    assert paths(attempts, second.manifest_digest) == [
        "checkpoints/other.pt",
        "checkpoints/student.pt",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "echo new >$C/student.pt",
        "echo again >>$C/student.pt",
        "touch $C/student.pt",
        "cp -p $C/student.pt $C/s; mv $C/s $C/student.pt",
        "touch -d 2001-01-01 s; mv s $C/student.pt; echo s >>$C/student.pt; touch -r /etc $C/student.pt",
    ],
)
def test_a_checkpoint_that_the_attempt_wrote_over_is_its_own(
    attempts: Attempts, command: str
) -> None:
    attempts.run("echo old >$C/student.pt; exit 1")
    found = attempts.run(command, attempt=2)
    assert students(found) == ["checkpoints/student.pt"]
    assert found.also_matched == ()
