//! Degenerate responses: those that end in repetition.

/// Characters at the end of a response that are looked at.
const TAIL: usize = 3_000;
/// A block counts from so many repetitions in a row ...
const REPETITIONS: usize = 3;
/// ... that are together so many characters long.
const LENGTH: usize = 60;

/// Whether a response ends in at least three repetitions in a row of one block of characters,
/// together at least 60 characters long; the last one may be cut off if three whole ones are
/// before the cut. White space at the end does not count, and blocks may be up to 1,000
/// characters long.
pub fn is_looping(response: &str) -> bool {
    let reversed: Vec<char> = response.trim_end().chars().rev().take(TAIL).collect();
    let matches = prefix_matches(&reversed);
    // The text ends in `matches[p] + p` characters of period `p`.
    (1..=reversed.len() / REPETITIONS)
        .any(|period| matches[period] + period >= LENGTH.max(REPETITIONS * period))
}

/// For every place, how many characters from there on are the same as from the start (the Z
/// function; Gusfield, "Algorithms on Strings, Trees, and Sequences", 1997). Linear time.
fn prefix_matches(text: &[char]) -> Vec<usize> {
    let mut matches = vec![0; text.len()];
    let (mut left, mut right) = (0, 0);
    for at in 1..text.len() {
        let mut length = match at < right {
            true => matches[at - left].min(right - at),
            false => 0,
        };
        while at + length < text.len() && text[length] == text[at + length] {
            length += 1;
        }
        if at + length > right {
            (left, right) = (at, at + length);
        }
        matches[at] = length;
    }
    matches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_at_the_end_is_found() {
        let sentence = "I am a helpful assistant. ";
        assert!(is_looping(&format!("Well: {}", sentence.repeat(3))));
        assert!(is_looping(&format!("Well: {}I am a", sentence.repeat(3))));
        assert!(is_looping(&"=".repeat(60)));
        assert!(is_looping(&"終わり。".repeat(15)));
        assert!(is_looping(&format!("x{}\n\n", "ab ".repeat(21))));
        let long = "words that go on ".repeat(20) + "and an end. ";
        assert!(is_looping(&long.repeat(5)));
    }

    #[test]
    fn ordinary_texts_and_short_repetitions_are_not() {
        let sentence = "I am a helpful assistant. ";
        for text in [
            "",
            "Yes.",
            &sentence.repeat(2),
            &format!("{}That is all.", sentence.repeat(9)),
            &"=".repeat(59),
            "0.333333333333333333",
            "1. one\n2. two\n3. three\n4. four\n5. five\n6. six\n7. seven\n8. eight\n9. nine",
        ] {
            assert!(!is_looping(text), "{text}");
        }
        let block: String = ('a'..='z').cycle().take(1_001).enumerate().fold(
            String::new(),
            |mut text, (place, letter)| {
                text.push(letter);
                text.push_str(&place.to_string());
                text
            },
        );
        // Blocks longer than a third of the tail are not looked for.
        assert!(!is_looping(&block.repeat(4)));
    }
}
