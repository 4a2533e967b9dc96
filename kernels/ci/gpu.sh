#!/bin/sh
# Everything about the kernels that needs a GPU, in one go: `kernels/ci/gpu.sh BINARIES OUT [PART...]`.
# BINARIES is the folder of the built examples (target/release/examples), OUT a folder for results and logs.
# Parts: lora lora-counters attention baselines copies llama hugging-face sanitize; all of them if none is named. A part whose
# binary is not there is skipped and says so, as are compute-sanitizer and python where they are missing.
set -u
binaries=$1
out=$2
shift 2
parts=${*:-lora lora-counters attention baselines copies llama hugging-face sanitize}
here=$(dirname "$0")
mkdir -p "$out"
failed=0

# run NAME SECONDS COMMAND...: its last line, and whether it failed.
run() {
  name=$1
  seconds=$2
  shift 2
  if ! command -v "$1" > /dev/null; then
    echo "$name: $1 is not here: skipped"
    return
  fi
  timeout "$seconds" "$@" > "$out/$name.log" 2>&1
  code=$?
  echo "$name: exit $code (124: out of time): $(tail -n 1 "$out/$name.log")"
  [ $code -eq 0 ] || failed=1
}

for part in $parts; do
  case $part in
    lora) run lora 300 "$binaries/bench_lora" --points all --out "$out/lora.json" ;;
    lora-counters)
      # Of the points that miss a target, or nearly: what other plans give, and a profiler's counters of one launch each.
      # Then many launches of some, in changing surroundings, each compared to the bit.
      near="prefill|512 uniform|r16 16 identical|256 identical|64 uniform|1536→8960|3072→8192|2048→8192|5120→5120|r8 32|r5 32"
      run lora-tried 120 "$binaries/bench_lora" --points all --only "$near" --explore --out "$out/lora-tried.json"
      run lora-counters 120 ncu --csv --page raw --kernel-name regex:lora_ --clock-control none \
        --section LaunchStats --section Occupancy --section SpeedOfLight --section WarpStateStats \
        --section ComputeWorkloadAnalysis \
        "$binaries/bench_lora" --profile --points all --only "$near" --out "$out/lora-counters.json"
      mv "$out/lora-counters.log" "$out/lora-counters.csv"
      run lora-stress 60 "$binaries/bench_lora" --points all --only "prefill|256 identical|40 segments" --stress 2000 \
        --out "$out/lora-stress.json"
      ;;
    attention) run attention 120 "$binaries/bench_attention" --out "$out/attention.json" ;;
    baselines) run baselines 300 "$binaries/bench_baselines" --points all --out "$out/baselines.json" ;;
    copies) run copies 120 "$binaries/bench_copies" --out "$out/copies.json" ;;
    llama) run llama 300 "$binaries/bench_llama" check gemm step --out "$out/llama.json" ;;
    hugging-face) run hugging-face 120 python3 "$here/hf_check.py" "$binaries/bench_llama" "$out/hugging-face" ;;
    sanitize)
      # A batch for each path of the LoRA kernels: clusters, global exchange, several row tiles, odd ranks, one block a
      # segment; and whole steps of the tiny model, in which every kernel runs.
      for tool in memcheck synccheck racecheck; do
        for point in "4096→4096 r16 16 identical" "1536→8960 r64 64 uniform" "40 segments" "bf16 2048→8192 r16 32" \
          "r16 512 uniform" "bf16 4096→4096 r64 2048 prefill4x512"; do
          run "$tool-lora-$(echo "$point" | tr -cd 'a-z0-9')" 60 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$binaries/bench_lora" --check-only --points all --only "$point" --out /dev/null
        done
        # racecheck reports hazards inside cuBLAS's own kernels: it runs without them.
        own=
        [ $tool = racecheck ] && own=--own
        run "$tool-baselines" 120 compute-sanitizer --tool $tool --error-exitcode 9 "$binaries/bench_baselines" \
          --check-only $own --points all --only "4096→4096 r16 4 distinct" --out /dev/null
        # Sequences that are cut and not cut, groups of queries, and parts that are added up in two levels.
        for point in "decode bf16 8/2×128 ragged" "decode fp16 8/1×64 one long" "prefill bf16 8/2×128 ragged"; do
          run "$tool-attention-$(echo "$point" | tr -cd 'a-z0-9')" 60 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$binaries/bench_attention" --check-only --only "$point" --out /dev/null
        done
        run "$tool-llama" 120 compute-sanitizer --tool $tool --error-exitcode 9 \
          "$binaries/bench_llama" check --quick --out /dev/null
      done
      ;;
    *)
      echo "unknown part $part; see the head of $0"
      failed=1
      ;;
  esac
done
exit $failed
