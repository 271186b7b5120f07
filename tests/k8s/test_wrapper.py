"""The wrapper under a real bash: every order in which command, wrapper, collector and pod can end."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.wrapper import STOPPED, TERMINATED, UNCOLLECTED, WRAPPER, as_arguments, literal
from tests.k8s.wrapped import Wrapped

#: A command that says when it runs, and goes on.
_RUNS = "touch $SEEN/up; sleep 60"
#: … and one that saves and says 0 when it is told to end.
_SAVES = "trap 'touch $SEEN/saved; exit 0' TERM; touch $SEEN/up; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("command", "code", "left"),
    [
        ("true", 0, 0),
        ("exit 7", 7, 7),
        ("false | true", 1, 1),
        ("no-such-program", 127, 127),
        ("kill -KILL $$", 137, 137),
        ("exit 125", 125, 125),
        # 143 is how the Job knows a pod that was told to end.
        ("kill -TERM $$", 143, 1),
        ("exit 143", 143, 1),
    ],
)
def test_an_exit_code_is_handed_over_and_left_with(
    tmp_path: Path, command: str, code: int, left: int
) -> None:
    with Wrapped(tmp_path, command) as wrapped:
        said = {"exit_code": code, "oom_kills": 0, "ended": "command"}
        assert wrapped.handed_over() == said
        assert wrapped.has("started")
        assert wrapped.process.poll() is None, "it did not wait for the collection"
        wrapped.collected()
        assert wrapped.left() == left
        assert wrapped.last_words() == said
        assert not wrapped.has("terminating")


def test_output_is_kept_raw_in_order_and_shown(tmp_path: Path) -> None:
    command = (
        r"printf 'one\377\000'; printf 'two\r' >&2; head -c 3000000 /dev/zero; printf three >&2"
    )
    with Wrapped(tmp_path, command) as wrapped:
        wrapped.until(lambda: wrapped.log.exists())
        wrapped.collected()
        shown, complaints = wrapped.process.communicate(timeout=20)
    assert shown == b"one\xff\x00two\r" + bytes(3_000_000) + b"three"
    assert wrapped.log.read_bytes() == shown
    assert complaints == b""


def test_a_log_that_was_fetched_is_gone_on_with(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before the eviction\n")
    with Wrapped(tmp_path, "echo after", log=log) as wrapped:
        wrapped.collected()
        assert wrapped.left() == 0
    assert log.read_text() == "before the eviction\nafter\n"


def test_a_command_is_given_nothing_of_the_wrappers(tmp_path: Path) -> None:
    command = 'cat; env; echo "$#,$-,${handover-none}"; ls -l /proc/self/fd'
    with Wrapped(tmp_path, command) as wrapped:
        wrapped.collected()
        shown = wrapped.process.communicate(timeout=20)[0].decode()
    assert str(wrapped.handover) not in shown.partition("none\n")[0]
    assert "0,hBc,none" in shown
    # Standard input is empty; ls itself opens the fourth.
    assert shown.partition("none\n")[2].count("->") == 4


def test_what_a_command_left_behind_has_ended_when_its_code_is_handed_over(tmp_path: Path) -> None:
    command = "{ trap '' TERM; while :; do date > $SEEN/tick; sleep 0.02; done; } & sleep 0.2"
    with Wrapped(tmp_path, command) as wrapped:
        assert wrapped.handed_over()["exit_code"] == 0
        before = (wrapped.seen / "tick").stat().st_mtime_ns
        time.sleep(0.2)
        assert (wrapped.seen / "tick").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_told_to_end_it_says_so_first_and_passes_it_on(tmp_path: Path, number: int) -> None:
    """The marker is there when the command hears of it; a command that saves and says 0 is no success."""
    command = _SAVES.replace("touch $SEEN/saved", "ls handover/terminating > $SEEN/saved")
    with Wrapped(tmp_path, command) as wrapped:
        wrapped.saw("up")
        wrapped.tell(number)
        assert wrapped.handed_over() == {"exit_code": 0, "oom_kills": 0, "ended": "terminated"}
        assert (wrapped.seen / "saved").read_text() == "handover/terminating\n"
        assert wrapped.process.poll() is None, "it did not wait until what is left was saved"
        wrapped.collected("saved")
        assert wrapped.left() == TERMINATED
        assert wrapped.last_words()["ended"] == "terminated"


def test_a_command_that_will_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    with Wrapped(tmp_path, f"trap '' TERM; {_RUNS}", grace=1) as wrapped:
        wrapped.saw("up")
        wrapped.tell()
        wrapped.tell()
        assert wrapped.handed_over() == {"exit_code": 137, "oom_kills": 0, "ended": "terminated"}
        wrapped.collected("saved")
        assert wrapped.left() == TERMINATED


def test_the_workers_of_a_command_have_the_grace_too(tmp_path: Path) -> None:
    """Its bash ends at once; a worker that saves for longer is waited for."""
    worker = "trap 'sleep 2.5; touch $SEEN/saved; exit' TERM; touch $SEEN/up; while :; do sleep 0.05; done"
    with Wrapped(tmp_path, f"( {worker} ) & exec sleep 60", grace=20) as wrapped:
        wrapped.saw("up")
        wrapped.tell()
        assert wrapped.handed_over()["ended"] == "terminated"
        assert (wrapped.seen / "saved").exists()


def test_nobody_saves_what_is_left_and_it_goes_all_the_same(tmp_path: Path) -> None:
    with Wrapped(tmp_path, _RUNS, grace=1, save=1) as wrapped:
        wrapped.saw("up")
        wrapped.tell()
        assert wrapped.left() == TERMINATED


@pytest.mark.parametrize("code", [0, 7, 143])
def test_told_to_end_while_collecting(tmp_path: Path, code: int) -> None:
    with Wrapped(tmp_path, f"exit {code}") as wrapped:
        assert wrapped.handed_over()["ended"] == "command"
        wrapped.tell()
        wrapped.file("terminating")
        wrapped.collected("saved")
        assert wrapped.left() == TERMINATED


@pytest.mark.parametrize(("code", "left"), [(0, 0), (7, 7), (143, 1)])
def test_told_to_end_when_the_result_was_committed_it_leaves_as_the_result_says(
    tmp_path: Path, code: int, left: int
) -> None:
    with Wrapped(tmp_path, f"exit {code}") as wrapped:
        wrapped.handed_over()
        wrapped.tell()
        wrapped.file("terminating")
        wrapped.collected("committed")
        assert wrapped.left() == left


def test_told_to_end_while_collecting_it_waits_no_longer_than_it_has(tmp_path: Path) -> None:
    with Wrapped(tmp_path, "exit 0", grace=1, save=1, collect=1000) as wrapped:
        wrapped.handed_over()
        wrapped.tell()
        assert wrapped.left() == TERMINATED


@pytest.mark.parametrize("code", [0, 7])
def test_a_collector_that_never_comes_is_waited_for_until_the_deadline(
    tmp_path: Path, code: int
) -> None:
    with Wrapped(tmp_path, f"exit {code}", collect=1) as wrapped:
        assert wrapped.left() == UNCOLLECTED
        assert wrapped.last_words() == {"exit_code": code, "oom_kills": 0, "ended": "uncollected"}


def test_outputs_that_are_refused_are_no_success(tmp_path: Path) -> None:
    with Wrapped(tmp_path, "exit 0") as wrapped:
        wrapped.handed_over()
        wrapped.collected("outputs")
        assert wrapped.left() == UNCOLLECTED


@pytest.mark.parametrize(
    ("command", "code", "left"),
    [(_SAVES, 0, STOPPED), (_RUNS, 143, STOPPED), (f"trap '' TERM; {_RUNS}", 137, 137)],
)
def test_a_closed_attempts_command_is_ended(
    tmp_path: Path, command: str, code: int, left: int
) -> None:
    with Wrapped(tmp_path, command, grace=1) as wrapped:
        wrapped.saw("up")
        wrapped.stop()
        assert wrapped.handed_over() == {"exit_code": code, "oom_kills": 0, "ended": "stopped"}
        assert not wrapped.has("terminating")
        wrapped.collected("closed")
        assert wrapped.left() == left


def test_closed_and_then_told_to_end_it_was_told_to_end(tmp_path: Path) -> None:
    command = "trap 'touch $SEEN/told' TERM; touch $SEEN/up; while :; do sleep 0.05; done"
    with Wrapped(tmp_path, command, grace=3) as both:
        both.saw("up")
        both.stop()
        both.saw("told")
        both.tell()
        both.file("terminating")
        assert both.handed_over()["ended"] == "terminated"
        both.collected("saved")
        assert both.left() == TERMINATED


def test_told_to_end_before_the_command_began_it_never_begins(tmp_path: Path) -> None:
    """Held up in between by a mkfifo that waits."""
    programs = tmp_path / "bin"
    programs.mkdir()
    slow = programs / "mkfifo"
    real = shutil.which("mkfifo")
    slow.write_text(
        f"#!/bin/sh\ntouch $SEEN/held\nuntil [ -e $SEEN/go ]; do sleep 0.05; done\n{real} $1\n"
    )
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    path = f"PATH={programs}:{os.environ['PATH']}"
    with Wrapped(tmp_path, "touch $SEEN/up", before=("env", path)) as wrapped:
        wrapped.saw("held")
        wrapped.tell()
        (wrapped.seen / "go").touch()
        assert wrapped.left() == TERMINATED
        assert wrapped.handed_over() == {"exit_code": None, "oom_kills": 0, "ended": "terminated"}
        assert wrapped.has("terminating")
        assert not (wrapped.seen / "up").exists()


def test_a_log_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with Wrapped(tmp_path, "touch $SEEN/up", log=tmp_path / "file" / "log") as wrapped:
        assert wrapped.handed_over() == {"exit_code": None, "oom_kills": 0, "ended": "unstarted"}
        wrapped.collected("storage")
        assert wrapped.left() == UNCOLLECTED
        assert wrapped.last_words()["ended"] == "unstarted"
        assert not (wrapped.seen / "up").exists()
        assert b"cannot write" in wrapped.process.communicate()[1]


def test_killed_itself_it_hands_over_nothing(tmp_path: Path) -> None:
    with Wrapped(tmp_path, f"echo $$ > $SEEN/pid; {_RUNS}") as wrapped:
        wrapped.saw("up")
        wrapped.process.kill()
        assert wrapped.left() == -signal.SIGKILL
        assert {one.name for one in wrapped.handover.iterdir()} == {"started", "log.pipe"}
        assert not wrapped.words.exists()
        # In a container all of it dies with process 1.
        os.killpg(int((wrapped.seen / "pid").read_text()), signal.SIGKILL)
        wrapped.stop()


def test_a_tee_that_is_killed_loses_output_and_not_the_exit_code(tmp_path: Path) -> None:
    """As when memory ran out and it was chosen: the command hears of it by SIGPIPE."""
    command = "touch $SEEN/up; while sleep 0.02; do echo x || exit; done"
    with Wrapped(tmp_path, command) as wrapped:
        wrapped.saw("up")
        children = Path(f"/proc/{wrapped.process.pid}/task/{wrapped.process.pid}/children")
        [tee] = [
            int(pid)
            for pid in children.read_text().split()
            if Path(f"/proc/{pid}/comm").read_text() == "tee\n"
        ]
        os.kill(tee, signal.SIGKILL)
        assert wrapped.handed_over()["exit_code"] not in (0, None)
        wrapped.collected()
        assert wrapped.left()


class AsFirst(Wrapped):
    """The wrapper as process 1 of a namespace, as in a container."""

    def __init__(self, folder: Path, command: str, **more: int) -> None:
        enter = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
        if os.geteuid():
            enter = (*enter, "--user", "--map-root-user")
        super().__init__(folder, command, before=enter, **more)

    def tell(self, number: int = signal.SIGTERM) -> None:
        pid = self.process.pid
        [first] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(first), number)


def test_as_process_1_it_ends_even_who_left_the_group(tmp_path: Path) -> None:
    """Such a one holds the log's pipe open, too, and outlives no hand-over."""
    away = "setsid bash -c 'trap \"\" TERM; while :; do date > $SEEN/tick; sleep 0.02; done' &"
    with AsFirst(tmp_path, f"{away} until [ -e $SEEN/tick ]; do sleep 0.02; done; exit 7") as first:
        assert first.handed_over()["exit_code"] == 7
        before = (first.seen / "tick").stat().st_mtime_ns
        time.sleep(0.2)
        assert (first.seen / "tick").stat().st_mtime_ns == before
        first.collected()
        assert first.left() == 7


