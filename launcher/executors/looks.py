"""How often a store is asked for what is mostly heard of in another way. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Looks"]

#: What was waited for so long may be learnt of a twentieth of that later, or this.
_SHARE: Final = 1 / 20
_LONGEST_SECONDS: Final = 60.0


@dataclass
class Looks:
    """For each thing that is waited for: when it was asked for first, when last, and what had been heard by then.

    ``seconds``: the least that lies between two looks; 0: every look is due.
    """

    seconds: float
    _made: dict[Hashable, tuple[float, float | None, int]] = field(default_factory=dict)

    def due(self, what: Hashable, now: float, heard: int = 0) -> bool:
        """Whether to look for it now; if so, that is a look. ``heard`` differs whenever there is something new to hear.

        ``now``: seconds of a clock that only goes on.
        """
        first, last, number = self._made.get(what, (now, None, heard))
        if last is not None and number == heard and self.seconds:
            pause = max(self.seconds, min((now - first) * _SHARE, _LONGEST_SECONDS))
            if now - last < pause:
                return False
        self._made[what] = (first, now, heard)
        return True
