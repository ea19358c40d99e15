#!/usr/bin/env bash
# Checks, then times, a built binary on a machine with an NVIDIA card. Builds nothing.
#
#   scripts/measure-on-gpu.sh BINARY OUT [STEP...]
#
# Steps, in this order where several are given (`check`, `profile` and `peer` by default):
#   sanitize     the small check once more under compute-sanitizer, where it is installed
#   check        logits on the card beside the CPU's, rows in a batch beside rows alone
#   profile      step times over rows and positions, whole generations, the memory floor
#   peer         Hugging Face transformers on the same shape (needs torch and transformers)
#   arms         ablate --config $EXPERIMENT, in the folder $DATA
#   tuning       LoRA tuning of 7B, dense and quantized, beside PEFT (a binary with the feature
#                cuda-training; needs torch, transformers and peft)
# Libraries are taken from LD_LIBRARY_PATH, and from the nvidia-* Python packages if there are any.
set -uo pipefail
binary=$(realpath "$1")
out=$(realpath "$2")
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
steps=${*:-check profile peer}
site=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)
if [ -n "$site" ]; then
    for folder in "$site"/*/lib; do LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$folder; done
    export LD_LIBRARY_PATH
fi
mkdir -p "$out"
failed=0

step() {
    case " $steps " in *" $1 "*) ;; *) return 1 ;; esac
    echo "== $1, $(date -u +%H:%M:%S)"
}
run() {
    local log=$1
    shift
    "$@" 2>&1 | tee -a "$out/$log" || { echo "FAILED: $*"; failed=1; }
}

nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version,clocks.sm,clocks.mem,temperature.gpu \
    --format=csv 2>/dev/null | tee "$out/card.csv"
if step sanitize && command -v compute-sanitizer >/dev/null; then
    run sanitize.log compute-sanitizer --error-exitcode 9 "$binary" --device cuda doctor --shapes tiny
fi
if step check; then
    run check.log "$binary" --device cuda doctor --shapes tiny,smollm2-135m
fi
if step profile; then
    run profile.log "$binary" -q --device cuda profile --random-weights llama-7b \
        --rows "${ROWS:-1,2,3,4,5,8,16,32,64,128}" --positions 512 --generate 128 --out "$out/card.toml"
    # More rows than 512 positions of keys and values leave room for.
    run profile.log "$binary" -q --device cuda profile --random-weights llama-7b \
        --rows 256 --positions 330 --generate 128 --out "$out/card-256.toml"
fi
if step peer; then
    run peer.log python3 "$here/tests/peers/gpu_transformers.py" --budget "${PEER_BUDGET:-240}" --out "$out/peer.jsonl"
fi
if step arms; then
    (cd "${DATA:-.}" && run arms.log "$binary" --device cuda ablate --config "$EXPERIMENT" --results "$out/runs")
fi
if step tuning; then
    for frozen in dense q8_0 q4_k; do
        # The card's memory while it runs; the last column's largest counts.
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=500 \
            >"$out/memory-$frozen.csv" 2>/dev/null &
        watcher=$!
        run tuning.log "$binary" --device cuda profile --random-weights llama-7b --dtype bf16 \
            --frozen-weights $frozen --tuning "${STEPS:-8}" --tokens 128
        kill $watcher 2>/dev/null
        echo "$frozen: at most $(sort -n "$out/memory-$frozen.csv" | tail -1) MiB of the card" |
            tee -a "$out/tuning.log"
    done
    for checkpointing in "" --checkpointing; do
        # shellcheck disable=SC2086
        run peer.log python3 "$here/tests/peers/gpu_peft.py" --steps "${STEPS:-8}" --tokens 128 \
            $checkpointing --out "$out/peft.jsonl"
    done
fi
exit $failed
