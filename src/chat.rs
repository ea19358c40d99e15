//! A model with its text side, wherever it computes: what the commands work with.

use std::sync::Arc;

use crate::engine::{Model, Place};
use crate::error::{Error, Result};
use crate::kernel::Team;
use crate::model::{ChatTemplate, Checkpoint, ModelConfig, ModelFiles, Precision, TextTokenizer};

/// A loaded model, its tokenizer and its chat template.
pub struct ChatModel {
    name: String,
    sha256: String,
    tokenizer: TextTokenizer,
    template: ChatTemplate,
    model: Arc<dyn Model>,
}

impl ChatModel {
    /// Loads all of a model's files, to compute in f32 on the CPU.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(files: &ModelFiles, team: Arc<Team>) -> Result<ChatModel> {
        Self::load_on(files, Place::Cpu, Precision::F32, team)
    }

    /// As [`ChatModel::load`], to compute elsewhere ([`Place::put`]).
    ///
    /// # Errors
    /// What is wrong with which file; a device that cannot take the model.
    pub fn load_on(
        files: &ModelFiles,
        place: Place,
        precision: Precision,
        team: Arc<Team>,
    ) -> Result<ChatModel> {
        let model = place.put(&Checkpoint::load(files)?, precision, team)?;
        Self::with_model(files, model)
    }

    /// As [`ChatModel::load`], with weights that were changed first (a merged adapter).
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn with_model(files: &ModelFiles, model: Arc<dyn Model>) -> Result<ChatModel> {
        Ok(ChatModel {
            name: files.name.clone(),
            sha256: files.sha256()?,
            tokenizer: TextTokenizer::from_files(files)?,
            template: ChatTemplate::from_files(files)?,
            model,
        })
    }

    /// The name as datasets record it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the weights.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Hash of the chat template.
    pub fn template_sha256(&self) -> String {
        self.template.sha256()
    }

    /// Text to token ids and back.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The model itself.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// The model's dimensions.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The text of the chat prompt that puts `instruction` to the model.
    ///
    /// # Errors
    /// A template that cannot be rendered.
    pub fn rendered(&self, instruction: &str) -> Result<String> {
        self.template.render(instruction)
    }

    /// The token ids of the chat prompt that puts `instruction` to the model.
    ///
    /// # Errors
    /// A template that cannot be rendered.
    pub fn prompt(&self, instruction: &str) -> Result<Vec<u32>> {
        let prompt = self.tokenizer.encode(&self.rendered(instruction)?)?;
        let known = self.config().vocab_size;
        match prompt.iter().find(|id| **id as usize >= known) {
            Some(id) => Err(self.tokenizer.damaged(&format!(
                "is another model's: it has a token {id}, and the model {known} tokens"
            ))),
            None if prompt.is_empty() => Err(self.tokenizer.damaged(
                "makes no tokens of a prompt, or the chat template makes no text of an instruction",
            )),
            None => Ok(prompt),
        }
    }

    /// As [`ChatModel::prompt`], refused where it leaves no room for `new_tokens` in the
    /// model's context; `id` names the instruction in the message.
    ///
    /// # Errors
    /// A template that cannot be rendered, or a prompt that is too long.
    pub fn fitting_prompt(
        &self,
        id: &str,
        instruction: &str,
        new_tokens: usize,
    ) -> Result<Vec<u32>> {
        let prompt = self.prompt(instruction)?;
        fits(
            id,
            prompt.len(),
            new_tokens,
            self.config().max_position_embeddings,
        )?;
        Ok(prompt)
    }
}

/// Refuses a prompt that leaves no room for `new_tokens` in a context of `limit` positions.
///
/// # Errors
/// A prompt that is too long.
pub fn fits(id: &str, prompt_tokens: usize, new_tokens: usize, limit: usize) -> Result<()> {
    if prompt_tokens + new_tokens <= limit {
        return Ok(());
    }
    Err(Error::TooLong(format!(
        "instruction `{id}` has {prompt_tokens} prompt tokens, which with {new_tokens} new tokens \
         exceeds the model's context of {limit}: shorten it or ask for fewer new tokens"
    )))
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
