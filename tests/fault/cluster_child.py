"""Launchers that are killed at a call of the API server. ``python tests/fault/cluster_child.py`` in a project's root.

On stdin a list of launches (``tests/fault/cluster_runs.py``), all at once, or when the one ended that they come
after: each is a fork of this process, which has loaded what a launcher takes seconds to load. On stdout how each
ended, by where it said what it said.

A launch's ``death`` is (call, how many of the same before it, ``before`` or ``after``): it dies before that call is
sent, or when the server has answered and nobody has looked at the answer. With ``sleeps`` it stops before the call
until somebody continues it. A call's name is ``list pods``, ``create jobs``, ``log command`` and so on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import boto3
from kubernetes import client, config

import launcher.executors.kubernetes
import launcher.pods
from k8s.connection import Connection
from launcher.cli.main import main as program

_LOADED = (boto3, client, config, launcher.executors.kubernetes, launcher.pods)
_VERBS = {"POST": "create", "DELETE": "delete"}


def called(method: str, path: str, query: Any) -> str:
    """What a call is named."""
    given = dict(query or {})
    *_, kind, last = path.split("/")
    if last == "log":
        return f"log {given['container']}"
    if last in ("jobs", "pods", "events"):
        verb = "watch" if "watch" in given else "list"
        return f"{_VERBS.get(method, verb)} {last}"
    return f"{_VERBS.get(method, 'get')} {kind}"


def watched(death: Any, calls: Path) -> None:
    """Note each call of the API server from now on, and die at the one that is meant."""
    seen: list[str] = []
    one_by_one, real = threading.Lock(), Connection._call

    def instead(self: Connection, method: str, path: str, query: Any, *more: Any) -> Any:
        name = called(method, path, query)
        with one_by_one:
            number = seen.count(name)
            seen.append(name)
            with calls.open("a") as file:
                file.write(f"{name}\n")
        if death == [name, number, "before"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if death == [name, number, "sleeps"]:
            calls.with_suffix(".asleep").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            return real(self, method, path, query, *more)
        finally:
            if death == [name, number, "after"]:
                os.kill(os.getpid(), signal.SIGKILL)

    Connection._call = instead  # type: ignore[method-assign]


def launch(one: dict[str, Any]) -> None:
    """In the fork."""
    said = os.open(f"{one['out']}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ |= {"LAUNCHER_HOME": one["home"], "LAUNCHER_STORE": one["store"]}
    os.environ["KUBECONFIG"] = one["kubeconfig"]
    code = 1
    try:
        watched(one["death"], Path(f"{one['out']}.calls"))
        while one["awaits"] and not any(
            one["awaits"].encode() in segment.read_bytes() for segment in Path(one["log"]).glob("*")
        ):
            time.sleep(0.05)
        program(one["arguments"])
    except SystemExit as exc:
        code = int(exc.code or 0)
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    given = json.load(sys.stdin)
    pids: dict[int, str] = {}
    codes: dict[str, int] = {}

    def begin(after: str) -> None:
        for one in given:
            if one["after"] == after:
                pid = os.fork()
                if pid == 0:
                    launch(one)
                pids[pid] = one["out"]

    begin("")
    while pids:
        pid, status = os.wait()
        out = pids.pop(pid)
        codes[out] = os.waitstatus_to_exitcode(status)
        begin(out)
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
