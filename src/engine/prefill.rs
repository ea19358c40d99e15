//! Running the prompts of newly admitted requests. What a slot already holds is not computed
//! again: the longest common prefix (the chat template's opening, or the whole prompt where
//! several samples of one instruction are drawn) is copied from the slot that has it.

use crate::error::Result;
use crate::model::llama::Chunk;

use super::sampling::Draw;
use super::{Engine, Observer, RunStats, Sequence};

/// Waiting a round for another prompt of the same admission pays from this many tokens on.
const WORTH_WAITING: usize = 8;

impl Engine<'_> {
    /// Runs the prompts and draws each sequence's first token.
    pub(super) fn prefill(
        &mut self,
        admitted: &mut [Sequence],
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut pending: Vec<usize> = (0..admitted.len()).collect();
        while !pending.is_empty() {
            let round = self.next_round(admitted, &mut pending)?;
            self.run_prompts(admitted, &round, stats, observer)?;
        }
        Ok(())
    }

    /// Takes from `pending` those that need not wait for another, and gives each the prefix
    /// that some slot holds.
    fn next_round(
        &mut self,
        admitted: &[Sequence],
        pending: &mut Vec<usize>,
    ) -> Result<Vec<usize>> {
        let mut round: Vec<usize> = Vec::new();
        let mut later = Vec::new();
        for &index in pending.iter() {
            let sequence = &admitted[index];
            let prompt = &sequence.request.prompt;
            if !self.share_prefixes {
                self.decoder.truncate(sequence.slot, 0);
                round.push(index);
                continue;
            }
            // At least the last token is run: its logits are needed.
            let useful = prompt.len() - 1;
            let waiting = |slot: usize| pending.iter().any(|&p| admitted[p].slot == slot);
            let held = (0..self.decoder.slots())
                .filter(|&slot| slot == sequence.slot || !waiting(slot))
                .map(|slot| (common(self.decoder.tokens(slot), prompt).min(useful), slot))
                .max_by_key(|&(len, slot)| (len, std::cmp::Reverse(slot)))
                .unwrap_or((0, sequence.slot));
            let coming = round
                .iter()
                .map(|&other| common(&admitted[other].request.prompt, prompt).min(useful))
                .max()
                .unwrap_or(0);
            if coming >= held.0 + WORTH_WAITING {
                later.push(index);
            } else {
                self.decoder.copy_prefix(held.1, sequence.slot, held.0)?;
                round.push(index);
            }
        }
        *pending = later;
        Ok(round)
    }

    fn run_prompts(
        &mut self,
        admitted: &mut [Sequence],
        round: &[usize],
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        // (sequence, part of its prompt): long prompts in pieces, short ones together.
        let mut pass: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        let most = self.decoder.pass_tokens();
        let mut tokens = 0;
        for &index in round {
            let end = admitted[index].request.prompt.len();
            let mut start = self.decoder.tokens(admitted[index].slot).len();
            while start < end {
                let piece = (end - start).min(most);
                if tokens + piece > most {
                    self.run_pass(admitted, &std::mem::take(&mut pass), stats, observer)?;
                    tokens = 0;
                }
                pass.push((index, start..start + piece));
                start += piece;
                tokens += piece;
            }
        }
        self.run_pass(admitted, &pass, stats, observer)
    }

    fn run_pass(
        &mut self,
        admitted: &mut [Sequence],
        pass: &[(usize, std::ops::Range<usize>)],
        stats: &mut RunStats,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let chunks: Vec<Chunk<'_>> = pass
            .iter()
            .map(|(index, part)| {
                let sequence = &admitted[*index];
                Chunk {
                    slot: sequence.slot,
                    tokens: &sequence.request.prompt[part.clone()],
                    logits: part.end == sequence.request.prompt.len(),
                }
            })
            .collect();
        stats.prefill_tokens += chunks.iter().map(|c| c.tokens.len()).sum::<usize>();
        let ended: Vec<usize> = pass
            .iter()
            .zip(&chunks)
            .filter(|(_, chunk)| chunk.logits)
            .map(|((index, _), _)| *index)
            .collect();
        let draws: Vec<Draw> = ended.iter().map(|&i| admitted[i].next_draw()).collect();
        let drawn = self.decoder.step(&chunks, &draws, None)?.tokens;
        for (index, token) in ended.into_iter().zip(drawn) {
            admitted[index].receive(token, &self.end_tokens, stats, observer)?;
        }
        Ok(())
    }
}

fn common(held: &[u32], prompt: &[u32]) -> usize {
    held.iter().zip(prompt).take_while(|(a, b)| a == b).count()
}
