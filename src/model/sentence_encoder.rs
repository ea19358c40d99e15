//! Sentence encoders of the BERT family, as all-MiniLM-L6-v2: a text becomes one vector, the
//! mean of its last hidden states, scaled to length 1.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::foreign::quietly;

use super::source::{ModelFiles, WeightFiles, one_line, read_json};
use super::tokenizer::TRIPPED;

/// Longer texts are cut off, as all-MiniLM-L6-v2 was trained.
const MAX_TOKENS: usize = 256;
/// Tokens run in one pass.
const PASS_TOKENS: usize = 1024;

/// A loaded encoder.
pub struct SentenceEncoder {
    name: String,
    sha256: String,
    model: BertModel,
    tokenizer: Tokenizer,
    hidden_size: usize,
    vocab_size: usize,
    max_tokens: usize,
}

impl SentenceEncoder {
    /// Loads `config.json`, `tokenizer.json` and the safetensors of a directory.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(files: &ModelFiles) -> Result<SentenceEncoder> {
        let no_encoder = || {
            Error::Usage(format!(
                "{} is no sentence encoder: give a directory with config.json, tokenizer.json \
                 and model.safetensors of the BERT family",
                files.path().display()
            ))
        };
        let (Some(dir), WeightFiles::Safetensors(shards)) = (&files.dir, &files.weights) else {
            return Err(no_encoder());
        };
        let config = read_config(&dir.join("config.json"))?.ok_or_else(no_encoder)?;
        let path = dir.join("tokenizer.json");
        let (tokenizer, _) = super::tokenizer_file::read(&path)?;

        let mut tensors = std::collections::HashMap::new();
        for shard in shards {
            super::weights::check_header(shard)?;
            let bytes = crate::regular_file::bytes(shard)?;
            let read =
                candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
                    let why = format!("is damaged ({}): download it again", one_line(e));
                    Error::malformed(shard, why)
                })?;
            tensors.extend(read);
        }
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let model = BertModel::load(weights, &config).map_err(|e| {
            let why = format!("lacks weights its config.json speaks of ({})", one_line(e));
            Error::malformed(files.path(), why)
        })?;
        Ok(SentenceEncoder {
            name: files.name.clone(),
            sha256: files.sha256()?,
            model,
            tokenizer,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            max_tokens: MAX_TOKENS.min(config.max_position_embeddings),
        })
    }

    /// The name as predictors record it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the weights.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in a text's vector.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// The vectors of some texts, `[text][hidden]`, each of length 1. Texts of equal numbers of
    /// tokens are run together, so that none is padded.
    ///
    /// # Errors
    /// A text without tokens, or weights that come to no number.
    pub fn embed(&self, texts: &[&str], mut on_progress: impl FnMut(usize)) -> Result<Vec<f32>> {
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            let encoding = quietly(TRIPPED, || self.tokenizer.encode(*text, true))
                .map_err(|e| Error::Numeric(format!("a text has no tokens: {}", one_line(e))))?;
            let mut tokens = encoding.get_ids().to_vec();
            if tokens.len() > self.max_tokens {
                // What ends every text stays.
                let end = tokens[tokens.len() - 1];
                tokens.truncate(self.max_tokens - 1);
                tokens.push(end);
            }
            if tokens.is_empty() || tokens.iter().any(|t| *t as usize >= self.vocab_size) {
                return Err(Error::Usage(format!(
                    "the tokenizer of {} is not that of its weights",
                    self.name
                )));
            }
            ids.push(tokens);
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|at| ids[*at].len());
        let mut vectors = vec![0.0f32; texts.len() * self.hidden_size];
        let mut done = 0;
        for alike in order.chunk_by(|a, b| ids[*a].len() == ids[*b].len()) {
            let length = ids[alike[0]].len();
            for batch in alike.chunks((PASS_TOKENS / length).max(1)) {
                let tokens: Vec<u32> = batch.iter().flat_map(|at| ids[*at].clone()).collect();
                let tokens = Tensor::from_vec(tokens, (batch.len(), length), &Device::Cpu)?;
                let states = self.model.forward(&tokens, &tokens.zeros_like()?, None)?;
                let means = states.mean(1)?.to_vec2::<f32>()?;
                for (at, mean) in batch.iter().zip(means) {
                    let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
                    if !norm.is_finite() || norm == 0.0 {
                        return Err(Error::Numeric(format!(
                            "the weights of {} come to no number: download them again",
                            self.name
                        )));
                    }
                    let to = &mut vectors[at * self.hidden_size..][..self.hidden_size];
                    to.iter_mut().zip(mean).for_each(|(to, x)| *to = x / norm);
                }
                done += batch.len();
                on_progress(done);
            }
        }
        Ok(vectors)
    }
}

/// The configuration of an encoder of the BERT family; none where it is of something else.
fn read_config(path: &std::path::Path) -> Result<Option<Config>> {
    let json = read_json(path)?;
    if json.get("model_type").and_then(|t| t.as_str()) != Some("bert") {
        return Ok(None);
    }
    let wrong = |why: String| Error::malformed(path, format!("{why}: download it again"));
    let config: Config =
        serde_json::from_value(json).map_err(|e| wrong(format!("is not of an encoder ({e})")))?;
    let heads = config.num_attention_heads;
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.type_vocab_size,
        heads,
    ];
    let sensible = sizes.iter().all(|n| (1..=1 << 20).contains(n))
        && config.hidden_size.is_multiple_of(heads)
        && config.num_hidden_layers <= 1000
        // Room for the two tokens at a text's edges and one between.
        && config.max_position_embeddings >= 3;
    match sensible {
        true => Ok(Some(config)),
        false => Err(wrong("states sizes that make no sense".into())),
    }
}

#[cfg(test)]
#[path = "sentence_encoder_tests.rs"]
pub(crate) mod tests;
