# How many points of a log of bench_lora take longer than their target back to back, and the most that one does:
# awk [-v only='TEXT'] -f over.awk LOG, TEXT a pattern of the points that count; a line for each part of the log.
/^==/ { part = $2 }
/ pair .* target / && $0 ~ only {
  sub(/ target/, " goal")
  for (i = 1; i < NF; i++) { if ($i == "pair") pair = $(i + 1); if ($i == "goal") goal = $(i + 1) }
  count[part]++; over[part] += pair > goal; sum[part] += log(pair / goal)
  if (pair / goal > most[part]) most[part] = pair / goal
}
END {
  for (part in count)
    printf "%s: %d of %d over, up to %.2f times, geometric mean %.2f\n", part, over[part], count[part], most[part], exp(sum[part] / count[part])
}
