//! Runs side by side: what differs in their configuration and environment, and what became of
//! every arm that they share.
//!
//! An arm of two runs is judged where the same was asked of both, in the same way: seed by seed
//! where the seeds are the same (the same requests in the same order), else by whether the
//! intervals overlap.

mod page;
pub mod record;
mod settings;

use std::path::PathBuf;

use serde::Serialize;

use super::wording::{ROUNDING, gain, has_interval};
use crate::error::{Error, Result};
use crate::evaluate::summary::Measure;

use record::{Metric, Record, Value};
use settings::{names_of, settings_of};

/// How far two runs differ in a metric of an arm that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The arm or the predictor.
    pub name: String,
    /// The metric with its unit.
    pub metric: String,
    /// Means, a run each, in the order they were named; none where a run has no such arm.
    pub means: Vec<Option<f64>>,
    /// The last run's less the first's, in the metric's unit.
    pub change: Option<f64>,
    /// The same, percent of the first's, where that is above zero.
    pub change_pct: Option<f64>,
    /// Its 95 % interval, where both ran the same requests under the same seeds.
    pub change_ci95: Option<[f64; 2]>,
    /// What is to be made of it.
    pub verdict: Verdict,
}

/// What a difference amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval of the change (or both intervals, where seeds differ) excludes none.
    Better,
    /// The same, the other way.
    Worse,
    /// It does not.
    Unsure,
    /// There is no interval, not both runs have the arm, or not the same was asked of both.
    Unknown,
    /// Nothing differs.
    Same,
}

impl Verdict {
    fn say(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Unsure => "unsure",
            Verdict::Unknown => "",
            Verdict::Same => "same",
        }
    }
}

/// Runs that were read to be compared.
#[derive(Debug)]
pub struct Comparison {
    names: Vec<String>,
    records: Vec<Record>,
}

impl Comparison {
    /// Reads the folders of two or more runs of one kind.
    ///
    /// # Errors
    /// Fewer than two, a folder that is no run's, or runs of different kinds.
    pub fn read(folders: &[PathBuf]) -> Result<Comparison> {
        if folders.len() < 2 {
            return Err(Error::Usage(
                "comparing takes at least two runs: --compare RUN1 RUN2".into(),
            ));
        }
        let records = (folders.iter())
            .map(|folder| Record::read(folder))
            .collect::<Result<Vec<Record>>>()?;
        let kind = |record: &Record| record.metrics[0].name;
        if let Some(place) = (1..records.len()).find(|&n| kind(&records[n]) != kind(&records[0])) {
            return Err(Error::Usage(format!(
                "{} is of another kind than {} ({} against {}): compare batches with batches, \
                 serving with serving, evaluations with evaluations",
                folders[place].display(),
                folders[0].display(),
                kind(&records[place]),
                kind(&records[0]),
            )));
        }
        let names = names_of(folders);
        Ok(Comparison { names, records })
    }

