//! What a run looks like to a reader: tables, figures, the HTML page, and the folder that
//! keeps them.
//!
//! ```text
//! ArmRun ──▶ run_dir (arms.jsonl, *.parquet, summary.*) ──▶ redraw ──▶ figures/*.svg, *.png
//!                                                              └─────▶ report.html
//! ```
//!
//! * [`style`] is the one visual language (palette, type sizes); [`canvas`] the display list
//!   every figure is drawn on, rendered to SVG and PNG alike; [`axes`] scales and ticks.
//! * [`figures`] has a function a figure; [`tables`] the same numbers as text, Markdown, CSV.
//! * [`page`] is what a page is made of, and `html` renders it as `report.html`.
//! * [`run_dir`] writes and reads a run's folder; [`redraw`] redraws everything of a run from its
//!   data alone; [`evaluation`] does both for the folder of an evaluation of predictors, and
//!   [`online`] for runs with arrivals.

pub mod axes;
pub mod canvas;
pub mod compare;
pub mod evaluation;
pub mod figures;
#[cfg(feature = "page")]
pub mod html;
pub mod index;
pub mod online;
pub mod page;
pub mod redraw;
pub mod run_dir;
mod run_order;
pub mod style;
pub mod tables;
pub mod wording;

mod records;

#[cfg(test)]
mod samples;

pub use compare::Comparison;
pub use evaluation::{draw_evaluation, is_evaluation, write_evaluation};
pub use online::{draw_online, is_online, online_text};
pub use page::{Gallery, Page, PageFigure, PageTable};
pub use redraw::draw_run;
pub use run_dir::{RunData, RunDirectory, read_run};
