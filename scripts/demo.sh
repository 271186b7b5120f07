#!/usr/bin/env bash
# The demo: a real small loop to a promoted student, then a bad one that goes live and is rolled back.
# Run by `make demo`; needs .venv with the demo extra. Can be run again and again: every run is kept.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
config=configs/self_distill/minigrid.env
teacher=checkpoints/preplan.safetensors
scorecard=results/calibration/teacher_scorecard.json
target=checkpoints/stable/student_latest.safetensors
export PATH="$PWD/.venv/bin:$PATH" LAUNCHER_HOME=runs/self_distill

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
heading() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$1" "$plain"; }
# Show a command as one would type it (a long one over several lines), then run it.
run() {
  local word line='$'
  printf '%s' "$dim"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,+-]+$ ]] || word="\"$word\""
    if [ "$#" -gt 6 ] && [[ $word == --* ]]; then
      printf '%s \\\n' "$line"
      line='   '
    fi
    line+=" $word"
  done
  printf '%s%s\n' "$line" "$plain"
  "$@"
}
loop() {
  run bash scripts/self_distill.sh --config "$config" --teacher-checkpoint "$teacher" \
    --teacher-scorecard "$scorecard" --promotion-target "$target" "$@"
}
held() {
  launcher pointers --json | "$python" -c '
import json, sys
sys.exit(not any(p["name"] == sys.argv[1] and p["held"] for p in json.load(sys.stdin)))' "$target"
}
newest_run() {
  launcher list --json | "$python" -c '
import json, sys
listed = json.load(sys.stdin)
print((listed["runs"] if isinstance(listed, dict) else listed)[0]["run_id"])'
}
success_rate() {
  "$python" -c '
import json, sys
print("{success_rate:.1%}".format(**json.load(open(sys.argv[1]))))' "runs/self_distill/$1/metadata/metrics.json"
}

heading "The teacher"
if [ -f "$teacher" ] && [ -f "$scorecard" ]; then
  note "made before: $teacher, $scorecard"
else
  run "$python" -m examples.minigrid.make_teacher --checkpoint "$teacher" --scorecard "$scorecard"
fi
if held; then
  note "The last rollback holds automatic promotions. The bad student was ours, so let them go on:"
  run launcher release "$target" --reason "the demo starts again"
fi

heading "A run: capture, relabel, retrain, evaluate, promote"
loop
good=$(newest_run)
heading "What the student learned (planner off, levels it never saw)"
run launcher logs "$good" llm_off
printf 'picture  %s\n' "runs/self_distill/$good/artifacts/comparison.png"

heading "A worse student: nine of ten of its lessons spoiled on purpose"
loop --set LABEL_NOISE=0.9 --note "worse on purpose"
bad=$(newest_run)
printf 'live now solves %s of the levels; before it %s\n' "$(success_rate "$bad")" "$(success_rate "$good")"

heading "Put the good one back"
run launcher rollback "$target" --reason "it lost its way" --yes

heading "What is live, what happened, and whether the records agree"
run launcher pointers "$target"
run launcher list
run launcher audit

heading "What to type next"
cat <<END
  source .venv/bin/activate
  launcher                          what is live, what failed last, what to do
  launcher status $good
  xdg-open runs/self_distill/$good/artifacts/comparison.png
Close the loop, with the promoted student as the next teacher:
  bash scripts/self_distill.sh --config $config --set SEED=1 \\
    --teacher-checkpoint pointer:$target
Your own loop: cp configs/self_distill/template.env configs/self_distill/mine.env
END
