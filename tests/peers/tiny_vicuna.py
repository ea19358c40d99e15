"""Writes tests/fixtures/tiny-vicuna: a small random model in exactly the files and settings of
lmsys/vicuna-7b-v1.5 (PyTorch shards in f16 with their index, SentencePiece `tokenizer.model`,
Llama 2's rotary embedding and context), and what transformers computes with it.

    python tests/peers/tiny_vicuna.py          (needs torch, transformers and sentencepiece)

`golden.jsonl` has for each instruction the prompt of FastChat's vicuna_v1.1, its ids, the logits
after it (every 8th) and eight greedy tokens; once more under the settings of
lmsys/vicuna-7b-v1.5-16k, whose positions are a quarter as far apart.
"""

import json
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaForCausalLM

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "tests/fixtures/tiny-vicuna"
HIDDEN, INNER, VOCAB, LAYERS, HEADS = 32, 96, 400, 3, 2
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
INSTRUCTIONS = ["Say hi.", "Name three primary colors.", "Was ist 2 + 2?\n\tRechne vor.", "x" * 90]


def weights():
    torch.manual_seed(7)
    matrix = lambda out, inn: (torch.randn(out, inn) / inn**0.5).half()
    norm = lambda: (1 + 0.2 * torch.randn(HIDDEN)).half()
    yield "model.embed_tokens.weight", torch.randn(VOCAB, HIDDEN).half()
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name in "qkvo":
            yield f"{at}self_attn.{name}_proj.weight", matrix(HIDDEN, HIDDEN)
        yield at + "mlp.gate_proj.weight", matrix(INNER, HIDDEN)
        yield at + "mlp.up_proj.weight", matrix(INNER, HIDDEN)
        yield at + "mlp.down_proj.weight", matrix(HIDDEN, INNER)
        yield at + "input_layernorm.weight", norm()
        yield at + "post_attention_layernorm.weight", norm()
        yield at + "self_attn.rotary_emb.inv_freq", 1.0 / 10000 ** (torch.arange(0, 16, 2) / 16)
    yield "model.norm.weight", norm()
    yield "lm_head.weight", (8 * torch.randn(VOCAB, HIDDEN) / HIDDEN**0.5).half()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests/fixtures/tiny-torch/tokenizer.model", OUT)
    shards = [OrderedDict(), OrderedDict()]
    for name, tensor in weights():
        shards[int("layers.2" in name or name in ("model.norm.weight", "lm_head.weight"))][name] = tensor
    index = {"metadata": {"total_size": sum(t.nbytes for s in shards for t in s.values())}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save(shard, OUT / file)
        index["weight_map"] |= dict.fromkeys(shard, file)
    write = lambda name, content: (OUT / name).write_text(json.dumps(content, indent=2) + "\n")
    write("pytorch_model.bin.index.json", index)
    config = {
        "_name_or_path": "vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02,
        "intermediate_size": INNER, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": HEADS,
        "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0",
        "use_cache": True, "vocab_size": VOCAB,
    }
    write("config.json", config)
    write("generation_config.json", {
        "_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "max_length": 4096,
        "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6, "transformers_version": "4.31.0",
    })
    token = lambda content: {
        "__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False,
    }
    write("tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": token("<s>"), "clean_up_tokenization_spaces": False,
        "eos_token": token("</s>"), "legacy": False, "model_max_length": 4096, "pad_token": None,
        "padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", "unk_token": token("<unk>"),
    })
    write("special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"})

    spm = sentencepiece.SentencePieceProcessor(str(OUT / "tokenizer.model"))
    longer = config | {"max_position_embeddings": 4096, "rope_scaling": {"factor": 4.0, "type": "linear"}}
    with (OUT / "golden.jsonl").open("w") as golden:
        for settings in [config, longer]:
            with tempfile.TemporaryDirectory() as folder:
                for file in OUT.glob("pytorch_model*"):
                    shutil.copy(file, folder)
                (Path(folder) / "config.json").write_text(json.dumps(settings))
                model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            for instruction in INSTRUCTIONS:
                prompt = f"{SYSTEM} USER: {instruction} ASSISTANT:"
                ids = [1] + spm.encode(prompt)
                with torch.no_grad():
                    logits = model(torch.tensor([ids])).logits[0, -1]
                    greedy = model.generate(
                        torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
                    )[0, len(ids) :]
                golden.write(json.dumps({
                    "rope_scaling": settings["rope_scaling"], "instruction": instruction, "prompt": prompt, "ids": ids,
                    "logits": [round(v, 5) for v in logits[::8].tolist()], "greedy": greedy.tolist(),
                }) + "\n")


main()
