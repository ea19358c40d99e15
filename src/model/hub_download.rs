//! One file from the hub into its cache. Of what comes nothing is believed: the size must be the
//! one told, the content what the file's name in the hub is a hash of, and only the hub itself
//! gets the token, however often it sends elsewhere (as it does for large files).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, header};
use ureq::{Agent, Body};

use crate::digest::sha256_file;

use super::super::git_blob;
use super::super::source::one_line;

/// Addresses in a row that may send on to another.
const HOPS: usize = 5;
/// Tries after the first for a connection that breaks off; each goes on where it was.
const AGAIN: usize = 2;
/// How long connecting may take, and then the begin of an answer.
const CONNECT: Duration = Duration::from_secs(15);
const BEGIN: Duration = Duration::from_secs(30);
/// A file whose size nobody tells is no larger.
const UNTOLD: u64 = 64 << 20;

type Outcome<T> = std::result::Result<T, String>;

/// What to download, and from where.
pub(super) struct Download {
    /// Of the hub, without a slash at its end.
    pub endpoint: String,
    /// Sent to the hub alone.
    pub token: Option<String>,
    /// As the hub's addresses have it: `org/name`, `datasets/org/name`.
    pub repository: String,
    pub commit: String,
    pub name: String,
    /// The folder of the cache that holds the contents, by their hashes.
    pub blobs: PathBuf,
    /// Where the file is to be seen.
    pub pointer: PathBuf,
}

/// An answer that has the file, or the rest of it.
struct Found {
    response: Response<Body>,
    /// What the hub calls the content: its SHA-256, or git's name for it.
    etag: String,
    /// Of the whole file, where it is told.
    size: Option<u64>,
}

