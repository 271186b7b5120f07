"""Pure folds of events into what a person reads. Anything here can be thrown away and rebuilt.

Every document is rendered by ``render``: UTF-8 JSON, two spaces, keys in the documented order, one final
newline; so that the same events give the same bytes for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["render"]


def render(document: Mapping[str, Any]) -> bytes:
    """A document's bytes."""
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
