"""Stage 2, relabel: from planlets and telemetry to tagged planlets in RELABEL_TAG_FILE (JSON Lines).

Each planlet is tagged with the adherence of its steps and a teacher score. Duplicates (same frame, prompt and
script) and planlets that no step followed are left out, and counted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from examples.minigrid.planlets import content_digest, tagged
from examples.minigrid.stage import Stage, read_json_lines, write_json, write_json_lines

__all__ = ["Relabelled", "main", "relabel"]


@dataclass(frozen=True)
class Relabelled:
    """The tagged planlets that were kept, in capture order, and how many were not."""

    kept: list[dict[str, Any]]
    duplicates: int
    without_steps: int


def relabel(
    planlets: Iterable[Mapping[str, Any]],
    telemetry: Iterable[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
) -> Relabelled:
    """Tag and sift. ``telemetry`` in the order in which it was played."""
    steps_of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    last_of: dict[int, Mapping[str, Any]] = {}
    for step in telemetry:
        last_of[step["episode"]] = step
        if step["planlet_id"] is not None:
            steps_of[step["planlet_id"]].append(step)
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    duplicates = without_steps = 0
    for planlet in planlets:
        steps = steps_of.get(planlet["planlet_id"])
        digest = content_digest(planlet)
        if digest in seen:
            duplicates += 1
        elif not steps:
            without_steps += 1
        else:
            seen.add(digest)
            last = last_of[steps[0]["episode"]]
            kept.append(
                tagged(
                    planlet,
                    steps,
                    solved=last["success"],
                    steps_to_end=last["step"] - steps[0]["step"] + 1,
                    scorecard=scorecard,
                )
            )
    return Relabelled(kept, duplicates, without_steps)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    argparse.ArgumentParser(prog="relabel", description="Tag the planlets.").parse_args(arguments)
    stage = Stage.from_environment(os.environ)
    scorecard = json.loads(stage.teacher_scorecard.read_text(encoding="utf-8"))
    result = relabel(read_json_lines(stage.planlets), read_json_lines(stage.telemetry), scorecard)
    write_json_lines(stage.relabel_tag_file, result.kept)
    followed = [n for p in result.kept for n in p["metadata"]["step_adherence"]]
    counts = {
        "kept": len(result.kept),
        "duplicates": result.duplicates,
        "without_steps": result.without_steps,
        "cache_hits": sum(p["metadata"]["cache_hit"] for p in result.kept),
        "adherence": round(sum(followed) / max(1, len(followed)), 4),
    }
    write_json(stage.artifact_dir / "relabel.json", counts)
    print(f"{counts['kept']} kept, {counts['duplicates']} duplicates removed", end="")
    print(
        f", {counts['without_steps']} that no step followed removed; adherence {counts['adherence']:.2f}"
    )


if __name__ == "__main__":
    main()
