"""promote, rollback, release, pointers and pull as a person types them, on the installed program."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.storage.port import blob_key
from ledger.stores.port import NewEvent
from ledger.stores.sqlite import SqliteEventStore
from tests.e2e.project import LAUNCHER, Done, Project
from tests.launcher.pointer_world import TARGET, make_project, project_workspace, student_of
from tests.ledger.samples import NOW, StageAbandoned
from tests.rig.stores import copy_project, object_file, project_store

RUNS = ("20260611T021500Z-7f3a", "20260610T021500Z-c90d", "20260609T021500Z-b21c")
B21C, C90D, A7F3 = "0609-b21c", "0610-c90d", "0611-7f3a"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``template`` is a project, living in ``my project``, with three runs of which two were promoted."""
    top = tmp_path_factory.mktemp("pointers")
    root = make_project(top / "my project", *reversed(RUNS))
    project = Project(root, {"LAUNCHER_ACTOR": "ana"})
    for run in (B21C, C90D):
        assert project.launcher("promote", run, TARGET).code == 0
    copy_project(root, top / "template")
    return top


@pytest.fixture
def project(template: Path) -> Project:
    root = template / "my project"
    copy_project(template / "template", root)
    return Project(root, {"LAUNCHER_ACTOR": "ana"})


def kinds(project: Project, target: str = TARGET) -> list[str]:
    said = json.loads(project.launcher("pointers", target, "--json").out)
    return [g["kind"] for g in said["generations"]]


def damage_ledger(project: Project, how: str) -> None:
    path = project.root / "runs/self_distill/ledger.db"
    if how == "damaged":
        path.write_bytes(b"\0" * 4096)
    elif how == "away":
        path.rename(path.with_name("elsewhere.db"))
    else:
        ledger = SqliteEventStore(path)
        import ledger.records as records

        known = records.refuse_newer
        records.refuse_newer = lambda _: None
        try:
            ledger.append(
                "run/z", 0, [NewEvent("n", StageAbandoned(stage="x"))], now=NOW, actor="later"
            )
        finally:
            records.refuse_newer = known
        ledger.close()


# --- promote --------------------------------------------------------------------------------------


def test_promote_says_what_is_live_where_the_old_one_is_and_how_to_undo(project: Project) -> None:
    done = project.launcher("promote", A7F3, TARGET, "--reason", "better")
    assert (done.code, done.err) == (0, "")
    live, backup, undo = done.out.splitlines()
    digest = project_workspace(project.root).journal.run(RUNS[0]).student
    assert digest is not None
    assert live == f"live    {TARGET} g3 = {A7F3}  {digest.size_bytes} B  {digest.digest[:19]}…"
    assert backup == f"backup  {TARGET}.bak.{RUNS[0]}"
    assert undo == f"undo    launcher rollback {TARGET} --to 2"
    again = project.launcher("promote", "7f3a", TARGET)
    assert again.out == f"{TARGET} g3 has this checkpoint already: nothing to do\n"
    assert again.code == 0


def test_promote_that_comes_too_late_says_who_was_first(project: Project) -> None:
    done = project.launcher("promote", A7F3, TARGET, "--expect-generation", "1")
    assert done.code == 3
    assert done.err == (
        f"launcher: {TARGET}: lost the race, g2 is run {RUNS[1]} by ana "
        f"(launcher pointers {TARGET})\n"
    )


def test_promote_of_what_is_not_there(project: Project) -> None:
    for run, code in (("nothing", 2), ("2026", 2)):
        done = project.launcher("promote", run, TARGET)
        assert done.code == code
        assert done.err.count("\n") == 1
    assert "names 3 runs" in project.launcher("promote", "2026", TARGET).err


def test_an_absolute_target_outside_the_project_and_its_commands_with_spaces(
    project: Project, tmp_path: Path
) -> None:
    target = tmp_path / "shared models" / "student.pt"
    done = project.launcher("promote", B21C, str(target))
    assert done.code == 0, done
    done = project.launcher("promote", C90D, str(target))
    assert target.read_bytes() == student_of(RUNS[1])
    assert f"undo    launcher rollback '{target}' --to 1" in done.out
    done = project.bare("bash", "-c", f"'{LAUNCHER}' rollback '{target}' --to 1 --yes")
    assert done.code == 0, done
    assert target.read_bytes() == student_of(RUNS[2])
    assert f"when fixed: launcher release '{target}'" in done.out
    assert project.launcher("release", str(target)).code == 0
    held = json.loads(project.launcher("pointers", str(target), "--json").out)
    assert held["held"] is False


# --- rollback -------------------------------------------------------------------------------------


