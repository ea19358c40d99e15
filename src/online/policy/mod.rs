//! Who is served next. A policy sees what is known of a request, never how long its answer
//! will be; its *oracle* version is the same policy asked with the predictor `oracle`.

mod aging;
mod fcfs;
mod hrrn;
mod least_attained;
mod longest;
mod reserving;
mod shortest;
mod shortest_remaining;

use serde::{Deserialize, Serialize};

pub use aging::Aging;
pub use fcfs::Fcfs;
pub use hrrn::Hrrn;
pub use least_attained::LeastAttained;
pub use longest::Longest;
pub use reserving::Reserving;
pub use shortest::Shortest;
pub use shortest_remaining::ShortestRemaining;

use crate::error::{Error, Result};
use crate::schedule::Forecast;

/// What a policy may know of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    pub arrival_s: f64,
    pub prompt_tokens: u32,
    /// What [`Policy::size`] made of its forecast, tokens.
    pub size: f32,
    /// Tokens that it has been given so far.
    pub generated: u32,
}

impl Known {
    /// Tokens that are left as foreseen; at least 1.
    pub fn remaining(&self) -> f64 {
        (f64::from(self.size) - f64::from(self.generated)).max(1.0)
    }
}

/// How the waiting requests are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Queueing {
    /// By [`Policy::rank`], which time does not change.
    Ranked,
    /// By the highest response ratio, which grows with waiting.
    ResponseRatio,
}

/// Says who is next.
pub trait Policy: std::fmt::Debug + Send + Sync {
    /// A forecast as one number of tokens; asked once a request.
    fn size(&self, forecast: &Forecast) -> f64 {
        forecast.tokens
    }

    /// Whoever ranks lowest is next; ties go by arrival.
    fn rank(&self, known: &Known) -> f64;

    fn queueing(&self) -> Queueing {
        Queueing::Ranked
    }

    /// Whoever has waited for so many seconds goes before all others.
    fn guard_s(&self) -> Option<f64> {
        None
    }

    /// Whether one who waits may take the slot of one who runs and ranks higher.
    fn preempts(&self) -> bool {
        false
    }

    /// Where ranks change with what has been given: after how many tokens it is looked again
    /// who should run.
    fn quantum(&self) -> Option<u32> {
        None
    }

    /// Tokens of the answer whose memory is set aside on admission; what goes beyond them is
    /// taken as it comes. Engines of today set nothing aside.
    fn reserves(&self, _known: &Known) -> u32 {
        0
    }
}

/// A policy as an experiment file names it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum PolicyConfig {
    /// First come, first served.
    #[default]
    Fcfs,
    /// Shortest predicted answer first; the size is the quantile `at` of the forecast, or, with
    /// `beta`, its mean and beta times the mean of its upper tenth. With `guard_s` whoever has
    /// waited so long goes first (vllm-ltr's starvation guard).
    Sjf {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beta: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard_s: Option<f64>,
    },
    /// Shortest remaining predicted answer first, running ones displaced.
    Srpt,
    /// Longest predicted answer first.
    Lpt,
    /// Highest response ratio next.
    Hrrn,
    /// Shortest first, a second of waiting being worth `tokens_per_s`.
    Aging { tokens_per_s: f64 },
    /// First come, first served, with the memory of the quantile `at` of the forecast set aside.
    Reserve { at: f64 },
    /// Least attained service first: without any prediction, running ones displaced after
    /// `quantum` tokens.
    Las { quantum: u32 },
}

impl PolicyConfig {
    /// # Errors
    /// Numbers that make no sense.
    pub fn build(&self) -> Result<Box<dyn Policy>> {
        let level = |at: f64| (0.0..=1.0).contains(&at);
        let positive = |x: f64| x > 0.0 && x.is_finite();
        Ok(match *self {
            PolicyConfig::Fcfs => Box::new(Fcfs),
            PolicyConfig::Sjf { at, beta, guard_s } => {
                if at.is_some_and(|at| !level(at))
                    || beta.is_some_and(|b| !(b >= 0.0 && b.is_finite()))
                    || guard_s.is_some_and(|s| !positive(s))
                    || (at.is_some() && beta.is_some())
                {
                    return Err(Error::Usage(
                        "the policy sjf takes `at` from 0 to 1 or `beta` from 0, and `guard_s` \
                         above 0"
                            .into(),
                    ));
                }
                Box::new(Shortest { at, beta, guard_s })
            }
            PolicyConfig::Srpt => Box::new(ShortestRemaining),
            PolicyConfig::Lpt => Box::new(Longest),
            PolicyConfig::Hrrn => Box::new(Hrrn),
            PolicyConfig::Aging { tokens_per_s } if positive(tokens_per_s) => {
                Box::new(Aging { tokens_per_s })
            }
            PolicyConfig::Reserve { at } if level(at) => Box::new(Reserving { at }),
            PolicyConfig::Las { quantum } if quantum > 0 => Box::new(LeastAttained { quantum }),
            PolicyConfig::Aging { .. }
            | PolicyConfig::Reserve { .. }
            | PolicyConfig::Las { .. } => {
                return Err(Error::Usage(
                    "the policies aging, reserve and las take `tokens_per_s` above 0, `at` from \
                     0 to 1 and `quantum` of at least 1"
                        .into(),
                ));
            }
        })
    }

    /// As in tables.
    pub fn name(&self) -> String {
        match self {
            PolicyConfig::Fcfs => "fcfs".into(),
            PolicyConfig::Sjf { at, beta, guard_s } => {
                let mut name = "sjf".to_string();
                if let Some(at) = at {
                    name += &format!(" at {at}");
                }
                if let Some(beta) = beta {
                    name += &format!(" by mean + {beta} CVaR");
                }
                if let Some(guard) = guard_s {
                    name += &format!(", guard {guard} s");
                }
                name
            }
            PolicyConfig::Srpt => "srpt".into(),
            PolicyConfig::Lpt => "lpt".into(),
            PolicyConfig::Hrrn => "hrrn".into(),
            PolicyConfig::Aging { tokens_per_s } => format!("aging, {tokens_per_s} tokens/s"),
            PolicyConfig::Reserve { at } => format!("fcfs, memory for {at} set aside"),
            PolicyConfig::Las { quantum } => format!("las, {quantum} tokens"),
        }
    }
}
