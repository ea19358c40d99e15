//! All runs below a folder, from what their pages say of themselves.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compare::record::Record;
use super::page::{Page, PageCell, PageTable};
use super::tables::text_table;
use crate::error::{Error, Result};

/// What a page says of itself, for programs: the element `about` of `report.html`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The experiment, or what else the page is of.
    pub title: String,
    /// The finding in a sentence.
    pub finding: String,
    /// `measured`, `simulated` or `real compute, replayed lengths`; empty for evaluations.
    pub kind: String,
    /// On what.
    pub origin: String,
    /// UTC, RFC 3339.
    pub created: String,
    /// Rows of the first table: arms or predictors.
    pub rows: usize,
}

/// Where a page says it: within its first bytes.
const HEAD: u64 = 1 << 16;
const BEGIN: &str = "<script type=\"application/json\" id=\"about\">";

impl About {
    /// As it stands in the page. JSON's `<` are written so that nothing in it can end the
    /// element.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_script(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|e| Error::Numeric(format!("JSON: {e}")))?;
        Ok(json.replace('<', "\\u003c"))
    }

    /// What the page says; none where it is not one of ours.
    fn read(page: &str) -> Option<About> {
        let from = page.find(BEGIN)? + BEGIN.len();
        let json = page[from..].split("</script>").next()?;
        serde_json::from_str(json).ok()
    }

    /// What the page at a path says; none where it is not one of ours.
    pub fn of(path: &Path) -> Option<About> {
        let mut head = Vec::new();
        let file = crate::regular_file::open(path).ok()?;
        file.take(HEAD).read_to_end(&mut head).ok()?;
        About::read(&String::from_utf8_lossy(&head))
    }
}

/// A run that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its folder, relative to the one that was looked through.
    pub run: String,
    /// Its page, or none where it has not ended.
    pub page: Option<String>,
    /// What its page says of itself.
    #[serde(flatten)]
    pub about: About,
}

/// How deep runs are looked for, in folders.
const DEPTH: usize = 6;

/// The runs below `root`, newest first.
///
/// # Errors
/// A `root` that cannot be read.
pub fn index(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    walk(root, Path::new(""), DEPTH, &mut entries).map_err(|e| Error::io(root, e))?;
    let key = |entry: &Entry| (entry.about.created.clone(), entry.run.clone());
    entries.sort_by_key(|entry| std::cmp::Reverse(key(entry)));
    Ok(entries)
}

fn walk(root: &Path, at: &Path, depth: usize, found: &mut Vec<Entry>) -> std::io::Result<()> {
    let folder = root.join(at);
    let run = at.to_string_lossy().replace('\\', "/");
    let page = folder.join("report.html");
    let about = page.is_file().then(|| About::of(&page)).flatten();
    if let Some(about) = about {
        let page = match run.is_empty() {
            true => "report.html".to_string(),
            false => format!("{run}/report.html"),
        };
        let page = Some(page);
        found.push(Entry { run, page, about });
    } else if let Ok(record) = Record::read(&folder) {
        // It has ended; its page is of an earlier version, or was not kept.
        let about = About {
            title: record.title,
            finding: "No page of this version: draw it with `lenaware report`.".into(),
            kind: record.kind.to_string(),
            origin: record.origin,
            created: record.created,
            rows: record.rows.len(),
        };
        let page = None;
        found.push(Entry { run, page, about });
    } else if folder.join("arms.jsonl").is_file() {
        let arms = crate::regular_file::text_up_to(&folder.join("arms.jsonl"), u64::MAX)
            .unwrap_or_default();
        let title = at.parent().unwrap_or(at).to_string_lossy().into_owned();
        let about = About {
            title,
            finding: "Not ended: go on with `ablate --resume`, or draw it with `report`.".into(),
            rows: arms.lines().count(),
            ..About::default()
        };
        let page = None;
        found.push(Entry { run, page, about });
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(&folder)?.flatten() {
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        // Links are not followed: they may lead round in circles.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !hidden {
            // A folder that cannot be read hides its runs, not those of the others.
            let _ = walk(root, &at.join(name), depth - 1, found);
        }
    }
    Ok(())
}

