//! How numbers and provenance are said, the same in tables, figures and the page.

use crate::evaluate::summary::{ArmSummary, ExecutorSummary, Measure, Summary};
use crate::predictor::known::is_told;

/// A number with `decimals` decimals and commas between thousands.
pub fn grouped(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "n/a".into();
    }
    let text = format!("{:.*}", decimals, value.abs());
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text.as_str(), None),
    };
    let mut out = String::new();
    // A number that rounds to zero has no sign.
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('-');
    }
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// How many decimals show about three digits of a number of this size.
pub fn decimals_for(value: f64) -> usize {
    match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        v if v >= 0.1 => 3,
        _ => 4,
    }
}

/// A number with about three digits.
pub fn number(value: f64) -> String {
    grouped(value, decimals_for(value))
}

/// A ratio as a percentage: `47.2 %`.
pub fn share(ratio: f64) -> String {
    format!("{} %", grouped(ratio * 100.0, 1))
}

/// A gain in percent with its sign: `+86 %`, `-5 %`, `+0.4 %`.
pub fn gain(percent: f64) -> String {
    let decimals = usize::from(percent.abs() < 9.95);
    let text = grouped(percent, decimals);
    let sign = if percent >= 0.0 || !text.starts_with('-') {
        "+"
    } else {
        ""
    };
    format!("{sign}{text} %")
}

/// What differs by less than this share is the same number.
pub const ROUNDING: f64 = 1e-9;

/// Whether the interval says more than the mean does: one seed has none, and where nothing
/// varied with the seed an interval without width would look like certainty.
pub fn has_interval(measure: &Measure) -> bool {
    let middle = measure.values.first().copied().unwrap_or(0.0);
    // Sums in another order differ in their last digits.
    let differs = |v: &f64| (v - middle).abs() > ROUNDING * v.abs().max(middle.abs()).max(1.0);
    measure.values.iter().any(differs) && measure.ci95.iter().all(|v| v.is_finite())
}

/// `2.27 [2.20, 2.34]`, or `2.27` where there is one seed; `say` words each number.
pub fn with_interval(measure: &Measure, say: impl Fn(f64) -> String) -> String {
    let mean = say(measure.mean);
    if has_interval(measure) {
        let [low, high] = measure.ci95;
        format!("{mean} [{}, {}]", say(low), say(high))
    } else {
        mean
    }
}

/// What a forced live run is called everywhere.
pub const FORCED: &str = "real compute, replayed lengths";

/// `measured` or `simulated`: the word that no figure of a run may lack.
pub fn kind(executor: &ExecutorSummary) -> &'static str {
    match executor {
        ExecutorSummary::Live { .. } => "measured",
        ExecutorSummary::LiveForced { .. } => FORCED,
        ExecutorSummary::Replay { .. } => "simulated",
    }
}

/// The whole origin in a sentence fragment, small letters.
pub fn origin(executor: &ExecutorSummary) -> String {
    match executor {
        ExecutorSummary::Live { device, model } => format!("measured on {device} with {model}"),
        ExecutorSummary::LiveForced { device, model, .. } => {
            format!("{FORCED}: {model} on {device}")
        }
        ExecutorSummary::Replay { step_time } => {
            format!("simulated with step-time model “{step_time}”")
        }
    }
}

/// The header line of a table: simulation is shouted.
pub fn headline(executor: &ExecutorSummary) -> String {
    match executor {
        ExecutorSummary::Live { .. } | ExecutorSummary::LiveForced { .. } => origin(executor),
        ExecutorSummary::Replay { step_time } => {
            format!("SIMULATED with step-time model {step_time}")
        }
    }
}

/// The arm the others are compared with: the one named `vanilla`, else the first.
pub fn baseline(arms: &[ArmSummary]) -> Option<usize> {
    let named = arms.iter().position(|arm| arm.name == "vanilla");
    named.or((!arms.is_empty()).then_some(0))
}

/// The arm of the highest throughput, the baseline left out.
pub fn best(arms: &[ArmSummary]) -> Option<usize> {
    fastest(arms, |_| true)
}

