"""One attempt on this machine: started once, ended wholly, closed by its result alone."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.agent import starter as starter_module
from launcher.agent.protocol import own_record
from launcher.errors import ConflictError, IntegrityError, UnavailableError
from launcher.executors import local, spawn
from launcher.executors.local import LocalExecutor
from launcher.executors.port import Ended, Lost, NotStarted, Orphaned, Running
from launcher.executors.records import AttemptRecords
from ledger.canonical import canonical_json
from tests.launcher.executors.attempts import Attempts, made_attempts, until

HOLD = "touch here; until test -e go; do sleep 0.01; done\n"


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    with made_attempts(tmp_path / "a b") as made:
        yield made


# --- a command's end ---


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 7", 7),
        ("false | cat", 1),
        ("kill -9 $$", 128 + 9),
        ("kill -SEGV $$", 128 + 11),
        ("no-such-command", 127),
        ("sleep 0.01; exit 255", 255),
    ],
)
def test_the_exit_code_is_bashs_own(attempts: Attempts, command: str, code: int) -> None:
    found = attempts.run(command)
    assert (found.exit_code, found.closed_by) == (code, None)


def test_outputs_of_a_command_are_one_raw_log(attempts: Attempts) -> None:
    found = attempts.run(r"printf 'a\xff\xfe\0\r'; printf 'b' >&2; printf 'c\n'")
    assert attempts.log() == b"a\xff\xfe\0\rbc\n"
    assert found.log_digest is not None
    assert attempts.store.read_blob(found.log_digest) == attempts.log()


def test_a_log_of_50_megabytes_is_kept(attempts: Attempts) -> None:
    found = attempts.run("head -c 50000000 /dev/zero; echo end")
    assert found.exit_code == 0
    assert found.log_digest is not None
    kept = attempts.store.stat_blob(found.log_digest)
    assert kept is not None
    assert kept.size_bytes == 50_000_004


def test_a_command_reads_nothing_and_knows_nothing_of_the_launcher(attempts: Attempts) -> None:
    attempts.run('cat; env | grep -v "^\\(PATH\\|C\\|PWD\\|SHLVL\\|_\\)="; pwd')
    lines = attempts.log().decode().splitlines()
    assert lines[1:] == [str(attempts.root)]
    assert lines[0].startswith("DISTILL_LEDGER_ATTEMPT=")


@pytest.mark.parametrize(
    ("more", "code", "closed_by", "why"),
    [
        ({"cwd": "/no/such/folder"}, 127, None, "cannot start bash in /no/such/folder"),
        ({"environment": {"X": "x" * 200_000}}, 126, None, "Argument list too long"),
        ({"log_path": "/proc/no/log"}, None, "storage", "cannot write /proc/no/log"),
    ],
)
def test_a_command_that_cannot_be_started_says_why(
    attempts: Attempts, more: dict[str, object], code: int | None, closed_by: str, why: str
) -> None:
    found = attempts.run("true", **more)
    assert (found.exit_code, found.closed_by) == (code, closed_by)
    assert found.message is not None
    assert why in found.message


# --- all of it ends ---

DEAF = "bash -c 'trap \"\" TERM; : 1000; while :; do sleep 1; done' &"
LEFT_BEHIND = {
    "in the group": "sleep 1000 &",
    "ignoring hangup": "nohup sleep 1000 >/dev/null &",
    "in its own session": "setsid sleep 1000 &",
    "a daemon": "(setsid bash -c 'exec sleep 1000' </dev/null >/dev/null 2>&1 &) &",
    "a daemon of no name": "(setsid env -i /bin/sleep 1000 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &) &",
    "deaf to TERM": DEAF,
    "deaf and away": f"setsid {DEAF}",
    "stopped": "bash -c ': 1000; kill -STOP $$' &",
}


@pytest.mark.parametrize("kind", LEFT_BEHIND)
def test_what_a_command_leaves_behind_ends_before_its_result(attempts: Attempts, kind: str) -> None:
    spec = attempts.start(f"{LEFT_BEHIND[kind]}\n{HOLD}\necho s >$C/s.pt")
    left = until(lambda: [pid for pid in attempts.members(spec) if b"1000" in _words(pid)])
    (attempts.root / "go").touch()
    began = time.monotonic()
    found = attempts.result(spec)
    assert not [pid for pid in left if _lives(pid)]
    assert time.monotonic() - began < 10
    assert found.exit_code == 0
    assert [c.path for c in found.checkpoints] == ["checkpoints/s.pt"]


def _words(pid: int) -> bytes:
    """What a process was called with; nothing for the stage's bash itself."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
    return b"" if b"until test" in words else words


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_student_that_is_still_written_in_the_background_is_taken_when_the_writer_is_gone(
    attempts: Attempts,
) -> None:
    write = 'setsid bash -c "while :; do echo more; done" >$C/s.pt & sleep 0.2'
    found = attempts.run(write)
    [student] = found.checkpoints
    assert student.student
    assert attempts.store.verify_blob(student.digest).size_bytes == student.size_bytes
    assert (attempts.run_dir / "checkpoints/s.pt").stat().st_size == student.size_bytes