def test_as_process_1_it_hears_that_it_should_end(tmp_path: Path) -> None:
    with AsFirst(tmp_path, _SAVES) as first:
        first.saw("up")
        first.tell()
        assert first.handed_over() == {"exit_code": 0, "oom_kills": 0, "ended": "terminated"}
        first.collected("saved")
        assert first.left() == TERMINATED


def expanded(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of an argument (k8s.io/kubernetes/third_party/forked/golang/expansion)."""
    made, at = "", 0
    while at < len(text):
        rest = text[at + 1 :]
        if text[at] != "$" or not rest:
            made, at = made + text[at], at + 1
        elif rest[0] == "$":
            made, at = made + "$", at + 2
        elif rest[0] == "(" and ")" in rest:
            name = rest[1 : rest.index(")")]
            made, at = made + variables.get(name, f"$({name})"), at + 3 + len(name)
        else:
            made, at = made + "$" + rest[0], at + 2
    return made


@given(st.text("$()aHOME{} \n"))
def test_kubernetes_replaces_nothing_in_what_is_literal(text: str) -> None:
    assert expanded(literal(text), {"HOME": "!", "a": "!", "": "!"}) == text


def test_the_arguments_arrive_as_they_are() -> None:
    command = "echo $(date) $$ $(HOME)"
    first, rest = as_arguments(
        command, log="/workspace/l", grace_seconds=1, save_seconds=2, collect_seconds=3
    )
    assert [expanded(one, {"HOME": "!"}) for one in first] == ["bash", "-c", WRAPPER, "launcher"]
    assert [expanded(one, {"HOME": "!"}) for one in rest][-1] == command
