//! `lenaware describe`: what a length dataset holds.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::dataset::describe::{Description, Drawing, Lengths, describe};
use crate::dataset::embedded::EMBEDDED;
use crate::dataset::{Known, Label};
use crate::error::Result;
use crate::evaluate::predictor_metrics::Accuracy;
use crate::report::figures;
use crate::report::tables::text_table;
use crate::report::wording::{grouped, share};

use super::{Global, progress};

/// Categories in the table; --json has all.
const SHOWN_CATEGORIES: usize = 24;

/// Describe a length dataset: how long, how spread, how predictable its responses are
///
/// Lengths are in tokens. `≥` marks a lower bound: responses that were cut off would have been
/// longer. --figures draws the histogram of the lengths (Figure 2a of the paper) and the spread
/// of each instruction's samples (2b).
///
/// Examples:
///   lenaware describe
///   lenaware describe val.parquet --figures figures
///   lenaware --json describe azure.parquet
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A length dataset: a Parquet file, a folder of build-dataset, or `embedded`
    #[arg(default_value = EMBEDDED, value_name = "DATASET")]
    dataset: PathBuf,
    /// What is to be predicted of an instruction's samples: max, mean or a quantile
    #[arg(long, value_name = "LABEL", default_value = "max")]
    label: String,
    /// Draw lengths.svg and spread.svg (and .png) into this folder
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let label: Label = arguments.label.parse()?;
    if arguments.dataset != Path::new(EMBEDDED) {
        progress::say(global, &format!("reading {}", arguments.dataset.display()));
    }
    let (description, drawing) = describe(&arguments.dataset, label)?;
    let drawn = match &arguments.figures {
        Some(folder) => draw(&description, &drawing, folder)?,
        None => Vec::new(),
    };
    if global.json {
        let mut out = json!(description);
        out["dataset"] = json!(arguments.dataset);
        out["figures"] = json!(drawn);
        println!("{out}");
        return Ok(());
    }
    print(&arguments.dataset, &description);
    for path in &drawn {
        println!("figure: {}", path.display());
    }
    if arguments.figures.is_some() && drawing.instructions.is_empty() {
        progress::say(
            global,
            "no figure of the spread: no instruction has several samples",
        );
    }
    Ok(())
}

/// Draws what there is to draw; the SVG files.
fn draw(description: &Description, drawing: &Drawing, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut drawn = Vec::new();
    let stem = folder.join("lengths");
    let limit = description.max_new_tokens;
    figures::lengths_by_temperature(&stem, &drawing.lengths, limit)?;
    drawn.push(stem.with_extension("svg"));
    if !drawing.instructions.is_empty() {
        let stem = folder.join("spread");
        figures::length_spread(&stem, &drawing.instructions)?;
        drawn.push(stem.with_extension("svg"));
    }
    Ok(drawn)
}

fn count(n: usize) -> String {
    grouped(n as f64, 0)
}

fn tokens(value: f64) -> String {
    grouped(value, usize::from(value < 100.0 && value.fract() != 0.0))
}

