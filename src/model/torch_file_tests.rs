use super::*;
use crate::model::pickle::tests::Assembler;
use crate::model::{Checkpoint, ModelConfig, ModelFiles, WeightFiles};
use proptest::prelude::*;
use std::io::Write;
use zip::CompressionMethod::{Deflated, Stored as Plain};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-torch")
}

/// What `tests/peers/tiny_torch.py` puts into tensor `number`.
fn expected(number: usize, shape: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let value = |i: usize| ((7 * i + 13 * number) % 31) as f32 / 16.0 - 15.0 / 16.0;
    (0..count).map(value).collect()
}

#[test]
fn shards_written_by_pytorch_are_the_same_model_as_safetensors() {
    let files = ModelFiles::local(&fixture()).unwrap();
    let WeightFiles::Torch(paths) = &files.weights else {
        panic!("{files:?}")
    };
    assert_eq!(paths.len(), 2);
    assert_eq!(files.sha256().unwrap().len(), 64);
    let loaded = Checkpoint::load(&files).unwrap();
    let tensors = loaded.tensors().unwrap();
    assert_eq!(tensors.len(), 3 + 2 * 9);
    for (number, (name, shape)) in loaded.config.tensor_shapes().enumerate() {
        assert_eq!(tensors[&name].dims(), shape);
        let values = loaded.f32_values(&name).unwrap();
        assert_eq!(values, expected(number, &shape), "{name}");
    }

    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture().join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    let path = dir.path().join("model.safetensors");
    candle_core::safetensors::save(&tensors, path).unwrap();
    // Beside safetensors, .bin files are not looked at.
    std::fs::write(dir.path().join("pytorch_model.bin"), "no model").unwrap();
    let same = Checkpoint::load(&ModelFiles::local(dir.path()).unwrap()).unwrap();
    for name in tensors.keys() {
        assert_eq!(
            same.f32_values(name).unwrap(),
            loaded.f32_values(name).unwrap()
        );
    }
}

#[test]
fn files_cut_or_damaged_anywhere_are_errors() {
    let path = fixture().join("pytorch_model-00002-of-00002.bin");
    let whole = std::fs::read(&path).unwrap();
    for cut in (0..whole.len())
        .step_by(61)
        .chain([1, 2, 4, whole.len() - 1])
    {
        let message = opened(&whole[..cut]).unwrap_err().to_string();
        assert!(
            message.contains("m.bin: ") && !message.contains('\n'),
            "{message}"
        );
        assert!(message.contains("download it again"), "{cut}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..10_900, any::<u8>()), 1..6)) {
        let path = fixture().join("pytorch_model-00002-of-00002.bin");
        let mut bytes = std::fs::read(path).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(shards) = opened(&bytes) {
            for name in shards.names() {
                let _ = shards.load(&name);
            }
        }
    }
}

fn opened(bytes: &[u8]) -> Result<TorchShards> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    std::fs::write(&path, bytes).unwrap();
    TorchShards::open(&[path])
}

type Entry<'a> = (&'a str, zip::CompressionMethod, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, method, body) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(*method);
        zip.start_file(*name, options).unwrap();
        zip.write_all(body).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint of one tensor over the 16 bytes of storage `0`.
