"""Trains a LoRA adapter with Hugging Face PEFT on the very batches that `cargo bench --bench
train` times, and prints examples a second.

    pip install torch transformers peft gguf accelerate
    cargo bench --bench train -- --only f32 --examples examples.json
    python tests/peers/train_peft.py MODEL.gguf examples.json [bf16|f32] [STEPS]
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

MICRO_BATCH, ACCUMULATION = 16, 2


def batch(examples):
    """Padded on the right; only targets are labelled."""
    longest = max(len(e["prompt"]) + len(e["target"]) for e in examples)
    ids, labels, mask = [], [], []
    for e in examples:
        tokens = e["prompt"] + e["target"]
        padding = longest - len(tokens)
        ids.append(tokens + [0] * padding)
        labels.append([-100] * len(e["prompt"]) + e["target"] + [-100] * padding)
        mask.append([1] * len(tokens) + [0] * padding)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}


def target_loss(model, batch):
    """The output head on the positions that are trained only: PEFT at its best here."""
    llama = model.base_model.model
    states = llama.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    labels = batch["labels"][:, 1:]
    wanted = labels != -100
    return torch.nn.functional.cross_entropy(llama.lm_head(states[:, :-1][wanted]).float(), labels[wanted])


def main(gguf, examples, dtype="bf16", steps="6"):
    folder, name = gguf.rsplit("/", 1)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    examples = json.load(open(examples))
    a_step = MICRO_BATCH * ACCUMULATION
    seconds = []
    for step in range(int(steps) + 1):
        first = step * a_step % len(examples)
        chosen = sorted(examples[first : first + a_step], key=lambda e: len(e["prompt"]))
        begun = time.perf_counter()
        total = 0.0
        for at in range(0, a_step, MICRO_BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = target_loss(model, batch(chosen[at : at + MICRO_BATCH])) / ACCUMULATION
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step:
            seconds.append(time.perf_counter() - begun)
        print(f"step {step}: loss {total:.4f}", file=sys.stderr)
    seconds.sort()
    print(
        f"{dtype}: {a_step / seconds[len(seconds) // 2]:.2f} examples/s (median of {len(seconds)}), "
        f"{a_step / seconds[-1]:.2f} to {a_step / seconds[0]:.2f}, "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
