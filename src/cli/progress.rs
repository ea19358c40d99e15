//! What goes on, on stderr: bars with rate and time left where stderr is a terminal, a plain line
//! now and then where it is a file or a pipe, nothing where the user wants quiet.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::Global;
use crate::error::tame;

/// Between two plain lines: the first comes soon, a log of hours stays short.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const THEN_EVERY: Duration = Duration::from_mins(1);

/// How far some work is.
pub struct Bar {
    drawn: ProgressBar,
    unit: String,
    /// Where it was when it was first told of, and when.
    first: Arc<OnceLock<(u64, Instant)>>,
    /// When the next plain line is due; none where a bar is drawn or nothing is to be said.
    next_line: Option<Mutex<Instant>>,
}

/// A bar over `total` items called `unit`; its message is free.
pub fn bar(global: &Global, total: u64, unit: &str) -> Bar {
    let template = format!(
        "{{spinner}} {{pos}}/{{len}} {unit} [{{bar:30}}] {{elapsed}} gone, {{per_sec}}\
         {{left}}  {{msg}}"
    );
    let terminal = std::io::stderr().is_terminal();
    let target = match global.shows_progress() && terminal {
        true => ProgressDrawTarget::stderr_with_hz(5),
        false => ProgressDrawTarget::hidden(),
    };
    let drawn = ProgressBar::with_draw_target(Some(total), target);
    let first = Arc::new(OnceLock::new());
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let since = first.clone();
        let left = move |state: &ProgressState, to: &mut dyn Write| {
            // Nothing can be done about a line that cannot be written.
            let _ = to.write_str(&in_words(left(&since, state.pos(), state.len())));
        };
        drawn.set_style(style.progress_chars("=> ").with_key("left", left));
    }
    let plain = global.shows_progress() && !terminal;
    Bar {
        drawn,
        unit: unit.to_string(),
        first,
        next_line: plain.then(|| Mutex::new(Instant::now() + FIRST_AFTER)),
    }
}

impl Bar {
    pub fn set_position(&self, done: u64) {
        self.first.get_or_init(|| (done, Instant::now()));
        self.drawn.set_position(done);
        self.line_if_due();
    }

    pub fn inc(&self, more: u64) {
        let done = self.drawn.position() + more;
        self.first.get_or_init(|| (done, Instant::now()));
        self.drawn.inc(more);
        self.line_if_due();
    }

    pub fn set_message(&self, message: String) {
        self.drawn.set_message(message);
    }

    /// Sets how many there are.
    pub fn set_total(&self, total: u64) {
        self.drawn.set_length(total);
    }

    pub fn elapsed(&self) -> Duration {
        self.drawn.elapsed()
    }

    /// Lets other lines be written without the bar in them.
    pub fn suspend(&self, write: impl FnOnce()) {
        self.drawn.suspend(write);
    }

    pub fn clear(&self) {
        self.drawn.finish_and_clear();
    }

    fn line_if_due(&self) {
        let Some(next) = &self.next_line else { return };
        let mut next = next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if Instant::now() < *next {
            return;
        }
        *next = Instant::now() + THEN_EVERY;
        eprintln!("{}", self.line());
    }

    /// `120/2560 samples, 3 minutes gone, 1 hour left  95 tokens/s`
    fn line(&self) -> String {
        let message = self.drawn.message();
        let message = match message.is_empty() {
            true => String::new(),
            false => format!("  {message}"),
        };
        let done = self.drawn.position();
        let left = in_words(left(&self.first, done, self.drawn.length()));
        format!(
            "{done}/{} {}, {} gone{left}{message}",
            self.drawn.length().unwrap_or(0),
            self.unit,
            HumanDuration(self.drawn.elapsed())
        )
    }
}

/// What the rest takes at the pace so far. (A pace of the last moments alone says eternity where
/// long answers end the work.)
fn left(first: &OnceLock<(u64, Instant)>, done: u64, total: Option<u64>) -> Option<Duration> {
    let (from, since) = first.get()?;
    let gone = done.checked_sub(*from).filter(|gone| *gone > 0)?;
    let share = total?.saturating_sub(done) as f64 / gone as f64;
    Duration::try_from_secs_f64(since.elapsed().as_secs_f64() * share).ok()
}

/// `, 3 minutes left`; nothing where nothing is known.
fn in_words(left: Option<Duration>) -> String {
    left.map_or(String::new(), |left| {
        format!(", {} left", HumanDuration(left))
    })
}

/// A line on stderr about what goes on, unless the user wants quiet.
pub fn say(global: &Global, line: &str) {
    if global.shows_progress() {
        eprintln!("{}", tame(line));
    }
}

/// A line on stderr that must be seen, whatever is asked for.
pub fn warn(line: &str) {
    eprintln!("{}", tame(line));
}

/// A line on stderr for those who asked for more with `-v`.
pub fn detail(global: &Global, line: &str) {
    if global.verbose {
        eprintln!("{}", tame(line));
    }
}

/// Says which model is loaded, and with `-v` which files, and how.
pub fn loading(global: &Global, files: &crate::model::ModelFiles) {
    say(global, &format!("loading {}", files.name));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_it_is() {
        let bar = Bar {
            drawn: ProgressBar::with_draw_target(Some(8), ProgressDrawTarget::hidden()),
            unit: "samples".into(),
            first: Arc::default(),
            next_line: None,
        };
        bar.set_total(10);
        assert_eq!(bar.line(), "0/10 samples, 0 seconds gone");
        // Two from before: nothing is known of how fast others go.
        bar.set_position(2);
        assert_eq!(bar.line(), "2/10 samples, 0 seconds gone");
        bar.set_position(4);
        bar.set_message("95 tokens/s".into());
        let line = bar.line();
        assert!(line.starts_with("4/10 samples, "), "{line}");
        assert!(line.ends_with(" left  95 tokens/s"), "{line}");
        let long_ago = Instant::now()
            .checked_sub(Duration::from_secs(100))
            .unwrap();
        let first = OnceLock::from((2, long_ago));
        let rest = left(&first, 4, Some(10)).unwrap();
        assert_eq!(rest.as_secs(), 300);
        assert_eq!(left(&first, 2, Some(10)), None);
    }
}
