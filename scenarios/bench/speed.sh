#!/usr/bin/env bash
# How fast is the simulator on one core, with all metrics, tables and the report on?
# Usage: [RUNS=N] speed.sh PROGRAM [WORKLOAD...] > speed.txt, with the program of a release build. Needs GNU time. Where neighbours share
# the machine's memory, one program takes 20 s now and 30 s a minute later: a line is the quickest of N runs, and the median's and the slowest's seconds on
# the wall stand last. The runs of a workload's lines take turns, so that what is compared was measured in the same minutes.
#
# An event is something that happened to a request, an adapter or a batch: an offer, a route, an end, a stretch of steps, a load, an
# eviction, a preemption, a migration. Bytes are the peak of the process over its requests.
#
# Memory is taken in huge pages, as `GLIBC_TUNABLES` asks the C library to; one that is set already stays. Fleets of thousands of replicas
# are looked at in turn, and with small pages the places of few of them are known to the processor.
set -euo pipefail
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1}"
program="$(realpath "${1:?usage: speed.sh PROGRAM [WORKLOAD...]}")"
shift
cd "$(dirname "$0")"
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
runs="${RUNS:-1}"
# The first value of /proc/cpuinfo under this name, if there is one.
of_processor() { grep -m1 "^$1" /proc/cpuinfo | cut -d: -f2- | xargs || true; }
# A virtual machine may know a name without a number, which is that of many processors.
processor="$(of_processor 'model name')"
case "$processor" in
  *[0-9]*) ;;
  *) processor="${processor:-processor} (family $(of_processor 'cpu family'), model $(of_processor 'model[[:space:]]*:'), $(of_processor 'cpu MHz') MHz, cache of $(of_processor 'cache size'))" ;;
esac
echo "$("$program" --version), $processor, one thread, $(date -u +%Y-%m-%d)," \
  "$(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), ${GLIBC_TUNABLES:-no tunables}, the quickest of $runs"
printf '%-42s %9s %7s %7s %7s %6s %8s %11s %11s %9s %9s %9s %9s\n' \
  run requests 'wall s' 'proc s' 'loop s' MB 'us/req' 'requests/s' 'steps/s' 'ns/event' 'bytes/req' 'median s' 'slowest s'
measure() { # what, arguments of aril run
  local what="$1"
  shift
  local field times="$out/times of ${what//[^a-zA-Z0-9]/-}"
  /usr/bin/time -o "$out/time" -f '%e %U %S %M' "$program" run "$@" --threads 1 --quiet --force --out "$out/run" > "$out/text"
  echo "$(cat "$out/time") $(grep -h loop_seconds "$out"/run/runs/*/*/manifest.toml | head -1 | grep -o '[0-9.]*$')" >> "$times"
  [ "$turn" = "$runs" ] || return 0
  field() { grep -o "\"$1\":[0-9][0-9]*" "$out/runs.json" | sed -n '1s/.*://p'; }
  # The metrics of the one run.
  sed 's/.*"runs":\[//' "$out/run/summary.json" > "$out/runs.json"
  awk -v what="$what" -v requests="$(field offered)" -v steps="$(field steps)" -v stretches="$(field stretches)" -v loads="$(field loads)" \
    -v evictions="$(field evictions)" -v preemptions="$(field preemptions)" -v migrations="$(field migrations)" '{ wall[NR] = $1 } NR == 1 {
      quickest = $1
      processor = $2 + $3
      events = 3 * requests + stretches + loads + evictions + preemptions + migrations
      loop = $5
      kilobytes = $4
    } END {
      median = (wall[int((NR + 1) / 2)] + wall[int(NR / 2) + 1]) / 2
      printf "%-42s %9d %7.2f %7.2f %7.2f %6.0f %8.2f %11.0f %11.0f %9.0f %9.0f %9.2f %9.2f\n", what, requests, quickest, processor, loop, kilobytes / 1000,
        processor * 1e6 / requests, requests / processor, steps / processor, processor * 1e9 / events, kilobytes * 1000 / requests, median, wall[NR]
    }' <(sort -n "$times")
}
fleet() { # GPUs, requests
  measure "$1 GPUs" locality.toml --set "pool.a100-80gb.replicas=$1" --set "traffic.arrivals.poisson.rate=$(($1 * 8 / 10)).0" \
    --set "traffic.window.duration=\"$(($2 * 10 / $1 / 8))s\""
}
adapters() { # adapters
  measure "100 GPUs, adapters: $1" locality.toml --set pool.a100-80gb.replicas=100 --set traffic.arrivals.poisson.rate=80.0 \
    --set 'traffic.window.duration="3600s"' --set "traffic.popularity.working-set.adapters=$1" \
    --set "traffic.popularity.working-set.tenants=$((($1 + 3) / 4))"
}
workloads=("$@")
[ $# -gt 0 ] || workloads=(hour vidur fleets adapters ten-thousand-adapters thousand)
turns() { # workload
  case "$1" in
    hour)
      for policy in punica-paper punica-consolidate least-loaded; do
        measure "the cluster hour, $policy" ../punica/cluster.toml --seeds 1 --policy "$policy"
      done ;;
    vidur) measure "Vidur's 16 replicas" ../vidur/sixteen.toml ;;
    fleets) for gpus in 10 100 1000 10000; do fleet "$gpus" 288000; done ;;
    adapters) for count in 1 100 10000 49999 64000; do adapters "$count"; done ;;
    ten-thousand-adapters) measure '1,000 GPUs, one hour, 10,000 adapters' thousand.toml ;;
    thousand) measure '1,000 GPUs, one hour, 64,000 adapters' locality.toml ;;
    ten-thousand)
      measure '10,000 GPUs, one hour, 64,000 adapters' locality.toml --set pool.a100-80gb.replicas=10000 --set traffic.arrivals.poisson.rate=8000.0 ;;
    *) echo "no workload $1" >&2; exit 2 ;;
  esac
}
for workload in "${workloads[@]}"; do
  for turn in $(seq "$runs"); do turns "$workload"; done
done
