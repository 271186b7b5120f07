"""audit and replay on a ledger in a bucket: whatever the cache is, and whatever somebody did to the bucket.

A reading command changes nothing: not the bucket, not the project. What is wrong is said with the segment and the
position; a cache is never wrong, it is only of no use.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.storage.port import blob_key
from ledger.stores.segments import LOG_PREFIX, segment_key
from tests.cli.session import Done, Session, make_session
from tests.cli.team import make_team
from tests.rig.fault_proxy import proxied
from tests.rig.s3 import S3Server, client_of, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
Tree = dict[str, bytes]


class Place:
    """A project with its ledger in a bucket, after two promoted runs; ``warm`` is the cache that they left."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.bucket, self.warm = server, server.bucket(), folder / "warm"
        self.session: Session = make_session(
            folder / "project",
            **server.environment(),
            LAUNCHER_STORE=f"s3://{self.bucket}/team",
            XDG_CACHE_HOME=str(self.warm),
        )
        for run_id in ("a", "b"):
            done = self.session.submit("--run-id", run_id, "--promotion-target", "student")
            assert done.code == 0, done
        self.before = self.look(self.warm, "audit", "--json")
        assert self.before.code == 0, self.before

    @property
    def objects(self) -> Path:
        return self.server.root / self.bucket / "team"

    @property
    def segments(self) -> int:
        return len(list((self.objects / LOG_PREFIX).iterdir()))

    def first(self, sequence: int) -> int:
        """The position at which a segment begins."""
        header = (self.objects / segment_key(sequence)).read_bytes().partition(b"\n")[0]
        return int(json.loads(header)["first"])

    def look(self, cache: Path, *arguments: str) -> Done:
        """A command that only looks, with this cache; and it did only look."""
        before = self.everything()
        done = self.session.look(*arguments, XDG_CACHE_HOME=str(cache))
        assert self.everything() == before, arguments
        return done

    def everything(self) -> tuple[Tree, Tree]:
        return tree(self.objects), tree(self.session.root)

    def put(self, sequence: int, data: bytes) -> None:
        """As somebody would who may write there: through the service, which makes a checksum of it."""
        client = client_of(self.server.environment())
        client.put_object(Bucket=self.bucket, Key=f"team/{segment_key(sequence)}", Body=data)

    def segment(self, sequence: int) -> bytes:
        return (self.objects / segment_key(sequence)).read_bytes()

    @contextmanager
    def to_be_damaged(self, folder: Path) -> Iterator[None]:
        """Afterwards the ledger in the bucket is what it was."""
        log = self.objects / LOG_PREFIX
        shutil.copytree(log, folder / "kept")
        try:
            yield
        finally:
            shutil.rmtree(log)
            shutil.copytree(folder / "kept", log)


