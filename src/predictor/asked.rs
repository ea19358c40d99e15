//! Asking the model for a number: perception only (paper, section 3.1) of the model as it is,
//! and instruction tuning (section 3.2) where an adapter is merged into it.

use std::sync::Arc;

use crate::engine::{Batching, Engine, Request, Response};
use crate::error::Result;
use crate::model::ChatModel;

use super::{Prediction, Predictor, Query};

/// What follows the instruction in a perception-only prompt.
pub const ASK: &str = "\nHow many tokens would your answer to the instruction above take? \
                       Reply with the number only.";

/// A number is short; whatever follows it is not wanted.
const MAX_NEW_TOKENS: usize = 8;
const SLOTS: usize = 16;

/// The instruction with the order to answer with its length only.
pub fn question(instruction: &str) -> String {
    format!("{instruction}{ASK}")
}

/// A model that is asked.
pub struct Asked {
    name: String,
    chat: Arc<ChatModel>,
    fallback: f64,
}

impl Asked {
    /// `fallback` (tokens) is predicted where the answer holds no number.
    pub fn new(name: &str, chat: Arc<ChatModel>, fallback: f64) -> Asked {
        Asked {
            name: name.to_string(),
            chat,
            fallback,
        }
    }
}

impl Predictor for Asked {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>> {
        super::need_texts(&self.name, queries.iter().map(|q| q.instruction))?;
        let prompts = queries
            .iter()
            .map(|q| {
                let question = question(q.instruction);
                let prompt =
                    self.chat
                        .fitting_prompt(q.instruction_id, &question, MAX_NEW_TOKENS)?;
                Ok(prompt.into())
            })
            .collect::<Result<Vec<Arc<[u32]>>>>()?;
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let slots = SLOTS.min(queries.len()).max(1);
        let mut engine = Engine::new(self.chat.llama(), slots, longest + MAX_NEW_TOKENS)?;
        let mut queue = prompts.into_iter().enumerate().map(|(id, prompt)| Request {
            id,
            prompt,
            max_new_tokens: MAX_NEW_TOKENS,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
        });
        let mut responses: Vec<Response> = Vec::new();
        engine.generate(&mut || queue.next(), Batching::Continuous, &mut responses)?;
        responses.sort_by_key(|r| r.id);
        responses
            .iter()
            .map(|response| {
                let answer = self.chat.tokenizer().decode(&response.tokens)?;
                Ok(match first_number(&answer) {
                    Some(tokens) => Prediction::of(tokens),
                    None => Prediction {
                        tokens: self.fallback,
                        unparsable: true,
                        quantiles: None,
                    },
                })
            })
            .collect()
    }
}

/// The first whole number of an answer, if it makes sense as a length.
fn first_number(answer: &str) -> Option<f64> {
    let start = answer.find(|c: char| c.is_ascii_digit())?;
    let digits: String = answer[start..]
        .chars()
        .filter(|c| *c != ',')
        .take_while(char::is_ascii_digit)
        .collect();
    digits
        .parse::<f64>()
        .ok()
        .filter(|n| (1.0..=1e6).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_answers() {
        assert_eq!(first_number("150"), Some(150.0));
        assert_eq!(first_number("About 1,200 tokens"), Some(1200.0));
        assert_eq!(first_number("50."), Some(50.0));
        assert_eq!(first_number("I cannot say"), None);
        assert_eq!(first_number("0"), None);
        assert_eq!(first_number("99999999999999999999"), None);
    }
}
