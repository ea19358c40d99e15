"""LoRA tuning speed of Hugging Face PEFT on the shape of Llama-2-7B with random weights: the peer
of `lenaware profile --device cuda --random-weights llama-7b --dtype bf16 --tuning N`.

    python3 tests/peers/gpu_peft.py --steps 8 --micro-batch-size 16 --tokens 128

The same adapter (rank 8 on q_proj and v_proj, dropout 0.05), AdamW, two micro-batches a step, the
output head on the three positions that are learnt, bf16 weights, sdpa attention; with
--checkpointing, blocks are computed again on the way back. Needs torch with CUDA, transformers
and peft.
"""

import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

TARGET = 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--micro-batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--out", help="JSON lines")
    arguments = parser.parse_args()
    torch.manual_seed(42)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5,
    )
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    if arguments.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    llama = model.base_model.model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    seconds = []
    for step in range(arguments.steps + 1):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(2):
            ids = torch.randint(0, 32000, (arguments.micro_batch_size, arguments.tokens), device="cuda")
            states = llama.model(input_ids=ids).last_hidden_state[:, -TARGET - 1 : -1]
            logits = llama.lm_head(states).float().flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, ids[:, -TARGET:].flatten()) / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        if step:
            seconds.append(time.perf_counter() - begun)
    a_step = 2 * arguments.micro_batch_size
    record = {
        "peer": "peft",
        "checkpointing": arguments.checkpointing,
        "tokens": arguments.tokens,
        "examples_per_s": a_step / statistics.median(seconds),
        "least": a_step / max(seconds),
        "most": a_step / min(seconds),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }
    print(json.dumps(record), flush=True)
    if arguments.out:
        with open(arguments.out, "a") as file:
            file.write(json.dumps(record) + "\n")


main()
