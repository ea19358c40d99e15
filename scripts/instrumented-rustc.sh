#!/bin/sh
# The compiler, with the counters that libFuzzer looks at: what cargo-fuzz passes, for this
# project's crates alone (RUSTC_WORKSPACE_WRAPPER). Build scripts run without libFuzzer.
rustc=$1
shift
case " $* " in *" --crate-name build_script_build "*) exec "$rustc" "$@" ;; esac
exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
