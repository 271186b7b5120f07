"""What is collected of a run's folder, and what is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import UnavailableError, UsageError
from launcher.storage.blobs import digest_file
from launcher.storage.manifest import (
    Entry,
    Manifest,
    OutputsRefusedError,
    collect,
    merged,
    select_student,
)
from launcher.storage.port import BlobInfo
from ledger.canonical import canonical_json

ZERO = "sha256:" + "0" * 64


class Shelf:
    """Remembers what it was asked to store."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    def __call__(self, path: Path) -> BlobInfo:
        self.stored.append(path.name)
        return digest_file(path)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run a"
    folder.mkdir()
    return folder


def write(run_dir: Path, *paths: str) -> None:
    for path in paths:
        file = run_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)


def paths(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.entries]


names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1)
safe = st.lists(names.filter(lambda n: n not in (".", "..")), min_size=1, max_size=3).map("/".join)


@given(
    st.dictionaries(safe, st.tuples(st.integers(0, 2**40), st.integers(0, 2**256 - 1)), max_size=5),
    st.sets(safe, max_size=3),
)
def test_bytes_and_back(files: dict[str, tuple[int, int]], deleted: set[str]) -> None:
    entries = tuple(Entry(p, f"sha256:{h:064x}", size) for p, (size, h) in sorted(files.items()))
    manifest = Manifest(entries, tuple(sorted(deleted)))
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


