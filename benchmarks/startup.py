"""How long one waits for an answer: the installed ``launcher`` against an empty Python.

``python -m benchmarks.startup [--rounds 15] [--runs 1000]``. Turn by turn are timed, as whole processes:
``python -c pass``, ``launcher --help``, ``launcher status`` in a project of one run, and ``launcher list`` in a
ledger of ``--runs`` runs with a promotion each. The figures are the seconds more than the empty Python of the
same round, median. The target is --help's; the others are bounded by their own, for what they read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.ledger_of_runs import make_ledger
from benchmarks.overhead import LAUNCHER, project, submit, timed

#: Seconds more than an empty Python.
TARGETS = {"launcher --help": 0.2, "launcher status": 0.4, "launcher list": 0.8}


def measure(small: Path, large: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each command, round by round."""
    commands = {
        "python -c pass": ((sys.executable, "-c", "pass"), small),
        "launcher --help": ((str(LAUNCHER), "--help"), small),
        "launcher status": ((str(LAUNCHER), "status"), small),
        "launcher list": ((str(LAUNCHER), "list"), large),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(rounds + 1):
        for at in range(len(names)):
            name = names[(at + number) % len(names)]
            took = timed(*commands[name])
            if number:  # the first round fills caches
                seconds[name].append(took)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1000, help="in the ledger that list reads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        small.mkdir()
        project(small)
        submit(small, "one")
        make_ledger(large, options.runs)
        seconds = measure(small, large, options.rounds)
    empty = seconds.pop("python -c pass")
    base = statistics.median(empty)
    print(f"{options.rounds} rounds, {os.cpu_count()} cores, list reads {options.runs} runs")
    print(f"{'':18}{'median ms':>10}{'more':>8}{'ratio':>7}{'target':>8}")
    print(f"{'python -c pass':18}{base * 1e3:>10.1f}")
    missed = []
    for label, each in seconds.items():
        more = statistics.median(a - b for a, b in zip(each, empty, strict=True))
        median = statistics.median(each)
        print(
            f"{label:18}{median * 1e3:>10.1f}{more * 1e3:>8.1f}{median / base:>7.1f}"
            f"{TARGETS[label] * 1e3:>8.0f}"
        )
        if more > TARGETS[label]:
            missed.append(label)
    print(f"ABOVE the target: {', '.join(missed)}" if missed else "all within their targets")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
