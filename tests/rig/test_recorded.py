"""What was recorded from a real cluster is what its script would record."""

from __future__ import annotations

import pytest

from tests.rig.record import CASES, FOLDER, read


def test_each_case_was_recorded_and_nothing_else() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_recording_is_of_its_moment(name: str) -> None:
    moment = read(name)
    assert CASES[name].moment(moment)
    if moment.job:
        assert moment.job["metadata"]["name"] == name
        assert moment.job["metadata"]["uid"]
    assert "managedFields" not in (FOLDER / f"{name}.yaml").read_text()
