#!/usr/bin/env bash
# The demo: a real small loop to a promoted student, then a bad one that goes live and is rolled back.
# Run by `make demo`; needs .venv with the demo extra. Can be run again and again: every run is kept.
# What it is given goes to every `submit`: bash scripts/demo.sh --set EPISODES=100
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
config=configs/self_distill/minigrid.env
teacher=checkpoints/preplan.safetensors
scorecard=results/calibration/teacher_scorecard.json
target=checkpoints/stable/student_latest.safetensors
store=${STORE:-folder}
executor=${EXECUTOR:-local}
home=runs/self_distill
given=("$@")
on=() # what `submit` is told of where the stages run
# A loop beside the one in the folder, which goes on as it was.
if [ "$executor" = kubernetes ]; then
  home=runs/self_distill_cluster
  target=checkpoints/stable/student_cluster.safetensors
elif [ "$store" = s3 ]; then
  home=runs/self_distill_s3
  target=checkpoints/stable/student_s3.safetensors
fi
export PATH="$PWD/.venv/bin:$PATH" LAUNCHER_HOME=$home

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
    --teacher-scorecard "$scorecard" --promotion-target "$target" "${on[@]}" "${given[@]}" "$@"
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
  launcher status "$1" --json | "$python" -c '
import json, sys
print("{success_rate:.1%}".format(**json.load(sys.stdin)["metrics"]))'
}

# A server of our own, as long as this script runs: it says what leads to it, then lives until its input ends.
serve() {
  local line served=''
  coproc SERVER { exec "$python" -m "$@"; }
  while IFS= read -r line <&"${SERVER[0]}"; do
    [ -n "$line" ] || { served=yes; break; }
    case $line in 'export '*) export "${line#export }" ;; *) note "$line" ;; esac
  done
  [ -n "$served" ] || exit 5
}
case $executor,$store in
  local,folder) ;;
  local,s3)
    heading "The store"
    note "starting an S3 server (the first time it is built, a minute or two) ..."
    serve tests.rig.serve runs/demo-s3 demo
    export LAUNCHER_STORE=s3://demo/distill
    note "store and ledger: $LAUNCHER_STORE at $AWS_ENDPOINT_URL"
    run launcher doctor
    ;;
  kubernetes,*)
    heading "The cluster"
    note "starting one on this machine (the first time it is built, some ten minutes; see docs/rig.md) ..."
    profile=runs/demo-cluster.yaml
    serve tests.rig.demo "$profile" runs/demo-s3 demo
    on=(--executor kubernetes --profile "$profile")
    note "one node, with one nvidia.com/gpu; namespace $DEMO_NAMESPACE takes restricted pods alone"
    note "store and ledger: $LAUNCHER_STORE, reached by pods and by this machine"
    ;;
  local,*) echo "demo: STORE=$store is neither folder nor s3" >&2; exit 2 ;;
  *) echo "demo: EXECUTOR=$executor is neither local nor kubernetes" >&2; exit 2 ;;
esac

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
if [ "$executor" = kubernetes ]; then
  heading "The same, as the cluster has it"
  run kubectl -n "$DEMO_NAMESPACE" get jobs -l "distill-ledger/run=$good" -L distill-ledger/stage \
    --sort-by .metadata.creationTimestamp
  run launcher status "$good"
fi
heading "What the student learned (planner off, levels it never saw)"
run launcher logs "$good" llm_off
if [ "$executor" = kubernetes ]; then
  # What pods leave is in the store; a run's folder here has it when it is asked for.
  run launcher restore "$good"
fi
printf 'picture  %s\n' "$home/$good/artifacts/comparison.png"

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
if [ -n "${LAUNCHER_STORE:-}" ]; then
  cat <<END
The server ends with this script; its bucket stays in runs/demo-s3. To look at it again, in one terminal:
  make s3                           serves it and prints what to export in another one
  export LAUNCHER_STORE=$LAUNCHER_STORE LAUNCHER_HOME=$home
END
fi
cat <<END
  source .venv/bin/activate
  launcher                          what is live, what failed last, what to do
  launcher status $good
  xdg-open $home/$good/artifacts/comparison.png
Close the loop, with the promoted student as the next teacher:
  bash scripts/self_distill.sh --config $config --set SEED=1 \\
    --teacher-checkpoint pointer:$target
Your own loop: cp configs/self_distill/template.env configs/self_distill/mine.env
END
if [ "$executor" = kubernetes ]; then
  cat <<END
On a cluster of your own: docs/guides/kubernetes.md. Or have this one for longer, and the demo on it from another terminal:
  make cluster                      prints what to export, for kubectl -n $DEMO_NAMESPACE get jobs,pods
END
fi
