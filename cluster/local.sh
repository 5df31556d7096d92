#!/usr/bin/env bash
# Several Ray nodes on this one machine, to try a cluster without having one.
#
#   cluster/local.sh up [NODES=3] [CPUS=2]    a head without CPUs, NODES nodes of CPUS each; prints what to export
#   cluster/local.sh down                     ends what `up` started, and nothing else
#
# State (process ids, Ray's token and logs) lies in MEDFUNCTA_LOCAL_CLUSTER, by default /tmp/medfuncta-cluster-<user id>:
# short, because Ray's sockets lie below it and their paths may have 107 characters.
set -euo pipefail

folder="${MEDFUNCTA_LOCAL_CLUSTER:-/tmp/medfuncta-cluster-$(id -u)}"
port="${MEDFUNCTA_LOCAL_PORT:-6399}"
agent="${MEDFUNCTA_LOCAL_AGENT:-52500}" # and as many ports after it as there are nodes
ray="${RAY:-$(command -v ray || true)}"
[ -n "$ray" ] || { echo "error: no \`ray\` here: source .venv/bin/activate, or set RAY to its path" >&2; exit 2; }
# Who has the token may run code here, so each cluster has its own.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0
# A busy machine needs longer than Ray's 30 s to bring a node up.
export RAY_raylet_start_wait_time_s=120 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=2

start() { # NAME ARGUMENTS...: one node, its process id in NAME.pid
  local name="$1"
  shift
  nohup "$ray" start --block --disable-usage-stats "$@" >"$folder/$name.log" 2>&1 &
  echo $! >"$folder/$name.pid"
}

up() {
  local nodes="${1:-3}" cpus="${2:-2}"
  if compgen -G "$folder/*.pid" >/dev/null; then
    echo "error: a cluster of $folder is up already; end it with: $0 down" >&2
    exit 2
  fi
  mkdir -p "$folder"
  (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/token")
  start head --head --port="$port" --node-ip-address=127.0.0.1 --num-cpus=0 --include-dashboard=true \
    --dashboard-host=127.0.0.1 --dashboard-port="${MEDFUNCTA_LOCAL_DASHBOARD:-8299}" --temp-dir="$folder/ray" \
    --dashboard-agent-listen-port="$agent"
  wait_for 1
  for number in $(seq "$nodes"); do
    # One after the other, and no port twice: nodes of one machine would take each other's.
    start "node-$number" --address="127.0.0.1:$port" --node-ip-address=127.0.0.1 --num-cpus="$cpus" \
      --dashboard-agent-listen-port=$((agent + number))
    wait_for $((number + 1))
  done
  echo "export RAY_ADDRESS=127.0.0.1:$port RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token"
}

wait_for() { # COUNT: until that many nodes are alive
  for _ in $(seq 120); do
    if [ "$(alive)" -ge "$1" ]; then return; fi
    for file in "$folder"/*.pid; do
      kill -0 "$(cat "$file")" 2>/dev/null || { tail -5 "${file%.pid}.log" >&2; down; exit 1; }
    done
    sleep 1
  done
  echo "error: $1 nodes did not come up in two minutes; see $folder/*.log" >&2
  down
  exit 1
}

alive() {
  "$ray" status --address="127.0.0.1:$port" 2>/dev/null | grep -c '^ 1 node_' || true
}

down() {
  local file
  # The head last: a node that finds it gone takes a minute to give up.
  for file in "$folder"/node-*.pid "$folder"/head.pid; do
    [ -e "$file" ] || continue
    stop "$(cat "$file")"
    rm -f "$file"
  done
  rm -rf "${folder:?}/ray" "$folder/token"
}

stop() { # PROCESS: a node ends its own processes when it gets the signal; give it the time
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 150); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$1" 2>/dev/null || true
}

case "${1:-}" in
  up) shift; up "$@" ;;
  down) down ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
