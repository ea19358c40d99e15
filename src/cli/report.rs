//! `lenaware report`: redraws a run, sets runs side by side, lists all runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::error::{Error, Result};
use crate::report::index::{index, index_text, write_index};
use crate::report::tables::text_table;
use crate::report::{Comparison, draw_evaluation, draw_online, draw_run, is_evaluation, is_online};

use super::{Global, progress};

/// Redraw a run's figures and page, set runs side by side, or list all runs
///
/// A page is one file: figures, their data and its script are in it, and nothing is loaded.
///
/// Examples:
///   lenaware report results/table5/2026-01-31T12-00-00Z
///   lenaware report --compare results/table5/2026-01-31T12-00-00Z results/table5/2026-02-01T12-00-00Z
///   lenaware report --index
#[derive(Args)]
#[command(verbatim_doc_comment)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["run", "compare", "index"])))]
pub struct Arguments {
    /// The folder of a run, or of `evaluate --out`: its figures and page are drawn from its data
    run: Option<PathBuf>,
    /// Sets two or more runs of one kind side by side: what was changed, and what it did
    #[arg(long, num_args = 2.., value_name = "RUN")]
    compare: Option<Vec<PathBuf>>,
    /// Lists all runs below a folder, and writes index.html there [default: results]
    #[arg(long, num_args = 0..=1, default_missing_value = "results", value_name = "DIR")]
    index: Option<PathBuf>,
    /// Where --compare writes its page and figure
    #[arg(
        long,
        default_value = "results/comparison",
        value_name = "DIR",
        requires = "compare"
    )]
    out: PathBuf,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    if let Some(runs) = &arguments.compare {
        return compare(global, runs, &arguments.out);
    }
    if let Some(root) = &arguments.index {
        return list(global, root);
    }
    let Some(run) = &arguments.run else {
        return Err(Error::Usage("name a run's folder".into()));
    };
    let page = if is_evaluation(run) {
        draw_evaluation(run)?
    } else if is_online(run) {
        draw_online(run)?
    } else {
        draw_run(run)?
    };
    match global.json {
        true => println!("{}", json!({"report": page})),
        false => println!("{}", page.display()),
    }
    Ok(())
}

fn compare(global: &Global, runs: &[PathBuf], out: &Path) -> Result<()> {
    let comparison = Comparison::read(runs)?;
    let page = match cfg!(feature = "page") {
        true => Some(comparison.write(out)?),
        false => None,
    };
    if global.json {
        let found = json!({
            "runs": runs,
            "finding": comparison.finding(),
            "changed": comparison.changed().into_iter().collect::<BTreeMap<_, _>>(),
            "differences": comparison.differences(),
            "report": page,
        });
        println!("{found}");
        return Ok(());
    }
    let (headers, rows) = comparison.table();
    println!(
        "{}\n\n{}",
        crate::error::visible(&comparison.finding()),
        text_table(&headers, &rows)
    );
    for (key, values) in comparison.changed() {
        println!("{key}: {}", crate::error::visible(&values.join(" -> ")));
    }
    if let Some(page) = page {
        println!("{}", page.display());
    }
    Ok(())
}

fn list(global: &Global, root: &Path) -> Result<()> {
    let entries = index(root)?;
    if global.json {
        println!("{}", json!(entries));
    } else {
        print!("{}", crate::error::visible(&index_text(&entries)));
    }
    if cfg!(feature = "page") {
        let page = write_index(root, &entries)?;
        progress::say(global, &page.display().to_string());
    }
    Ok(())
}
