//! The card of a length dataset: a README.md as the Hugging Face hub reads it, with what a
//! stranger needs to know before using the lengths.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::persist;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::describe::{Description, Lengths, describe_with_provenance};
use super::{Known, Label, Provenance};

/// Tells a card of ours from a README.md that somebody wrote.
const MARKER: &str = "<!-- Written by lenaware, which replaces it when the dataset changes. \
                      Delete this line to keep your own text. -->";
const TEMPLATE: &str = include_str!("card.md.j2");

/// What the file itself does not say.
#[derive(Debug, Clone, Default)]
pub struct Making {
    /// What was typed, without paths of this machine.
    pub command: String,
    /// Whether samples were drawn, or lengths read from others' files.
    pub imported: bool,
    /// Language of the instructions (ISO 639-1), where it is known.
    pub language: Option<&'static str>,
}

/// Name, type as the hub calls it, unit, and meaning of each column.
struct ColumnText {
    name: &'static str,
    dtype: &'static str,
    unit: &'static str,
    meaning: &'static str,
}

impl ColumnText {
    fn value(&self) -> Value {
        context! {
            name => self.name,
            dtype => self.dtype,
            unit => self.unit,
            meaning => self.meaning,
        }
    }
}

const fn column(
    name: &'static str,
    dtype: &'static str,
    unit: &'static str,
    meaning: &'static str,
) -> ColumnText {
    ColumnText {
        name,
        dtype,
        unit,
        meaning,
    }
}

/// The columns of every length dataset, in order.
const COLUMNS: [ColumnText; 12] = [
    column("instruction_id", "string", "", "the instruction's id"),
    column(
        "instruction",
        "string",
        "",
        "its text, as put into the chat template; empty where the source does not have it",
    ),
    column(
        "category",
        "string",
        "",
        "its category; null where there is none",
    ),
    column(
        "split",
        "string",
        "",
        "`train`, `validation` or `test`; null where there are none",
    ),
    column(
        "sample",
        "uint32",
        "",
        "index among the responses to one instruction at one temperature",
    ),
    column("temperature", "float32", "", "0 is greedy"),
    column(
        "seed",
        "uint64",
        "",
        "the response's own seed; 0 in imported data",
    ),
    column(
        "prompt_tokens",
        "uint32",
        "tokens",
        "length of the rendered prompt; 0 where unknown",
    ),
    column(
        "response_tokens",
        "uint32",
        "tokens",
        "length of the response, the end token included",
    ),
    column(
        "finish_reason",
        "string",
        "",
        "`stop`: the model ended; `length`: cut off at the limit, the true length is longer",
    ),
    column(
        "response",
        "string",
        "",
        "its text; null where the source does not have it",
    ),
    column(
        "arrival_s",
        "float64",
        "seconds",
        "when the request came, since the first one; null but in traces",
    ),
];

/// Writes the card of the dataset `file` to `card`, unless somebody else's text is there: then
/// it is left alone and `false` returned.
///
/// # Errors
/// A dataset that cannot be read, or a folder that cannot be written.
pub fn write(file: &Path, card: &Path, making: &Making) -> Result<bool> {
    if card.exists() {
        // What cannot be read as ours is somebody else's.
        let there = crate::regular_file::text_up_to(card, crate::regular_file::LISTS);
        let ours = there.is_ok_and(|there| there.contains(MARKER));
        if !ours {
            return Ok(false);
        }
    }
    persist::write(card, text(file, making)?.as_bytes())?;
    Ok(true)
}

/// Where the card of a dataset in a folder of its own goes.
pub fn beside(file: &Path) -> PathBuf {
    file.with_file_name("README.md")
}

/// Where the card of a single file goes: `lengths.card.md` for `lengths.parquet`.
pub fn of_file(file: &Path) -> PathBuf {
    file.with_extension("card.md")
}

fn text(file: &Path, making: &Making) -> Result<String> {
    let (d, provenance) = describe_with_provenance(file, Label::Max)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let assumed = d.temperatures == Known::Assumed;
    let temperatures: Vec<String> = (d.by_temperature.iter())
        .map(|group| group.name.to_string())
        .collect();
    let rows: Vec<Value> = (d.by_temperature.iter())
        .map(|group| {
            let name = match assumed {
                true => "unknown".into(),
                false => group.name.to_string(),
            };
            lengths(name, &group.lengths)
        })
        .collect();
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let failed = |e: minijinja::Error| Error::Numeric(format!("the dataset card: {e:#}"));
    environment.add_template("card", TEMPLATE).map_err(failed)?;
    let template = environment.get_template("card").map_err(failed)?;
    let mut text = template
        .render(context! {
            pretty_name => format!("Response lengths of {}", plain(&d.model)),
            language => making.language,
            size => size_category(d.overall.samples),
            file => name,
            columns => COLUMNS
                .iter()
                .map(ColumnText::value)
                .collect::<Vec<Value>>(),
            marker => MARKER,
            model => plain(&d.model),
            model_sha256 => provenance.model_sha256.as_deref(),
            template_sha256 => provenance.template_sha256.as_deref(),
            served_model => provenance.served_model.as_deref().map(plain),
            sampled_by => sampled_by(&provenance, making),
            temperatures => match assumed {
                true => "unknown".into(),
                false => temperatures.join(", "),
            },
            top_p => provenance.top_p.map(|p| p.to_string()),
            dtype => provenance.dtype.as_deref(),
            limit => match d.max_new_tokens {
                Some(limit) => format!("{limit} tokens"),
                None => "unknown".into(),
            },
            instructions => d.instructions,
            samples => d.overall.samples,
            censored => censored(&d.overall),
            has_bounds => d.overall.censored != Some(0.0),
            by_temperature => rows,
            made => match making.imported {
                true => "Read from lengths that others recorded, by",
                false => "Sampled by",
            },
            command => making.command.as_str(),
            tool_version => provenance.tool_version.as_str(),
            git_commit => provenance.git_commit.as_deref(),
            limits => limits(&d, &provenance, making),
        })
        .map_err(failed)?;
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

/// A name in running text: what would end a table's cell or a line is left out.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| !c.is_control());
    kept.filter(|c| !"|`<>".contains(*c)).collect()
}