fn print(dataset: &Path, d: &Description) {
    let limit = match d.max_new_tokens {
        Some(limit) => format!("up to {} tokens", grouped(f64::from(limit), 0)),
        None => "limit unknown".into(),
    };
    println!(
        "{}: {} samples of {} instructions, {limit}; model: {}",
        dataset.display(),
        count(d.overall.samples),
        count(d.instructions),
        crate::error::visible(&d.model)
    );
    match d.finish_reasons {
        Known::Assumed => {
            println!("censoring unknown: the source does not say why responses ended");
        }
        Known::Inferred => println!("cut off: concluded from lengths at the limit"),
        Known::Recorded => {}
    }
    let headers = [
        "responses",
        "samples",
        "cut off",
        "mean",
        "95 % interval",
        "median",
        "p90",
        "p99",
        "min",
        "max",
    ]
    .map(String::from);
    let mut rows = vec![row("all", &d.overall)];
    if d.temperatures == Known::Assumed {
        rows[0][0] = "all (temperature unknown)".into();
    } else {
        let named = |t: f32| format!("temperature {t}");
        rows.extend(
            d.by_temperature
                .iter()
                .map(|g| row(&named(g.name), &g.lengths)),
        );
    }
    rows.extend(d.by_category.iter().take(SHOWN_CATEGORIES).map(|g| {
        let name = if g.name.is_empty() {
            "(no category)"
        } else {
            &g.name
        };
        row(name, &g.lengths)
    }));
    print!("\n{}", text_table(&headers, &rows));
    if d.by_category.len() > SHOWN_CATEGORIES {
        let more = d.by_category.len() - SHOWN_CATEGORIES;
        println!("and {} smaller categories (--json has them)", count(more));
    }
    println!();
    within(d);
    loops(d);
    if let Some(p) = d.prompt_tokens {
        println!(
            "prompts: {} known, mean {}, median {}, p90 {}, p99 {}, {} to {} tokens",
            count(p.instructions),
            tokens(p.mean),
            tokens(p.median),
            tokens(p.p90),
            tokens(p.p99),
            tokens(p.min),
            tokens(p.max)
        );
    }
    if let Some(a) = d.arrivals {
        let rate = match (a.rate_per_s, a.gap_variation) {
            (Some(rate), Some(variation)) => format!(
                "{rate:.3} a second, coefficient of variation of the gaps {variation:.2} \
                 (Poisson: 1)"
            ),
            _ => "all at once".into(),
        };
        println!(
            "arrivals: {} requests in {} s, {rate}",
            count(a.requests),
            grouped(a.duration_s, 1)
        );
    }
}

fn within(d: &Description) {
    if let Some(s) = d.within_instruction {
        let between = match s.intraclass_correlation {
            Some(icc) => format!("{icc:.2} of the variance is between instructions (ICC)"),
            None => "the variance has no parts".into(),
        };
        println!(
            "samples of one instruction: longest - shortest {} tokens, standard deviation {} \
             (means over {} instructions); {between}",
            tokens(s.mean_range),
            tokens(s.mean_deviation),
            count(s.instructions)
        );
    }
    let bound = |name: &str, a: &Accuracy| {
        format!(
            "{name}: Error {:.1}, Acc-50 {}, Acc-100 {}",
            a.error,
            share(a.acc_50),
            share(a.acc_100)
        )
    };
    let label = &d.prediction.label;
    println!(
        "predicting the {label} length, {}",
        bound("floor (always the median)", &d.prediction.floor)
    );
    if let Some(ceiling) = &d.prediction.ceiling {
        println!(
            "predicting the {label} length, {}",
            bound("noise ceiling (the coldest sample, scaled)", ceiling)
        );
    }
}

fn loops(d: &Description) {
    if let Some(l) = d.loops {
        println!(
            "looping at the end: {} of {} texts ({}): {} of {} that ended, {} of {} cut off",
            count(l.looping),
            count(l.with_text),
            share(l.looping as f64 / l.with_text as f64),
            count(l.ended_looping),
            count(l.ended_with_text),
            count(l.cut_looping),
            count(l.cut_with_text)
        );
    }
}

fn row(name: &str, lengths: &Lengths) -> Vec<String> {
    // From the first length that was cut off on, only a lower bound is known.
    let bound = |value: f64| match lengths.cut_from {
        Some(from) if value >= f64::from(from) => format!("≥ {}", tokens(value)),
        _ => tokens(value),
    };
    let mean = match lengths.cut_from {
        Some(_) => format!("≥ {}", tokens(lengths.mean)),
        None => tokens(lengths.mean),
    };
    vec![
        name.into(),
        count(lengths.samples),
        lengths.censored.map_or("unknown".into(), share),
        mean,
        lengths.mean_ci95.map_or("-".into(), |[low, high]| {
            format!("{} to {}", tokens(low), tokens(high))
        }),
        bound(lengths.median),
        bound(lengths.p90),
        bound(lengths.p99),
        grouped(f64::from(lengths.min), 0),
        bound(f64::from(lengths.max)),
    ]
}