    fn metrics(&self) -> &'static [Metric] {
        self.records[0].metrics
    }

    /// Every arm of any run, in the order they come.
    fn arms(&self) -> Vec<&str> {
        let mut arms: Vec<&str> = Vec::new();
        for row in self.records.iter().flat_map(|r| &r.rows) {
            if !arms.contains(&row.name.as_str()) {
                arms.push(&row.name);
            }
        }
        arms
    }

    fn value(&self, run: usize, arm: &str, metric: usize) -> Option<&Value> {
        let row = self.records[run].rows.iter().find(|row| row.name == arm)?;
        row.values.get(metric).filter(|v| v.mean.is_finite())
    }

    /// Every arm in every metric.
    pub fn differences(&self) -> Vec<Difference> {
        let metrics = 0..self.metrics().len();
        metrics
            .flat_map(|metric| self.differences_in(metric))
            .collect()
    }

    /// Every arm in one metric.
    fn differences_in(&self, metric: usize) -> Vec<Difference> {
        let arms = self.arms().into_iter();
        arms.map(|arm| self.difference(metric, arm)).collect()
    }

    fn difference(&self, metric: usize, arm: &str) -> Difference {
        let all: Vec<Option<&Value>> = (0..self.records.len())
            .map(|run| self.value(run, arm, metric))
            .collect();
        let seeds = |run: usize| {
            let rows = &self.records[run].rows;
            rows.iter().find(|r| r.name == arm).map(|r| &r.seeds)
        };
        let last = self.records.len() - 1;
        let mut found = Difference {
            name: arm.to_string(),
            metric: self.metrics()[metric].name.to_string(),
            means: all.iter().map(|value| value.map(|v| v.mean)).collect(),
            change: None,
            change_pct: None,
            change_ci95: None,
            verdict: Verdict::Unknown,
        };
        if let (Some(first), Some(other)) = (all[0], all[last]) {
            let comparable = self.incomparable(arm).is_none();
            let paired = comparable
                && seeds(0) == seeds(last)
                && first.by_seed.len() > 1
                && first.by_seed.len() == other.by_seed.len();
            found.change = Some(other.mean - first.mean);
            if first.mean > 0.0 {
                found.change_pct = Some(100.0 * (other.mean / first.mean - 1.0));
            }
            if let Some(change) = paired.then(|| paired_change(first, other)).flatten() {
                found.change_pct = Some(change.mean);
                found.change_ci95 = has_interval(&change).then_some(change.ci95);
            }
            let more = self.metrics()[metric].more_is_better;
            if comparable {
                found.verdict = judged(first, other, paired, more);
            }
        }
        found
    }

    /// Why an arm of the last run cannot be judged against that of the first, if it cannot.
    fn incomparable(&self, arm: &str) -> Option<&'static str> {
        let last = self.records.len() - 1;
        let asked = |run: usize| {
            let mut rows = self.records[run].rows.iter();
            rows.find(|row| row.name == arm).map(|row| &row.asked)
        };
        if self.records[0].kind != self.records[last].kind {
            return Some("one is measured and the other is not, or not in the same way");
        }
        (asked(0) != asked(last)).then_some("not the same was asked of both")
    }

    /// Why nothing is judged, where that is so of every arm that both have.
    fn not_judged(&self) -> Option<&'static str> {
        let shared = |arm: &&str| {
            let has = |run: usize| self.records[run].rows.iter().any(|row| row.name == *arm);
            has(0) && has(self.records.len() - 1)
        };
        let arms: Vec<&str> = self.arms().into_iter().filter(shared).collect();
        let why: Vec<&'static str> = arms
            .iter()
            .filter_map(|arm| self.incomparable(arm))
            .collect();
        (!why.is_empty() && why.len() == arms.len()).then(|| why[0])
    }

    /// What the numbers are, in a word; or that they differ.
    fn kind(&self) -> &'static str {
        let kind = self.records[0].kind;
        match self.records.iter().all(|record| record.kind == kind) {
            true => kind,
            false => "not all alike",
        }
    }

    /// Headers and rows: every arm in every metric, the runs beside each other.
    pub fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let mut headers = vec!["arm".to_string(), "metric".to_string()];
        headers.extend(self.names.iter().cloned());
        headers.extend(["change", "verdict"].map(String::from));
        let all = (0..self.metrics().len()).flat_map(|metric| {
            self.differences_in(metric)
                .into_iter()
                .map(move |d| (metric, d))
        });
        let rows = all.map(|(metric, difference)| {
            let say = self.metrics()[metric].say;
            let cells = (0..self.records.len()).map(|run| {
                match self.value(run, &difference.name, metric) {
                    None => String::new(),
                    Some(value) => match value.interval {
                        None => say(value.mean),
                        Some([low, high]) => {
                            format!("{} [{}, {}]", say(value.mean), say(low), say(high))
                        }
                    },
                }
            });
            let cells: Vec<String> = cells.collect();
            let change = match (difference.change_pct, difference.change_ci95) {
                // Of nothing there are no percents.
                (None, _) => match difference.change {
                    Some(change) if change >= 0.0 => format!("+{}", say(change)),
                    Some(change) => say(change),
                    None => String::new(),
                },
                (Some(mean), None) => gain(mean),
                (Some(mean), Some([low, high])) => {
                    format!("{} [{}, {}]", gain(mean), gain(low), gain(high))
                }
            };
            let mut row = vec![difference.name, difference.metric];
            row.extend(cells);
            row.extend([change, difference.verdict.say().to_string()]);
            row
        });
        (headers, rows.collect())
    }

    /// The comparison in a sentence.
    pub fn finding(&self) -> String {
        let first = self.metrics()[0];
        let differences: Vec<Difference> = (self.differences_in(0).into_iter())
            .filter(|d| d.means.iter().all(Option::is_some))
            .collect();
        let [from, to] = [&self.names[0], &self.names[self.names.len() - 1]];
        let count = |verdict: Verdict| differences.iter().filter(|d| d.verdict == verdict).count();
        let shared = differences.len();
        if shared == 0 {
            return format!("“{from}” and “{to}” share no arm.");
        }
        let most = |judged: bool| {
            (differences.iter())
                .filter(|d| !judged || matches!(d.verdict, Verdict::Better | Verdict::Worse))
                .filter_map(|d| Some((d, d.change_pct?)))
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
                .map(|(d, change)| format!("; most in “{}”: {}", d.name, gain(change)))
                .unwrap_or_default()
        };
        if let Some(why) = self.not_judged() {
            return format!(
                "Not judged, since {why}: “{from}” beside “{to}”, {} of {shared} shared arms{}.",
                first.name,
                most(false)
            );
        }
        let mut text = format!(
            "From “{from}” to “{to}”, {} is better in {} and worse in {} of {shared} shared arms",
            first.name,
            count(Verdict::Better),
            count(Verdict::Worse)
        );
        for (verdict, said) in [
            (Verdict::Same, "the same"),
            (Verdict::Unsure, "unsure"),
            (Verdict::Unknown, "not judged"),
        ] {
            if count(verdict) > 0 {
                text.push_str(&format!(", {said} in {}", count(verdict)));
            }
        }
        format!("{text}{}.", most(count(Verdict::Unknown) < shared))
    }

    /// What differs between the runs beside their results: a key, and its value in each run.
    pub fn changed(&self) -> Vec<(String, Vec<String>)> {
        let configs: Vec<Vec<(String, String)>> = (self.records.iter()).map(settings_of).collect();
        let mut keys: Vec<&String> = Vec::new();
        for (key, _) in configs.iter().flatten() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of = |config: &[(String, String)], key: &str| {
            let found = config.iter().find(|(k, _)| k == key);
            found.map_or_else(|| "–".to_string(), |(_, value)| value.clone())
        };
        let changed = keys.into_iter().filter_map(|key| {
            let values: Vec<String> = configs.iter().map(|config| of(config, key)).collect();
            let differ = values.windows(2).any(|pair| pair[0] != pair[1]);
            differ.then(|| (key.clone(), values))
        });
        changed.collect()
    }
}

