"""The environment: BabyAI-GoToLocal-v0, its missions, its views, and which seeds may be used for what.

A view is a uint8 array (7, 7, 2): [row, column] -> (object type, colour), minigrid's own codes. Row 6 is the
agent's row, row 0 is six cells ahead; column 3 is straight ahead. The agent stands at [6, 3].
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np
from minigrid.core.constants import COLOR_TO_IDX, IDX_TO_COLOR, IDX_TO_OBJECT, OBJECT_TO_IDX
from numpy.typing import NDArray

__all__ = [
    "ACTIONS",
    "CALIBRATION_SEEDS",
    "ENVIRONMENT",
    "HELD_IN_SEEDS",
    "HELD_OUT_SEEDS",
    "VIEW_SIZE",
    "Frame",
    "Target",
    "View",
    "World",
    "rows_from_view",
    "view_from_rows",
]

ENVIRONMENT: Final = "BabyAI-GoToLocal-v0"
VIEW_SIZE: Final = 7
#: The three actions that the task needs, by minigrid's numbers.
ACTIONS: Final = ("left", "right", "forward")

#: Three disjoint ranges of level seeds: what a student learns from, what it is judged on, and what the
#: teacher's scorecard was measured on.
HELD_IN_SEEDS: Final = range(0, 1_000)
HELD_OUT_SEEDS: Final = range(1_000_000, 2_000_000)
CALIBRATION_SEEDS: Final = range(3_000_000, 3_001_000)

View = NDArray[np.uint8]

_TYPE_LETTERS: Final = {
    "unseen": "?",
    "empty": ".",
    "wall": "W",
    "door": "D",
    "key": "K",
    "ball": "B",
    "box": "X",
}
_COLOUR_LETTERS: Final = {
    "red": "r",
    "green": "g",
    "blue": "b",
    "purple": "p",
    "yellow": "y",
    "grey": "e",
}
_TYPES: Final = {letter: OBJECT_TO_IDX[name] for name, letter in _TYPE_LETTERS.items()}
_COLOURS: Final = {letter: COLOR_TO_IDX[name] for name, letter in _COLOUR_LETTERS.items()}
_LETTER_OF_TYPE: Final = {code: letter for letter, code in _TYPES.items()}
_LETTER_OF_COLOUR: Final = {code: letter for letter, code in _COLOURS.items()}


@dataclass(frozen=True)
class Target:
    """What a mission asks for: any object of this type and colour, as minigrid's codes."""

    type: int
    colour: int

    @classmethod
    def named(cls, type_name: str, colour_name: str) -> Target:
        """Raises KeyError for a name that minigrid does not know."""
        return cls(OBJECT_TO_IDX[type_name], COLOR_TO_IDX[colour_name])

    @classmethod
    def of_mission(cls, mission: str) -> Target:
        """``go to the red ball``, ``go to a grey key``: the last two words name colour and type."""
        *_, colour, kind = mission.split()
        return cls.named(kind, colour)

    @property
    def type_name(self) -> str:
        return str(IDX_TO_OBJECT[self.type])

    @property
    def colour_name(self) -> str:
        return str(IDX_TO_COLOR[self.colour])


@dataclass(frozen=True)
class Frame:
    """What the agent is given at one step."""

    mission: str
    view: View

    @property
    def target(self) -> Target:
        return Target.of_mission(self.mission)


class World:
    """One environment, used for many episodes. An episode ends in success or after the level's own limit."""

    def __init__(self) -> None:
        # Importing minigrid, above, has registered its environments.
        self.env: Any = gymnasium.make(ENVIRONMENT, disable_env_checker=True)

    def reset(self, seed: int) -> Frame:
        """The first frame of the level that ``seed`` makes."""
        # The level generator prints each layout that it rejects; a stage's log is no place for that.
        with contextlib.redirect_stdout(io.StringIO()):
            observation, _ = self.env.reset(seed=seed)
        return _frame(observation)

    def step(self, action: int) -> tuple[Frame, bool, bool]:
        """The next frame, whether the episode is over, and whether it ended in success."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return _frame(observation), bool(terminated or truncated), float(reward) > 0


def _frame(observation: dict[str, Any]) -> Frame:
    # minigrid's image is [column, row]; ours is [row, column], without the door state.
    view = np.ascontiguousarray(observation["image"][:, :, :2].transpose(1, 0, 2))
    return Frame(str(observation["mission"]), view)


def rows_from_view(view: View) -> list[str]:
    """Seven strings of seven two-letter cells, far row first: ``..`` empty, ``??`` unseen, ``Kr`` red key."""
    return ["".join(_cell(int(t), int(c)) for t, c in row) for row in view]


def _cell(kind: int, colour: int) -> str:
    letter = _LETTER_OF_TYPE[kind]
    return letter * 2 if letter in "?.W" else letter + _LETTER_OF_COLOUR[colour]


def view_from_rows(rows: list[str]) -> View:
    """The inverse of ``rows_from_view`` (walls come back grey, which they are). Raises KeyError, ValueError."""
    view = np.zeros((VIEW_SIZE, VIEW_SIZE, 2), dtype=np.uint8)
    for r, row in enumerate(rows):
        for c in range(VIEW_SIZE):
            letter, colour = row[2 * c], row[2 * c + 1]
            view[r, c, 0] = _TYPES[letter]
            if letter == "W":
                view[r, c, 1] = _COLOURS["e"]
            elif letter not in "?.":
                view[r, c, 1] = _COLOURS[colour]
    return view
