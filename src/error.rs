//! The library's errors. Each message names the file, the line or the key, and what to do;
//! the binary adds context and turns [`Error::exit_code`] into the process's exit status.

use std::path::{Path, PathBuf};

/// What the library's calls give: a value or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed; `Display` gives one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read or a write.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in it.
        message: String,
    },
    /// A flag or an argument asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// A configuration file has a mistake in it.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The line, the key and what is wrong with it.
        message: String,
    },
    /// A model could not be had by any of the three ways.
    #[error("{0}")]
    ModelUnavailable(String),
    /// A request does not fit the model or its cache.
    #[error("{0}")]
    TooLong(String),
    /// The memory that was asked for cannot be had.
    #[error("{0}")]
    Memory(String),
    /// A server did not answer as asked.
    #[error("{0}")]
    Endpoint(String),
    /// The user asked to stop; the message says how to go on.
    #[error("{0}")]
    Interrupted(String),
    /// Something computed went wrong (a loss that is not a number, a singular matrix).
    #[error("{0}")]
    Numeric(String),
    /// The tensor library failed, which loading, training and some predictors use.
    #[error("tensor library: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A refused read or write of `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io {
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// A file that is not what it should be, with what is wrong.
    pub fn malformed(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Malformed {
            path: path.as_ref().to_path_buf(),
            message: tame(&message.into()),
        }
    }

    /// A mistake in a configuration file, with what is wrong.
    pub fn config(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::Config {
            path: path.as_ref().to_path_buf(),
            message: tame(&message.into()),
        }
    }

    /// Says which file a prompt that is too long came from; other errors stay as they are.
    pub fn from_file(self, path: impl AsRef<Path>) -> Self {
        match self {
            Error::TooLong(message) => Error::malformed(path, message),
            other => other,
        }
    }

    /// 2 for wrong usage or configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Config { .. } => 2,
            _ => 1,
        }
    }
}

/// Characters of a message that quotes a file.
const MESSAGE: usize = 1500;

/// Whether a character is not shown as itself: a control character, which terminals obey, or one
/// that has no width or turns the direction of writing, by which a text reads as another.
pub(crate) fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A text with all that [`misleads`], save for line ends, written out.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match misleads(character) && character != '\n' {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

/// A text that may come from a stranger, as it can be shown: what [`misleads`] is
/// written out, and of a long one both ends are kept.
pub(crate) fn tame(text: &str) -> String {
    let shown = visible(text);
    let place = |nth: usize| shown.char_indices().nth(nth).map(|(place, _)| place);
    let count = shown.chars().count();
    match (
        place(MESSAGE / 2),
        count.checked_sub(MESSAGE / 2).and_then(place),
    ) {
        (Some(head), Some(tail)) if head < tail => {
            format!("{} ... {}", &shown[..head], &shown[tail..])
        }
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_say_is_short_and_moves_no_cursor() {
        let said = Error::malformed("f", "has `\u{1b}[2J\r`\tin\nit").to_string();
        assert_eq!(said, "f: has `\\u{1b}[2J\\r`\\tin\nit");
        let turned = Error::malformed("f", "a\u{202e}b\u{200b}c\u{feff}d\u{e9}").to_string();
        assert_eq!(turned, "f: a\\u{202e}b\\u{200b}c\\u{feff}d\u{e9}");
        let long =
            Error::malformed("f", format!("begin {} end", "\u{e9}".repeat(9000))).to_string();
        assert!(long.chars().count() < 1600, "{long}");
        assert!(long.starts_with("f: begin") && long.ends_with(" end"));
    }
}
