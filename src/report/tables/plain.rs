//! Rows of texts under headers, for terminals and as Markdown.

use crate::error::visible;

/// Rows under headers, aligned for a terminal: numbers to the right, words to the left.
pub fn text_table(headers: &[String], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let cell = |row: &[String], place: usize| row.get(place).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..headers.len())
        .map(|place| {
            let longest = rows.iter().map(|row| width(&cell(row, place))).max();
            longest.unwrap_or(0).max(width(&headers[place]))
        })
        .collect();
    let numeric: Vec<bool> = (0..headers.len())
        .map(|place| is_numeric(rows.iter().map(|row| cell(row, place))))
        .collect();
    let line = |row: &[String]| {
        let cells = (0..headers.len()).map(|place| {
            let text = cell(row, place);
            let gap = " ".repeat(widths[place] - width(&text));
            match numeric[place] {
                true => gap + &text,
                false => text + &gap,
            }
        });
        let joined = cells.collect::<Vec<_>>().join("  ");
        joined.trim_end().to_string() + "\n"
    };
    let rule: Vec<String> = widths.iter().map(|&w| "─".repeat(w)).collect();
    let mut table = line(headers);
    table.push_str(&rule.join("  "));
    table.push('\n');
    for row in rows {
        table.push_str(&line(row));
    }
    // Names are other people's, and terminals obey.
    visible(&table)
}

/// Rows under headers as a Markdown table.
pub fn markdown_table(headers: &[String], rows: &[Vec<String>]) -> String {
    let line = |row: &[String]| {
        let cells: Vec<String> = (0..headers.len())
            .map(|place| markdown_cell(row.get(place).map_or("", String::as_str)))
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut table = line(headers);
    let marks: Vec<&str> = (0..headers.len())
        .map(|place| {
            let column = rows
                .iter()
                .map(|r| r.get(place).cloned().unwrap_or_default());
            if is_numeric(column) { "---:" } else { "---" }
        })
        .collect();
    table.push_str(&format!("| {} |\n", marks.join(" | ")));
    for row in rows {
        table.push_str(&line(row));
    }
    table
}

/// Keeps a name from being read as table structure or as HTML.
pub(super) fn markdown_cell(text: &str) -> String {
    visible(text)
        .replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace(['\n', '\r'], " ")
}

/// Whether a column holds numbers (with signs, units or intervals) rather than words.
pub(crate) fn is_numeric(column: impl Iterator<Item = String>) -> bool {
    let mut any = false;
    for text in column.filter(|t| !t.is_empty() && t != "n/a") {
        let start = text.trim_start_matches(['+', '-', '−']);
        if !start.starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        any = true;
    }
    any
}
