//! `report.html`: one self-contained page of a run. No network, no dependencies; readable on
//! a phone, in the dark and on paper, and without its script, which sorts, filters and points.

use minijinja::{Environment, UndefinedBehavior, Value, context};

use serde::Serialize;

use super::index::{About, percent_encoded_but};
use super::page::{
    MOST_DRAWN, OF_EVALUATIONS, OF_PREDICTORS, OF_RUNS, Page, PageCell, PageFigure, PageTable,
};
use super::wording::{finding, origin};
use crate::error::{Error, Result};

/// Renders the page.
///
/// # Errors
/// A figure that could run something.
pub fn render(data: &Page) -> Result<String> {
    let failed = |e: minijinja::Error| Error::Numeric(format!("report.html: {e:#}"));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The name ends as an HTML template's, which turns escaping on.
    environment
        .add_template("report.html.j2", include_str!("html/report.html.j2"))
        .map_err(failed)?;
    let template = environment.get_template("report.html.j2").map_err(failed)?;
    let found = data
        .finding
        .clone()
        .or_else(|| data.summary.as_ref().and_then(finding))
        // A number and its percent sign stay on one line.
        .map(|text| text.replace(" %", "\u{a0}%"));
    let arms = data.summary.as_ref().map(PageTable::arms);
    let tables: Vec<RenderedTable<'_>> = (arms.iter().chain(&data.tables).enumerate())
        .map(|(place, table)| rendered_table(table, place))
        .collect();
    let figures = (data.figures.iter())
        .map(rendered_figure)
        .collect::<Result<Vec<Value>>>()?;
    let definitions = match (&data.summary, data.terms) {
        (Some(_), _) => [OF_RUNS, OF_PREDICTORS].concat(),
        (None, Some(terms)) => terms.to_vec(),
        (None, None) => [OF_PREDICTORS, OF_EVALUATIONS].concat(),
    };
    let created = (data.summary.as_ref().map(|s| s.created.clone())).or(data.created.clone());
    let executor = (data.summary.as_ref().map(|s| &s.executor)).or(data.executor.as_ref());
    let simulated = || data.simulated.then_some("simulated");
    // Where a table is too long to be read, a figure is what is looked at.
    let figures_first = tables
        .first()
        .is_some_and(|table| table.rows.len() > MOST_DRAWN);
    let facts = environment_rows(&data.environment_json);
    let config = data.config_toml.trim();
    let kind = executor
        .map(super::wording::kind)
        .or_else(simulated)
        .or(data.kind);
    let created = created.or_else(|| {
        let date = facts.iter().find(|(key, _)| key == "date");
        date.map(|(_, date)| date.clone())
    });
    // Whole seconds do.
    let created = created.map(|date| match date.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => date,
    });
    let about = About {
        title: data.title.clone(),
        finding: found.clone().unwrap_or_default(),
        kind: kind.unwrap_or_default().to_string(),
        origin: (data.origin.clone())
            .or_else(|| executor.map(origin))
            .unwrap_or_default(),
        created: created.clone().unwrap_or_default(),
        rows: tables.first().map_or(0, |table| table.rows.len()),
    };
    let mut parts: Vec<(String, &str)> = Vec::new();
    let mut part = |there: bool, id: &str, title| {
        if there {
            parts.push((id.to_string(), title));
        }
    };
    part(!data.notes.is_empty(), "notes", "Notes");
    part(figures_first && !figures.is_empty(), "figures", "Figures");
    for (place, table) in arms.iter().chain(&data.tables).enumerate() {
        part(true, &tables[place].id, &table.title);
    }
    part(!figures_first && !figures.is_empty(), "figures", "Figures");
    part(!definitions.is_empty(), "terms", "What the numbers mean");
    part(!facts.is_empty(), "environment", "Environment");
    part(!config.is_empty(), "configuration", "Configuration");
    let parts: Vec<Value> = (parts.into_iter())
        .map(|(id, title)| context! { id, title })
        .collect();
    template
        .render(context! {
            style => Value::from_safe_string(include_str!("html/page.css").into()),
            script => Value::from_safe_string(include_str!("html/page.js").into()),
            title => data.title.clone(),
            finding => found,
            created => created,
            kind,
            about => Value::from_safe_string(about.to_script()?),
            origin => (data.origin.clone())
                .or_else(|| executor.map(origin))
                .or_else(|| kind.map(String::from)),
            parts,
            tables => Value::from(minijinja::value::Serde(&tables)),
            figures,
            figures_first,
            notes => data.notes.clone(),
            config,
            environment => facts,
            definitions,
            version => env!("CARGO_PKG_VERSION"),
        })
        .map_err(failed)
}

