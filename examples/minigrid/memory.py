"""What the agent remembers of an episode: a map relative to where it began, kept by dead reckoning.

Nothing here looks into the simulator: the map is made of the views, the moves of the agent's own actions. It serves
two readers, the controller that carries out a plan (path search on the map) and the student's features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.minigrid.world import ACTIONS, VIEW_SIZE, Target, View

__all__ = ["FEATURE_COUNT", "Memory", "Position", "features"]

Position = tuple[int, int]

#: Larger than any walk in the 8x8 room plus the reach of a view, in both directions.
_MAP_SIZE: Final = 48
_ORIGIN: Final = _MAP_SIZE // 2
#: East, south, west, north as (x, y), y downwards: turning right adds one.
HEADINGS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
UNSEEN, EMPTY, WALL = 0, 1, 2
_FORWARD: Final = ACTIONS.index("forward")
_LEFT: Final = ACTIONS.index("left")
_NO_ACTION: Final = len(ACTIONS)
_AHEAD, _RIGHT = (
    grid.ravel()
    for grid in np.meshgrid(
        np.arange(VIEW_SIZE - 1, -1, -1),
        np.arange(VIEW_SIZE) - VIEW_SIZE // 2,
        indexing="ij",
    )
)

_REACH: Final = 6
_OFFSETS: Final = 2 * _REACH + 1
_MAX_TURNS: Final = 4
_CELLS: Final = VIEW_SIZE * VIEW_SIZE
#: Three maps of the view, the remembered offset (one-hot, none, and as numbers), turns, the last action.
FEATURE_COUNT: Final = 3 * _CELLS + _OFFSETS**2 + 1 + 3 + (_MAX_TURNS + 1) + (_NO_ACTION + 1)


class Memory:
    """The map of one episode and the agent's pose on it."""

    def __init__(self) -> None:
        self.cells: NDArray[np.uint8] = np.zeros((_MAP_SIZE, _MAP_SIZE, 2), dtype=np.uint8)
        self.position: Position = (_ORIGIN, _ORIGIN)
        self.heading = 3
        self.turns_in_a_row = 0
        self.last_action = _NO_ACTION
        self._way_ahead = False

    @property
    def _axes(self) -> tuple[Position, Position]:
        """Unit vectors ahead and to the right."""
        ahead = HEADINGS[self.heading]
        return ahead, (-ahead[1], ahead[0])

    def see(self, view: View) -> None:
        """Add a view, taken at the present pose, to the map."""
        (ax, ay), (rx, ry) = self._axes
        x = self.position[0] + _AHEAD * ax + _RIGHT * rx
        y = self.position[1] + _AHEAD * ay + _RIGHT * ry
        flat = view.reshape(-1, 2)
        seen = flat[:, 0] != UNSEEN
        self.cells[y[seen], x[seen]] = flat[seen]
        self._way_ahead = bool(view[VIEW_SIZE - 2, VIEW_SIZE // 2, 0] == EMPTY)

    def moved(self, action: int) -> None:
        """Follow the agent's own action; going forward succeeds where the cell ahead was empty."""
        self.last_action = action
        if action == _FORWARD:
            self.turns_in_a_row = 0
            if self._way_ahead:
                self.position = self.ahead()
            return
        self.turns_in_a_row += 1
        self.heading = (self.heading + (-1 if action == _LEFT else 1)) % 4

    def ahead(self) -> Position:
        """The cell in front of the agent."""
        dx, dy = HEADINGS[self.heading]
        return self.position[0] + dx, self.position[1] + dy

    def type_at(self, position: Position) -> int:
        """minigrid's object type of a cell; UNSEEN where none of the views reached."""
        return int(self.cells[position[1], position[0], 0])

    def offset(self, position: Position) -> tuple[int, int]:
        """How far ahead and how far to the right a cell lies."""
        (ax, ay), (rx, ry) = self._axes
        dx, dy = position[0] - self.position[0], position[1] - self.position[1]
        return dx * ax + dy * ay, dx * rx + dy * ry

    def find(self, target: Target) -> list[Position]:
        """Every cell known to hold such an object, in map order."""
        found = (self.cells[..., 0] == target.type) & (self.cells[..., 1] == target.colour)
        return [(int(x), int(y)) for y, x in np.argwhere(found)]

    def objects(self) -> list[tuple[Target, Position]]:
        """Every object on the map, walls left out, in map order."""
        return [
            (Target(*(int(n) for n in self.cells[y, x])), (int(x), int(y)))
            for y, x in np.argwhere(self.cells[..., 0] > WALL)
        ]

    def nearest_offset(self, target: Target) -> tuple[int, int] | None:
        """The (ahead, right) of the nearest known target, what lies behind counting one more; or None."""
        offsets = [self.offset(p) for p in self.find(target)]
        return min(offsets, key=lambda o: (abs(o[0]) + abs(o[1]) + (o[0] < 0), o), default=None)


def features(view: View, target: Target, memory: Memory) -> NDArray[np.float32]:
    """The student's input, shape (FEATURE_COUNT,), after ``memory.see(view)``.

    Fixed by hand, not learned: where the mission's words match the view, what stands in the way, walls, where
    a target was last seen, how often the agent has turned on the spot, and its last action.
    """
    kinds, colours = view[..., 0], view[..., 1]
    out = np.zeros(FEATURE_COUNT, dtype=np.float32)
    out[:_CELLS] = ((kinds == target.type) & (colours == target.colour)).ravel()
    out[_CELLS : 2 * _CELLS] = (kinds > EMPTY).ravel()
    out[2 * _CELLS : 3 * _CELLS] = (kinds == WALL).ravel()
    at = 3 * _CELLS
    offset = memory.nearest_offset(target)
    if offset is None:
        out[at + _OFFSETS**2] = 1
    else:
        ahead, right = (min(_REACH, max(-_REACH, n)) for n in offset)
        out[at + (ahead + _REACH) * _OFFSETS + right + _REACH] = 1
        out[at + _OFFSETS**2 + 1 : at + _OFFSETS**2 + 4] = (ahead / _REACH, right / _REACH, 1)
    at += _OFFSETS**2 + 4
    out[at + min(_MAX_TURNS, memory.turns_in_a_row)] = 1
    out[at + _MAX_TURNS + 1 + memory.last_action] = 1
    return out
