use super::*;
use crate::dataset::{FinishReason, LengthDataset, Provenance, Sample};
use crate::evaluate::predictor_metrics::floor_and_ceiling;

fn provenance(finish_reasons: Known) -> Provenance {
    Provenance {
        model: "m".into(),
        model_sha256: None,
        template_sha256: None,
        max_new_tokens: 100,
        finish_reasons,
        temperatures: Known::Recorded,
        tool_version: "0".into(),
        git_commit: None,
        ..Provenance::default()
    }
}

fn sample(id: &str, temperature: f32, tokens: u32, category: Option<&str>) -> Sample {
    Sample {
        instruction_id: id.into(),
        instruction: "x".into(),
        category: category.map(String::from),
        split: None,
        sample: 0,
        temperature,
        seed: 0,
        prompt_tokens: 7,
        response_tokens: tokens,
        finish_reason: match tokens {
            100 => FinishReason::Length,
            _ => FinishReason::Stop,
        },
        response: None,
        arrival_s: None,
    }
}

fn described(samples: Vec<Sample>, finish_reasons: Known) -> (Description, Drawing) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.parquet");
    let dataset = LengthDataset {
        provenance: provenance(finish_reasons),
        samples,
    };
    dataset.write_parquet(&path).unwrap();
    describe(&path, Label::Max).unwrap()
}

#[test]
fn figures_by_hand() {
    // Samples of one instruction need not stand together.
    let samples = vec![
        sample("a", 0.0, 10, Some("short")),
        sample("b", 0.0, 60, Some("long")),
        sample("a", 0.7, 20, Some("short")),
        sample("b", 0.7, 100, Some("long")),
        sample("c", 0.7, 30, None),
    ];
    let (d, drawing) = described(samples, Known::Recorded);
    assert_eq!((d.instructions, d.overall.samples), (3, 5));
    assert_eq!(d.overall.censored, Some(0.2));
    assert_eq!(d.overall.cut_from, Some(100));
    assert_eq!((d.overall.mean, d.overall.median), (44.0, 30.0));
    assert_eq!((d.overall.min, d.overall.max), (10, 100));
    // 0.9 of the way over five values: 60 + 0.6 (100 - 60).
    assert!((d.overall.p90 - 84.0).abs() < 1e-9);
    let temperatures: Vec<_> = d
        .by_temperature
        .iter()
        .map(|g| (g.name, g.lengths.mean))
        .collect();
    assert_eq!(temperatures, [(0.0, 35.0), (0.7, 50.0)]);
    assert_eq!(d.by_temperature[0].lengths.censored, Some(0.0));
    let categories: Vec<_> = d
        .by_category
        .iter()
        .map(|g| (g.name.as_str(), g.lengths.mean))
        .collect();
    assert_eq!(categories, [("long", 80.0), ("short", 15.0), ("", 30.0)]);
    let within = d.within_instruction.unwrap();
    assert_eq!((within.instructions, within.mean_range), (2, 25.0));
    // Labels 20, 100 and 30, the median 30: distances 10, 70 and 0.
    assert!((d.prediction.floor.error - 80.0 / 3.0).abs() < 1e-12);
    assert_eq!(d.prediction.floor.acc_50, 2.0 / 3.0);
    // Coldest 10 and 60 for 20 and 100: |10 f - 20| + |60 f - 100| is least at f = 1.67.
    let ceiling = d.prediction.ceiling.unwrap();
    assert_eq!(ceiling.n, 2);
    assert!((ceiling.error - f64::midpoint(3.3, 0.2)).abs() < 1e-9);
    assert_eq!(d.prompt_tokens.unwrap().mean, 7.0);
    assert_eq!((d.loops, d.arrivals), (None, None));
    assert_eq!(
        drawing.instructions,
        [(15.0, 10.0, 20.0), (80.0, 60.0, 100.0)]
    );
    assert_eq!(
        drawing.lengths[1].1,
        [(20, false), (100, true), (30, false)]
    );
}

#[test]
fn censoring_is_unknown_where_nobody_said() {
    let samples = vec![sample("a", 0.0, 10, None), sample("b", 0.0, 20, None)];
    let (d, drawing) = described(samples, Known::Assumed);
    assert_eq!((d.overall.censored, d.overall.cut_from), (None, None));
    assert_eq!(d.within_instruction, None);
    assert_eq!(d.prediction.ceiling, None);
    assert!(d.by_category.is_empty() && drawing.instructions.is_empty());
}

#[test]
fn looping_responses_are_counted_by_how_they_ended() {
    let mut samples = vec![
        sample("a", 0.0, 100, None),
        sample("b", 0.0, 90, None),
        sample("c", 0.0, 80, None),
        sample("d", 0.0, 80, None),
    ];
    samples[0].response = Some("and so on ".repeat(30));
    samples[1].response = Some("No.".into());
    samples[2].response = Some("again and ".repeat(9));
    let loops = described(samples, Known::Recorded).0.loops.unwrap();
    assert_eq!((loops.with_text, loops.looping), (3, 2));
    assert_eq!((loops.cut_with_text, loops.cut_looping), (1, 1));
    assert_eq!((loops.ended_with_text, loops.ended_looping), (2, 1));
}

#[test]
fn arrivals_by_hand() {
    let found = arrivals(&[3.0, 0.0, 1.0, 6.0]).unwrap();
    assert_eq!(
        (found.requests, found.duration_s, found.rate_per_s),
        (4, 6.0, Some(0.5))
    );
    // Gaps 1, 2 and 3: variance 2/3, mean 2.
    assert!((found.gap_variation.unwrap() - (2f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
    let once = arrivals(&[5.0, 5.0]).unwrap();
    assert_eq!(
        (once.duration_s, once.rate_per_s, once.gap_variation),
        (0.0, None, None)
    );
    assert_eq!(arrivals(&[2.0]).unwrap().rate_per_s, None);
    assert_eq!(arrivals(&[]), None);
}

#[test]
fn the_embedded_dataset_is_described_as_evaluate_has_it() {
    let (d, _) = describe(Path::new("embedded"), Label::Max).unwrap();
    assert_eq!((d.instructions, d.overall.samples), (640, 2560));
    assert_eq!((d.by_temperature.len(), d.by_category.len()), (4, 16));
    let dataset = crate::dataset::embedded::embedded().unwrap();
    let (floor, ceiling) = floor_and_ceiling(&dataset.instances(), Label::Max, None, 42);
    let ceiling = ceiling.unwrap();
    for (ours, theirs) in [
        (d.prediction.floor, floor),
        (d.prediction.ceiling.unwrap(), ceiling),
    ] {
        assert_eq!(ours.n, theirs.n);
        assert!((ours.error - theirs.error.value).abs() < 1e-9);
        assert!((ours.acc_50 - theirs.acc_50.value).abs() < 1e-12);
        assert!((ours.acc_100 - theirs.acc_100.value).abs() < 1e-12);
    }
    let loops = d.loops.unwrap();
    assert_eq!(loops.with_text, 2560);
    // A model this small is cut off because it loops.
    assert!(loops.cut_looping * 2 > loops.cut_with_text, "{loops:?}");
    assert!(
        loops.ended_looping * 20 < loops.ended_with_text,
        "{loops:?}"
    );
}
