//! The sentence encoder, against the vectors that its model card's example prints.

use lenaware::model::{SentenceEncoder, resolve_encoder};

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let files = resolve_encoder("minilm", false, false).expect("the encoder can be had");
    let encoder = SentenceEncoder::load(&files).unwrap();
    let texts = ["This is an example sentence", "Each sentence is converted"];
    let vectors = encoder.embed(&texts, |_| ()).unwrap();
    assert_eq!(vectors.len(), 2 * 384);
    let expected: [&[f32]; 2] = [
        &[
            0.067_656_93,
            0.063_495_93,
            0.048_713_14,
            0.079_304_95,
            0.037_448_06,
            0.002_652_73,
        ],
        &[0.086_438_6, 0.102_762_7, 0.005_394_57, 0.002_044_45],
    ];
    for (found, expected) in vectors.chunks(384).zip(expected) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }
}
