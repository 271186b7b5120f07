"""Writes docs/schemas/profile.schema.json from the models in ``k8s.profile``; --check only compares (exit 1)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from k8s.profile import Profile

__all__ = ["DOCUMENT", "document"]

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "schemas" / "profile.schema.json"


def document() -> str:
    """The JSON Schema of a profile, as it is published."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_closed(Profile.model_json_schema()),
        "title": "distill-ledger profile",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _closed(schema: Any) -> Any:
    """What pydantic leaves open: a mapping whose keys have a pattern takes no other keys."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(one) for key, one in schema.items()}
    if "patternProperties" in made:
        made.setdefault("additionalProperties", False)
    return made


def main(args: list[str]) -> int:
    if "--check" in args:
        return int(DOCUMENT.read_text() != document())
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
