"""launcher drill: what can be rebuilt is what is there, and what is not is named. A folder and a bucket."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.stores.segments import LOG_PREFIX, segment_key
from tests.cli.session import Session, make_session
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own


def project(root: Path, **environment: str) -> Session:
    """Three runs, promoted, failed and promoted again."""
    session = make_session(root, **environment)
    promoted = ("--promotion-target", "student")
    assert session.submit("--run-id", "a", *promoted).code == 0
    assert session.submit("--run-id", "b", "--set", "RETRAIN_EXTRA=exit 7").code == 7
    assert session.submit("--run-id", "c", *promoted).code == 0
    return session


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def drilled(session: Session, *, wrong: tuple[str, ...] = (), **more: str) -> dict[str, Any]:
    """The checks by name; the drill wrote nothing of the project's, and left nothing behind."""
    scratch = session.root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    before = tree(session.root)
    plain = session.launcher("drill", TMPDIR=str(scratch), **more)
    done = session.launcher("drill", "--json", TMPDIR=str(scratch), **more)
    assert tree(session.root) == before
    assert not list(scratch.iterdir())
    said = json.loads(done.out)
    assert {c["name"] for c in said["checks"] if c["ok"] is False} == set(wrong), done
    assert (done.code, said["ok"]) == ((4, False) if wrong else (0, True)), done
    for name in wrong:
        assert f"BAD  {name}" in plain.out, plain
    return {check["name"]: check for check in said["checks"]}


