//! Redraws the figures and the page of a run from the data in its folder alone.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::evaluate::summary::ArmRun;

use super::html::{ReportData, render};
use super::run_dir::{RunData, read_run};
use super::{figures, wording};
use crate::persist;

/// Draws `figures/*` and `report.html` of the run in `folder`; returns the page's path.
pub fn draw_run(folder: &Path) -> Result<PathBuf> {
    let data = read_run(folder)?;
    let mut drawn = Vec::new();
    let summary = &data.summary;
    let stem = |name: &str| folder.join("figures").join(name);
    let mut keep = |name: &str, caption: String| -> Result<()> {
        let path = stem(name).with_extension("svg");
        let svg = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        drawn.push((caption, svg));
        Ok(())
    };
    let word = wording::kind(&summary.executor);
    if !summary.arms.is_empty() {
        figures::throughput_bars(&stem("throughput"), &summary.arms, &summary.executor)?;
        keep(
            "throughput",
            format!("Requests finished per second, {word}."),
        )?;
        figures::effective_tokens_bars(
            &stem("effective-tokens"),
            &summary.arms,
            &summary.executor,
        )?;
        let caption = "Share of the computed tokens that were part of an answer, in both \
                       accountings.";
        keep("effective-tokens", caption.into())?;
    }
    if let Some(difference) = figures::mean_difference(&summary.arms) {
        figures::agreement(&stem("agreement"), &summary.arms, &summary.executor)?;
        let caption = format!(
            "Throughput as measured and as the experiment's step-time model has it: a mean \
             difference of {}.",
            wording::share(difference)
        );
        keep("agreement", caption)?;
    }
    if let Some((upper, lower)) = schedules(&data) {
        figures::schedule_diagram(
            &stem("schedule"),
            &upper.batches,
            &lower.batches,
            (&upper.arm, &lower.arm),
            &wording::origin(&summary.executor),
        )?;
        let caption = format!(
            "Micro-batches over time, seed {}: “{}” above, “{}” below.",
            upper.seed, upper.arm, lower.arm
        );
        keep("schedule", caption)?;
    }
    let page = render(&ReportData {
        title: summary.experiment.clone(),
        finding: None,
        summary: Some(summary.clone()),
        extra_tables: Vec::new(),
        figures: drawn,
        config_toml: data.config.clone(),
        environment_json: match &data.environment {
            serde_json::Value::Null => String::new(),
            known => known.to_string(),
        },
        notes: Vec::new(),
        ..ReportData::default()
    })?;
    let path = folder.join("report.html");
    persist::write(&path, page.as_bytes())?;
    Ok(path)
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
