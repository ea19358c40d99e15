#!/bin/sh
# inference-lab 1.0.0 and lenaware on the same requests, with the same step times.
#
#   sh tests/peers/inference_lab/run.sh AzureLLMInferenceTrace_conv_2023.csv FOLDER [lenaware]
#
# A 7B on one A100 by roofline, 256 rows, 2,048 tokens an iteration, blocks of 16. Two amounts of
# memory: one that nobody is displaced in, where both must agree to the digit, and 120,000 tokens,
# where they differ by what they do when it runs out (inference-lab admits a prompt by its next
# chunk, lenaware by the whole of it). Builds the peer's driver in FOLDER, a few minutes.
set -eu
trace=$1
out=$2
program=${3:-lenaware}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
python3 "$here/make_requests.py" "$trace" "$out"
[ -x "$out/target/release/driver" ] ||
    cargo build --release --manifest-path "$here/Cargo.toml" --target-dir "$out/target"
# 960,000 and 120,000 tokens of 524,288 bytes.
sed 's/62914560000/503316480000/' "$here/linear.toml" >"$out/roomy.toml"
cp "$here/linear.toml" "$out/tight.toml"
cp "$here/step-time.toml" "$out/step-time.toml"
for requests in trace many; do
    rm -f "$out/$requests.parquet"
    "$program" import --from azure --lengths "$out/$requests.csv" --out "$out/$requests.parquet" >/dev/null
    for room in roomy tight; do
        for policy in fcfs sjf; do
            echo "== $requests, $room, $policy"
            "$out/target/release/driver" "$out/$room.toml" "$out/$requests.csv" "$policy"
        done
        tokens=120000
        [ $room = roomy ] && tokens=960000
        cat >"$out/$requests-$room.toml" <<END
[experiment]
name = "$requests-$room"
seeds = [1]
[workload]
dataset = "$out/$requests.parquet"
split = "all"
served = 0.0
arrivals = { kind = "recorded", speed = 1.0 }
[executor]
step_time = "$out/step-time.toml"
[defaults]
predictor = "oracle"
kv_tokens = $tokens
watermark = 0.0
max_new_tokens = 2048
[[arm]]
name = "fcfs"
[[arm]]
name = "sjf"
policy = "sjf"
END
        echo "== $requests, $room, lenaware, both"
        begun=$(date +%s.%N)
        "$program" --json ablate --config "$out/$requests-$room.toml" --results "$out/results" >"$out/lenaware.json"
        python3 - "$out/lenaware.json" "$begun" <<'END'
import json, sys, time
took = time.time() - float(sys.argv[2])
for arm in json.load(open(sys.argv[1]))["arms"]:
    of = lambda path: arm["figures"][path]["mean"]
    print(arm["name"], f'completed {of("completed"):.0f} makespan_s {of("makespan_s"):.3f} ttft_mean_s {of("ttft_s.mean"):.6f} e2e_mean_s {of("e2e_s.mean"):.6f} preemptions {of("preemptions"):.0f}')
print(f"command_wall_s {took:.2f} (both policies, page and figures)")
END
    done
done