/// The runs as a table for terminals.
pub fn index_text(entries: &[Entry]) -> String {
    let headers = ["run", "made", "kind", "rows", "finding"].map(String::from);
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let about = &entry.about;
            vec![
                entry.run.clone(),
                day(&about.created).to_string(),
                about.kind.clone(),
                about.rows.to_string(),
                about.finding.clone(),
            ]
        })
        .collect();
    text_table(&headers, &rows)
}

/// A path as a link from the index: no part of it can be taken for something else.
fn address(path: &str) -> String {
    format!("./{}", percent_encoded_but(path, b"/-_.~"))
}

/// Text as part of an address: letters, digits and what is named stand as they are.
pub(super) fn percent_encoded_but(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn day(created: &str) -> &str {
    created.get(..10).unwrap_or(created)
}

/// Writes `index.html` into `root`, with a link to every run's page; returns its path.
///
/// # Errors
/// An `index.html` that is not one of ours, or a folder that cannot be written.
pub fn write_index(root: &Path, entries: &[Entry]) -> Result<PathBuf> {
    let path = root.join("index.html");
    if path.exists() && About::of(&path).is_none() {
        return Err(Error::Usage(format!(
            "{} is there and was not made by this command: move it away",
            path.display()
        )));
    }
    let rows = entries.iter().map(|entry| {
        let about = &entry.about;
        let mut name = PageCell::words(&about.title);
        name.href = entry.page.as_deref().map(address);
        vec![
            name,
            PageCell::words(&about.finding),
            PageCell::words(&about.kind),
            PageCell::words(&about.origin),
            about.rows.to_string().as_str().into(),
            PageCell::words(day(&about.created)),
            PageCell::words(&entry.run),
        ]
    });
    let headers = ["run of", "finding", "kind", "on", "rows", "made", "folder"];
    let page = Page {
        title: "Runs".into(),
        finding: Some(format!("{} runs", entries.len())),
        tables: vec![PageTable {
            title: "Runs".into(),
            headers: headers.map(String::from).to_vec(),
            rows: rows.collect(),
            ..PageTable::default()
        }],
        terms: Some(&[]),
        ..Page::default()
    };
    page.write_to(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(folder: &Path, title: &str, created: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let about = About {
            title: title.into(),
            finding: "</script><script>alert(1)</script>".into(),
            created: created.into(),
            ..About::default()
        };
        let text = format!("<html>{BEGIN}{}</script>", about.to_script().unwrap());
        assert_eq!(text.matches("</script>").count(), 1);
        std::fs::write(folder.join("report.html"), text).unwrap();
    }

    #[test]
    fn runs_are_found_newest_first() {
        let root = tempfile::tempdir().unwrap();
        page(&root.path().join("a/1"), "older", "2026-01-01T00:00:00Z");
        page(&root.path().join("b"), "newer", "2026-02-01T00:00:00Z");
        std::fs::create_dir_all(root.path().join("c/2")).unwrap();
        std::fs::write(root.path().join("c/2/arms.jsonl"), "{}\n").unwrap();
        std::fs::write(root.path().join("report.html"), "somebody else's").unwrap();
        let entries = index(root.path()).unwrap();
        let names: Vec<&str> = entries.iter().map(|e| e.about.title.as_str()).collect();
        assert_eq!(names, ["newer", "older", "c"]);
        assert_eq!(entries[1].page.as_deref(), Some("a/1/report.html"));
        assert_eq!((&entries[2].page, entries[2].about.rows), (&None, 1));
        assert!(index(&root.path().join("missing")).is_err());
    }

    #[test]
    fn links_lead_to_files_only() {
        assert_eq!(address("a/b 1"), "./a/b%201");
        assert_eq!(address("javascript:x"), "./javascript%3Ax");
    }

    #[cfg(feature = "page")]
    #[test]
    fn only_an_index_of_ours_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        page(&root.path().join("a"), "x", "2026-01-01T00:00:00Z");
        for _ in 0..2 {
            let entries = index(root.path()).unwrap();
            assert_eq!(entries.len(), 1);
            let path = write_index(root.path(), &entries).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("a/report.html\"") || text.contains("a&#x2f;report.html"));
            assert!(!text.contains("<script>alert"));
        }
        std::fs::write(root.path().join("index.html"), "mine").unwrap();
        assert!(write_index(root.path(), &[]).is_err());
    }
}