def test_rollback_shows_what_is_live_what_comes_and_how_to_go_on(project: Project) -> None:
    done = project.launcher("rollback", TARGET, "--reason", "stuck in menus", "--yes")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"live  {TARGET} g2 = {C90D}  ")
    assert " by ana" in lines[0]
    assert lines[1].startswith(f"  to  {TARGET} g1 = {B21C}  ")
    assert lines[2] == f"blob present, {len(student_of(RUNS[2]))} B, size as recorded"
    assert lines[3].startswith(f"live: {TARGET} g3 = checkpoint of g1  ")
    assert lines[3].split()[-2] == "position"
    assert lines[4] == f"backup  {TARGET}.bak.{RUNS[2]}"
    assert lines[5] == (
        f"automatic promotions of {TARGET} are held; when fixed: launcher release {TARGET}"
    )
    assert lines[6] == f"undo: launcher rollback {TARGET} --to 2"
    assert len(lines) == 7
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[2])
    again = project.launcher("rollback", TARGET, "--yes")
    assert again.code == 3
    assert "no earlier checkpoint that was not withdrawn" in again.err


@pytest.mark.parametrize("to", ["1", B21C, "digest"])
def test_rollback_to_a_generation_a_run_or_a_digest(project: Project, to: str) -> None:
    body = project_workspace(project.root).promoter.history(TARGET).generations[0]
    assert body.digest is not None
    given = {"digest": body.digest[7:19]}.get(to, to)
    done = project.launcher("rollback", TARGET, "--to", given, "--yes", "--deep")
    assert done.code == 0, done
    assert "every byte checked" in done.out
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[2])
    again = project.launcher("rollback", TARGET, "--to", given, "--yes")
    assert again.code == 0
    assert "this checkpoint is live already: nothing to do" in again.out
    assert kinds(project) == ["promotion", "promotion", "rollback"]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("9", "has no generation 9"),
        ("nobody", "never named 'nobody'"),
        ("20260", "has no generation 20260"),
        ("Z-", "never named"),
    ],
)
def test_rollback_to_what_never_was(project: Project, to: str, said: str) -> None:
    done = project.launcher("rollback", TARGET, "--to", to, "--yes")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert kinds(project) == ["promotion", "promotion"]


def test_rollback_of_nothing(project: Project) -> None:
    done = project.launcher("rollback", "other", "--yes")
    assert (done.code, done.out) == (2, "")
    assert "other has no generation" in done.err


def test_without_a_terminal_the_question_needs_an_answer_beforehand(project: Project) -> None:
    done = project.launcher("rollback", TARGET)
    assert done.code == 2
    assert "add --yes" in done.err
    assert kinds(project) == ["promotion", "promotion"]


def answered(project: Project, answer: bytes) -> tuple[str, int]:
    """``launcher rollback`` on a terminal, and what was typed at its question."""
    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    env |= project_store(project.root)
    process = subprocess.Popen(
        [str(LAUNCHER), "rollback", TARGET], cwd=project.root, env=env, stdin=slave, stdout=slave,
        stderr=slave,
    )  # fmt: skip
    os.close(slave)
    seen, typed = b"", False
    while True:
        ready, _, _ = select.select([master], [], [], 60)
        assert ready, seen
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the terminal's other side is closed
            break
        if not chunk:
            break
        seen += chunk
        if b"Roll back? [Y/n]" in seen and not typed:
            os.write(master, answer)
            typed = True
    os.close(master)
    return seen.decode(), process.wait(60)


def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(project: Project) -> None:
    said, code = answered(project, b"n\n")
    assert code == 130
    assert "stopped" in said
    assert kinds(project) == ["promotion", "promotion"]
    said, code = answered(project, b"\n")
    assert code == 0
    assert f"✓ live: {TARGET} g3 = checkpoint of g1" in said
    assert "! automatic promotions of" in said


def test_a_flipped_blob_is_not_rolled_back_to(project: Project) -> None:
    ws = project_workspace(project.root)
    body = ws.promoter.history(TARGET).generations[0]
    assert body.digest is not None
    path = object_file(project.root, blob_key(body.digest))
    path.chmod(0o644)
    path.write_bytes(b"x" * len(path.read_bytes()))
    for options in ((), ("--deep",)):
        done = project.launcher("rollback", TARGET, "--yes", *options)
        assert done.code == 4
        assert body.digest in done.err
    assert kinds(project) == ["promotion", "promotion"]
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[1])


# --- without the ledger ---------------------------------------------------------------------------


