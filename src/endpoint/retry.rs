//! How long to wait before asking again.

use std::time::Duration;

use rand::Rng;

/// The first wait; each later one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// No wait of our own is longer.
const LONGEST: Duration = Duration::from_secs(30);
/// A server that asks for more patience than this is not waited for.
pub(super) const PATIENCE: Duration = Duration::from_mins(10);

/// The wait after `failures` (at least 1) failures in a row: doubling, and between half and all
/// of it by chance, so that many requests that failed together do not come back together. Never
/// less than what the server asked for.
pub(super) fn wait(failures: u32, asked: Option<Duration>) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = (FIRST * 2u32.pow(doublings)).min(LONGEST);
    let own = full.mul_f64(rand::rng().random_range(0.5..=1.0));
    own.max(asked.unwrap_or_default())
}

/// The meaning of a `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(header: &str, now: jiff::Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let seconds = date(header)?.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A date as headers have it.
pub(super) fn date(header: &str) -> Option<jiff::Timestamp> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(header).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_vary_and_are_bounded() {
        for failures in 1..40 {
            let full = FIRST.as_secs_f64() * 2f64.powi(failures as i32 - 1);
            let full = full.min(LONGEST.as_secs_f64());
            let waits: Vec<f64> = (0..50)
                .map(|_| wait(failures, None).as_secs_f64())
                .collect();
            assert!(waits.iter().all(|w| (full / 2.0..=full).contains(w)));
            assert!(waits.iter().any(|w| *w != waits[0]));
        }
        let asked = Duration::from_secs(77);
        assert_eq!(wait(1, Some(asked)), asked);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (header, expected) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("-4", None),
            ("soon", None),
            ("NaN", None),
            ("1e300", None),
        ] {
            let seconds = retry_after(header, now).map(|d| d.as_secs());
            assert_eq!(seconds, expected, "{header}");
        }
    }
}
