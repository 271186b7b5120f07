"""From tagged planlets and telemetry to lessons, and from lessons to heads.

A head is fitted by L-BFGS on the weighted cross-entropy plus an L2 pull towards the teacher's head (L2-SP, Li,
Grandvalet & Davoine 2018): where the lessons say nothing, the student stays what its teacher was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from sklearn.model_selection import GroupKFold

from examples.minigrid.controller import OPS, Op
from examples.minigrid.memory import Memory, features
from examples.minigrid.student import Array, Head, Student
from examples.minigrid.world import ACTIONS, Target, view_from_rows

__all__ = ["Lessons", "fit_gate", "fit_head", "fit_policy", "lessons", "out_of_fold"]

_FOLDS: Final = 4
_PULL: Final = 1.0
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Lessons:
    """Planned steps: x (n, FEATURE_COUNT), the plan's subgoal and action (n,), weights (n,), episodes (n,)."""

    x: Array
    subgoal: Labels
    action: Labels
    weight: NDArray[np.float64]
    episode: Labels

    def __len__(self) -> int:
        return len(self.action)

    def take(self, rows: NDArray[Any]) -> Lessons:
        """The lessons of these rows (indices or a mask)."""
        return Lessons(
            self.x[rows],
            self.subgoal[rows],
            self.action[rows],
            self.weight[rows],
            self.episode[rows],
        )


def lessons(
    planlets: Iterable[Mapping[str, Any]], telemetry: Iterable[Mapping[str, Any]]
) -> Lessons:
    """Every step under a kept planlet that scored, weighted by its teacher score (mean weight 1).

    The memory is led again through each whole episode, so the features are those the student will have in play.
    Raises SystemExit where nothing is left to learn from.
    """
    score_of = {p["planlet_id"]: float(p["metadata"]["teacher_score"]) for p in planlets}
    episodes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for step in telemetry:
        episodes[step["episode"]].append(step)
    rows: list[tuple[Array, int, int, float, int]] = []
    for number, steps in episodes.items():
        memory, target = Memory(), Target.of_mission(steps[0]["mission"])
        for step in steps:
            view = view_from_rows(step["view"])
            memory.see(view)
            score = score_of.get(step["planlet_id"], 0.0)
            if score > 0:
                x = features(view, target, memory)
                said = OPS.index(step["op"]), ACTIONS.index(step["planned_action"])
                rows.append((x, *said, score, number))
            memory.moved(ACTIONS.index(step["action"]))
    if not rows:
        raise SystemExit("no step under a kept planlet scored; there is nothing to learn from")
    inputs, subgoal, action, weight, episode = zip(*rows, strict=True)
    return Lessons(
        np.stack(inputs),
        np.array(subgoal),
        np.array(action),
        np.array(weight) / np.mean(weight),
        np.array(episode),
    )


def fit_head(hidden: Array, labels: Labels, weight: NDArray[np.float64], start: Head) -> Head:
    """The head that fits ``labels`` (n,) best, not far from ``start``. Without rows, ``start``."""
    if not len(labels):
        return start
    inputs = np.hstack([hidden, np.ones((len(hidden), 1), np.float32)]).astype(np.float64)
    origin = np.vstack([start.weight, start.bias]).astype(np.float64)
    truth = np.eye(origin.shape[1])[labels]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix = flat.reshape(origin.shape)
        logits = inputs @ matrix
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        away = matrix - origin
        value = -(weight[:, None] * truth * log_p).sum() + _PULL / 2 * (away**2).sum()
        slope = inputs.T @ (weight[:, None] * (np.exp(log_p) - truth)) + _PULL * away
        return float(value), slope.ravel()

    best = minimize(loss, origin.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    matrix = best.x.reshape(origin.shape).astype(np.float32)
    return Head(matrix[:-1], matrix[-1])


def fit_policy(student: Student, data: Lessons) -> tuple[Head, dict[Op, Head]]:
    """The subgoal head, and one action head per subgoal, each on the steps of its own subgoal."""
    hidden = student.encode(data.x)
    subgoal = fit_head(hidden, data.subgoal, data.weight, student.subgoal)
    action: dict[Op, Head] = {}
    for k, op in enumerate(OPS):
        own = data.subgoal == k
        action[op] = fit_head(hidden[own], data.action[own], data.weight[own], student.action[op])
    return subgoal, action


def out_of_fold(student: Student, data: Lessons) -> NDArray[np.float64]:
    """Action probabilities (n, 3) for each lesson from a policy that has not seen its episode."""
    out = np.zeros((len(data), len(ACTIONS)))
    folds = min(_FOLDS, len(np.unique(data.episode)))
    if folds < 2:
        raise SystemExit("lessons of at least two episodes are needed")
    for train, test in GroupKFold(folds).split(data.x, groups=data.episode):
        subgoal, action = fit_policy(student, data.take(train))
        fitted = student.with_heads(student.gate, subgoal, action, {})
        out[test] = fitted.action_probabilities(student.encode(data.x[test]))
    return out


def fit_gate(student: Student, data: Lessons, out_of_fold_p: NDArray[np.float64]) -> Head:
    """The gate: open where the student, not having seen the episode, would have done something else.

    It starts from a gate without an opinion: the untrained teacher's "always ask" is no knowledge to keep.
    """
    wrong: Sequence[Any] = (out_of_fold_p.argmax(axis=1) != data.action).astype(np.int64)
    blank = Head(np.zeros_like(student.gate.weight), np.zeros_like(student.gate.bias))
    return fit_head(student.encode(data.x), np.asarray(wrong), data.weight, blank)
