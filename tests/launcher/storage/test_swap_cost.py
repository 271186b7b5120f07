"""What a promotion and a rollback cost in a bucket: the same few requests, whatever the checkpoint weighs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.clock import new_id
from launcher.storage.port import blob_key
from tests.rig.fault_proxy import FaultProxy, proxied
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server
from tests.rig.swaps import NAME, Swaps, swaps

MB, GIB = 10**6, 2**30


@pytest.fixture
def proxy(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    with proxied(s3_server) as proxy:
        for variable, value in s3_server.environment(proxy.endpoint).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield proxy


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.bucket()


@pytest.fixture
def world(proxy: FaultProxy, bucket: str, tmp_path: Path) -> Iterator[Swaps]:
    with swaps(tmp_path / "project", f"s3://{bucket}/team") as world:
        yield world


def checkpoint(server: S3Server, bucket: str, size_bytes: int) -> str:
    """A blob of this size, empty on the disk; a swap that read its bytes would find that they are wrong."""
    digest = "sha256:" + new_id().replace("-", "") * 2
    file = server.root / bucket / "team" / blob_key(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.truncate(size_bytes)
    return digest


def asked(proxy: FaultProxy) -> tuple[list[str], list[str], int]:
    """Creates and other writes by key, and how many reads there were, since this was last asked."""
    creates = [r.key for r in proxy.requests if r.header("if-none-match")]
    writes = [r.key for r in proxy.requests if r.method not in ("GET", "HEAD")]
    reads = sum(r.method in ("GET", "HEAD") for r in proxy.requests)
    payload = sum(len(r.body) for r in proxy.requests)
    assert payload < 4096
    proxy.requests.clear()
    return creates, [key for key in writes if key not in creates], reads


@pytest.mark.parametrize("size", [MB, 2 * GIB], ids=["1 MB", "2 GiB"])
@pytest.mark.parametrize("known", [True, False], ids=["the same process", "a new process"])
def test_a_swap_is_one_create_and_at_most_four_reads(
    s3_server: S3Server, proxy: FaultProxy, bucket: str, world: Swaps, size: int, known: bool
) -> None:
    runs = [
        world.run(run_id, checkpoint(s3_server, bucket, size), size) for run_id in ("a", "b", "c")
    ]
    first = world.promoter()
    first.promote(runs[0], NAME, automatic=True)
    first.promote(runs[1], NAME, automatic=True)
    proxy.requests.clear()

    then = first if known else world.promoter()
    then.promote(runs[2], NAME, automatic=True)
    view = f"team/pointers/{NAME}.json"
    expected = 3 if known else 4
    assert asked(proxy) == ([f"team/pointers/{NAME}/00000003.json"], [view], expected)

    then = first if known else world.promoter()
    history = then.settle(NAME)
    target = history.rollback_target(None)
    assert target.run_id == "b"
    proxy.requests.clear()
    then.rollback(NAME, target, reason=None, base=history.latest)
    assert asked(proxy) == ([f"team/pointers/{NAME}/00000004.json"], [view], 3)
    assert world.promoter().history(NAME).live == then.history(NAME).live


def test_what_was_created_in_between_is_found_by_the_create(
    s3_server: S3Server, proxy: FaultProxy, bucket: str, world: Swaps
) -> None:
    """A promoter that trusts its last look loses all the same: the number is taken."""
    from launcher.settling import RaceLostError

    runs = [world.run(r, checkpoint(s3_server, bucket, MB), MB) for r in ("a", "b")]
    slow, quick = world.promoter(), world.promoter()
    slow.promote(runs[0], NAME, automatic=True)
    history = quick.settle(NAME)
    body = history.promotion_body(
        project="p",
        digest=runs[1].student.digest if runs[1].student else None,
        size_bytes=MB,
        run_id="b",
        promotion_id=new_id(),
        automatic=False,
        actor="ben",
        reason=None,
        time="2026-01-31T02:00:00.000250Z",
    )
    verify = slow.settling._why_not

    def beaten(*arguments: object, **more: object) -> str | None:
        quick.pointers.create(body)
        return verify(*arguments, **more)  # type: ignore[arg-type]

    slow.settling._why_not = beaten  # type: ignore[method-assign,assignment]
    with pytest.raises(RaceLostError) as caught:
        slow.promote(runs[1], NAME, automatic=False)
    assert caught.value.winner == body
    assert world.promoter().history(NAME).live == body
