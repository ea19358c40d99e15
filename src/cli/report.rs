//! `lenaware report`: redraws a run.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::report::draw_run;

use super::Global;

/// Redraw the figures and the page of a run from its data
///
/// Example:
///   lenaware report results/table5/2026-01-31T12-00-00Z
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A run's folder
    run: PathBuf,
}

pub fn run(_global: &Global, arguments: &Arguments) -> Result<()> {
    println!("{}", draw_run(&arguments.run)?.display());
    Ok(())
}
