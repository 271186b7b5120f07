"""The bucket policies: each lets its role do what it has to, on a real server, and grants nothing that nobody uses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launcher.agent.outputs import collect_outputs
from launcher.errors import UnavailableError
from launcher.storage.blobs import digest_bytes
from launcher.storage.port import BlobMissingError, ObjectStore, trash_key
from launcher.storage.s3 import AccessRefusedError, S3Store
from tests.e2e.project import CONFIG, SCORECARD, TEACHER, Project, make_project
from tests.rig.fault_proxy import FaultProxy, Handler, Request, drop, proxied
from tests.rig.policies import (
    ARN,
    FOLDER,
    ROLES,
    Asked,
    asked_of,
    credentials,
    decided,
    matches,
    merged,
    serving_users,
)
from tests.rig.s3 import S3Server, client_of
from tests.rig.stage_specs import spec_of

pytestmark = pytest.mark.folder  # has a server of its own

BUCKET, PREFIX, NAME = "distillery", "team", "student"
URL = f"s3://{BUCKET}/{PREFIX}"
#: What versitygw 1.8.0 has no word for.
CONDITIONS = ("s3:if-none-match", "s3:ObjectCreationOperation")
MIB = 1024 * 1024


@dataclass
class Place:
    """A bucket under the policies, on a server with users; everything goes through the proxy."""

    server: S3Server
    proxy: FaultProxy
    folder: Path

    def environment(self, role: str) -> dict[str, str]:
        cache = {"XDG_CACHE_HOME": str(self.folder / f"cache of {role}")}
        return {**self.server.environment(self.proxy.endpoint), **credentials(role), **cache}

    def client(self, role: str | None) -> Any:
        """boto3 itself; None: the server's owner, past the proxy."""
        known = self.server.environment() if role is None else self.environment(role)
        return client_of(known)

    def enforce(self, role: str) -> None:
        """Put the guard and this role's policy on the bucket; this server takes no more than 4 KiB at once."""
        policy = merged(BUCKET, PREFIX, name=NAME)
        kept = [s for s in policy["Statement"] if not names(s, *CONDITIONS)]
        assert len(kept) == len(policy["Statement"]) - 1
        mine = [s for s in kept if s["Principal"] in ("*", {"AWS": role})]
        text = json.dumps({**policy, "Statement": mine})
        self.client(None).put_bucket_policy(Bucket=BUCKET, Policy=text)

    def store(self, role: str, patch: pytest.MonkeyPatch) -> S3Store:
        """The store as a process of this role opens it."""
        for variable, value in self.environment(role).items():
            patch.setenv(variable, value)
        store = S3Store(URL)
        store._client.endpoint  # noqa: B018 - the environment is read now
        return store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("policies")
    with serving_users(folder / "server") as server, proxied(server) as proxy:
        place = Place(server, proxy, folder)
        # By the server itself, not as a folder: to let others copy it wants a bucket with an owner.
        place.client(None).create_bucket(Bucket=BUCKET)
        yield place


def names(statement: dict[str, Any], *keys: str) -> bool:
    """Whether a statement has a condition on one of these."""
    return any(key in test for test in statement.get("Condition", {}).values() for key in keys)


def work_as_launcher(place: Place, project: Project) -> None:
    project.environment = {**place.environment("launcher"), "LAUNCHER_STORE": URL}
    given = ["--config", CONFIG, "--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD]
    for command in (
        ["doctor"],
        ["submit", *given, "--run-id", "a", "--promotion-target", NAME],
        ["submit", *given, "--run-id", "b"],
        ["promote", "b", NAME],
        ["rollback", NAME, "--yes"],
        ["release", NAME],
        ["pointers", NAME],
        ["status", "b"],
        ["list"],
        ["pull", f"pointer:{NAME}", "here.pt"],
        ["audit"],
        ["storage"],
    ):
        done = project.launcher(*command)
        assert done.code == 0, (command, done)


def big(store: ObjectStore, proxy: FaultProxy, folder: Path) -> None:
    """A checkpoint in parts, whose first upload is cut off and whose second goes on with it."""
    source = folder / "big.pt"
    source.write_bytes(os.urandom(17 * MIB))
    proxy.rule(drop(after=False), method="POST", query="uploadId", times=6)
    with pytest.raises(UnavailableError):
        store.ingest(source)
    proxy.rules.clear()
    store.ingest(source)


def given_up(store: S3Store, place: Place, source: Path) -> None:
    """An upload of a file that is written anew meanwhile is given up, and begun again."""
    source.write_bytes(os.urandom(17 * MIB))

    def written(handler: Handler, request: Request) -> None:
        os.utime(source, (1, 1))
        handler.send(handler.proxy.forward(request))

    place.proxy.rule(written, method="PUT", query="partNumber")
    store.ingest(source)
    place.proxy.rules.clear()


def from_the_trash(store: S3Store, place: Place) -> None:
    """A blob that a collection moved away is found and put back."""
    data = os.urandom(64)
    blob = digest_bytes(data)
    there = place.server.root / BUCKET / PREFIX / trash_key("2026-01-31", blob.digest)
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(data)
    os.utime(there, (1, 1))
    assert store.read_blob(blob.digest) == data


def work_as_stage(place: Place, store: S3Store) -> None:
    """What the agent does beside a stage: inputs, outputs, a result."""
    run = place.folder / "pod" / "r"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "student.pt").write_bytes(b"student of a pod")
    collected = collect_outputs(spec_of(run, "retrain"), store)
    store.create("runs/b/retrain/9/result.json", json.dumps(collected).encode())
    store.read("runs/b/retrain/9/result.json")
    store.fetch_blob(collected["checkpoints"][0]["digest"], place.folder / "pod" / "teacher.pt")


