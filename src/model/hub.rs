//! Models from the Hugging Face hub, through its own cache layout, so that what other tools
//! have downloaded is found and what is downloaded here is found by them.
//!
//! `hf-hub` has no timeouts, no offline mode, no hashes and no idea of a whole snapshot: of it
//! only the cache's layout and the listing are used. Here requests run on a thread that is given
//! up when it stays silent, one commit is pinned for all files, and the revision's reference is
//! written last: a snapshot that can be seen is complete.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};

use super::directory::{SAFETENSORS_INDEX, TORCH_FILE, TORCH_INDEX, directory_weights};
use super::source::one_line;
use super::wheel::bar;

#[path = "hub_dataset.rs"]
mod dataset;
#[path = "hub_download.rs"]
mod download;

pub use dataset::hub_dataset;
use download::Download;

/// How long the hub may take to answer at all.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a download may stand still.
const STALL: Duration = Duration::from_mins(1);
/// Where the hub is unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// Files taken where the repository has them.
const OPTIONAL: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "added_tokens.json",
];

/// The hub's cache on this machine and the way to the hub itself.
pub(super) struct Hub {
    /// None where no home directory is known.
    pub cache: Option<PathBuf>,
    pub endpoint: Option<String>,
    pub token: Option<String>,
    pub offline: bool,
    pub progress: bool,
}

impl Hub {
    /// `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` as other tools read them.
    pub fn from_env(progress: bool, offline: bool) -> Hub {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let home = var("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| dirs::home_dir().map(|h| h.join(".cache").join("huggingface")));
        let cache = var("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|h| h.join("hub")));
        let token = var("HF_TOKEN").or_else(|| {
            let text = std::fs::read_to_string(home?.join("token")).ok()?;
            Some(text.trim().to_string()).filter(|t| !t.is_empty())
        });
        Hub {
            cache,
            endpoint: var("HF_ENDPOINT"),
            token,
            offline,
            progress,
        }
    }

    /// The cache and its folder.
    fn cache(&self) -> std::result::Result<(&Path, Cache), String> {
        match &self.cache {
            Some(root) => Ok((root, Cache::new(root.clone()))),
            None => Err("no home directory for its cache: set HF_HOME".into()),
        }
    }

    /// The way to the hub.
    fn api(&self, cache: &Cache) -> std::result::Result<Api, String> {
        let builder = ApiBuilder::from_cache(cache.clone())
            .with_progress(false)
            .with_token(self.token.clone())
            .with_endpoint(self.endpoint().to_string());
        builder.build().map_err(one_line)
    }

    fn endpoint(&self) -> &str {
        let named = self.endpoint.as_deref().unwrap_or(ENDPOINT);
        named.trim_end_matches('/')
    }

    /// The directory of a complete snapshot of `org/name[@revision]`.
    pub fn snapshot(&self, repository: &str) -> Result<PathBuf> {
        let (id, revision) = parse(repository)?;
        let unavailable = |why: String| Error::ModelUnavailable(why);
        let (root, cache) = self.cache().map_err(unavailable)?;
        let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
        let by_reference = cache.repo(repo.clone()).get("config.json");
        let by_commit = cache
            .repo(repo.clone())
            .pointer_path(revision)
            .join("config.json");
        for config in by_reference.into_iter().chain([by_commit]) {
            if let Some(dir) = config.parent().filter(|d| directory_weights(d).is_ok()) {
                return Ok(dir.to_path_buf());
            }
        }
        if self.offline {
            let why = format!("{repository} is not in {}, and offline", root.display());
            return Err(unavailable(why));
        }
        self.download(&cache, repo)
            .map_err(|why| unavailable(format!("{repository}: {why}")))
    }

    fn download(&self, cache: &Cache, repo: Repo) -> std::result::Result<PathBuf, String> {
        let api = self.api(cache)?;
        let info = answer({
            let handle = api.repo(repo.clone());
            move || handle.info()
        })?;
        if !is_commit(&info.sha) {
            return Err("the hub's answer makes no sense".into());
        }
        let pinned = Repo::with_revision(repo_id(&repo), RepoType::Model, info.sha.clone());
        for name in wanted(&info)? {
            self.file(cache, &pinned, &name)?;
            if name == SAFETENSORS_INDEX || name == TORCH_INDEX {
                let path = cache
                    .repo(pinned.clone())
                    .pointer_path(&info.sha)
                    .join(name);
                for shard in shards(&path)? {
                    self.file(cache, &pinned, &shard)?;
                }
            }
        }
        cache
            .repo(repo)
            .create_ref(&info.sha)
            .map_err(|e| format!("the cache cannot be written: {e}"))?;
        Ok(cache.repo(pinned).pointer_path(&info.sha))
    }

    /// Downloads one file of a commit unless it is there, giving up where nothing arrives for a
    /// while.
    fn file(&self, cache: &Cache, repo: &Repo, name: &str) -> std::result::Result<(), String> {
        let files = cache.repo(repo.clone());
        let folder = files.pointer_path(repo.revision());
        let pointer = folder.join(name);
        if pointer.exists() {
            return Ok(());
        }
        let download = Download {
            endpoint: self.endpoint().to_string(),
            token: self.token.clone(),
            repository: repo.url(),
            commit: repo.revision().to_string(),
            name: name.to_string(),
            // Of any name: the folder is what is wanted.
            blobs: files.blob_path(""),
            pointer,
        };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let done = download.run(&mut |bytes, size| {
                let _ = sender.send(Event::Bytes(bytes, size));
            });
            let _ = sender.send(Event::Done(done));
        });
        let bar = bar(self.progress, 0, name);
        loop {
            match receiver.recv_timeout(STALL) {
                Ok(Event::Bytes(bytes, size)) => {
                    size.inspect(|size| bar.set_length(*size));
                    bar.set_position(bytes);
                }
                Ok(Event::Done(result)) => {
                    bar.finish_and_clear();
                    return result.map_err(|why| with_remedy(format!("{name}: {why}")));
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{name}: nothing came for {} s", STALL.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{name}: the download broke off"));
                }
            }
        }
    }
}

