//! Datasets of the Hugging Face hub: their Parquet, JSON or CSV files in the hub's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use super::{Hub, answer, is_commit, parse};
use crate::error::{Error, Result};

/// What instructions are read from, the best first.
const FORMATS: [&[&str]; 4] = [
    &["parquet"],
    &["jsonl", "ndjson"],
    &["json"],
    &["csv", "tsv"],
];

/// The files of the dataset `org/name[@revision][:file]`: the named one, or else those of its
/// training split, in order. They are downloaded where the cache does not have them.
///
/// # Errors
/// A dataset that is misspelt, not in the cache while offline, out of reach, or whose files
/// leave a choice that only a person can make.
pub fn hub_dataset(repository: &str, progress: bool, offline: bool) -> Result<Vec<PathBuf>> {
    Hub::from_env(progress, offline).dataset(repository)
}

impl Hub {
    pub(super) fn dataset(&self, repository: &str) -> Result<Vec<PathBuf>> {
        let (name, file) = match repository.split_once(':') {
            Some((name, file)) => (name, Some(file)),
            None => (repository, None),
        };
        let misspelt = || {
            Error::Usage(format!(
                "`hub:{repository}` is not of the form hub:org/name[@revision][:file]"
            ))
        };
        let (id, revision) = parse(name).map_err(|_| misspelt())?;
        if file.is_some_and(|file| !is_plain(file)) {
            return Err(misspelt());
        }
        let unavailable = |why: String| {
            Error::ModelUnavailable(format!("the dataset hub:{repository} cannot be had: {why}"))
        };
        let (root, cache) = self.cache().map_err(unavailable)?;
        let repo = Repo::with_revision(id.into(), RepoType::Dataset, revision.into());
        let cached = cached(&cache, &repo, file);
        // A named file is the same online; which files there are, only the hub knows.
        if let (Some(_), Some(Ok(files))) = (file, &cached) {
            return Ok(files.clone());
        }
        if self.offline {
            return match cached {
                Some(files) => files.map_err(unavailable),
                None => Err(unavailable(format!(
                    "it is not in {}, and offline: give a local file, or drop --offline",
                    root.display()
                ))),
            };
        }
        match (self.download_dataset(&cache, id, repo, file), cached) {
            (Ok(files), _) => Ok(files),
            // Out of reach, and here from an earlier time.
            (Err(Trouble::Reach(_)), Some(Ok(files))) => Ok(files),
            (Err(Trouble::Reach(why) | Trouble::Choice(why)), _) => Err(unavailable(why)),
        }
    }

    fn download_dataset(
        &self,
        cache: &Cache,
        id: &str,
        repo: Repo,
        file: Option<&str>,
    ) -> Result<Vec<PathBuf>, Trouble> {
        let api = self.api(cache).map_err(Trouble::Reach)?;
        let info = answer({
            let handle = api.repo(repo.clone());
            move || handle.info()
        })
        .map_err(Trouble::Reach)?;
        if !is_commit(&info.sha) {
            return Err(Trouble::Reach("the hub's answer makes no sense".into()));
        }
        let there: Vec<String> = info.siblings.iter().map(|s| s.rfilename.clone()).collect();
        let chosen = choose(&there, file).map_err(Trouble::Choice)?;
        let pinned = Repo::with_revision(id.into(), RepoType::Dataset, info.sha.clone());
        let folder = cache.repo(pinned.clone()).pointer_path(&info.sha);
        for name in &chosen {
            if !folder.join(name).is_file() {
                self.file(cache, &pinned, name).map_err(Trouble::Reach)?;
            }
        }
        cache
            .repo(repo)
            .create_ref(&info.sha)
            .map_err(|e| Trouble::Choice(format!("the cache cannot be written: {e}")))?;
        Ok(chosen.iter().map(|name| folder.join(name)).collect())
    }
}

