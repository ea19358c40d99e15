//! Hidden states of prompts: what a head on the untuned model predicts from.

use std::sync::{Arc, Mutex, PoisonError};

use crate::chat::ChatModel;
use crate::engine::Decoder;
use crate::error::{Error, Result};
use crate::model::capture::Capture;
pub use crate::model::capture::StatesOf;
use crate::model::llama::Chunk;

const SLOTS: usize = 32;

/// Reads hidden states of chat prompts. What the chat template begins every prompt with is run
/// once and kept.
pub struct StateReader {
    chat: Arc<ChatModel>,
    /// The tokens that every prompt begins with.
    opening: Vec<u32>,
    /// Tokens put after every prompt.
    suffix: Vec<u32>,
    /// Its slot 0 keeps the opening.
    decoder: Mutex<Option<Box<dyn Decoder>>>,
}

impl StateReader {
    /// Runs what the chat template begins every prompt with at the first call, and keeps it.
    ///
    /// # Errors
    /// A chat template that cannot be rendered.
    pub fn new(chat: Arc<ChatModel>) -> Result<StateReader> {
        StateReader::with_suffix(chat, Vec::new())
    }

    /// As [`StateReader::new`], with tokens put after every prompt: the last of them is then
    /// the last token.
    ///
    /// # Errors
    /// A chat template that cannot be rendered.
    pub fn with_suffix(chat: Arc<ChatModel>, suffix: Vec<u32>) -> Result<StateReader> {
        let opening = opening(&chat)?;
        Ok(StateReader {
            chat,
            opening,
            suffix,
            decoder: Mutex::default(),
        })
    }

    /// The model that is read.
    pub fn chat(&self) -> &Arc<ChatModel> {
        &self.chat
    }

    /// States of the chat prompt of every instruction (its id and text):
    /// `[instruction][last layers, then mean layers][hidden]`. Nothing above the deepest layer
    /// is run, and an instruction's states do not depend on the others.
    ///
    /// # Errors
    /// A prompt that does not fit the model.
    pub fn read(
        &self,
        instructions: &[(&str, &str)],
        of: &StatesOf,
        mut on_progress: impl FnMut(usize),
    ) -> Result<Vec<f32>> {
        let prompts = instructions
            .iter()
            .map(|(id, text)| {
                let mut prompt = self.chat.fitting_prompt(id, text, self.suffix.len())?;
                prompt.extend_from_slice(&self.suffix);
                match prompt.is_empty() {
                    true => Err(Error::Usage(
                        "the chat template renders an empty prompt".into(),
                    )),
                    false => Ok(prompt),
                }
            })
            .collect::<Result<Vec<_>>>()?;
        // Where a tokenizer merges the opening's end into an instruction, less of it is shared.
        let openings: Vec<usize> = prompts
            .iter()
            .map(|p| common(&self.opening, p).min(p.len() - 1))
            .collect();
        let shared = openings.iter().copied().min().unwrap_or(0);
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
        let mut kept = self.decoder.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = self.roomy(&mut kept, longest)?;
        let most = decoder.pass_tokens();
        let hidden = self.chat.config().hidden_size;
        let mut states = Vec::with_capacity(prompts.len() * of.vectors() * hidden);
        let mut next = 0;
        while next < prompts.len() {
            let (mut end, mut tokens) = (next, 0);
            while end < prompts.len()
                && end - next < SLOTS
                && (tokens == 0 || tokens + prompts[end].len() - shared <= most)
            {
                tokens += prompts[end].len() - shared;
                end += 1;
            }
            // Of the batch before: its memory is wanted now.
            for slot in 1..decoder.slots() {
                decoder.truncate(slot, 0);
            }
            for slot in 1..=end - next {
                decoder.copy_prefix(0, slot, shared)?;
            }
            let chunks: Vec<Chunk<'_>> = prompts[next..end]
                .iter()
                .enumerate()
                .map(|(index, prompt)| Chunk {
                    slot: index + 1,
                    tokens: &prompt[shared..],
                    logits: false,
                })
                .collect();
            let mut capture = Capture {
                of: of.clone(),
                mean_from: openings[next..end].iter().map(|o| o - shared).collect(),
                stops_early: true,
                states: Vec::new(),
            };
            decoder.step(&chunks, &[], Some(&mut capture))?;
            states.append(&mut capture.states);
            on_progress(end);
            next = end;
        }
        if self.chat.model().takes_caches_whole() {
            // Others need the room.
            *kept = None;
        }
        Ok(states)
    }

    /// A decoder with room for sequences of `longest` tokens; a new one gets the opening.
    fn roomy<'d>(
        &self,
        decoder: &'d mut Option<Box<dyn Decoder>>,
        longest: usize,
    ) -> Result<&'d mut dyn Decoder> {
        if let Some(there) = decoder.take_if(|d| d.capacity() >= longest) {
            return Ok(decoder.insert(there).as_mut());
        }
        let capacity = longest.max(self.opening.len()).next_power_of_two();
        let model = self.chat.model().clone();
        let mut new = model.keeping_decoder(SLOTS + 1, capacity)?;
        for tokens in self.opening.chunks(new.pass_tokens()) {
            let chunk = Chunk {
                slot: 0,
                tokens,
                logits: false,
            };
            new.step(&[chunk], &[], None)?;
        }
        Ok(decoder.insert(new).as_mut())
    }
}

/// The tokens that every prompt of the chat template begins with. The last token of a prompt
/// is never among them.
fn opening(chat: &ChatModel) -> Result<Vec<u32>> {
    let (one, other) = (chat.prompt("A")?, chat.prompt("7")?);
    let shared = common(&one, &other).min(one.len().min(other.len()).saturating_sub(1));
    Ok(one[..shared].to_vec())
}

fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}
