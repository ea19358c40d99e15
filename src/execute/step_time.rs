//! The step-time model: how long a decode step and a prefill take, from the number of rows
//! and the positions they have reached. Named presets, TOML files written by `profile`, and
//! the least-squares fit behind those files. All times are seconds.

use std::collections::BTreeMap;
use std::path::Path;

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, misleads};
use crate::schedule::StepCost;

/// Step = `t0 + t1 * rows + t2 * (sum over rows of the position)`, and what `off_line` says of so
/// many rows; prefill of a batch = `p0 + p1 * prompt tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTimeModel {
    /// How tables and `summary.json` call it.
    pub name: String,
    /// What it was measured on, or where it was read.
    pub source: String,
    /// Seconds a step.
    pub t0: f64,
    /// Seconds a step and row.
    pub t1: f64,
    /// Seconds a step, row and position.
    pub t2: f64,
    /// Seconds a prefill.
    pub p0: f64,
    /// Seconds a prompt token.
    pub p1: f64,
    /// How far a step of so many rows is off the line, (rows, seconds), rows rising; between two
    /// of them the straight line, beyond them the nearest. Engines compute rows in tiles, so that
    /// nine can take as long as twelve. A schedule reckons without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off_line: Vec<(usize, f64)>,
}

/// No term takes longer, seconds.
const LONGEST: f64 = 1e6;

/// The presets that [`StepTimeModel::load`] knows by name; each file says where it is from.
pub const PRESETS: [(&str, &str); 9] = [
    ("paper", include_str!("presets/paper.toml")),
    (
        "smollm2-135m-2-cores",
        include_str!("presets/smollm2-135m-2-cores.toml"),
    ),
    ("llama-7b-h100", include_str!("presets/llama-7b-h100.toml")),
    (
        "llama-7b-a100-roofline",
        include_str!("presets/llama-7b-a100-roofline.toml"),
    ),
    (
        "llama-7b-h100-roofline",
        include_str!("presets/llama-7b-h100-roofline.toml"),
    ),
    (
        "llama-13b-a100-roofline",
        include_str!("presets/llama-13b-a100-roofline.toml"),
    ),
    (
        "llama-13b-h100-roofline",
        include_str!("presets/llama-13b-h100-roofline.toml"),
    ),
    (
        "llama-70b-4xa100-roofline",
        include_str!("presets/llama-70b-4xa100-roofline.toml"),
    ),
    (
        "llama-70b-4xh100-roofline",
        include_str!("presets/llama-70b-4xh100-roofline.toml"),
    ),
];

impl StepTimeModel {
    /// The paper's hardware, [`StepCost::PAPER`]; no cost of prefill is given.
    pub fn paper() -> Self {
        let StepCost { t0, t1, t2, .. } = StepCost::PAPER;
        StepTimeModel {
            name: "paper".into(),
            source: "read by eye from figures 3a and 3b of arXiv 2305.13144".into(),
            t0,
            t1,
            t2,
            p0: 0.0,
            p1: 0.0,
            off_line: Vec::new(),
        }
    }

    /// A preset by name, or else a TOML file by path.
    pub fn load(name_or_path: &str) -> Result<Self> {
        if let Some((_, text)) = PRESETS.iter().find(|(name, _)| *name == name_or_path) {
            return StepTimeModel::parse(text, Path::new(name_or_path));
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            return Err(Error::Usage(format!(
                "step time `{name_or_path}` is neither a preset ({}) nor a file; \
                 `lenaware profile` writes such a file",
                PRESETS.map(|(name, _)| name).join(", ")
            )));
        }
        let text = crate::regular_file::text_up_to(path, crate::regular_file::SETTINGS)?;
        StepTimeModel::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let model: StepTimeModel = toml::from_str(text)
            .map_err(|error| Error::malformed(path, error.to_string().trim_end()))?;
        if model.name.chars().any(misleads) {
            return Err(Error::malformed(
                path,
                "`name` has characters that are not shown",
            ));
        }
        let terms = [model.t0, model.t1, model.t2, model.p0, model.p1];
        if terms.iter().any(|t| !(0.0..=LONGEST).contains(t))
            || terms[..3].iter().sum::<f64>() == 0.0
        {
            return Err(Error::malformed(
                path,
                "t0, t1, t2, p0, p1 must be seconds from 0 to a million, and steps must take time",
            ));
        }
        let rising = model.off_line.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let takes = |(rows, off): &(usize, f64)| {
            off.abs() <= LONGEST && model.t0 + model.t1 * *rows as f64 + off > 0.0
        };
        if !rising || !model.off_line.iter().all(takes) {
            return Err(Error::malformed(
                path,
                "off_line must be [rows, seconds] with rising rows, and no step may take no time",
            ));
        }
        Ok(model)
    }

