"""Another cluster is used by those who ask for it, and by nobody else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.rig import prepare
from tests.rig.cluster.programs import given

_ROOT = Path(__file__).parents[2]
_NAME = "TEST_CLUSTER_KUBECONFIG"


def test_a_kubeconfig_of_the_shell_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.touch()
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv(_NAME, raising=False)
    assert given() is None
    monkeypatch.setenv(_NAME, str(file))
    assert given() == file


def test_one_that_was_asked_for_and_is_not_there_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(_NAME, "/nonexistent/config")
    assert prepare.main() == 5
    assert capsys.readouterr().err == f"{_NAME}=/nonexistent/config is no file\n"


@pytest.mark.parametrize(("argument", "said"), [((), ""), (("KUBECONFIG=/of/mine",), "/of/mine")])
def test_make_takes_what_stands_on_its_own_line(
    tmp_path: Path, argument: tuple[str, ...], said: str
) -> None:
    rules = tmp_path / "rules"
    rules.write_text(f'include Makefile\nshow:\n\t@echo "$${{{_NAME}:-}}"\n')
    hidden = (_NAME, "MAKEFLAGS", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        ["make", "-s", "-f", str(rules), "show", *argument],
        cwd=_ROOT,
        env={**environment, "KUBECONFIG": "/of/the/shell"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{said}\n"
