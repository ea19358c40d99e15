"""Reads a `lora-head` folder with PEFT and predicts with PyTorch what `lenaware predict` does:
the adapter on the whole model, the state of the prompt's last token after the folder's depth,
the model's last norm, the head, the median, its calibration.

    pip install torch transformers peft gguf accelerate safetensors
    lenaware predict --predictor ./runs/lora-head --instructions in.jsonl > predictions.jsonl
    python tests/peers/lora_head_with_peft.py MODEL.gguf ./runs/lora-head in.jsonl predictions.jsonl
"""

import json
import sys

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

MEDIAN = 10  # of the 21 levels


def head(folder):
    with safe_open(f"{folder}/length_head.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["settings"])
        return settings, file.get_tensor("weights")


def median(settings, weights, state):
    shape = settings["shape"]
    x, at = state * shape["scale"], 0
    sizes = [shape["states"], shape["hidden"], shape["bins"]]
    sizes = [size for size in sizes if size > 0]
    for place, (rows, columns) in enumerate(zip(sizes[1:], sizes)):
        matrix = weights[at : at + rows * columns].view(rows, columns)
        at += rows * columns
        x = matrix @ x + weights[at : at + rows]
        at += rows
        if place + 2 < len(sizes):
            x = x.relu()
    below = 0.0
    for place, share in enumerate(x.softmax(0).tolist()):
        if below + share >= 0.5:
            root = (place + (0.5 - below) / share) * shape["longest"] ** 0.5 / shape["bins"]
            break
        below += share
    calibration = settings["calibration"]
    tokens = max(root**2, 1.0) * 2.718281828459045 ** calibration["shift"][MEDIAN]
    return min(max(tokens, 1.0), calibration["limit"])


def main(gguf, adapter, instructions, predictions):
    folder, name = gguf.rsplit("/", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    settings, weights = head(adapter)
    adapted = {
        int(name.split("layers.")[1].split(".")[0])
        for name, _ in model.named_parameters()
        if "lora_" in name
    }
    print(f"PEFT adapts blocks {min(adapted)} to {max(adapted)}; the head reads after", settings["depth"])
    assert max(adapted) < settings["depth"], "an adapter above what the head reads"
    norm = model.base_model.model.model.norm
    ours = {}
    for line in open(predictions):
        line = json.loads(line)
        ours[line["instruction_id"]] = line["predicted_tokens"]
    worst = 0.0
    for line in open(instructions):
        line = json.loads(line)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": line["text"]}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
        states = []
        block = model.base_model.model.model.layers[settings["depth"] - 1]
        hook = block.register_forward_hook(
            lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            model(ids)
        hook.remove()
        with torch.no_grad():
            theirs = median(settings, weights, norm(states[0][0, -1]))
        mine = ours[line["id"]]
        worst = max(worst, abs(theirs / mine - 1.0))
        print(line["id"], f"PEFT {theirs:.2f} lenaware {mine:.2f}")
    print(f"at most {100 * worst:.3f} % apart")
    # A folder that was trained in bf16 predicts in bf16.
    sys.exit(worst > (0.001 if settings["dtype"] == "f32" else 0.05))


if __name__ == "__main__":
    main(*sys.argv[1:])
