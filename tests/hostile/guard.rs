//! What holds for every input: no panic, no abort, an end within seconds, no more memory than
//! the input justifies, and a refusal in few words.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ALLOCATOR;
use crate::place::Place;
use crate::readers::Reader;

/// Memory that any input may take beside twice its size.
pub const MEMORY: usize = 200 << 20;
/// Characters of a refusal.
const REFUSAL: usize = 2000;

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());
/// Whether a reader is at work.
static READING: AtomicBool = AtomicBool::new(false);

/// Panics of readers are kept quiet from now on: some are caught on the way and made errors of
/// (the Parquet library's), which is no finding.
pub fn hush() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !READING.load(Ordering::Relaxed) {
            others(info);
        } else if let Ok(mut last) = LAST_PANIC.lock() {
            *last = info.to_string();
        }
    }));
}

/// Runs `read` in so much memory; gives the most that it held.
pub fn measured<T>(memory: usize, read: impl FnOnce() -> T) -> (T, usize) {
    ALLOCATOR.limit(memory);
    let outcome = read();
    let peak = ALLOCATOR.peak();
    ALLOCATOR.limit(usize::MAX);
    (outcome, peak)
}

/// Has `reader` read `bytes`; where it may not go on, says why.
pub fn check(place: &Place, reader: &Reader, bytes: &[u8]) -> Result<(), String> {
    ALLOCATOR.limit(MEMORY + 2 * bytes.len());
    READING.store(true, Ordering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| (reader.read)(place, bytes)));
    READING.store(false, Ordering::Relaxed);
    ALLOCATOR.limit(usize::MAX);
    match outcome {
        Err(_) => {
            let text = LAST_PANIC.lock().map(|last| last.clone());
            Err(text.unwrap_or_default().replace('\n', " "))
        }
        Ok(Err(refusal)) => {
            let refusal = refusal.to_string();
            match refusal.chars().count() > REFUSAL {
                true => Err(format!("a refusal of {} bytes", refusal.len())),
                false => Ok(()),
            }
        }
        Ok(Ok(())) => Ok(()),
    }
}
