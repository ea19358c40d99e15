//! Progress bars: on stderr, with rate and time left, absent where stderr is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Global;

/// A bar over `total` items called `unit`; its message is free.
pub fn bar(global: &Global, total: u64, unit: &str) -> ProgressBar {
    let template = format!(
        "{{spinner}} {{pos}}/{{len}} {unit} [{{bar:30}}] {{elapsed}} gone, {{eta}} left  {{msg}}"
    );
    let bar = ProgressBar::with_draw_target(Some(total), target(global));
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn target(global: &Global) -> ProgressDrawTarget {
    if global.shows_progress() {
        ProgressDrawTarget::stderr_with_hz(5)
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// A line on stderr about what goes on, unless the user wants quiet.
pub fn say(global: &Global, line: &str) {
    if global.shows_progress() {
        eprintln!("{line}");
    }
}

/// A line on stderr for those who asked for more with `-v`.
pub fn detail(global: &Global, line: &str) {
    if global.verbose {
        eprintln!("{line}");
    }
}

/// Tells `-v` which model's files are used, and how.
pub fn detail_model(global: &Global, files: &crate::model::ModelFiles) {
    detail(
        global,
        &format!(
            "model {} from {}; {} threads, {:?} kernels",
            files.name,
            files.path().display(),
            global.thread_count(),
            crate::kernel::lane::Isa::detect()
        ),
    );
}
