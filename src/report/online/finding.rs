//! What an experiment with arrivals found, in a sentence, and where it may not claim anything.

use crate::online::arrivals::AT_ONCE;
use crate::online::summary::{OnlineArmSummary, OnlineSummary};
use crate::predictor::known::{GROUND_TRUTH, ORACLE};
use crate::report::wording::{gain, grouped, number};

use super::origin::{capital, word};

/// Says so where no queue ever exceeded the batch.
pub(super) fn shallow(summary: &OnlineSummary) -> Option<String> {
    if summary.arms.iter().any(|arm| arm.queue_exceeds_batch) {
        return None;
    }
    let deepest = (summary.arms.iter())
        .filter(|arm| arm.compared_with == arm.name)
        .max_by(|a, b| a.mean("waiting_mean").total_cmp(&b.mean("waiting_mean")))?;
    Some(format!(
        "No queue exceeded the batch (at most {} requests waited on average, for {} rows): at this \
         load no policy is called better.",
        number(deepest.mean("waiting_mean")),
        number(deepest.mean("rows_mean")),
    ))
}

/// Says so where requests were refused, and why.
pub(super) fn refusals(summary: &OnlineSummary) -> Option<String> {
    let refused = |arm: &&OnlineArmSummary| arm.mean("refused");
    let most = (summary.arms.iter())
        .filter(|arm| refused(arm) > 0.0)
        .max_by(|a, b| refused(a).total_cmp(&refused(b)))?;
    Some(format!(
        "Refused: up to {} of {} requests (arm “{}”) need more than its {} tokens of keys and \
         values even alone. They are counted, and are in no latency.",
        number(refused(&most)),
        most.requests,
        most.name,
        grouped(most.kv_tokens as f64, 0),
    ))
}