def work_as_server(place: Place, project: Project) -> None:
    """A serving machine that has the store's address and nothing else."""
    project.environment = place.environment("server")
    for command in (
        ["pull", f"{URL}#{NAME}", "served.pt"],
        ["pull", "--watch", f"{URL}#{NAME}", "followed.pt", "--once"],
    ):
        done = project.launcher(*command)
        assert done.code == 0, (command, done)


def work_as_gc(place: Place, project: Project) -> None:
    """Everything that nothing needs goes to the trash, and from there; a killed upload is forgotten."""
    project.environment = {**place.environment("gc"), "LAUNCHER_STORE": URL}
    blob = f"{PREFIX}/blobs/sha256/aa/" + "a" * 64
    place.client(None).create_multipart_upload(Bucket=BUCKET, Key=blob)
    for folder in (place.server.root / BUCKET / ".sgwtmp" / "multipart").glob("*/*"):
        os.utime(folder, (1, 1))  # begun long ago
    for _ in range(2):
        done = project.launcher("gc", "--apply", "--yes", "--grace-days", "0")
        no = [f"{r.method} {r.target}" for r in place.proxy.requests if r.status in (403, 500)]
        assert done.code == 0, (done, no)


@pytest.fixture(scope="module")
def used(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Asked]]:
    """What every role asked of the server while it did its work, all of which succeeded."""
    with pytest.MonkeyPatch.context() as patch:
        place.proxy.requests.clear()
        project = make_project(tmp_path_factory.mktemp("policies") / "my project")
        place.enforce("launcher")
        work_as_launcher(place, project)
        store = place.store("launcher", patch)
        big(store, place.proxy, project.root)
        given_up(store, place, project.root / "written.pt")
        from_the_trash(store, place)
        place.enforce("stage")
        work_as_stage(place, place.store("stage", patch))
        (place.folder / "pod").mkdir(exist_ok=True)
        store = place.store("stage", patch)
        big(store, place.proxy, place.folder / "pod")
        given_up(store, place, place.folder / "pod" / "written.pt")
        from_the_trash(store, place)
        place.enforce("server")
        work_as_server(place, project)
        with pytest.raises(BlobMissingError):  # and not "forbidden"
            place.store("server", patch).read_blob("sha256:" + "0" * 64)
        place.enforce("gc")
        work_as_gc(place, project)
    asked = [one for r in place.proxy.requests for one in asked_of(r, BUCKET)]
    return {role: [one for one in asked if one.role == role] for role in ROLES}


