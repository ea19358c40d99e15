//! What a length dataset holds: counts, lengths by temperature and category, how far samples
//! of one instruction are apart, what that leaves to be predicted, repetition, and arrivals.
//! Every figure is defined in `datasets/README.md`.

mod columns;
mod looping;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::evaluate::predictor_metrics::{Accuracy, scaled_to};
use crate::evaluate::spread::{Spread, clustered_interval, spread};
use crate::evaluate::statistics::{mean, median, quantile_of_sorted};

use super::{Known, Label, Provenance};
use columns::{Columns, Grouped, NONE};

pub use looping::is_looping;

/// The lengths of some samples, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lengths {
    /// How many responses.
    pub samples: usize,
    /// Share that was cut off; `None` where the file does not know why responses ended.
    pub censored: Option<f64>,
    /// The shortest length that was cut off: a mean with such, and quantiles from there on, are
    /// lower bounds.
    pub cut_from: Option<u32>,
    /// Arithmetic mean.
    pub mean: f64,
    /// 95 % interval of the mean, Student's t over instructions; `None` for fewer than two.
    pub mean_ci95: Option<[f64; 2]>,
    /// The 0.5-quantile, interpolated as [`crate::evaluate::statistics::quantile`] does; so the
    /// others.
    pub median: f64,
    /// The 0.9-quantile.
    pub p90: f64,
    /// The 0.99-quantile.
    pub p99: f64,
    /// The shortest; 0 where there is none.
    pub min: u32,
    /// The longest; 0 where there is none.
    pub max: u32,
}

/// The lengths of one temperature or category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group<N> {
    /// The temperature, or the category: empty for samples without one.
    pub name: N,
    /// Of its samples.
    #[serde(flatten)]
    pub lengths: Lengths,
}

/// Looping responses among those whose text is there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Loops {
    /// Responses whose text is there: those that ended and those that were cut off.
    pub with_text: usize,
    /// Those of them that loop ([`is_looping`]).
    pub looping: usize,
    /// Responses with text that ended by themselves.
    pub ended_with_text: usize,
    /// Those of them that loop.
    pub ended_looping: usize,
    /// Responses with text that the limit cut off.
    pub cut_with_text: usize,
    /// Those of them that loop.
    pub cut_looping: usize,
}

/// Lengths of the prompts, an instruction each, where known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prompts {
    /// Instructions whose prompt's length is known.
    pub instructions: usize,
    /// Mean, in tokens, as all that follow.
    pub mean: f64,
    /// The 0.5-quantile.
    pub median: f64,
    /// The 0.9-quantile.
    pub p90: f64,
    /// The 0.99-quantile.
    pub p99: f64,
    /// The shortest.
    pub min: f64,
    /// The longest.
    pub max: f64,
}

/// When the requests came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Arrivals {
    /// Samples whose time of arrival is recorded.
    pub requests: usize,
    /// From the first to the last, seconds.
    pub duration_s: f64,
    /// Requests a second: gaps / duration. `None` where all came at once.
    pub rate_per_s: Option<f64>,
    /// Burstiness: standard deviation of the gaps / their mean. 0 for a clockwork, 1 for
    /// Poisson arrivals, more for bursts. `None` where all came at once.
    pub gap_variation: Option<f64>,
}

/// What a predictor can reach: always the median label, and one real answer to each
/// instruction. As `evaluate` has them, over all instructions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bounds {
    /// What is foreseen, as [`Label`] writes it.
    pub label: String,
    /// Of always saying the median label.
    pub floor: Accuracy,
    /// Of one real answer, scaled by the one best factor; `None` where no instruction has two
    /// samples.
    pub ceiling: Option<Accuracy>,
}

/// Everything `describe` says about a dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Whose responses these are.
    pub model: String,
    /// `None` where unknown.
    pub max_new_tokens: Option<u32>,
    /// How it is known why responses ended.
    pub finish_reasons: Known,
    /// How temperatures are known.
    pub temperatures: Known,
    /// Different instructions.
    pub instructions: usize,
    /// All samples together.
    pub overall: Lengths,
    /// Ascending.
    pub by_temperature: Vec<Group<f32>>,
    /// The most frequent first.
    pub by_category: Vec<Group<String>>,
    /// How far samples of one instruction are apart; `None` where none has two.
    pub within_instruction: Option<Spread>,
    /// What is left to be predicted.
    pub prediction: Bounds,
    /// `None` where no response's text is there.
    pub loops: Option<Loops>,
    /// `None` where no prompt's length is known.
    pub prompt_tokens: Option<Prompts>,
    /// `None` where no arrival is recorded.
    pub arrivals: Option<Arrivals>,
}