/// A table as the template takes it.
#[derive(Serialize)]
struct RenderedTable<'a> {
    id: String,
    title: &'a str,
    caption: &'a str,
    headers: &'a [String],
    numeric: Vec<bool>,
    rows: Vec<Vec<RenderedCell<'a>>>,
}

#[derive(Serialize)]
struct RenderedCell<'a> {
    main: &'a str,
    interval: &'a str,
    order: Option<f64>,
    ends: Option<[f64; 2]>,
    href: Option<&'a str>,
    color: Option<&'a str>,
}

/// The table with the number `place` on the page.
fn rendered_table(table: &PageTable, place: usize) -> RenderedTable<'_> {
    let rows = table.rows.iter();
    RenderedTable {
        id: format!("table-{}", place + 1),
        title: &table.title,
        caption: &table.caption,
        headers: &table.headers,
        numeric: table.numeric(),
        rows: rows
            .map(|row| row.iter().map(rendered_cell).collect())
            .collect(),
    }
}

fn rendered_cell(cell: &PageCell) -> RenderedCell<'_> {
    let (main, interval) = cell.parts();
    RenderedCell {
        main,
        interval,
        order: cell.value.filter(|v| v.is_finite()),
        ends: cell.ends.filter(|ends| ends.iter().all(|v| v.is_finite())),
        href: cell.href.as_deref(),
        color: cell.color.as_deref(),
    }
}

/// A figure as the template takes it.
fn rendered_figure(figure: &PageFigure) -> Result<Value> {
    let csv = (!figure.csv.is_empty()).then(|| {
        let data = percent_encoded(&figure.csv);
        format!("data:text/csv;charset=utf-8,{data}")
    });
    Ok(context! {
        name => &figure.name,
        caption => &figure.caption,
        svg => Value::from_safe_string(inline_svg(&figure.svg)?),
        csv,
    })
}

/// Text as the rest of a `data:` address.
fn percent_encoded(text: &str) -> String {
    percent_encoded_but(text, b"-_.~,:;+()=!*@$[]")
}

/// What figures are drawn with; nothing else is put into a page.
const ELEMENTS: [&str; 10] = [
    "svg", "g", "rect", "line", "polyline", "polygon", "path", "circle", "text", "title",
];

/// The SVG element alone, without the XML header; refused where it holds more than figures are
/// drawn with or could run something, since it is put into the page as it is.
fn inline_svg(document: &str) -> Result<String> {
    let refuse = |what: &str| {
        let why = format!("a figure is not usable: there is {what} in it");
        Err(Error::Usage(why))
    };
    let Some(start) = document.find("<svg") else {
        return refuse("no <svg> element");
    };
    let svg = &document[start..];
    for tag in svg.split('<').skip(1) {
        let named = tag.trim_start_matches('/');
        let name = named.split(|c: char| !c.is_ascii_alphabetic()).next();
        let name = name.unwrap_or_default();
        if !ELEMENTS.contains(&name) {
            return refuse(&format!("an element `{name}`"));
        }
        let (inside, _) = named.split_once('>').unwrap_or((named, ""));
        // Between quotes anything may stand; names of attributes stand outside, after a space or
        // a slash.
        let apart = |c: char| c.is_whitespace() || c == '/';
        let outside = (inside.split('"').step_by(2))
            .flat_map(|text| text.split(apart))
            .filter(|word| !word.is_empty());
        let runs = |word: &&str| {
            let word = word.to_lowercase();
            word.starts_with("on") || word.contains("href") || word.contains('\'')
        };
        if let Some(word) = outside.skip(1).find(runs) {
            return refuse(&format!("an attribute `{word}`"));
        }
    }
    Ok(svg.trim_end().to_string())
}

