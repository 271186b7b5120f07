"""What doctor says of a machine, of what was left half done, and that it leaves nothing itself."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from launcher import doctor
from launcher.doctor import Finding
from launcher.project import network_filesystem
from launcher.settings import Settings
from launcher.storage.pointer import Pointers
from launcher.workspace import Workspace, open_workspace
from ledger import events as e
from tests.launcher.test_workspace import relabelled, request

NOW = "2026-01-31T02:00:00.000000Z"


def examined(root: Path, *, probe: bool = True, driven: bool = False) -> dict[str, list[Finding]]:
    settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, root, {})
    found: dict[str, list[Finding]] = {}
    for finding in doctor.examine(settings, root, probe=probe, is_driven=lambda _w, _r: driven):
        found.setdefault(finding.name, []).append(finding)
    return found


def code(found: dict[str, list[Finding]]) -> int:
    return doctor.exit_code([f for findings in found.values() for f in findings])


def workspace(root: Path) -> Workspace:
    return open_workspace(
        Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, root, {}), root, writing=True
    )


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A ledger with one ended run, and a store."""
    ws = workspace(tmp_path)
    ws.store.ingest_bytes(b"something")
    relabelled(ws, "ended")
    return ws


def names(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


# --- a sound machine --------------------------------------------------------------------------------


def test_a_sound_machine_is_sound_and_left_as_it_was(ws: Workspace) -> None:
    before = names(ws.root)
    found = examined(ws.root)
    assert {f.state for findings in found.values() for f in findings} == {"ok"}
    assert {"python", "bash", "create-only", "locks", "clock", "sqlite", "ledger"} <= found.keys()
    assert code(found) == 0
    assert names(ws.root) == before


def test_a_new_project_stays_empty(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert code(found) == 0
    assert "to be made in" in found["home"][0].what
    assert "create-only" not in found
    assert list(tmp_path.iterdir()) == []


def test_without_probes_nothing_is_made_in_the_store(ws: Workspace) -> None:
    before = ws.root.joinpath("runs/self_distill/objects").stat().st_mtime_ns
    found = examined(ws.root, probe=False)
    assert "create-only" not in found
    assert ws.root.joinpath("runs/self_distill/objects").stat().st_mtime_ns == before


# --- tools ------------------------------------------------------------------------------------------


def test_old_tools() -> None:
    assert doctor.python((3, 10, 4)).state == "failed"
    assert doctor.python((3, 10, 4)).code == 2
    assert doctor.python((3, 14, 0)).state == "ok"


@pytest.mark.parametrize(
    ("version", "mode", "state"),
    [
        ((3, 40, 1), None, "ok"),
        ((3, 40, 1), "rollback journal", "ok"),
        ((3, 40, 1), "write-ahead log", "warning"),
        ((3, 51, 3), "write-ahead log", "ok"),
    ],
)
def test_a_write_ahead_log_under_a_sqlite_that_loses_commits(
    version: tuple[int, int, int], mode: str | None, state: str
) -> None:
    assert doctor.sqlite(version, mode).state == state


def test_the_ledgers_journal_mode_is_read_without_opening_it(ws: Workspace) -> None:
    path = ws.home / "ledger.db"
    ws.ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
    db.close()
    assert doctor._journal_mode(path) == "write-ahead log"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=TRUNCATE")
    db.close()
    assert doctor._journal_mode(path) == "rollback journal"
    assert doctor._journal_mode(path.with_name("none.db")) is None


def test_no_bash_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (doctor.bash().state, doctor.bash().code) == ("failed", 2)
    assert doctor.git().state == "warning"
    (tmp_path / "bash").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "bash").chmod(0o755)
    assert doctor.bash().state == "failed"  # it does not know pipefail


# --- disk -------------------------------------------------------------------------------------------

MOUNTS = [
    ("/", "ext4"),
    ("/home", "nfs4"),
    ("/home/ana/fast", "xfs"),
    ("/mnt/a b", "fuse.sshfs"),
    ("/data", "cifs"),
    ("/data", "ext4"),
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ana/project", "nfs4"),
        ("/home", "nfs4"),
        ("/homely", None),
        ("/home/ana/fast/project", None),
        ("/mnt/a b/home", "fuse.sshfs"),
        ("/data/covered", None),
        ("/srv", None),
    ],
)
def test_a_ledger_on_a_network_file_system_is_warned_of(path: str, kind: str | None) -> None:
    assert network_filesystem(Path(path), MOUNTS) == kind
    finding = doctor.network("home", Path(path), kind)
    assert finding.state == ("warning" if kind else "ok")
    assert finding.code == 0
    assert (str(kind) in finding.what) is bool(kind)


def test_little_room() -> None:
    assert doctor.space(10**7, 10**6).code == 5
    assert doctor.space(10**9, 10**6).state == "warning"
    assert doctor.space(10**12, 500).state == "warning"
    assert doctor.space(10**12, 0).state == "ok"  # a file system that counts no inodes


@pytest.fixture
def as_nobody(ws: Workspace, tmp_path: Path) -> Path:
    """The project in a folder in which this test may not write, even where it runs as root."""
    shown = Path(os.path.realpath("/tmp")) / f"doctor-{os.getpid()}-{tmp_path.name}"
    ws.ledger.close()
    shutil.copytree(ws.root, shown)
    return shown


