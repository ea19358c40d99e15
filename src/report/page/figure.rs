//! Figures of the page, with the data they are drawn from.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A figure with its caption, and its data as CSV.
#[derive(Debug, Clone, Default)]
pub struct PageFigure {
    /// What its files are called, without ending.
    pub name: String,
    /// The sentence below it.
    pub caption: String,
    /// The drawing.
    pub svg: String,
    /// What is drawn, with a line of names; empty where it is not there.
    pub csv: String,
}

impl PageFigure {
    /// The figure that was written to `<stem>.svg` and `<stem>.csv`; none where the program was
    /// built without figures.
    ///
    /// # Errors
    /// A drawing that cannot be read.
    pub fn read(stem: &Path, caption: impl Into<String>) -> Result<Option<PageFigure>> {
        let path = stem.with_extension("svg");
        if !cfg!(feature = "figures") && !path.exists() {
            return Ok(None);
        }
        let svg = crate::regular_file::text_up_to(&path, crate::regular_file::LISTS)?;
        let name = stem.file_name().unwrap_or_default().to_string_lossy();
        Ok(Some(PageFigure {
            name: name.into_owned(),
            caption: caption.into(),
            svg,
            // Figures of earlier versions have none.
            csv: crate::regular_file::text_up_to(
                &stem.with_extension("csv"),
                crate::regular_file::LISTS,
            )
            .unwrap_or_default(),
        }))
    }
}

/// The figures of a run's folder, in the order of its page.
#[derive(Debug)]
pub struct Gallery {
    folder: PathBuf,
    figures: Vec<PageFigure>,
}

impl Gallery {
    /// Figures go to `figures/` within `folder`.
    pub fn new(folder: &Path) -> Gallery {
        Gallery {
            folder: folder.join("figures"),
            figures: Vec::new(),
        }
    }

    /// Draws the figure `name` and hangs it up.
    ///
    /// # Errors
    /// What `draw` returns, or files that cannot be read again.
    pub fn add(
        &mut self,
        name: &str,
        caption: impl Into<String>,
        draw: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        // Of a run that came from elsewhere, a link may lead anywhere.
        if self.folder.is_symlink() {
            let what = "is a link, through which no figures are written: remove it";
            return Err(Error::malformed(&self.folder, what));
        }
        let stem = self.folder.join(name);
        draw(&stem)?;
        self.figures.extend(PageFigure::read(&stem, caption)?);
        Ok(())
    }

    /// What hangs there.
    pub fn into_figures(self) -> Vec<PageFigure> {
        self.figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_with_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let stem = folder.path().join("x");
        std::fs::write(stem.with_extension("svg"), "<svg></svg>").unwrap();
        let read = || PageFigure::read(&stem, "caption").unwrap().unwrap();
        assert!(read().csv.is_empty());
        std::fs::write(stem.with_extension("csv"), "a\n1\n").unwrap();
        assert_eq!((read().name.as_str(), read().csv.as_str()), ("x", "a\n1\n"));
    }
}