@pytest.mark.folder
@pytest.mark.parametrize("how", ["damaged", "away", "newer"])
def test_rollback_with_nothing_but_the_store(project: Project, how: str) -> None:
    ledger = project.root / "runs/self_distill/ledger.db"
    good = ledger.read_bytes()
    damage_ledger(project, how)
    before = ledger.read_bytes() if ledger.exists() else None
    done = project.launcher("rollback", TARGET, "--yes", "--reason", "bad")
    assert done.code == 0, done
    assert done.err.startswith("launcher: without the ledger: ")
    assert done.err.count("\n") == 1
    assert f"live: {TARGET} g3 = checkpoint of g1" in done.out
    assert "the ledger imports this when it is back" in done.out
    assert f"launcher release {TARGET}" in done.out
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[2])
    assert (ledger.read_bytes() if ledger.exists() else None) == before
    again = project.launcher("rollback", TARGET, "--to", "1", "--yes")
    assert again.code == 0
    assert "nothing to do" in again.out

    ledger.write_bytes(good)
    assert project.launcher("release", TARGET, "--reason", "fixed").code == 0
    account = project_workspace(project.root).journal.pointer(TARGET)
    assert (account.latest, account.held, account.released) == (3, {3}, {3})
    assert account.confirmations[-1][1].imported
    assert list(account.generations.values()) == list(
        project_workspace(project.root).promoter.history(TARGET).generations
    )


@pytest.mark.folder
def test_rollback_past_a_ledger_that_cannot_be_written(project: Project) -> None:
    """The intent cannot be appended; the store takes the rollback all the same, and once."""
    script = (
        "import sys\n"
        "from ledger.errors import LedgerUnavailableError\n"
        "from ledger.stores.sqlite import SqliteEventStore\n"
        "def full(self, *a, **k): raise LedgerUnavailableError(self.where, 'the disk is full')\n"
        "SqliteEventStore.append = full\n"
        "from launcher.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    python = str(Path(LAUNCHER).with_name("python"))
    done = project.bare(python, "-c", script, "rollback", TARGET, "--yes")
    assert done.code == 0, done
    assert "without the ledger" in done.err
    assert "the disk is full" in done.err
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[2])
    assert kinds(project) == ["promotion", "promotion", "rollback"]
    assert project.launcher("release", TARGET).code == 0


