//! Memory that there is, and what would not fit it.

use crate::error::{Error, Result};

/// Bytes that the system can give without swapping, where it says so; no more than are left to
/// the process where its address space is limited (`ulimit -v`).
pub fn available() -> Option<usize> {
    let kilobytes = |file: &str, name: &str| Some(number(file, name)?.saturating_mul(1024));
    let free = kilobytes("/proc/meminfo", "MemAvailable:")?;
    let left = || {
        let limit = number("/proc/self/limits", "Max address space")?;
        Some(limit.saturating_sub(kilobytes("/proc/self/status", "VmSize:")?))
    };
    Some(left().map_or(free, |left| free.min(left)))
}

/// The first number behind a name in one of the system's tables.
fn number(file: &str, name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Refuses `needed` bytes for `what` where less is `free`, a tenth of which is left to everything
/// else; the message ends with the remedy.
///
/// # Errors
/// [`Error::Memory`].
pub fn check(what: &str, needed: usize, free: Option<usize>, remedy: &str) -> Result<()> {
    match free {
        Some(free) if needed > free - free / 10 => Err(Error::Memory(format!(
            "{what} {:.1} GB of memory and {:.1} GB are free: {remedy}",
            needed as f64 / 1e9,
            free as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// What a reader keeps of a file piles up: now and then the system is asked whether there is
/// room for more.
#[derive(Debug, Default)]
pub(crate) struct Pile {
    held: usize,
    /// No questions up to here.
    room: usize,
}

/// Bytes between two questions. What follows upon reading takes about as much again.
const STEP: usize = 256 << 20;

impl Pile {
    /// Adds so many bytes; `what` begins the message of a refusal and ends it with the remedy.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn add(
        &mut self,
        bytes: usize,
        what: impl FnOnce() -> (String, &'static str),
    ) -> Result<()> {
        self.held = self.held.saturating_add(bytes);
        if self.held > self.room {
            // The first step is any machine's.
            if self.room > 0 {
                let (what, remedy) = what();
                let needed = self.held / 2 + STEP;
                check(&what, needed, available(), remedy)?;
            }
            self.room = self.held.saturating_add(STEP);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_a_remedy() {
        check("it takes", 9_000, Some(10_000), "none").unwrap();
        check("it takes", usize::MAX, None, "none").unwrap();
        let refused = check("it takes", 9_500_000_000, Some(10_000_000_000), "use less");
        let message = refused.unwrap_err().to_string();
        let said = "it takes 9.5 GB of memory and 10.0 GB are free: use less";
        assert!(message.contains(said), "{message}");
        check("it takes", 1, Some(0), "none").unwrap_err();
    }

    #[test]
    fn a_pile_is_refused_before_it_is_too_high() {
        let mut pile = Pile::default();
        let said = || ("it takes".to_string(), "give a part");
        pile.add(1, said).unwrap();
        pile.add(STEP - 1, said).unwrap();
        let refused = pile.add(1 << 60, said);
        #[cfg(target_os = "linux")]
        assert!(refused.unwrap_err().to_string().ends_with("give a part"));
        #[cfg(not(target_os = "linux"))]
        refused.unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_what_is_free() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