/// The finding in a sentence: the best policy against the first arm of the same load.
pub(super) fn finding(summary: &OnlineSummary) -> Option<String> {
    if (summary.arms.iter()).any(|arm| arm.outputs_equal_first == Some(false)) {
        return Some(
            "Some arm gave other answers than the first: what it gained is no gain.".into(),
        );
    }
    if let Some(note) = shallow(summary) {
        return Some(note);
    }
    let measured = capital(word(summary));
    // Where several answers to a prompt are awaited together, nothing goes on before the last.
    let groups = (summary.arms.iter()).any(|arm| arm.figures.contains_key("group_e2e_s.mean"));
    let at_once = groups && summary.arms.iter().all(|arm| arm.arrivals == AT_ONCE);
    let gain_of = |arm: &OnlineArmSummary| match at_once {
        true => arm.throughput_gain_pct.clone(),
        false => arm.e2e_gain_pct.clone(),
    };
    let best = (summary.arms.iter())
        .filter(|arm| arm.compared_with != arm.name)
        .filter(|arm| arm.queue_exceeds_batch && !arm.simulated_probe())
        // What knows the answer is a bound, a finding only where nothing else was tried; nor,
        // where another one gains, is what is told by recorded answers.
        .max_by(|a, b| {
            let gained = |arm: &OnlineArmSummary| gain_of(arm).mean;
            let found = |arm: &OnlineArmSummary| arm.predictor != GROUND_TRUTH && gained(arm) > 0.0;
            let tried = |arm: &OnlineArmSummary| arm.predictor != ORACLE;
            (tried(a).cmp(&tried(b)))
                .then(found(a).cmp(&found(b)))
                .then(gained(a).total_cmp(&gained(b)))
        })?;
    let mut all = summary.arms.iter();
    let first = all.find(|arm| arm.name == best.compared_with)?;
    if gain_of(best).mean <= 0.0 {
        return Some(format!(
            "{measured}: no policy gained anything on “{}”.",
            first.name
        ));
    }
    let mut sure = match gain_of(best).ci95 {
        _ if best.seeds.len() < 2 => "; one seed, which may be chance".to_string(),
        [low, high] if low <= 0.0 && high >= 0.0 => "; over the seeds that may be chance".into(),
        _ => String::new(),
    };
    if best.predictor == ORACLE {
        sure += " (a bound: it knows every answer that will be served)";
    }
    if best.predictor == GROUND_TRUTH {
        sure += " (it is told by recorded answers, which no predictor sees)";
    }
    if at_once {
        return Some(format!(
            "{measured}: under “{}” all is done after {} s against {} s of “{}” ({}){sure}.",
            best.name,
            number(best.mean("makespan_s")),
            number(first.mean("makespan_s")),
            first.name,
            gain(best.throughput_gain_pct.mean),
        ));
    }
    Some(format!(
        "{measured}: under “{}” the mean end-to-end latency is {} against “{}” ({} s against {} s), \
         the 99th percentile goes from {} to {} s{sure}.",
        best.name,
        gain(-best.e2e_gain_pct.mean),
        first.name,
        number(best.mean("e2e_s.mean")),
        number(first.mean("e2e_s.mean")),
        number(first.mean("e2e_s.p99")),
        number(best.mean("e2e_s.p99")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::summary::Measure;

    /// An arm compared with `fcfs`; of three seeds that agree within a percent.
    fn arm(name: &str, predictor: &str, waiting: f64, gain: f64) -> OnlineArmSummary {
        let known = [
            ("waiting_mean", waiting),
            ("rows_mean", 16.0),
            ("e2e_s.mean", 10.0 - gain / 10.0),
            ("e2e_s.p99", 30.0),
            ("refused", 0.0),
        ];
        let around = |value: f64| Measure::over(vec![value - 0.5, value, value + 0.5]);
        OnlineArmSummary {
            name: name.into(),
            policy: name.into(),
            memory: String::new(),
            repredict: String::new(),
            predictor: predictor.into(),
            arrivals: "Poisson, 3 requests/s".into(),
            rate: Some(3.0),
            noise: 0.0,
            slots: 16,
            kv_tokens: 300,
            requests: 100,
            estimated_prompts: 0,
            seeds: vec![1, 2, 3],
            figures: known
                .map(|(path, value)| (path.to_string(), Measure::over(vec![value])))
                .into(),
            compared_with: "fcfs".into(),
            e2e_gain_pct: around(gain),
            throughput_gain_pct: around(0.0),
            queue_formed: false,
            queue_exceeds_batch: false,
            outputs_equal_first: None,
        }
    }

    fn summary(arms: Vec<OnlineArmSummary>) -> OnlineSummary {
        OnlineSummary {
            experiment: "x".into(),
            created: String::new(),
            simulated: true,
            executor: None,
            step_time: "paper".into(),
            arrivals: String::new(),
            notes: Vec::new(),
            arms,
        }
        .judge_queues()
    }

    #[test]
    fn the_best_that_can_be_had_is_the_finding() {
        let said = finding(&summary(vec![
            arm("fcfs", "constant", 40.0, 0.0),
            arm("by words", "lexical", 20.0, 30.0),
            arm("told", "ground-truth", 20.0, 40.0),
            arm("known", "oracle", 20.0, 50.0),
        ]))
        .unwrap();
        assert!(
            said.contains("“by words”") && said.contains("-30 %"),
            "{said}"
        );
        assert!(!said.contains("chance"), "{said}");
        // What is told by recorded answers says so where it is all there is; a loss is no find.
        let told = |gain| {
            let arms = vec![
                arm("fcfs", "constant", 40.0, 0.0),
                arm("worse", "lexical", 60.0, -20.0),
                arm("told", "ground-truth", 20.0, gain),
            ];
            finding(&summary(arms)).unwrap()
        };
        assert!(told(40.0).contains("“told”") && told(40.0).contains("recorded answers"));
        assert!(told(-5.0).contains("no policy gained"), "{}", told(-5.0));
        let mut unlike = summary(vec![arm("fcfs", "constant", 40.0, 0.0)]);
        unlike.arms[0].outputs_equal_first = Some(false);
        assert!(finding(&unlike).unwrap().contains("other answers"));
    }

    #[test]
    fn nothing_is_called_better_without_a_queue_beyond_the_batch() {
        let shallow_run = summary(vec![
            arm("fcfs", "constant", 3.0, 0.0),
            arm("by words", "lexical", 90.0, 30.0),
        ]);
        let said = finding(&shallow_run).unwrap();
        assert!(said.contains("at most 3.00 requests waited"), "{said}");
        assert!(refusals(&shallow_run).is_none());
        let mut small = arm("fcfs", "constant", 40.0, 0.0);
        small
            .figures
            .insert("refused".into(), Measure::over(vec![7.0]));
        let said = refusals(&summary(vec![small])).unwrap();
        assert!(
            said.contains("7.00 of 100") && said.contains("300 tokens"),
            "{said}"
        );
    }
}
