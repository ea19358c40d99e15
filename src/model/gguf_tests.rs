use super::*;
use crate::model::chat_template::ChatTemplate;
use crate::model::source::ModelFiles;
use crate::model::tokenizer::TextTokenizer;
use crate::model::weights::Checkpoint;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use proptest::prelude::*;

const HEADS: usize = 2;
const DIM: usize = 32;

/// A Llama of one block: 2 heads of 16 on 1 key head, 3 tokens.
fn small(edit: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> Vec<u8> {
    let text = |s: &str| Value::String(s.into());
    let list = |v: &[&str]| Value::Array(v.iter().map(|s| Value::String(s.to_string())).collect());
    let mut metadata = vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(DIM as u32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(HEADS as u32)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", list(&["<s>", "a", "b", "ab"])),
        ("tokenizer.ggml.merges", list(&["a b"])),
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
    edit(&mut metadata);
    let tensor = |rows: usize, columns: usize, dtype| {
        let values: Vec<f32> = (0..rows * columns).map(|i| (i / columns) as f32).collect();
        let shape: Vec<usize> = match columns {
            1 => vec![rows],
            _ => vec![rows, columns],
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, dtype).unwrap()
    };
    use GgmlDType::{BF16, F16, F32, Q4_0, Q8_0};
    let tensors = [
        ("token_embd.weight", tensor(4, DIM, Q8_0)),
        ("output_norm.weight", tensor(DIM, 1, F32)),
        ("blk.0.attn_norm.weight", tensor(DIM, 1, F32)),
        ("blk.0.attn_q.weight", tensor(DIM, DIM, F32)),
        ("blk.0.attn_k.weight", tensor(DIM / HEADS, DIM, F16)),
        ("blk.0.attn_v.weight", tensor(DIM / HEADS, DIM, BF16)),
        ("blk.0.attn_output.weight", tensor(DIM, DIM, Q4_0)),
        ("blk.0.ffn_norm.weight", tensor(DIM, 1, F32)),
        ("blk.0.ffn_gate.weight", tensor(64, DIM, F16)),
        ("blk.0.ffn_up.weight", tensor(64, DIM, F16)),
        ("blk.0.ffn_down.weight", tensor(DIM, 64, F16)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(k, v)| (*k, v)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Everything that is ever read out of a GGUF file.
fn read_all(bytes: &[u8]) -> Result<()> {
    let (_dir, path) = written(bytes);
    let files = ModelFiles::local(&path)?;
    let checkpoint = Checkpoint::load(&files).map(|_| ());
    let tokenizer = TextTokenizer::from_files(&files).and_then(|t| t.encode("ab<s>ba"));
    let template = ChatTemplate::from_files(&files).and_then(|t| t.render("ab"));
    checkpoint
        .and(tokenizer.map(|_| ()))
        .and(template.map(|_| ()))
}

#[test]
fn a_small_model_is_read_and_its_rows_are_put_back() {
    let (_dir, path) = written(&small(|_| {}));
    let files = ModelFiles::local(&path).unwrap();
    let checkpoint = Checkpoint::load(&files).unwrap();
    assert_eq!(checkpoint.config.head_dim, 16);
    assert_eq!(checkpoint.config.vocab_size, 4);
    assert!(checkpoint.config.tie_word_embeddings);
    assert_eq!(checkpoint.config.eos_token_ids, [0]);
    // Row r of the file holds the value r. Where llama.cpp keeps row i of the first half of a
    // head it is 2 i, of the second half 2 i + 1.
    for (name, heads) in [("q_proj", HEADS), ("k_proj", 1)] {
        let name = format!("model.layers.0.self_attn.{name}.weight");
        let values = checkpoint.f32_values(&name).unwrap();
        for head in 0..heads {
            for i in 0..8 {
                let row = |r: usize| values[(head * 16 + r) * DIM];
                assert_eq!(row(i), (head * 16 + 2 * i) as f32);
                assert_eq!(row(i + 8), (head * 16 + 2 * i + 1) as f32);
            }
        }
    }
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    assert_eq!(tokenizer.encode("ab<s>ba").unwrap(), [3, 0, 2, 1]);
    assert_eq!(tokenizer.decode(&[3, 0, 2]).unwrap(), "abb");
    let template = ChatTemplate::from_files(&files).unwrap();
    assert_eq!(template.render("hi").unwrap(), "<s>hi");
}

#[test]
fn llama_3_takes_words_whole_that_its_merges_do_not_make() {
    for (pre, ids) in [("smollm", &[1, 2][..]), ("llama-bpe", &[3])] {
        let (_dir, path) = written(&small(|m| {
            m.retain(|(k, _)| !k.ends_with(".pre") && !k.ends_with(".merges"));
            m.push(("tokenizer.ggml.pre", Value::String(pre.into())));
            m.push(("tokenizer.ggml.merges", Value::Array(vec![])));
        }));
        let tokenizer = TextTokenizer::from_gguf(&GgufModel::open(&path).unwrap()).unwrap();
        assert_eq!(tokenizer.encode("ab").unwrap(), ids);
    }
}

#[test]
fn what_is_not_a_plain_llama_is_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        small(move |m| {
            m.retain(|(k, _)| *k != key);
            m.push((key, value));
        })
    };
    let text = |s: &str| Value::String(s.into());
    for (bytes, part) in [
        (set("general.architecture", text("qwen2")), "`qwen2`"),
        (set("llama.expert_count", Value::U32(8)), "experts"),
        (set("llama.rope.scaling.type", text("yarn")), "`yarn`"),
        (set("llama.rope.dimension_count", Value::U32(8)), "rotates"),
        (
            set("llama.block_count", Value::U32(2)),
            "`blk.1.attn_norm.weight`",
        ),
        (set("llama.feed_forward_length", Value::U32(32)), "ffn_gate"),
        (set("llama.attention.head_count", Value::U32(0)), "head"),
        (set("llama.attention.head_count", Value::U32(3)), "head"),
        (set("llama.block_count", Value::U32(u32::MAX)), "layers"),
        (set("general.alignment", Value::U32(0)), "alignment"),
        (set("tokenizer.ggml.pre", text("odd")), "`odd`"),
        (set("tokenizer.ggml.model", text("llama")), "tokenizer"),
        (set("tokenizer.ggml.model", text("t5")), "`t5`"),
        (
            set("llama.attention.sliding_window", Value::U32(32)),
            "sliding",
        ),
        (set("tokenizer.chat_template", text("{% if %}")), "template"),
    ] {
        let message = read_all(&bytes).unwrap_err().to_string();
        assert!(message.contains(part), "{part} in {message}");
        assert!(message.contains("small.gguf: ") && !message.contains('\n'));
    }
}

/// A Llama of one block of 256, as wide as the blocks of every quantization are, with all
/// matrices in one type. Its weights are those of `Checkpoint::random`, whose order of rows
/// does not matter here.
fn wide(dtype: GgmlDType, rope_freqs: Option<Vec<f32>>) -> (ModelConfig, Checkpoint, Vec<u8>) {
    let config = ModelConfig {
        hidden_size: 256,
        intermediate_size: 256,
        vocab_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 256,
        tie_word_embeddings: false,
        ..ModelConfig::tiny()
    };
    let original = Checkpoint::random(&config, 3);
    let mut tensors: Vec<(String, QTensor)> = config
        .tensor_shapes()
        .map(|(name, shape)| {
            let tensor = &original.tensor(&name).unwrap();
            let dtype = if shape.len() == 1 {
                GgmlDType::F32
            } else {
                dtype
            };
            (gguf_name(&name), QTensor::quantize(tensor, dtype).unwrap())
        })
        .collect();
    if let Some(freqs) = rope_freqs {
        let freqs = Tensor::new(freqs, &Device::Cpu).unwrap();
        tensors.push((
            ROPE_FREQS.into(),
            QTensor::quantize(&freqs, GgmlDType::F32).unwrap(),
        ));
    }
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(256)),
        ("llama.feed_forward_length", Value::U32(256)),
        ("llama.attention.head_count", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    (config, original, file.into_inner())
}

#[test]
fn every_type_of_quantization_is_read_within_its_error() {
    use GgmlDType::*;
    // Root mean square error over that of the weights themselves, which are uniform.
    for (dtype, most) in [
        (F32, 0.0),
        (F16, 4e-4),
        (BF16, 3e-3),
        (Q8_0, 8e-3),
        (Q6K, 0.03),
        (Q5_1, 0.035),
        (Q5_0, 0.06),
        (Q5K, 0.045),
        (Q4_1, 0.07),
        (Q4_0, 0.12),
        (Q4K, 0.09),
        (Q3K, 0.2),
        (Q2K, 0.4),
    ] {
        let (config, original, bytes) = wide(dtype, None);
        let (_dir, path) = written(&bytes);
        let loaded = Checkpoint::load(&ModelFiles::local(&path).unwrap()).unwrap();
        let mut least = f64::INFINITY;
        for (name, shape) in config.tensor_shapes().filter(|(_, shape)| shape.len() == 2) {
            if name.contains("q_proj") || name.contains("k_proj") {
                continue; // reordered
            }
            let (is, was) = (
                &loaded.tensor(&name).unwrap(),
                &original.tensor(&name).unwrap(),
            );
            assert_eq!(is.dims(), shape);
            let square = |t: Tensor| t.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>();
            let error = square((is - was).unwrap()).unwrap() / square(was.clone()).unwrap();
            let error = f64::from(error).sqrt();
            assert!(error <= most, "{dtype:?} {name}: {error}");
            least = least.min(error);
        }
        // Not far below: the type is the one it says.
        assert!(least >= most / 3.0, "{dtype:?}: {least}");
    }
}

#[test]
fn rotary_scalings_of_gguf_files_are_taken_over() {
    let freqs: Vec<f32> = (0..128).map(|i| 1.0 + i as f32 / 16.0).collect();
    let (_, _, bytes) = wide(GgmlDType::F16, Some(freqs.clone()));
    let (_dir, path) = written(&bytes);
    let checkpoint = Checkpoint::load(&ModelFiles::local(&path).unwrap()).unwrap();
    let scaling = checkpoint.config.rope_scaling;
    assert_eq!(scaling, Some(RopeScaling::Divisors(freqs.clone())));
    for bad in [vec![1.0; 127], [vec![0.0], freqs[1..].to_vec()].concat()] {
        let (_, _, bytes) = wide(GgmlDType::F16, Some(bad));
        let message = read_all(&bytes).unwrap_err().to_string();
        assert!(message.contains("rope_freqs.weight"), "{message}");
    }
    let scaled = |kind: Option<&str>, key: &'static str, factor: f32| {
        let bytes = small(|m| {
            m.extend(kind.map(|kind| ("llama.rope.scaling.type", Value::String(kind.into()))));
            m.push((key, Value::F32(factor)));
        });
        let (_dir, path) = written(&bytes);
        GgufModel::open(&path).unwrap().model_config()
    };
    let linear = |factor| Some(RopeScaling::Linear { factor });
    let key = "llama.rope.scaling.factor";
    assert_eq!(
        scaled(Some("linear"), key, 4.0).unwrap().rope_scaling,
        linear(4.0)
    );
    assert_eq!(scaled(Some("linear"), key, 1.0).unwrap().rope_scaling, None);
    assert_eq!(scaled(Some("none"), key, 4.0).unwrap().rope_scaling, None);
    let old = scaled(None, "llama.rope.scale_linear", 2.0).unwrap();
    assert_eq!(old.rope_scaling, linear(2.0));
    assert!(scaled(Some("linear"), key, -1.0).is_err());
}

/// The metadata of a file with the vocabulary of the fixture, as llama.cpp converts it.
fn with_sentencepiece(m: &mut Vec<(&'static str, Value)>, cut: usize) {
    use crate::model::sentencepiece::Vocabulary;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-torch");
    let pieces = Vocabulary::read(&path.join("tokenizer.model"))
        .unwrap()
        .pieces;
    m.retain(|(key, _)| !key.starts_with("tokenizer."));
    let texts = pieces
        .iter()
        .map(|p| Value::String(p.text.clone()))
        .collect();
    let scores = pieces
        .iter()
        .skip(cut)
        .map(|p| Value::F32(p.score))
        .collect();
    let kinds = pieces
        .iter()
        .map(|p| Value::I32(p.kind as i32 + 1))
        .collect();
    m.extend([
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", Value::Array(texts)),
        ("tokenizer.ggml.scores", Value::Array(scores)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        (
            "tokenizer.chat_template",
            Value::String("[INST] {{ messages[0].content }} [/INST]".into()),
        ),
    ]);
}

#[test]
fn a_sentencepiece_vocabulary_in_gguf_gives_the_same_ids() {
    let (_dir, path) = written(&small(|m| with_sentencepiece(m, 0)));
    let files = ModelFiles::local(&path).unwrap();
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let golden = include_str!("../../tests/fixtures/golden/sentencepiece-tiny.jsonl");
    for line in golden.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = case["text"].as_str().unwrap();
        let expected = case.get("ids").unwrap_or(&case["legacy"]);
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(serde_json::json!(ids), *expected, "{text:?}");
    }
    // The file asks for the token of beginning; the template writes none.
    let template = ChatTemplate::from_files(&files).unwrap();
    let prompt = template.render("Hi").unwrap();
    assert_eq!(prompt, "<s>[INST] Hi [/INST]");
    let ids = tokenizer.encode(&prompt).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "[INST] Hi [/INST]");

    let (_dir, path) = written(&small(|m| with_sentencepiece(m, 1)));
    let error = TextTokenizer::from_files(&ModelFiles::local(&path).unwrap()).unwrap_err();
    assert!(error.to_string().contains("download it again"), "{error}");
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small(|_| {});
    read_all(&bytes).unwrap();
    let header = {
        let (_dir, path) = written(&bytes);
        check(&path).unwrap() as usize
    };
    let cuts = (0..header + 64).chain((header..bytes.len() - 32).step_by(97));
    for cut in cuts {
        let message = read_all(&bytes[..cut]).unwrap_err().to_string();
        assert!(message.contains("download it again"), "{cut}: {message}");
    }
}

#[test]
fn sizes_near_the_limits_of_numbers_are_errors() {
    let bytes = small(|_| {});
    let header = {
        let (_dir, path) = written(&bytes);
        check(&path).unwrap() as usize
    };
    for at in 4..header.min(bytes.len() - 8) {
        for value in [u64::MAX, 1 << 63, 1 << 32, 1 << 24] {
            let mut hostile = bytes.clone();
            hostile[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let _ = read_all(&hostile);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..2200, any::<u8>()), 1..6)) {
        let mut bytes = small(|_| {});
        for (at, value) in flips {
            bytes[at] = value;
        }
        let _ = read_all(&bytes);
    }
}