class Place:
    """A project whose parts can be damaged, and are whole again afterwards."""

    def __init__(self, session: Session, log: Path | None, cache: Path | None) -> None:
        self.session, self.log, self.cache = session, log, cache

    @property
    def documents(self) -> list[Path]:
        return [self.session.home / run / "metadata.json" for run in "abc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(project(tmp_path_factory.mktemp("folder") / "project"), None, None)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    top, name = tmp_path_factory.mktemp("bucket"), s3_server.bucket()
    session = project(
        top / "project",
        **s3_server.environment(),
        LAUNCHER_STORE=f"s3://{name}/team",
        XDG_CACHE_HOME=str(top / "cache"),
    )
    return Place(session, s3_server.root / name / "team", top / "cache")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


@pytest.fixture
def whole_again(place: Place, tmp_path: Path) -> Any:
    """Whatever the test does to the project, its log and its cache."""
    parts = [p for p in (place.session.root, place.log, place.cache) if p is not None]
    for number, part in enumerate(parts):
        shutil.copytree(part, tmp_path / str(number), symlinks=True)
    yield
    for number, part in enumerate(parts):
        shutil.rmtree(part)
        shutil.copytree(tmp_path / str(number), part, symlinks=True)


def test_what_is_whole_is_rebuilt_and_nothing_is_written(place: Place) -> None:
    checks = drilled(place.session)
    events = place.session.json("ledger", "head")["size"]
    assert checks["ledger"]["looked_at"].startswith(f"{events} events rebuilt from ")
    names = ("metadata", "metadata/relabel_tags", "metadata/promotion", "metadata/storage_alert")
    files = [path for name in names for path in place.session.home.glob(f"[abc]/{name}.*")]
    assert checks["documents"]["looked_at"] == (
        f"{len(files)} documents of 3 runs, as in their folders"
    )
    assert ("cache" in checks) == (place.log is not None)
    if place.log is not None:
        segments = len(list((place.log / LOG_PREFIX).iterdir()))
        assert checks["cache"]["looked_at"] == f"{segments} segments as in the bucket"


def test_a_screen_has_a_line_a_kind(place: Place) -> None:
    done = place.session.launcher("drill")
    assert done.code == 0, done
    kinds = [line.split()[1] for line in done.lines if line.startswith("ok ")]
    assert kinds == ["ledger", *(["cache"] if place.log else []), "documents"]
    assert done.lines[-1] == "everything that was rebuilt is what is there"


@pytest.mark.usefixtures("whole_again")
def test_documents_that_differ_or_are_missing_are_named(place: Place) -> None:
    first, second, third = place.documents
    first.write_bytes(first.read_bytes() + b"\n")
    second.unlink()
    stranger = third.parents[1] / "d" / "metadata.json"
    stranger.parent.mkdir()
    stranger.write_text(json.dumps({"run_id": "d"}))
    found = drilled(place.session, wrong=("documents",))["documents"]["problems"]
    said = {(Path(p["where"]).parent.name, p["what"]) for p in found}
    assert said == {
        ("a", "it is not what was rebuilt"),
        ("b", "it is missing"),
        ("d", "the ledger does not know this run"),
    }


@pytest.mark.usefixtures("whole_again")
def test_a_status_that_a_job_wrote_is_no_difference(place: Place) -> None:
    path = place.session.home / "c" / "metadata" / "relabel_tags.json"
    document = json.loads(path.read_bytes())
    assert document["status"] == "pending"
    path.write_text(json.dumps({**document, "status": "validated"}))
    drilled(place.session)


def flip(data: bytes) -> bytes:
    at = data.rindex(b"ana")
    return data[:at] + b"eve" + data[at + 3 :]


@pytest.mark.usefixtures("whole_again")
def test_a_ledger_that_cannot_be_rebuilt_is_said_with_what_was_not_compared(place: Place) -> None:
    if place.log is None:
        path = place.session.home / "ledger.db"
        with sqlite3.connect(path) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                db.execute(f"DROP TRIGGER {name}")
            [raw] = db.execute("SELECT raw FROM events WHERE rowid = 3").fetchone()
            db.execute("UPDATE events SET raw = ? WHERE rowid = 3", (flip(bytes(raw)),))
    else:
        (place.log / segment_key(3)).unlink()
    checks = drilled(place.session, wrong=("ledger",))
    for name, check in checks.items():
        if name == "documents":
            assert check["skipped"] == "the ledger could not be rebuilt"


def test_a_ledger_file_that_is_no_database_is_one_line(folder: Place) -> None:
    ledger = folder.session.home / "ledger.db"
    kept = ledger.read_bytes()
    ledger.write_bytes(b"nothing of the kind " * 500)
    try:
        drilled(folder.session, wrong=("ledger",))
    finally:
        ledger.write_bytes(kept)


# --- the cache of a bucket --------------------------------------------------------------------------------


def changed(path: Path) -> None:
    with sqlite3.connect(path) as db:
        [data] = db.execute("SELECT data FROM segments WHERE sequence = 2").fetchone()
        db.execute("UPDATE segments SET data = ? WHERE sequence = 2", (flip(bytes(data)),))


def longer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        [last] = db.execute("SELECT max(sequence) FROM segments").fetchone()
        db.execute(
            "INSERT INTO segments SELECT sequence + 1, size + 1, digest, root, frontier, data "
            "FROM segments WHERE sequence = ?",
            (last,),
        )


def noise(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (changed, "segment 2 is not what the bucket has"),
        (longer, " is not in the bucket"),
        (noise, "it is no cache that can be read"),
    ],
)
def test_a_cache_that_is_not_the_bucket_is_named_and_not_mended(
    bucket: Place, tmp_path: Path, damage: Callable[[Path], None], what: str
) -> None:
    assert bucket.cache is not None
    cache = tmp_path / "cache"
    shutil.copytree(bucket.cache, cache)
    [path] = (cache / "distill-ledger" / "ledgers").glob("*/segments-*.db")
    damage(path)
    before = path.read_bytes()
    checks = drilled(bucket.session, wrong=("cache",), XDG_CACHE_HOME=str(cache))
    assert what in checks["cache"]["problems"][0]["what"]
    assert path.read_bytes() == before
    assert checks["documents"]["ok"] is True


def test_a_machine_without_cache_or_run_folders_rebuilds_all_the_same(
    bucket: Place, tmp_path: Path
) -> None:
    pod = Session(tmp_path / "work", bucket.session.environment)
    pod.root.mkdir()
    moved = bucket.session.root.rename(bucket.session.root.with_name("moved"))
    try:
        checks = drilled(pod, XDG_CACHE_HOME=str(tmp_path / "empty"))
        assert checks["cache"]["skipped"] == "this machine has none"
        assert checks["documents"]["looked_at"] == "0 documents of 0 runs, as in their folders"
        assert "no cache to compare with" in checks["documents"]["notes"][0]
        checks = drilled(pod)
        assert "compared with what this machine's cache makes" in checks["documents"]["notes"][0]
    finally:
        moved.rename(bucket.session.root)


def test_a_bucket_that_is_away_is_no_difference(bucket: Place, tmp_path: Path) -> None:
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path / "empty")}
    done = bucket.session.launcher("drill", "--json", **away)
    assert (done.code, done.out) == (5, ""), done
    assert len(done.err.splitlines()) == 1
