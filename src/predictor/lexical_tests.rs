use super::*;
use crate::dataset::{FinishReason, Instance, Label, LengthDataset, Provenance, Sample, Split};
use crate::predictor::stored::Description;

/// A dataset of (text, length), every fifth instruction for validation.
pub(in crate::predictor) fn dataset(rows: &[(String, u32)]) -> LengthDataset {
    let samples = rows
        .iter()
        .enumerate()
        .map(|(at, (text, tokens))| Sample {
            instruction_id: at.to_string(),
            instruction: text.clone(),
            category: None,
            split: Some(if at % 5 == 4 {
                Split::Validation
            } else {
                Split::Train
            }),
            sample: 0,
            temperature: 0.0,
            seed: 0,
            prompt_tokens: 0,
            response_tokens: *tokens,
            finish_reason: FinishReason::Stop,
            response: None,
            arrival_s: None,
        })
        .collect();
    LengthDataset {
        provenance: Provenance::default(),
        samples,
    }
}

/// Instructions whose verb and number decide the length: essays are long, names are short.
pub(in crate::predictor) fn instructions(n: usize) -> LengthDataset {
    let topics = [
        "cats",
        "the sea",
        "old trains",
        "bread",
        "winter",
        "chess",
        "a river",
    ];
    let rows: Vec<(String, u32)> = (0..n)
        .map(|at| {
            let topic = topics[at * 5 % topics.len()];
            let wobble = (at * 37 % 21) as u32;
            match at % 3 {
                0 => (format!("Write an essay about {topic}."), 380 + 2 * wobble),
                1 => (format!("Name one thing about {topic}!"), 10 + wobble / 4),
                _ => (
                    format!("List ten facts about {topic}\nInput:\nNo. {at}"),
                    140 + wobble,
                ),
            }
        })
        .collect();
    dataset(&rows)
}

pub(in crate::predictor) fn query(text: &str) -> Query<'_> {
    Query {
        instruction_id: "q",
        instruction: text,
        prompt_tokens: 0,
        label: f64::NAN,
        served: None,
    }
}

fn trained(dataset: &LengthDataset, refit: bool) -> (tempfile::TempDir, Result<Chosen>) {
    let dir = tempfile::tempdir().unwrap();
    let data = TrainingData::of("words", dataset, Label::Max).unwrap();
    let chosen = train(&data, TermsConfig::default(), refit, dir.path());
    (dir, chosen)
}

#[test]
fn words_tell_lengths_again_after_storage() {
    let (dir, chosen) = trained(&instructions(150), true);
    let chosen = chosen.unwrap();
    assert!(chosen.validation_error < 15.0, "{chosen:?}");
    assert_eq!(
        (chosen.validation_instructions, chosen.training_instructions),
        (30, 150)
    );
    let lexical = Lexical::read("./words", dir.path()).unwrap();
    let texts = ["Write an essay about snow.", "Name one thing about snow!"];
    let predictions = lexical.predict(&texts.map(query)).unwrap();
    assert!(
        (350.0..430.0).contains(&predictions[0].tokens),
        "{predictions:?}"
    );
    assert!(predictions[1].tokens < 60.0, "{predictions:?}");
    for prediction in &predictions {
        let quantiles = prediction.quantiles.as_ref().unwrap();
        assert!(quantiles.at(0.05) <= prediction.tokens && prediction.tokens <= quantiles.at(0.95));
    }
    let description = Description::read(dir.path()).unwrap().unwrap();
    assert_eq!(description.kind, Kind::Lexical);
    assert_eq!(
        (
            description.model.as_str(),
            description.training_instructions
        ),
        ("", 150)
    );
    let trials = std::fs::read_to_string(dir.path().join("trials.csv")).unwrap();
    assert_eq!(
        trials.lines().count(),
        1 + LengthScale::ALL.len() * PENALTIES.len() + 1
    );

    let (dir, chosen) = trained(&instructions(150), false);
    assert_eq!(chosen.unwrap().training_instructions, 120);
    assert!(Lexical::read("", dir.path()).is_ok());
    // An instruction without a text is nothing to predict from.
    let error = lexical.predict(&[query(" ")]).err().unwrap();
    assert!(error.to_string().contains("texts"), "{error}");
}

#[test]
fn nine_answers_in_ten_end_by_the_length_that_is_said() {
    let (dir, _) = trained(&instructions(600), true);
    let lexical = Lexical::read("", dir.path()).unwrap();
    let new = instructions(900);
    let instances: Vec<Instance<'_>> = new.instances().into_iter().skip(600).collect();
    let queries: Vec<Query<'_>> = instances.iter().map(|i| query(i.instruction)).collect();
    let predictions = lexical.predict(&queries).unwrap();
    for level in [0.1, 0.5, 0.9] {
        let ended = predictions
            .iter()
            .zip(&instances)
            .filter(|(p, i)| i.label(Label::Max) <= p.quantiles.as_ref().unwrap().at(level))
            .count() as f64
            / 300.0;
        assert!((ended - level).abs() < 0.08, "{level}: {ended}");
    }
}

#[test]
fn lengths_that_are_all_the_same_and_few_instructions_are_fine() {
    let same: Vec<(String, u32)> = (0..20).map(|at| (format!("Say {at}"), 50)).collect();
    let (dir, chosen) = trained(&dataset(&same), true);
    assert!(chosen.unwrap().validation_error < 1e-6);
    let lexical = Lexical::read("", dir.path()).unwrap();
    let found = lexical.predict(&[query("Anything else?")]).unwrap()[0].tokens;
    assert!((found - 50.0).abs() < 1e-6, "{found}");

    let three = dataset(&same[..5]);
    let (dir, chosen) = trained(&three, false);
    assert!(chosen.is_ok());
    assert!(Lexical::read("", dir.path()).is_ok());

    let one = dataset(&same[..1]);
    let error = TrainingData::of("one", &one, Label::Max).err().unwrap();
    assert!(error.to_string().contains("sample more"), "{error}");
}

#[test]
fn damaged_folders_are_told() {
    let (dir, _) = trained(&instructions(60), true);
    let path = dir.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    let refused = |what: &str| {
        let error = Lexical::read("", dir.path()).err().expect(what);
        assert!(error.to_string().contains("train again"), "{what}: {error}");
    };
    for end in [0, 9, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..end]).unwrap();
        refused("a file cut off");
    }
    // The last eight bytes are a number of some vector: one that is none.
    let mut none = good.clone();
    let at = good.len() - 8;
    none[at..].copy_from_slice(&f64::NAN.to_le_bytes());
    std::fs::write(&path, &none).unwrap();
    refused("not a number");
    let text = String::from_utf8_lossy(&good[..600]).into_owned();
    assert!(text.contains("intercept"), "{text}");
    let swapped: Vec<u8> = replace(&good, b"\"shape_mean\"", b"\"shape_mead\"");
    std::fs::write(&path, swapped).unwrap();
    refused("a vector that is missing");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        Lexical::read("", dir.path()),
        Err(Error::Io { .. })
    ));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn scales_go_there_and_back() {
    for scale in LengthScale::ALL {
        for tokens in [1.0, 37.0, 512.0] {
            assert!((scale.tokens(scale.of(tokens)) - tokens).abs() < 1e-6);
        }
        assert_eq!(scale.of(0.0), scale.of(1.0));
        assert!(scale.tokens(-5.0) >= 0.0);
    }
}