FILE = {"path": "a", "digest": ZERO, "size_bytes": 1}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        canonical_json({"files": [FILE]}),
        canonical_json({"files": [{"path": "a"}], "deleted": []}),
        canonical_json({"files": [FILE, FILE], "deleted": []}),
        canonical_json({"files": [FILE | {"path": "b"}, FILE], "deleted": []}),
        canonical_json({"files": [FILE | {"path": "../a"}], "deleted": []}),
        canonical_json({"files": [FILE | {"path": "/a"}], "deleted": []}),
        canonical_json({"files": [FILE | {"path": ""}], "deleted": []}),
        canonical_json({"files": [FILE | {"digest": "md5:1"}], "deleted": []}),
        canonical_json({"files": [FILE | {"mode": 1}], "deleted": []}),
        canonical_json({"files": [], "deleted": ["b", "a"]}),
        canonical_json({"files": [], "deleted": ["../a"]}),
        canonical_json({"files": [], "deleted": []}) + b"\n",
    ],
)
def test_what_no_manifest_writes_is_none(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract
        Manifest.from_bytes(raw)


def test_new_changed_and_deleted(run_dir: Path) -> None:
    write(run_dir, "b", "checkpoints/a.pt", "é ✓", "new\nline", "same", "gone/x")
    first = collect(run_dir, {}, Shelf())
    assert paths(first) == ["b", "checkpoints/a.pt", "gone/x", "new\nline", "same", "é ✓"]
    assert first.entries[1].size_bytes == len("checkpoints/a.pt")
    assert first.deleted == ()

    (run_dir / "b").write_text("B")  # as long as before
    (run_dir / "gone/x").unlink()
    write(run_dir, "new")
    shelf = Shelf()
    second = collect(run_dir, merged([first]), shelf)
    assert (paths(second), second.deleted) == (["b", "new"], ("gone/x",))
    assert sorted(shelf.stored) == ["b", "new"]
    assert collect(run_dir, merged([first, second]), Shelf()) == Manifest()


def test_a_path_that_was_deleted_may_come_back(run_dir: Path) -> None:
    write(run_dir, "x")
    first = collect(run_dir, {}, Shelf())
    (run_dir / "x").unlink()
    second = collect(run_dir, merged([first]), Shelf())
    assert merged([first, second]) == {}
    write(run_dir, "x")
    third = collect(run_dir, merged([first, second]), Shelf())
    assert merged([first, second, third]) == merged([first])


def test_what_is_excluded_is_neither_listed_nor_deleted_nor_looked_at(run_dir: Path) -> None:
    write(run_dir, "a.log", "keep.log", "cache/deep/x", "metadata.json", "m/metadata.json")
    (run_dir / "cache" / "out").symlink_to("/etc")
    (run_dir / "latest-run").symlink_to("/etc")
    os.mkfifo(run_dir / "control.fifo")
    before = {"a.log": Entry("a.log", ZERO, 1)}
    found = collect(
        run_dir,
        before,
        Shelf(),
        excludes=["*.log", "!keep.log", "cache/", "/latest-run", "*.fifo"],
        ignore={"metadata.json"},
    )
    assert paths(found) == ["keep.log", "m/metadata.json"]
    assert found.deleted == ()


def test_a_pattern_that_does_not_parse_is_wrong_use(run_dir: Path) -> None:
    with pytest.raises(UsageError):
        collect(run_dir, {}, Shelf(), excludes=["!"])


def test_symlinks_inside_count_as_what_they_name(run_dir: Path) -> None:
    write(run_dir, "checkpoints/step_2/model.pt")
    (run_dir / "checkpoints/last.pt").symlink_to("step_2/model.pt")
    (run_dir / "checkpoints/latest").symlink_to(run_dir / "checkpoints/step_2")
    found = collect(run_dir, {}, Shelf())
    assert paths(found) == [
        "checkpoints/last.pt",
        "checkpoints/latest/model.pt",
        "checkpoints/step_2/model.pt",
    ]
    assert len({entry.digest for entry in found.entries}) == 1


def test_a_run_folder_that_is_itself_reached_by_a_symlink(run_dir: Path, tmp_path: Path) -> None:
    write(run_dir, "a/x")
    (run_dir / "l").symlink_to("a/x")
    (tmp_path / "link").symlink_to(run_dir)
    assert paths(collect(tmp_path / "link", {}, Shelf())) == ["a/x", "l"]


def _fifo(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(place.parent)  # a socket's path may have 108 bytes only
        try:
            listener.bind(place.name)
        finally:
            os.chdir(here)


def _link(to: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(to)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_fifo, "neither a file nor a folder"),
        (_socket, "neither a file nor a folder"),
        (_link("/etc/passwd"), "leaves the run's folder (/etc/passwd)"),
        (_link("../../secret"), "leaves the run's folder"),
        (_link("../../run a b"), "leaves the run's folder"),
        (_link("/dev/null"), "leaves the run's folder"),
        (_link("nowhere"), "leads nowhere"),
        (_link("it"), "leads nowhere"),
        (_link(".."), "a folder around it"),
        (_link("."), "a folder around it"),
    ],
)
def test_what_is_no_output_is_refused(
    run_dir: Path, make: Callable[[Path], None], why: str
) -> None:
    (run_dir.parent / "run a b").mkdir()
    (run_dir.parent / "secret").write_text("x")
    write(run_dir, "d/ok")
    make(run_dir / "d" / "it")
    with pytest.raises(OutputsRefusedError) as caught:
        collect(run_dir, {}, Shelf())
    assert caught.value.path.startswith("d/it")
    assert why in caught.value.why


def test_a_name_that_is_not_utf8_is_refused_and_shown_in_one_printable_line(run_dir: Path) -> None:
    name = os.fsencode(run_dir) + b"/bad-\xff\n\x1b.pt"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    with pytest.raises(OutputsRefusedError) as caught:
        collect(run_dir, {}, Shelf())
    assert str(caught.value) == "output bad-\\xff\\n\\x1b.pt: its name is not UTF-8"


def test_a_file_that_becomes_a_symlink_while_it_is_stored_is_refused(
    run_dir: Path, tmp_path: Path
) -> None:
    write(run_dir, "x")
    (tmp_path / "secret").write_text("s")

    def swapped(path: Path) -> BlobInfo:
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        return digest_file(path)

    with pytest.raises(OutputsRefusedError):
        collect(run_dir, {}, swapped)


