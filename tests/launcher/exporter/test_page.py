"""docs/metrics.md lists each metric with its type and labels, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from launcher.exporter.server import LedgerCollector
from ledger.stores.memory import MemoryEventStore

ROOT = Path(__file__).parents[3]


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    said = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if found := re.match(r"\| `(\w+)` \| (\w+) \|([a-z, ]*)\|", line):
            said[found[1]] = (found[2], found[3].strip())
    served = {}
    for family in LedgerCollector(MemoryEventStore()).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(family._labelnames)  # type: ignore[attr-defined]
        served[name] = (family.type, labels)
    assert said == served