def test_children_that_end_early_do_not_pile_up(attempts: Attempts) -> None:
    many = "for i in $(seq 30); do (sleep 0.01 &) ; done; sleep 0.3; " + HOLD
    spec = attempts.start(many)
    until((attempts.root / "here").exists)
    supervisor = attempts.store.read("runs/r/retrain/1/start.json")
    pid = int(json.loads(supervisor)["pid"])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) <= 2
    (attempts.root / "go").touch()
    assert attempts.result(spec).exit_code == 0


# --- stopping ---


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
@pytest.mark.parametrize(
    "command",
    [
        "trap 'echo half >$C/half.pt; exit 0' TERM; " + HOLD,
        "trap '' TERM; echo half >$C/half.pt; " + HOLD,
        "echo half >$C/half.pt; setsid bash -c 'trap \"\" TERM; sleep 1000' & " + HOLD,
    ],
)
def test_a_stopped_attempt_is_closed_first_and_is_never_a_success(
    attempts: Attempts, how: str, command: str
) -> None:
    spec = attempts.start(command, timeout_seconds=0.6 if how == "timeout" else None)
    until((attempts.root / "here").exists)
    pids = attempts.members(spec)
    if how == "cancelled":
        attempts.stop(spec, reason="by hand")
        assert not [pid for pid in pids if _lives(pid)]
    found = attempts.result(spec)
    assert (found.exit_code, found.closed_by) == (None, how)
    assert found.manifest_digest is None
    assert not [pid for pid in pids if _lives(pid)]
    collected = json.loads(attempts.store.read("runs/r/retrain/1/collected.json"))
    assert [c["path"] for c in collected["checkpoints"]] == ["checkpoints/half.pt"]
    assert found.log_digest == collected["log_digest"]


def test_an_attempt_that_saves_what_it_has_still_runs(attempts: Attempts) -> None:
    slow = "trap 'touch told; sleep 0.6; exit 0' TERM; " + HOLD
    spec = attempts.start(slow, timeout_seconds=0.3, grace_seconds=5)
    until((attempts.root / "told").exists)
    assert attempts.store.exists("runs/r/retrain/1/result.json")
    assert isinstance(attempts.observe(spec), Running)
    assert attempts.result(spec).closed_by == "timeout"


def test_a_result_that_is_there_stands(attempts: Attempts) -> None:
    spec = attempts.start("exit 3")
    assert attempts.result(spec).exit_code == 3
    attempts.stop(spec)
    attempts.executor.close_lost("r", "retrain", 1, "why")
    assert attempts.result(spec).exit_code == 3


def test_an_attempt_that_was_closed_before_it_began_never_begins(attempts: Attempts) -> None:
    spec = attempts.spec("touch ran")
    attempts.stop(spec)
    attempts.specs.append(spec)
    attempts.executor.start(spec)
    assert attempts.result(spec).closed_by == "cancelled"
    assert not attempts.store.exists("runs/r/retrain/1/start.json")
    assert not (attempts.root / "ran").exists()


# --- starting ---


def test_an_attempt_starts_once_whoever_starts_it(attempts: Attempts) -> None:
    spec = attempts.spec("echo ran >>ran; " + HOLD)
    attempts.specs.append(spec)
    executors = [LocalExecutor(attempts.store, attempts.root / "home") for _ in range(6)]
    handles: list[object] = []
    threads = [
        threading.Thread(target=lambda one=one: handles.append(one.start(spec)))  # type: ignore[misc]
        for one in executors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(str, handles))) == 1
    (attempts.root / "go").touch()
    assert attempts.result(spec).exit_code == 0
    assert (attempts.root / "ran").read_text() == "ran\n"
    for one in executors:
        one.close()


def test_one_starter_forks_every_supervisor_into_a_session_of_its_own(attempts: Attempts) -> None:
    attempts.executor.prepare()
    starter = attempts.executor._spawner._starter
    assert starter is not None
    for attempt in (1, 2):
        pid = int(attempts.executor.start(attempts.spec(HOLD, attempt=attempt)).pid or 0)
        attempts.specs.append(attempts.spec(HOLD, attempt=attempt))
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == starter.pid
        assert os.getsid(pid) == pid
    # It may have a file of the store open for a moment; of the starter's and the launcher's it has none.
    until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 7)
    (attempts.root / "go").touch()
    assert [attempts.result(spec).exit_code for spec in attempts.specs] == [0, 0]
    attempts.executor.close()
    assert starter.returncode == 0