/// Lengths under one temperature (`None` where unknown), and which of them were cut off.
pub type TemperatureLengths = (Option<f32>, Vec<(u32, bool)>);

/// What the figures are drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// Temperatures ascending.
    pub lengths: Vec<TemperatureLengths>,
    /// (mean, shortest, longest) of each instruction with several samples, by mean.
    pub instructions: Vec<(f64, f64, f64)>,
}

/// Describes the dataset that `name` stands for (`embedded`, a Parquet file, a folder of
/// `build-dataset`), with `label` for what is to be predicted. The file is read batch by batch,
/// and only its columns of numbers stay in memory.
///
/// # Errors
/// A file that is missing, malformed or empty.
pub fn describe(name: &Path, label: Label) -> Result<(Description, Drawing)> {
    Ok(described(&columns::read(name)?, label))
}

/// As [`describe`], with where the dataset is from instead of what is drawn.
///
/// # Errors
/// As there.
pub fn describe_with_provenance(name: &Path, label: Label) -> Result<(Description, Provenance)> {
    let columns = columns::read(name)?;
    let (description, _) = described(&columns, label);
    Ok((description, columns.provenance))
}

fn described(columns: &Columns, label: Label) -> (Description, Drawing) {
    let all = columns.by_instruction();
    let mut by_temperature: Vec<Group<f32>> = columns
        .temperatures
        .iter()
        .zip(rows_by(&columns.temperature, columns.temperatures.len()))
        .map(|(&name, rows)| Group {
            name,
            lengths: lengths(columns, rows),
        })
        .collect();
    by_temperature.sort_by(|a, b| a.name.total_cmp(&b.name));
    let description = Description {
        model: columns.provenance.model.clone(),
        max_new_tokens: Some(columns.provenance.max_new_tokens).filter(|&n| n > 0),
        finish_reasons: columns.provenance.finish_reasons,
        temperatures: columns.provenance.temperatures,
        instructions: columns.instructions,
        overall: lengths(columns, (0..columns.lengths.len()).collect()),
        by_temperature,
        by_category: by_category(columns),
        within_instruction: spread(all.iter()),
        prediction: bounds(columns, &all, label),
        loops: loops(columns),
        prompt_tokens: prompts(&columns.prompt_tokens),
        arrivals: arrivals(&columns.arrivals),
    };
    let drawing = Drawing {
        lengths: lengths_to_draw(columns),
        instructions: instructions_to_draw(&all),
    };
    (description, drawing)
}

/// The rows of each of `count` groups, and last those of no group.
fn rows_by(groups: &[u32], count: usize) -> Vec<Vec<usize>> {
    let mut rows = vec![Vec::new(); count + 1];
    for (row, &group) in groups.iter().enumerate() {
        let group = match group {
            NONE => count,
            group => group as usize,
        };
        rows[group].push(row);
    }
    rows
}

/// The lengths in some rows.
fn lengths(columns: &Columns, mut rows: Vec<usize>) -> Lengths {
    rows.sort_by_key(|&row| columns.instruction[row]);
    let ordered: Vec<u32> = rows.iter().map(|&row| columns.lengths[row]).collect();
    let mut sizes = rows
        .chunk_by(|&a, &b| columns.instruction[a] == columns.instruction[b])
        .map(<[usize]>::len);
    let mut rest = ordered.as_slice();
    let by_instruction: Vec<&[u32]> = std::iter::from_fn(|| {
        let (group, others) = rest.split_at(sizes.next()?);
        rest = others;
        Some(group)
    })
    .collect();
    let cut = || rows.iter().filter(|&&row| columns.cut[row]);
    let mut sorted: Vec<f64> = ordered.iter().map(|&l| f64::from(l)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let end = |value: Option<&f64>| value.map_or(0, |&v| v as u32);
    let known = columns.provenance.finish_reasons != Known::Assumed;
    Lengths {
        samples: sorted.len(),
        censored: known.then(|| cut().count() as f64 / sorted.len() as f64),
        cut_from: cut().map(|&row| columns.lengths[row]).min(),
        mean: mean(&sorted),
        mean_ci95: clustered_interval(by_instruction.iter().copied()),
        median: quantile_of_sorted(&sorted, 0.5),
        p90: quantile_of_sorted(&sorted, 0.9),
        p99: quantile_of_sorted(&sorted, 0.99),
        min: end(sorted.first()),
        max: end(sorted.last()),
    }
}

/// The categories' lengths; those without one are a group of no name where others have one.
fn by_category(columns: &Columns) -> Vec<Group<String>> {
    if columns.categories.is_empty() {
        return Vec::new();
    }
    let names = columns.categories.iter().map(String::as_str).chain([""]);
    let mut groups: Vec<Group<String>> = names
        .zip(rows_by(&columns.category, columns.categories.len()))
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(name, rows)| Group {
            name: name.to_string(),
            lengths: lengths(columns, rows),
        })
        .collect();
    groups.sort_by(|a, b| {
        let order = b.lengths.samples.cmp(&a.lengths.samples);
        order.then_with(|| a.name.cmp(&b.name))
    });
    groups
}

