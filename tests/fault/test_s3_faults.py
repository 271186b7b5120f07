"""Whatever a network or a server does between us and a bucket: one winner, whole blobs, errors of ours."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.storage.blobs import digest_bytes
from launcher.storage.port import (
    BlobDamagedError,
    BlobMissingError,
    ObjectExistsError,
    ObjectNotFoundError,
    blob_key,
)
from launcher.storage.s3 import AccessRefusedError, CreateOnlyIgnoredError, Limits, S3Store
from tests.rig import fault_proxy
from tests.rig.fault_proxy import Act, FaultProxy, Request, answer, drop, proxied
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server, serving
from tests.rig.s3 import s3_server as s3_server
from tests.rig.tools import skip

KEY = "pointers/student/00000001.json"
MIB = 1024 * 1024
#: Three parts, the last one short.
BIG = os.urandom(MIB) * 17 + b"the end"
BLOB = digest_bytes(BIG)
#: Long enough for a machine that is busy with other things.
QUICK = Limits(connect=5, answer=10, finish=20, body=20)
IMPATIENT = Limits(connect=5, answer=0.5, body=0.5, slowest_bytes_per_second=MIB)
DEATH_SECONDS = 60


@dataclass
class Place:
    """One bucket, and a proxy in front of it. ``store`` goes through the proxy, ``direct`` does not."""

    server: S3Server
    proxy: FaultProxy
    bucket: str
    folder: Path

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/team"

    @property
    def objects(self) -> Path:
        return self.server.root / self.bucket / "team"

    def environment(self, endpoint: str) -> dict[str, str]:
        return {**os.environ, **self.server.environment(endpoint)}

    def child(self, *arguments: str, through: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "tests.fault.s3_child",
            self.url,
            str(self.folder / "marks"),
        ]
        return subprocess.Popen(
            [*command, *arguments],
            env=self.environment(through),
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    server: S3Server = request.getfixturevalue("s3_server")
    with proxied(server) as proxy:
        for variable, value in server.environment(proxy.endpoint).items():
            monkeypatch.setenv(variable, value)
        yield Place(server, proxy, server.bucket(), tmp_path)


@pytest.fixture
def store(place: Place) -> S3Store:
    """Through the proxy, known to be good, so that a test sees its own requests only."""
    store = S3Store(place.url, limits=QUICK, marks=place.folder / "marks")
    store.create("known/good", b"")
    place.proxy.requests.clear()
    return store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "student.pt"
    path.write_bytes(BIG)
    return path


def in_one_line(error: LauncherError) -> str:
    said = str(error)
    assert "\n" not in said
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in said
    assert "team" in said or "bucket" in said
    return said


# --- a create whose answer is lost, or is not what happened ---

LOST: dict[str, Act] = {
    "dropped before": drop(after=False),
    "dropped after": drop(after=True),
    "500 before": answer(500, "InternalError"),
    "500 after": answer(500, "InternalError", applied=True),
    "503 before": answer(503, "SlowDown"),
    "503 after": answer(503, "SlowDown", applied=True),
    "409 before": answer(409, "ConditionalRequestConflict"),
    "409 after": answer(409, "ConditionalRequestConflict", applied=True),
    "412 after": answer(412, "PreconditionFailed", applied=True),
    "a minute late": fault_proxy.late,
}


@pytest.mark.parametrize("fault", LOST)
def test_a_create_without_an_answer_is_read_back_and_made_again(
    place: Place, store: S3Store, fault: str
) -> None:
    place.proxy.rule(LOST[fault], method="PUT", key=KEY, times=2)
    store.create(KEY, b"ours")
    place.proxy.release()  # what was held back lands now, and changes nothing
    assert (place.objects / KEY).read_bytes() == b"ours"
    assert sum(r.status == 200 for r in place.proxy.requests if r.method == "PUT") == 1
    with pytest.raises(ObjectExistsError):
        store.create(KEY, b"theirs")


def test_a_create_that_hangs_is_made_again_and_may_land_later(place: Place, store: S3Store) -> None:
    hasty = S3Store(place.url, limits=IMPATIENT, marks=place.folder / "marks")
    place.proxy.rule(fault_proxy.silent, method="PUT", key=KEY)
    hasty.create(KEY, b"ours")
    place.proxy.release()
    assert [r.status for r in place.proxy.requests if r.method == "PUT"] == [412, 200]
    assert store.read(KEY) == b"ours"


@pytest.mark.parametrize("fault", [f for f in LOST if "before" in f or "late" in f])
def test_somebody_else_may_win_meanwhile(place: Place, store: S3Store, fault: str) -> None:
    def and_theirs(handler: fault_proxy.Handler, request: Request) -> None:
        (place.objects / KEY).parent.mkdir(parents=True, exist_ok=True)
        (place.objects / KEY).write_bytes(b"theirs")
        LOST[fault](handler, request)

    place.proxy.rule(and_theirs, method="PUT", key=KEY)
    with pytest.raises(ObjectExistsError) as caught:
        store.create(KEY, b"ours")
    assert caught.value.exit_code == 3
    assert (place.objects / KEY).read_bytes() == b"theirs"


@pytest.mark.parametrize(
    "act", [drop(after=False), answer(503, "SlowDown"), answer(409, "Conflict")]
)
def test_a_store_that_stays_away_is_unavailable_after_few_attempts(
    place: Place, store: S3Store, act: Act
) -> None:
    place.proxy.rule(act, times=1000)
    calls: list[Callable[[], object]] = [
        lambda: store.create(KEY, b"x"),
        lambda: store.read(KEY),
        lambda: list(store.list("")),
    ]
    for call in calls:
        place.proxy.requests.clear()
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.exit_code == 5
        in_one_line(caught.value)
        assert 2 <= len(place.proxy.requests) <= 10


def test_a_server_that_is_gone_is_unavailable(place: Place, tmp_path: Path) -> None:
    os.environ["AWS_ENDPOINT_URL"] = "http://someone:secretword@127.0.0.1:9"
    store = S3Store(place.url, limits=QUICK, marks=tmp_path / "none")
    with pytest.raises(UnavailableError) as caught:
        store.read(KEY)
    said = in_one_line(caught.value)
    assert "http://127.0.0.1:9" in said
    assert "secretword" not in said


# --- refusals ---


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "Unauthorized"), (403, "AccessDenied"), (403, "SignatureDoesNotMatch"),
     (403, "InvalidAccessKeyId"), (400, "ExpiredToken")],
)  # fmt: skip
def test_a_refusal_is_said_at_once_and_without_a_credential(
    place: Place, store: S3Store, source: Path, status: int, code: str
) -> None:
    message = f"The key {ACCESS_KEY} with {SECRET_KEY} is not allowed"
    place.proxy.rule(answer(status, code, message), times=1000)
    calls: list[Callable[[], object]] = [
        lambda: store.create(KEY, b"x"),
        lambda: store.read(KEY),
        lambda: store.exists(KEY),
        lambda: list(store.list("")),
        lambda: store.ingest(source),
        lambda: store.fetch_blob(BLOB.digest, source.with_name("dest")),
    ]
    for call in calls:
        place.proxy.requests.clear()
        with pytest.raises(UsageError) as caught:
            call()
        in_one_line(caught.value)
        # The client asks once more, where a bare 400 may mean another region.
        assert len(place.proxy.requests) == (1 if status != 400 else pytest.approx(1.5, abs=0.5))
        if place.proxy.requests[0].method != "HEAD":
            assert isinstance(caught.value, AccessRefusedError)
            assert code in str(caught.value)
    assert not source.with_name("dest").exists()


def test_wrong_keys_and_none(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    with pytest.raises(AccessRefusedError, match="SignatureDoesNotMatch") as caught:
        S3Store(place.url, limits=QUICK).read(KEY)
    assert "another secret" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessRefusedError, match="AWS_PROFILE"):
        S3Store(place.url, limits=QUICK).read(KEY)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="AWS_PROFILE"):
        S3Store(place.url, limits=QUICK).read(KEY)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(place: Place, source: Path) -> None:
    def store() -> S3Store:
        return S3Store("s3://no-such-bucket/team", limits=QUICK, marks=place.folder / "none")

    calls: list[Callable[[S3Store], object]] = [
        lambda s: s.exists(KEY),
        lambda s: s.read(KEY),
        lambda s: list(s.list("")),
        lambda s: s.stat_blob(BLOB.digest),
        lambda s: s.create(KEY, b"x"),
        lambda s: s.ingest(source),
        lambda s: s.verify_blob(BLOB.digest),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="no-such-bucket does not exist") as caught:
            call(store())
        in_one_line(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(400, "InvalidArgument", "x-amz-sdk-checksum-algorithm is not supported"),
     (501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
     (400, "InvalidRequest", "Unsupported checksum")],
)  # fmt: skip
def test_an_endpoint_that_rejects_checksums_is_told_which_setting_helps(
    place: Place, store: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch,
    status: int, code: str, message: str,
) -> None:  # fmt: skip
    def has_checksum(request: Request) -> bool:
        return any("checksum" in name.lower() for name, _ in request.headers)

    place.proxy.rule(answer(status, code, message), method="PUT", when=has_checksum, times=1000)
    place.proxy.rule(answer(status, code, message), method="POST", when=has_checksum, times=1000)
    for call in (lambda: store.create(KEY, b"x"), lambda: store.ingest(source)):
        with pytest.raises(UsageError, match="AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
            call()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    helped = S3Store(place.url, limits=QUICK, marks=place.folder / "none")
    helped.create(KEY, b"x")
    assert helped.ingest(source) == helped.verify_blob(BLOB.digest) == BLOB


def test_a_bucket_elsewhere_names_its_region(place: Place, store: S3Store) -> None:
    def elsewhere(handler: fault_proxy.Handler, _: Request) -> None:
        headers = [("x-amz-bucket-region", "eu-central-1"), ("Content-Type", "application/xml")]
        body = b"<Error><Code>IllegalLocationConstraintException</Code></Error>"
        handler.send(fault_proxy.Response(400, headers, body))

    place.proxy.rule(elsewhere, times=1000)
    with pytest.raises(UsageError, match="set AWS_REGION=eu-central-1"):
        store.create(KEY, b"x")


# --- a store that lies ---


def test_a_store_that_ignores_the_condition_is_refused_for_writing(
    place: Place, source: Path
) -> None:
    place.proxy.rule(fault_proxy.without_conditions, method="PUT", times=1000)
    store = S3Store(place.url, limits=QUICK, marks=place.folder / "marks")
    calls: list[Callable[[], object]] = [
        lambda: store.create(KEY, b"x"),
        lambda: store.replace("pointers/student.json", b"x"),
        lambda: store.ingest(source),
        lambda: store.ingest_bytes(b"x"),
    ]
    for call in calls:
        with pytest.raises(CreateOnlyIgnoredError, match="VERSITYGW") as caught:
            call()
        assert "If-None-Match" in in_one_line(caught.value)
        assert caught.value.exit_code == 2
    assert list(store.list("")) == []  # it may be read
    report = store.probe()
    assert not report.create_only
    assert report.missing
    assert not (place.folder / "marks").exists()


def every_fifth(_: Request, counted: Iterator[int]) -> bool:
    return next(counted) % 5 == 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_drops_every_fifth_write_is_found_good(place: Place, after: bool) -> None:
    counted = itertools.count(1)
    place.proxy.rule(
        drop(after=after), method="PUT", times=1000, when=lambda r: every_fifth(r, counted)
    )
    store = S3Store(place.url, limits=QUICK, marks=place.folder / "marks")
    store.create(KEY, b"x")
    assert next(counted) > 22 + 4, "nothing was dropped"
    assert store.read(KEY) == b"x"
    assert [info.key for info in store.list("")] == [KEY]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_lies_and_drops_every_fifth_write_is_refused(
    place: Place, after: bool
) -> None:
    counted = itertools.count(1)
    place.proxy.rule(
        drop(after=after), method="PUT", times=1000, when=lambda r: every_fifth(r, counted)
    )
    place.proxy.rule(fault_proxy.without_conditions, method="PUT", times=1000)
    store = S3Store(place.url, limits=QUICK, marks=place.folder / "marks")
    with pytest.raises(CreateOnlyIgnoredError):
        store.create(KEY, b"x")
    assert list(store.list("")) == []


def test_every_writer_of_the_probe_may_lose_its_first_answer(place: Place) -> None:
    """Then none is told that it won: the one in doubt whose bytes are there did."""
    seen: set[bytes] = set()

    def first(request: Request) -> bool:
        new = request.body not in seen
        seen.add(request.body)
        return new

    place.proxy.rule(drop(after=True), method="PUT", key="/raced", times=1000, when=first)
    report = S3Store(place.url, limits=QUICK).probe()
    assert len(seen) == 20
    assert (report.winners, report.missing) == (1, "")


def test_a_replacement_that_is_refused_for_a_condition_it_does_not_have_is_unavailable(
    place: Place, store: S3Store
) -> None:
    place.proxy.rule(answer(412, "PreconditionFailed"), method="PUT", times=1000)
    with pytest.raises(UnavailableError, match="without a condition") as caught:
        store.replace("pointers/student.json", b"x")
    assert caught.value.exit_code == 5
    assert "412" in in_one_line(caught.value)
    place.proxy.rules.clear()
    place.proxy.rule(answer(412, "PreconditionFailed"), method="PUT")
    store.replace("pointers/student.json", b"x")
    assert store.read("pointers/student.json") == b"x"


def test_a_good_store_is_tried_once_and_remembered_by_endpoint(place: Place) -> None:
    marks = place.folder / "marks"
    S3Store(place.url, marks=marks).create("a", b"x")
    tried = place.proxy.count("PUT", "probe/")
    assert tried >= 21
    S3Store(place.url, marks=marks).create("b", b"x")
    assert place.proxy.count("PUT", "probe/") == tried
    place.proxy.requests.clear()
    with proxied(place.server) as other:
        os.environ["AWS_ENDPOINT_URL"] = other.endpoint
        S3Store(place.url, marks=marks).create("c", b"x")
        assert other.count("PUT", "probe/") == tried
    (mark,) = [m for m in marks.iterdir() if place.proxy.endpoint in m.read_text()]
    mark.write_text(mark.read_text().replace('"time": "2', '"time": "1'))
    os.environ["AWS_ENDPOINT_URL"] = place.proxy.endpoint
    S3Store(place.url, marks=marks).create("d", b"x")
    assert place.proxy.count("PUT", "probe/") == tried
    assert [info.key for info in S3Store(place.url).list("")] == ["a", "b", "c", "d"]


def test_the_probe_reports_what_there_is(place: Place, store: S3Store) -> None:
    report = store.probe()
    assert report.missing == ""
    assert (report.create_only, report.winners) == (True, 1)
    assert report.checksums
    assert report.skew_seconds == 0
    assert report.server == "VERSITYGW"


def test_a_clock_that_is_off_is_measured(place: Place, store: S3Store) -> None:
    def tomorrow(handler: fault_proxy.Handler, request: Request) -> None:
        response = handler.proxy.forward(request)
        kept = [(k, v) for k, v in response.headers if k.lower() != "date"]
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 86400))
        handler.send(fault_proxy.Response(response.status, [*kept, ("Date", date)], response.body))

    place.proxy.rule(tomorrow, times=1000)
    assert store.probe().skew_seconds == pytest.approx(86400, abs=5)


# --- bodies ---

DAMAGE: dict[str, Act] = {
    "truncated": fault_proxy.truncate(1000),
    "flipped": fault_proxy.flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_body_that_is_damaged_once_is_asked_for_again(
    place: Place, store: S3Store, source: Path, damage: str
) -> None:
    store.ingest(source)
    dest = source.with_name("dest")
    calls: list[Callable[[], object]] = [
        lambda: store.fetch_blob(BLOB.digest, dest),
        lambda: store.verify_blob(BLOB.digest),
        lambda: store.read_blob(BLOB.digest),
    ]
    for call in calls:
        place.proxy.rule(DAMAGE[damage], method="GET", key="blobs/")
        call()
    assert dest.read_bytes() == BIG


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("size_bytes", [5000, len(BIG)])
def test_a_body_that_stays_damaged_is_named_and_leaves_nothing(
    place: Place, store: S3Store, tmp_path: Path, damage: str, size_bytes: int
) -> None:
    digest = store.ingest_bytes(BIG[:size_bytes]).digest
    dest = tmp_path / "new" / "dest"
    dest.parent.mkdir()
    dest.write_bytes(b"old")
    place.proxy.rule(DAMAGE[damage], method="GET", key="blobs/", times=1000)
    calls: list[Callable[[], object]] = [
        lambda: store.fetch_blob(digest, dest),
        lambda: store.verify_blob(digest),
        lambda: store.read_blob(digest),
    ]
    for call in calls:
        place.proxy.requests.clear()
        with pytest.raises(BlobDamagedError) as caught:
            call()
        assert digest in in_one_line(caught.value)
        assert place.proxy.count("GET") <= 30
    assert {p.name: p.read_bytes() for p in dest.parent.iterdir()} == {"dest": b"old"}


def test_an_object_that_does_not_match_its_checksum_is_no_object(
    place: Place, store: S3Store
) -> None:
    store.create(KEY, b"a generation")
    place.proxy.rule(fault_proxy.flip, method="GET", key=KEY)
    assert store.read(KEY) == b"a generation"
    place.proxy.rule(fault_proxy.flip, method="GET", key=KEY, times=1000)
    with pytest.raises(IntegrityError) as caught:
        store.read(KEY)
    assert KEY in in_one_line(caught.value)


def test_a_blob_that_goes_away_while_it_is_read(place: Place, store: S3Store, source: Path) -> None:
    store.ingest(source)
    dest = source.with_name("dest")
    place.proxy.rule(answer(404, "NoSuchKey"), method="GET", key="blobs/", times=1000)
    with pytest.raises(BlobMissingError) as caught:
        store.fetch_blob(BLOB.digest, dest)
    assert caught.value.digest == BLOB.digest
    assert sorted(p.name for p in source.parent.iterdir()) == ["marks", "student.pt"]


def test_a_body_that_never_ends_has_a_deadline(place: Place, store: S3Store) -> None:
    """A byte now and then keeps every socket timeout from firing."""
    blob = store.ingest_bytes(bytes(range(256)) * 100)
    store = S3Store(place.url, limits=IMPATIENT, marks=place.folder / "marks")
    place.proxy.rule(fault_proxy.trickle, method="GET", times=1)
    begun = time.monotonic()
    assert len(store.read_blob(blob.digest)) == 25600
    assert 0.4 < time.monotonic() - begun < 10
    place.proxy.rule(fault_proxy.trickle, method="GET", times=1000)
    with pytest.raises(UnavailableError, match="too slowly"):
        store.verify_blob(blob.digest)


# --- uploads ---


def test_a_bit_that_flips_on_the_way_up_is_refused_and_sent_again(
    place: Place, store: S3Store, source: Path
) -> None:
    place.proxy.rule(fault_proxy.flip_request, method="PUT", query="partNumber")
    assert store.ingest(source) == BLOB
    assert store.verify_blob(BLOB.digest) == BLOB
    assert [r.status for r in place.proxy.requests if r.status == 400] == [400]
    place.proxy.rule(fault_proxy.flip_request, method="PUT", key="blobs/")
    store.verify_blob(store.ingest_bytes(b"small").digest)


@pytest.mark.parametrize("fault", LOST)
def test_an_upload_gets_past_lost_answers(
    place: Place, store: S3Store, source: Path, fault: str
) -> None:
    """When it begins, in a part, and when it is completed; only completion has a condition."""
    if "412" not in fault:
        place.proxy.rule(LOST[fault], method="POST", query="uploads")
        place.proxy.rule(LOST[fault], method="PUT", query="partNumber")
    place.proxy.rule(LOST[fault], method="POST", query="uploadId")
    assert store.ingest(source) == BLOB
    place.proxy.release()
    assert store.verify_blob(BLOB.digest) == BLOB
    assert all(rule.left == 0 for rule in place.proxy.rules)


def test_the_same_content_again_sends_no_byte_of_it(
    place: Place, store: S3Store, source: Path, tmp_path: Path
) -> None:
    store.ingest(source)
    again = tmp_path / "again.pt"
    again.write_bytes(BIG)
    place.proxy.requests.clear()
    assert store.ingest(again) == BLOB
    assert [(r.method, len(r.body)) for r in place.proxy.requests] == [("HEAD", 0)]


def test_a_part_that_changes_between_hashing_and_sending_never_gets_the_name(
    place: Place, store: S3Store, source: Path
) -> None:
    def change(handler: fault_proxy.Handler, request: Request) -> None:
        """While the upload begins. The file's size and time stay: only the service can tell."""
        before = source.stat()
        with source.open("r+b") as file:
            file.seek(9 * MIB)
            file.write(b"changed")
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
        handler.send(handler.proxy.forward(request))

    place.proxy.rule(change, method="POST", query="uploads")
    blob = store.ingest(source)
    assert blob.digest != BLOB.digest
    assert blob == digest_bytes(source.read_bytes()) == store.verify_blob(blob.digest)
    assert store.stat_blob(BLOB.digest) is None
    assert list(store.stale_uploads(time.time() + 1000)) == []


