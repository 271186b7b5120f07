"""Helm, built once from the Go module proxy, and used as a person uses it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rig.tools import go_tool

__all__ = ["CHARTS", "HELM", "builds_helm", "helm", "helm_program", "lint", "template"]

HELM = "3.22.0"
CHARTS = Path(__file__).resolve().parents[2] / "charts"
#: Built without the numbers that a release is linked with, ``helm template`` knows no Kubernetes of its own.
_KUBE_VERSION = "1.34.4"
#: For tests that may come before ``make rig`` did.
builds_helm = pytest.mark.timeout(1800)


def helm_program() -> Path:
    """The program; skips where it cannot be built."""
    return go_tool("helm.sh/helm/v3", "cmd/helm", HELM)


def helm(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Helm, whatever comes of it, with nothing of this user's own settings; ``environment``: KUBECONFIG."""
    with tempfile.TemporaryDirectory(prefix="distill-ledger-helm-") as home:
        return subprocess.run(
            [str(helm_program()), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": home, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def template(
    chart: str, *arguments: str, release: str = "nightly"
) -> subprocess.CompletedProcess[str]:
    """What a release of the chart would make."""
    words = ("template", release, str(CHARTS / chart), "--namespace=distill")
    return helm(*words, f"--kube-version={_KUBE_VERSION}", *arguments)


def lint(chart: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return helm(
        "lint", "--strict", f"--kube-version={_KUBE_VERSION}", str(CHARTS / chart), *arguments
    )
