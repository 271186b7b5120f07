"""Buckets with rules of their own: one that keeps versions, one with object lock, one whose user may delete nothing.

Runs, promotions, rollbacks and audits are the same there; a collection says what it cannot do, and loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.cli.session import Done, Session, make_session
from tests.rig.policies import ARN, credentials, serving_users
from tests.rig.s3 import S3Server, client_of

pytestmark = pytest.mark.folder  # has buckets of its own
REPOSITORY = Path(__file__).resolve().parents[2]
#: One stage is enough of a run here.
CONFIG = 'RETRAIN_CMD=\'echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"\'\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    top = tmp_path_factory.mktemp("buckets")
    with serving_users(top / "server", versions=top / "versions") as server:
        yield server


class Place:
    """A project in a bucket, after runs x (never promoted), a and b (live, one after the other)."""

    def __init__(self, server: S3Server, bucket: str, folder: Path, **more: str) -> None:
        self.server, self.bucket = server, bucket
        self.url = f"s3://{bucket}/team"
        known = {**server.environment(), **more}
        cache = str(folder / "cache")
        self.session: Session = make_session(
            folder / "p", **known, LAUNCHER_STORE=self.url, XDG_CACHE_HOME=cache
        )
        (self.session.root / "loop.env").write_text(CONFIG)
        children = [self.session.start_submit("--run-id", run_id) for run_id in "xa"]
        for child in children:
            out, err = child.communicate(timeout=90)
            assert child.returncode == 0, (out, err)
        self.ok("promote", "a", "student")
        done = self.session.submit("--run-id", "b", "--promotion-target", "student")
        assert done.code == 0, done

    def ok(self, *arguments: str) -> str:
        done = self.session.look(*arguments)
        assert done.code == 0, (arguments, done)
        return done.out

    def later(self, days: float, *arguments: str) -> Done:
        return self.session.later(days, *arguments)

    def everyday(self) -> None:
        """What is done every day is as it is anywhere."""
        self.ok("rollback", "student", "--yes", "--reason", "bad")
        self.ok("release", "student")
        self.ok("promote", "b", "student")
        self.sound()

    def sound(self) -> None:
        self.ok("audit")
        assert json.loads(self.ok("pointers", "check", "--deep", "--json"))["differences"] == []
        assert json.loads(self.ok("pointers", "student", "--json"))["live"]["run_id"] == "b"

    def keys(self, part: str) -> set[str]:
        """The digests under ``blobs/`` or ``trash/``, as the service lists them."""
        found = owner(self.server).list_objects_v2(Bucket=self.bucket, Prefix=f"team/{part}")
        return {one["Key"].rpartition("/")[2] for one in found.get("Contents", ())}

    def ledger_has(self, kind: str) -> bool:
        folder = self.server.root / self.bucket / "team/ledger/log"
        return any(f'"type":"{kind}"'.encode() in p.read_bytes() for p in folder.iterdir())


def owner(server: S3Server) -> Any:
    return client_of(server.environment())


def versioned(server: S3Server) -> str:
    client = owner(server)
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    return "versioned"


def locked(server: S3Server) -> str:
    """Every object that is made there is locked for a day, for everybody."""
    client = owner(server)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="locked",
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    return "locked"


@pytest.mark.parametrize("make", [versioned, locked], ids=lambda m: m.__name__)
def test_a_bucket_that_keeps_versions(server: S3Server, tmp_path: Path, make: Any) -> None:
    place = Place(server, make(server), tmp_path)
    place.everyday()
    doctor = place.ok("doctor")
    assert "ok       versioning    on\n" in doctor
    assert ("ok       object lock   on, COMPLIANCE 1 days\n" in doctor) is (make is locked)

    before = place.keys("blobs/")
    note = (
        f"note   {place.url} keeps versions: what is deleted there stays as an older version until "
        "a lifecycle rule of the bucket ends it"
    )
    moved = place.later(8, "gc", "--apply", "--yes")
    assert (moved.code, moved.err) == (0, "")
    assert note in moved.lines
    gone = before - place.keys("blobs/")
    assert gone
    assert place.keys("trash/") == gone
    emptied = place.later(16, "gc", "--apply", "--yes")
    assert (emptied.code, emptied.err) == (0, "")
    assert note in emptied.lines
    assert place.keys("trash/") == set()
    place.sound()

    # Not a byte of it was freed: only a lifecycle rule does that, and where there is a lock, not before it ends.
    client = owner(server)
    versions = client.list_object_versions(Bucket=place.bucket, Prefix="team/")["Versions"]
    old = [v for v in versions if v["Key"].rpartition("/")[2] in gone]
    assert {v["Key"].split("/")[1] for v in old} == {"blobs", "trash"}
    assert not any(v["IsLatest"] for v in old)
    assert all(v["Size"] > 0 for v in old)
    if make is locked:
        which = {"Key": old[0]["Key"], "VersionId": old[0]["VersionId"]}
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket=place.bucket, **which)

    # The collection is over, and known to be.
    assert place.ledger_has("GarbageCollected")
    last = place.later(16, "gc")
    assert "trash of" not in last.out
    assert "nothing to do" in last.lines


def test_a_user_who_may_delete_nothing(server: S3Server, tmp_path: Path) -> None:
    owner(server).create_bucket(Bucket="undeletable")
    things = [f"{ARN}undeletable", f"{ARN}undeletable/*"]
    whole = {"Principal": {"AWS": "launcher"}, "Resource": things}
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:*"], **whole},
            {"Effect": "Deny", "Action": ["s3:DeleteObject"], **whole},
        ],
    }
    owner(server).put_bucket_policy(Bucket="undeletable", Policy=json.dumps(policy))
    place = Place(server, "undeletable", tmp_path, **credentials("launcher"))
    place.everyday()
    before = place.keys("blobs/")
    for _ in range(2):
        refused = place.later(8, "gc", "--apply", "--yes")
        assert refused.code == 2, refused
        *warnings, last = refused.err.splitlines()
        assert all(w.startswith("warning: sha256:") for w in warnings), refused.err
        assert all("was not deleted: AccessDenied" in w for w in warnings), refused.err
        assert last == (
            f"launcher: {place.url} refused to delete {len(warnings)} blobs; nothing is lost "
            "(gc needs s3:DeleteObject on blobs/ and trash/; a lock ends by itself)"
        )
        assert before <= place.keys("blobs/")
    place.sound()