def test_an_upload_that_somebody_aborts_begins_again(
    place: Place, store: S3Store, source: Path
) -> None:
    def abort(handler: fault_proxy.Handler, request: Request) -> None:
        assert S3Store(place.url).abort_stale_uploads(time.time() + 1000) == 1
        handler.send(handler.proxy.forward(request))

    place.proxy.rule(abort, method="POST", query="uploadId")
    assert store.ingest(source) == BLOB
    assert store.verify_blob(BLOB.digest) == BLOB


def test_only_old_uploads_are_aborted(place: Place, store: S3Store, source: Path) -> None:
    place.proxy.rule(answer(403, "AccessDenied"), method="POST", query="uploadId")
    begun = time.time()
    with pytest.raises(AccessRefusedError):
        store.ingest(source)
    [left] = store.stale_uploads(time.time() + 1000)
    assert left.key == blob_key(BLOB.digest)
    assert left.modified == pytest.approx(begun, abs=30)
    assert store.abort_stale_uploads(begun - 60) == 0
    assert store.abort_stale_uploads(time.time() + 1000) == 1
    assert list(store.stale_uploads(time.time() + 1000)) == []


def test_who_may_not_list_uploads_may_upload(place: Place, store: S3Store, source: Path) -> None:
    place.proxy.rule(answer(403, "AccessDenied"), method="GET", query="uploads", times=1000)
    assert store.ingest(source) == BLOB


