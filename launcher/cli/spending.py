"""What stages and runs held of a cluster, what that may have cost, how it was watched, on screens and as JSON.

All of it is in the ledger but the prices, which are the settings' (``launcher.prices``); what nobody counted, as of
runs on this machine, is not shown.
"""

from __future__ import annotations

from typing import Any

from launcher.cli.common import duration
from launcher.prices import Cost, Prices
from ledger.decider import RunState, StageState
from ledger.events import ResourceSeconds
from ledger.held import gpu_seconds, run_held, stage_held, stage_restarts, stage_time

__all__ = ["cost_json", "gpu_hours", "held_json", "run_cost", "spent_facts", "stage_json", "totals"]

#: A wait is worth a word from here on.
_WORTH_SECONDS = 1.0


def gpu_hours(seconds: float) -> str:
    """``12.3``, ``2.8``, ``0.42``, ``0.004``."""
    hours = seconds / 3600
    return f"{hours:.{1 if hours >= 1 else 2 if hours >= 0.1 else 3}f}"


def spent_facts(stage: StageState) -> list[str]:
    """``waited 4m10s``, ``pulled 31s``, ``2 GPU 0.62 GPU-h``; of all attempts together that ended."""
    time, held = stage_time(stage), gpu_seconds(stage_held(stage))
    waited = (time.queued or 0.0) + (time.scheduled or 0.0)
    facts = [f"waited {duration(waited)}"] if waited >= _WORTH_SECONDS else []
    if (time.pulling or 0.0) >= _WORTH_SECONDS:
        facts.append(f"pulled {duration(time.pulling or 0.0)}")
    if held:
        at_once = f"{stage.gpus} GPU " if stage.gpus else ""
        facts.append(f"{at_once}{gpu_hours(held)} GPU-h")
    return facts


def run_cost(prices: Prices | None, state: RunState) -> Cost | None:
    """What a run has cost so far; None without prices, and where nobody counted."""
    return prices.cost(run_held(state)) if prices else None


def totals(prices: Prices | None, state: RunState) -> list[str]:
    """``1.9 GPU-h`` and ``4.73 EUR`` of a run; what is not known is left out."""
    seconds, cost = gpu_seconds(run_held(state)), run_cost(prices, state)
    facts = [f"{gpu_hours(seconds)} GPU-h"] if seconds else []
    if cost is not None and (cost.amount or cost.unpriced):
        without = f" without {', '.join(cost.unpriced)}" if cost.unpriced else ""
        facts.append(f"{cost}{without}")
    return facts


def stage_json(prices: Prices | None, stage: StageState) -> dict[str, Any]:
    """``time`` (by phase), ``gpus`` at once, ``held``, ``cost``, ``watch_restarts``: of all attempts that ended."""
    held = stage_held(stage)
    return {
        "time": stage_time(stage).model_dump(mode="json"),
        "gpus": stage.gpus,
        "held": held_json(held),
        "cost": cost_json(prices.cost(held) if prices else None),
        "watch_restarts": stage_restarts(stage),
    }


def held_json(held: ResourceSeconds | None) -> dict[str, Any] | None:
    """``gpu_seconds`` by resource name, ``cpu_seconds``, ``memory_gib_seconds``."""
    if held is None:
        return None
    return {
        "gpu_seconds": dict(sorted(held.gpus.items())),
        "cpu_seconds": held.cpu,
        "memory_gib_seconds": held.memory,
    }


def cost_json(cost: Cost | None) -> dict[str, Any] | None:
    """``amount``, ``currency``, ``unpriced``."""
    if cost is None:
        return None
    amount = round(float(cost.amount), 6)
    return {"amount": amount, "currency": cost.currency, "unpriced": list(cost.unpriced)}
