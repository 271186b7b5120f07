"""Whatever kills, stops or outruns a promoter, a pointer's number has one owner and the file follows it.

The oracle after every case: the next writing command ends every open intent; the ledger's account is the
store's; what is live hashes right and is what the target file holds; no backup was overwritten; doing it again
does nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import blob_key
from launcher.workspace import Workspace
from tests.cli.session import Session
from tests.e2e.project import LAUNCHER
from tests.fault.promotion_child import CALLS, place
from tests.launcher.pointer_world import TARGET, make_project, project_workspace, student_of
from tests.rig.racers import race

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


def launcher(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``launcher …`` in the project ``root``."""
    return subprocess.run(
        [str(LAUNCHER), *arguments],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}


def files_beside(root: Path) -> dict[str, bytes]:
    """The target and what stands beside it; the lock's note left out."""
    folder = (root / TARGET).parent
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def settled(root: Path) -> PointerHistory:
    """Attend to what was left, twice; check the oracle; the pointer's history."""
    ws = project_workspace(root)
    assert ws.attend() == []
    size, beside = ws.ledger.head().size, files_beside(root)
    ws.ledger.close()
    again = project_workspace(root)
    assert again.attend() == []
    assert again.ledger.head().size == size
    assert files_beside(root) == beside
    history = checked(again)
    again.ledger.close()
    leftovers = [p.name for p in (root / TARGET).parent.iterdir() if p.is_dir()]
    assert leftovers == [] or all(name.endswith(".new") for name in leftovers)
    return history