    /// Seconds of a step of so many rows at position 0.
    pub fn at_rows(&self, rows: usize) -> f64 {
        self.t0 + self.t1 * rows as f64 + self.off(rows)
    }

    /// How far a step of so many rows is off the line, seconds.
    pub(super) fn off(&self, rows: usize) -> f64 {
        let above = self.off_line.partition_point(|(knot, _)| *knot < rows);
        match (
            above.checked_sub(1).map(|i| self.off_line[i]),
            self.off_line.get(above),
        ) {
            (Some((low, from)), Some((high, to))) => {
                let share = (rows - low) as f64 / (high - low) as f64;
                from + share * (to - from)
            }
            (Some((_, off)), None) | (None, Some(&(_, off))) => off,
            (None, None) => 0.0,
        }
    }

    /// As a schedule reckons.
    pub fn cost(&self) -> StepCost {
        StepCost {
            t0: self.t0,
            t1: self.t1,
            t2: self.t2,
            batch: 0.0,
        }
    }

    /// The file that [`StepTimeModel::load`] reads.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Numeric(error.to_string()))
    }

    /// Where a prefill is charged it yields the first token; where it costs nothing (the
    /// paper's preset) the first token costs a step like every other.
    pub fn first_step(&self) -> usize {
        usize::from(self.p0 > 0.0 || self.p1 > 0.0)
    }

    /// `count` steps of `rows` rows whose positions add up to `context_sum` at the first one.
    pub fn steps(&self, rows: usize, context_sum: usize, count: usize) -> f64 {
        let fixed = self.at_rows(rows);
        let (rows, count) = (rows as f64, count as f64);
        // Every row moves on by one position a step.
        let positions = count * context_sum as f64 + rows * count * (count - 1.0) / 2.0;
        count * fixed + self.t2 * positions
    }

    /// One row's share of `count` steps from `position` on, without the step's own `t0`.
    pub(super) fn row(&self, position: usize, count: usize) -> f64 {
        let count = count as f64;
        let positions = count * position as f64 + count * (count - 1.0) / 2.0;
        self.t1 * count + self.t2 * positions
    }

    /// The prefill of a batch whose prompts have `tokens` tokens together.
    pub fn prefill(&self, tokens: usize) -> f64 {
        self.p0 + self.p1 * tokens as f64
    }
}

/// One measured decode step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepObservation {
    /// Sequences in the batch.
    pub rows: usize,
    /// Positions of all rows, added up.
    pub context_sum: usize,
    /// What the step took.
    pub seconds: f64,
}

/// One measured prefill.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrefillObservation {
    /// Prompt tokens of all rows.
    pub tokens: usize,
    /// What the prefill took.
    pub seconds: f64,
}

/// How far a model is from observations, relative to each observed time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FitError {
    /// Mean |predicted - observed| / observed.
    pub mean_relative: f64,
    /// The worst of them.
    pub max_relative: f64,
    /// How many there were.
    pub observations: usize,
}

/// Least squares of the relative errors for `(t0, t1, t2)` with none of them negative: a step of
/// few rows counts as much as one of many.
pub fn fit(observations: &[StepObservation]) -> Result<(f64, f64, f64)> {
    let rows: Vec<[f64; 3]> = observations
        .iter()
        .map(|o| [1.0, o.rows as f64, o.context_sum as f64])
        .collect();
    let seconds: Vec<f64> = observations.iter().map(|o| o.seconds).collect();
    let [t0, t1, t2] = relative_least_squares(&rows, &seconds)?;
    Ok((t0, t1, t2))
}

