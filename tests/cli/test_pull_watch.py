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

from launcher.consumers import roll
from launcher.storage.blobs import digest_bytes
from launcher.storage.port import blob_key
from tests.cli.session import LAUNCHER, Done
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


def in_bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Followed(f"s3://{server.bucket()}/team", tmp_path)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    return {**kept, **more}


def launcher(cwd: Path, *arguments: str, **more: str) -> Done:
    done = subprocess.run(
        [str(LAUNCHER), *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


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


def test_a_command_that_fails_is_said_and_tried_again(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    with watching(followed, "--on-change", "test -e well || exit 7"):
        until(lambda: word(followed) == ("failed", 1), followed)
        failed = roll(followed.store, NAME).words[0]
        assert (failed.exit_code, failed.applied, failed.host) == (7, None, "gpu-7")
        (tmp_path / "well").touch()
        until(lambda: word(followed) == ("applied", 1), followed)
    assert "the command ended with 7" in (tmp_path / "said.txt").read_text()


def test_killed_in_its_command_it_is_handed_out_again(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    slow = "echo x >> ran.txt; test -e go || exec sleep 60"
    with watching(followed, "--on-change", slow) as process:
        until((tmp_path / "ran.txt").exists, followed)
        assert is_live(followed, "a")
        assert word(followed) == ("", 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "go").touch()
    with watching(followed, "--on-change", slow):
        until(lambda: word(followed) == ("applied", 1), followed)
    assert (tmp_path / "ran.txt").read_text() == "x\nx\n"


def test_two_followers_of_one_file_are_refused(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    with watching(followed):
        until(lambda: word(followed) == ("applied", 1), followed)
        done = launcher(tmp_path, "pull", "--watch", followed.address, "live.pt", "--once")
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
    followed.promote("a")
    assert launcher(tmp_path, "pull", "--watch", followed.address, "live.pt", "--once").code == 0
    followed.promote("b")
    with proxied(s3_server) as proxy:
        proxy.rule(act, method="GET", key="blobs/", times=3)
        with watching(followed, AWS_ENDPOINT_URL=proxy.endpoint):
            until(lambda: word(followed) == ("applied", 2), followed)
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


def test_a_store_that_is_away_is_said_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    followed.promote("a")
    with proxied(s3_server) as proxy, watching(followed, AWS_ENDPOINT_URL=proxy.endpoint):
        until(lambda: word(followed) == ("applied", 1), followed)
        proxy.rule(answer(503, "SlowDown"), times=8)
        followed.promote("b")
        until(lambda: word(followed) == ("applied", 2), followed)
    said = (tmp_path / "said.txt").read_text()
    assert said.count("still serving what was there") == 1, said
    assert said.count("the store answers again") == 1, said
