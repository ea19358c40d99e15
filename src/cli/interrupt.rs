//! Ctrl-C: work that can be continued is asked to stop where it can be; other work is ended at
//! once, with a line that says what is left. A second Ctrl-C always ends the process.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};

use crate::persist;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What is said at the end, where the work is not asked but ended.
static ENDING: Mutex<Option<String>> = Mutex::new(None);

/// From now on Ctrl-C asks: [`check`] tells, and the work stops where it can be continued.
pub fn listen() {
    set(None);
}

/// From now on Ctrl-C ends the process, saying `line`: there is nothing to go on with. Files that
/// are only half written go, too.
pub fn ends(line: impl Into<String>) {
    set(Some(line.into()));
}

fn set(ending: Option<String>) {
    *ENDING
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = ending;
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // Without a handler Ctrl-C still ends the process, and what was stored is resumable.
        let _ = ctrlc::set_handler(|| {
            let again = REQUESTED.swap(true, Ordering::SeqCst);
            let ending = ENDING
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(line) = ending.as_ref() {
                persist::remove_unfinished();
                eprintln!("\nerror: {line}");
                std::process::exit(1);
            }
            if again {
                std::process::exit(130);
            }
            eprintln!("\nstopping where it can be continued; Ctrl-C again ends at once");
        });
    });
}

/// `Break` once the user has asked to stop.
pub fn check() -> ControlFlow<()> {
    if REQUESTED.load(Ordering::SeqCst) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
