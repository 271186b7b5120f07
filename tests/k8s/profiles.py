"""Small profiles for tests: the least that one may be, and what a test adds to it."""

from __future__ import annotations

import pytest

from k8s.errors import ProfileError
from k8s.profile_text import ReadProfile, parse_profile

__all__ = ["LEAST", "problems", "read"]

#: Two lines; what a test adds begins on line 3.
LEAST = "agent: {image: r/agent}\ndefaults: {image: r/train}\n"


def read(text: str) -> ReadProfile:
    """The profile that ``text`` is, named p.yaml."""
    return parse_profile(text, "p.yaml")


def problems(text: str) -> list[str]:
    """Each problem of ``text`` as it is said; it must have one."""
    with pytest.raises(ProfileError) as refused:
        read(text)
    return [str(one) for one in refused.value.problems]
