#!/bin/sh
# Everything about the LoRA kernels that needs a GPU, in one go: `kernels/ci/gpu.sh BENCH OUT`.
# BENCH is the built example `bench_lora`, OUT a folder for the results. Needs compute-sanitizer
# on the path for the second half; prints what it skips.
set -u
bench=$1
out=$2
failed=0
"$bench" --points all --out "$out/lora.json" > "$out/lora.log" 2>&1 || failed=1
tail -1 "$out/lora.log"
if ! command -v compute-sanitizer > /dev/null; then
  echo "compute-sanitizer is not here: memory and race checks are skipped"
  exit $failed
fi
# A shape for each path: clusters, global exchange, several row tiles, odd ranks, one block a segment.
for tool in memcheck synccheck racecheck; do
  for point in "4096→4096 r16 16 identical" "1536→8960 r64 64 uniform" "40 segments" "r32 1000 prefill"; do
    if timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bench" --check-only --points all \
      --only "$point" --out /dev/null > "$out/$tool.log" 2>&1; then
      echo "$tool clean: $point"
    else
      code=$?
      tail -3 "$out/$tool.log"
      echo "$tool exit $code (124: out of time): $point"
      [ $code -eq 124 ] || failed=1
    fi
  done
done
exit $failed
