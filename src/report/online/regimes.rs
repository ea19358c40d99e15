//! The map of regimes: what policies gain over loads, rows and memory.

use crate::online::summary::{OnlineArmSummary, OnlineSummary};
use crate::report::figures::{Cell, HeatMap, Panel};
use crate::report::wording::grouped;

/// A predictor without the folder that it lies in.
fn short(predictor: &str) -> &str {
    predictor.rsplit('/').next().unwrap_or(predictor)
}

/// The map of loads, engines and policies, where arms vary over several loads.
pub(super) fn regimes(summary: &OnlineSummary, origin: &str) -> Option<HeatMap> {
    let arms = || {
        let compared = |arm: &&OnlineArmSummary| arm.compared_with != arm.name;
        summary.arms.iter().filter(compared)
    };
    let mut rates: Vec<f64> = arms().filter_map(|arm| arm.rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    if rates.len() < 2 {
        return None;
    }
    let mut panels: Vec<Panel> = Vec::new();
    for arm in arms() {
        let memory = match arm.kv_tokens {
            0 => "memory without end".to_string(),
            tokens => format!("{} tokens of memory", grouped(tokens as f64, 0)),
        };
        let title = format!("{} slots, {memory}", arm.slots);
        let mut name = format!("{}, {}", arm.rules(), short(&arm.predictor));
        if arm.noise > 0.0 {
            name += &format!(", noise {}", arm.noise);
        }
        let column = rates.iter().position(|rate| Some(*rate) == arm.rate)?;
        let panel = match panels.iter().position(|p| p.title == title) {
            Some(place) => place,
            None => {
                let rows = Vec::new();
                panels.push(Panel { title, rows });
                panels.len() - 1
            }
        };
        let rows = &mut panels[panel].rows;
        // Arms that differ in what the name does not say have rows of their own.
        let free = |row: &(String, Vec<Option<Cell>>)| row.0 == name && row.1[column].is_none();
        let row = match rows.iter().position(free) {
            Some(place) => place,
            None => {
                rows.push((name, vec![None; rates.len()]));
                rows.len() - 1
            }
        };
        let [low, high] = arm.e2e_gain_pct.ci95;
        rows[row].1[column] = Some(Cell {
            gain_pct: arm.e2e_gain_pct.mean,
            queue_formed: arm.queue_formed,
            sure: arm.queue_exceeds_batch && arm.seeds.len() > 1 && (low > 0.0 || high < 0.0),
        });
    }
    Some(HeatMap {
        title: "Where knowing the length pays: latency saved, percent".into(),
        subtitle: origin.to_string(),
        columns: rates.iter().map(|rate| format!("{rate}/s")).collect(),
        panels,
    })
}
