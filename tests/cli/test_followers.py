"""Who follows a pointer, as screens say it, and a rollback that waits for them: the program, on either store."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from launcher.cli.following import wait_for
from launcher.consumers import Consumer, consumer_key, roll
from launcher.errors import UnavailableError
from launcher.settings import Settings
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import AccessRefusedError, ObjectInfo
from launcher.workspace import open_workspace
from tests.cli.session import Done, Session, make_session
from tests.cli.test_look import documented
from tests.cli.test_pull_watch import followed, in_bucket, launcher, until, watching
from tests.launcher.pointer_world import add_run, student_of
from tests.rig.fault_proxy import answer, proxied
from tests.rig.followed import NAME, Followed, student
from tests.rig.s3 import S3Server, s3_server

__all__ = ["followed", "s3_server"]

RUNS = ("20260609T021500Z-b21c", "20260610T021500Z-c90d")


def ago(seconds: float) -> str:
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def says(
    followed: Followed, host: str, generation: int, *, seconds: float = 5.0, failed: bool = False
) -> Consumer:
    """``host`` said so long ago what it is on."""
    digest = digest_bytes(student("a")).digest
    word = Consumer(
        host=host,
        generation=generation,
        digest=digest,
        time=ago(seconds),
        state="failed" if failed else "applied",
        dest="/srv/student.pt",
        applied=generation,
        applied_digest=digest,
        exit_code=7 if failed else None,
    )
    followed.store.replace(consumer_key(followed.store, NAME, host), word.to_bytes())
    return word


def followers_of(done: Done) -> list[str]:
    return [line for line in done.lines if line.startswith("followers")]


def project(followed: Followed, tmp_path: Path) -> Callable[..., Done]:
    """``launcher …`` in a project with two promoted runs, whose store is the one that is followed."""
    root = tmp_path / "project"
    root.mkdir()
    more = {"LAUNCHER_STORE": followed.place, "LAUNCHER_LEDGER": "sqlite", "LAUNCHER_ACTOR": "ana"}
    ws = open_workspace(Settings.from_environment(more, root, {}), root, writing=True)
    for run_id in RUNS:
        state = add_run(ws.journal, ws.store, run_id, student_of(run_id), root)
        ws.promoter.promote(state, NAME, automatic=False)
    ws.ledger.close()

    session = Session(root, more)

    def typed(*arguments: str) -> Done:
        looks = arguments[:1] in ((), ("status",), ("list",), ("pointers",))
        done = (session.look if looks else session.launcher)(*arguments)
        assert done.code == 0, done
        return done

    return typed


# --- screens ------------------------------------------------------------------------------------------


def test_screens_say_how_many_followers_are_on_which_generation(
    followed: Followed, tmp_path: Path
) -> None:
    typed = project(followed, tmp_path)
    screens = ((), ("status",), ("pointers",), ("pointers", NAME), ("pointers", followed.address))
    for arguments in screens:
        assert followers_of(typed(*arguments)) == []
    for host in ("a", "b", "c"):
        says(followed, host, 2)
    says(followed, "gpu-7", 1, seconds=245)
    says(followed, "gpu-8", 2, failed=True, seconds=125)
    says(followed, "gpu-9", 1, seconds=7300)
    says(followed, "gone", 1, seconds=91 * 86400)
    expected = (
        "followers  3 on g2, 1 still on g1 (gpu-7, 4m ago), 1 failed on g2 (gpu-8, 2m ago), "
        "1 silent for 2h (gpu-9)"
    )
    for arguments in screens:
        assert followers_of(typed(*arguments)) == [expected], arguments
    assert followers_of(typed("pointers", "--at", ago(0))) == []


def test_and_so_they_do_for_programs(followed: Followed, tmp_path: Path) -> None:
    typed = project(followed, tmp_path)
    words = {host: says(followed, host, number) for host, number in (("a", 2), ("b", 1))}
    listed = json.loads(typed("pointers", "--json").out)[0]["followers"]
    assert {k: v for k, v in listed.items() if k != "hosts"} == {
        "on": 1,
        "behind": 1,
        "failed": 0,
        "silent": 0,
        "unread": 0,
    }
    assert [(row["host"], row["standing"]) for row in listed["hosts"]] == [
        ("a", "on"),
        ("b", "behind"),
    ]
    assert listed["hosts"][0] == {"standing": "on", **json.loads(words["a"].to_bytes())}
    assert json.loads(typed("pointers", NAME, "--json").out)["followers"] == listed
    assert json.loads(typed("pointers", followed.address, "--json").out)["followers"] == listed
    for command in ("status", "list"):
        assert json.loads(typed(command, "--json").out)["live"][0]["followers"] == listed
    then = json.loads(typed("pointers", NAME, "--json", "--at", ago(0)).out)
    assert then["followers"] is None


def test_programs_get_the_documented_keys_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    followed = Followed(str(tmp_path / "store"), tmp_path)
    typed = project(followed, tmp_path)
    says(followed, "gpu-7", 2)
    [row] = json.loads(typed("pointers", "--json").out)
    assert set(row) == documented("`launcher pointers`")
    assert set(row["followers"]) == documented("Followers")
    assert set(row["followers"]["hosts"][0]) == documented("A follower in `hosts`")
    back = json.loads(typed("rollback", NAME, "--yes", "--json").out)
    assert set(back) == documented("`launcher rollback`")


def test_many_followers_are_counted_and_few_are_named(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    followed.promote("b")
    for number in range(5):
        says(followed, f"gpu-{number}", 1)
        says(followed, f"old-{number}", 1, seconds=7300 + number)
    followed.store.replace(consumer_key(followed.store, NAME, "torn"), b"{")
    odd = says(followed, "odd", 2, failed=True, seconds=125)
    followed.store.replace(
        consumer_key(followed.store, NAME, "odd"), replace(odd, host="\x1b[31mred\n").to_bytes()
    )
    assert followers_of(launcher(tmp_path, "pointers", followed.address)) == [
        "followers  5 still on g1 (gpu-0, gpu-1, gpu-2 and 2 more), 1 failed on g2 (red, 2m ago), "
        "5 silent for 2h and more (old-0, old-1, old-2 and 2 more), 1 not read"
    ]


def test_a_screen_asks_for_followers_once(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    typed = project(followed, tmp_path)
    typed("promote", RUNS[0], "second")
    says(followed, "gpu-7", 2)
    for arguments in ((), ("status",), ("pointers",), ("pointers", "--json")):
        with proxied(s3_server) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            typed(*arguments)
            monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.environment()["AWS_ENDPOINT_URL"])
        asked = [r for r in proxy.requests if "consumers/" in r.query.get("prefix", "")]
        assert len(asked) == 1, [(r.method, r.target) for r in proxy.requests]
        assert proxy.count("GET", "consumers/") - len(asked) <= 1


@pytest.mark.parametrize("status", [403, 400])
def test_a_store_that_does_not_say_who_follows_breaks_no_screen(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    followed = in_bucket(s3_server, tmp_path, monkeypatch)
    typed = project(followed, tmp_path)
    says(followed, "gpu-7", 2)
    code = {403: "AccessDenied", 400: "InvalidRequest"}[status]
    with proxied(s3_server) as proxy:
        proxy.rule(
            answer(status, code),
            times=1000,
            when=lambda r: "consumers/" in r.query.get("prefix", ""),
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for arguments in ((), ("status",), ("pointers",), ("pointers", NAME)):
            done = typed(*arguments)
            [line] = followers_of(done)
            assert line.startswith("followers  cannot be seen: ")
            assert "g2" in done.out
        assert json.loads(typed("pointers", NAME, "--json").out)["followers"] is None
        back = typed("rollback", NAME, "--yes", "--wait", "0")
        assert "live: student g3 = checkpoint of g1" in back.out
        assert "warning: g3 is live" in back.err


# --- rollback -----------------------------------------------------------------------------------------


def test_rollback_says_who_has_still_to_follow(followed: Followed, tmp_path: Path) -> None:
    typed = project(followed, tmp_path)
    says(followed, "gpu-7", 2, seconds=245)
    says(followed, "gpu-8", 1, seconds=7300)
    done = typed("rollback", NAME, "--yes")
    assert done.err == ""
    assert done.lines[-1] == "followers  1 still on g2 (gpu-7, 4m ago), 1 silent for 2h (gpu-8)"
    says(followed, "gpu-7", 3)
    again = typed("rollback", NAME, "--to", "1", "--yes", "--wait", "0")
    assert again.lines[-1] == "followers  1 on g3, 1 silent for 2h (gpu-8)"
    assert again.err == ""


def test_rollback_waits_until_a_follower_has_it(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    followed.promote("b")
    with watching(followed, "--on-change", "sleep 1"):
        until(lambda: is_on(followed, 2), followed)
        done = launcher(tmp_path, "rollback", followed.address, "--yes", "--wait", "30")
        assert is_on(followed, 3), "it came back before the follower acknowledged"
    assert (done.code, followers_of(done)[-1]) == (0, "followers  1 on g3"), done
    assert "warning" not in done.err
    assert (tmp_path / "live.pt").read_bytes() == student("a")


def is_on(followed: Followed, generation: int) -> bool:
    words = roll(followed.store, NAME).words
    return [(w.state, w.generation) for w in words] == [("applied", generation)]


def test_who_has_not_followed_in_time_is_named_and_the_rollback_stands(
    followed: Followed, tmp_path: Path
) -> None:
    followed.promote("a")
    followed.promote("b")
    says(followed, "on", 3)
    says(followed, "gpu-7", 2)
    says(followed, "gpu-8", 2, failed=True)
    says(followed, "silent", 1, seconds=901)
    # gpu-9 acknowledged these very bytes, as generation 1: nobody knows whether it has left them since.
    says(followed, "gpu-9", 1)
    for options in ((), ("--json",)):
        typed = ["rollback", followed.address, "--to", "1", "--yes", "--wait", "0.2", *options]
        done = launcher(tmp_path, *typed)
        assert done.code == 0, done
        assert done.err.splitlines()[-1] == (
            "warning: g3 is live, but after 0.2 s gpu-7, gpu-8, gpu-9 have not followed; "
            f"launcher pointers {shlex.quote(followed.address)} shows them"
        )
    said = json.loads(done.out)
    assert (said["changed"], said["live"]["generation"], said["followed"]) == (False, 3, False)
    assert [said["followers"][k] for k in ("on", "behind", "failed", "silent")] == [1, 2, 1, 1]
    says(followed, "gpu-7", 4)
    for host in ("gpu-8", "gpu-9"):
        says(followed, host, 3)
    assert json.loads(launcher(tmp_path, *typed).out)["followed"] is True
    del typed[typed.index("--wait") : typed.index("--wait") + 2]
    assert json.loads(launcher(tmp_path, *typed).out)["followed"] is None


class Scripted(FilesystemStore):
    """Before its nth listing something happens."""

    def __init__(self, root: Path, *acts: Callable[[], object]) -> None:
        super().__init__(root)
        self.acts = list(acts)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        if self.acts:
            self.acts.pop(0)()
        return super().list(prefix, after)


def away() -> None:
    raise UnavailableError("the store is away")


def refused() -> None:
    raise AccessRefusedError("nobody may list there")


def test_it_waits_for_who_comes_meanwhile_and_past_a_store_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    followed = Followed(str(tmp_path / "store"), tmp_path)
    says(followed, "gpu-7", 2)
    store = Scripted(
        tmp_path / "store",
        lambda: None,
        lambda: (says(followed, "gpu-7", 3), says(followed, "gpu-8", 2)),
        away,
        lambda: says(followed, "gpu-8", 3),
        lambda: pytest.fail("it waited for nobody"),
    )
    assert wait_for(store, NAME, 3, 60) == ""
    assert len(store.acts) == 1


def test_what_is_in_the_way_when_the_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    followed = Followed(str(tmp_path / "store"), tmp_path)
    says(followed, "gpu-7", 2)
    assert wait_for(followed.store, NAME, 3, 0) == "gpu-7 has not followed"
    store = Scripted(tmp_path / "store", away)
    assert wait_for(store, NAME, 3, 0) == "the store is away"
    store = Scripted(tmp_path / "store", refused, lambda: pytest.fail("it would be so again"))
    assert wait_for(store, NAME, 3, 60) == "nobody may list there"


def test_nobody_to_wait_for_is_no_wait(followed: Followed, tmp_path: Path) -> None:
    followed.promote("a")
    followed.promote("b")
    done = launcher(tmp_path, "rollback", followed.address, "--yes", "--wait", "600")
    assert (done.code, followers_of(done)) == (0, [])


def test_a_rollback_past_a_damaged_ledger_waits_too(followed: Followed, tmp_path: Path) -> None:
    typed = project(followed, tmp_path)
    (tmp_path / "project/runs/self_distill/ledger.db").write_bytes(b"\0" * 4096)
    says(followed, "gpu-7", 2)
    done = typed("rollback", NAME, "--yes", "--wait", "0.1")
    assert "without the ledger" in done.err
    assert "warning: g3 is live, but after 0.1 s gpu-7 has not followed" in done.err
    says(followed, "gpu-7", 3)
    again = typed("rollback", NAME, "--to", "1", "--yes", "--wait", "30")
    assert again.lines[-1] == "followers  1 on g3"


# --- checks -------------------------------------------------------------------------------------------


def test_audit_doctor_and_gc_take_words_for_what_they_are(
    followed: Followed, tmp_path: Path
) -> None:
    """Of a real run, so that there is nothing else to find."""
    session = make_session(tmp_path / "project", LAUNCHER_STORE=followed.place)
    done = session.submit("--promotion-target", NAME)
    assert done.code == 0, done

    def checked() -> list[dict[str, object]]:
        return [json.loads(session.look(c, "--json").out) for c in ("audit", "doctor")]

    def verdicts(found: list[dict[str, object]]) -> list[tuple[object, object]]:
        audited, looked = (
            cast("list[dict[str, object]]", one[key])
            for one, key in zip(found, ("checks", "findings"), strict=True)
        )
        return [(r["name"], r["ok"]) for r in audited] + [(r["name"], r["state"]) for r in looked]

    before = checked()
    assert before[0]["ok"] is True
    says(followed, "gpu-7", 1)
    followed.store.replace(consumer_key(followed.store, NAME, "torn"), b"{")
    followed.store.replace("consumers/nobody/x.json", b"")
    assert verdicts(checked()) == verdicts(before)
    gone = session.launcher("gc", "--apply", "--yes", "--grace-days", "0")
    assert gone.code == 0, gone
    assert [info.key for info in followed.store.list("consumers/")] == [
        "consumers/nobody/x.json",
        "consumers/student/gpu-7.json",
        "consumers/student/torn.json",
    ]
