"""What runs in the command's container: bash around the stage's command, and what it hands to the collector. Pure.

The container shares the handover folder with the collector beside it. All that crosses it:

================  ===========  =====================================================================================
file              written by   says
================  ===========  =====================================================================================
``resume``        fetch        the checkpoint that an earlier pod of this attempt saved: RESUME_CHECKPOINT
``started``       wrapper      the command is about to start
``exit.json``     wrapper      it has ended: ``{"exit_code": 7, "oom_kills": 0, "ended": "command"}``, by rename
``terminating``   wrapper      Kubernetes told this pod to end, so an exit code says nothing; before any signal
``stop``          collector    the attempt is closed (a result with ``closed_by`` is there): end the command
``collected``     collector    it is done; ``committed`` in it where the result holds this very exit code
================  ===========  =====================================================================================

``ended`` is ``command`` (by itself), ``terminated``, ``stopped``, or ``unstarted`` (the log cannot be written).
Rules:

1. stdout and stderr go, in order and raw, through one pipe and ``tee`` to the log and to the container's own output.
2. TERM (or what else the image's STOPSIGNAL is) makes ``terminating`` and goes on to the command's process group;
   KILL after the grace. The same for ``stop``, without ``terminating``.
3. The exit code is handed over when the command's group, and as process 1 everything in the container, is gone.
4. It then waits for ``collected``, at most the collection's deadline (exit 125). Told to end: the time to save.
5. Its own exit code is the command's, except: TERMINATED where the pod was told to end and no result was committed,
   so that the Job replaces the pod; STOPPED for a stopped command that says 0; UNCOLLECTED where the outputs were
   not taken. A command's own 143 leaves as 1, since 143 is TERMINATED.
6. Its last words, the container's termination message, are ``exit.json`` again, ``ended`` being ``uncollected`` in
   the case of exit 125: what the API says then needs no log.

bash 4.2 and coreutils (or busybox) are all it needs.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "HANDOVER",
    "PRIVATE",
    "STOPPED",
    "TERMINATED",
    "UNCOLLECTED",
    "WRAPPER",
    "as_arguments",
    "literal",
]

#: Where the handover folder is mounted.
HANDOVER: Final = "/launcher"
#: Below it fetch sees the volumes that hold what is never stored, each at its path in the command's container.
PRIVATE: Final = "/private"
#: The wrapper's exit code where the pod was told to end; the Job replaces such a pod within the attempt.
TERMINATED: Final = 143
#: … where the attempt was closed while the command ran, and the command says 0 or 143 of it.
STOPPED: Final = 124
#: … where the outputs were not collected, in time or at all.
UNCOLLECTED: Final = 125
#: Where Kubernetes reads a container's last words.
LAST_WORDS: Final = "/dev/termination-log"

_SCRIPT = r"""
set -u -m
handover=$1 log=$2 grace=$3 save=$4 collect=$5 words=$6 command=$7
self=$BASHPID pid='' ended=command told_at='' interrupted='' killer='' taken=''
# What bash says of jobs that were signalled would show the whole command.
exec 3>&2 2>/dev/null

say() { printf 'launcher: %s\n' "$1" >&3; }

oom_kills() {
  local file key value
  kills=0
  for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r "$file" ] || continue
    while read -r key value; do
      if [ "$key" = oom_kill ]; then kills=$value; fi
    done < "$file"
    return
  done
}

end_command() {
  [ -n "$told_at" ] && return
  told_at=$SECONDS
  [ -n "$pid" ] || return
  kill -TERM -- "-$pid"
  kill -CONT -- "-$pid"
  { sleep "$grace"; kill -KILL -- "-$pid"; } > /dev/null 3>&- &
  killer=$!
}

terminate() {
  interrupted=1
  : > "$handover/terminating"
  [ "$ended" = terminated ] || say 'told to end'
  ended=terminated
  end_command
}

stop() {
  interrupted=1
  [ "$ended" = terminated ] || ended=stopped
  say 'the attempt is closed: the command is ended'
  end_command
}

# Wait for a child although signals come; a second wait for the same child gives its code again.
await() {
  while :; do
    interrupted=''
    wait "$1"
    code=$?
    [ -n "$interrupted" ] || return
  done
}

