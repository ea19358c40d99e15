//! Asking the model for a number: perception in advance and perception only (paper, section
//! 3.1) of the model as it is, and instruction tuning (section 3.2) where an adapter is merged
//! into it.

use std::sync::Arc;

use crate::chat::ChatModel;
use crate::engine::{Batching, Engine, Request, Response};
use crate::error::Result;

use super::{Prediction, Predictor, Query};

/// What follows the instruction in a perception-only prompt.
pub const ASK: &str = "\nHow many tokens would your answer to the instruction above take? \
                       Reply with the number only.";

/// What follows the instruction in a perception-in-advance prompt, whose answer goes on with
/// the answer to the instruction.
pub const ASK_IN_ADVANCE: &str = "\nBefore you answer, print on the first line only the number \
                                  of tokens you expect your answer to take. Begin your answer on \
                                  the line below.";

const SLOTS: usize = 16;

/// What the model is told to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The number and nothing else.
    NumberOnly,
    /// The number on the first line, the answer below.
    InAdvance,
}

impl Order {
    fn words(self) -> &'static str {
        match self {
            Order::NumberOnly => ASK,
            Order::InAdvance => ASK_IN_ADVANCE,
        }
    }

    /// A number is short; whatever follows it is not wanted. A first line may lead up to its
    /// number with a few words.
    fn max_new_tokens(self) -> usize {
        match self {
            Order::NumberOnly => 8,
            Order::InAdvance => 16,
        }
    }

    /// The number in the model's answer.
    fn read(self, answer: &str) -> Option<f64> {
        match self {
            Order::NumberOnly => first_number(answer),
            Order::InAdvance => first_number(answer.trim_start().lines().next()?),
        }
    }
}

/// The instruction with the order to answer with its length only.
pub fn question(instruction: &str) -> String {
    format!("{instruction}{ASK}")
}

/// A model that is asked.
pub struct Asked {
    name: String,
    order: Order,
    chat: Arc<ChatModel>,
    fallback: f64,
}

impl Asked {
    /// `fallback` (tokens) is predicted where the answer holds no number.
    pub fn new(name: &str, order: Order, chat: Arc<ChatModel>, fallback: f64) -> Asked {
        Asked {
            name: name.to_string(),
            order,
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
        let max_new_tokens = self.order.max_new_tokens();
        let prompts = queries
            .iter()
            .map(|q| {
                let question = format!("{}{}", q.instruction, self.order.words());
                let prompt =
                    self.chat
                        .fitting_prompt(q.instruction_id, &question, max_new_tokens)?;
                Ok(prompt.into())
            })
            .collect::<Result<Vec<Arc<[u32]>>>>()?;
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let slots = SLOTS.min(queries.len()).max(1);
        let mut engine = Engine::new(self.chat.model().as_ref(), slots, longest + max_new_tokens)?;
        let mut queue = prompts.into_iter().enumerate().map(|(id, prompt)| Request {
            id,
            prompt,
            max_new_tokens,
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
                Ok(match self.order.read(&answer) {
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

    #[test]
    fn only_the_first_line_of_an_answer_counts_in_advance() {
        let read = |answer: &str| Order::InAdvance.read(answer);
        assert_eq!(read("120\nThe 3 cats"), Some(120.0));
        assert_eq!(read("\n Estimated tokens: 40\n"), Some(40.0));
        assert_eq!(read("The cats of 1900"), Some(1900.0));
        assert_eq!(read("Cats\n120"), None);
        assert_eq!(read(""), None);
        assert_eq!(Order::NumberOnly.read("Cats\n120"), Some(120.0));
    }
}
