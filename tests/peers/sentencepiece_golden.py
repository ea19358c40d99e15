"""Ids that Google's sentencepiece gives for texts of every kind, as JSON lines.

    python tests/peers/sentencepiece_golden.py tokenizer.model > golden.jsonl

Needs sentencepiece and protobuf. Texts with special tokens are cut at these, as transformers do:
`legacy` puts a space before every part, `modern` before the first only.
"""

import json
import re
import sys

import sentencepiece

PATH = sys.argv[1]
sp = sentencepiece.SentencePieceProcessor(model_file=PATH)
from sentencepiece import sentencepiece_model_pb2 as pb
proto = pb.ModelProto(); proto.ParseFromString(open(PATH, "rb").read())
proto.normalizer_spec.add_dummy_prefix = False
bare = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
plain = [
 "Hello world", "", " ", "  ", "   ", " Hello", "Hello ", "  Hello  world  ", "a", "\n", "\n\n", "\t", "\t\tx = 1\n", "line one\nline two\r\n",
 "Hello\n", " \n ", "a  b   c    d     e", "x" * 40, " " * 33 + "deep", "1234567890", "3.14159 2,000,000 1e-9", "0x1F 007", "ünïcödé", "naïve café", "e\u0301 vs é",
 "你好，世界", "こんにちは世界", "안녕하세요 세계", "Привет, мир!", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "🙂", "👩‍👩‍👧‍👦 family", "🇫🇷🇩🇪", "a🙂b🤖c", "\u200bzero width\u200b", "non\u00a0breaking", "\ufeffbom",
 "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += 1; }", "SELECT * FROM t WHERE a='b';", "{\"key\": [1, 2, {\"n\": null}]}", "<html><body>&nbsp;</body></html>", "https://example.org/a?b=c&d=%20e#f", "C:\\path\\to\\file.txt", "user@example.com", "$x^2 + y^2 = z^2$ \\frac{a}{b}",
 "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: Hi ASSISTANT:",
 "[INST] Write a haiku. [/INST]", "don't can't I'll we've", "ALLCAPS MixedCase snake_case kebab-case", "supercalifragilisticexpialidocious antidisestablishmentarianism", "!!!???...;;;---___", "“quotes” ‘single’ — dash – en … dots", "½ ⅓ ² ³ ℃ € £ ¥ ∑ ∞ ≠ →", "\u0000\u0001\u007f", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒸𝓊𝓇𝓈𝒾𝓋𝑒", "𠀀𠀁 rare", "aaaaaaa bbbbbbbb", "the the the the", "Ελληνικά κείμενα", "Tiếng Việt có dấu", "end with space then newline \n", "<0x0A> is text", "\u2581lower one eighth block",
 "You are a helpful assistant.\n\nUser: How many R's are in 'strawberry'?\n\nAssistant:",
]
special = ["<s>Hello world", "</s>", "a</s>b", "a </s> b", "<s>A chat USER: Hi ASSISTANT: Yes.</s>USER: More ASSISTANT:", "</s></s>", "<s> [INST] x [/INST] y </s><s>[INST] z [/INST]", "<unk> known <s", "line</s>\nnext", "<s>"]
SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2}
def split(text):
    return [p for p in re.split("(<unk>|<s>|</s>)", text) if p]
def legacy(text):
    return [i for p in split(text) for i in ([SPECIALS[p]] if p in SPECIALS else sp.encode(p))]
def modern(text):
    # The prefix belongs to the text: behind a leading <s>, and nowhere else.
    parts, ids, start = split(text), [], True
    for n, p in enumerate(parts):
        if p in SPECIALS:
            ids.append(SPECIALS[p]); start = start and n == 0 and p == "<s>"
        else:
            ids += (sp if start else bare).encode(p); start = False
    return ids
rows = [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in plain]
rows += [{"text": t, "legacy": legacy(t), "modern": modern(t)} for t in special]
for row in rows:
    print(json.dumps(row))
