//! One-line messages for mistakes in an experiment file: file, line, key, and what was meant.
//! `exp.toml:12: unknown key 'groupsize' in [[arm]]; did you mean 'group_size'?`

use std::path::Path;

use crate::error::Error;

/// An experiment file and its text, to find lines in.
pub(super) struct Source<'a> {
    pub text: &'a str,
    pub path: &'a Path,
}

impl Source<'_> {
    fn error(&self, line: usize, message: &str) -> Error {
        Error::config(format!("{}:{line}", self.path.display()), message)
    }

    /// What the TOML reader found, said in this tool's words.
    pub fn mistake(&self, error: &toml::de::Error) -> Error {
        let line = match error.span() {
            Some(span) => self.text[..span.start.min(self.text.len())]
                .matches('\n')
                .count(),
            None => 0,
        };
        let written = self.text.lines().nth(line).unwrap_or_default();
        let key = written.split_once('=').map(|(key, _)| key.trim());
        self.error(
            line + 1,
            &reworded(error.message(), key, &self.section_of(line)),
        )
    }

    /// A mistake in the value of `key` in the `place`-th section called `section`.
    pub fn mistake_at_key(
        &self,
        section: &str,
        place: usize,
        key: &str,
        error: &toml::de::Error,
    ) -> Error {
        let line = self.key_line(section, place, key);
        let header = self.section_of(line - 1);
        self.error(line, &reworded(error.message(), Some(key), &header))
    }

    /// `message` about `key` in the `place`-th section called `section`.
    pub fn at_key(&self, section: &str, place: usize, key: &str, message: &str) -> Error {
        let line = self.key_line(section, place, key);
        self.error(line, &format!("`{key}`: {message}"))
    }

    /// An unknown `value` of `key`, where `known` are the ones there are.
    pub fn unknown(
        &self,
        section: &str,
        place: usize,
        key: &str,
        (kind, value): (&str, &str),
        known: &[&str],
    ) -> Error {
        let line = self.key_line(section, place, key);
        let message = format!("unknown {kind} '{value}'; {}", suggestion(value, known));
        self.error(line, &message)
    }

    /// `message` about the `place`-th section called `section` ("" = the whole file).
    pub fn in_section(&self, section: &str, place: usize, message: &str) -> Error {
        if section.is_empty() {
            return Error::config(self.path, message);
        }
        self.error(self.section_line(section, place), message)
    }

    /// The line, from 1, of the `place`-th header `[section]` or `[[section]]`.
    fn section_line(&self, section: &str, place: usize) -> usize {
        self.text
            .lines()
            .enumerate()
            .filter(|(_, line)| header(line).is_some_and(|(name, _)| name == section))
            .nth(place)
            .map_or(1, |(at, _)| at + 1)
    }

    /// The line of `key` in a section, or else that of the section.
    pub fn key_line(&self, section: &str, place: usize, key: &str) -> usize {
        let start = self.section_line(section, place);
        self.text
            .lines()
            .enumerate()
            .skip(start)
            .take_while(|(_, line)| header(line).is_none())
            .find(|(_, line)| {
                line.split_once('=')
                    .is_some_and(|(name, _)| name.trim().trim_matches(['"', '\'']) == key)
            })
            .map_or(start, |(at, _)| at + 1)
    }

    /// The header above line `line` (from 0), as it is written; empty at the top.
    fn section_of(&self, line: usize) -> String {
        self.text
            .lines()
            .take(line + 1)
            .filter_map(header)
            .last()
            .map(|(_, written)| written.to_owned())
            .unwrap_or_default()
    }
}

/// The name and the written form of a section header.
fn header(line: &str) -> Option<(&str, &str)> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let inside = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = inside
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(inside);
    // A list's last line also ends in a bracket; a header is a bare word.
    name.chars()
        .all(|c| c.is_alphanumeric() || "_-. ".contains(c))
        .then_some((name.trim(), line))
}

/// Serde's and toml's wording in ours, on one line.
fn reworded(message: &str, key: Option<&str>, section: &str) -> String {
    let message = message.replace('\n', "; ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let [wrong, known @ ..] = quoted.as_slice() else {
        return in_key(key, &message);
    };
    let unknown_key = message.starts_with("unknown field");
    if !unknown_key && !message.starts_with("unknown variant") {
        return match message.starts_with("missing field") {
            true => format!("`{wrong}` is missing in {}", or_file(section)),
            false => in_key(key, &message),
        };
    }
    let what = match (unknown_key, key) {
        (true, _) if section.trim_matches(['[', ']']) == *wrong => {
            format!("unknown section '{wrong}'")
        }
        (true, _) => format!("unknown key '{wrong}' in {}", or_file(section)),
        (false, Some(key)) => format!("unknown value '{wrong}' of `{key}`"),
        (false, None) => format!("unknown value '{wrong}'"),
    };
    format!("{what}; {}", suggestion(wrong, known))
}

fn in_key(key: Option<&str>, message: &str) -> String {
    match key {
        Some(key) => format!("`{key}`: {message}"),
        None => message.to_owned(),
    }
}

fn or_file(section: &str) -> &str {
    if section.is_empty() {
        "the file"
    } else {
        section
    }
}

/// The nearest known word where one is near, or else all of them.
fn suggestion(wrong: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|word| (edit_distance(wrong, word), *word))
        .min();
    match nearest {
        // Up to a third of the word, but always one slip.
        Some((distance, word)) if distance <= (wrong.chars().count() / 3).max(1) => {
            format!("did you mean '{word}'?")
        }
        _ => format!("known: {}", known.join(", ")),
    }
}

/// Levenshtein's distance, a row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_by_hand() {
        assert_eq!(edit_distance("groupsize", "group_size"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(suggestion("vsb", &["vbs", "fcr"]), "known: vbs, fcr");
        assert_eq!(
            suggestion("binnings", &["binning", "fcr"]),
            "did you mean 'binning'?"
        );
    }

    #[test]
    fn headers_are_told_from_lists() {
        assert_eq!(header("[[arm]] # one"), Some(("arm", "[[arm]]")));
        assert_eq!(header(" [ workload ]"), Some(("workload", "[ workload ]")));
        assert_eq!(header("seeds = [1]"), None);
        assert_eq!(header("['a', 'b']"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "[\\[\\]a-z_='0-9\\n. #{},-]{0,80}") {
            let _ = crate::config::Experiment::parse(&text, Path::new("exp.toml"));
        }

        #[test]
        fn distance_is_symmetric(a in "[a-z]{0,8}", b in "[a-z]{0,8}") {
            prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
        }
    }
}
