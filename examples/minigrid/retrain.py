"""Stage 3, retrain: the student, fine-tuned from TEACHER_CHECKPOINT with the encoder frozen.

Leaves CHECKPOINT_DIR/student.safetensors and METADATA_DIR/metrics.json. Deterministic: equal inputs, flags and seed
give equal bytes (on one machine and one set of library versions). It takes about a second, so it saves
nothing in between.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from examples.minigrid.learning import Lessons, fit_gate, fit_policy, lessons, out_of_fold
from examples.minigrid.stage import Stage, merge_metrics, read_json_lines
from examples.minigrid.student import load_student, save_student
from examples.minigrid.world import ACTIONS

__all__ = ["main", "spoil", "thin"]


def thin(data: Lessons, fraction: float, rng: np.random.Generator) -> Lessons:
    """The lessons of a share of the episodes, at least two."""
    episodes = np.unique(data.episode)
    wanted = max(2, round(len(episodes) * fraction))
    chosen = rng.permutation(episodes)[:wanted]
    return data.take(np.isin(data.episode, chosen))


def spoil(data: Lessons, share: float, rng: np.random.Generator) -> Lessons:
    """A share of the planned actions replaced by random ones: a way to make a bad student on purpose."""
    hit = rng.random(len(data)) < share
    action = np.where(hit, rng.integers(len(ACTIONS), size=len(data)), data.action)
    return Lessons(data.x, data.subgoal, action, data.weight, data.episode)


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises SystemExit with one line where there is nothing to learn from."""
    options = _options(arguments)
    stage = Stage.from_environment(os.environ)
    teacher = load_student(stage.teacher_checkpoint)
    rng = np.random.default_rng([options.seed, 3])
    data = lessons(read_json_lines(stage.relabel_tag_file), read_json_lines(stage.telemetry))
    data = spoil(thin(data, options.data_fraction, rng), options.label_noise, rng)
    unseen = out_of_fold(teacher, data)
    subgoal, action = fit_policy(teacher, data)
    gate = fit_gate(teacher, data, unseen)
    about = {
        "trained": True,
        "encoder": teacher.about["encoder"],
        "run_id": stage.run_id,
        "seed": options.seed,
        "data_fraction": options.data_fraction,
        "label_noise": options.label_noise,
    }
    student = teacher.with_heads(gate, subgoal, action, about)
    save_student(stage.checkpoint_dir / "student.safetensors", student)
    agreement = float((unseen.argmax(axis=1) == data.action).mean())
    p_open = student.gate.probabilities(student.encode(data.x))[:, 1]
    merge_metrics(
        stage.metrics,
        {
            "train_steps": len(data),
            "train_episodes": len(np.unique(data.episode)),
            "out_of_fold_agreement": agreement,
            "gate_mean_open_probability": float(p_open.mean()),
        },
    )
    print(f"{len(data)} lessons from {len(np.unique(data.episode))} episodes; encoder frozen")
    print(f"agreement with the plan on episodes not trained on: {agreement:.3f}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="retrain", description="Fine-tune the student.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-fraction", type=_share, default=1.0, help="share of the episodes")
    parser.add_argument("--label-noise", type=_share, default=0.0, help="share of spoiled actions")
    return parser.parse_args(arguments)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    main()
