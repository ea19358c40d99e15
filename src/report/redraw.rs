//! Redraws the figures and the page of a run from the data in its folder alone.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::evaluate::summary::{ArmRun, ArmSummary};

use super::page::{Gallery, MOST_DRAWN, Page};
use super::run_dir::{RunData, read_run};
use super::{figures, wording};

/// Draws `figures/*` and `report.html` of the run in `folder`; returns the page's path.
///
/// # Errors
/// Data that is missing or damaged, or files that cannot be written.
pub fn draw_run(folder: &Path) -> Result<PathBuf> {
    let data = read_run(folder)?;
    let summary = &data.summary;
    let (shown, left_out) = drawn(&summary.arms);
    let (arms, executor) = (&shown, &summary.executor);
    let word = wording::kind(executor);
    let mut gallery = Gallery::new(folder);
    if !arms.is_empty() {
        let caption = format!("Requests finished per second, {word}.{left_out}");
        gallery.add("throughput", caption, |stem| {
            figures::throughput_bars(stem, arms, executor)
        })?;
        let caption = format!(
            "Share of the computed tokens that were part of an answer, in both accountings.{left_out}"
        );
        gallery.add("effective-tokens", caption, |stem| {
            figures::effective_tokens_bars(stem, arms, executor)
        })?;
    }
    if let Some(difference) = figures::mean_difference(arms) {
        let caption = format!(
            "Throughput as measured and as the experiment's step-time model has it: a mean \
             difference of {}.",
            wording::share(difference)
        );
        gallery.add("agreement", caption, |stem| {
            figures::agreement(stem, arms, executor)
        })?;
    }
    if let Some((upper, lower)) = schedules(&data) {
        let caption = format!(
            "Micro-batches over time, seed {}: “{}” above, “{}” below.",
            upper.seed, upper.arm, lower.arm
        );
        gallery.add("schedule", caption, |stem| {
            figures::schedule_diagram(
                stem,
                &upper.batches,
                &lower.batches,
                (&upper.arm, &lower.arm),
                &wording::origin(executor),
            )
        })?;
    }
    let page = Page {
        title: summary.experiment.clone(),
        summary: Some(summary.clone()),
        figures: gallery.into_figures(),
        notes: summary.notes.clone(),
        config_toml: data.config.clone(),
        environment_json: match &data.environment {
            serde_json::Value::Null => String::new(),
            known => known.to_string(),
        },
        ..Page::default()
    };
    page.write(folder)
}

/// The arms that figures show, and what to say of the others: all of them, or the one the others
/// are compared with and the fastest.
fn drawn(arms: &[ArmSummary]) -> (Vec<ArmSummary>, String) {
    if arms.len() <= MOST_DRAWN {
        return (arms.to_vec(), String::new());
    }
    let mut places: Vec<usize> = (0..arms.len()).collect();
    let speed = |place: usize| arms[place].throughput_samples_per_s.mean;
    let base = wording::baseline(arms);
    places.sort_by(|&a, &b| {
        (Some(b) == base)
            .cmp(&(Some(a) == base))
            .then(speed(b).total_cmp(&speed(a)))
    });
    places.truncate(MOST_DRAWN);
    places.sort_unstable();
    let shown = places
        .into_iter()
        .map(|place| arms[place].clone())
        .collect();
    let others = arms.len() - MOST_DRAWN;
    (
        shown,
        format!(" The other {others} arms are in the table only."),
    )
}

/// The two runs worth comparing box by box: the first arm and the fastest that also runs in
/// micro-batches, under the first seed that has the batches of both.
fn schedules(data: &RunData) -> Option<(&ArmRun, &ArmRun)> {
    let arms = &data.summary.arms;
    let first = arms.first()?;
    let best = wording::best_scheduled(arms)?;
    let run = |arm: &str, seed: u64| {
        data.runs
            .iter()
            .find(|r| r.arm == arm && r.seed == seed && !r.batches.is_empty())
    };
    first
        .seeds
        .iter()
        .find_map(|&seed| Some((run(&first.name, seed)?, run(&arms[best].name, seed)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{RunDirectory, samples};

    #[test]
    fn a_run_is_redrawn_from_its_data() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(root.path(), "table5").unwrap();
        let runs = [
            samples::run("vanilla", 42, false),
            samples::run("tuned + VBS + FCR", 42, true),
        ];
        directory
            .write_config("[experiment]\nname = \"table5\"\n")
            .unwrap();
        directory
            .write_environment(&crate::provenance::environment())
            .unwrap();
        directory.write_batches(&runs).unwrap();
        for run in &runs {
            directory.append_arm(run).unwrap();
        }
        directory.write_summary(&samples::summary(true)).unwrap();
        let page = draw_run(directory.path()).unwrap();
        let html = std::fs::read_to_string(&page).unwrap();
        assert_eq!(html.matches("<svg").count(), 3);
        for name in ["throughput", "effective-tokens", "schedule"] {
            for ending in ["svg", "png"] {
                let path = directory.figure(name).with_extension(ending);
                assert!(path.metadata().unwrap().len() > 1000);
            }
        }
        if let Some(folder) = std::env::var_os("LENAWARE_FIGURES") {
            for name in ["report.html", "batches.parquet", "summary.csv"] {
                let kept = Path::new(&folder).join(name);
                std::fs::copy(directory.path().join(name), kept).unwrap();
            }
        }
    }

    #[test]
    fn a_run_without_batches_still_has_its_page() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(root.path(), "x").unwrap();
        directory.write_summary(&samples::summary(false)).unwrap();
        let html = std::fs::read_to_string(draw_run(directory.path()).unwrap()).unwrap();
        assert_eq!(html.matches("<svg").count(), 2);
    }
}
