"""docs/guides/recovery.md: its commands, typed as they stand there, against the damage that they are for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.guide import Typed, bash, blocks
from tests.e2e.project import CONFIG, LAUNCHER, SCORECARD, TEACHER, make_project
from tests.rig.policies import ARN, credentials, serving_users
from tests.rig.s3 import S3Server, client_of
from tests.rig.tools import hand_tools

pytestmark = pytest.mark.folder  # has buckets of its own

COMMANDS = blocks("guides/recovery.md")
WELL = "everything that was checked is what was written\n"
BUCKET = "distill"


@dataclass
class Place:
    """A project, its bucket's folder on the server, and a person's environment; ``kept`` has a copy of all."""

    server: S3Server
    top: Path
    environment: dict[str, str]

    @property
    def store(self) -> Path:
        return self.server.root / BUCKET / "team"

    @property
    def log(self) -> Path:
        return self.store / "ledger" / "log"

    @property
    def caches(self) -> Path:
        return self.top / "home" / ".cache" / "distill-ledger" / "ledgers"

    def cache(self) -> Path:
        (found,) = self.caches.glob("*/segments-*.db")
        return found

    def bash(self, text: str, **more: str) -> Typed:
        return bash(text, self.top / "project", {**self.environment, **more})

    def typed(self, name: str, **more: str) -> Typed:
        """A block of the page, which has to end well."""
        done = self.bash(COMMANDS[name], **more)
        assert done.returncode == 0, done
        return done

    def refused(self, code: int, line: str, command: str, **more: str) -> None:
        done = self.bash(command, **more)
        assert done.returncode == code, done
        assert line in done.stdout + done.stderr, done

    def policy(self, *actions: str) -> None:
        """What the user ``launcher`` may do from now on, and nothing else."""
        client = client_of(self.environment)
        whole = ARN + BUCKET
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": "launcher"},
            "Action": [f"s3:{one}" for one in actions],
            "Resource": [whole, f"{whole}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=BUCKET, Policy=policy)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two runs, three generations of ``student``, a copy of the ledger, a full cache."""
    path = hand_tools("aws", "jq", "sqlite3")
    top = tmp_path_factory.mktemp("recovery")
    with serving_users(top / "server") as server:
        known = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
        known.pop("XDG_CACHE_HOME", None)
        environment = {
            **known,
            **server.environment(),
            "PATH": f"{LAUNCHER.parent}{os.pathsep}{path}",
            "HOME": str(top / "home"),
            "PYENV_ROOT": os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")),
            "LAUNCHER_STORE": f"s3://{BUCKET}/team",
            "KEPT": str(top / "kept.db"),
        }
        place = Place(server, top, environment)
        make_project(top / "project")
        (top / "home").mkdir()
        server.bucket(BUCKET)
        given = f"--config {CONFIG} --teacher-checkpoint {TEACHER} --teacher-scorecard {SCORECARD}"
        done = place.bash(
            f"launcher submit {given} --run-id a --promotion-target student\n"
            f"launcher submit {given} --run-id b --promotion-target student\n"
            "launcher promote a student"
        )
        assert done.returncode == 0, done
        place.typed("nightly")
        for part in ("project", "home"):
            shutil.copytree(top / part, top / "kept" / part, symlinks=True)
        shutil.copytree(place.store, top / "kept" / "store")
        yield place


@pytest.fixture
def place(prepared: Place) -> Place:
    """All as it was prepared."""
    kept = prepared.top / "kept"
    for name, target in (
        ("project", prepared.top / "project"),
        ("home", prepared.top / "home"),
        ("store", prepared.store),
    ):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(kept / name, target, symlinks=True)
    for left in prepared.store.parent.glob("*-scratch"):
        shutil.rmtree(left)
    prepared.policy("GetObject", "ListBucket", "PutObject")
    return prepared


def promoted(place: Place, **more: str) -> None:
    done = place.bash("launcher promote b student && launcher audit", **more)
    assert done.returncode == 0, done
    assert done.stdout.endswith(WELL), done


def test_the_copy_of_every_night_goes_on_from_the_one_before(place: Place) -> None:
    assert "(nothing was missing)" in place.typed("nightly").stdout


