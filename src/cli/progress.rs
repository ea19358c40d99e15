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
