use super::super::lexical::tests::{dataset, query};
use super::*;
use crate::dataset::{Label, LengthDataset};
use crate::model::SentenceEncoder;

/// The real encoder's test double: random weights on letters.
fn tiny(dir: &Path) -> SentenceEncoder {
    crate::model::tiny_sentence_encoder(dir);
    SentenceEncoder::load(&ModelFiles::local(dir).unwrap()).unwrap()
}

/// Texts of the letter a are long, texts of the letter z are short.
fn letters(n: usize) -> LengthDataset {
    let rows: Vec<(String, u32)> = (0..n)
        .map(|at| match at % 2 {
            0 => (format!("a {}", "b ".repeat(at % 4)), 400 + (at % 7) as u32),
            _ => (format!("z {}", "y ".repeat(at % 4)), 20 + (at % 3) as u32),
        })
        .collect();
    dataset(&rows)
}

#[test]
fn vectors_tell_lengths_again_after_storage_and_only_with_the_same_encoder() {
    let (model, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let encoder = tiny(model.path());
    let set = letters(80);
    let data = TrainingData::of("letters", &set, Label::Max).unwrap();
    let place = model.path().display().to_string();
    let chosen = train(&encoder, &place, &data, true, 1, dir.path(), |_| ()).unwrap();
    assert!(chosen.validation_error < 40.0, "{chosen:?}");
    assert_eq!(chosen.training_instructions, 80);
    let description = Description::read(dir.path()).unwrap().unwrap();
    assert_eq!(description.model_sha256, encoder.sha256());
    let read = || {
        Encoder::read("./e", dir.path(), &description, |named| {
            assert_eq!(named, place);
            ModelFiles::local(model.path())
        })
    };
    let found = read()
        .unwrap()
        .predict(&["a b b", "z y"].map(query))
        .unwrap();
    assert!((340.0..460.0).contains(&found[0].tokens), "{found:?}");
    assert!((10.0..60.0).contains(&found[1].tokens), "{found:?}");
    assert!(found.iter().all(|p| p.quantiles.is_some()));
    assert!(read().unwrap().predict(&[query("")]).is_err());

    // Any other weights under the same name are refused.
    let path = model.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = read().err().unwrap();
    assert!(error.to_string().contains("another encoder"), "{error}");

    let path = dir.path().join(FILE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let error = read().err().unwrap();
    assert!(error.to_string().contains("train again"), "{error}");
}

#[test]
fn likeness_is_one_for_the_same_and_fades() {
    let landmarks = Landmarks {
        width: 2.0,
        vectors: vec![1.0, 0.0, 0.0, 1.0],
    };
    let rows = landmarks.expand(&[1.0, 0.0], 2).unwrap();
    assert_eq!(landmarks.features(2), 4);
    assert_eq!(rows[..3], [1.0, 0.0, 1.0]);
    assert!((rows[3] - (-2.0f32).exp()).abs() < 1e-6);
}