impl Download {
    /// Downloads the file. `progress` is told the bytes that are there and the size.
    ///
    /// # Errors
    /// A hub that has it not, or what comes is not what the hub says it is.
    pub fn run(&self, progress: &mut dyn FnMut(u64, Option<u64>)) -> Outcome<()> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(BEGIN))
            .user_agent(concat!("lenaware/", env!("CARGO_PKG_VERSION")))
            // A length is that of the file only where nothing is compressed on the way.
            .accept_encoding("identity")
            .build()
            .into();
        let found = self.find(&agent, 0)?;
        let blob = self.blobs.join(&found.etag);
        let part = self.blobs.join(format!("{}.part", found.etag));
        std::fs::create_dir_all(&self.blobs).map_err(written)?;
        let lock = self.blobs.join(format!("{}.lock", found.etag));
        let lock = locked(&lock)?;
        if !blob.is_file() || check(&blob, &found.etag).is_err() {
            let (etag, size) = self.fetch(&agent, found, &part, progress)?;
            if let Err(why) = size_is(&part, size).and_then(|()| check(&part, &etag)) {
                let _ = std::fs::remove_file(&part);
                return Err(why);
            }
            std::fs::rename(&part, &blob).map_err(written)?;
        }
        drop(lock);
        self.show(&blob)
    }

    /// Fills `part`, going on where it is; the size that it must have in the end.
    fn fetch(
        &self,
        agent: &Agent,
        first: Found,
        part: &Path,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Outcome<(String, Option<u64>)> {
        let etag = first.etag.clone();
        // A part as long as the file lacks nothing, or is none of it.
        if first.size.is_some_and(|size| size_of(part) >= size) {
            if size_is(part, first.size).is_ok() && check(part, &etag).is_ok() {
                return Ok((etag, first.size));
            }
            let _ = std::fs::remove_file(part);
        }
        let mut next = match size_of(part) {
            0 => Ok(first),
            there => self.find(agent, there),
        };
        let mut failures = 0;
        loop {
            let broken = match next {
                Ok(found) if found.etag != etag => {
                    return Err("the hub changes its mind about what the file is".into());
                }
                Ok(found) => {
                    let size = found.size;
                    match receive(found, part, progress)? {
                        None => return Ok((etag, size)),
                        Some(why) => why,
                    }
                }
                Err(why) => why,
            };
            failures += 1;
            if failures > AGAIN {
                return Err(format!("{broken}; the same command goes on from there"));
            }
            std::thread::sleep(Duration::from_millis(300) * failures as u32);
            next = self.find(agent, size_of(part));
        }
    }

    /// Asks the hub for the file from `offset` on, and whom it names.
    fn find(&self, agent: &Agent, offset: u64) -> Outcome<Found> {
        let mut url = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            self.repository,
            self.commit.replace('/', "%2F"),
            self.name
        );
        let hub = origin(&url).ok_or("HF_ENDPOINT is not a URL like https://huggingface.co")?;
        let hub = hub.to_string();
        let (mut etag, mut size) = (None, None);
        for _ in 0..HOPS {
            let at_hub = origin(&url) == Some(&hub[..]);
            let mut request = agent.get(&url);
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| at_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(one_line)?;
            let headers = response.headers();
            if at_hub {
                // What the hub says of the file counts, not what its stores say.
                let told = text(headers, "x-linked-etag");
                etag = told.or(etag).or_else(|| text(headers, "etag"));
                let told = text(headers, "x-linked-size").and_then(|size| size.parse().ok());
                size = told.or(size);
                if text(headers, "x-repo-commit").is_some_and(|commit| commit != self.commit) {
                    return Err("the hub answers with another commit than was asked for".into());
                }
            }
            let status = response.status();
            if status.is_redirection() {
                let to = text(headers, "location").unwrap_or_default();
                url = absolute(&url, &to)
                    .ok_or_else(|| format!("the hub sends to `{}`, which is no URL", tame(&to)))?;
                if hub.starts_with("https:") && !url.starts_with("https:") {
                    return Err("the hub sends to where nothing is encrypted".into());
                }
                continue;
            }
            if status.as_u16() == 416 && offset > 0 {
                return Err("more is here than the file has".into());
            }
            if !status.is_success() {
                return Err(format!("the hub answered {status}"));
            }
            let etag = etag.as_deref().and_then(plain_etag);
            let etag = etag.ok_or("the hub does not say what the file is (ETag)")?;
            return Ok(Found {
                response,
                etag,
                size,
            });
        }
        Err(format!("the hub sends on more than {HOPS} times"))
    }

    /// Links the content to where it is looked for, or moves it there where links are not to be
    /// had.
    fn show(&self, blob: &Path) -> Outcome<()> {
        if let Some(folder) = self.pointer.parent() {
            std::fs::create_dir_all(folder).map_err(written)?;
        }
        // What is there does not lead to a file.
        let _ = std::fs::remove_file(&self.pointer);
        #[cfg(unix)]
        {
            // `blobs` is beside `snapshots`, which has a folder a commit.
            let up = "../".repeat(1 + self.name.split('/').count());
            let name = blob.file_name().unwrap_or_default().to_string_lossy();
            let target = format!("{up}blobs/{name}");
            std::os::unix::fs::symlink(target, &self.pointer).map_err(written)
        }
        #[cfg(not(unix))]
        std::fs::rename(blob, &self.pointer).map_err(written)
    }
}

