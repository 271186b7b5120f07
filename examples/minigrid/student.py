"""The student: a frozen encoder and small softmax heads on top of it, kept as safetensors.

encoder  h = relu(x W + b), x the FEATURE_COUNT features, h HIDDEN numbers. W and b are random (a fixed
         projection, not pretrained); no stage changes them.
gate     p(closed), p(open): does the student want a plan here?
subgoal  p(EXPLORE), p(GO_TO): what would the plan say?
action   one head per subgoal: p(left), p(right), p(forward). The policy is the mixture over subgoals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from examples.minigrid.controller import OPS, Op
from examples.minigrid.memory import FEATURE_COUNT
from examples.minigrid.stage import replace_bytes
from examples.minigrid.world import ACTIONS

__all__ = [
    "GATE_CLASSES",
    "HIDDEN",
    "Head",
    "Student",
    "load_student",
    "new_student",
    "save_student",
]

HIDDEN: Final = 512
GATE_CLASSES: Final = ("closed", "open")
#: The gate opens where the student expects to differ from a plan at least this often.
_GATE_THRESHOLD: Final = 0.2
_FORMAT: Final = "minigrid-student-v1"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A linear softmax head: weight (HIDDEN, classes), bias (classes,)."""

    weight: Array
    bias: Array

    def probabilities(self, hidden: Array) -> NDArray[np.float64]:
        """Shape (..., classes) for hidden (..., HIDDEN)."""
        logits = (hidden @ self.weight + self.bias).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Student:
    """One checkpoint. ``about`` says in words and numbers where it comes from."""

    encoder_weight: Array
    encoder_bias: Array
    gate: Head
    subgoal: Head
    action: dict[Op, Head]
    about: dict[str, Any]

    def encode(self, x: Array) -> Array:
        """Hidden numbers (..., HIDDEN) of features (..., FEATURE_COUNT)."""
        return np.asarray(np.maximum(x @ self.encoder_weight + self.encoder_bias, 0), np.float32)

    def wants_plan(self, hidden: Array) -> tuple[bool, float]:
        """The gate's decision for one step, and its probability of ``open``."""
        p_open = float(self.gate.probabilities(hidden)[1])
        return p_open >= _GATE_THRESHOLD, p_open

    def action_probabilities(self, hidden: Array) -> NDArray[np.float64]:
        """Shape (..., 3): the actions, over what the plan would say."""
        subgoals = self.subgoal.probabilities(hidden)
        per_op = (self.action[op].probabilities(hidden) for op in OPS)
        return np.asarray(sum(subgoals[..., [k]] * p for k, p in enumerate(per_op)))

    def act(self, hidden: Array, rng: np.random.Generator) -> int:
        """An action, sampled: a policy without a full memory that always took its best guess could circle."""
        return int(rng.choice(len(ACTIONS), p=self.action_probabilities(hidden)))

    def with_heads(
        self, gate: Head, subgoal: Head, action: dict[Op, Head], about: dict[str, Any]
    ) -> Student:
        """The same encoder under other heads."""
        return replace(self, gate=gate, subgoal=subgoal, action=action, about=about)


def new_student(seed: int) -> Student:
    """An untrained student: random encoder, heads that know nothing, a gate that always asks for a plan."""
    rng = np.random.default_rng(seed)

    def normal(scale: float, *shape: int) -> Array:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    def head(classes: int) -> Head:
        return Head(normal(0.01, HIDDEN, classes), np.zeros(classes, np.float32))

    return Student(
        encoder_weight=normal(0.1, FEATURE_COUNT, HIDDEN),
        encoder_bias=normal(0.1, HIDDEN),
        gate=Head(np.zeros((HIDDEN, 2), np.float32), np.array([-2, 2], np.float32)),
        subgoal=head(len(OPS)),
        action={op: head(len(ACTIONS)) for op in OPS},
        about={
            "trained": False,
            "encoder": "random ReLU projection, not pretrained",
            "seed": seed,
        },
    )


def save_student(path: Path, student: Student) -> None:
    """Write a checkpoint beside ``path`` and rename it. Equal students give equal bytes."""
    tensors = {"encoder.weight": student.encoder_weight, "encoder.bias": student.encoder_bias}
    heads = {"gate": student.gate, "subgoal": student.subgoal}
    heads |= {f"action.{op.lower()}": head for op, head in student.action.items()}
    for name, head in heads.items():
        tensors |= {f"{name}.weight": head.weight, f"{name}.bias": head.bias}
    # One metadata entry: safetensors does not keep the order of several, and the bytes would differ.
    about = json.dumps({"format": _FORMAT, **student.about}, sort_keys=True)
    contiguous = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
    replace_bytes(path, save(contiguous, metadata={"about": about}))


def load_student(path: Path) -> Student:
    """Read a checkpoint. Raises SystemExit where the file is not one of ours."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors: dict[str, Array] = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as exc:
        raise SystemExit(f"{path} cannot be read as safetensors: {exc}") from exc
    if about.pop("format", None) != _FORMAT:
        raise SystemExit(f"{path} is not a {_FORMAT} checkpoint")

    def head(name: str) -> Head:
        return Head(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    return Student(
        encoder_weight=tensors["encoder.weight"],
        encoder_bias=tensors["encoder.bias"],
        gate=head("gate"),
        subgoal=head("subgoal"),
        action={op: head(f"action.{op.lower()}") for op in OPS},
        about=about,
    )
