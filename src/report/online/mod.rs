//! What an experiment with arrivals looks like to a reader: its folder, a run's without batches
//! and requests, and its page.

mod finding;
mod origin;
mod regimes;
mod tables;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::online::summary::{ArmFigures, OnlineSummary};
use crate::persist;
use crate::regular_file;

use super::figures;
use super::figures::Strips;
use super::page::{Gallery, MOST_DRAWN, OF_SERVING, Page, PageTable};
use super::run_dir::{RunDirectory, pretty};
use super::tables::{markdown_table, text_table};
use super::wording::grouped;
use finding::{finding, refusals, shallow};
pub(super) use origin::origin_of;
use origin::{caption, compared, source, word};
use regimes::regimes;
use tables::{MomentLine, by_length, csv, table, timeline_csv};

const SUMMARY: &str = "summary.json";
const TIMELINE: &str = "timeline.csv";

/// The folder of a run with arrivals.
#[derive(Debug)]
pub struct OnlineDirectory(RunDirectory);

impl OnlineDirectory {
    /// Wraps the folder of a run.
    pub fn new(directory: RunDirectory) -> OnlineDirectory {
        OnlineDirectory(directory)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes the folder away again, if no arm has finished in it.
    pub fn discard(self) {
        self.0.discard();
    }

    /// Appends a finished arm to `arms.jsonl` and waits until it is on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&self, run: &ArmFigures) -> Result<()> {
        self.0.append_line(run)
    }

    /// The arms that `arms.jsonl` lists.
    ///
    /// # Errors
    /// A damaged file.
    pub fn finished(&self) -> Result<Vec<ArmFigures>> {
        let path = self.path().join("arms.jsonl");
        let text = crate::regular_file::text_if_there(&path, u64::MAX)?.unwrap_or_default();
        text.lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|e| Error::malformed(&path, e.to_string()))
            })
            .collect()
    }

    /// Writes `summary.json`, `summary.csv`, `summary.md` and `timeline.csv`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_summary(&self, summary: &OnlineSummary, runs: &[ArmFigures]) -> Result<()> {
        if let Some(timeline) = timeline_csv(runs)? {
            persist::write(&self.path().join(TIMELINE), &timeline)?;
        }
        persist::write(&self.path().join(SUMMARY), &pretty(summary)?)?;
        persist::write(&self.path().join("summary.csv"), csv(summary)?.as_bytes())?;
        let (headers, rows) = table(summary);
        let markdown = format!(
            "{}\n\n{}\n",
            caption(summary),
            markdown_table(&headers, &rows)
        );
        persist::write(&self.path().join("summary.md"), markdown.as_bytes())
    }
}

/// Whether a folder is that of a run with arrivals.
pub fn is_online(folder: &Path) -> bool {
    read(folder).is_ok()
}

fn read(folder: &Path) -> Result<OnlineSummary> {
    let path = folder.join(SUMMARY);
    let bytes = crate::regular_file::bytes_up_to(&path, crate::regular_file::LISTS)?;
    serde_json::from_slice::<OnlineSummary>(&bytes)
        // Older files do not say.
        .map(OnlineSummary::judge_queues)
        .map_err(|e| Error::malformed(&path, e.to_string()))
}

/// The table on the terminal.
pub fn online_text(summary: &OnlineSummary) -> String {
    let (headers, rows) = table(summary);
    let mut text = format!("{}\n\n{}", caption(summary), text_table(&headers, &rows));
    let own = [shallow(summary), refusals(summary)].into_iter().flatten();
    for note in own.chain(summary.notes.iter().cloned()) {
        text += &format!("\n{note}\n");
    }
    text
}

