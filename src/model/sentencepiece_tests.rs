use super::*;
use serde_json::Value;
use std::path::PathBuf;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-torch/tokenizer.model")
}

fn ids(case: &Value) -> Option<Vec<u32>> {
    serde_json::from_value(case.clone()).ok()
}

/// Every text has the ids that Google's sentencepiece gives it, and comes back from them.
fn matches_golden(path: &Path, golden: &str) {
    let vocabulary = Vocabulary::read(path).unwrap();
    assert_eq!(vocabulary.bos_text(), Some("<s>"));
    let [legacy, modern] = [true, false].map(|legacy| {
        crate::model::TextTokenizer::of_vocabulary(&vocabulary, legacy, &[], path).unwrap()
    });
    let (mut plain, mut special) = (0, 0);
    for line in golden.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = case["text"].as_str().unwrap();
        if let Some(expected) = ids(&case["ids"]) {
            plain += 1;
            for (kind, tokenizer) in [("legacy", &legacy), ("modern", &modern)] {
                assert_eq!(tokenizer.encode(text).unwrap(), expected, "{kind} {text:?}");
                let with_bos = tokenizer.encode(&format!("<s>{text}")).unwrap();
                assert_eq!(with_bos[0], 1);
                assert_eq!(with_bos[1..], expected, "{kind} {text:?}");
                let ended = [&with_bos[..], &[2]].concat();
                let decoded = tokenizer.decode(&ended).unwrap();
                assert_eq!(decoded, case["decoded"], "{kind} {text:?}");
            }
        } else {
            special += 1;
            assert_eq!(
                legacy.encode(text).unwrap(),
                ids(&case["legacy"]).unwrap(),
                "{text:?}"
            );
            assert_eq!(
                modern.encode(text).unwrap(),
                ids(&case["modern"]).unwrap(),
                "{text:?}"
            );
        }
    }
    assert_eq!((plain, special), (68, 10));
}

#[test]
fn a_small_vocabulary_gives_the_ids_of_sentencepiece() {
    let golden = include_str!("../../tests/fixtures/golden/sentencepiece-tiny.jsonl");
    matches_golden(&tiny(), golden);
}

/// Needs the tokenizer of Llama 2, which is not the project's to carry; set
/// `LENAWARE_LLAMA_TOKENIZER` to its `tokenizer.model`.
#[test]
fn the_vocabulary_of_llama_2_gives_the_ids_of_sentencepiece() {
    let Some(path) = std::env::var_os("LENAWARE_LLAMA_TOKENIZER") else {
        eprintln!("skipped: LENAWARE_LLAMA_TOKENIZER is not set");
        return;
    };
    let path = Path::new(&path);
    let golden = include_str!("../../tests/fixtures/golden/sentencepiece-llama.jsonl");
    matches_golden(path, golden);
    let tokenizer = Vocabulary::read(path)
        .unwrap()
        .tokenizer(true, &[])
        .unwrap();
    let encoded = tokenizer.encode("<s>Hello world", false).unwrap();
    assert_eq!(encoded.get_ids(), [1, 15043, 3186]);
}

fn proto() -> ModelProto {
    let piece = |text: &str, score: f32, kind: i32| PieceProto {
        piece: Some(text.into()),
        score: Some(score),
        kind: Some(kind),
    };
    let mut pieces = vec![
        piece("<unk>", 0.0, 2),
        piece("<s>", 0.0, 3),
        piece("</s>", 0.0, 3),
    ];
    pieces.push(piece("<|tool|>", 0.0, 4));
    for (n, text) in ["ab", "abc", "bc", "\u{2581}a", "a", "b", "c", "\u{2581}"]
        .iter()
        .enumerate()
    {
        pieces.push(piece(text, -(n as f32), 1));
    }
    ModelProto {
        pieces,
        trainer: Some(TrainerProto {
            model_type: Some(2),
            ..Default::default()
        }),
        normalizer: Some(NormalizerProto {
            remove_extra_whitespaces: Some(false),
            ..Default::default()
        }),
    }
}

#[test]
fn scores_and_kinds_decide() {
    let vocabulary = Vocabulary::parse(&proto().encode_to_vec()).unwrap();
    let added = [Addition {
        id: 12,
        text: "<|end|>".into(),
        special: true,
    }];
    let tokenizer = vocabulary.tokenizer(true, &added).unwrap();
    let encode = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    // `ab` has a better score than the space with `a`; without bytes a stranger is <unk>, once.
    assert_eq!(encode("abc"), [11, 5]);
    assert_eq!(encode("aéßb"), [7, 0, 9]);
    assert_eq!(encode("a<|tool|>a<|end|>"), [7, 3, 7, 12]);
    assert_eq!(
        tokenizer.decode(&[7, 3, 7, 12], true).unwrap(),
        "a<|tool|> a"
    );
    let elsewhere = [Addition {
        id: 20,
        ..added[0].clone()
    }];
    let why = vocabulary.tokenizer(true, &elsewhere).unwrap_err();
    assert!(why.contains("`<|end|>`") && why.contains("id 20"), "{why}");
}

#[test]
fn what_is_no_such_vocabulary_is_refused() {
    let refused = |edit: &dyn Fn(&mut ModelProto)| {
        let mut proto = proto();
        edit(&mut proto);
        let vocabulary = Vocabulary::parse(&proto.encode_to_vec());
        vocabulary
            .and_then(|v| v.tokenizer(true, &[]).map(|_| ()))
            .unwrap_err()
    };
    type Edit<'a> = &'a dyn Fn(&mut ModelProto);
    let cases: [(Edit<'_>, &str); 9] = [
        (
            &|p| p.trainer.as_mut().unwrap().model_type = Some(1),
            "not of type BPE",
        ),
        (&|p| p.trainer = None, "trainer_spec"),
        (
            &|p| p.normalizer.as_mut().unwrap().remove_extra_whitespaces = None,
            "changes texts",
        ),
        (
            &|p| p.normalizer.as_mut().unwrap().precompiled_charsmap = Some(vec![1]),
            "changes texts",
        ),
        (
            &|p| p.pieces[5].piece = p.pieces[4].piece.clone(),
            "token 5 is there twice",
        ),
        (
            &|p| p.pieces[5].score = Some(f32::NAN),
            "token 5 makes no sense",
        ),
        (&|p| p.pieces[5].kind = Some(9), "unknown type"),
        (
            &|p| p.pieces[5].piece = Some("x".repeat(5000)),
            "5000 bytes",
        ),
        (&|p| p.pieces.clear(), "no tokens"),
    ];
    for (edit, part) in cases {
        let why = refused(edit);
        assert!(why.contains(part) && why.contains(": "), "{part} in {why}");
    }
    let whole = std::fs::read(tiny()).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        let _ = Vocabulary::parse(&whole[..cut]).map(|v| v.tokenizer(false, &[]).map(|_| ()));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let message = Vocabulary::read(&path).unwrap_err().to_string();
    assert!(message.contains("tokenizer.model: ") && message.contains("download it again"));
}
