//! A model with its text side: what the commands work with.

use std::sync::Arc;

use crate::error::Result;
use crate::kernel::Team;

use super::{ChatTemplate, Checkpoint, ModelConfig, ModelFiles, TextTokenizer, llama::Llama};

/// A loaded model, its tokenizer and its chat template.
pub struct ChatModel {
    name: String,
    sha256: String,
    tokenizer: TextTokenizer,
    template: ChatTemplate,
    llama: Llama,
}

impl ChatModel {
    /// Loads all of a model's files.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(files: &ModelFiles, team: Arc<Team>) -> Result<ChatModel> {
        let llama = Llama::new(&Checkpoint::load(files)?, team)?;
        Self::with_llama(files, llama)
    }

    /// As [`ChatModel::load`], with weights that were changed first (a merged adapter).
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn with_llama(files: &ModelFiles, llama: Llama) -> Result<ChatModel> {
        Ok(ChatModel {
            name: files.name.clone(),
            sha256: files.sha256()?,
            tokenizer: TextTokenizer::from_files(files)?,
            template: ChatTemplate::from_files(files)?,
            llama,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the weights.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub fn template_sha256(&self) -> String {
        self.template.sha256()
    }

    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    pub fn llama(&self) -> &Llama {
        &self.llama
    }

    pub fn config(&self) -> &ModelConfig {
        self.llama.config()
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
        self.tokenizer.encode(&self.rendered(instruction)?)
    }
}
