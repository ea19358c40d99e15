//! Hidden states of the last prompt token: what a small head predicts from.

use crate::error::Result;
use crate::model::ChatModel;
use crate::model::llama::{Capture, Chunk, Workspace};

/// Prompt tokens run in one pass.
const PASS_TOKENS: usize = 512;
const SLOTS: usize = 32;

/// States after each of `layers` blocks (0 is the embedding) of the last token of the chat
/// prompt of every instruction (its id and text): `[instruction][layer][hidden]`. What all prompts begin with is
/// run once.
///
/// # Errors
/// A prompt that does not fit the model.
pub fn last_token_states(
    chat: &ChatModel,
    instructions: &[(&str, &str)],
    layers: &[usize],
    mut on_progress: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let prompts = instructions
        .iter()
        .map(|(id, text)| chat.fitting_prompt(id, text, 0))
        .collect::<Result<Vec<_>>>()?;
    let Some(first) = prompts.first() else {
        return Ok(Vec::new());
    };
    let shared = prompts
        .iter()
        .map(|p| first.iter().zip(p).take_while(|(a, b)| a == b).count())
        .min()
        .unwrap_or(0)
        // At least the last token of every prompt is run by itself.
        .min(prompts.iter().map(Vec::len).min().unwrap_or(1) - 1);
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(1);
    // Slot 0 keeps the shared beginning.
    let mut cache = chat.llama().new_cache(SLOTS + 1, longest)?;
    let mut workspace = Workspace::default();
    if shared > 0 {
        let chunk = Chunk {
            slot: 0,
            tokens: &first[..shared],
            logits: false,
        };
        chat.llama()
            .forward(&[chunk], &mut cache, &mut workspace, None)?;
    }
    let mut states = Vec::new();
    let mut next = 0;
    while next < prompts.len() {
        let (mut end, mut tokens) = (next, 0);
        while end < prompts.len()
            && end - next < SLOTS
            && (tokens == 0 || tokens + prompts[end].len() - shared <= PASS_TOKENS)
        {
            tokens += prompts[end].len() - shared;
            end += 1;
        }
        for slot in 1..=end - next {
            cache.copy_prefix(0, slot, shared);
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
            layers: layers.to_vec(),
            states: Vec::new(),
        };
        chat.llama()
            .forward(&chunks, &mut cache, &mut workspace, Some(&mut capture))?;
        states.append(&mut capture.states);
        on_progress(end);
        next = end;
    }
    Ok(states)
}
