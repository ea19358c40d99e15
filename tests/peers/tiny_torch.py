"""Writes tests/fixtures/tiny-torch: a Llama of two blocks in PyTorch's own files, and a
SentencePiece vocabulary trained on the project's instructions.

    python tests/peers/tiny_torch.py          (needs torch and sentencepiece)

Element i of tensor number t is ((7 i + 13 t) mod 31 - 15) / 16, exact in every float type, so a
test knows all values. The shards hold all that torch.save may leave behind: three types, a
transposed view, views into one storage, a parameter, attributes of the table, integers.
"""

import json
from collections import OrderedDict
from pathlib import Path

import sentencepiece
import torch

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "tests/fixtures/tiny-torch"
HIDDEN, INNER, VOCAB, LAYERS = 16, 32, 400, 2


def shapes():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        for name, shape in [
            ("input_layernorm", (HIDDEN,)),
            ("self_attn.q_proj", (HIDDEN, HIDDEN)),
            ("self_attn.k_proj", (HIDDEN, HIDDEN)),
            ("self_attn.v_proj", (HIDDEN, HIDDEN)),
            ("self_attn.o_proj", (HIDDEN, HIDDEN)),
            ("post_attention_layernorm", (HIDDEN,)),
            ("mlp.gate_proj", (INNER, HIDDEN)),
            ("mlp.up_proj", (INNER, HIDDEN)),
            ("mlp.down_proj", (HIDDEN, INNER)),
        ]:
            yield f"model.layers.{i}.{name}.weight", shape


def values(number, shape):
    i = torch.arange(torch.Size(shape).numel())
    return (((7 * i + 13 * number) % 31 - 15) / 16).reshape(shape)


OUT.mkdir(parents=True, exist_ok=True)
first, second = OrderedDict(), OrderedDict()
for number, (name, shape) in enumerate(shapes()):
    value = values(number, shape)
    if "layers.1" not in name:
        first[name] = value.half()
    elif "mlp.down" in name:
        second[name] = value.t().contiguous().t()  # column after column
    elif "q_proj" in name:
        second[name] = torch.nn.Parameter(value.bfloat16())
    else:
        second[name] = value.bfloat16()
# k and v as views into one storage, behind something else.
at = "model.layers.1.self_attn."
whole = torch.cat([torch.ones(3, HIDDEN).bfloat16(), second[at + "k_proj.weight"], second[at + "v_proj.weight"]])
second[at + "k_proj.weight"], second[at + "v_proj.weight"] = whole[3 : 3 + HIDDEN], whole[3 + HIDDEN :]
second["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
second["step"] = torch.tensor([1, 2])
second["epoch"] = 7
first._metadata = OrderedDict([("", {"version": 1})])

index = {"metadata": {"total_size": 0}, "weight_map": {}}
for n, shard in enumerate([first, second], 1):
    file = f"pytorch_model-0000{n}-of-00002.bin"
    torch.save(shard, OUT / file)
    index["weight_map"] |= {name: file for name in shard if name not in ("step", "epoch")}
(OUT / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
    "intermediate_size": INNER, "vocab_size": VOCAB, "num_hidden_layers": LAYERS,
    "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "hidden_act": "silu",
}
(OUT / "config.json").write_text(json.dumps(config, indent=1) + "\n")

texts = [json.loads(line)["text"] for line in (ROOT / "datasets/instructions.jsonl").open()]
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(t for text in texts for t in text.split("\n")),
    model_prefix=str(OUT / "tokenizer"), vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
    allow_whitespace_only_pieces=True, character_coverage=0.98, hard_vocab_limit=True,
)
(OUT / "tokenizer.vocab").unlink()