/// Why a download came to nothing.
enum Trouble {
    /// The hub, or the way to it.
    Reach(String),
    /// The dataset's files, or the cache.
    Choice(String),
}

/// The files in the cache: `None` where the snapshot is not there.
fn cached(
    cache: &Cache,
    repo: &Repo,
    file: Option<&str>,
) -> Option<std::result::Result<Vec<PathBuf>, String>> {
    let named = cache.repo(repo.clone());
    // A folder of snapshots is only known through its commits: `snapshots/<commit>`.
    let by_commit = named.pointer_path(repo.revision());
    let reference = by_commit
        .parent()?
        .parent()?
        .join("refs")
        .join(repo.revision());
    let by_reference = std::fs::read_to_string(reference)
        .ok()
        .filter(|commit| is_plain(commit.trim()))
        .map(|commit| named.pointer_path(commit.trim()));
    let folder = by_reference
        .into_iter()
        .chain([by_commit])
        .find(|folder| folder.is_dir())?;
    let chosen = choose(&files_under(&folder), file);
    Some(chosen.map(|names| names.iter().map(|name| folder.join(name)).collect()))
}

/// Paths of all files under `folder`, relative to it.
fn files_under(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let entries = std::fs::read_dir(folder.join(&inner));
        for entry in entries.into_iter().flatten().flatten() {
            let path = inner.join(entry.file_name());
            // Snapshots hold links to files, never to folders.
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(path),
                false => found.extend(path.to_str().map(String::from)),
            }
        }
    }
    found
}

/// Whether a path stays within its folder.
fn is_plain(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    path.split('/').all(part) && !path.contains(['\\', '\0', ':'])
}

/// The files to read among those that are there.
fn choose(there: &[String], file: Option<&str>) -> std::result::Result<Vec<String>, String> {
    let shown = |names: &[&str]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        let more = names.len() > 12;
        names.truncate(12);
        names.join(", ") + if more { " and more" } else { "" }
    };
    let plain: Vec<&str> = there
        .iter()
        .map(String::as_str)
        .filter(|name| is_plain(name))
        .collect();
    if let Some(file) = file {
        return match plain.contains(&file) {
            true => Ok(vec![file.to_string()]),
            false => Err(format!("it has no file `{file}`: it has {}", shown(&plain))),
        };
    }
    let extension = |name: &str| Path::new(name).extension()?.to_str().map(String::from);
    for format in FORMATS {
        // The shards of each split, by what their names have before `-00000-of-00002`.
        let mut splits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in &plain {
            let fits = extension(name).is_some_and(|e| format.contains(&e.as_str()));
            if fits && !name.ends_with("dataset_infos.json") {
                splits.entry(split_of(name)).or_default().push(name);
            }
        }
        let is_train = |split: &&str| split.rsplit('/').next() == Some("train");
        let train: Vec<&str> = splits.keys().copied().filter(is_train).collect();
        let chosen = match (splits.len(), &train[..]) {
            (0, _) => continue,
            (1, _) => splits.into_values().next(),
            (_, [train]) => splits.remove(train),
            _ => {
                let names: Vec<&str> = splits.into_values().flatten().collect();
                return Err(format!(
                    "it has several files: choose one by adding `:FILE` ({})",
                    shown(&names)
                ));
            }
        };
        let mut chosen: Vec<String> = chosen.into_iter().flatten().map(String::from).collect();
        chosen.sort_unstable();
        return Ok(chosen);
    }
    Err(format!(
        "it has no Parquet, JSON or CSV files: it has {}",
        shown(&plain)
    ))
}

/// A file's name up to its shard number or its extension.
fn split_of(name: &str) -> &str {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let shard = stem.match_indices("-of-").find_map(|(at, _)| {
        let (before, number) = stem[..at].rsplit_once('-')?;
        (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(before)
    });
    shard.unwrap_or(stem)
}

#[cfg(test)]
#[path = "hub_dataset_tests.rs"]
mod tests;