/// The change seed by seed, percent; none where a seed has nothing to change from.
fn paired_change(first: &Value, other: &Value) -> Option<Measure> {
    let changes: Vec<f64> = (first.by_seed.iter().zip(&other.by_seed))
        .map(|(a, b)| 100.0 * (b / a - 1.0))
        .collect();
    (changes.iter().all(|c| c.is_finite())).then(|| Measure::over(changes))
}

/// Judges by the differences seed by seed where these are pairs, else by whether the intervals
/// overlap.
fn judged(first: &Value, other: &Value, paired: bool, more: bool) -> Verdict {
    let alike = |a: f64, b: f64| (a - b).abs() <= ROUNDING * a.abs().max(b.abs());
    if alike(first.mean, other.mean)
        && (first.by_seed.iter().zip(&other.by_seed)).all(|(a, b)| alike(*a, *b))
    {
        return Verdict::Same;
    }
    let up = if paired {
        // Of nothing there are no percents, but differences.
        let differences = first.by_seed.iter().zip(&other.by_seed).map(|(a, b)| b - a);
        let change = paired_change(first, other)
            .filter(|_| first.mean > 0.0)
            .unwrap_or_else(|| Measure::over(differences.collect()));
        match change.ci95 {
            _ if !has_interval(&change) => return Verdict::Unknown,
            [low, high] if low > 0.0 || high < 0.0 => low > 0.0,
            _ => return Verdict::Unsure,
        }
    } else {
        match (first.interval, other.interval) {
            (Some(a), Some(b)) if a[1] < b[0] || b[1] < a[0] => a[1] < b[0],
            (Some(_), Some(_)) => return Verdict::Unsure,
            _ => return Verdict::Unknown,
        }
    };
    match up == more {
        true => Verdict::Better,
        false => Verdict::Worse,
    }
}

#[cfg(test)]
mod tests;
