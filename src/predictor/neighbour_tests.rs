use super::super::lexical::tests::{dataset, instructions, query};
use super::*;
use crate::dataset::Label;
use crate::predictor::stored::Description;

fn index(texts: &[&str], labels: &[f64]) -> Index {
    let terms = TermsConfig {
        ngrams: 1,
        min_documents: 1,
    };
    Index::fit(texts, labels.to_vec(), terms)
}

#[test]
fn the_nearest_are_those_of_the_highest_cosine() {
    let texts = [
        "write a poem about cats",
        "write a poem about dogs",
        "translate the word",
        "write a poem about dogs",
        "divide 7 by 3",
    ];
    let index = index(&texts, &[90.0, 110.0, 5.0, 130.0, 12.0]);
    let mut scores = Vec::new();
    let near = index.nearest("Write a poem about dogs", 3, &mut scores);
    let labels: Vec<f64> = near.iter().map(|n| n.label).collect();
    assert_eq!(labels, [110.0, 130.0, 90.0]);
    assert!((near[0].cosine - 1.0).abs() < 1e-5);
    assert!(near[2].cosine < near[1].cosine);
    // Against all cosines computed one by one.
    let all = index.nearest("translate a poem", 99, &mut scores);
    for (at, text) in texts.iter().enumerate() {
        let (query, row) = (
            index.vocabulary.vector("translate a poem"),
            index.vocabulary.vector(text),
        );
        let cosine: f32 = query
            .iter()
            .filter_map(|(c, v)| Some(v * row.iter().find(|(d, _)| d == c)?.1))
            .sum();
        let found = all.iter().find(|n| n.label == index.labels[at]).unwrap();
        assert!((found.cosine - cosine).abs() < 1e-6, "{text}");
    }
}

#[test]
fn quantiles_follow_the_weights() {
    let labels = [(10.0, 1.0), (20.0, 1.0), (30.0, 2.0)];
    assert_eq!(weighted_mean(&labels), 22.5);
    let quantiles = weighted_quantiles(&labels);
    assert_eq!(quantiles.at(0.05), 10.0);
    assert_eq!(quantiles.at(0.5), 20.0);
    assert_eq!(quantiles.at(0.95), 30.0);
    assert_eq!(weighted_quantiles(&[(7.0, 0.1)]).at(0.99), 7.0);
}

#[test]
fn alike_instructions_tell_lengths_again_after_storage() {
    let dir = tempfile::tempdir().unwrap();
    let set = instructions(200);
    let data = TrainingData::of("words", &set, Label::Max).unwrap();
    let chosen = train(&data, TermsConfig::default(), true, dir.path()).unwrap();
    assert!(chosen.validation_error < 15.0, "{chosen:?}");
    assert_eq!(chosen.training_instructions, 200);
    let neighbour = Neighbour::read("./near", dir.path()).unwrap();
    let texts = [
        "Write an essay about snow.",
        "Name one thing about snow!",
        "qwertz",
    ];
    let found = neighbour.predict(&texts.map(query)).unwrap();
    assert!((370.0..430.0).contains(&found[0].tokens), "{found:?}");
    assert!((5.0..30.0).contains(&found[1].tokens), "{found:?}");
    assert!(
        found
            .iter()
            .all(|p| p.quantiles.is_some() && p.tokens.is_finite())
    );
    let kind = Description::read(dir.path()).unwrap().unwrap().kind;
    assert_eq!(kind, Kind::Neighbour);
    assert!(neighbour.predict(&[query("")]).is_err());

    let path = dir.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    let at = good.len() - 8;
    for bytes in [
        good[..at].to_vec(),
        [&good[..at], &f64::INFINITY.to_le_bytes()].concat(),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Neighbour::read("", dir.path()).err().unwrap();
        assert!(error.to_string().contains("train again"), "{error}");
    }
}

#[test]
fn a_text_like_no_other_gets_the_whole_distribution() {
    let rows: Vec<(String, u32)> = (0..40).map(|at| ("hm".into(), 10 * (at + 1))).collect();
    let set = dataset(&rows);
    let data = TrainingData::of("hm", &set, Label::Max).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let terms = TermsConfig {
        ngrams: 1,
        min_documents: 100,
    };
    // No term is in a hundred texts: nothing is like anything.
    train(&data, terms, false, dir.path()).unwrap();
    let neighbour = Neighbour::read("", dir.path()).unwrap();
    let found = &neighbour.predict(&[query("hm")]).unwrap()[0];
    let spread = found.quantiles.as_ref().unwrap();
    assert!((150.0..260.0).contains(&found.tokens), "{found:?}");
    assert!(spread.at(0.9) > 300.0 && spread.at(0.1) < 100.0);
}
