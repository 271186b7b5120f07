"""Which cluster a connection leads to, without one: a kubeconfig is only read."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from k8s.connection import Connection
from k8s.errors import ClusterRefusedError
from tests.rig.recorded_cluster import kubeconfig


def test_kubeconfig_is_read_at_each_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package reads the variable when it is imported, which may be long before."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    importlib.import_module("kubernetes.config")
    with pytest.raises(ClusterRefusedError, match="no cluster"):
        Connection.open()
    for name in ("one", "other"):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / name, f"http://{name}:1")))
        assert Connection.open().address == f"http://{name}:1"


def test_without_kubeconfig_it_is_the_file_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube" / "config", "http://home:1")
    for unset in (None, ""):
        if unset is None:
            monkeypatch.delenv("KUBECONFIG", raising=False)
        else:
            monkeypatch.setenv("KUBECONFIG", unset)
        assert Connection.open().address == "http://home:1"
