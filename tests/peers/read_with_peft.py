"""Reads what lenaware wrote with the libraries users have: a LoRA folder with PEFT, a length
dataset with pandas. Prints the lengths PEFT's model answers, to compare with `lenaware predict`.

    pip install torch transformers peft gguf accelerate pandas pyarrow
    python tests/peers/read_with_peft.py MODEL.gguf RUNS/LORA DATASET.parquet predictions.jsonl
"""

import json
import re
import sys

import pandas
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ASK = (
    "\nHow many tokens would your answer to the instruction above take? "
    "Reply with the number only."
)


def main(gguf, adapter, dataset, predictions):
    folder, name = gguf.rsplit("/", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    frame = pandas.read_parquet(dataset).drop_duplicates("instruction_id").set_index("instruction_id")
    different = 0
    lines = [json.loads(line) for line in open(predictions)]
    for line in lines:
        text = frame.loc[line["instruction_id"], "instruction"] + ASK
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt"
        )
        ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=8, do_sample=False)
        answer = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        number = re.search(r"\d+", answer)
        theirs = float(number.group()) if number else None
        ours = None if line["unparsable"] else line["predicted_tokens"]
        different += theirs != ours
        print(line["instruction_id"], "PEFT", theirs, "lenaware", ours)
    print(f"{different} of {len(lines)} differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