def test_the_drill(place: Place) -> None:
    assert place.typed("drill").stdout.endswith("everything that was rebuilt is what is there\n")
    sorted(place.log.iterdir())[3].unlink()
    place.refused(4, "BAD  ledger", COMMANDS["drill"])


@pytest.mark.parametrize("damage", ["deleted", "damaged"])
def test_the_ledgers_file(place: Place, damage: str) -> None:
    home = place.top / "project" / "runs" / "self_distill"
    shutil.copytree(place.store, home / "objects", ignore=shutil.ignore_patterns("ledger"))
    here = {"LAUNCHER_STORE": str(home / "objects")}
    assert place.bash('launcher ledger copy "$KEPT" runs/self_distill').returncode == 0
    file = home / "ledger.db"
    if damage == "deleted":
        file.unlink()
        place.refused(2, "no run yet in ", "launcher status", **here)
    else:
        file.write_bytes(file.read_bytes()[:10_000])
        place.refused(4, "is damaged: database disk image is malformed", "launcher status", **here)
    assert place.bash("launcher rollback student --yes", **here).returncode == 0
    assert place.typed("file", **here).stdout.endswith(WELL)
    promoted(place, **here)


def gone(segment: Path) -> str:
    segment.unlink()
    return "000000000005 is gone, though ledger/log/"


def changed(segment: Path) -> str:
    data = segment.read_bytes()
    segment.unlink()  # with it goes the server's own checksum, which would speak first
    segment.write_bytes(data.replace(b'"actor":"', b'"actor":"x', 1))
    return "ledger/log/000000000005: its events do not hash to the root in its header"


@pytest.mark.parametrize("damage", [gone, changed])
@pytest.mark.parametrize("way", ["segment", "from_cache"])
def test_a_segment(place: Place, damage: Callable[[Path], str], way: str) -> None:
    saved = place.top / "saved.db"
    shutil.copy(place.cache(), saved)
    number = place.log / "000000000005"
    whole = number.read_bytes()
    line = damage(number)
    assert place.bash("launcher audit").returncode == 4
    shutil.rmtree(place.caches)
    place.refused(4, line, "launcher status")
    done = place.typed(way, N=number.name, CACHE=str(saved))
    assert done.stdout.endswith(WELL)
    assert number.read_bytes() == whole
    promoted(place)


def test_a_segment_from_a_pack(place: Place) -> None:
    """Nobody but the auditor was stopped: the pack had it."""
    while len(list(place.log.iterdir())) < 64:
        assert (
            place.bash("launcher pause nightly --reason x && launcher unpause nightly").returncode
            == 0
        )
    number = place.log / "000000000005"
    whole = number.read_bytes()
    gone(number)
    shutil.rmtree(place.caches)
    assert place.bash("launcher status").returncode == 0
    place.refused(4, "000000000005 is gone, though ledger/log/", "launcher audit")
    place.refused(4, "000000000005 is gone, though ledger/log/", "launcher drill")
    assert place.typed("from_pack", N=number.name).stdout.endswith(WELL)
    assert number.read_bytes() == whole
    promoted(place)


@pytest.mark.parametrize("left", [0, -3])
def test_all_of_the_ledger_or_its_end(place: Place, left: int) -> None:
    segments = sorted(place.log.iterdir())
    for segment in segments[left:]:
        segment.unlink()
    place.refused(
        4, "is gone since it was read here; if that was meant, remove the cache ", "launcher list"
    )
    assert place.typed("all").stdout.endswith(WELL)
    assert sorted(place.log.iterdir()) == segments
    promoted(place)


