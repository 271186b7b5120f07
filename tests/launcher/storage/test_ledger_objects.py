"""The launcher's own store under the ledger: errors in the ledger's words, one cache per place, audits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launcher.audit import Scene, audit
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import LedgerObjects, open_ledger
from ledger.errors import LedgerUnavailableError
from ledger.stores.log_port import KeyTakenError, NoAnswerError
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import segment_key
from tests.ledger.samples import NOW, skipped


def ledger(folder: Path) -> ObjectsEventStore:
    return open_ledger(FilesystemStore(folder / "objects"), folder / "cache", writing=True)


def filled(folder: Path) -> FilesystemStore:
    """A ledger of five appends, each of one run."""
    store = ledger(folder)
    for n in range(5):
        store.append(f"run/r{n}", 0, [skipped(f"{n}")], now=NOW, actor="ana")
    store.close()
    return FilesystemStore(folder / "objects")


def test_the_four_verbs(tmp_path: Path) -> None:
    objects = LedgerObjects(FilesystemStore(tmp_path))
    assert objects.where == str(tmp_path)
    assert objects.read("ledger/log/1") is None
    assert list(objects.list("ledger/log/", "")) == []
    for name in "213":
        objects.create(f"ledger/log/{name}", name.encode())
    with pytest.raises(KeyTakenError) as caught:
        objects.create("ledger/log/2", b"other")
    assert caught.value.key == "ledger/log/2"
    assert objects.read("ledger/log/2") == b"2"
    assert list(objects.list("ledger/log/", "ledger/log/1")) == ["ledger/log/2", "ledger/log/3"]


def test_what_the_store_cannot_do_now_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = LedgerObjects(FilesystemStore(tmp_path))
    objects.create("ledger/log/1", b"1")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(os, "scandir", refused)
    for call in (
        lambda: objects.create("ledger/log/2", b"2"),
        lambda: objects.read("ledger/log/1"),
        lambda: list(objects.list("ledger/log/", "")),
    ):
        with pytest.raises(NoAnswerError, match="Input/output error") as caught:
            call()
        assert str(tmp_path) in str(caught.value)


def test_every_place_has_a_cache_of_its_own_and_a_reader_only_reads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        place = FilesystemStore(tmp_path / name)
        with_cache = open_ledger(place, tmp_path / "cache", writing=True)
        with_cache.append("run/x", 0, [skipped(name)], now=NOW, actor="ana")
        with_cache.close()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for name in ("a", "b"):
        reader = open_ledger(FilesystemStore(tmp_path / name), tmp_path / "cache", writing=False)
        assert [r.id for r in reader.read_all()] == [name]
        with pytest.raises(LedgerUnavailableError, match="opened for reading"):
            reader.append("run/x", 1, [skipped("more")], now=NOW, actor="ana")


def problems(folder: Path, cache: str) -> list[tuple[str, int | None, str]]:
    """What an audit finds wrong with the ledger itself."""
    store = FilesystemStore(folder / "objects")
    opened = open_ledger(store, folder / cache, writing=False)
    report = audit(Scene(opened, store, folder, folder, "p"))
    opened.close()
    return [
        (check.name, p.position, p.what)
        for check in report.checks
        for p in check.problems
        if check.name in ("bytes", "order", "ids", "heads")
    ]


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("cache", ["cache", "cold"])
def test_an_audit_names_the_segment_that_was_deleted_or_changed(tmp_path: Path, cache: str) -> None:
    store = filled(tmp_path)
    # These little events have ids of their own making, which is all that a whole ledger is blamed for.
    assert {name for name, _, _ in problems(tmp_path, cache)} == {"ids"}
    path = store.root / segment_key(3)
    data = path.read_bytes()
    overwrite(path, data.replace(b"no command", b"no commend"))
    [found] = [p for p in problems(tmp_path, cache) if p[0] != "ids"]
    assert found[:2] == ("bytes", 2)
    assert segment_key(3) in found[2]
    path.unlink()
    [found] = [p for p in problems(tmp_path, cache) if p[0] != "ids"]
    assert found[:2] == ("bytes", 2)
    assert f"{segment_key(3)} is gone" in found[2]
    path.write_bytes(data)
    assert {name for name, _, _ in problems(tmp_path, cache)} == {"ids"}


def test_a_tail_that_was_cut_off_shows_to_a_machine_that_had_read_it(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.root / segment_key(5)).unlink()
    [found] = [p for p in problems(tmp_path, "cache") if p[0] != "ids"]
    assert f"{segment_key(5)} is gone since it was read here" in found[2]
    assert {name for name, _, _ in problems(tmp_path, "cold")} == {"ids"}
