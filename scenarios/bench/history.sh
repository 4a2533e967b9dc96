#!/usr/bin/env bash
# The results of this folder by commit, oldest first: what each commit wrote into speed.txt and into instructions/.
# Usage: history.sh > history.md, in a clone with its history.
set -euo pipefail
cd "$(dirname "$0")"
echo '# Results by commit'
echo
echo 'Made by `history.sh` from what each commit wrote into `speed.txt` and `instructions/`. Instructions do not depend on how busy the machine was, seconds do: where a line has a `median s`, it is that of its runs, of which the line is the quickest.'
git log --reverse --format='%h %cs %s' -- speed.txt instructions | while read -r commit date subject; do
  printf '\n## %s, %s: %s\n' "$commit" "$date" "$subject"
  git diff-tree -r --root --name-only --no-commit-id --diff-filter=AM "$commit" -- speed.txt instructions | while read -r file; do
    name="$(basename "$file")"
    echo
    if [ "$name" = speed.txt ]; then
      git show "$commit:./speed.txt" | sed 's/^/    /'
    else
      git show "$commit:./instructions/$name" | awk -F'\t' -v rustc="${name%.txt}" '$2 == "(all)" { printf "    rustc %s  %-10s %10.1f million instructions\n", rustc, $1, $3 / 1e6 }'
    fi
  done
done
