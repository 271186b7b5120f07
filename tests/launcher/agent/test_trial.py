"""The trial of a store from inside a pod, on a folder; tests/launcher/test_doctor_cluster.py tries a bucket in pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.agent import trial
from launcher.storage import trial as trying


def test_a_folder_is_tried_and_left_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blobs").mkdir()
    assert trial.main([f"--store={tmp_path}"]) == 0
    assert capfd.readouterr().err == f"trial: {tmp_path}: written, read, and created once\n"
    assert [one.name for one in tmp_path.iterdir()] == ["blobs"]


def test_a_folder_that_is_not_there_is_exit_5(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trial.main([f"--store={tmp_path}/gone"]) == 5
    assert "cannot be written: No such file or directory" in capfd.readouterr().err


def test_a_disk_on_which_a_name_can_be_taken_twice_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replacing(temporary: Path, name: Path) -> None:
        temporary.replace(name)

    monkeypatch.setattr(trying, "take_name", replacing)
    assert trial.main([f"--store={tmp_path}"]) == 2
    assert "a name can be created twice" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_store_at_all_is_exit_2() -> None:
    with pytest.raises(SystemExit) as left:
        trial.main([])
    assert left.value.code == 2