/// How far steps are off a model's line by their rows: the mean of each number of rows.
pub fn off_the_line(model: &StepTimeModel, observations: &[StepObservation]) -> Vec<(usize, f64)> {
    let mut by_rows: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
    for o in observations {
        let (sum, count) = by_rows.entry(o.rows).or_default();
        *sum += o.seconds - model.steps(o.rows, o.context_sum, 1);
        *count += 1;
    }
    let means = by_rows
        .into_iter()
        .map(|(rows, (sum, n))| (rows, sum / n as f64));
    // A step takes time, whatever the noise of a measurement says.
    means
        .filter(|(rows, off)| model.t0 + model.t1 * *rows as f64 + off > 0.0)
        .collect()
}

/// Least squares of the relative errors for `(p0, p1)` with none of them negative.
pub fn fit_prefill(observations: &[PrefillObservation]) -> Result<(f64, f64)> {
    let rows: Vec<[f64; 2]> = observations
        .iter()
        .map(|o| [1.0, o.tokens as f64])
        .collect();
    let seconds: Vec<f64> = observations.iter().map(|o| o.seconds).collect();
    let [p0, p1] = relative_least_squares(&rows, &seconds)?;
    Ok((p0, p1))
}

/// The error of `model` on decode steps it was not fitted to. `None` without observations.
pub fn held_out_error(model: &StepTimeModel, observations: &[StepObservation]) -> Option<FitError> {
    let relative: Vec<f64> = observations
        .iter()
        .filter(|o| o.seconds > 0.0)
        .map(|o| (model.steps(o.rows, o.context_sum, 1) - o.seconds).abs() / o.seconds)
        .collect();
    if relative.is_empty() {
        return None;
    }
    Some(FitError {
        mean_relative: relative.iter().sum::<f64>() / relative.len() as f64,
        max_relative: relative.iter().copied().fold(0.0, f64::max),
        observations: relative.len(),
    })
}

/// Non-negative least squares with every equation divided by its own right side.
fn relative_least_squares<const N: usize>(rows: &[[f64; N]], seconds: &[f64]) -> Result<[f64; N]> {
    let positive = |s: f64| s > 0.0 && s.is_finite();
    if !seconds.iter().all(|s| positive(*s)) {
        return Err(Error::Numeric(
            "a fit needs measured times above 0 seconds".into(),
        ));
    }
    let rows: Vec<[f64; N]> = (rows.iter().zip(seconds))
        .map(|(row, s)| row.map(|x| x / s))
        .collect();
    non_negative_least_squares(&rows, &vec![1.0; seconds.len()])
}

/// The best solution over all subsets of terms whose coefficients come out non-negative.
/// With at most three terms the subsets can simply be tried, which is exact; clamping an
/// unconstrained solution would bias the terms that stay.
fn non_negative_least_squares<const N: usize>(
    rows: &[[f64; N]],
    seconds: &[f64],
) -> Result<[f64; N]> {
    if rows.len() < N || seconds.iter().any(|s| !s.is_finite()) {
        return Err(Error::Numeric(format!(
            "a fit of {N} terms needs at least {N} finite measurements, there are {}",
            rows.len()
        )));
    }
    // Columns are scaled to 1 so that seconds a position are not lost beside seconds a step.
    let scale: [f64; N] = std::array::from_fn(|column| {
        let largest = rows.iter().map(|row| row[column].abs()).fold(0.0, f64::max);
        if largest > 0.0 { largest } else { 1.0 }
    });
    let target = DVector::from_column_slice(seconds);
    let mut best: Option<(f64, [f64; N])> = None;
    for subset in 1usize..(1 << N) {
        let columns: Vec<usize> = (0..N).filter(|c| subset & (1 << c) != 0).collect();
        let matrix = DMatrix::from_fn(rows.len(), columns.len(), |row, at| {
            rows[row][columns[at]] / scale[columns[at]]
        });
        let Ok(solution) = matrix.clone().svd(true, true).solve(&target, 1e-12) else {
            continue;
        };
        if solution.iter().any(|term| *term < 0.0 || !term.is_finite()) {
            continue;
        }
        let residual = (&matrix * &solution - &target).norm_squared();
        if best.as_ref().is_none_or(|(least, _)| residual < *least) {
            let mut terms = [0.0; N];
            for (at, column) in columns.iter().enumerate() {
                terms[*column] = solution[at] / scale[*column];
            }
            best = Some((residual, terms));
        }
    }
    best.map(|(_, terms)| terms)
        .ok_or_else(|| Error::Numeric("the measured times fit no non-negative model".into()))
}

#[cfg(test)]
#[path = "step_time_tests.rs"]
mod tests;
