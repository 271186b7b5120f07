"""The serving side in Python: pull, follow, what is said of trouble, what a kill leaves, and the command's end."""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.agent.processes import members
from launcher.consumers import Consumer, roll
from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.serving import Checkpoint, Follower, follow, pull
from launcher.serving import follower as follower_module
from launcher.serving.command import OnChange, end_left
from launcher.serving.trouble import Troubles
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import AccessRefusedError, BlobInfo, Progress, blob_key
from tests.cli.test_pull_watch import followed, in_bucket
from tests.fault.effects import Effects, effects_of
from tests.rig.fault_proxy import proxied
from tests.rig.followed import NAME, Followed, student
from tests.rig.s3 import S3Server, s3_server

__all__ = ["followed", "s3_server"]


@pytest.fixture
def local(tmp_path: Path) -> Followed:
    (tmp_path / "store").mkdir()
    return Followed(str(tmp_path / "store"), tmp_path)


class Scripted(FilesystemStore):
    """What happens before the next questions for a generation; ``fetched`` blobs; ``said`` no word while ``deaf``."""

    def __init__(self, followed: Followed, *acts: LauncherError | None) -> None:
        super().__init__(Path(followed.place))
        self.acts, self.fetched, self.deaf = list(acts), 0, False

    def exists(self, key: str) -> bool:
        if key.startswith("pointers/") and self.acts:
            error = self.acts.pop(0)
            if error is not None:
                raise error
        return super().exists(key)

    def replace(self, key: str, data: bytes) -> None:
        if self.deaf:
            raise UnavailableError("nobody hears")
        super().replace(key, data)

    def fetch_blob(self, digest: str, dest: Path, progress: Progress | None = None) -> BlobInfo:
        self.fetched += 1
        return super().fetch_blob(digest, dest, progress)


def the_word(followed: Followed) -> Consumer:
    [word] = roll(followed.store, NAME).words
    return word


def until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def damage(followed: Followed, run_id: str, data: bytes) -> None:
    path = Path(followed.place, blob_key(digest_bytes(student(run_id)).digest))
    path.chmod(0o644)
    path.write_bytes(data)


# --- pull and follow ----------------------------------------------------------------------------------


