#!/usr/bin/env bash
# How long do thirty scenarios take, run and compared with their baselines, on two cores?
# Usage: thirty.sh PROGRAM > thirty.txt, with the program of a release build. The scenarios are those of scenarios/regression, with
# ten times the seeds, each under as many names as it takes to be thirty.
set -euo pipefail
program="$(realpath "${1:?usage: thirty.sh PROGRAM}")"
here="$(realpath "$(dirname "$0")/../regression")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir folder
cp "$here"/*.txt folder/
scenarios=()
for file in "$here"/*.toml; do
  case "$file" in *.baseline.toml | */regress.toml) ;; *) scenarios+=("$file") ;; esac
done
for ((i = 0; i < 30; i++)); do
  file="${scenarios[i % ${#scenarios[@]}]}"
  sed -E 's/^seeds = ([0-9]+)$/seeds = \10/' "$file" > "folder/$(basename "$file" .toml)-$((i / ${#scenarios[@]})).toml"
done
"$program" regress folder --update --threads 2 --commit first > /dev/null
echo "$("$program" --version), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs), two threads"
echo "scenarios: $(ls folder/*.baseline.toml | wc -l), runs: $(grep -h '^results' folder/*.baseline.toml | tr -cd '"' | wc -c | awk '{print $1 / 2}')"
TIMEFORMAT='wall %R s, processor %U s'
{ time "$program" regress folder --threads 2 --commit second > out; } 2>&1
grep 'All' out
