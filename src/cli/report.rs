//! `lenaware report`: redraws a run.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::report::{draw_evaluation, draw_online, draw_run, is_evaluation, is_online};

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
    let page = if is_evaluation(&arguments.run) {
        draw_evaluation(&arguments.run)?
    } else if is_online(&arguments.run) {
        draw_online(&arguments.run)?
    } else {
        draw_run(&arguments.run)?
    };
    println!("{}", page.display());
    Ok(())
}