def test_a_place_that_cannot_be_written(as_nobody: Path) -> None:
    folders = [as_nobody, *(p for p in as_nobody.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    root = os.geteuid() == 0
    real = os.getuid()
    if root:
        os.setresuid(65534, 65534, 0)
    try:
        found = examined(as_nobody)
    finally:
        if root:
            os.setresuid(real, 0, 0)
        for folder in folders:
            folder.chmod(0o755)
        shutil.rmtree(as_nobody)
    assert {f.name for fs in found.values() for f in fs if f.state == "failed"} == {
        "home",
        "store",
        "probe",
    }
    assert found["ledger"][0].state == "ok"  # reading goes on
    assert code(found) == 5


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    found = examined(tmp_path)
    assert (found["home"][0].state, found["home"][0].code) == ("failed", 2)


def test_clocks() -> None:
    assert doctor.disk_clock(100.0, 99.0, 101.0).state == "ok"
    assert doctor.disk_clock(98.0, 99.0, 101.0).state == "ok"  # a coarse clock
    assert "3600 s" in doctor.disk_clock(3700.0, 99.0, 100.0).what
    assert doctor.disk_clock(10.0, 99.0, 100.0).state == "warning"
    assert doctor.newest_event(NOW, "2026-01-31T01:59:58.000000Z").state == "ok"
    assert doctor.newest_event(NOW, "2026-01-30T02:00:00.000000Z").state == "warning"


# --- the ledger -------------------------------------------------------------------------------------


def test_a_damaged_ledger_fails_with_4(ws: Workspace) -> None:
    ws.ledger.close()
    (ws.home / "ledger.db").write_bytes(b"not a database " * 300)
    found = examined(ws.root)
    assert (found["ledger"][0].state, code(found)) == ("failed", 4)


def test_a_newer_layout_fails_with_2(ws: Workspace) -> None:
    ws.ledger.close()
    with sqlite3.connect(ws.home / "ledger.db") as db:
        db.execute("PRAGMA user_version=9")
    db.close()
    found = examined(ws.root)
    assert "upgrade" in found["ledger"][0].what
    assert code(found) == 2


def test_the_worst_failure_gives_the_code() -> None:
    findings = [Finding("x", "failed", "", code=c) for c in (2, 5, 4)]
    assert doctor.exit_code(findings) == 4
    assert doctor.exit_code(findings[:2]) == 5
    assert doctor.exit_code([Finding("x", "warning", "")]) == 0


# --- what was left ----------------------------------------------------------------------------------


def _open_run(ws: Workspace, run_id: str) -> None:
    intended = e.StageIntended(stage="relabel", attempt=1, executor="local", spec_digest="sha256:0")
    ws.journal.record_run(run_id, lambda _: [request(ws.root, run_id)])
    ws.journal.record_run(run_id, lambda _: [intended])


def test_open_runs_that_nobody_drives(ws: Workspace) -> None:
    from launcher.agent.protocol import own_record

    mine = own_record()
    cases: dict[str, object] = {
        "was never started": None,
        "is running, and no launcher waits for it": mine,
        "the supervisor of relabel attempt 1 is gone": {**mine, "started": -1.0},
        "was started on machine elsewhere": {**mine, "machine_id": "elsewhere"},
        "an unreadable start record": [],
    }
    for number, record in enumerate(cases.values()):
        _open_run(ws, f"r{number}")
        if record is not None:
            key = f"runs/r{number}/relabel/1/start.json"
            ws.store.create(key, json.dumps(record).encode())
    _open_run(ws, "closed")
    ws.store.create("runs/closed/relabel/1/result.json", b"{}")
    ws.journal.record_run("asked", lambda _: [request(ws.root, "asked")])
    found = examined(ws.root)
    said = [f.what for f in found["open run"]]
    for number, text in enumerate(cases):
        assert text in said[number]
        assert said[number].startswith(f"r{number}: ")
    assert "has ended, and no launcher recorded it" in said[-2]
    assert said[-1] == "asked: no launcher is at work on it"
    assert found["open run"][0].do == "launcher resume r0"
    assert code(found) == 0
    assert "open run" not in examined(ws.root, driven=True)


def test_held_pointers_and_half_made_promotions(ws: Workspace) -> None:
    blob = ws.store.ingest_bytes(b"student")
    pointers = Pointers(ws.store)
    fields = {
        "project": "p",
        "actor": "ana",
        "reason": None,
        "time": NOW,
    }
    first = pointers.history("student").promotion_body(
        digest=blob.digest,
        size_bytes=7,
        run_id="ended",
        promotion_id="p1",
        automatic=False,
        **fields,
    )
    pointers.create(first)
    back = pointers.history("student").rollback_body(first, promotion_id="p2", **fields)
    pointers.create(back)
    wanted = e.PromotionIntended(
        generation=first.model_copy(update={"name": "other", "promotion_id": "p3"})
    )
    ws.journal.record_pointer("other", lambda _: [wanted])
    found = examined(ws.root)
    assert found["held"][0].do == "when fixed: launcher release student"
    assert "other: a promotion to g1 is half done" in found["promotion"][0].what
    assert code(found) == 0


def test_files_of_killed_writers_are_counted_once_they_are_old(ws: Workspace) -> None:
    hidden = Path(ws.store.where) / "blobs" / ".tmp-killed"
    hidden.write_bytes(b"x" * 2000)
    assert "temporaries" not in examined(ws.root)
    os.utime(hidden, (0, 0))
    [finding] = examined(ws.root)["temporaries"]
    assert "1 hidden file of killed writers, 2.0 kB" in finding.what
    assert os.system(finding.do) == 0
    assert not hidden.exists()
    assert "temporaries" not in examined(ws.root)