@pytest.mark.parametrize("count", [1, 100])
def test_the_first_error_ends_the_collection(run_dir: Path, count: int) -> None:
    write(run_dir, *(f"{n:03d}" for n in range(count)))
    asked: list[Path] = []

    def full(path: Path) -> BlobInfo:
        asked.append(path)
        raise UnavailableError("no space left")

    with pytest.raises(UnavailableError):
        collect(run_dir, {}, full)
    assert len(asked) <= max(1, count // 2)


def test_many_files_keep_their_order(run_dir: Path) -> None:
    write(run_dir, *(f"{n % 7}/{n}" for n in range(500)))
    found = collect(run_dir, {}, digest_file)
    assert len(found.entries) == 500
    assert paths(found) == sorted(paths(found))
    assert all(digest_file(run_dir / e.path).digest == e.digest for e in found.entries)


# --- the student ---


def aged(run_dir: Path, **ages: int) -> list[str]:
    """Files with these mtimes, in nanoseconds; ``__`` stands for a slash, ``_`` for a dot."""
    made = []
    for name, mtime_ns in ages.items():
        path = "checkpoints/" + name.replace("__", "/").replace("_", ".")
        write(run_dir, path)
        os.utime(run_dir / path, ns=(mtime_ns, mtime_ns))
        made.append(path)
    return made


def test_the_newest_checkpoint_is_the_student(run_dir: Path) -> None:
    found = aged(run_dir, z_pt=1, a_safetensors=3, m_ckpt=2, n_pth=0)
    student, also = select_student(found, run_dir, None)
    assert student == "checkpoints/a.safetensors"
    assert also == ("checkpoints/n.pth", "checkpoints/z.pt", "checkpoints/m.ckpt")


def test_a_nanosecond_decides_and_ties_go_by_name(run_dir: Path) -> None:
    moment = 1_700_000_000_000_000_000
    found = aged(run_dir, b_pt=moment, a_pt=moment + 1)
    assert select_student(found, run_dir, None)[0] == "checkpoints/a.pt"
    found = aged(run_dir, b_pt=moment, a_pt=moment)
    assert select_student(reversed(found), run_dir, None)[0] == "checkpoints/b.pt"


@pytest.mark.parametrize(
    "path",
    ["checkpoints/a.pt.tmp", "checkpoints/.a.pt", "checkpoints/.tmp/a.pt", "checkpoints/a.txt",
     "checkpoints/a.part", "checkpoints/pt", "artifacts/a.pt", "a.pt", "sub/checkpoints/a.pt"],
)  # fmt: skip
def test_what_is_no_finished_checkpoint_never_matches(run_dir: Path, path: str) -> None:
    write(run_dir, path)
    assert select_student([path], run_dir, None) == (None, ())
    assert select_student([path], run_dir, "*") == (None, ())


@pytest.mark.parametrize(
    ("pattern", "student"),
    [
        ("best*.pt", "checkpoints/sub/best.pt"),
        ("best1.pt", "checkpoints/best1.pt"),
        ("checkpoints/*.pt", "checkpoints/last.pt"),
        ("sub/*.pt", "checkpoints/sub/best.pt"),
        ("checkpoints/sub/*", "checkpoints/sub/best.pt"),
        ("/*.pt", "checkpoints/last.pt"),
        ("nothing*", None),
        (None, "checkpoints/last.pt"),
        ("", "checkpoints/last.pt"),
    ],
)
def test_a_pattern_narrows(run_dir: Path, pattern: str | None, student: str | None) -> None:
    found = aged(run_dir, best1_pt=1, sub__best_pt=2, last_pt=3)
    assert select_student(found, run_dir, pattern)[0] == student


def test_a_checkpoint_that_went_away_is_the_oldest(run_dir: Path) -> None:
    found = [*aged(run_dir, a_pt=1), "checkpoints/z.pt"]
    assert select_student(found, run_dir, None)[0] == "checkpoints/a.pt"
