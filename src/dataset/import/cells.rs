//! What the cells of a row mean. Each function's error says what is wrong with the value.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::dataset::FinishReason;
use crate::table::Cell;

use super::ArrivalUnit;

/// No model answers with more tokens; a larger number is another column, or damage.
const MOST_TOKENS: f64 = 10_000_000.0;

/// As instruction sets and `build-dataset` have it.
const HOTTEST: f32 = 10.0;

fn shown(cell: &Cell<'_>) -> String {
    let text = cell.text().unwrap_or_default();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// A whole number of tokens; `None` for an empty cell. Whole floats (`12.0`) are taken, since
/// tools that know no missing integers write them.
pub fn tokens(name: &str, cell: &Cell<'_>) -> Result<Option<u32>, String> {
    if *cell == Cell::Empty {
        return Ok(None);
    }
    match cell.number() {
        Some(n) if n < 0.0 => Err(format!("`{name}` is negative ({})", shown(cell))),
        Some(n) if n > MOST_TOKENS => Err(format!(
            "`{name}` is {}, which is no length: at most 10,000,000 tokens are taken",
            shown(cell)
        )),
        Some(n) if n.fract() == 0.0 => Ok(Some(n as u32)),
        _ => Err(format!("`{name}` is {}, not a whole number", shown(cell))),
    }
}

/// A temperature between 0 and 10.
pub fn temperature(name: &str, cell: &Cell<'_>) -> Result<f32, String> {
    match cell.number().map(|n| n as f32) {
        Some(t) if (0.0..=HOTTEST).contains(&t) => Ok(t),
        _ => Err(format!(
            "`{name}` is {}, not a temperature between 0 and 10",
            shown(cell)
        )),
    }
}

/// Why a response ended, in the words of the usual interfaces.
pub fn finish_reason(name: &str, cell: &Cell<'_>) -> Result<FinishReason, String> {
    let text = cell.text().unwrap_or_default();
    match text.trim() {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "tool_calls" | "tool_use" => {
            Ok(FinishReason::Stop)
        }
        "length" | "max_tokens" | "max_length" => Ok(FinishReason::Length),
        _ => Err(format!(
            "`{name}` is {}: known are stop, eos, end_turn, stop_sequence, tool_calls (ended by \
             itself) and length, max_tokens (cut off)",
            shown(cell)
        )),
    }
}

/// A point in time in nanoseconds: since 1970 for a date and time (UTC where it names no
/// zone), since whatever the trace counts from for a number in `unit`.
pub fn arrival(name: &str, cell: &Cell<'_>, unit: ArrivalUnit) -> Result<Option<i128>, String> {
    let nanos = unit.nanoseconds();
    let whole = match cell {
        Cell::Empty => return Ok(None),
        Cell::Integer(n) => Some(*n),
        Cell::Text(text) => text.trim().parse().ok(),
        Cell::Float(_) => None,
    };
    if let Some(n) = whole {
        return Ok(Some(i128::from(n) * i128::from(nanos)));
    }
    if let Some(n) = cell.number() {
        // Whole and fraction apart keep what a float since 1970 knows of the fraction.
        let fraction = (n.fract() * f64::from(nanos)).round() as i128;
        return match n.abs() < i64::MAX as f64 {
            true => Ok(Some(n.trunc() as i128 * i128::from(nanos) + fraction)),
            false => Err(format!("`{name}` is {}, no point in time", shown(cell))),
        };
    }
    let text = cell.text().unwrap_or_default();
    let text = text.trim();
    let stamp = text.parse::<Timestamp>().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    stamp.map(|s| Some(s.as_nanosecond())).ok_or_else(|| {
        format!(
            "`{name}` is {}, neither a number nor a date and time such as 2023-11-16 18:15:46.68",
            shown(cell)
        )
    })
}
