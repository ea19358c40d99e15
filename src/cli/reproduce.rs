//! `lenaware reproduce`: the arms of the paper's Table 5 beside the paper's own numbers.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::config::Experiment;
use crate::dataset::embedded::EMBEDDED;
use crate::error::Result;
use crate::evaluate::summary::{ArmSummary, Summary};
use crate::predictor::Workshop;
use crate::report::tables::text_table;
use crate::report::wording::{gain, headline, number, share};

use super::{Global, ablate};

const TABLE5: &str = include_str!("../../experiments/table5.toml");

/// (arm, gain in percent, average length): Table 5 of arXiv 2305.13144, Vicuna-7B tuned on the
/// max label; vanilla's length is Table 4's.
const PAPER: [(&str, Option<f64>, f64); 7] = [
    ("vanilla", None, 377.0),
    ("sorted", Some(42.0), 271.0),
    ("FCR", Some(44.0), 222.0),
    ("FCR + VBS", Some(82.0), 209.0),
    ("binning", Some(30.0), 300.0),
    ("binning + FCR", Some(52.0), 209.0),
    ("binning + FCR + VBS", Some(86.0), 203.0),
];

/// Replay the arms of the paper's Table 5 and set them beside the paper's numbers
///
/// The paper scheduled by its tuned Vicuna-7B, whose predictions are not published; the default
/// here, ground-truth, knows the longest of the recorded answers (the paper's Table 4: +107 %,
/// average length 201, with binning, FCR and VBS).
///
/// Example:
///   lenaware reproduce --dataset val.parquet
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A length dataset: the paper's lengths as `import` writes them, or any other
    #[arg(long, default_value = EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    /// The predictor that schedules
    #[arg(long, default_value = "ground-truth")]
    predictor: String,
    /// Where runs are kept
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut experiment = Experiment::parse(TABLE5, Path::new("experiments/table5.toml"))?;
    experiment.name = "reproduce".into();
    experiment.workload.dataset = arguments.dataset.display().to_string();
    for arm in &mut experiment.arms {
        if arm.predictor == "ground-truth" {
            arm.predictor.clone_from(&arguments.predictor);
        }
    }
    let workshop = Workshop::new(
        &experiment.executor.model,
        global.team(),
        global.shows_progress(),
        global.offline,
    );
    let run = ablate::execute(global, &experiment, &workshop, &arguments.results, false)?;
    if global.json {
        let paper: Vec<_> = PAPER
            .iter()
            .map(|(arm, gain, length)| {
                json!({"arm": arm, "improvement_pct": gain, "average_length": length})
            })
            .collect();
        println!("{}", json!({"summary": run.summary, "paper": paper}));
    } else {
        println!("{}\n", side_by_side(&run.summary));
        println!("{}", run.report.display());
    }
    Ok(())
}

fn side_by_side(summary: &Summary) -> String {
    let headers = [
        "arm",
        "gain",
        "paper's gain",
        "avg length",
        "paper's",
        "(full)",
        "effective",
        "(full)",
        "failures",
    ]
    .map(String::from);
    let rows: Vec<Vec<String>> = summary.arms.iter().map(row).collect();
    format!(
        "Table 5, {}\n\n{}",
        headline(&summary.executor),
        text_table(&headers, &rows)
    )
}

fn row(arm: &ArmSummary) -> Vec<String> {
    let paper = PAPER.iter().find(|(name, ..)| *name == arm.name);
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    vec![
        arm.name.clone(),
        gain(arm.improvement_pct.mean),
        known(paper.and_then(|p| p.1).map(gain)),
        number(arm.average_length.mean),
        known(paper.map(|p| number(p.2))),
        number(arm.average_length_full.mean),
        share(arm.effective_token_ratio.mean),
        share(arm.effective_token_ratio_full.mean),
        share(arm.failure_ratio.mean),
    ]
}
