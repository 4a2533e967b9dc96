#!/bin/sh
# Everything about the kernels that needs a GPU: `kernels/ci/gpu.sh BINARIES OUT [PART...]`.
# BINARIES is the folder of the built examples (target/release/examples), OUT a folder for results and logs. Parts:
#   checks     every kernel against float64, both code paths; a tiny model in all ways, and against transformers and peft
#   sanitize   memcheck, synccheck and racecheck
#   lora attention baselines copies llama      measurements, each with its checks
#   lora-counters      a profiler's counters of the points that miss a target, other plans for them, and stress
# Without a part: checks and sanitize. OUT/checks.log names the kernels that each binary holds, and has a line for each command:
# what it gave and how long it took.
#
# A command whose binary or tool is not there is skipped, says so, and fails the whole run. Left out, with a line and counted in
# the last one, is only what is known not to be everywhere or not to be judged rightly: Hugging Face without torch,
# transformers and peft; what racecheck and synccheck of CUDA 13.0 take for wrong (below).
set -u
binaries=$1
out=$2
shift 2
parts=${*:-checks sanitize}
here=$(dirname "$0")
mkdir -p "$out"
log=$out/checks.log
commands=0
failed=0
skipped=0
left_out=0
began=$(date +%s)

# say TEXT...: a line of the log.
say() {
  echo "$*" | tee -a "$log"
}

: > "$log"
say "kernels/ci/gpu.sh $parts, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
say "$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>&1)"
for binary in "$binaries"/bench_*; do
  case ${binary##*/} in
    *-* | *.*) ;;
    *) [ -x "$binary" ] && say "${binary##*/}: $("$binary" --source-hash 2>&1 | tail -n 1)" ;;
  esac
done

