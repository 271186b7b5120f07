#!/usr/bin/env bash
# A thin door to `launcher submit`: takes the same options, works from any folder.
# Paths are relative to the folder you are in, which is the project that the run belongs to.
set -eu

here=${BASH_SOURCE[0]}
while [ -L "$here" ]; do # a link to this script, followed by hand: `readlink -f` is not everywhere
  target=$(readlink -- "$here")
  case $target in /*) here=$target ;; *) here=$(dirname -- "$here")/$target ;; esac
done
checkout=$(unset CDPATH && cd -P -- "$(dirname -- "$here")/.." && pwd)

if [ -x "$checkout/.venv/bin/launcher" ]; then
  launcher=$checkout/.venv/bin/launcher
elif ! launcher=$(command -v launcher); then
  printf 'self_distill.sh: no launcher in %s/.venv and none on PATH (make -C %q setup)\n' "$checkout" "$checkout" >&2
  exit 5
fi
exec "$launcher" submit "$@"