def checked(ws: Workspace) -> PointerHistory:
    history = Pointers(ws.store).history(TARGET)
    account = ws.journal.pointer(TARGET)
    assert account.open == {}
    assert list(account.generations.values()) == list(history.generations)
    live = history.live
    assert live is not None
    assert live.digest is not None
    ws.store.verify_blob(live.digest)
    assert (ws.root / TARGET).read_bytes() == ws.store.read_blob(live.digest)
    for name in ("a", "b"):
        assert ws.documents.check(ws.journal.run(name)) == []
    return history


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``template`` is a project, living in ``p``: run a is live over a file that was there before; b is not."""
    root = make_project(tmp_path_factory.mktemp("promotion") / "p", "a", "b", "c")
    (root / TARGET).parent.mkdir(parents=True)
    (root / TARGET).write_bytes(b"from before\n")
    ws = project_workspace(root)
    ws.promoter.promote(ws.journal.run("a"), TARGET, automatic=True)
    ws.attend()
    ws.ledger.close()
    root.rename(root.parent / "template")
    return root.parent


def killed_everywhere(folder: Path, job: str) -> list[str]:
    """The effects of a job; in ``folder``, as ``<job>-<n>``, the project as it was killed before each."""
    said = folder / f"{job}.json"
    if not said.exists():
        child = subprocess.run(
            [sys.executable, "-m", "tests.fault.promotion_child", str(folder), job],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert child.returncode == 0, child.stderr
    effects = json.loads(said.read_bytes())
    assert isinstance(effects, list)
    return effects


@pytest.mark.parametrize("job", ["promote", "automatic"])
def test_a_promotion_killed_before_any_effect(template: Path, job: str) -> None:
    effects = killed_everywhere(template, job)
    intent = effects.index("append")
    assert effects.count("append") == 2
    assert set(effects) <= {*CALLS, "append"}
    for number in range(len(effects)):
        root = place(template, f"{job}-{number}")
        before = Pointers(project_workspace(root, writing=False).store).history(TARGET)
        history = settled(root)
        finished = number > intent
        assert [g.kind for g in history.generations] == ["adoption", "promotion"] + (
            ["promotion"] if finished else []
        ), (effects, number)
        assert history.latest - before.latest in (0, 1)
        beside = files_beside(root)
        assert beside.pop("student_latest.pt") == student_of("b" if finished else "a")
        assert beside.pop("student_latest.pt.bak.a") == b"from before\n"
        expected = {"student_latest.pt.bak.b": student_of("a")} if finished else {}
        assert beside == expected, (effects, number)
        if finished:
            record = json.loads((root / "runs/self_distill/b/metadata/promotion.json").read_bytes())
            assert record["backup"] == TARGET + ".bak.b", (effects, number)
            assert record["promoted_from"] == "runs/self_distill/b/checkpoints/student.pt"


def test_a_rollback_killed_before_any_effect(template: Path) -> None:
    effects = killed_everywhere(template, "rollback")
    intent = effects.index("append")
    for number in range(len(effects)):
        root = place(template, f"rollback-{number}")
        history = settled(root)
        assert history.live is not None
        assert (history.live.kind == "rollback") is (number > intent), (effects, number)
        # Pressed again by whoever saw it die: back to what was there before, and held.
        ws = project_workspace(root)
        ws.promoter.rollback(
            TARGET, history.rollback_target("1"), reason="bad", base=history.latest
        )
        ws.ledger.close()
        history = checked(project_workspace(root))
        assert [g.kind for g in history.generations] == ["adoption", "promotion", "rollback"]
        ws = project_workspace(root, writing=False)
        assert ws.promoter.held_by(TARGET) == history.live
        assert ws.journal.pointer(TARGET).held == {3}


def test_a_rollback_without_the_ledger_killed_before_any_effect(template: Path) -> None:
    effects = killed_everywhere(template, "standalone")
    assert "append" not in effects
    for number in range(len(effects)):
        root = place(template, f"standalone-{number}")
        made = Pointers(project_workspace(root, writing=False).store).history(TARGET).latest == 3
        history = settled(root)
        assert (history.latest == 3) is made
        ws = project_workspace(root, writing=False)
        assert (ws.promoter.held_by(TARGET) is not None) is made
        assert ws.journal.pointer(TARGET).held == ({3} if made else set())


def test_an_intent_that_died_loses_to_a_rollback_and_to_a_damaged_blob(template: Path) -> None:
    effects = killed_everywhere(template, "automatic")
    number = effects.index("append") + 1  # the intent is there, its generation is not
    root = place(template, f"automatic-{number}")
    ws = project_workspace(root)
    assert len(ws.journal.pointer(TARGET).open) == 1
    ws.ledger.close()
    done = launcher(root, "rollback", TARGET, "--to", "1", "--yes")
    assert done.returncode == 0, done
    kinds = [g.kind for g in settled(root).generations]
    assert kinds == ["adoption", "promotion", "fence", "rollback"]
    assert (root / TARGET).read_bytes() == b"from before\n"

    root = place(template, f"automatic-{number}")
    ws = project_workspace(root, writing=False)
    student = ws.journal.run("b").student
    assert student is not None
    blob = Path(ws.store.where, blob_key(student.digest))
    blob.chmod(0o644)
    blob.write_bytes(b"short")
    history = settled(root)
    assert [g.kind for g in history.generations] == ["adoption", "promotion", "fence"]
    assert "damaged: it has 5 bytes of" in (history.generations[2].reason or "")
    assert (root / TARGET).read_bytes() == student_of("a")


# --- together -------------------------------------------------------------------------------------


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(LAUNCHER), *arguments],
        cwd=root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_twenty_promoters_at_one_generation(tmp_path: Path) -> None:
    names = [f"run{i:02d}" for i in range(20)]
    root = make_project(tmp_path / "p", "a", "b", *names)
    assert launcher(root, "promote", "a", TARGET).returncode == 0
    commands = [("promote", n, TARGET, "--expect-generation", "1") for n in names]
    ended = dict(zip(names, race(Session(root), *commands), strict=True))
    winners = [name for name, done in ended.items() if done.code == 0]
    assert len(winners) == 1, ended
    losers = [done for name, done in ended.items() if name not in winners]
    assert {done.code for done in losers} == {3}, losers
    for done in losers:
        [line] = done.err.splitlines()
        assert f"lost the race, g2 is run {winners[0]} by " in line
    history = settled(root)
    assert [g.run_id for g in history.generations] == ["a", winners[0]]
    assert (root / TARGET).read_bytes() == student_of(winners[0])
    assert files_beside(root) == {
        "student_latest.pt": student_of(winners[0]),
        f"student_latest.pt.bak.{winners[0]}": student_of("a"),
    }


def test_a_rollback_against_promotions_one_wins_each_number(tmp_path: Path) -> None:
    """A rollback that looked before a promotion loses to it or beats it; one that looked later goes back from it."""
    root = make_project(tmp_path / "p", "a", "b", "c", "d")
    for run_id in ("a", "b"):
        assert launcher(root, "promote", run_id, TARGET).returncode == 0
    back = start(root, "rollback", TARGET, "--yes")
    racers = [start(root, "promote", r, TARGET, "--expect-generation", "2") for r in ("c", "d")]
    codes = []
    for process in (back, *racers):
        process.communicate(timeout=120)
        codes.append(process.returncode)
    assert set(codes) <= {0, 3}
    moved = [g.kind for g in settled(root).generations[2:] if g.kind != "fence"]
    assert 1 <= len(moved) == codes.count(0)
    assert moved in (["promotion"], ["rollback"], ["promotion", "rollback"])
    assert ("rollback" in moved) is (codes[0] == 0)


# --- stopped and woken ----------------------------------------------------------------------------


def stopped_at(root: Path, run_id: str, moment: str) -> subprocess.Popen[str]:
    """A promoter of ``run_id`` that stopped itself (SIGSTOP) at ``moment``: before or after its create, or
    with the target's lock in its hands, before it replaces the file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.sleeper_child", str(root), run_id, moment],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, process)
    return process


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < end
        time.sleep(0.01)


