"""What a stage costs as a Job: ``launcher submit --executor kubernetes`` against the same commands as bare Jobs.

``python -m benchmarks.k8s_stage [--seconds 1 30] [--rounds 2] [--mib 1024]``. On the tests' cluster and its S3 server
(``make cluster`` in another terminal saves a start). Four stages sleep so many seconds. The peer is a Job with one
container, created by ``kubectl create -f`` and awaited by ``kubectl wait``, four times, one after the other, from the
same image, turn by turn with ours. Ours is the whole installed program: its start, inputs, four Jobs with their
sidecars, outputs in the store, ledger in the bucket.

Beside the seconds: what the API server was asked a stage, watches aside, and how long after a committed result the
next Job's creation came in, by its audit log. Memory: the most that both of our containers' processes ever held while
they stored ``--mib`` of outputs and fetched them for the next stage, Python and boto3 included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.overhead import LAUNCHER, STAGES
from tests.rig import job_project
from tests.rig.audited import asked, created, gaps
from tests.rig.k8s import Cluster, using

#: Seconds more than the peer, a stage; where stages last 30 s, the ratio; a gap; calls a stage; MiB.
MORE, RATIO, GAP, CALLS, MEMORY = 5.0, 1.25, 0.3, 12, 200
#: Stages of so many seconds are long ones.
LONG = 30.0


@dataclass
class Found:
    """By seconds of a stage: what four of them took, ours and bare; of all of our runs: gaps and calls."""

    ours: dict[float, list[float]] = field(default_factory=dict)
    bare: dict[float, list[float]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)


class Bench:
    """A project on a cluster, in a namespace of its own; the peer has another one."""

    def __init__(self, cluster: Cluster, root: Path, own: str, peer: str) -> None:
        assert cluster.s3
        self.cluster, self.root, self.own, self.peer = cluster, root, own, peer
        bucket = cluster.bucket()
        self.environment = {
            **job_project.environment(cluster, bucket),
            "XDG_CACHE_HOME": str(root / "cache"),
        }
        self.store = cluster.s3.root / bucket.removeprefix("s3://")
        cluster.store_secret(own)
        (root / "cluster.yaml").write_text(json.dumps(job_project.profile(cluster, own)))
        job_project.make_folder(root, "runs/", "cache/", "teacher.pt")

    def submit(self, run_id: str, commands: list[str]) -> float:
        """Seconds of a run."""
        lines = [f"{key}='{one}'" for key, one in zip(STAGES, commands, strict=False)]
        (self.root / "mine.env").write_text("\n".join(lines) + "\n")
        command = [str(LAUNCHER), *job_project.submit(run_id, config="mine.env")]
        begun = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return took

    def bare(self, name: str, command: str) -> float:
        """Seconds of four Jobs, each created and awaited by kubectl, one after the other."""
        begun = time.perf_counter()
        for number in range(4):
            job = self._bare(f"{name}-{number}", command)
            self.cluster.kubectl("-n", self.peer, "create", "-f", "-", given=json.dumps(job))
            self.cluster.kubectl(
                *("-n", self.peer, "wait", "--for=condition=complete", "--timeout=300s"),
                f"job/{name}-{number}",
            )
        return time.perf_counter() - begun

    def _bare(self, name: str, command: str) -> dict[str, object]:
        container = {
            "name": "command",
            "image": self.cluster.bash_image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["bash", "-o", "pipefail", "-c", command],
        }
        pod = {"restartPolicy": "Never", "containers": [container]}
        spec = {"backoffLimit": 0, "template": {"spec": pod}}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}

    def events(self, run_id: str) -> list[dict[str, object]]:
        """The run's, from the bucket itself."""
        store = self.environment["LAUNCHER_STORE"]
        return job_project.events(self.cluster, store, f"run/{run_id}")


