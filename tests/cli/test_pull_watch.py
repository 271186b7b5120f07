"""pull by STORE#NAME and pull --watch, as a serving machine has them: the program, and nothing but a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.agent.processes import members
from launcher.consumers import roll
from launcher.serving.command import GRACE_SECONDS
from launcher.storage.blobs import digest_bytes
from launcher.storage.port import blob_key
from tests.cli.session import LAUNCHER, Done, Session
from tests.rig.fault_proxy import Act, answer, drop, flip, proxied, truncate
from tests.rig.followed import NAME, Followed, student
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]


@pytest.fixture(params=["folder", "s3"])
def followed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Followed:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return Followed(str(tmp_path / "store"), tmp_path)
    return in_bucket(request.getfixturevalue("s3_server"), tmp_path, monkeypatch)


@pytest.fixture
def local(tmp_path: Path) -> Followed:
    (tmp_path / "store").mkdir()
    return Followed(str(tmp_path / "store"), tmp_path)


def in_bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Followed(f"s3://{server.bucket()}/team", tmp_path)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    return {**kept, **more}


def launcher(cwd: Path, *arguments: str) -> Done:
    """In this process, which is quicker by seconds; what is watched and signalled is a process of its own."""
    return Session(cwd).look(*arguments)


@contextmanager
def watching(followed: Followed, *options: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(LAUNCHER), "pull", "--watch", followed.address, "live.pt", "--interval", "0.1"]
    with (followed.folder / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            [*command, "--name", "gpu-7", *options],
            cwd=followed.folder,
            env=environment(**more),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(done: Callable[[], bool], followed: Followed) -> None:
    end = time.monotonic() + 30
    while not done():
        said = followed.folder / "said.txt"
        assert time.monotonic() < end, said.read_text() if said.exists() else "nothing said"
        time.sleep(0.05)


def word(followed: Followed) -> tuple[str, int]:
    found = roll(followed.store, NAME).words
    return (found[0].state, found[0].generation) if found else ("", 0)


def is_live(followed: Followed, run_id: str) -> bool:
    path = followed.folder / "live.pt"
    return path.exists() and path.read_bytes() == student(run_id)


def test_pull_needs_only_the_store(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    followed.promote("b")
    digest = digest_bytes(student("a")).digest
    for ref, run_id in (
        (followed.address, "b"),
        (f"{followed.address}@1", "a"),
        (f"{followed.place}#{digest}", "a"),
    ):
        before = set(tmp_path.iterdir())
        done = launcher(tmp_path, "pull", ref, "got.pt", "--json")
        assert done.code == 0, done
        assert json.loads(done.out)["digest"] == digest_bytes(student(run_id)).digest
        assert (tmp_path / "got.pt").read_bytes() == student(run_id)
        assert {p.name for p in set(tmp_path.iterdir()) - before} <= {"got.pt", "cache"}


def test_what_cannot_be_pulled_is_said(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    for ref, said in (
        (f"{followed.place}#run:a", "in the ledger"),
        (f"{followed.place}#nobody", "names nothing"),
        (f"{followed.address}@7", "names nothing"),
        (f"{followed.place}#sha256:12", "not allowed"),
        (f"{followed.place}#../x", "pointer name"),
    ):
        done = launcher(tmp_path, "pull", ref, "got.pt")
        assert (done.code, done.err.count("\n")) == (2, 1), done
        assert said in done.err
    assert not (tmp_path / "got.pt").exists()


def test_watch_follows_promotions_fences_and_rollbacks(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    note = 'echo "$POINTER $GENERATION $RUN_ID $(cat "$DEST" | head -c 12)" >> ran.txt'
    with watching(followed, "--on-change", note) as process:
        until(lambda: word(followed) == ("applied", 1), followed)
        followed.promote("b")
        until(lambda: word(followed) == ("applied", 2), followed)
        assert is_live(followed, "b")
        followed.fence()
        until(lambda: word(followed) == ("applied", 3), followed)
        followed.rollback()
        until(lambda: word(followed) == ("applied", 4), followed)
        assert is_live(followed, "a")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
    ran = (tmp_path / "ran.txt").read_text().splitlines()
    assert ran == [
        "student 1 a weights of a",
        "student 2 b weights of b",
        "student 4 a weights of a",
    ]
    # Once more, for cron: everything is in its place.
    done = launcher(
        tmp_path, "pull", "--watch", followed.address, "live.pt", "--once", "--name", "gpu-7",
        "--on-change", "exit 9",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "student g4  nothing new\n"), done


def test_a_command_that_fails_is_said_and_tried_again(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    with watching(local, "--on-change", "test -e well || exit 7"):
        until(lambda: word(local) == ("failed", 1), local)
        failed = roll(local.store, NAME).words[0]
        assert (failed.exit_code, failed.applied, failed.host) == (7, None, "gpu-7")
        (tmp_path / "well").touch()
        until(lambda: word(local) == ("applied", 1), local)
    assert "the command ended with 7" in (tmp_path / "said.txt").read_text()


def test_killed_in_its_command_it_is_handed_out_again(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    slow = "echo x >> ran.txt; test -e go || exec sleep 60"
    with watching(local, "--on-change", slow) as process:
        until((tmp_path / "ran.txt").exists, local)
        assert is_live(local, "a")
        assert word(local) == ("applying", 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "go").touch()
    with watching(local, "--on-change", slow):
        until(lambda: word(local) == ("applied", 1), local)
    assert (tmp_path / "ran.txt").read_text() == "x\nx\n"


def test_two_followers_of_one_file_are_refused(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    with watching(local):
        until(lambda: word(local) == ("applied", 1), local)
        done = launcher(tmp_path, "pull", "--watch", local.address, "live.pt", "--once")
    assert done.code == 3, done


def test_a_damaged_blob_leaves_the_file_alone(
    followed: Followed, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    followed.promote("a")
    once = ("pull", "--watch", followed.address, "live.pt", "--once")
    assert launcher(tmp_path, *once).code == 0
    followed.promote("b")
    key = blob_key(digest_bytes(student("b")).digest)
    top = (
        Path(followed.place)
        if not followed.place.startswith("s3://")
        else request.getfixturevalue("s3_server").root / followed.place.removeprefix("s3://")
    )
    path = top / key
    path.chmod(0o644)
    path.write_bytes(b"x" * len(student("b")))
    done = launcher(tmp_path, *once)
    assert done.code == 4, done
    assert is_live(followed, "a")


@pytest.mark.parametrize(
    "act",
    [drop(after=False), drop(after=True), answer(503, "SlowDown"), truncate(10), flip],
    ids=["dropped", "unanswered", "503", "truncated", "flipped"],
)
def test_a_fetch_through_a_bad_line(
    act: Act, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    once = ("pull", "--watch", followed.address, "live.pt", "--once")
    followed.promote("a")
    assert launcher(tmp_path, *once).code == 0
    followed.promote("b")
    with proxied(s3_server) as proxy:
        proxy.rule(act, method="GET", key="blobs/", times=3)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for _ in range(5):
            done = launcher(tmp_path, *once)
            if done.code == 0:
                break
            assert done.code in (4, 5), done
            assert is_live(followed, "a")
        assert [rule.left for rule in proxy.rules] == [0]
    assert is_live(followed, "b")


def test_a_look_with_nothing_new_is_one_request_without_a_body(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    followed.promote("a")
    with proxied(s3_server) as proxy, watching(followed, AWS_ENDPOINT_URL=proxy.endpoint):
        until(lambda: word(followed) == ("applied", 1), followed)
        seen = len(proxy.requests)
        until(lambda: len(proxy.requests) > seen + 6, followed)
        looks = proxy.requests[seen + 1 : seen + 6]
    assert {(r.method, r.key.rpartition("/")[2], r.status) for r in looks} == {
        ("HEAD", "00000002.json", 404)
    }


@pytest.mark.parametrize(
    "act",
    [answer(503, "SlowDown"), answer(403, "ExpiredToken"), answer(403, "InvalidAccessKeyId")],
    ids=["503", "expired", "rotated"],
)
def test_a_store_that_is_away_or_refuses_is_said_once(
    act: Act, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    followed.promote("a")
    with proxied(s3_server) as proxy, watching(followed, AWS_ENDPOINT_URL=proxy.endpoint):
        until(lambda: word(followed) == ("applied", 1), followed)
        proxy.rule(act, times=8)
        followed.promote("b")
        until(lambda: word(followed) == ("applied", 2), followed)
        assert not any(rule.left for rule in proxy.rules)
    said = (tmp_path / "said.txt").read_text()
    assert said.count("still serving what was there") == 1, said
    assert said.count("the store answers again") == 1, said


def test_what_can_never_pass_ends_a_watch_at_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    for address, said in (
        ("s3://no-such-bucket-here/team#student", "bucket no-such-bucket-here does not exist"),
        (f"{followed.place}#../x", "pointer name"),
    ):
        done = launcher(tmp_path, "pull", "--watch", address, "live.pt")
        assert (done.code, done.err.count("\n")) == (2, 1), done
        assert said in done.err


# --- the command, and how a watch ends: about processes, whatever the store ---------------------------


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, False, 129),
    ],
    ids=["ctrl-c", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_no_command_outlives_its_watch(
    local: Followed, tmp_path: Path, number: signal.Signals, to_group: bool, code: int
) -> None:
    local.promote("a")
    slow = "sleep 300 & setsid sleep 300 & echo $$ > began; wait"
    with watching(local, "--on-change", slow) as process:
        until((tmp_path / "began").exists, local)
        [mark] = (tmp_path / ".live.pt.follow").glob("run-*")
        assert len(members(mark)) >= 3
        (os.killpg if to_group else os.kill)(process.pid, number)
        assert process.wait(20) == code
        assert members(mark) == set()
    assert not mark.exists()
    found = roll(local.store, NAME).words[0]
    assert (found.state, found.message) == ("failed", "the command was ended with the watch")


def test_a_second_signal_waits_for_no_grace(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    stubborn = "trap 'touch asked' TERM; touch began; while :; do sleep 0.05; done"
    with watching(local, "--on-change", stubborn) as process:
        until((tmp_path / "began").exists, local)
        [mark] = (tmp_path / ".live.pt.follow").glob("run-*")
        process.send_signal(signal.SIGTERM)
        until((tmp_path / "asked").exists, local)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        assert time.monotonic() - began < GRACE_SECONDS / 2
        assert members(mark) == set()


def test_a_command_that_takes_too_long_is_ended_and_said(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    slow = ("--on-change", "test -e well || exec sleep 300", "--timeout", "0.3")
    with watching(local, *slow):
        until(lambda: word(local) == ("failed", 1), local)
        failed = roll(local.store, NAME).words[0]
        assert (failed.exit_code, failed.message) == (143, "the command did not end within 0.3 s")
        (tmp_path / "well").touch()
        until(lambda: word(local) == ("applied", 1), local)


def test_a_watch_that_acknowledges_nothing(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    once = ("pull", "--watch", local.address, "live.pt", "--once", "--no-ack", "--on-change")
    assert launcher(tmp_path, *once, "true").out.endswith("applied\n")
    # And it remembers: the command does not run again.
    assert launcher(tmp_path, *once, "exit 9").out == "student g1  nothing new\n"
    assert not roll(local.store, NAME)
    for wrong in (("--timeout", "3"), ("--no-ack",)):
        done = launcher(tmp_path, "pull", local.address, "got.pt", *wrong)
        assert (done.code, done.err.count("\n")) == (2, 1), done


def test_damage_in_a_running_watch_leaves_the_old_one_serving(
    local: Followed, tmp_path: Path
) -> None:
    local.promote("a")
    with watching(local):
        until(lambda: word(local) == ("applied", 1), local)
        blob = local.store.ingest_bytes(student("b"))
        path = Path(local.place, blob_key(blob.digest))
        path.chmod(0o644)
        path.write_bytes(b"x" * len(student("b")))
        local.promote("b")
        until(lambda: word(local) == ("failed", 2), local)
        assert is_live(local, "a")
        local.rollback()
        until(lambda: word(local) == ("applied", 3), local)
    said = (tmp_path / "said.txt").read_text()
    assert said.count("the file is as it was: blob sha256:") == 1, said
    assert "answers again" not in said