/// What a downloading thread tells.
enum Event {
    /// How many are there, of how many.
    Bytes(u64, Option<u64>),
    Done(std::result::Result<(), String>),
}

/// Runs a request on a thread and waits for it no longer than [`ANSWER`].
fn answer(
    request: impl FnOnce() -> std::result::Result<RepoInfo, ApiError> + Send + 'static,
) -> std::result::Result<RepoInfo, String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(request().map_err(describe)));
    match receiver.recv_timeout(ANSWER) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(format!("no answer in {} s", ANSWER.as_secs())),
        Err(RecvTimeoutError::Disconnected) => Err("the request broke off".into()),
    }
}

fn describe(error: ApiError) -> String {
    with_remedy(one_line(error))
}

fn with_remedy(text: String) -> String {
    if text.contains("401") || text.contains("403") {
        return format!("{text} (gated, private or misspelt: set HF_TOKEN if it is yours)");
    }
    text
}

/// Whether a hub's word for a commit can be a folder's name.
fn is_commit(sha: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=128).contains(&sha.len()) && !sha.starts_with('.') && sha.chars().all(plain)
}

/// Splits `org/name[@revision]`, refusing what could leave the cache directory.
fn parse(repository: &str) -> Result<(&str, &str)> {
    let (id, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    let part = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() == 2
        && parts.iter().all(|p| part(p) && !p.contains(".."))
        && revision.split('/').all(part)
    {
        return Ok((id, revision));
    }
    Err(Error::Usage(format!(
        "`hub:{repository}` is not of the form hub:org/name[@revision]"
    )))
}

/// [`Repo`] does not give its name back; its web address for models is the name.
fn repo_id(repo: &Repo) -> String {
    repo.url()
}

/// Which of a repository's files to take, the weights last.
fn wanted(info: &RepoInfo) -> std::result::Result<Vec<String>, String> {
    let names: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
    if !names.contains(&"config.json") {
        return Err("it has no config.json: not a model of the transformers layout".into());
    }
    let mut files = vec!["config.json".to_string()];
    files.extend(
        OPTIONAL
            .iter()
            .filter(|n| names.contains(n))
            .map(std::string::ToString::to_string),
    );
    for weights in [
        SAFETENSORS_INDEX,
        "model.safetensors",
        TORCH_INDEX,
        TORCH_FILE,
    ] {
        if names.contains(&weights) {
            files.push(weights.into());
            return Ok(files);
        }
    }
    Err("it has neither model.safetensors nor pytorch_model.bin: choose another repository".into())
}

/// The shard names of a downloaded index.
fn shards(index: &std::path::Path) -> std::result::Result<Vec<String>, String> {
    let json = super::source::read_json(index).map_err(one_line)?;
    let map = json.get("weight_map").and_then(|m| m.as_object());
    let mut names: Vec<String> = map
        .into_iter()
        .flat_map(|m| m.values())
        .filter_map(|v| v.as_str())
        .map(String::from)
        .collect();
    names.sort();
    names.dedup();
    let plain = |n: &String| !n.contains(['/', '\\']) && !n.starts_with('.');
    match names.is_empty() || !names.iter().all(plain) {
        true => Err("its index of shards makes no sense".into()),
        false => Ok(names),
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