def test_supervisors_go_on_when_launcher_and_starter_are_gone(attempts: Attempts) -> None:
    spec = attempts.start(HOLD)
    until((attempts.root / "here").exists)
    attempts.executor.close()
    (attempts.root / "go").touch()
    assert attempts.result(spec).exit_code == 0


def test_a_starter_that_was_killed_is_replaced(attempts: Attempts) -> None:
    attempts.executor.prepare()
    starter = attempts.executor._spawner._starter
    assert starter is not None
    starter.kill()
    os.waitid(os.P_PID, starter.pid, os.WEXITED | os.WNOWAIT)
    assert attempts.run("true").exit_code == 0


def test_half_an_attempt_is_no_attempt(attempts: Attempts) -> None:
    """A launcher that is killed while it says what to do has said nothing."""
    data = attempts.spec("touch ran").to_json()
    whole = len(data).to_bytes(spawn.LENGTH_BYTES) + data
    for size in (0, 3, spawn.LENGTH_BYTES, len(whole) - 1):
        done = subprocess.run(spawn.STARTER, input=whole[:size], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not attempts.store.exists("runs/r/retrain/1/start.json")


def test_the_lengths_that_both_sides_use_are_the_same() -> None:
    assert spawn.LENGTH_BYTES == starter_module.LENGTH_BYTES


def test_a_starter_that_cannot_start_says_why(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "STARTER", ("bash", "-c", "echo out of luck >&2"))
    with pytest.raises(UnavailableError, match="no supervisor could be started: out of luck"):
        attempts.executor.start(attempts.spec("true"))


@pytest.mark.parametrize("store", ["/dev/null/objects", "/proc/objects"])
def test_a_supervisor_that_cannot_start_says_why(attempts: Attempts, store: str) -> None:
    why = rf"ended at once: {Path(store).parent}.* \(launcher resume r\)"
    with pytest.raises(UnavailableError, match=why):
        attempts.executor.start(attempts.spec("true", store=store))


# --- looking ---


def test_an_attempt_that_nobody_started(attempts: Attempts) -> None:
    assert attempts.observe(attempts.spec("true")) == NotStarted()


def test_lost_orphaned_and_held_are_told_apart(attempts: Attempts) -> None:
    spec = attempts.start(HOLD)
    until((attempts.root / "here").exists)
    seen = attempts.observe(spec)
    assert isinstance(seen, Running)
    with pytest.raises(ConflictError, match="is still running"):
        close_at_once(attempts)
    assert seen.handle.pid is not None
    os.kill(seen.handle.pid, signal.SIGKILL)
    until(lambda: isinstance(attempts.observe(spec), Orphaned))
    attempts.stop(spec, closed_by="lost", reason="gone")
    found = attempts.observe(spec)
    assert isinstance(found, Ended)
    assert (found.result.closed_by, found.result.message) == ("lost", "gone")


def close_at_once(attempts: Attempts) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_PROBE_SECONDS", 0.05)
        attempts.executor.close_lost("r", "retrain", 1, "why")


def test_a_started_attempt_of_which_nobody_is_left_is_lost(attempts: Attempts) -> None:
    spec = attempts.spec("true")
    record = {**own_record(), "pid": 2**22 - 1, "started": 1.0}
    attempts.store.create("runs/r/retrain/1/start.json", canonical_json(record))
    assert isinstance(attempts.observe(spec), Lost)
    attempts.executor.close_lost("r", "retrain", 1, "why")
    assert attempts.result(spec).message == "why"


def test_a_process_id_that_was_given_to_somebody_else_is_not_believed(attempts: Attempts) -> None:
    """The record names a living process (this one) with another start time: never signalled."""
    spec = attempts.spec("true")
    record = {**own_record(), "started": 1.0}
    attempts.store.create("runs/r/retrain/1/start.json", canonical_json(record))
    assert isinstance(attempts.observe(spec), Lost)
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        attempts.stop(spec)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == []


def test_looking_at_the_lock_does_not_disturb_another_look(attempts: Attempts) -> None:
    spec = attempts.spec("true")
    with AttemptRecords(attempts.store, attempts.paths(spec)).holding(fcntl.LOCK_SH) as free:
        assert free
        assert attempts.observe(spec) == NotStarted()


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"exit_code":0,"closed_by":null}', b'{"exit_code":1,"closed_by":"lost"}'],
)
def test_a_result_that_is_none_is_named(attempts: Attempts, data: bytes) -> None:
    attempts.store.create("runs/r/retrain/1/result.json", data)
    with pytest.raises(IntegrityError, match=r"runs/r/retrain/1/result\.json is no result"):
        attempts.observe(attempts.spec("true"))


def test_a_start_record_that_is_none_is_named(attempts: Attempts) -> None:
    attempts.store.create("runs/r/retrain/1/start.json", b"{}")
    with pytest.raises(IntegrityError, match=r"start\.json is no start record"):
        attempts.observe(attempts.spec("true"))