@pytest.mark.folder
def test_the_wrong_store_is_not_rolled_back_in(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "store"
    shutil.copytree(project.root / "runs/self_distill/objects", other)
    encoded = other / "pointers" / TARGET.replace("/", "%2F")
    (encoded / "00000002.json").unlink()
    project.environment["LAUNCHER_STORE"] = str(other)
    done = project.launcher("rollback", TARGET, "--to", "1", "--yes")
    assert done.code == 4
    assert "the ledger knows g2" in done.err
    assert not (encoded / "00000002.json").exists()


@pytest.mark.folder
def test_pointers_without_the_ledger(project: Project) -> None:
    damage_ledger(project, "damaged")
    done = project.launcher("pointers", TARGET)
    assert done.code == 0
    assert f"{C90D}" in done.out
    assert "releases are not shown" in done.err


# --- hold and release -----------------------------------------------------------------------------


def test_release_ends_the_hold_and_promotes_nothing(project: Project) -> None:
    assert project.launcher("rollback", TARGET, "--yes").code == 0
    done = project.launcher("release", TARGET, "--reason", "fixed")
    assert done.code == 0
    assert done.out == f"{TARGET} is released (it was held since g3); nothing was promoted\n"
    again = project.launcher("release", TARGET)
    assert (again.code, again.out) == (3, "")
    assert f"{TARGET} is not held" in again.err
    assert kinds(project) == ["promotion", "promotion", "rollback"]


# --- files that cannot be written -----------------------------------------------------------------


def test_a_target_that_cannot_be_written_stops_its_own_commands_and_no_other(
    project: Project,
) -> None:
    lock = (project.root / TARGET).with_name(".student_latest.pt.lock")
    lock.unlink()
    lock.mkdir()
    (project.root / TARGET).unlink()
    for command in (("rollback", TARGET, "--yes"), ("promote", A7F3, TARGET)):
        done = project.launcher(*command)
        assert done.code == 5, done
        assert "cannot lock" in done.err.splitlines()[-1]
    assert kinds(project) == ["promotion", "promotion"]
    done = project.launcher("promote", A7F3, "student")
    assert done.code == 0
    assert done.err.startswith(f"warning: {TARGET}: the file is behind its pointer: cannot lock")
    lock.rmdir()
    assert project.launcher("rollback", TARGET, "--to", "1", "--yes").code == 0
    assert (project.root / TARGET).read_bytes() == student_of(RUNS[2])


# --- pointers -------------------------------------------------------------------------------------


def test_pointers_shows_each_and_one_with_its_history(project: Project) -> None:
    project.launcher("promote", A7F3, "student")
    project.launcher("rollback", TARGET, "--yes", "--reason", "stuck in menus")
    both = project.launcher("pointers")
    assert (both.code, both.err) == (0, "")
    first, second = both.out.splitlines()
    assert first.startswith(f"{TARGET} g3 = {B21C}  ")
    assert first.endswith("ago")
    assert "held by ana" in first
    assert second.startswith(f"student g1 = {A7F3}  ")
    one = project.launcher("pointers", TARGET)
    lines = one.out.splitlines()
    assert lines[0] == TARGET
    assert [line.split()[0] for line in lines[1:4]] == ["g3", "g2", "g1"]
    assert "rollback of g1" in lines[1]
    assert lines[1].endswith('live  "stuck in menus"')
    assert lines[2].endswith("withdrawn")
    assert lines[4] == f"held since g3; when fixed: launcher release {TARGET}"
    assert all("\x1b" not in line for line in lines)


def test_pointers_as_json_and_as_it_was(project: Project) -> None:
    ws = project_workspace(project.root)
    _, second = ws.promoter.history(TARGET).generations
    project.launcher("rollback", TARGET, "--yes")
    project.launcher("release", TARGET)
    [row] = json.loads(project.launcher("pointers", "--json").out)
    assert row == {
        "name": TARGET,
        "live": row["live"],
        "held": False,
        "held_by": None,
        "followers": {"on": 0, "behind": 0, "failed": 0, "silent": 0, "unread": 0, "hosts": []},
        "withdrawn": [2],
    }
    assert row["live"]["generation"] == 3
    then = json.loads(project.launcher("pointers", TARGET, "--json", "--at", second.time).out)
    assert [g["generation"] for g in then["generations"]] == [1, 2]
    assert then["live"]["run_id"] == RUNS[1]
    rolled_back = json.loads(project.launcher("pointers", TARGET, "--json").out)["live"]["time"]
    held = json.loads(project.launcher("pointers", TARGET, "--json", "--at", rolled_back).out)
    assert (held["held"], held["held_by"]) == (True, 3)  # the release came later
    assert project.launcher("pointers", TARGET, "--at", "yesterday").code == 2
    assert project.launcher("pointers", TARGET, "--at", "2001-01-01T00:00:00Z").code == 2


def test_reading_commands_change_nothing(project: Project) -> None:
    before = {p: p.stat().st_mtime_ns for p in project.root.rglob("*")}
    for command in (("pointers",), ("pointers", TARGET, "--json")):
        assert project.launcher(*command).code == 0
    assert {p: p.stat().st_mtime_ns for p in project.root.rglob("*")} == before


# --- pull -----------------------------------------------------------------------------------------


def pulled(project: Project, ref: str, dest: str) -> Done:
    return project.launcher("pull", ref, dest)


def test_pull_by_any_ref(project: Project) -> None:
    assert project.launcher("promote", A7F3, "student").code == 0
    (project.root / "out").mkdir()
    student = project_workspace(project.root).journal.run(RUNS[0]).student
    assert student is not None
    for ref, dest, path, of in (
        (f"run:{A7F3}", "got.pt", "got.pt", RUNS[0]),
        ("run:7f3a", "new folder/", "new folder/student.pt", RUNS[0]),
        ("pointer:student", "out", "out/student.pt", RUNS[0]),
        (f"pointer:./{TARGET}", "out", "out/student_latest.pt", RUNS[1]),
        (student.digest, "out", f"out/{student.digest[7:19]}.pt", RUNS[0]),
        (student.digest[:19] + "…", "x.pt", "x.pt", RUNS[0]),
    ):
        done = pulled(project, ref, dest)
        assert done.code == 0, done
        assert (project.root / path).read_bytes() == student_of(of)
        assert done.out.startswith(f"{project.root / path}  ")
        assert done.out.endswith("verified\n")


def test_pull_is_whole_or_not_at_all(project: Project) -> None:
    ws = project_workspace(project.root)
    student = ws.journal.run(RUNS[0]).student
    assert student is not None
    path = object_file(project.root, blob_key(student.digest))
    path.chmod(0o644)
    path.write_bytes(b"x" * student.size_bytes)
    dest = project.root / "got.pt"
    dest.write_bytes(b"mine")
    done = pulled(project, "run:7f3a", "got.pt")
    assert done.code == 4
    assert student.digest in done.err
    assert dest.read_bytes() == b"mine"
    assert [p.name for p in project.root.iterdir() if p.name.startswith(".tmp")] == []


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("student.pt", "is no ref"),
        ("run:nobody", "no run 'nobody'"),
        ("run:2026", "names 3 runs"),
        ("pointer:nothing", "names nothing yet"),
        ("sha256:xyz", "is not allowed"),
        ("sha256:" + "0" * 12, "begins with"),
    ],
)
def test_pull_of_what_is_not_there(project: Project, ref: str, said: str) -> None:
    done = pulled(project, ref, "x.pt")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (project.root / "x.pt").exists()


def test_pull_as_json(project: Project) -> None:
    done = project.launcher("pull", f"pointer:{TARGET}", "x.pt", "--json")
    said = json.loads(done.out)
    assert said["path"] == str(project.root / "x.pt")
    assert said["size_bytes"] == len(student_of(RUNS[1]))
