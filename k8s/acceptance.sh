#!/usr/bin/env bash
# Acceptance on a real cluster: submits a small run of made scans, takes its nodes away in four ways, and compares what is
# left with a run that nobody disturbed. docs/acceptance.md explains each step. About an hour.
#
#   STORAGE=s3://my-bucket/acceptance k8s/acceptance.sh all        or one of: check dry-run baseline preempt head spot compare
#
# Other settings: NAMESPACE (medfuncta), OVERLAYS (gpu,kueue), STEPS (2000), GPUS (1), WORKERS (2), SOURCE (a CSV of ECG
# beats in storage; without it, one is made and uploaded with the AWS CLI).
set -euo pipefail

[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
: "${STORAGE:?set STORAGE to an s3:// place of your own, for example s3://my-bucket/acceptance}"
namespace="${NAMESPACE:-medfuncta}"
overlays="${OVERLAYS:-gpu,kueue}"
steps="${STEPS:-2000}"
source="${SOURCE:-$STORAGE/archive/beats.csv}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

run_file() { # NAME
  cat >"$folder/$1.yaml" <<YAML
name: $1
storage: $STORAGE
preset: medfuncta-1d
data:
  dataset: acceptance
  source: $source
  reader: ecg-csv
  shape: [187]
train: {steps: $steps, checkpoint_minutes: 1}
cluster: {workers: ${WORKERS:-2}, gpus_per_worker: ${GPUS:-1}, cpus_per_worker: 2}
kubernetes: {namespace: $namespace, overlays: [$overlays]}
YAML
  echo "$folder/$1.yaml"
}

say() { printf '\n== %s\n' "$*" >&2; }

submit() { # NAME STAGE...
  local file
  file="$(run_file "$1")"
  shift
  medfuncta-dist submit "$file" "$@" --follow
}

train_in_background() { # NAME: returns when training has a checkpoint; the process id of the follower in $follower
  submit "$1" pack
  submit "$1" train &
  follower=$!
  say "waiting for $1 to train and to have a checkpoint"
  until checkpoints "$1" | grep -q .; do sleep 10; done
}

checkpoints() { # NAME
  aws s3 ls "$STORAGE/runs/$1/checkpoints/commits/" 2>/dev/null || true
}

pods() { # NAME ROLE: those that train; the cluster that packed may still be leaving
  kubectl -n "$namespace" get pods -l "medfuncta.dev/run=$1,medfuncta.dev/stage=train,ray.io/node-type=$2" -o name
}

check() {
  say "what is missing"
  medfuncta-dist doctor "$(run_file acceptance-check)"
  if [ -z "${SOURCE:-}" ]; then
    say "made scans"
    python3 -c '
import math, random
random.seed(0)
for row in range(2000):
    a, b, c = random.random(), random.random(), random.random()
    print(",".join(f"{0.5 + 0.3 * a * math.sin(0.1 * (1 + b) * i + 6 * c) * math.exp(-((i - 90) / 60) ** 2):.5f}" for i in range(187)) + ",0")
' | aws s3 cp - "$source"
  fi
}

dry_run() {
  say "what we would send, and what the cluster would make of it: webhooks of KubeRay and Kueue included"
  local file
  file="$(run_file acceptance-dry)"
  medfuncta-dist submit "$file" pack train fit --dry-run >"$folder/ours.yaml"
  kubectl -n "$namespace" create --dry-run=server -f "$folder/ours.yaml" -o yaml >"$folder/theirs.yaml"
  echo "Fields that the cluster changed or added (expected: defaults, and spec.suspend by Kueue):"
  diff <(kubectl create --dry-run=client -f "$folder/ours.yaml" -o yaml) "$folder/theirs.yaml" || true
}

baseline() {
  say "undisturbed"
  submit acceptance-calm pack train fit evaluate
}

preempt() {
  train_in_background acceptance-suspend
  say "suspended, as Kueue does when it preempts: the cluster goes, driver included"
  local workload
  workload="$(kubectl -n "$namespace" get workloads -o name | grep acceptance-suspend-train | tail -1)"
  kubectl -n "$namespace" patch "$workload" --type merge -p '{"spec":{"active":false}}'
  until [ -z "$(pods acceptance-suspend head)" ]; do sleep 5; done
  kubectl -n "$namespace" patch "$workload" --type merge -p '{"spec":{"active":true}}'
  wait "$follower"
  submit acceptance-suspend fit
}

evicted_head() {
  train_in_background acceptance-head
  say "the head evicted"
  kubectl -n "$namespace" delete "$(pods acceptance-head head)" --wait=false
  wait "$follower" || medfuncta-dist resume "$(run_file acceptance-head)"
  medfuncta-dist status "$(run_file acceptance-head)" --watch
  submit acceptance-head fit
}

spot() {
  train_in_background acceptance-spot
  say "a worker's pod killed without grace, then another one's node drained"
  kubectl -n "$namespace" delete "$(pods acceptance-spot worker | head -1)" --grace-period=0 --force
  sleep 60
  kubectl -n "$namespace" delete "$(pods acceptance-spot worker | head -1)" --wait=false
  wait "$follower"
  submit acceptance-spot fit
}

compare() {
  say "the same network whatever happened, and every scan accounted for"
  local name
  for name in calm suspend head spot; do
    aws s3 cp "$STORAGE/runs/acceptance-$name/summary.json" - | python3 -c '
import json, sys
s = json.load(sys.stdin)
t, f = s["train"], s["fit"]["counts"]
print(sys.argv[1], "network", t["network_digest"][:16], "attempts", t["attempts"], "held-out dB", t["psnr"], "fitted", f["fitted"], "of", f["packed"])
' "$name"
    medfuncta-dist verify "$(run_file "acceptance-$name")"
  done
}

case "${1:-}" in
  all) for step in check dry_run baseline preempt evicted_head spot compare; do "$step"; done ;;
  check | baseline | preempt | spot | compare) "$1" ;;
  head) evicted_head ;;
  dry-run) dry_run ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