def test_encryption_and_storage_class_are_passed_through(place: Place, source: Path) -> None:
    store = S3Store(
        place.url,
        limits=QUICK,
        extra={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
        blob_extra={"StorageClass": "STANDARD"},
        marks=place.folder / "marks",
    )
    store.create(KEY, b"x")
    store.ingest(source)
    store.ingest_bytes(b"x")
    made = [
        r for r in place.proxy.requests
        if r.method in ("PUT", "POST") and not {"partNumber", "uploadId"} & set(r.query)
    ]  # fmt: skip
    assert {r.header("x-amz-server-side-encryption-aws-kms-key-id") for r in made} == {"key-1"}
    classes = {r.header("x-amz-storage-class") for r in made if "blobs/" in r.key}
    assert classes == {"STANDARD"}
    assert not any(r.header("x-amz-storage-class") for r in made if "blobs/" not in r.key)


def test_over_tls_with_the_certificates_that_are_named(
    request: pytest.FixtureRequest, place: Place, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        skip("there is no openssl to make a certificate with")
    key, certificate = source.with_name("key.pem"), source.with_name("certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ("--cert", str(certificate), "--key", str(key))
    with serving(source.with_name("tls"), *options, scheme="https") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        url = f"s3://{server.bucket('tls-bucket')}/team"
        with pytest.raises(UsageError, match="AWS_CA_BUNDLE"):
            S3Store(url, limits=QUICK, marks=source.with_name("none")).read(KEY)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        for checksums in ("when_supported", "when_required"):
            monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", checksums)
            store = S3Store(f"{url}/{checksums}", limits=QUICK, marks=source.with_name("none"))
            store.create(KEY, b"x")
            assert store.ingest(source) == store.verify_blob(BLOB.digest) == BLOB


# --- killed ---


def kill_when(place: Place, child: subprocess.Popen[str], reached: threading.Event) -> None:
    assert reached.wait(DEATH_SECONDS), "the child never came that far"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=DEATH_SECONDS)
    assert child.returncode == -signal.SIGKILL


def test_killed_inside_a_part_then_resumed_from_the_parts_that_are_there(
    place: Place, store: S3Store, source: Path
) -> None:
    reached = threading.Event()

    def hold(handler: fault_proxy.Handler, request: Request) -> None:
        """The last part comes to the proxy only; by then the others are at the server."""
        deadline = time.monotonic() + DEATH_SECONDS
        while len(done()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        reached.set()
        handler.proxy.released.wait(DEATH_SECONDS)
        handler.cut()

    def done() -> list[Request]:
        return [r for r in place.proxy.requests if "partNumber" in r.query and r.status == 200]

    place.proxy.rule(
        hold, method="PUT", query="partNumber", when=lambda r: r.query["partNumber"] == "3"
    )
    child = place.child("ingest", str(source), through=place.proxy.endpoint)
    kill_when(place, child, reached)
    assert store.stat_blob(BLOB.digest) is None
    place.proxy.requests.clear()
    assert store.ingest(source) == BLOB
    sent = [r.query["partNumber"] for r in place.proxy.requests if "partNumber" in r.query]
    assert sent == ["3"]
    assert store.verify_blob(BLOB.digest) == BLOB
    assert list(store.stale_uploads(time.time() + 1000)) == []


def test_killed_after_completion_then_done_again(
    place: Place, store: S3Store, source: Path
) -> None:
    reached = threading.Event()

    def complete(handler: fault_proxy.Handler, request: Request) -> None:
        handler.proxy.forward(request)
        reached.set()
        handler.proxy.released.wait(DEATH_SECONDS)
        handler.cut()

    place.proxy.rule(complete, method="POST", query="uploadId")
    kill_when(place, place.child("ingest", str(source), through=place.proxy.endpoint), reached)
    assert store.verify_blob(BLOB.digest) == BLOB
    place.proxy.requests.clear()
    assert store.ingest(source) == BLOB
    assert [r.method for r in place.proxy.requests] == ["HEAD"]


def test_an_unfinished_upload_of_other_bytes_is_not_taken_up(
    place: Place, store: S3Store, source: Path
) -> None:
    """Somebody left an upload under our name whose parts are not ours."""
    key = f"team/{blob_key(BLOB.digest)}"
    client = store._client
    begun = client.call("create_multipart_upload", key, ChecksumAlgorithm="SHA256")
    for number in (1, 2):
        body = os.urandom(8 * MIB)
        client.call(
            "upload_part", key, UploadId=begun["UploadId"], PartNumber=number, Body=body,
            ChecksumAlgorithm="SHA256",
        )  # fmt: skip
    assert store.ingest(source) == BLOB
    assert store.verify_blob(BLOB.digest) == BLOB


# --- together, and memory ---


def _create(url: str, env: dict[str, str], who: str, barrier: Any, won: Any) -> None:
    os.environ.update(env)
    store = S3Store(url)
    store.exists(KEY)
    barrier.wait(60)
    try:
        store.create(KEY, who.encode())
    except ObjectExistsError:
        won.put((who, False))
    else:
        won.put((who, True))


def test_twenty_processes_create_one_key_and_one_wins(place: Place, store: S3Store) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["boto3", "launcher.storage.s3"])
    barrier, won = context.Barrier(20), context.Queue()
    environment = place.server.environment()
    children = [
        context.Process(target=_create, args=(place.url, environment, str(number), barrier, won))
        for number in range(20)
    ]
    for child in children:
        child.start()
    said = dict(won.get(timeout=120) for _ in children)
    for child in children:
        child.join(30)
    winners = [who for who, outcome in said.items() if outcome]
    assert len(winners) == 1
    assert store.read(KEY).decode() == winners[0]


def test_memory_does_not_grow_with_the_blob(place: Place, store: S3Store, tmp_path: Path) -> None:
    source, dest = tmp_path / "big", tmp_path / "dest"
    with source.open("wb") as file:
        for number in range(512):
            file.write(number.to_bytes(2) * (MIB // 2))
    up = place.child("ingest", str(source), through=place.server.endpoint)
    digest, peak = up.communicate(timeout=120)[0].split()
    assert int(peak) < 200 * 1024
    down = place.child("fetch", digest, str(dest), through=place.server.endpoint)
    fetched, peak = down.communicate(timeout=120)[0].split()
    assert fetched == digest
    assert dest.stat().st_size == 512 * MIB
    assert int(peak) < 200 * 1024


def test_absent_is_not_a_fault(store: S3Store) -> None:
    with pytest.raises(ObjectNotFoundError):
        store.read(KEY)
    assert not store.exists(KEY)