/// Appends what comes to `part`; why there is no more, if there should be.
fn receive(
    found: Found,
    part: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Outcome<Option<String>> {
    let headers = found.response.headers();
    let there = size_of(part);
    let (begin, whole) = range(headers).unwrap_or((0, None));
    let partial = found.response.status().as_u16() == 206;
    // A store that knows no ranges begins anew.
    let begin = if partial { begin } else { 0 };
    if begin != 0 && begin != there {
        return Err("the hub sends another part of the file than was asked for".into());
    }
    let rest = text(headers, "content-length").and_then(|length| length.parse::<u64>().ok());
    let size = found.size.or(whole).or(rest.map(|rest| begin + rest));
    let ends = text(headers, "transfer-encoding").is_some_and(|how| how.contains("chunked"));
    if size.is_none() && !ends && !is_hash(&found.etag) {
        return Err("the hub tells neither the size nor the hash of the file".into());
    }
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(begin > 0);
    let mut file = options.truncate(begin == 0).open(part).map_err(written)?;
    let limit = size.unwrap_or(UNTOLD).saturating_sub(begin);
    let mut body = found.response.into_body().into_reader().take(limit + 1);
    let mut buffer = vec![0; 1 << 18];
    let mut done = begin;
    loop {
        progress(done, size);
        let why = match body.read(&mut buffer) {
            Ok(0) => match size {
                Some(size) if done < size => format!("it broke off at {done} of {size} bytes"),
                _ => {
                    file.sync_all().map_err(written)?;
                    return Ok(None);
                }
            },
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(written)?;
                done += n as u64;
                if done > begin + limit {
                    drop(file);
                    let _ = std::fs::remove_file(part);
                    return Err("more came than the file has: it is dropped".into());
                }
                continue;
            }
            Err(e) => format!("it broke off at {done} bytes ({})", one_line(e)),
        };
        return Ok(Some(why));
    }
}

/// Waits for another process that downloads the same.
fn locked(path: &Path) -> Outcome<File> {
    let file = File::create(path).map_err(written)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < CONNECT => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::WouldBlock) => {
                return Err("another process downloads it: wait for that one".into());
            }
            Err(TryLockError::Error(e)) => return Err(written(e)),
        }
    }
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

fn size_is(path: &Path, size: Option<u64>) -> Outcome<()> {
    match size {
        Some(size) if size_of(path) != size => Err(format!(
            "{} bytes came of a file that has {size}: it is dropped, and the same command tries \
             again",
            size_of(path)
        )),
        _ => Ok(()),
    }
}

/// Whether a file is the one that `etag` is a hash of. Mirrors whose etags are none are believed
/// about contents, never about sizes.
fn check(path: &Path, etag: &str) -> Outcome<()> {
    let known = match etag.len() {
        _ if !is_hash(etag) => return Ok(()),
        64 => sha256_file(path),
        _ => git_blob::name_of(path),
    };
    match known.map_err(one_line)? == etag.to_lowercase() {
        true => Ok(()),
        false => Err(
            "what came is not what the hub says the file is (its hash differs): it is \
                      dropped, and the same command tries again"
                .into(),
        ),
    }
}

fn is_hash(etag: &str) -> bool {
    [40, 64].contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

fn written(error: std::io::Error) -> String {
    format!("the cache cannot be written: {error}")
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim().to_string())
}

/// What an etag names, fit for a file's name.
fn plain_etag(etag: &str) -> Option<String> {
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = (1..=128).contains(&etag.len()) && !etag.starts_with('.');
    (fits && etag.chars().all(plain)).then(|| etag.to_string())
}

/// The begin and the whole of `Content-Range: bytes 5-9/10`.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = text(headers, "content-range")?;
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let begin = range.split_once('-')?.0.parse().ok()?;
    Some((begin, whole.parse().ok()))
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A name before the host could pass for one.
    let fits = ["http", "https"].contains(&scheme) && host > 0 && !rest[..host].contains('@');
    fits.then(|| &url[..scheme.len() + 3 + host])
}

/// Where a `Location` at `url` leads to.
fn absolute(url: &str, to: &str) -> Option<String> {
    let whole = match to.starts_with('/') && !to.starts_with("//") {
        true => format!("{}{to}", origin(url)?),
        false => to.to_string(),
    };
    origin(&whole)?;
    whole.parse::<ureq::http::Uri>().ok().map(|_| whole)
}

fn tame(text: &str) -> String {
    crate::error::tame(&text.chars().take(200).collect::<String>())
}

#[cfg(test)]
#[path = "hub_download_tests.rs"]
mod tests;
