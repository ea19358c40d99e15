//! Ctrl-C: the first asks the running work to stop where it can be resumed, the second ends
//! the process.

use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. Commands with nothing to save do not call this and simply end.
pub fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        // Without a handler Ctrl-C still ends the process, and what was stored is resumable.
        let _ = ctrlc::set_handler(|| {
            if REQUESTED.swap(true, Ordering::SeqCst) {
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
