"""What is live: a line, or JSON, for each pointer."""

from __future__ import annotations

import shlex
from typing import Any

from launcher.cli.common import age
from launcher.cli.terminal import one_line, paint
from launcher.cli.view import METRIC, PointerView, View

__all__ = [
    "follower_lines",
    "live_json",
    "live_line",
    "live_lines",
    "release_commands",
    "unseen_lines",
]


def live_lines(view: View, *, followers: bool = False) -> list[str]:
    """``LIVE student g43 = 0609-b21c  success_rate 0.931  held by ana 4m ago``, for each pointer.

    ``followers``: and who follows it, if anybody does.
    """
    lines = []
    for pointer in view.live():
        if pointer.broken:
            lines.append(paint("BROKEN", "red", bold=True) + f" {pointer.name}: {pointer.broken}")
            continue
        lines.append(paint("LIVE", "green", bold=True) + f" {live_line(view, pointer)}")
        lines += follower_lines(view, pointer) if followers else []
    return lines + (unseen_lines(view) if followers else [])


def follower_lines(view: View, pointer: PointerView) -> list[str]:
    """``followers  3 on g43, 1 still on g42 (gpu-7, 4m ago)``; nothing for none. The pointer names something."""
    return view.followers.lines(pointer.name, pointer.history.latest)


def unseen_lines(view: View) -> list[str]:
    """Why followers are not shown, once for a screen."""
    return view.followers.unseen() if view.live() else []


def live_line(view: View, pointer: PointerView) -> str:
    """As in ``live_lines``, without its first word. The pointer names something."""
    live = pointer.history.live
    assert live is not None
    what = view.name(live.run_id) if live.run_id else live.kind
    rate = view.metric(live.run_id)
    facts = [f"{pointer.name} g{live.generation} = {what}"]
    facts += [f"{METRIC} {rate:.3f}"] if rate is not None else []
    if pointer.held is not None:
        by = f"held by {one_line(pointer.held.actor)} {age(pointer.held.time)} ago"
        facts.append(paint(by, "yellow"))
    return "  ".join(facts)


def release_commands(view: View) -> list[str]:
    """What ends the holds that there are."""
    return [f"launcher release {shlex.quote(p.name)}" for p in view.live() if p.held is not None]


def live_json(view: View) -> list[dict[str, Any]]:
    """Each pointer: name, generation, run_id, digest, since, metrics, held_by, held_since, followers, error."""
    rows = []
    for pointer in view.live():
        live, held = pointer.history.live, pointer.held
        metrics = view.run(live.run_id).metrics if live and live.run_id else {}
        rows.append(
            {
                "name": pointer.name,
                "generation": live.generation if live else None,
                "run_id": live.run_id if live else None,
                "digest": live.digest if live else None,
                "since": live.time if live else None,
                "metrics": dict(sorted(metrics.items())),
                "held_by": held.actor if held else None,
                "held_since": held.time if held else None,
                "followers": view.followers.json(pointer.name, live.generation) if live else None,
                "error": pointer.broken,
            }
        )
    return rows