def woken(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return out, err, process.returncode


def test_a_promoter_asleep_after_its_intent_loses_to_a_rollback(template: Path) -> None:
    root = place(template, "template")
    sleeper = stopped_at(root, "b", "before create")
    assert launcher(root, "rollback", TARGET, "--to", "1", "--yes").returncode == 0
    out, err, code = woken(sleeper)
    assert (out, code) == ("", 3)
    assert "lost the race, g3 is a fence by " in err
    assert "a rollback took its place" in err
    history = settled(root)
    assert [g.kind for g in history.generations] == ["adoption", "promotion", "fence", "rollback"]
    assert (root / TARGET).read_bytes() == b"from before\n"


@pytest.mark.parametrize("moment", ["before create", "after create"])
def test_a_promoter_asleep_is_finished_by_the_next_and_brings_no_old_file(
    template: Path, moment: str
) -> None:
    root = place(template, "template")
    sleeper = stopped_at(root, "b", moment)
    done = launcher(root, "promote", "c", TARGET)
    assert done.returncode == 0, done
    assert (root / TARGET).read_bytes() == student_of("c")
    out, err, code = woken(sleeper)
    assert code == 0, err
    assert "g3" in out
    history = settled(root)
    assert [g.run_id for g in history.generations] == [None, "a", "b", "c"]
    assert (root / TARGET).read_bytes() == student_of("c")


def test_a_promoter_asleep_with_the_lock_brings_the_winner_when_it_wakes(template: Path) -> None:
    """The rollback is live at once; the file waits for the sleeper, who asks the pointer again."""
    root = place(template, "template")
    sleeper = stopped_at(root, "b", "before replace")
    roller = subprocess.run(
        [sys.executable, "-m", "tests.fault.sleeper_child", str(root), "-", "roll back"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert roller.returncode == 0, roller.stderr
    out, err, code = woken(sleeper)
    assert code == 0, (out, err)
    assert (root / TARGET).read_bytes() == student_of("a")
    history = settled(root)
    assert [g.kind for g in history.generations] == [
        "adoption",
        "promotion",
        "promotion",
        "rollback",
    ]