/// The fastest arm besides the baseline that runs in micro-batches, as predictions schedule
/// them; none if there is only continuous batching.
pub fn best_scheduled(arms: &[ArmSummary]) -> Option<usize> {
    fastest(arms, |arm| arm.batching != "continuous")
}

fn fastest(arms: &[ArmSummary], counts: impl Fn(&ArmSummary) -> bool) -> Option<usize> {
    let baseline = baseline(arms);
    let speed = |place: usize| arms[place].throughput_samples_per_s.mean;
    // What knows the answers is a bound, a finding only where nothing else was tried.
    let tried = |place: usize| !is_told(&arms[place].predictor);
    (0..arms.len())
        .filter(|&place| Some(place) != baseline && counts(&arms[place]))
        .max_by(|&a, &b| (tried(a).cmp(&tried(b))).then(speed(a).total_cmp(&speed(b))))
}

/// To follow the name of an arm that knows.
fn bound(arm: &ArmSummary) -> &'static str {
    match is_told(&arm.predictor) {
        true => " (a bound: it is told by recorded answers)",
        false => "",
    }
}

/// The finding of a run in a sentence or two, with its uncertainty and its origin.
pub fn finding(summary: &Summary) -> Option<String> {
    let baseline = &summary.arms[baseline(&summary.arms)?];
    let origin = origin(&summary.executor);
    let speed = |arm: &ArmSummary| number(arm.throughput_samples_per_s.mean);
    let Some(best) = best(&summary.arms).map(|place| &summary.arms[place]) else {
        return Some(format!(
            "“{}” serves {} samples/s, {origin}.",
            baseline.name,
            speed(baseline)
        ));
    };
    let interval = match &best.improvement_pct {
        change if has_interval(change) => format!(
            " (95 % interval {} to {}, {} seeds)",
            gain(change.ci95[0]),
            gain(change.ci95[1]),
            change.values.len()
        ),
        change if change.values.len() > 1 => format!(" (in all {} seeds)", change.values.len()),
        _ => " (one seed, so no interval)".to_string(),
    };
    let verdict = if best.improvement_pct.mean > 0.0 {
        "The best arm,".to_string()
    } else {
        format!("No arm beats “{}”: the best,", baseline.name)
    };
    let mut text = format!(
        "{verdict} “{}”{}, serves {} samples/s against {} for “{}”: {}{interval}, {origin}.",
        best.name,
        bound(best),
        speed(best),
        speed(baseline),
        baseline.name,
        gain(best.improvement_pct.mean),
    );
    let scheduled = best_scheduled(&summary.arms).map(|place| &summary.arms[place]);
    if let Some(scheduled) = scheduled.filter(|arm| arm.name != best.name) {
        text.push_str(&format!(
            " The best schedule made from predictions, “{}”{}: {}.",
            scheduled.name,
            bound(scheduled),
            gain(scheduled.improvement_pct.mean)
        ));
    }
    if best.outputs_equal_vanilla == Some(false) {
        text.push_str(" Its answers differ from vanilla's, so the comparison is not fair.");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn numbers_are_short_and_signed() {
        assert_eq!(grouped(1234567.8, 1), "1,234,567.8");
        assert_eq!(grouped(-0.04, 1), "0.0");
        assert_eq!(number(377.4), "377");
        assert_eq!(number(2.271), "2.27");
        assert_eq!(gain(86.1), "+86 %");
        assert_eq!(gain(-5.04), "-5.0 %");
        assert_eq!(gain(-0.01), "+0.0 %");
        assert_eq!(share(0.3391), "33.9 %");
        assert_eq!(number(f64::NAN), "n/a");
    }

    #[test]
    fn finding_names_the_best_arm_and_its_origin() {
        let text = finding(&samples::summary(true)).unwrap();
        assert!(text.contains("tuned + VBS + FCR"), "{text}");
        assert!(
            text.contains("simulated with step-time model “paper”"),
            "{text}"
        );
        assert!(text.contains("95 % interval"), "{text}");
    }
}
