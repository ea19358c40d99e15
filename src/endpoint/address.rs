//! Where a server's API is, from the URL a user gives.

use ureq::http::Uri;

use crate::error::{Error, Result};

/// The address of an OpenAI-compatible API.
///
/// The URL may be given with or without its version: `http://host:8000` means
/// `http://host:8000/v1`, since that is where servers have the API. A path that has a segment
/// like `v1` or `v1beta` is taken as it is; a `/chat/completions` at its end is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Ends in no slash.
    base: String,
    /// Scheme, host and port.
    origin: String,
}

impl Address {
    /// Reads what `--endpoint` was given.
    ///
    /// # Errors
    /// What is no `http` or `https` URL, and one with a user name, a password, a query or a
    /// fragment (which may be secrets: the message repeats nothing of them).
    pub fn parse(url: &str) -> Result<Address> {
        let url = url.trim();
        let refuse = |why: &str| {
            Err(Error::Usage(format!(
                "--endpoint {why}: give it like http://localhost:8000/v1"
            )))
        };
        if url.chars().any(char::is_control) {
            return refuse("has control characters in it");
        }
        if url.contains('@') {
            return refuse(
                "holds a user name or a password, which would end up in logs (put a key into an \
                 environment variable and name that with --api-key-env)",
            );
        }
        if url.contains(['?', '#']) {
            return refuse("has a query or a fragment, which is not supported");
        }
        let with_scheme = match url.contains("://") {
            true => url.to_string(),
            false => format!("http://{url}"),
        };
        let Ok(uri) = with_scheme.parse::<Uri>() else {
            return refuse("is not a URL");
        };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("is not a URL with a host");
        };
        if !["http", "https"].contains(&scheme) {
            return refuse("is neither http nor https");
        }
        if authority.host().is_empty() {
            return refuse("has no host");
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return refuse("has a port that is none");
        }
        let origin = format!("{scheme}://{authority}");
        let path = uri.path().trim_end_matches('/');
        let path = path
            .strip_suffix("/chat/completions")
            .unwrap_or(path)
            .trim_end_matches('/');
        let version = if path.split('/').any(is_version) {
            ""
        } else {
            "/v1"
        };
        Ok(Address {
            base: format!("{origin}{path}{version}"),
            origin,
        })
    }

    /// The URL of what lies at `path`, as in `chat/completions`.
    pub fn of(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Whether what is sent can be read on its way: it is not encrypted, and leaves this machine.
    pub fn is_in_the_clear(&self) -> bool {
        let Some(authority) = self.origin.strip_prefix("http://") else {
            return false;
        };
        let host = match authority.parse::<ureq::http::uri::Authority>() {
            Ok(authority) => authority.host().trim_matches(['[', ']']).to_lowercase(),
            Err(_) => return true,
        };
        let here = match host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        };
        !here
    }

    /// Scheme, host and port: all that datasets keep.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// `v1`, `v2`, `v1beta` and the like.
fn is_version(segment: &str) -> bool {
    let mut letters = segment.chars();
    letters.next() == Some('v') && letters.next().is_some_and(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_and_without_version_are_one_address() {
        for url in [
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8000/",
            "http://127.0.0.1:8000/v1",
            "http://127.0.0.1:8000/v1/",
            "http://127.0.0.1:8000/v1/chat/completions",
            "127.0.0.1:8000",
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(
                address.of("chat/completions"),
                "http://127.0.0.1:8000/v1/chat/completions",
                "{url}"
            );
            assert_eq!(address.origin(), "http://127.0.0.1:8000");
        }
        for (url, expected) in [
            ("https://h/openai", "https://h/openai/v1/models"),
            ("https://h/openai/v1", "https://h/openai/v1/models"),
            ("https://h/v1beta/openai/", "https://h/v1beta/openai/models"),
            ("http://[::1]:80/vllm", "http://[::1]:80/vllm/v1/models"),
        ] {
            assert_eq!(Address::parse(url).unwrap().of("models"), expected);
        }
    }

    #[test]
    fn what_leaves_the_machine_unencrypted_is_known() {
        for (url, expected) in [
            ("localhost:8000", false),
            ("http://127.3.2.1", false),
            ("http://[::1]:80", false),
            ("https://api.example.com", false),
            ("http://10.0.0.7:8000/v1", true),
            ("http://localhost.example.com", true),
            ("http://127.0.0.1.example.com", true),
        ] {
            assert_eq!(
                Address::parse(url).unwrap().is_in_the_clear(),
                expected,
                "{url}"
            );
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused_without_repeating_it() {
        for url in [
            "http://user:hunter2@host/v1",
            "https://hunter2@host",
            "http://host/v1?key=hunter2",
            "http://host/#hunter2",
            "ftp://hunter2",
            "http://",
            "http:///v1",
            "",
            "http://ho st:80",
            "http://host:99999999/hunter2",
        ] {
            match Address::parse(url) {
                Err(Error::Usage(message)) => {
                    assert!(message.contains("--endpoint"), "{url}: {message}");
                    assert!(!message.contains("hunter2"), "{message}");
                }
                other => panic!("{url}: {other:?}"),
            }
        }
    }
}