fn bounds(columns: &Columns, all: &Grouped, label: Label) -> Bounds {
    let (mut labels, mut known, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    for (lengths, rows) in all.iter_with_rows() {
        let floats: Vec<f64> = lengths.iter().map(|&l| f64::from(l)).collect();
        let wanted = label.of(&floats);
        labels.push(wanted);
        let temperature =
            |&at: &usize| columns.temperatures[columns.temperature[rows[at] as usize] as usize];
        if lengths.len() >= 2 {
            let coldest =
                (0..lengths.len()).min_by(|a, b| temperature(a).total_cmp(&temperature(b)));
            known.push(floats[coldest.unwrap_or(0)]);
            truth.push(wanted);
        }
    }
    let constant = median(&labels);
    Bounds {
        label: label.to_string(),
        floor: Accuracy::of(labels.iter().map(|_| constant), &labels),
        ceiling: (!known.is_empty()).then(|| Accuracy::of(scaled_to(&known, &truth), &truth)),
    }
}

fn loops(columns: &Columns) -> Option<Loops> {
    let ([ended, cut], [ended_looping, cut_looping]) = (columns.with_text, columns.looping);
    (ended + cut > 0).then_some(Loops {
        with_text: ended + cut,
        looping: ended_looping + cut_looping,
        ended_with_text: ended,
        ended_looping,
        cut_with_text: cut,
        cut_looping,
    })
}

fn prompts(prompt_tokens: &[u32]) -> Option<Prompts> {
    let known = prompt_tokens.iter().filter(|&&n| n > 0);
    let mut sorted: Vec<f64> = known.map(|&n| f64::from(n)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| Prompts {
        instructions: sorted.len(),
        mean: mean(&sorted),
        median: quantile_of_sorted(&sorted, 0.5),
        p90: quantile_of_sorted(&sorted, 0.9),
        p99: quantile_of_sorted(&sorted, 0.99),
        min: sorted[0],
        max: sorted[sorted.len() - 1],
    })
}

fn arrivals(arrivals: &[f64]) -> Option<Arrivals> {
    let mut sorted = arrivals.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let duration = sorted.last()? - sorted.first()?;
    let gaps: Vec<f64> = sorted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let average = mean(&gaps);
    let spreads = average > 0.0;
    Some(Arrivals {
        requests: sorted.len(),
        duration_s: duration,
        rate_per_s: spreads.then(|| 1.0 / average),
        gap_variation: spreads.then(|| {
            let squares: Vec<f64> = gaps.iter().map(|g| (g - average).powi(2)).collect();
            mean(&squares).sqrt() / average
        }),
    })
}

fn lengths_to_draw(columns: &Columns) -> Vec<TemperatureLengths> {
    let known = columns.provenance.temperatures != Known::Assumed;
    let mut groups: Vec<TemperatureLengths> = columns
        .temperatures
        .iter()
        .map(|&t| (known.then_some(t), Vec::new()))
        .collect();
    for (row, &group) in columns.temperature.iter().enumerate() {
        groups[group as usize]
            .1
            .push((columns.lengths[row], columns.cut[row]));
    }
    groups.sort_by(|a, b| a.0.unwrap_or(0.0).total_cmp(&b.0.unwrap_or(0.0)));
    groups
}

fn instructions_to_draw(all: &Grouped) -> Vec<(f64, f64, f64)> {
    let several = all.iter().filter(|lengths| lengths.len() >= 2);
    let mut drawn: Vec<(f64, f64, f64)> = several
        .map(|lengths| {
            let sum: f64 = lengths.iter().map(|&l| f64::from(l)).sum();
            let low = lengths.iter().copied().min().unwrap_or(0);
            let high = lengths.iter().copied().max().unwrap_or(0);
            (sum / lengths.len() as f64, f64::from(low), f64::from(high))
        })
        .collect();
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    drawn
}