@pytest.mark.parametrize("damage", ["deleted", "damaged", "another's"])
def test_the_cache(place: Place, damage: str) -> None:
    head, cache = (place.top / "kept.db.head").read_text().strip(), place.cache()
    if damage == "deleted":
        shutil.rmtree(place.caches)
    elif damage == "damaged":
        data = cache.read_bytes()
        cache.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    else:
        first = place.log / "000000000001"
        kept = first.read_bytes()
        for segment in place.log.iterdir():
            segment.unlink()
        shutil.rmtree(place.caches)
        other = make_project(place.top / "project")  # a ledger of another, under the same URL
        assert other.root.exists()
        given = f"--config {CONFIG} --teacher-checkpoint {TEACHER} --teacher-scorecard {SCORECARD}"
        assert place.bash(f"launcher submit {given} --run-id z").returncode == 0
        assert first.read_bytes() != kept
        shutil.rmtree(place.store)
        shutil.copytree(place.top / "kept" / "store", place.store)
    done = place.bash("launcher ledger head")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.startswith(head)


def test_a_bucket_put_back_from_before(place: Place) -> None:
    max(place.log.iterdir()).unlink()
    place.refused(4, "if that was meant, remove the cache ", "launcher ledger head")
    assert place.typed("cache").stdout.endswith("s3://distill/team\n")


def test_a_bucket_that_is_read_only(place: Place) -> None:
    place.policy("GetObject", "ListBucket")
    before = sorted(p for p in place.store.rglob("*") if p.is_file())
    me = credentials("launcher")
    said = place.typed("reading", **me)
    assert WELL in said.stdout
    assert "served, but nobody hears of it: " in said.stderr
    given = f"--config {CONFIG} --teacher-checkpoint {TEACHER} --teacher-scorecard {SCORECARD}"
    for command in (
        f"launcher submit {given} --run-id d",
        "launcher promote b student",
        "launcher rollback student --yes",
        'launcher rollback "$LAUNCHER_STORE#student" --yes',
    ):
        place.refused(2, " answered 403 AccessDenied (look at the policies", command, **me)
    place.refused(2, "failed   probe", "launcher doctor", **me)
    assert sorted(p for p in place.store.rglob("*") if p.is_file()) == before
    place.policy("GetObject", "ListBucket", "PutObject")
    place.typed("writing", **me)


def put_off(body: Path) -> str:
    body.unlink()
    return "g3: the ledger knows it, it is not in the store"


def cut(body: Path) -> str:
    os.truncate(body, 30)
    return "damage  g3: "


def altered(body: Path) -> str:
    data = body.read_bytes()
    body.unlink()  # with it goes the server's own checksum, which would speak first
    body.write_bytes(data.replace(b'"run_id":"a"', b'"run_id":"b"'))
    return "g3: the store's is not what the ledger says it is"


@pytest.mark.parametrize("damage", [put_off, cut, altered])
def test_a_pointer(place: Place, damage: Callable[[Path], str]) -> None:
    body = place.store / "pointers" / "student" / "00000003.json"
    whole = body.read_bytes()
    line = damage(body)
    place.refused(4, line, "launcher pointers check")
    assert place.typed("pointer", G="3").stdout == "ok   student\n"
    assert json.loads(body.read_bytes()) == json.loads(whole)
    promoted(place)


def test_a_view(place: Place) -> None:
    (place.store / "pointers" / "student.json").write_text("{}")
    place.refused(4, "pointers/student.json does not show what is live", "launcher pointers check")
    assert place.typed("view").stdout.endswith("ok   student\n")


def test_a_move(place: Place) -> None:
    new = {"NEW": f"s3://{place.server.bucket()}/crew"}
    done = place.typed("move", **new)
    assert WELL in done.stdout
    assert done.stdout.endswith("ok   student\n")
    place.policy("GetObject", "ListBucket")
    there = {"LAUNCHER_STORE": new["NEW"]}
    promoted(place, **there)
    given = f"--config {CONFIG} --teacher-checkpoint {TEACHER} --teacher-scorecard {SCORECARD}"
    run = place.bash(f"launcher submit {given} --run-id d --promotion-target student", **there)
    assert run.returncode == 0, run
    refusal = " answered 403 AccessDenied ("
    place.refused(2, refusal, "launcher promote b student", **credentials("launcher"))
    # And if the owner goes on there all the same, the two cannot be joined.
    assert place.bash("launcher promote b student").returncode == 0
    place.refused(3, "is no beginning of ", 'launcher ledger copy "$LAUNCHER_STORE" "$NEW"', **new)