# Signal all but this shell and tee; only where this container is all there is to see.
others() {
  local found=1 each
  [ "$self" -eq 1 ] || return 1
  for each in /proc/[0-9]*; do
    each=${each##*/}
    [ "$each" = 1 ] || [ "$each" = "$tee" ] || { kill "-$1" "$each" && found=0; }
  done
  return $found
}

remains() { kill "-$1" -- "-$pid" || others "$1"; }

end_remains() {
  local limit=$((SECONDS + 2))
  [ -z "$told_at" ] || limit=$((told_at + grace))
  kill -TERM -- "-$pid"
  others TERM
  while remains 0 && [ "$SECONDS" -lt "$limit" ]; do sleep 0.05; done
  kill -KILL -- "-$pid"
  others KILL
}

hand_over() {
  printf '{"exit_code": %s, "oom_kills": %s, "ended": "%s"}\n' "$1" "$2" "$3"
}

leave() {
  hand_over "$1" "$kills" "$2" > "$words"
  exit "$3"
}

trap terminate TERM INT QUIT HUP RTMIN+3
trap stop USR1

oom_kills
before=$kills
mkdir -p "${log%/*}"
rm -f "$handover/log.pipe"
if ! mkfifo "$handover/log.pipe" || ! : >> "$log"; then
  say "cannot write $log"
  ended=unstarted
fi
code=null
kills=0
if [ "$ended" = command ]; then
  if [ -r "$handover/resume" ]; then
    RESUME_CHECKPOINT=$(< "$handover/resume")
    export RESUME_CHECKPOINT
  fi
  : > "$handover/started"
  tee -a "$log" < "$handover/log.pipe" 3>&- &
  tee=$!
  bash -o pipefail -c "$command" < /dev/null > "$handover/log.pipe" 2>&1 3>&- &
  pid=$!
  # Told in between: nobody was signalled then.
  if [ -n "$told_at" ]; then told_at=''; end_command; fi
  { until [ -e "$handover/stop" ]; do sleep 1; done; kill -USR1 "$self"; } > /dev/null 3>&- &
  watcher=$!
  await "$pid"
  kept=$code
  kill -KILL -- "-$watcher"
  [ -z "$killer" ] || kill -KILL -- "-$killer"
  end_remains
  # Who left the group may hold the pipe open, and is not waited for.
  { sleep 10; kill -KILL "$tee"; } > /dev/null 3>&- &
  killer=$!
  await "$tee"
  kill -KILL -- "-$killer"
  code=$kept pid=''
  oom_kills
  kills=$((kills - before))
fi

hand_over "$code" "$kills" "$ended" > "$handover/exit.json.part"
mv -f "$handover/exit.json.part" "$handover/exit.json"

# Told to end before it began: there is nothing to wait for.
if [ "$code,$ended" = null,terminated ]; then leave null terminated __TERMINATED__; fi
limit=$((SECONDS + collect))
until [ -e "$handover/collected" ]; do
  if [ "$ended" = terminated ]; then
    # Until the command's grace and the time to save are over, counted from when it was told.
    [ "$((told_at + grace + save))" -ge "$limit" ] || limit=$((told_at + grace + save))
  fi
  [ "$SECONDS" -lt "$limit" ] || break
  sleep 0.1
done
if [ -e "$handover/collected" ]; then read -r taken < "$handover/collected"; fi

[ "$code" != null ] || leave null "$ended" __UNCOLLECTED__
if [ "$taken" != committed ]; then
  case $ended in
    terminated) leave "$code" terminated __TERMINATED__ ;;
    command) leave "$code" uncollected __UNCOLLECTED__ ;;
  esac
fi
case $ended,$code in
  stopped,0 | stopped,__TERMINATED__) leave "$code" stopped __STOPPED__ ;;
  *,__TERMINATED__) leave "$code" "$ended" 1 ;;
esac
leave "$code" "$ended" "$code"
"""

for _name, _code in (
    ("__TERMINATED__", TERMINATED),
    ("__STOPPED__", STOPPED),
    ("__UNCOLLECTED__", UNCOLLECTED),
):
    _SCRIPT = _SCRIPT.replace(_name, str(_code))
WRAPPER: Final = _SCRIPT.lstrip()

#: Kubernetes replaces $(NAME) in commands, arguments and variables, and makes one $ of two.
_SPECIAL: Final = re.compile(r"\$(?=[$(])")


def literal(text: str) -> str:
    """``text`` such that a container gets it as it is."""
    return _SPECIAL.sub("$$", text)


def as_arguments(
    command: str, *, log: str, grace_seconds: int, save_seconds: int, collect_seconds: int
) -> tuple[list[str], list[str]]:
    """A container's ``command`` and ``args`` that run ``command`` so, escaped for Kubernetes."""
    numbers = [str(grace_seconds), str(save_seconds), str(collect_seconds)]
    given = [HANDOVER, log, *numbers, LAST_WORDS, command]
    return ["bash", "-c", literal(WRAPPER), "launcher"], [literal(one) for one in given]
