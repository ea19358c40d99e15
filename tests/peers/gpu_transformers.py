"""Decoding speed of Hugging Face transformers on the shape of Llama-2-7B with random weights:
the peer of `lenaware profile --device cuda --random-weights llama-7b --generate N`.

    python3 tests/peers/gpu_transformers.py --rows 1,16,64,256 --new-tokens 128

Static batches through `generate`, bf16, sdpa attention, greedy, nothing ends early. `dynamic` is
what `generate` does by default; `static` preallocates the cache, for which transformers compiles
the decode step. Decode time is that of N new tokens less that of one, the median of --repeats.
Needs torch with CUDA and transformers.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig


def timed(model, prompt, new_tokens, mode):
    torch.cuda.synchronize()
    begun = time.perf_counter()
    extra = {"cache_implementation": "static"} if mode == "static" else {}
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        **extra,
    )
    torch.cuda.synchronize()
    assert out.shape[1] == prompt.shape[1] + new_tokens, out.shape
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="1,16,64,256")
    parser.add_argument("--modes", default="dynamic,static")
    parser.add_argument("--static-rows", default="1,16")
    parser.add_argument("--prompt", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1e9, help="start nothing after so many seconds")
    parser.add_argument("--out", help="JSON lines")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    torch.manual_seed(42)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.eval()
    model.generation_config.eos_token_id = None
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    for mode in arguments.modes.split(","):
        rows_list = arguments.static_rows if mode == "static" else arguments.rows
        for rows in map(int, rows_list.split(",")):
            if time.perf_counter() - begun > arguments.budget:
                print(f"{mode} {rows}: no time left", flush=True)
                continue
            prompt = torch.randint(0, 32000, (rows, arguments.prompt), device="cuda")
            try:
                with torch.inference_mode():
                    warm = timed(model, prompt, arguments.new_tokens, mode)
                    timed(model, prompt, 1, mode)
                    whole = [timed(model, prompt, arguments.new_tokens, mode) for _ in range(arguments.repeats)]
                    first = [timed(model, prompt, 1, mode) for _ in range(arguments.repeats)]
            except Exception as error:  # out of memory, or a compiler that is not there
                print(f"{mode} {rows}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                torch.cuda.empty_cache()
                continue
            decode = statistics.median(whole) - statistics.median(first)
            steps = arguments.new_tokens - 1
            record = {
                "peer": "transformers",
                "cache": mode,
                "rows": rows,
                "prompt_tokens": arguments.prompt,
                "new_tokens": arguments.new_tokens,
                "warm_up_s": warm,
                "first_token_s": statistics.median(first),
                "decode_ms_a_step": 1e3 * decode / steps,
                "decode_tokens_per_s": rows * steps / decode,
                "spread_s": max(whole) - min(whole),
            }
            print(
                f"{mode:8} rows {rows:4}  {record['decode_ms_a_step']:8.3f} ms a step  "
                f"{record['decode_tokens_per_s']:9.1f} tokens/s  first token {1e3 * record['first_token_s']:.1f} ms"
                f"  (warm-up {warm:.1f} s)",
                flush=True,
            )
            if arguments.out:
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(record) + "\n")


main()
