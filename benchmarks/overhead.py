"""What a stage costs beside its command: ``launcher submit`` against a bare ``bash -c`` of the same command.

``python -m benchmarks.overhead [--rounds 9] [--folder DIR]``. The command is ``true``. In turn are timed, as whole
processes of the installed program: a run of four stages, a run of one (the other three absent, so skipped),
and bare ``subprocess.run(["bash", "-o", "pipefail", "-c", "true"])``.

The figure is the marginal cost of a stage: ((four stages - one stage) / 3) - bare, of each round, median. In
it is everything that one more stage makes a user wait for: intent and outcome in the ledger, each durable; the
supervisor; the command; collecting, hashing and storing; the documents. Not in it: the program's own start, the
inputs, and the end of the run, which every run pays once, and what skipping an absent stage costs (one append).
As a check that this hides nothing, the run's own seconds, from its request to its end as the ledger has them,
are shown too, a quarter of them each: there the first stage's supervisor starts cold and the end is included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

TARGET_SECONDS = 0.060
LAUNCHER = Path(sys.executable).with_name("launcher")
BASH = ("bash", "-o", "pipefail", "-c", "true")
STAGES = ("LLM_ON_CMD", "RELABEL_CMD", "RETRAIN_CMD", "LLM_OFF_CMD")


def timed(command: tuple[str, ...], folder: Path) -> float:
    """Seconds of a whole process that succeeds."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.decode()}")
    return took


def project(folder: Path) -> None:
    """A project with a config of four stages and one of a single stage."""
    for name, count in (("four", 4), ("one", 1)):
        lines = [f"{key}=true" for key in STAGES[:count]]
        (folder / f"{name}.env").write_text("\n".join(lines) + "\n")
    (folder / "teacher.pt").write_bytes(b"teacher")
    (folder / "scorecard.json").write_bytes(b"{}")


def submit(folder: Path, config: str) -> float:
    """Seconds of a run."""
    given = ("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "scorecard.json")
    return timed((str(LAUNCHER), "submit", "--config", f"{config}.env", *given), folder)


def own_seconds(folder: Path) -> list[float]:
    """Seconds from request to end of each run of four stages, as the ledger has them."""
    found = []
    for path in (folder / "runs" / "self_distill").glob("*/metadata.json"):
        run = json.loads(path.read_bytes())
        if run["config"] == "four.env":
            begun, ended = (
                datetime.fromisoformat(run[key]) for key in ("started_at", "completed_at")
            )
            found.append((ended - begun).total_seconds())
    return found


def measure(folder: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each run of four stages, of one stage, and of a bare command, turn by turn."""
    project(folder)
    submit(folder, "one")  # makes the ledger, and warms the disk's caches
    four, one, bare = [], [], []
    for number in range(rounds):
        turns = [
            lambda: four.append(submit(folder, "four")),
            lambda: one.append(submit(folder, "one")),
            lambda: bare.append(statistics.median(timed(BASH, folder) for _ in range(5))),
        ]
        for at in range(3):
            turns[(at + number) % 3]()
    return four, one, bare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        four, one, bare = measure(Path(name), options.rounds)
        inside = statistics.median(own_seconds(Path(name)))
    each = [(f - o) / 3 - b for f, o, b in zip(four, one, bare, strict=True)]
    median_bare = statistics.median(bare)
    print(f"{len(four)} rounds, {os.cpu_count()} cores")
    print(f"{'':34}{'median ms':>10}{'lowest':>9}{'highest':>9}")
    for label, seconds in (
        ("bare bash -c true", bare),
        ("launcher submit, one stage", one),
        ("launcher submit, four stages", four),
        ("a stage beside its command", each),
    ):
        print(
            f"{label:34}{statistics.median(seconds) * 1e3:>10.1f}"
            f"{min(seconds) * 1e3:>9.1f}{max(seconds) * 1e3:>9.1f}"
        )
    print(f"{'a quarter of a run, by the ledger':34}{(inside / 4 - median_bare) * 1e3:>10.1f}")
    cost = statistics.median(each)
    met = cost <= TARGET_SECONDS
    ratio = (cost + median_bare) / median_bare
    print(
        f"overhead {cost * 1e3:.1f} ms a stage ({ratio:.1f} times a bare command), "
        f"{'at most' if met else 'ABOVE'} the target of {TARGET_SECONDS * 1e3:.0f} ms"
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
