//! Memory that there is, and what would not fit it.

use crate::error::{Error, Result};

/// Bytes that the system can give without swapping, where it says so.
pub fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kilobytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
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

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_what_is_free() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