/// `environment.json` as rows of key and value; other text as one row.
fn environment_rows(json: &str) -> Vec<(String, String)> {
    match serde_json::from_str(json) {
        Ok(serde_json::Value::Object(map)) => {
            let mut rows = Vec::new();
            for (key, value) in map {
                fact(key.replace('_', " "), value, &mut rows);
            }
            rows
        }
        _ if json.trim().is_empty() => Vec::new(),
        _ => vec![("environment".into(), json.into())],
    }
}

/// A value of the environment; what is inside others is named after them.
fn fact(key: String, value: serde_json::Value, rows: &mut Vec<(String, String)>) {
    use serde_json::Value;
    let text = match value {
        Value::Object(map) => {
            for (inner, value) in map {
                fact(format!("{key}: {}", inner.replace('_', " ")), value, rows);
            }
            return;
        }
        Value::Array(list) => {
            let texts = list.iter().map(|v| match v {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text,
        Value::Null => "unknown".into(),
        other => other.to_string(),
    };
    rows.push((key, text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    const SVG: &str = "<?xml version=\"1.0\"?>\n<svg><text>x</text></svg>\n";

    fn figure(caption: &str, svg: &str) -> PageFigure {
        PageFigure {
            name: caption.into(),
            caption: caption.into(),
            svg: svg.into(),
            csv: format!("name\n{caption}\n"),
        }
    }

    #[test]
    fn hostile_names_are_shown_not_run() {
        let hostile = "<script>alert('x')</script>";
        let mut summary = samples::summary(true);
        summary.arms[4].name = hostile.into();
        summary.arms[1].predictor = format!("\"><img src=x onerror={hostile}>");
        let page = render(&Page {
            title: hostile.into(),
            summary: Some(summary),
            tables: vec![PageTable::of(
                hostile,
                &[hostile.into()],
                &[vec![hostile.into()]],
            )],
            figures: vec![figure(hostile, SVG)],
            config_toml: hostile.into(),
            environment_json: format!("{{\"cpu\": \"{hostile}\"}}"),
            notes: vec![hostile.into()],
            finding: None,
            ..Page::default()
        })
        .unwrap();
        assert!(!page.contains("<script>alert"));
        assert!(!page.contains("<img"));
        assert!(page.matches("&lt;script&gt;alert").count() >= 8);
        assert!(page.contains("<svg><text>x</text></svg>"));
        assert!(!page.contains("<?xml"));
    }

    #[test]
    fn figures_that_could_run_something_are_refused() {
        let data = Page {
            figures: vec![figure("x", "<svg><SCRIPT>1</SCRIPT></svg>")],
            ..Page::default()
        };
        assert!(render(&data).is_err());
        for (svg, runs) in [
            ("<svg onload=\"x()\"></svg>", true),
            ("<svg onload=x()></svg>", true),
            ("<svg><image width=\"1\"/></svg>", true),
            ("<svg><rect width=\"1\" /onclick=\"x\"/></svg>", true),
            ("<svg><a href='javascript:x()'></a></svg>", true),
            ("<svg aria-label=\"a\" OnClick=\"x()\"></svg>", true),
            // A name is no attribute.
            (
                "<svg aria-label=\"javascript on\"><text>onload=\"javascript:\"</text></svg>",
                false,
            ),
        ] {
            assert_eq!(inline_svg(svg).is_err(), runs, "{svg}");
        }
    }

    #[test]
    fn data_survives_the_address() {
        assert_eq!(percent_encoded("a,b\n\"é\""), "a,b%0A%22%C3%A9%22");
    }

    #[test]
    fn the_finding_comes_first_and_parts_may_be_missing() {
        let page = render(&Page {
            title: "t".into(),
            summary: Some(samples::summary(false)),
            ..Page::default()
        })
        .unwrap();
        let finding = page.find("The best arm").unwrap();
        assert!(finding < page.find("<table").unwrap());
        assert!(page.contains("measured on AMD EPYC"));
        assert!(!page.contains("https://") && !page.contains(" src="));
        assert!(render(&Page::default()).unwrap().contains("<html"));
    }
}
