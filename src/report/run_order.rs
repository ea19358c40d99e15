//! Which of an experiment's runs came last. Folders are named by the time they were made at, and
//! clocks go back; so a new folder is always named to come after those that are there, and the
//! order of names is the order in which runs were begun.

use std::path::Path;

/// Where a folder comes: by its time, then by the number behind it (`..Z` is the first of its
/// second, then `..Z-2`, and `-10` comes after `-9`). Other names come where they would as text.
pub(super) fn place(name: &str) -> (&str, u64) {
    let numbered = name
        .rsplit_once('-')
        .filter(|(time, _)| time.ends_with('Z'));
    match numbered.map(|(time, number)| (time, number.parse())) {
        Some((time, Ok(number))) => (time, number),
        _ => (name, 1),
    }
}

/// A path's [`place`].
pub(super) fn of(path: &Path) -> (String, u64) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (time, number) = place(&name);
    (time.to_string(), number)
}

/// The time and the number of a run's folder that is made at `now` among `others`: its own time,
/// unless one of them is later, as that clock had it.
pub(super) fn next<'a>(now: &str, others: impl Iterator<Item = &'a str>) -> (String, u64) {
    let is_time = |name: &&str| name.len() >= now.len() && name.ends_with('Z');
    let times = others.map(place).filter(|(time, _)| is_time(time));
    match times.max().filter(|(time, _)| *time >= now) {
        Some((time, number)) => (time.to_string(), number + 1),
        None => (now.to_string(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_comes_last_whatever_the_clock_says() {
        let now = "2026-12-01T04-00-00Z";
        let cases: [(&[&str], (&str, u64)); 6] = [
            (&[], (now, 1)),
            (&["2026-12-01T03-59-59Z", "notes", "zzz"], (now, 1)),
            (&[now], (now, 2)),
            (
                &["2026-12-01T04-00-00Z-9", "2026-12-01T04-00-00Z-10"],
                (now, 11),
            ),
            (&["2036-12-01T04-00-00Z", now], ("2036-12-01T04-00-00Z", 2)),
            (&["2036-12-01T04-00-00Z-x"], (now, 1)),
        ];
        for (others, (time, number)) in cases {
            let next = next(now, others.iter().copied());
            assert_eq!(next, (time.to_string(), number), "{others:?}");
        }
        assert!(place("2026-12-01T04-00-00Z-10") > place("2026-12-01T04-00-00Z-9"));
        assert!(place("2026-12-01T04-00-00Z-2") > place("2026-12-01T04-00-00Z"));
    }
}
