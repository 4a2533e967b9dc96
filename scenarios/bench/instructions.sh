#!/usr/bin/env bash
# Does a change make the simulator slower? Counts instructions under valgrind's callgrind: unlike seconds, they are the same on a busy
# machine. Fails if a workload needs more than 5 % beyond its baseline, and says which functions grew.
#
# Usage: instructions.sh PROGRAM            compare with the baseline of this toolchain
#        instructions.sh PROGRAM --update   write it
#
# A baseline holds for one compiler: instructions/VERSION.txt, of the one that rust-toolchain.toml pins. Where there is none, it fails.
set -euo pipefail
program="$(realpath "${1:?usage: instructions.sh PROGRAM [--update]}")"
update="${2:-}"
cd "$(dirname "$0")"
limit=5

for tool in valgrind callgrind_annotate; do
  command -v "$tool" > /dev/null || { echo "error: $tool is not there: install valgrind"; exit 4; }
done
version="$(rustc --version | cut -d' ' -f2)"
baseline="instructions/$version.txt"
if [ ! -s "$baseline" ] && [ "$update" != --update ]; then
  echo "error: no baseline for rustc $version, only for: $(cd instructions && echo *.txt)"
  echo "use the toolchain of rust-toolchain.toml, or write one with: scenarios/bench/instructions.sh PROGRAM --update"
  exit 1
fi
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

# What the counts are of: everything on, and small enough for valgrind.
workloads() {
  echo "vidur ../vidur/sixteen.toml --set traffic.requests=1000"
  echo "locality locality.toml --set pool.a100-80gb.replicas=20 --set traffic.arrivals.poisson.rate=16.0 --set traffic.window.duration=\"100s\" --set traffic.popularity.working-set.adapters=2000 --set traffic.popularity.working-set.tenants=500"
  for policy in least-kv dedicated affinity scorers ties; do
    echo "$policy fleet.toml --policy $policy --no-tables"
  done
}

count() { # name, arguments: "workload function instructions" for each function, and the total under the name "(all)"
  local name="$1"
  shift
  valgrind --tool=callgrind --callgrind-out-file="$out/$name" "$program" run "$@" --threads 1 --quiet --force --out "$out/run" \
    > "$out/log" 2>&1 || { cat "$out/log"; exit 4; }
  callgrind_annotate --threshold=100 "$out/$name" | awk -v name="$name" '
    /PROGRAM TOTALS/ { gsub(",", "", $1); print name "\t(all)\t" $1; next }
    /^ *[0-9][0-9,]* +\( *[0-9.]+%\)/ {
      count = $1; gsub(",", "", count)
      sub(/^ *[0-9,]+ +\( *[0-9.]+%\) +/, ""); sub(/ \[[^]]*\]$/, ""); sub(/^[^:]*:/, ""); sub(/'"'"'[0-9]+$/, "")
      gsub("\t", " "); sums[$0] += count
    }
    END { for (what in sums) if (sums[what] >= 100000) print name "\t" what "\t" sums[what] }'
}

workloads | while read -r name arguments; do
  # shellcheck disable=SC2086
  count "$name" $arguments
done | LC_ALL=C sort > "$out/found"

if [ "$update" = --update ]; then
  mkdir -p instructions
  cp "$out/found" "$baseline"
  echo "baseline of rustc $version written: $(awk -F'\t' '$2 == "(all)" { printf "%s %.0f million  ", $1, $3 / 1e6 }' "$baseline")"
  exit 0
fi
LC_ALL=C awk -F'\t' -v limit="$limit" '
  NR == FNR { before[$1 "\t" $2] = $3; next }
  { after[$1 "\t" $2] = $3 }
  END {
    failed = 0
    for (key in after) {
      split(key, part, "\t")
      if (part[2] != "(all)") continue
      if (!(key in before)) { printf "%s: not in the baseline\n", part[1]; failed = 1; continue }
      change = 100 * (after[key] / before[key] - 1)
      slower = change > limit
      failed = failed || slower
      printf "%-10s %8.1f million instructions, %+.2f %% of the baseline%s\n", part[1], after[key] / 1e6, change, slower ? ": SLOWER" : ""
      if (!slower) continue
      print "           what grew, in millions:"
      n = 0
      for (other in after) {
        split(other, its, "\t")
        if (its[1] == part[1] && its[2] != "(all)") { n++; names[n] = other; grown[n] = after[other] - before[other] }
      }
      for (shown = 0; shown < 12; shown++) {
        best = 0
        for (i = 1; i <= n; i++) if (grown[i] > 0 && (best == 0 || grown[i] > grown[best])) best = i
        if (best == 0) break
        split(names[best], its, "\t")
        printf "           %+9.2f  (from %.2f)  %s\n", grown[best] / 1e6, before[names[best]] / 1e6, its[2]
        grown[best] = 0
      }
    }
    exit failed
  }' "$baseline" "$out/found" || {
  echo "a change costs more than $limit %: make it cheaper, or, if it is worth it, write the baseline again and say why in the commit"
  exit 1
}
