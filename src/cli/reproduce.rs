//! `lenaware reproduce`: the paper's tables and figures beside the paper's own numbers.

mod page;
mod paper;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::config::Experiment;
use crate::dataset::Label;
use crate::dataset::describe::describe;
use crate::dataset::embedded::EMBEDDED;
use crate::error::Result;
use crate::execute::StepTimeModel;
use crate::experiment::Run;
use crate::predictor::{folds, known};
use crate::report::tables::text_table;

use super::{Global, ablate, progress};

/// Where the experiment files expect what experiments/predictors.sh trains.
const TRAINED: &str = "./runs/predictors/";

/// Replay the paper's tables and figures and set them beside the paper's numbers
///
/// Tables 4 and 5, the table of the reference code's README, and the figures; then what the
/// same predictions give to schedules past the paper. Simulated, with the paper's step times.
///
/// The paper scheduled by its tuned Vicuna-7B, whose predictions are not published; the default
/// here, lexical-folds, foresees each request by its words, learnt from the other requests. Table 4
/// has the predictors that are found in --runs (experiments/predictors.sh trains them).
///
/// Examples:
///   lenaware reproduce
///   lenaware reproduce --dataset val.parquet --predictor ./runs/predictors/stack
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A length dataset: the paper's lengths as `import` writes them, or any other
    #[arg(long, default_value = EMBEDDED, value_name = "PATH")]
    dataset: PathBuf,
    /// The predictor that schedules, named as for evaluate
    #[arg(long, value_name = "NAME|DIR", default_value = folds::NAME)]
    predictor: String,
    /// The folder of Table 4's trained predictors
    #[arg(long, default_value = TRAINED, value_name = "DIR")]
    runs: PathBuf,
    /// Where runs are kept
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// Go on with the latest reproduction; finished arms are kept
    #[arg(long)]
    resume: bool,
}

macro_rules! shipped {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../experiments/", $name, ".toml")),
        )
    };
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let mut notes = Vec::new();
    let table4 = run_one(global, arguments, shipped!("table4"), &mut notes)?;
    let table5 = run_one(global, arguments, shipped!("table5"), &mut notes)?;
    let readme = run_one(global, arguments, shipped!("readme"), &mut notes)?;
    let beyond = run_one(global, arguments, shipped!("beyond"), &mut notes)?;
    let group_size = run_one(global, arguments, shipped!("group-size"), &mut notes)?;
    let batch_size = run_one(global, arguments, shipped!("batch-size"), &mut notes)?;
    let compared = [
        ("table4", "Table 4, predictors", &table4),
        ("table5", "Table 5, ablation", &table5),
        (
            "readme",
            "The reference code's README, 1,024 prompts",
            &readme,
        ),
    ];
    let mut tables: Vec<page::Table> = (compared.iter())
        .map(|(_, title, run)| page::side_by_side(title, &run.summary))
        .collect();
    tables.push(page::plain("Past the paper", &beyond.summary));
    let folder = table5.directory.join("reproduction");
    let (description, drawing) = describe(&arguments.dataset, Label::Max)?;
    if !description.model.to_lowercase().contains("vicuna") {
        notes.push(format!(
            "These are lengths of {}: the paper's numbers, of Vicuna-7B's, stand beside ours for \
             orientation. Its own data: README, “Reproduce the paper”",
            description.model
        ));
    }
    let step_time = StepTimeModel::paper();
    let drawn = page::draw(
        &folder,
        (&description, &drawing),
        &page::Runs {
            table5: &table5,
            beyond: &beyond,
            group_size: &group_size,
            batch_size: &batch_size,
            step_time: &step_time,
        },
    )?;
    let report = page::write(&folder, &table5, &tables, &drawn, notes.clone())?;
    if global.json {
        let compared: serde_json::Map<_, _> = (compared.iter())
            .map(|(name, _, run)| {
                let paper: Vec<_> = (run.summary.arms.iter())
                    .filter_map(|arm| {
                        let mut said = json!(arm.published?);
                        said["arm"] = json!(arm.name);
                        Some(said)
                    })
                    .collect();
                let both = json!({"summary": run.summary, "paper": paper});
                (name.to_string(), both)
            })
            .collect();
        let mut out = json!(compared);
        out["beyond"] = json!({"summary": beyond.summary});
        out["group_size"] = json!({"summary": group_size.summary});
        out["batch_size"] = json!({"summary": batch_size.summary});
        out["report"] = json!(report);
        println!("{out}");
    } else {
        for (title, headers, rows) in &tables {
            println!("{title}\n\n{}\n", text_table(headers, rows));
        }
        for note in &notes {
            progress::say(global, note);
        }
        println!("{}", report.display());
    }
    Ok(())
}

/// Runs a shipped experiment on the dataset, with the predictor in the place of `ground-truth`
/// where the arm is not named after it, and without arms whose predictor is not trained.
fn run_one(
    global: &Global,
    arguments: &Arguments,
    (name, text): (&str, &str),
    notes: &mut Vec<String>,
) -> Result<Run> {
    let file = format!("experiments/{name}.toml");
    let mut experiment = Experiment::parse(text, Path::new(&file))?;
    experiment.name = format!("reproduce-{name}");
    experiment.workload.dataset = arguments.dataset.display().to_string();
    experiment.arms.retain_mut(|arm| {
        if let Some(trained) = arm.predictor.strip_prefix(TRAINED) {
            let path = arguments.runs.join(trained);
            if !path.join("predictor.json").exists() {
                notes.push(format!(
                    "{name} is without the arm `{}`: {} is not trained",
                    arm.name,
                    path.display()
                ));
                return false;
            }
            // A path is told from a name by its slash.
            arm.predictor = match path.is_absolute() || path.starts_with(".") {
                true => path.display().to_string(),
                false => format!("./{}", path.display()),
            };
        } else if [folds::NAME, known::GROUND_TRUTH].contains(&arm.predictor.as_str())
            && !arm.name.starts_with("ground truth")
        {
            arm.predictor.clone_from(&arguments.predictor);
        }
        true
    });
    ablate::say_what_is_run(global, &experiment);
    let workshop = global.workshop(&experiment.executor.model)?;
    // Arms of an interrupted reproduction are kept, and gone on with here.
    ablate::execute(
        global,
        &experiment,
        &workshop,
        &arguments.results,
        arguments.resume,
    )
}