def test_pull_fetches_what_an_address_names(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    followed.promote("b")
    dest = tmp_path / "got.pt"
    digests = {run_id: digest_bytes(student(run_id)).digest for run_id in "ab"}
    size = len(student("a"))
    for ref, expected in (
        (followed.address, Checkpoint(dest, digests["b"], size, NAME, 2, "b")),
        (f"{followed.address}@1", Checkpoint(dest, digests["a"], size, NAME, 1, "a")),
        (f"{followed.place}#{digests['b']}", Checkpoint(dest, digests["b"], size)),
    ):
        assert pull(ref, dest) == expected
        assert digest_bytes(dest.read_bytes()).digest == expected.digest


def test_what_pull_cannot_have_leaves_the_file_alone(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    dest = tmp_path / "got.pt"
    dest.write_bytes(b"mine")
    damage(local, "a", b"x")
    with pytest.raises(IntegrityError, match="damaged"):
        pull(local.address, dest)
    for ref in ("student", f"{local.address}@9"):
        with pytest.raises(UsageError):
            pull(ref, dest)
    assert dest.read_bytes() == b"mine"


def test_follow_hands_out_what_comes_and_acknowledges_the_one_before(
    followed: Followed, tmp_path: Path
) -> None:
    followed.promote("a")
    with_name = {"interval_seconds": 0.01, "consumer": "gpu-7"}
    coming = follow(followed.address, tmp_path / "live.pt", **with_name)  # type: ignore[arg-type]
    one = next(coming)
    assert (one.generation, one.path.read_bytes()) == (1, student("a"))
    word = the_word(followed)
    assert (word.host, word.state, word.generation, word.applied) == ("gpu-7", "applying", 1, None)
    followed.promote("b")
    assert next(coming).path.read_bytes() == student("b")
    word = the_word(followed)
    assert (word.state, word.generation, word.applied) == ("applying", 2, 1)
    followed.fence()
    followed.rollback()
    assert next(coming).generation == 4
    assert (tmp_path / "live.pt").read_bytes() == student("a")
    coming.close()  # type: ignore[attr-defined]
    # It was never acknowledged: the next one is handed it again.
    again = follow(followed.address, tmp_path / "live.pt", **with_name)  # type: ignore[arg-type]
    assert next(again).generation == 4
    again.close()  # type: ignore[attr-defined]


def test_a_rollback_to_the_one_before_fetches_no_payload(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    followed.promote("a")
    followed.promote("b")
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        coming = follow(followed.address, tmp_path / "live.pt", interval_seconds=0.01)
        assert next(coming).generation == 2
        followed.promote("a")
        assert next(coming).generation == 3
        fetched = proxy.count("GET", "blobs/")
        assert fetched == 2
        followed.rollback()
        assert next(coming).path.read_bytes() == student("b")
        followed.promote("a")
        assert next(coming).path.read_bytes() == student("a")
        assert proxy.count("GET", "blobs/") == fetched
        coming.close()  # type: ignore[attr-defined]


def test_a_follower_that_may_not_write_leaves_no_word_and_is_handed_nothing_twice(
    local: Followed, tmp_path: Path
) -> None:
    local.promote("a")
    for expected in (1, None):
        with Follower(local.store, NAME, tmp_path / "live.pt", acknowledges=False) as one:
            checkpoint = one.step()
            assert (checkpoint.generation if checkpoint else None) == expected
            if checkpoint:
                with one.applying(checkpoint):
                    pass
                one.applied(checkpoint)
    assert not roll(local.store, NAME)


def test_what_was_taken_over_is_remembered_while_the_store_hears_nothing(
    local: Followed, tmp_path: Path
) -> None:
    local.promote("a")
    store = Scripted(local)
    store.deaf = True
    with Follower(store, NAME, tmp_path / "live.pt") as one:
        checkpoint = one.step()
        assert checkpoint is not None
        one.applied(checkpoint)
    assert not roll(local.store, NAME)
    store.deaf = False
    with Follower(store, NAME, tmp_path / "live.pt") as one:
        assert one.step() is None
    assert (the_word(local).state, the_word(local).generation) == ("applied", 1)


def test_bytes_that_were_left_meanwhile_are_handed_out_again(
    local: Followed, tmp_path: Path
) -> None:
    """b was placed and its taking over broken off; back at a, whoever serves may be on anything."""
    local.promote("a")
    with Follower(local.store, NAME, tmp_path / "live.pt") as one:
        checkpoint = one.step()
        assert checkpoint is not None
        one.applied(checkpoint)
        local.promote("b")
        assert one.step() is not None
        local.rollback()
        back = one.step()
    assert back is not None
    assert (back.generation, back.path.read_bytes()) == (3, student("a"))


def test_a_word_is_kept_fresh_while_it_is_applied(
    local: Followed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "REFRESH_SECONDS", 0.02)
    local.promote("a")
    with Follower(local.store, NAME, tmp_path / "live.pt") as one:
        checkpoint = one.step()
        assert checkpoint is not None
        with one.applying(checkpoint):
            first = the_word(local)
            times = {first.time}

            def heard() -> bool:
                word = the_word(local)
                assert replace(word, time=first.time) == first
                times.add(word.time)
                return len(times) > 3

            until(heard, "it was not said again")
            assert first.since == min(times)
        one.applied(checkpoint)
    assert the_word(local).state == "applied"


# --- trouble ------------------------------------------------------------------------------------------


def test_an_outage_is_said_once_whatever_it_says_of_itself(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    store, said = Scripted(local), list[str]()
    heard: list[LauncherError] = []
    with Follower(
        store, NAME, tmp_path / "live.pt", troubles=Troubles(said.append, heard.append)
    ) as one:
        checkpoint = one.look()
        assert checkpoint is not None
        one.applied(checkpoint)
        for _ in range(2):
            first = UnavailableError("one answer")
            store.acts = [
                first, UnavailableError("another"), AccessRefusedError("expired"), UsageError("no bucket")
            ]  # fmt: skip
            while store.acts:
                assert one.look() is None
            assert one.look() is None
            assert heard.pop() is first
            assert heard == []
            assert said == ["still serving what was there: one answer", "the store answers again"]
            said.clear()
        assert (tmp_path / "live.pt").read_bytes() == student("a")


def test_damage_is_not_the_stores_silence(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    said: list[str] = []
    with Follower(local.store, NAME, tmp_path / "live.pt", troubles=Troubles(said.append)) as one:
        checkpoint = one.look()
        assert checkpoint is not None
        one.applied(checkpoint)
        local.promote("b")
        damage(local, "b", b"x")
        assert [one.look() for _ in range(3)] == [None] * 3
        assert (the_word(local).state, the_word(local).applied) == ("failed", 1)
        assert (tmp_path / "live.pt").read_bytes() == student("a")
        [line] = said
        assert line.startswith("the file is as it was: blob ")
        # What is newer waits for nothing.
        local.promote("c")
        coming = one.look()
        assert coming is not None
        assert coming.path.read_bytes() == student("c")
        assert said == [line]


def test_what_can_never_pass_ends_it_at_the_start(local: Followed, tmp_path: Path) -> None:
    local.promote("a")

    class Refusing(FilesystemStore):
        error: LauncherError = UsageError("no such bucket")

        def read(self, key: str) -> bytes:
            raise self.error

    store = Refusing(Path(local.place))
    with Follower(store, NAME, tmp_path / "live.pt", troubles=Troubles(lambda _: None)) as one:
        with pytest.raises(UsageError, match="no such bucket"):
            one.look()
        store.error = AccessRefusedError("who are you")
        assert one.look() is None


def test_follow_warns_and_calls_back(
    local: Followed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local.promote("a")
    heard: list[LauncherError] = []
    coming = follow(
        local.address, tmp_path / "live.pt", interval_seconds=0.01, on_trouble=heard.append
    )
    assert next(coming).generation == 1
    local.promote("b")
    damage(local, "b", b"x")

    def mended(error: LauncherError) -> None:
        heard.append(error)
        local.promote("c")

    coming.close()  # type: ignore[attr-defined]
    coming = follow(local.address, tmp_path / "live.pt", interval_seconds=0.01, on_trouble=mended)
    assert next(coming).path.read_bytes() == student("c")
    [error] = heard
    assert isinstance(error, IntegrityError)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("launcher.serving", "WARNING")
    assert str(error) in record.getMessage()
    coming.close()  # type: ignore[attr-defined]


# --- this machine -------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_replaced_is_said_and_waited_for(
    local: Followed, tmp_path: Path
) -> None:
    local.promote("a")
    place, said = tmp_path / "srv", list[str]()
    dest = place / "live.pt"
    with Follower(local.store, NAME, dest, troubles=Troubles(said.append)) as one:

        def taken(run_id: str) -> None:
            checkpoint = one.look()
            assert checkpoint is not None, said
            one.applied(checkpoint)
            assert dest.read_bytes() == student(run_id)

        taken("a")
        place.rename(tmp_path / "away")
        local.promote("b")
        assert [one.look(), one.look()] == [None, None]
        assert not place.exists(), "it made the folder of a disk that is away"
        assert said == [f"the file is as it was: {place} is gone (it is waited for)"]
        (tmp_path / "away").rename(place)
        taken("b")
        assert said.pop() == "the file can be written again"
        said.clear()

        place.rename(tmp_path / "gone")
        place.mkdir()  # another one: nothing of ours is in it
        taken("b")
        assert said == []

        dest.unlink()
        dest.mkdir()
        local.promote("c")
        assert [one.look(), one.look()] == [None, None]
        assert len(said) == 1
        assert said[0].startswith(f"the file is as it was: cannot write {dest}: ")
        dest.rmdir()
        taken("c")


def test_a_full_disk_leaves_the_old_one(local: Followed, tmp_path: Path) -> None:
    local.promote("a")
    said: list[str] = []
    with Follower(local.store, NAME, tmp_path / "live.pt", troubles=Troubles(said.append)) as one:
        checkpoint = one.look()
        assert checkpoint is not None
        one.applied(checkpoint)
        local.promote("b")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a file past it is EFBIG
        try:
            assert one.look() is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "live.pt").read_bytes() == student("a")
        assert said[0].startswith("the file is as it was: cannot write"), said
        assert one.look() is not None
        assert said[1:] == ["the file can be written again"]


def test_killed_before_any_effect_either_checkpoint_is_there_and_neither_is_fetched(
    local: Followed, tmp_path: Path
) -> None:
    """a, then b, then back to a, which was kept."""
    local.promote("a")
    local.promote("b")
    local.rollback()
    store = Scripted(local)
    dest = tmp_path / "live.pt"
    kept = {
        r: dest.with_name(".live.pt.follow") / digest_bytes(student(r)).digest[7:] for r in "ab"
    }

    def begin() -> None:
        with Follower(store, NAME, dest) as one:
            for run_id in "ab":
                one.file.place(
                    digest_bytes(student(run_id)).digest,
                    lambda path, run_id=run_id: path.write_bytes(student(run_id)),  # type: ignore[misc]
                )
        assert dest.read_bytes() == student("b")
        assert kept["a"].read_bytes() == student("a")

    def job(death: int) -> Effects:
        effects = Effects(death)
        with Follower(store, NAME, dest) as one:
            effects.watch(os, "link", "replace", "unlink", "fsync")
            checkpoint = one.step()
            assert checkpoint is not None
            one.applied(checkpoint)
        return effects

    for death in itertools.count():
        begin()
        seen = effects_of(lambda death=death: job(death))  # type: ignore[misc]
        there = dest.read_bytes()
        assert there in (student("a"), student("b"))
        other = "a" if there == student("b") else "b"
        assert kept[other].read_bytes() == student(other)
        with Follower(store, NAME, dest) as one:
            checkpoint = one.step()
            if checkpoint is not None:
                one.applied(checkpoint)
            assert one.step() is None
            one.file.aside.joinpath("taken.json").unlink()
        assert dest.read_bytes() == student("a")
        assert kept["b"].read_bytes() == student("b")
        assert store.fetched == 0
        if seen is not None:
            assert death == len(seen) >= 6, seen
            assert "replace" in seen
            break


# --- the command --------------------------------------------------------------------------------------

#: A command and two of its children, one in a session of its own; none minds SIGTERM.
STUBBORN = (
    "trap '' TERM; (while :; do sleep 0.05; done) & setsid sleep 300 & echo ready > ready; "
    "while :; do sleep 0.05; done"
)


@pytest.fixture
def placed(local: Followed, tmp_path: Path) -> Iterator[tuple[Follower, Checkpoint]]:
    local.promote("a")
    with Follower(local.store, NAME, tmp_path / "live.pt") as one:
        checkpoint = one.step()
        assert checkpoint is not None
        yield one, checkpoint


@pytest.mark.parametrize("how", ["its time is over", "it is stopped"])
def test_a_command_ends_with_all_that_it_started(
    placed: tuple[Follower, Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    one, checkpoint = placed
    stopped = how == "it is stopped"
    command = OnChange(
        STUBBORN,
        one.file,
        timeout_seconds=None if stopped else 0.5,
        grace_seconds=0.2,
        stopped=lambda: stopped and (tmp_path / "ready").exists(),
    )
    mark = one.file.run_mark("x")
    monkeypatch.setattr(one.file, "run_mark", lambda _: mark)
    ended = command.run(checkpoint)
    assert ended.code == 137
    assert ended.why == (
        "the command was ended with the watch"
        if stopped
        else "the command did not end within 0.5 s"
    )
    assert (members(mark), one.file.runs()) == (set(), [])


def test_what_a_command_that_succeeded_left_running_goes_on(
    placed: tuple[Follower, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, checkpoint = placed
    server = "sleep 300 & echo $! > server"
    assert OnChange(server, one.file).run(checkpoint).code == 0
    pid = int((tmp_path / "server").read_text())
    try:
        failing = OnChange("sleep 300 & echo $! > other; false | true", one.file)
        ended = failing.run(checkpoint)
        assert (ended.code, ended.why) == (1, "the command ended with 1")
        assert not is_alive(int((tmp_path / "other").read_text()))
        assert is_alive(pid)
    finally:
        os.kill(pid, 9)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_of_a_watch_that_was_killed_is_ended_first(
    placed: tuple[Follower, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, checkpoint = placed
    child = os.fork()
    if child == 0:
        OnChange(STUBBORN, one.file).run(checkpoint)
        os._exit(0)
    until((tmp_path / "ready").exists, "it did not start")
    os.kill(child, 9)
    os.waitpid(child, 0)
    [mark] = one.file.runs()
    assert len(members(mark)) >= 3
    assert end_left(one.file, grace_seconds=0.1) == 1
    assert (members(mark), one.file.runs()) == (set(), [])
