//! Other libraries' readers. They are robust, but a file made to hurt may still trip an
//! assertion in one: such a panic is an error like any other, and nothing of it is on the
//! terminal.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is within [`quietly`].
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`; `Err` has the first line of the library's message, or `tripped` where it
/// panicked.
pub(crate) fn quietly<T, E: Display>(
    tripped: &str,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    silence();
    let before = READING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    READING.set(before);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().into()),
        Err(_) => Err(tripped.into()),
    }
}

/// Keeps panics of threads that read, and of polars' own ones, off the terminal; all others are
/// told as before. Once for the process: to put a hook in and take it out again would silence
/// others meanwhile, and for good where two threads did so at once.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_polars = std::thread::current()
                .name()
                .is_some_and(|name| name.starts_with("polars"));
            if !READING.get() && !of_polars {
                others(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_like_any_other() {
        let read = |n: usize| quietly("it is corrupt", || [1, 2].get(n).copied().ok_or("none\nof"));
        assert_eq!((read(1), read(2)), (Ok(2), Err("none".into())));
        let tripped = quietly("it is corrupt", || -> Result<(), String> { panic!("boom") });
        assert_eq!(tripped, Err("it is corrupt".into()));
    }
}
