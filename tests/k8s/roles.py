"""The roles of docs/policies, read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["granted", "role"]

_FOLDER = Path(__file__).resolve().parents[2] / "docs" / "policies"


def role(file: str) -> list[dict[str, Any]]:
    """The objects of a file of docs/policies."""
    return list(yaml.safe_load_all((_FOLDER / file).read_text()))


def granted(file: str) -> Iterator[tuple[str, str, str, bool]]:
    """(verb, resource, group, whether of no namespace) of each thing that a file grants."""
    for found in role(file):
        for rule in found["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        yield verb, resource, group, found["kind"] == "ClusterRole"