def tree(folder: Path) -> Tree:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def place(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(s3_server, tmp_path_factory.mktemp("place"))


def report(done: Done) -> Any:
    return json.loads(done.out)


# --- the cache -------------------------------------------------------------------------------------------


def no_cache(place: Place, cache: Path) -> None:
    cache.write_text("a file, where a folder would have to be")


def cold(place: Place, cache: Path) -> None:
    cache.mkdir()


def warm(place: Place, cache: Path) -> None:
    shutil.copytree(place.warm, cache)


def file_of(cache: Path) -> Path:
    [path] = (cache / "distill-ledger" / "ledgers").glob("*/segments-*.db")
    return path


def foreign(place: Place, cache: Path) -> None:
    """Under the name of this ledger's cache lies that of another one."""
    with pytest.MonkeyPatch.context() as patch:
        team = make_team(place.server, cache.parent / "others" / "p", "store", patch)
        team.runs("x", "y")
        team.ok("list")
    warm(place, cache)
    shutil.copyfile(file_of(cache.parent / "others" / "cache"), file_of(cache))


def noise(place: Place, cache: Path) -> None:
    warm(place, cache)
    file_of(cache).write_bytes(b"not a database " * 1000)


def short(place: Place, cache: Path) -> None:
    warm(place, cache)
    data = file_of(cache).read_bytes()
    file_of(cache).write_bytes(data[: len(data) // 2])


def edited(place: Place, cache: Path) -> None:
    """A run is called a failure in it, consistently as far as one row goes."""
    warm(place, cache)
    with sqlite3.connect(file_of(cache)) as db:
        changed = db.execute(
            "UPDATE segments SET data = CAST(replace(data, 'RunSucceeded', 'RunConcluded') AS BLOB) "
            "WHERE instr(data, 'RunSucceeded') > 0"
        )
        assert changed.rowcount > 0
    db.close()


CACHES = (no_cache, cold, warm, foreign, noise, short, edited)


@pytest.mark.parametrize("cache", CACHES, ids=lambda c: c.__name__)
def test_whatever_the_cache_is_a_look_says_what_the_bucket_says(
    place: Place, tmp_path: Path, cache: Callable[[Place, Path], None]
) -> None:
    for number, arguments in enumerate((["audit", "--json"], ["replay", "--check"], ["list"])):
        folder = tmp_path / str(number) / "cache"
        folder.parent.mkdir()
        cache(place, folder)
        done = place.look(folder, *arguments)
        assert (done.code, done.err) == (0, "")
        if arguments[0] == "audit":
            assert report(done) == report(place.before)
        elif arguments[0] == "list":
            assert [line.split()[0] for line in done.lines[2:]] == ["b", "a"]
        else:
            assert done.out == "the documents of 2 runs are what the ledger says\n"


# --- the bucket ------------------------------------------------------------------------------------------


def deleted(place: Place, at: int) -> None:
    (place.objects / segment_key(at)).unlink()


def changed(place: Place, at: int) -> None:
    """One actor is another one, and the service knows no better."""
    data = place.segment(at)
    place.put(at, data.replace(b'"actor":"ana"', b'"actor":"eve"', 1))
    assert place.segment(at) != data


def swapped(place: Place, at: int) -> None:
    one, other = place.segment(at), place.segment(at + 1)
    place.put(at, other)
    place.put(at + 1, one)


def rotten(place: Place, at: int) -> None:
    """On the disk below: the service has another checksum of it, and says so of every answer."""
    path = place.objects / segment_key(at)
    path.write_bytes(path.read_bytes().replace(b'"actor":"ana"', b'"actor":"eve"', 1))


DAMAGE = {
    deleted: "is gone",
    changed: "",
    swapped: "",
    rotten: "does not come whole, or is not what its checksum says",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_a_damaged_segment_is_named_by_whoever_reads_it(
    place: Place, tmp_path: Path, damage: Callable[[Place, int], None]
) -> None:
    at = place.segments // 2
    position = place.first(at)
    with place.to_be_damaged(tmp_path):
        damage(place, at)
        for name, cache in (("cold", cold), ("warm", warm)):
            cache(place, tmp_path / name)
            audited = place.look(tmp_path / name, "audit", "--json")
            assert audited.code == 4, audited
            said = report(audited)
            assert (said["ok"], said["head"], said["first_bad_position"]) == (False, None, position)
            checks = {check["name"]: check for check in said["checks"]}
            [problem] = checks["bytes"]["problems"]
            assert segment_key(at) in problem["what"]
            assert DAMAGE[damage] in problem["what"]
            # The rest is looked at all the same, or it is said that it was not.
            assert [c["name"] for c in said["checks"] if c["skipped"]] == [
                "heads",
                "documents",
                "results",
            ]
            assert checks["pointers"]["ok"] is checks["blobs"]["ok"] is True
        commands = [["replay", "--check"], ["replay"], ["replay", "a"], ["status", "a"]]
        for number, arguments in enumerate(commands if damage is deleted else commands[:1]):
            done = place.look(tmp_path / f"cold {number}", *arguments)
            assert (done.code, done.out, done.err.count("\n")) == (4, "", 1), done
            assert f"is damaged at position {position}: {segment_key(at)}" in done.err
            assert "launcher audit shows what is intact" in done.err
        # This machine had read it when it was whole, and kept what it read.
        done = place.look(tmp_path / "warm", "replay", "--check")
        assert (done.code, done.err) == (0, "")
    assert place.look(place.warm, "audit", "--json") == place.before


@pytest.mark.parametrize("damage", [deleted, changed, rotten], ids=lambda d: d.__name__)
def test_the_last_segment_shows_to_whoever_had_read_it(
    place: Place, tmp_path: Path, damage: Callable[[Place, int], None]
) -> None:
    at = place.segments
    position, head = place.first(at), report(place.before)["head"]
    with place.to_be_damaged(tmp_path):
        damage(place, at)
        warm(place, tmp_path / "warm")
        audited = place.look(tmp_path / "warm", "audit")
        assert audited.code == 4, audited
        assert f"the first bad position is {position}" in audited.err
        done = place.look(tmp_path / "warm", "replay", "--check")
        assert (done.code, done.err.count("\n")) == (4, 1), done
        assert f"is damaged at position {position}: {segment_key(at)} " in done.err
        # Who starts cold needs a head that was kept elsewhere, where the tail is simply gone.
        cold(place, tmp_path / "cold")
        expected = place.look(tmp_path / "cold", "audit", "--expect-head", head)
        assert expected.code == 4, expected
    assert place.look(place.warm, "audit", "--json") == place.before


# --- what it asks ----------------------------------------------------------------------------------------


def test_an_audit_asks_for_listings_and_not_for_each_blob(place: Place) -> None:
    """``--quick`` reads each manifest once and asks for no other blob; what a page says of sizes is not asked again."""
    blobs = {f"team/{p.relative_to(place.objects)}" for p in place.objects.rglob("blobs/*/*/*")}
    ledger = b"".join(tree(place.objects / LOG_PREFIX).values()).decode()
    digests = re.findall(r'"manifest_digest":"(sha256:[0-9a-f]+)"', ledger)
    with proxied(place.server) as proxy:
        more = {**place.server.environment(proxy.endpoint), "XDG_CACHE_HOME": str(place.warm)}
        assert place.session.look("audit", "--quick", **more).code == 0
        quick = list(proxy.requests)
        proxy.requests.clear()
        assert place.session.look("audit", **more).code == 0
        full = list(proxy.requests)
    asked = [r.key for r in quick if r.key in blobs]
    assert sorted(asked) == sorted({f"team/{blob_key(digest)}" for digest in digests})
    assert 0 < len(asked) < len(blobs) / 2
    listings = [r for r in quick if "list-type" in r.query]
    assert len(listings) <= 8, [r.target for r in listings]
    assert not [r for r in quick if r.method != "GET"]
    # Hashing takes a HEAD and a GET of each: the download wants to know how much there is to come.
    assert len([r for r in full if r.method == "HEAD"]) <= len(blobs)
