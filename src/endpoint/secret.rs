//! The key that a server asks for: read from the environment, sent to the server, shown nowhere.

use crate::error::{Error, Result};

/// The variable that is looked at unless another is named.
pub const DEFAULT_VARIABLE: &str = "OPENAI_API_KEY";

/// Characters of the shortest secret.
const SECRET: usize = 12;

/// An API key. Its debug form is not it.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key in the environment variable `name`; by default [`DEFAULT_VARIABLE`], which may
    /// be unset or empty (servers of one's own mostly ask for none).
    ///
    /// # Errors
    /// A variable that was named and is not set, or a value that no header can carry.
    pub fn from_env(name: Option<&str>) -> Result<Option<ApiKey>> {
        let variable = name.unwrap_or(DEFAULT_VARIABLE);
        let value = std::env::var_os(variable).unwrap_or_default();
        let value = value.to_string_lossy();
        let value = value.trim();
        if value.is_empty() {
            return match name {
                Some(name) => Err(Error::Usage(format!(
                    "the environment variable {name} of --api-key-env is not set: set it to the \
                     key"
                ))),
                None => Ok(None),
            };
        }
        if !value.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::Usage(format!(
                "the environment variable {variable} holds characters that no key has: set it to \
                 the key alone"
            )));
        }
        Ok(Some(ApiKey(value.to_string())))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether it is long enough for a secret. Servers of one's own are often given words like
    /// `EMPTY`, which answers may have, too.
    pub(super) fn is_secret(&self) -> bool {
        self.0.len() >= SECRET
    }

    /// `text` without the key, which servers like to repeat.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey("sk-123".into());
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        assert_eq!(key.redact("bad key sk-123!"), "bad key [key]!");
        assert_eq!(key.header(), "Bearer sk-123");
        assert!(!key.is_secret() && ApiKey("sk-hunter2-hunter2".into()).is_secret());
    }

    #[test]
    fn a_named_variable_must_be_set() {
        let name = "LENAWARE_TEST_NO_SUCH_VARIABLE";
        let message = ApiKey::from_env(Some(name)).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}