fn one(storage: (&str, &str, i64), offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let pickle = Assembler::table("w", |a| a.tensor(storage, offset, shape, strides));
    let body: Vec<u8> = [1f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    archive(&[("m/data.pkl", Plain, &pickle), ("m/data/0", Plain, &body)])
}

#[test]
fn views_are_followed_within_their_storage_and_not_beyond() {
    let float = ("FloatStorage", "0", 4);
    let values = |offset, shape: &[i64], strides: &[i64]| -> Vec<f32> {
        let shards = opened(&one(float, offset, shape, strides)).unwrap();
        let tensor = shards.load("w").unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(values(0, &[2, 2], &[2, 1]), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values(0, &[2, 2], &[1, 2]), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(values(1, &[2], &[2]), [2.0, 4.0]);
    assert_eq!(values(3, &[], &[]), [4.0]);
    assert_eq!(values(2, &[1, 2, 1], &[i64::MAX, 1, i64::MAX]), [3.0, 4.0]);
    assert_eq!(
        values(0, &[1, 2, 2], &[i64::MAX, 1, 2]),
        [1.0, 3.0, 2.0, 4.0]
    );
    assert!(values(9, &[0, 5], &[1, 1]).is_empty());

    let big = i64::MAX;
    for (storage, offset, shape, strides, part) in [
        (float, 1, &[4][..], &[1][..], "beyond its storage"),
        (float, 0, &[2, 2], &[3, 1], "beyond its storage"),
        (float, big, &[1], &[1], "beyond its storage"),
        (float, big, &[2], &[big], "beyond its storage"),
        (float, 0, &[2, 2], &[big, big], "beyond its storage"),
        (float, 0, &[big, big], &[0, 0], "impossible dimensions"),
        (float, 0, &[big], &[0], "more elements than its storage"),
        (float, 0, &[5], &[0], "more elements than its storage"),
        (("FloatStorage", "0", 5), 0, &[5], &[1], "has 16 bytes"),
        (("FloatStorage", "0", big), 0, &[5], &[1], "has 16 bytes"),
        (("HalfStorage", "0", 4), 0, &[4], &[1], "has 16 bytes"),
        (("FloatStorage", "1", 4), 0, &[4], &[1], "is missing"),
        (
            ("FloatStorage", "../data.pkl", 4),
            0,
            &[4],
            &[1],
            "is missing",
        ),
    ] {
        let error = opened(&one(storage, offset, shape, strides)).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(part) && message.contains("`w`"),
            "{part} in {message}"
        );
    }
}

#[test]
fn archives_that_are_bombs_or_no_checkpoints_are_refused() {
    let pickle = Assembler::table("w", |a| a.tensor(("FloatStorage", "0", 4), 0, &[4], &[1]));
    let zeros = vec![0u8; 1 << 20];
    let many = (0..100).fold(Assembler::default().raw(b"}("), |a, n| {
        a.text(&format!("w{n}"))
            .tensor(("FloatStorage", "0", 1 << 18), 0, &[1 << 18], &[1])
    });
    let many = many.raw(b"u.").0;
    let mut crowd = archive(&[
        ("m/data.pkl", Plain, &pickle),
        ("m/data/0", Plain, &zeros[..16]),
    ]);
    let mut record = b"PK\x06\x06".to_vec();
    record.resize(24, 0);
    record.extend([u64::MAX; 4].iter().flat_map(|n| n.to_le_bytes()));
    crowd.extend(record);
    let evil = Assembler::default()
        .raw(b"cos\nsystem\n(")
        .text("touch ran")
        .raw(b"tR.")
        .0;
    for (bytes, part) in [
        (
            archive(&[
                ("m/data.pkl", Plain, &pickle),
                ("m/data/0", Deflated, &zeros),
            ]),
            "compressed",
        ),
        (archive(&[("m/data.pkl", Deflated, &pickle)]), "compressed"),
        (
            archive(&[("m/data.pkl", Plain, &many), ("m/data/0", Plain, &zeros)]),
            "many times its size",
        ),
        (
            archive(&[("m/data.pkl", Plain, &vec![b'N'; (16 << 20) + 1])]),
            "too large",
        ),
        (archive(&[("m/data.pkl", Plain, &evil)]), "`os.system`"),
        (archive(&[("m/other", Plain, b"x")]), "0 entries data.pkl"),
        (
            archive(&[
                ("m/data.pkl", Plain, &pickle),
                ("n/data.pkl", Plain, &pickle),
            ]),
            "2 entries data.pkl",
        ),
        (
            archive(&[
                ("m/data.pkl", Plain, &pickle),
                ("m/byteorder", Plain, b"big"),
            ]),
            "big-endian",
        ),
        (crowd, "too many entries"),
        (
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20".to_vec(),
            "before 1.6",
        ),
        (b"version https://git-lfs".to_vec(), "no zip archive"),
        (vec![], "no zip archive"),
    ] {
        let message = opened(&bytes).unwrap_err().to_string();
        assert!(message.contains(part), "{part} in {message}");
        // What is wrong and, behind a colon, what to do.
        assert!(message.matches(": ").count() >= 2, "{message}");
    }
}

#[test]
fn tensors_of_a_checkpoint_that_do_not_fit_the_model_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture().join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    let load = |bytes: &[u8]| {
        std::fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
        Checkpoint::load(&ModelFiles::local(dir.path()).unwrap())
    };
    let message = load(&one(("FloatStorage", "0", 4), 0, &[4], &[1]))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`model.embed_tokens.weight` is missing"),
        "{message}"
    );
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    let (name, _) = config.tensor_shapes().next().unwrap();
    for (class, shape, part) in [
        ("FloatStorage", [2, 2], "is [2, 2], not [400, 16]"),
        ("LongStorage", [400, 16], "stored as I64"),
    ] {
        let table = Assembler::table(&name, |a| a.tensor((class, "0", 4), 0, &shape, &[2, 1]));
        let body = [0u8; 16];
        let bytes = archive(&[("m/data.pkl", Plain, &table), ("m/data/0", Plain, &body)]);
        let message = load(&bytes).unwrap_err().to_string();
        assert!(
            message.contains(part) && message.contains(&name),
            "{message}"
        );
    }
}