# run NAME SECONDS COMMAND...: a line of the log, and whether it failed. The line holds what `summary` says.
run() {
  name=$1
  seconds=$2
  shift 2
  for needed in "$1" "$@"; do
    case $needed in
      "$1" | "$binaries"/*)
        if ! command -v "$needed" > /dev/null; then
          skipped=$((skipped + 1))
          say "$name: $needed is not here: skipped"
          return
        fi
        ;;
    esac
  done
  commands=$((commands + 1))
  start=$(date +%s)
  timeout -k 5 "$seconds" "$@" > "$out/$name.log" 2>&1
  code=$?
  says=$(summary "$name" | cut -c1-160)
  [ $code -eq 124 ] && says="out of time; $says"
  say "$name: exit $code, $(($(date +%s) - start)) s: $says"
  [ $code -eq 0 ] || failed=$((failed + 1))
}

# summary NAME: the last line of a command's output; of the profiler's, whose last line is a row of numbers, how many launches it
# counted.
summary() {
  case $1 in
    lora-counters) echo "$(counted) launches counted" ;;
    *) tail -n 1 "$out/$1.log" ;;
  esac
}
counted() {
  grep -c '^"[0-9]' "$out/lora-counters.log"
}

# leave_out NAME WHY
leave_out() {
  left_out=$((left_out + 1))
  say "$1: left out: $2"
}

# sanitized TOOL NAME SECONDS BINARY ARGUMENTS...
sanitized() {
  tool=$1
  name=$2
  seconds=$3
  shift 3
  run "$tool-$name" "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 "$@"
}

# Whether synccheck judges barriers in clusters of 16 rightly: CUDA 13.0's does not, not even in a kernel whose blocks know
# nothing of each other. cluster_barrier.cu beside this is that kernel, in clusters of 8 and of 16; what the tool says of each is
# in OUT/synccheck-clusters.log.
large_clusters_are_judged() {
  for needed in nvcc compute-sanitizer; do
    if ! command -v $needed > /dev/null; then
      skipped=$((skipped + 1))
      say "synccheck-clusters: $needed is not here: skipped"
      return 1
    fi
  done
  if ! nvcc -gencode=arch=compute_90a,code=sm_90a -o "$out/cluster_barrier" "$here/cluster_barrier.cu" \
    > "$out/synccheck-clusters.log" 2>&1; then
    failed=$((failed + 1))
    say "synccheck-clusters: nvcc failed: $(tail -n 1 "$out/synccheck-clusters.log" | cut -c1-160)"
    return 1
  fi
  judged=0
  : > "$out/synccheck-clusters.log"
  for mode in alone store; do
    for blocks in 8 16; do
      echo "clusters of $blocks, $mode:" >> "$out/synccheck-clusters.log"
      "$out/cluster_barrier" $blocks $mode >> "$out/synccheck-clusters.log" 2>&1
      timeout 20 compute-sanitizer --tool synccheck --error-exitcode 9 --show-backtrace no "$out/cluster_barrier" $blocks $mode \
        >> "$out/synccheck-clusters.log" 2>&1
      code=$?
      say "synccheck-cluster-$blocks-$mode: exit $code, of a kernel that is right"
      [ $code -eq 0 ] || judged=1
    done
  done
  rm "$out/cluster_barrier"
  return $judged
}

for part in $parts; do
  case $part in
    checks)
      run check-lora 200 "$binaries/bench_lora" --check-only --points all --out "$out/check-lora.json"
      run check-lora-ends 60 "$binaries/bench_lora" --ends
      run check-attention 120 "$binaries/bench_attention" --check-only --out "$out/check-attention.json"
      run check-baselines 120 "$binaries/bench_baselines" --check-only --points all --out "$out/check-baselines.json"
      run check-gemm 90 "$binaries/bench_llama" gemm --check-only --out "$out/check-gemm.json"
      run check-kernels 120 "$binaries/bench_llama" kernels --out "$out/check-kernels.json"
      run check-llama 90 "$binaries/bench_llama" check --out "$out/check-llama.json"
      if python3 -c 'import torch, transformers, peft' > "$out/hugging-face.log" 2>&1; then
        run hugging-face 90 python3 "$here/hf_check.py" "$binaries/bench_llama" "$out/hugging-face"
        rm -rf "$out/hugging-face"
      else
        leave_out hugging-face "python3 with torch, transformers and peft is not here: $(summary hugging-face | cut -c1-80)"
      fi
      ;;
    sanitize)
      for tool in memcheck synccheck racecheck; do
        # A batch for each path of the LoRA kernels: clusters in one hop and in two, global exchange, several row tiles, odd
        # ranks, one block a segment; ranks that differ in one plan, of single rows and of a prompt beside them, whose groups
        # have different numbers of members.
        for point in "4096→4096 r16 16 identical" "1536→8960 r64 64 uniform" "bf16 4096→14336 r64 64 uniform" "40 segments" \
          "bf16 2048→8192 r16 32" "r32 1000 prefill" "r16 512 uniform" \
          "bf16 4096→4096 r64 2048 prefill4x512" "bf16 4096→4096 30 rows of ranks" \
          "bf16 4096→4096 512r64 beside"; do
          name=lora-$(echo "$point" | tr -cd 'a-z0-9')
          if [ $tool = synccheck ] && [ "$point" = "bf16 4096→14336 r64 64 uniform" ] && ! large_clusters_are_judged; then
            leave_out "synccheck-$name" "clusters of 16, which it is not known to judge rightly"
            continue
          fi
          # Racecheck of CUDA 13.0 holds warps that wait for their cluster until all warps of the block do: those that copy would
          # wait for a ring that nobody empties. Two members whose ring the shrink empties are below.
          if [ $tool = racecheck ] && [ "$point" = "bf16 4096→4096 r64 2048 prefill4x512" ]; then
            leave_out "racecheck-$name" "it never ends with warps that wait for their cluster; 1536→1536 is in its place"
            continue
          fi
          sanitized $tool "$name" 90 \
            "$binaries/bench_lora" --check-only --points all --only "$point" --out /dev/null
        done
        # Warpgroups without a cluster, in clusters of six and of two, and several sets of members that share the outputs.
        for point in "4096→4096 r128 1024 prefill2x512" "4096→4096 r64 512 prefill1x512" "1536→1536 r64 2048 prefill4x512" \
          "5120→13824 r16 1 distinct"; do
          sanitized $tool "lora-$(echo "$point" | tr -cd 'a-z0-9')" 60 \
            "$binaries/bench_lora" --check-only --points neighbours --only "$point" --out /dev/null
        done
        # racecheck reports hazards inside cuBLAS's own kernels: it runs without them.
        own=
        [ $tool = racecheck ] && own=--own
        sanitized $tool baselines 60 \
          "$binaries/bench_baselines" --check-only $own --points all --only "4096→4096 r16 4 distinct" --out /dev/null
        # Sequences that are cut and not cut, groups of queries, and parts that are added up in two levels.
        for point in "decode bf16 8/2×128 ragged" "decode fp16 8/1×64 one long" "prefill bf16 8/2×128 ragged"; do
          sanitized $tool "attention-$(echo "$point" | tr -cd 'a-z0-9')" 60 \
            "$binaries/bench_attention" --check-only --only "$point" --out /dev/null
        done
        # Whole steps of the tiny model, prompts beside decodes, in which every kernel runs. No kernel filter: with one,
        # whichever kernel it names, racecheck of CUDA 13.0 ends such a step in an internal error and a hazard of its own.
        sanitized $tool llama 90 "$binaries/bench_llama" check --quick $own --out /dev/null
      done
      ;;
    lora) run lora 300 "$binaries/bench_lora" --points all --out "$out/lora.json" ;;
    lora-counters)
      # Of the points that miss a target, or nearly: what other plans give, and a profiler's counters of one launch each.
      # Then many launches of some, in changing surroundings, each compared to the bit.
      near="bf16 4096→4096 r64 2048 prefill|r32 1000 prefill|one prefill|512 uniform|256 identical|r64 64 uniform|1536→8960|bf16 3072→8192|bf16 2048→8192|bf16 5120→5120|r8 32|r5 32|r24 32|r100 16|r256 8|rows of ranks|40 segments|bf16 11008→4096|beside decode rows"
      # Within 5 % of a target on a card. report_lora's tests say which points that miss are not among these.
      near="$near|bf16 4096→14336 r16 32|bf16 8192→|bf16 4096→11008 r16 32|5120→13824|256 skewed|100 skewed|bf16 4096→4096 r16 1 distinct|bf16 4096→4096 r16 64 distinct|bf16 4096→4096 r16 128 distinct|bf16 4096→4096 r16 16 identical|bf16 4096→4096 r16 64 identical|bf16 4096→4096 r16 3 identical"
      run lora-tried 240 "$binaries/bench_lora" --points all --only "$near" --explore --after --out "$out/lora-tried.json"
      run lora-counters 240 ncu --csv --page raw --kernel-name regex:lora_ --clock-control none \
        --section LaunchStats --section Occupancy --section SpeedOfLight --section WarpStateStats \
        --section ComputeWorkloadAnalysis \
        "$binaries/bench_lora" --profile --points all --only "$near" --out "$out/lora-counters.json"
      if [ -e "$out/lora-counters.log" ]; then
        launched=$(grep -c '^{"blocks"' "$out/lora-counters.json")
        if [ "$(counted)" != "$launched" ]; then
          failed=$((failed + 1))
          say "lora-counters: $(counted) launches counted, but ${launched:-none} were made"
        fi
        # The profiler's own lines name the machine's folders.
        grep '^"' "$out/lora-counters.log" > "$out/lora-counters.csv"
        rm "$out/lora-counters.log"
      fi
      run lora-stress 90 "$binaries/bench_lora" --points all --only "prefill|256 identical|40 segments|4096→14336 r64 64 uniform|5120→5120|r256 8 distinct|beside decode rows" --stress 2000 \
        --out "$out/lora-stress.json"
      ;;
    attention) run attention 120 "$binaries/bench_attention" --out "$out/attention.json" ;;
    baselines) run baselines 300 "$binaries/bench_baselines" --points all --budget 240 --out "$out/baselines.json" ;;
    copies) run copies 120 "$binaries/bench_copies" --out "$out/copies.json" ;;
    llama) run llama 300 "$binaries/bench_llama" check gemm step --out "$out/llama.json" ;;
    *)
      failed=$((failed + 1))
      say "unknown part $part; see the head of $0"
      ;;
  esac
done
if [ $failed -gt 0 ]; then
  verdict="something failed"
elif [ $skipped -gt 0 ]; then
  verdict="something was skipped"
else
  verdict="nothing failed"
fi
say "all together: $(($(date +%s) - began)) s, $verdict: $commands commands ran, $failed failed, $skipped skipped, $left_out left out"
[ $((failed + skipped)) -eq 0 ]