/// Draws `figures/*` and `report.html` of the run in `folder` from its data alone; returns the
/// page's path.
///
/// # Errors
/// Data that is missing or damaged, or files that cannot be written.
pub fn draw_online(folder: &Path) -> Result<PathBuf> {
    let summary = read(folder)?;
    let mut gallery = Gallery::new(folder);
    let word = word(&summary);
    let source = source(&summary);
    let origin = format!("{source}; {}", summary.arrivals);
    let both = [
        ("e2e", "End-to-end latency", "e2e_s"),
        ("ttft", "Time to first token", "ttft_s"),
    ];
    // More rows than this are a table, not a figure.
    let shown = if summary.arms.len() <= MOST_DRAWN {
        &both[..]
    } else {
        &[]
    };
    for &(name, title, key) in shown {
        let rows: Vec<(String, [f64; 4])> = summary
            .arms
            .iter()
            .map(|arm| {
                let at = |which: &str| arm.mean(&format!("{key}.{which}"));
                (arm.name.clone(), ["p50", "mean", "p90", "p99"].map(at))
            })
            .collect();
        let caption = format!(
            "{title}, {word}: median, mean, 90th and 99th percentile over requests, mean over seeds."
        );
        gallery.add(name, caption, |stem| {
            figures::latencies(stem, title, &origin, &rows)
        })?;
    }
    for (name, title, of) in OVER_TIME {
        if let Some(figure) = over_time(folder, &summary, title, of)? {
            let caption = format!("{title}, {word}, first seed.");
            gallery.add(name, caption, |stem| figures::strips(stem, &figure))?;
        }
    }
    let seeds = summary.arms.first().map_or(0, |arm| arm.seeds.len());
    let drawn_from = format!("{source}; mean over {seeds} seeds");
    if let Some(map) = regimes(&summary, &drawn_from) {
        let caption = format!(
            "Mean end-to-end latency saved against the first arm of the same load and engine, \
             {word}. Bold: the queue exceeded the batch, and the 95 % interval over seeds \
             excludes none. Grey: no queue formed under the first arm, so there is hardly anything \
             to gain (what displaces running requests can still lose)."
        );
        gallery.add("regimes", caption, |stem| figures::heat_map(stem, &map))?;
    }
    let (headers, rows) = table(&summary);
    let mut tables = vec![PageTable::of("Arms", &headers, &rows)];
    // What a request takes alone is known where the device's step times are.
    if summary.simulated || compared(&summary) {
        let (headers, rows) = by_length(&summary);
        let title = "Slowdown (latency / simulated latency alone), by true length of the answer";
        tables.push(PageTable::of(title, &headers, &rows));
    }
    let text = |name: &str| {
        let path = folder.join(name);
        regular_file::text_up_to(&path, regular_file::LISTS).unwrap_or_default()
    };
    let (config, environment) = (text("config.toml"), text("environment.json"));
    let page = Page {
        title: summary.experiment.clone(),
        finding: finding(&summary),
        simulated: summary.simulated,
        executor: summary.executor.clone(),
        created: Some(summary.created.clone()),
        origin: Some(origin_of(&summary)),
        terms: Some(OF_SERVING),
        tables,
        figures: gallery.into_figures(),
        config_toml: config,
        environment_json: environment,
        notes: [Some(caption(&summary)), refusals(&summary)]
            .into_iter()
            .flatten()
            .chain(summary.notes.iter().cloned())
            .collect(),
        ..Page::default()
    };
    page.write(folder)
}

/// A figure over time: its file, its title, and what of a moment it shows.
type OverTime = (&'static str, &'static str, fn(&MomentLine) -> f64);

const OVER_TIME: [OverTime; 2] = [
    ("kv-use", KV_USE, |m| 100.0 * m.kv_use),
    ("waiting", "Requests that wait", |m| m.waiting as f64),
];
const KV_USE: &str = "Keys and values in use";

/// The arms over time, where that was kept and there is something to see.
fn over_time(
    folder: &Path,
    summary: &OnlineSummary,
    title: &str,
    of: fn(&MomentLine) -> f64,
) -> Result<Option<Strips>> {
    let path = folder.join(TIMELINE);
    if !path.is_file() {
        return Ok(None);
    }
    let malformed = |e: ::csv::Error| Error::malformed(&path, e.to_string());
    let mut reader = ::csv::Reader::from_path(&path).map_err(malformed)?;
    let moments: Vec<MomentLine> = (reader.deserialize())
        .collect::<std::result::Result<_, _>>()
        .map_err(malformed)?;
    let most = moments.iter().map(of).fold(0.0, f64::max);
    let lasting = (moments.windows(2)).any(|pair| pair[0].arm == pair[1].arm);
    if most == 0.0 || !lasting {
        return Ok(None);
    }
    let (full, full_name) = match title {
        KV_USE => (100.0, "all of the memory".to_string()),
        _ => (most, format!("{} requests", grouped(most, 0))),
    };
    let strips = summary.arms.iter().map(|arm| {
        let own = moments.iter().filter(|m| m.arm == arm.name);
        (arm.name.clone(), own.map(|m| (m.at_s, of(m))).collect())
    });
    Ok(Some(Strips {
        title: title.into(),
        subtitle: format!("{}; {}; the first seed", source(summary), summary.arrivals),
        full,
        full_name,
        strips: strips.collect(),
    }))
}
