//! Where the figures of an experiment with arrivals come from, in words, and what stands beside
//! the measured ones.

use crate::online::summary::OnlineSummary;

use crate::report::wording::{gain, headline, kind, number, origin};

/// A figure of the simulation that stands beside a live run.
const SIMULATED: &str = "simulated.makespan_s";

/// Whether a live run was simulated as well.
pub(super) fn compared(summary: &OnlineSummary) -> bool {
    let mut arms = summary.arms.iter();
    arms.any(|arm| arm.figures.contains_key(SIMULATED))
}

/// The origin as the headline of a table: simulation is shouted.
pub(super) fn shouted(summary: &OnlineSummary) -> String {
    let simulated = format!("SIMULATED with step-time model {}", summary.step_time);
    match &summary.executor {
        None => simulated,
        Some(executor) if compared(summary) => {
            format!("{}, and beside it {simulated}", headline(executor))
        }
        Some(executor) => headline(executor),
    }
}

/// Where the figures come from, as a part of a sentence.
pub(in crate::report) fn origin_of(summary: &OnlineSummary) -> String {
    match &summary.executor {
        Some(executor) => origin(executor),
        None => format!("simulated with the step times of {}", summary.step_time),
    }
}

/// The same as the beginning of a sentence.
pub(super) fn source(summary: &OnlineSummary) -> String {
    capital(&origin_of(summary))
}

/// `measured` or `simulated`: the word that no figure may lack.
pub(super) fn word(summary: &OnlineSummary) -> &'static str {
    summary.executor.as_ref().map_or("simulated", kind)
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// The last columns of a live run: its predictor's time, whether answers are the first arm's,
/// and the simulation of the same requests, each with its difference from what was measured.
pub(super) fn beside(summary: &OnlineSummary, headers: &mut Vec<String>, rows: &mut [Vec<String>]) {
    if summary.executor.is_none() {
        return;
    }
    let simulated = compared(summary);
    headers.extend(["predict s", "same answers"].map(String::from));
    if simulated {
        headers.extend(["simulated makespan", "simulated E2E mean"].map(String::from));
    }
    for (arm, row) in summary.arms.iter().zip(rows) {
        row.push(number(arm.mean("predict_s")));
        row.push(match arm.outputs_equal_first {
            Some(true) => "yes".into(),
            Some(false) => "NO".into(),
            None => "n/a".into(),
        });
        if simulated {
            for (path, of) in [
                (SIMULATED, "makespan"),
                ("simulated.e2e_s.mean", "e2e_mean"),
            ] {
                let off = arm.mean(&format!("simulated.{of}_difference_pct"));
                row.push(format!("{} ({})", number(arm.mean(path)), gain(off)));
            }
        }
    }
}

/// Where the figures come from.
pub(super) fn caption(summary: &OnlineSummary) -> String {
    let seeds = summary.arms.first().map_or(0, |arm| arm.seeds.len());
    let estimated = match summary.arms.first().map_or(0, |arm| arm.estimated_prompts) {
        0 => String::new(),
        count => format!(
            "; {count} prompts' lengths are not recorded and were estimated from their characters"
        ),
    };
    let seeds = match seeds {
        1 => "one seed".to_string(),
        n => format!("mean over {n} seeds [95 % interval]"),
    };
    format!(
        "{}: {}; arrivals: {}; {seeds}{estimated}",
        summary.experiment,
        shouted(summary),
        summary.arrivals
    )
}
