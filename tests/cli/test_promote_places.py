"""promote by hand refuses what submit refuses as a target: the launcher's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.session import Session, make_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    made = make_session(tmp_path_factory.mktemp("places") / "project")
    assert made.submit("--run-id", "a").code == 0
    (made.root / "taken").write_text("a file\n")
    return made


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("runs/self_distill/ledger.db", "the ledger's own file"),
        ("runs/self_distill/ledger.db-wal", "the ledger's own file"),
        ("runs/self_distill/objects/x.pt", "the launcher's own"),
        ("runs/self_distill/locks/x.pt", "the launcher's own"),
        ("taken/x.pt", "is no folder"),
    ],
)
def test_a_target_at_which_no_file_may_be(session: Session, target: str, why: str) -> None:
    place: Path = session.root / target
    before = place.read_bytes() if place.is_file() else None
    refused = session.look("promote", "a", target)
    assert refused.code == 2, refused
    assert why in refused.err
    assert len(refused.err.splitlines()) == 1
    assert session.json("pointers") == []
    assert (place.read_bytes() if place.is_file() else None) == before
    assert session.look("audit").code == 0
