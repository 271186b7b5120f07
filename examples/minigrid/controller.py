"""The low-level controller: it carries out a plan's subgoals, one action at a time, on the remembered map.

Two subgoals are known. EXPLORE walks towards the nearest cell not yet seen, until its target is on the map.
GO_TO walks up to the nearest known target and faces it; while none is known, its fallback is EXPLORE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from examples.minigrid.memory import EMPTY, HEADINGS, UNSEEN, Memory, Position
from examples.minigrid.world import ACTIONS, Target

__all__ = ["OPS", "Execution", "Op", "Subgoal"]

Op = Literal["EXPLORE", "GO_TO"]
OPS: Final[tuple[Op, ...]] = ("EXPLORE", "GO_TO")


@dataclass(frozen=True)
class Subgoal:
    """One step of a plan: what to do, and with which object."""

    op: Op
    target: Target


class Execution:
    """A script being carried out. A subgoal that has been reached is never taken up again."""

    def __init__(self, script: tuple[Subgoal, ...]) -> None:
        self.script = script
        self._at = 0

    def next_action(self, memory: Memory) -> tuple[Op, int] | None:
        """The subgoal in force and its action; None once nothing of the script is left to do."""
        while self._at < len(self.script):
            subgoal = self.script[self._at]
            action = _ACTIONS_OF[subgoal.op](subgoal.target, memory)
            if action is not None:
                return action
            self._at += 1
        return None


def _explore(target: Target, memory: Memory) -> tuple[Op, int] | None:
    if memory.find(target):
        return None
    first = _first_cell(memory, lambda cell: memory.type_at(cell) == UNSEEN)
    return None if first is None else ("EXPLORE", _towards(first, memory))


def _go_to(target: Target, memory: Memory) -> tuple[Op, int] | None:
    known = set(memory.find(target))
    if not known:
        return _explore(target, memory)
    if memory.ahead() in known:
        return None
    first = _first_cell(memory, known.__contains__)
    # Known, but no known way there: more of the map may show one.
    if first is None:
        first = _first_cell(memory, lambda cell: memory.type_at(cell) == UNSEEN)
    return None if first is None else ("GO_TO", _towards(first, memory))


_ACTIONS_OF: Final[dict[Op, Callable[[Target, Memory], tuple[Op, int] | None]]] = {
    "EXPLORE": _explore,
    "GO_TO": _go_to,
}


def _first_cell(memory: Memory, is_goal: Callable[[Position], bool]) -> Position | None:
    """The first cell of a shortest way over empty known cells to a goal cell; None if there is no way."""
    start = memory.position
    first_of: dict[Position, Position] = {start: start}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        # Straight on first, so that of two equal ways the one with fewer turns is taken.
        for turn in (0, 1, 3, 2):
            dx, dy = HEADINGS[(memory.heading + turn) % 4]
            beside = cell[0] + dx, cell[1] + dy
            if beside in first_of:
                continue
            first_of[beside] = beside if cell == start else first_of[cell]
            if is_goal(beside):
                return first_of[beside]
            if memory.type_at(beside) == EMPTY:
                queue.append(beside)
    return None


def _towards(cell: Position, memory: Memory) -> int:
    """Forward if the cell lies ahead, else the turn towards it; right if it lies behind."""
    ahead, right = memory.offset(cell)
    if ahead > 0:
        return ACTIONS.index("forward")
    return ACTIONS.index("left" if right < 0 else "right")
