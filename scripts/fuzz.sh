#!/usr/bin/env bash
# Looks for inputs that get the better of a reader of strangers' files (tests/hostile/readers.rs
# lists them; `all` takes one after the other), for so many seconds of processor time each:
#
#   bash scripts/fuzz.sh gguf 1800
#
# Needs a C++ compiler, for libFuzzer. Only this project's code is instrumented (by flags of the
# stable compiler), so dependencies are compiled once for everything. Inputs that were found
# interesting stay in target/fuzz/READER and are where the next run begins (the first begins with
# those of tests/fuzz/corpus.tar.xz), findings in target/fuzz/findings, and all runs so far are
# summed up in target/fuzz/READER.sum. LENAWARE_FUZZ names a program that was built before.
#
#   bash scripts/fuzz.sh keep
#
# packs what was found interesting, the fewest files that reach as much, for the next ones.
set -euo pipefail
cd "$(dirname "$0")/.."
readers=${1:?give a reader, or all}
seconds=${2:-60}

export RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/instrumented-rustc.sh"
[ -n "${LENAWARE_FUZZ:-}" ] || cargo build --release --locked --package lenaware-fuzz
program=${LENAWARE_FUZZ:-${CARGO_TARGET_DIR:-target}/release/lenaware-fuzz}
if [ "$readers" = all ] || [ "$readers" = keep ]; then
  readers=$(sed -n 's/^ *name: "\(.*\)",/\1/p' tests/hostile/readers.rs)
fi
if [ "${1:-}" = keep ]; then
  kept=$(mktemp -d)
  for reader in $readers; do
    mkdir "$kept/$reader"
    LENAWARE_READER=$reader "$program" -merge=1 -timeout=30 -max_len=262144 \
      "$kept/$reader" "target/fuzz/$reader" 2>"target/fuzz/$reader.log"
  done
  tar --sort=name --owner=0 --group=0 --mtime=@0 -C "$kept" -c $readers | xz -9e >tests/fuzz/corpus.tar.xz
  rm -r "$kept"
  exit
fi
found=0
TIMEFORMAT='%U %S'
for reader in $readers; do
  corpus=target/fuzz/$reader
  log=$corpus.log
  mkdir -p "$corpus" target/fuzz/findings
  rm -f "$corpus.found"
  [ ! -e tests/fuzz/corpus.tar.xz ] || [ -e "$corpus.sum" ] ||
    tar -C target/fuzz -xJf tests/fuzz/corpus.tar.xz "$reader"
  export LENAWARE_READER=$reader
  LENAWARE_SEEDS=$corpus "$program" 2>"$log"
  kept=tests/fixtures/hostile/$reader
  [ ! -d "$kept" ] || cp "$kept"/* "$corpus"/
  left=$seconds
  while [ "$left" -gt 0 ]; do
    # What an input may take is counted by the program itself; this limit is of the whole
    # process: its corpus, and the words that the tokenizer library keeps of every tokenizer until
    # the thread ends (a kilobyte for each that is read).
    { time "$program" "$corpus" -max_total_time="$left" -timeout=30 -rss_limit_mb=4096 \
      -max_len=262144 -print_final_stats=1 -artifact_prefix="target/fuzz/findings/$reader-" \
      >"$log" 2>&1 || touch "$corpus.found"; } 2>"$corpus.time"
    used=$(tail -n 1 "$corpus.time" | awk '{print int($1 + $2 + 1)}')
    left=$((left - used))
    awk -v used="$used" '/number_of_executed_units/ {runs = $2} / cov: / {cov = $0}
      END {sub(/.*cov: /, "", cov); sub(/ .*/, "", cov); print used, runs + 0, cov + 0}' \
      "$log" >>"$corpus.sum"
    if [ -e "$corpus.found" ]; then
      rm "$corpus.found"
      cp "$log" "target/fuzz/findings/$reader.log"
      echo "$reader: FOUND, see target/fuzz/findings/$reader.log"
      found=1
      break
    fi
  done
  awk -v reader="$reader" '{used += $1; runs += $2; cov = $3} END {
    printf "%s: %d inputs in %.1f minutes so far, %d places of the code reached\n",
    reader, runs, used / 60, cov}' "$corpus.sum"
done
exit $found
