//! Sequence scheduling: pure functions from predicted lengths to micro-batches (the paper's
//! section 4.3). Nothing here knows how a batch is run; `execute` does, live or in replay.
//! Requests are named by their index in the workload, lengths are in tokens.

pub mod binning;
pub mod failure;
mod planner;
pub mod vbs;

pub use crate::engine::Batching;
pub use failure::recovery_batches;
pub use planner::{arrival_order, effective_length, plan};
pub use vbs::VbsTable;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Requests that are run together, and when to stop them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Indices of requests in the workload.
    pub members: Vec<usize>,
    /// Tokens after which the batch is stopped, `1..=max_new_tokens`.
    pub cap: usize,
}

/// The micro-batches made from one group of consecutive arrivals, in the order of running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub batches: Vec<MicroBatch>,
}

/// How requests are ordered inside a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// In the order of arrival: the paper's vanilla.
    #[default]
    None,
    /// Ascending by predicted length.
    Sorted,
}

/// What happens to requests that are longer than was predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fcr {
    /// Batches run to their longest member, at most to `max_new_tokens`; nothing fails.
    #[default]
    Off,
    /// Failure collection and recomputation (paper, section 4.3): batches stop at the
    /// predicted length, unfinished requests start anew at the end of their group.
    Recompute,
}

macro_rules! written_as {
    ($($kind:ty: $($variant:ident = $word:literal),+;)+) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    )+};
}

// The words of the experiment file, of tables and of `summary.json`.
written_as! {
    Scheduling: None = "none", Sorted = "sorted";
    Fcr: Off = "off", Recompute = "recompute";
    Batching: Static = "static", Compacting = "compacting", Continuous = "continuous";
}

/// Everything that decides the micro-batches of an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleOptions {
    /// Requests that are scheduled together.
    pub group_size: usize,
    /// Rows of a micro-batch; slots where `batching` is continuous.
    pub batch_size: usize,
    /// Tokens at which every response is cut.
    pub max_new_tokens: usize,
    pub scheduling: Scheduling,
    /// Cell in tokens to which predictions are rounded up; 0 = no binning.
    pub binning: usize,
    /// Larger batches for shorter lengths; `None` = always `batch_size`.
    pub vbs: Option<VbsTable>,
    pub fcr: Fcr,
    pub batching: Batching,
}

impl Default for ScheduleOptions {
    /// The paper's vanilla: groups of 256, batches of 16, at most 512 new tokens.
    fn default() -> Self {
        ScheduleOptions {
            group_size: 256,
            batch_size: 16,
            max_new_tokens: 512,
            scheduling: Scheduling::None,
            binning: 0,
            vbs: None,
            fcr: Fcr::Off,
            batching: Batching::Static,
        }
    }
}

impl ScheduleOptions {
    /// The paper's full method: sorted, bins of 50, its VBS table, recomputation.
    pub fn paper() -> Self {
        ScheduleOptions {
            scheduling: Scheduling::Sorted,
            binning: 50,
            vbs: Some(VbsTable::default()),
            fcr: Fcr::Recompute,
            ..ScheduleOptions::default()
        }
    }

    /// Names the keys that are impossible or contradict each other.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Usage(message));
        for (key, value) in [
            ("group_size", self.group_size),
            ("batch_size", self.batch_size),
            ("max_new_tokens", self.max_new_tokens),
        ] {
            if value == 0 {
                return refuse(format!("`{key} = 0`: must be at least 1"));
            }
        }
        if let Some(table) = &self.vbs {
            table.validate()?;
        }
        let asked_for = [
            ("binning", self.binning > 0, self.binning.to_string()),
            ("vbs", self.vbs.is_some(), "true".to_owned()),
            ("fcr", self.fcr != Fcr::Off, format!("\"{}\"", self.fcr)),
        ];
        for (key, on, value) in &asked_for {
            if *on && self.batching == Batching::Continuous {
                return refuse(format!(
                    "`{key} = {value}` contradicts `batching = \"continuous\"`, which has no \
                     micro-batches; drop one of the two"
                ));
            }
            if *on && self.scheduling == Scheduling::None {
                return refuse(format!(
                    "`{key} = {value}` contradicts `scheduling = \"none\"`, which ignores \
                     predictions; set `scheduling = \"sorted\"` or drop `{key}`"
                ));
            }
        }
        Ok(())
    }

    /// Rows allowed in a micro-batch whose longest member is predicted at `length` tokens.
    pub fn rows_allowed(&self, length: f64) -> usize {
        match &self.vbs {
            Some(table) => table.rows(length).unwrap_or(self.batch_size),
            None => self.batch_size,
        }
        .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: ScheduleOptions) -> String {
        options.validate().expect_err("must be refused").to_string()
    }

    #[test]
    fn contradictions_name_both_keys() {
        let continuous = ScheduleOptions {
            batching: Batching::Continuous,
            ..ScheduleOptions::paper()
        };
        let message = refusal(continuous);
        assert!(message.contains("binning") && message.contains("continuous"));
        let vbs = refusal(ScheduleOptions {
            vbs: Some(VbsTable::default()),
            ..Default::default()
        });
        assert!(vbs.contains("vbs") && vbs.contains("scheduling"));
        let fcr = refusal(ScheduleOptions {
            fcr: Fcr::Recompute,
            ..Default::default()
        });
        assert!(fcr.contains("fcr = \"recompute\""));
    }

    #[test]
    fn zero_sizes_are_refused() {
        let message = refusal(ScheduleOptions {
            batch_size: 0,
            ..Default::default()
        });
        assert!(message.contains("batch_size"));
    }

    #[test]
    fn the_papers_settings_are_valid() {
        assert!(ScheduleOptions::default().validate().is_ok());
        assert!(ScheduleOptions::paper().validate().is_ok());
    }

    #[test]
    fn words_agree_with_serde() {
        for batching in [Batching::Static, Batching::Compacting, Batching::Continuous] {
            let json = serde_json::to_string(&batching).expect("serialises");
            assert_eq!(json, format!("\"{batching}\""));
        }
        let unknown = serde_json::from_str::<Fcr>("\"resume\"").expect_err("unknown");
        assert!(unknown.to_string().contains("recompute"));
    }
}