fn lengths(name: String, of: &Lengths) -> Value {
    context! {
        name => name,
        samples => of.samples,
        censored => censored(of),
        mean => format!("{:.1}", of.mean),
        median => of.median,
        p90 => of.p90,
        max => of.max,
    }
}

/// The share that was cut off, as `describe` has it.
fn censored(of: &Lengths) -> String {
    match of.censored {
        Some(share) => format!("{:.1} %", 100.0 * share),
        None => "unknown".into(),
    }
}

/// As the hub puts datasets into classes by their rows.
fn size_category(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        _ => "100M<n<1B",
    }
}

fn sampled_by(provenance: &Provenance, making: &Making) -> &'static str {
    match (making.imported, provenance.sampler.as_deref()) {
        (true, _) => "others",
        (false, Some("endpoint")) => "a server with OpenAI's API; lengths are its own counts",
        (false, _) => "lenaware's own engine",
    }
}

/// What these lengths are not.
fn limits(d: &Description, provenance: &Provenance, making: &Making) -> Vec<String> {
    let mut limits = vec![
        "Lengths are one model's under one chat template, counted by its tokenizer; another \
         model's are others."
            .to_string(),
    ];
    match (d.overall.censored, d.max_new_tokens) {
        (None, _) => limits.push(
            "Nobody recorded why responses ended: how many were cut off is unknown, and all are \
             marked `stop`."
                .into(),
        ),
        (Some(share), Some(limit)) if share > 0.0 => limits.push(format!(
            "{:.1} % of the responses were cut off at {limit} tokens: of their true lengths only \
             a lower bound is known.",
            100.0 * share
        )),
        _ => {}
    }
    if d.finish_reasons == Known::Inferred {
        limits.push("That a response was cut off is concluded from its length.".into());
    }
    if d.temperatures == Known::Assumed {
        limits.push("Temperatures are unknown; 0 stands in for them.".into());
    }
    if let Some(loops) = d.loops.filter(|loops| loops.looping > 0) {
        limits.push(format!(
            "{} of {} responses repeat themselves at their end.",
            loops.looping, loops.with_text
        ));
    }
    if provenance.sampler.as_deref() == Some("endpoint") {
        limits.push(
            "Hashes of the server's weights and template are unknown, and whether its seeds fix \
             an answer is its own affair."
                .into(),
        );
    }
    limits.push(match making.imported {
        true => "Terms of use are those of the source.".into(),
        false => "Terms of use are those of the instructions and of the model.".into(),
    });
    limits
}

#[cfg(test)]
mod tests {
    use polars::prelude::{ParquetReader, SerReader};

    use super::*;
    use crate::dataset::embedded;

    fn card(making: &Making) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dataset.parquet");
        embedded::embedded().unwrap().write_parquet(&file).unwrap();
        assert!(write(&file, &beside(&file), making).unwrap());
        std::fs::read_to_string(beside(&file)).unwrap()
    }

    #[test]
    fn a_card_has_front_matter_and_names_every_column_of_the_file() {
        let making = Making {
            command: "lenaware build-dataset --out data".into(),
            language: Some("en"),
            ..Making::default()
        };
        let text = card(&making);
        let front = text.strip_prefix("---\n").unwrap();
        let (front, body) = front.split_once("\n---\n").unwrap();
        assert!(front.contains("pretty_name: \"Response lengths of smollm2-135m\"\n"));
        assert!(front.contains("\nlanguage:\n- en\nsize_categories:\n- 1K<n<10K\n"));
        assert!(front.contains("\n  data_files: \"dataset.parquet\"\n"));
        assert!(body.contains(MARKER) && body.contains("640 instructions"));
        assert!(body.contains("b179c952") && !body.contains("undefined"));
        assert!(body.contains("```sh\nlenaware build-dataset --out data\n```"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dataset.parquet");
        embedded::embedded().unwrap().write_parquet(&file).unwrap();
        let mut reader = ParquetReader::new(std::fs::File::open(&file).unwrap());
        let schema = reader.schema().unwrap();
        let names: Vec<&str> = schema
            .iter_names()
            .map(polars::prelude::PlSmallStr::as_str)
            .collect();
        assert_eq!(COLUMNS.map(|c| c.name).to_vec(), names);
        for c in COLUMNS {
            let listed = format!("  - name: {}\n    dtype: {}", c.name, c.dtype);
            assert!(front.contains(&listed), "{listed}");
            assert!(body.contains(&format!("| `{}` | {} |", c.name, c.dtype)));
        }
        assert!(!card(&Making::default()).contains("language:"));
    }

    #[test]
    fn somebody_elses_text_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dataset.parquet");
        embedded::embedded().unwrap().write_parquet(&file).unwrap();
        std::fs::write(beside(&file), "# Mine\n").unwrap();
        assert!(!write(&file, &beside(&file), &Making::default()).unwrap());
        assert_eq!(std::fs::read_to_string(beside(&file)).unwrap(), "# Mine\n");
        let other = of_file(&file);
        assert_eq!(other, dir.path().join("dataset.card.md"));
        assert!(write(&file, &other, &Making::default()).unwrap());
        assert!(write(&file, &other, &Making::default()).unwrap());
    }
}