def measure(bench: Bench, lengths: list[float], rounds: int) -> Found:
    """Turn by turn, after one run that warms everything up."""
    found = Found()
    bench.submit("warm", ["true"])
    for number in range(rounds):
        for seconds in lengths:
            run_id, command = f"s{seconds:g}-{number}", f"sleep {seconds:g}"
            before = len(asked(bench.cluster, bench.own))
            turns = [
                lambda run=run_id, one=command: bench.submit(run, [one] * 4),
                lambda run=run_id, one=command: bench.bare(run, one),
            ]
            took = [turns[(at + number) % 2]() for at in range(2)]
            ours, bare = took[number % 2], took[1 - number % 2]
            found.ours.setdefault(seconds, []).append(ours)
            found.bare.setdefault(seconds, []).append(bare)
            calls = asked(bench.cluster, bench.own)[before:]
            found.calls.append(len(calls) / 4)
            each = gaps(bench.store, bench.events(run_id), created(calls))
            found.gaps += [gap for _, gap in each]
    return found


def memory_mib(bench: Bench, mib: int) -> int:
    """The most that our processes in pods held: the sidecar of a stage that leaves ``mib``, the next one's fetch."""
    size = mib * 1024 * 1024 // 4
    pieces = f"for i in 1 2 3 4; do head -c {size} /dev/urandom > $ARTIFACT_DIR/$i; done"
    seen = [0]
    with subprocess.Popen(
        [str(LAUNCHER), *job_project.submit("big")],
        cwd=_with_config(bench.root, pieces),
        env=bench.environment,
        stdout=subprocess.DEVNULL,
    ) as run:
        while run.poll() is None:
            seen += _held()
            time.sleep(0.05)
    if run.returncode:
        raise SystemExit(f"the run of {mib} MiB ended with {run.returncode}")
    return max(seen) // 1024


def _with_config(root: Path, command: str) -> Path:
    (root / "big.env").write_text(f"LLM_ON_CMD='{command}'\nRELABEL_CMD='true'\n")
    return root


def _held() -> list[int]:
    """KiB that each process of this machine held at most which is ours in a pod."""
    found = []
    for one in Path("/proc").iterdir():
        try:
            words = (one / "cmdline").read_bytes().split(b"\0") if one.name.isdigit() else []
            if b"launcher.agent.collect" in words or b"launcher.agent.fetch" in words:
                status = (one / "status").read_text().splitlines()
                found += [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
        except OSError:
            continue  # it ended
    return found


def report(found: Found, held: int) -> bool:
    """Print it; whether every target is met."""
    good = True

    def said(what: str, figure: str, met: bool, target: str) -> None:
        nonlocal good
        good = good and met
        print(f"{what}: {figure}, {'at most' if met else 'ABOVE'} the target of {target}")

    print(f"{'four stages of':16}{'ours s':>9}{'bare s':>9}{'more a stage':>14}{'ratio':>7}")
    for seconds, ours in found.ours.items():
        bare = found.bare[seconds]
        more = statistics.median(a - b for a, b in zip(ours, bare, strict=True)) / 4
        ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        middle, theirs = statistics.median(ours), statistics.median(bare)
        print(f"{seconds:>13g} s{middle:>10.1f}{theirs:>9.1f}{more:>14.2f}{ratio:>7.2f}")
        if seconds < LONG:
            said(f"stages of {seconds:g} s", f"{more:.2f} s more each", more <= MORE, f"{MORE} s")
        else:
            said(f"stages of {seconds:g} s", f"{ratio:.2f} times", ratio <= RATIO, f"{RATIO}")
    middle = statistics.median(found.gaps)
    spread = f"{min(found.gaps):.2f} to {max(found.gaps):.2f}"
    said("from a result to the next Job", f"{middle:.2f} s ({spread})", middle <= GAP, f"{GAP} s")
    most = max(found.calls)
    said("calls a stage, watches aside", f"{most:.1f}", most <= CALLS, f"{CALLS}")
    if held:
        said("memory in a pod", f"{held} MiB", held <= MEMORY, f"{MEMORY}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 30.0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mib", type=int, default=1024, help="of outputs; 0 leaves memory out")
    options = parser.parse_args()
    with (
        using() as cluster,
        tempfile.TemporaryDirectory() as name,
        cluster.namespace() as own,
        cluster.namespace("privileged") as peer,
    ):
        bench = Bench(cluster, Path(name), own, peer)
        found = measure(bench, options.seconds, options.rounds)
        held = memory_mib(bench, options.mib) if options.mib else 0
    print(f"{options.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return 0 if report(found, held) else 1


if __name__ == "__main__":
    raise SystemExit(main())
