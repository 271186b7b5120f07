"""Helm, built once from the Go module proxy."""

from __future__ import annotations

from pathlib import Path

from tests.rig.tools import go_tool

__all__ = ["HELM", "KUBE_VERSION", "helm_program"]

HELM = "3.22.0"
#: Built without the numbers that a release is linked with, ``helm template`` knows no Kubernetes of its own.
KUBE_VERSION = "1.34.4"


def helm_program() -> Path:
    """The program; skips where it cannot be built."""
    return go_tool("helm.sh/helm/v3", "cmd/helm", HELM)
