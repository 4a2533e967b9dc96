#!/usr/bin/env bash
# How fast is the simulator on one core, with all metrics, tables and the report on?
# Usage: speed.sh PROGRAM > speed.txt, with the program of a release build, on a quiet machine. Needs GNU time.
set -euo pipefail
program="$(realpath "${1:?usage: speed.sh PROGRAM}")"
cd "$(dirname "$0")/.."
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
echo "$("$program" --version), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs), one thread, $(date -u +%Y-%m-%d)"
printf '%-44s %8s %10s %8s %10s\n' 'run' 'wall s' 'processor s' 'MB' 'us/request'
measure() { # what, requests, arguments of aril run
  local what="$1" requests="$2"
  shift 2
  /usr/bin/time -o "$out/time" -f '%e %U %S %M' "$program" run "$@" --threads 1 --quiet --force --out "$out/run" > "$out/text"
  awk -v what="$what" -v requests="$requests" \
    '{ printf "%-44s %8.2f %10.2f %8.0f %10.1f\n", what, $1, $2 + $3, $4 / 1000, ($2 + $3) * 1e6 / requests }' "$out/time"
}
for policy in punica-paper punica-consolidate least-loaded; do
  measure "the cluster hour, $policy" 19682 punica/cluster.toml --seeds 1 --policy "$policy"
done
for gpus in 10 100 1000; do
  measure "$gpus GPUs, 288,000 requests" 288000 bench/thousand.toml --set "pool.a100-80gb.replicas=$gpus" \
    --set "traffic.arrivals.poisson.rate=$((gpus * 8 / 10)).0" --set "traffic.window.duration=\"$((360000 / gpus))s\""
done
measure '1,000 GPUs, one hour, 2.88 million requests' 2880000 bench/thousand.toml
