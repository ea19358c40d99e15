//! `lenaware report`: redraws a run.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::report::{draw_evaluation, draw_run, is_evaluation};

use super::Global;

/// Redraw the figures and the page of a run or an evaluation from its data
///
/// Example:
///   lenaware report results/table5/2026-01-31T12-00-00Z
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The folder of a run, or of `evaluate --out`
    run: PathBuf,
}

pub fn run(_global: &Global, arguments: &Arguments) -> Result<()> {
    let page = match is_evaluation(&arguments.run) {
        true => draw_evaluation(&arguments.run)?,
        false => draw_run(&arguments.run)?,
    };
    println!("{}", page.display());
    Ok(())
}
