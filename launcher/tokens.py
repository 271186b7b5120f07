"""``{RUN_ID}``-style tokens, and the environment of a stage. Pure.

A token is replaced for our own names only, and only where no ``$`` stands before it: ``${RUN_ID:-x}``
stays for the stage's bash, ``{FOO}`` for whoever means it. A name of ours that has no value yet
(``{STUDENT_CHECKPOINT}`` before the retrain stage) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["OWN_NAMES", "TOKEN_NAMES", "stage_environment", "substitute", "tokens_in"]

#: Names that only we set; a config that sets one is refused.
OWN_NAMES: Final = (
    "RUN_ID",
    "RUN_DIR",
    "STAGE",
    "ATTEMPT",
    "LOG_DIR",
    "CHECKPOINT_DIR",
    "ARTIFACT_DIR",
    "METADATA_DIR",
    "STUDENT_CHECKPOINT",
    "RESUME_CHECKPOINT",
)
#: Names that tokens may use: ours, and the three that are the user's to set.
TOKEN_NAMES: Final = (*OWN_NAMES, "TEACHER_CHECKPOINT", "TEACHER_SCORECARD", "RELABEL_TAG_FILE")

_TOKEN = re.compile(r"(?<!\$)\{([A-Z][A-Z0-9_]*)\}")


def substitute(text: str, values: Mapping[str, str | None]) -> str:
    """``text`` with our tokens replaced; a token without a value stays."""

    def one(match: re.Match[str]) -> str:
        value = values.get(match[1]) if match[1] in TOKEN_NAMES else None
        return match[0] if value is None else value

    return _TOKEN.sub(one, text)


def tokens_in(text: str) -> list[str]:
    """The names between braces, without a ``$`` before them, in order."""
    return _TOKEN.findall(text)


def stage_environment(
    base: Mapping[str, str], variables: Mapping[str, str], own: Mapping[str, str | None]
) -> dict[str, str]:
    """What a stage's command sees: the launcher's environment, over it the config, over it our names.

    A name of ours that has no value is removed, so that nothing stale leaks in.
    """
    merged = dict(base)
    merged |= {name: substitute(value, own) for name, value in variables.items()}
    for name, value in own.items():
        if value is None:
            if name in OWN_NAMES:
                merged.pop(name, None)
        else:
            merged[name] = value
    return merged
