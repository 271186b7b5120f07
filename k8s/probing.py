"""A stage's Job as a probe of it: the same place, images, volumes and credentials, and nothing done. Pure.

1. The fetch is the stage's own. Where the collector would be, the store is tried. The command only looks at its image.
2. Services are not run: each image is pulled, and then told to start what no image has.
3. A probe that nobody takes away ends by itself: ``activeDeadlineSeconds``, ``ttlSecondsAfterFinished``.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from k8s.containers import COLLECT, COMMAND, FETCH
from k8s.pods import container_state, last_line, statuses, verdict
from k8s.wrapper import literal

__all__ = ["STORE", "Judged", "is_done", "judged", "probe_job"]

Object = Mapping[str, Any]

#: The container in which the store is tried.
STORE: Final = "store"
_TRIAL: Final = "launcher.agent.trial"
#: How long the fetch waits for a store that is away.
_FETCH_SECONDS: Final = 20
_KEPT_SECONDS: Final = 60
_NOTHING: Final = "/distill-ledger/probe"
_WRONG: Final = 3
#: What the wrapper around a command needs of its image.
_SCRIPT: Final = f"""
lacking=''
for each in cat mkdir mkfifo mv rm sleep tee; do
  type -P "$each" > /dev/null || lacking="$lacking $each"
done
if [ -n "$lacking" ]; then echo "its image has no$lacking"; exit {_WRONG}; fi
if [ "${{BASH_VERSINFO[0]}}${{BASH_VERSINFO[1]}}" -lt 42 ]; then
  echo "its bash is $BASH_VERSION, and 4.2 is needed"; exit {_WRONG}
fi
for each in /workspace "$HOME" /tmp; do
  : > "$each/.probe" || {{ echo "it cannot write to $each"; exit {_WRONG}; }}
done
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a probe's pod came to: ``well``, and in words."""

    well: bool
    words: str


def probe_job(job: Object, *, seconds: int) -> dict[str, Any]:
    """The probe of a stage's ``job``, which is to be decided within so many seconds."""
    made: dict[str, Any] = deepcopy(dict(job))
    made["spec"]["activeDeadlineSeconds"] = seconds + _KEPT_SECONDS
    made["spec"]["ttlSecondsAfterFinished"] = _KEPT_SECONDS
    spec = made["spec"]["template"]["spec"]
    spec["terminationGracePeriodSeconds"] = 1
    beside = {one["name"]: one for one in spec["initContainers"]}
    fetch, collect = beside.pop(FETCH), beside.pop(COLLECT)
    fetch["env"] = [*fetch["env"], {"name": "LAUNCHER_FETCH_SECONDS", "value": f"{_FETCH_SECONDS}"}]
    [command] = spec["containers"]
    spec["initContainers"] = [fetch, _trial(collect)]
    spec["containers"] = [_looking(command), *(_pulled(one) for one in beside.values())]
    return made


def _trial(collect: Object) -> dict[str, Any]:
    kept = {key: value for key, value in collect.items() if key != "restartPolicy"}
    python, flag, _ = collect["command"]
    place = [one for one in collect["args"] if one.startswith("--store=")]
    return {**kept, "name": STORE, "command": [python, flag, _TRIAL], "args": place}


def _looking(command: Object) -> dict[str, Any]:
    return {
        **command,
        "command": ["bash", "-c", literal(_SCRIPT)],
        "args": [],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _pulled(service: Object) -> dict[str, Any]:
    kept = ("name", "image", "imagePullPolicy", "resources", "securityContext", "volumeMounts")
    return {**{key: service[key] for key in kept if key in service}, "command": [_NOTHING]}


def is_done(pod: Object) -> bool:
    """Whether there is nothing more to learn from it."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def judged(pod: Object) -> Judged:
    """Of a pod that is done."""
    kind, said = container_state(pod, STORE)
    if kind == "terminated" and said.get("exitCode"):
        words = last_line(said.get("message")).removeprefix(": trial")
        if _TRIAL in words:
            words += " (is agent.image of this launcher's version?)"
        return Judged(well=False, words=f"the store cannot be used from inside{words}")
    kind, said = container_state(pod, COMMAND)
    if kind != "terminated" or said.get("exitCode"):
        code = said.get("exitCode") if kind == "terminated" else None
        if code == _WRONG:
            return Judged(False, last_line(said.get("message")).removeprefix(": "))
        return Judged(False, verdict(pod).message)
    lacking = [one["name"] for one in statuses(pod) if not one.get("imageID")]
    if lacking:
        return Judged(False, f"the image of {', '.join(lacking)} was not pulled")
    services = [one["name"] for one in statuses(pod) if one["name"] not in (FETCH, STORE, COMMAND)]
    pulled = f"; pulled for {', '.join(services)}" if services else ""
    node = (pod.get("spec") or {}).get("nodeName")
    words = (
        f"on {node}: its image has bash and coreutils, the store is written and create-only holds"
    )
    return Judged(True, f"{words}{pulled}")
