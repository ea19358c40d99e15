//! Good inputs that are no files of the project: the smallest that have everything in them.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lenaware::dataset::embedded::embedded;

const HEADS: usize = 2;
const DIM: usize = 32;

/// A Llama of one block: 2 heads of 16 on 1 key head, 4 tokens.
pub fn gguf(path: &Path) {
    let text = |s: &str| Value::String(s.into());
    let list = |v: &[&str]| Value::Array(v.iter().map(|s| text(s)).collect());
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(512)),
        ("llama.embedding_length", Value::U32(DIM as u32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(HEADS as u32)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", list(&["<s>", "i", "h", "hi"])),
        ("tokenizer.ggml.merges", list(&["h i"])),
        (
            "tokenizer.ggml.token_type",
            Value::Array([3, 1, 1, 1].map(Value::I32).to_vec()),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        (
            "tokenizer.chat_template",
            text("{{ bos_token }}{{ messages[0].content }}"),
        ),
    ];
    let tensor = |shape: &[usize], dtype| {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|i| (i % 7) as f32)
            .collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("has the shape");
        QTensor::quantize(&tensor, dtype).expect("can be quantized")
    };
    use GgmlDType::{BF16, F16, F32, Q4_0, Q8_0};
    let tensors = [
        ("token_embd.weight", tensor(&[4, DIM], Q8_0)),
        ("output_norm.weight", tensor(&[DIM], F32)),
        ("blk.0.attn_norm.weight", tensor(&[DIM], F32)),
        ("blk.0.attn_q.weight", tensor(&[DIM, DIM], F32)),
        ("blk.0.attn_k.weight", tensor(&[DIM / HEADS, DIM], F16)),
        ("blk.0.attn_v.weight", tensor(&[DIM / HEADS, DIM], BF16)),
        ("blk.0.attn_output.weight", tensor(&[DIM, DIM], Q4_0)),
        ("blk.0.ffn_norm.weight", tensor(&[DIM], F32)),
        ("blk.0.ffn_gate.weight", tensor(&[64, DIM], F16)),
        ("blk.0.ffn_up.weight", tensor(&[64, DIM], F16)),
        ("blk.0.ffn_down.weight", tensor(&[DIM, 64], F16)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(k, v)| (*k, v)).collect();
    let mut file = File::create(path).expect("can be written");
    gguf_file::write(&mut file, &metadata, &tensors).expect("can be written");
}

/// What [`crate::place::Place::seeds`] has no file for.
pub fn of(reader: &str) -> Vec<Vec<u8>> {
    let texts: &[&str] = match reader {
        "tokenizer-config" => &[
            r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>",
                "add_bos_token": true, "legacy": false, "model_max_length": 512,
                "added_tokens_decoder": {"1": {"content": "<s>", "special": true}},
                "chat_template": "{{ bos_token }}{{ messages[0]['content'] }}"}"#,
        ],
        "chat-template" => &[
            "{% for m in messages %}{{ m.role + ': ' + m['content'] | trim }}\n{% endfor %}\
             {% if add_generation_prompt %}{{ 'x' * 3 }}{% endif %}",
            "{% set ns = namespace(a='b') %}{% macro f(x, y=2) %}{{ x ~ y }}{% endmacro %}\
             {% for i in range(3) %}{% set ns.a = ns.a ~ f(i) %}{% endfor %}{{ ns.a.upper() \
             .replace('B', 'c').split('c') | join(',') | tojson }}{{ messages[0] | items | list }}",
        ],
        "predictions" => &[
            "{\"instruction_id\": \"a\", \"predicted_tokens\": 5, \"quantiles\": {\"0.9\": 90, \
             \"0.1\": 10}}\n{\"instruction_id\": \"b\", \"predicted_tokens\": 7.5, \
             \"unparsable\": true}\n",
        ],
        "instructions" => &[
            "{\"id\": 1, \"text\": \"Say hi.\", \"category\": \"c\", \"split\": \"train\"}\n\
             {\"id\": \"b\", \"instruction\": \"Why?\", \"input\": \"x\"}\n",
            r#"[{"id": "5", "conversations": [{"from": "human", "value": "q"}]}]"#,
            "id,instruction,input\n1,\"Say \"\"hi\"\", twice\",\n2,Why?,x\n",
            "id\ttext\n1\tSay hi.\n",
        ],
        "dataset" => {
            let mut dataset = embedded().expect("the embedded dataset");
            dataset.samples.truncate(6);
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("seed.parquet");
            dataset.write_parquet(&path).expect("can be written");
            return vec![std::fs::read(&path).expect("is there")];
        }
        "traces" => &[
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
             2023-11-16 18:15:50.9951690,396,109\n",
            "{\"timestamp\": 27482, \"input_length\": 6955, \"output_length\": 52, \"hash_ids\": \
             [46, 47]}\n{\"timestamp\": 30535, \"input_length\": 6472, \"output_length\": 26}\n",
            "model,user_prompt,actual_length,predicted_label\nvicuna-13b,hi,511,3\n",
        ],
        "lengths" => &[r#"[{"id": "5", "L_gt": 4, "L_t0.0": 1, "L_t0.7": 512}]"#],
        "experiment" => &[
            include_str!("../../experiments/table5.toml"),
            "[experiment]\nname = 'x'\nseeds = [1, 2]\n[defaults]\nscheduling = 'sorted'\n\
             [[arm]]\nname = 'a'\nbinning = 50\n[[sweep]]\narm = 'a'\ngroup_size = [64, 256]\n\
             fcr = ['off', 'recompute']\n",
        ],
        "endpoint" => &[
            r#"{"model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role":
                "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 3,
                "completion_tokens": 2}}"#,
            "HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\r\n\
             {\"error\": {\"message\": \"slow down\"}}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n",
        ],
        other => panic!("no seeds for {other}"),
    };
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}