@pytest.mark.parametrize("part", ["guard", *ROLES])
def test_a_policy_is_a_policy(part: str) -> None:
    policy = json.loads((FOLDER / f"{part}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        assert statement["Sid"].isalnum()
        assert not any("*" in action for action in statement["Action"])
        assert all(r.startswith(ARN + "BUCKET") for r in statement["Resource"])
        everyone = statement["Principal"] == "*"
        assert everyone == (statement["Effect"] == "Deny") == (part == "guard")


def test_together_they_fit_into_a_bucket() -> None:
    policy = merged("b" * 63, "p" * 100)
    assert len(json.dumps(policy)) < 20 * 1024
    sids = [s["Sid"] for s in policy["Statement"]]
    assert len(set(sids)) == len(sids)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_it_has_to_and_nothing_that_it_never_does(
    used: dict[str, list[Asked]], role: str
) -> None:
    policy = merged(BUCKET, PREFIX, name=NAME)
    assert used[role]
    for asked in used[role]:
        assert decided(policy, asked), asked
    for statement in policy["Statement"]:
        if statement["Principal"] == {"AWS": role}:
            for action in statement["Action"]:
                for resource in statement["Resource"]:
                    grant = {**statement, "Action": [action], "Resource": [resource]}
                    assert any(matches(grant, asked) for asked in used[role]), (action, resource)


def key(name: str) -> str:
    return f"{ARN}{BUCKET}/{PREFIX}/{name}"


GENERATION = f"pointers/{NAME}/00000001.json"


@pytest.mark.parametrize("role", ROLES)
def test_nobody_overwrites_or_deletes_the_record(role: str) -> None:
    policy = merged(BUCKET, PREFIX, name=NAME)
    for name in ("ledger/log/000000000001", GENERATION, "runs/a/retrain/1/result.json"):
        for action in ("s3:DeleteObject", "s3:DeleteObjectVersion"):
            assert not decided(policy, Asked(role, action, key(name)))
    for name in ("blobs/sha256/ab/abc", "ledger/log/000000000001", GENERATION, "runs/a/x"):
        plain = {"ObjectCreationOperation": "true"}
        assert not decided(policy, Asked(role, "s3:PutObject", key(name), plain))


def test_the_launcher_creates_once_and_replaces_only_the_view() -> None:
    policy = merged(BUCKET, PREFIX, name=NAME)
    once = {"ObjectCreationOperation": "true", "if-none-match": "*"}
    plain, part = {"ObjectCreationOperation": "true"}, {"ObjectCreationOperation": "false"}

    def may(name: str, facts: dict[str, str]) -> bool:
        return decided(policy, Asked("launcher", "s3:PutObject", key(name), facts))

    assert may(GENERATION, once)
    assert not may(GENERATION, plain)
    assert may(f"pointers/{NAME}.json", plain)
    assert may("blobs/sha256/ab/abc", part)  # a part of an upload; its completion is create-only
    assert not may("consumers/x/y.json", plain)


def test_a_prefix_that_is_anothers_is_not_listed() -> None:
    policy = merged(BUCKET, PREFIX, name=NAME)
    for role in ROLES:
        for prefix, good in ((f"{PREFIX}/runs/", True), ("other/", False), ("", False)):
            asked = Asked(role, "s3:ListBucket", ARN + BUCKET, {"prefix": prefix})
            assert decided(policy, asked) is good


def refused(call: Callable[[], object]) -> bool:
    """Whether the server says that this user may not."""
    try:
        call()
    except ClientError as exc:
        return exc.response["Error"]["Code"] == "AccessDenied"
    return False


def test_the_server_keeps_to_them(
    place: Place, used: dict[str, list[Asked]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What must not be done is refused by the server, whoever asks; and says so in one line of ours."""
    assert used["launcher"]
    ledger, blob = f"{PREFIX}/ledger/log/000000000001", f"{PREFIX}/blobs/sha256/aa/" + "a" * 64
    pointer = f"{PREFIX}/{GENERATION}"
    for role in ROLES:
        place.enforce(role)
        client = place.client(role)
        for name in (ledger, pointer):
            assert refused(lambda c=client, k=name: c.delete_object(Bucket=BUCKET, Key=k))  # type: ignore[misc]
        assert refused(lambda c=client: c.get_bucket_policy(Bucket=BUCKET))  # type: ignore[misc]
        if role != "gc":
            assert refused(lambda c=client: c.delete_object(Bucket=BUCKET, Key=blob))  # type: ignore[misc]
    for name in (f"{PREFIX}/ledger/log/000000999999", f"{PREFIX}/pointers/x/00000001.json"):
        for role in ("stage", "server"):
            place.enforce(role)
            client = place.client(role)
            assert refused(lambda c=client, k=name: c.put_object(Bucket=BUCKET, Key=k, Body=b"x"))  # type: ignore[misc]
    place.enforce("stage")
    stage = place.store("stage", monkeypatch)
    with pytest.raises(AccessRefusedError):
        stage.read(GENERATION)
    with pytest.raises(AccessRefusedError):
        stage.create("pointers/x/00000001.json", b"{}")
    place.enforce("launcher")
    assert refused(
        lambda: place.client("launcher").put_object(Bucket=BUCKET, Key="other/x", Body=b"x")
    )


def test_this_server_has_no_word_for_create_only(place: Place) -> None:
    """versitygw 1.8.0 refuses a policy with these conditions; the day it takes one, the guide is to say so."""
    text = (FOLDER / "guard.json").read_text().replace("BUCKET", BUCKET)
    with pytest.raises(ClientError) as caught:
        place.client(None).put_bucket_policy(Bucket=BUCKET, Policy=text)
    assert caught.value.response["Error"]["Code"] == "MalformedPolicy"
