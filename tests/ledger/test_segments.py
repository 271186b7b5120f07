"""The segments' format, pinned byte for byte and read by somebody who has nothing of ours."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence

import pytest

from ledger.errors import LedgerDamagedError, NewerSchemaError
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import (
    Tip,
    next_segment,
    parse_segment,
    segment_key,
    sequence_of,
)
from tests.ledger.log_objects import MemoryObjects, folder_objects
from tests.ledger.samples import NOW, skipped

EVENT = (
    '{"actor":"ana","data":{"reason":"größe","stage":"llm_off"},"id":"k2","schema":1,'
    '"stream":"run/a","time":"2026-01-31T02:00:00.000250Z","type":"StageSkipped","version":3}'
)
#: The second segment of ``filled``: once released, these bytes are for ever.
SECOND = (
    '{"count":1,"first":2,"format":1,'
    '"previous":"sha256:PREVIOUS",'
    '"root":"ROOT","sequence":2}\n' + EVENT + "\n"
)
#: The digest of its bytes, and through "previous" of the first segment's too.
PINNED = "9586b1b01ecc54652dd1d3ad3dad9f4f0cc184fe3338692f5fb2fd0ce8da2d9d"


def filled() -> MemoryObjects:
    bucket = MemoryObjects()
    store = ObjectsEventStore(bucket, sleep=lambda seconds: None)
    store.append("run/a", 0, [skipped("k0"), skipped("k1")], now=NOW, actor="ana")
    store.append("run/a", 2, [skipped("k2", "größe")], now=NOW, actor="ana")
    store.append("run/b", 0, [skipped(f"b{i}") for i in range(5)], now=NOW, actor="bob")
    return bucket


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


def test_the_bytes_of_a_segment() -> None:
    bucket = filled()
    first, second = (bucket.objects[f"ledger/log/00000000000{n}"] for n in (1, 2))
    leaves = [*first.split(b"\n")[1:-1], EVENT.encode()]
    expected = SECOND.replace("PREVIOUS", hashlib.sha256(first).hexdigest())
    assert second == expected.replace("ROOT", root(leaves).hex()).encode()
    assert hashlib.sha256(second).hexdigest() == PINNED


def test_a_stranger_can_check_all_of_it() -> None:
    bucket = filled()
    leaves: list[bytes] = []
    previous = None
    for number, (key, data) in enumerate(sorted(bucket.objects.items()), start=1):
        assert key == f"ledger/log/{number:012d}"
        head, *events, nothing = data.split(b"\n")
        header = json.loads(head)
        assert nothing == b""
        assert (header["sequence"], header["first"], header["count"], header["format"]) == (
            number,
            len(leaves),
            len(events),
            1,
        )
        assert header["previous"] == previous
        leaves += events
        assert header["root"] == root(leaves).hex()
        previous = "sha256:" + hashlib.sha256(data).hexdigest()
        assert all(json.loads(event) for event in events)
    assert len(leaves) == 8


def test_a_shell_can_read_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bucket")
    objects = folder_objects(folder)
    for key, data in filled().objects.items():
        objects.create(key, data)

    def shell(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=folder / "ledger" / "log",
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    every = shell('for f in *; do tail -n +2 "$f"; done')
    assert [json.loads(line)["id"] for line in every] == [
        "k0",
        "k1",
        "k2",
        *(f"b{i}" for i in range(5)),
    ]
    assert len(shell("""grep -h '"stream":"run/b"' *""")) == 5
    digest, header = shell("sha256sum 000000000002; head -1 000000000003")
    assert json.loads(header)["previous"] == "sha256:" + digest.split()[0]


def test_what_is_made_is_read_and_follows() -> None:
    tip, raws = Tip(), [b'{"a":1}', b'{"b":"\xc3\xbc"}']
    for n in range(1, 5):
        made = next_segment(tip, raws[: 1 + n % 2])
        assert parse_segment(n, made.data, "x") == made
        tip = tip.follow(made, "x")
        assert (tip.sequence, tip.frontier.root()) == (n, made.root)
    assert tip.size == 6


def test_keys() -> None:
    assert segment_key(1) == "ledger/log/000000000001"
    assert sequence_of(segment_key(987654321012)) == 987654321012
    assert segment_key(0) < segment_key(1) < segment_key(10)
    for other in ("ledger/log/1", "ledger/log/0000000000001", "x/ledger/log/000000000001", ""):
        assert sequence_of(other) is None


def test_a_segment_out_of_its_turn_is_refused() -> None:
    first = next_segment(Tip(), [b"{}"])
    tip = Tip().follow(first, "x")
    second = next_segment(tip, [b"{}"])
    third = next_segment(tip.follow(second, "x"), [b"{}"])
    for segment, before in ((second, Tip()), (third, tip), (first, tip)):
        with pytest.raises(LedgerDamagedError):
            before.follow(segment, "x")


def test_only_the_number_of_a_later_format_is_looked_at() -> None:
    with pytest.raises(NewerSchemaError, match="segment format of schema 7"):
        parse_segment(1, b'{"format":7}\nwhatever', "x")
    for data in (b"", b"\n", b"[]\n", b'{"format":"7"}\n', b'{"format":true}\n', b"\xff\n"):
        with pytest.raises(LedgerDamagedError, match="000000000001 is no segment"):
            parse_segment(1, data, "x")
