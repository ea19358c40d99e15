//! The commands that README and experiment files tell users to type are commands of this tool.

use std::path::Path;

use crate::lenaware;

/// Every `lenaware ..` line of a text, comments and continued lines joined.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n#", " ").replace("\\\n", " ");
    joined
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']))
        .filter_map(|line| line.strip_prefix("lenaware "))
        .map(|line| line.split(" #").next().unwrap_or_default())
        .map(|line| line.split_whitespace().map(str::to_string).collect())
        .collect()
}

#[test]
fn documented_commands_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md"), root.join("datasets/README.md")];
    for folder in ["experiments", "experiments/finetune"] {
        let experiments = std::fs::read_dir(root.join(folder)).unwrap();
        let paths = experiments.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.is_file()));
    }
    let mut found = 0;
    for file in files {
        for command in commands(&std::fs::read_to_string(&file).unwrap()) {
            // With --help at the end every flag before it is still checked.
            let output = lenaware(root)
                .args(&command)
                .arg("--help")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {command:?}: {said}",
                file.display()
            );
            found += 1;
        }
    }
    assert!(found >= 10, "only {found} commands found");
}

#[test]
fn settings_of_training_that_are_shipped_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/finetune");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root).unwrap() {
        let output = lenaware(dir.path())
            .args(["finetune", "--dataset", "missing.parquet", "--out", "out"])
            .arg("--config")
            .arg(entry.unwrap().path())
            .output()
            .unwrap();
        // All is well with the settings if it is the dataset that is missed.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("missing.parquet"), "{said}");
        assert!(!output.status.success());
    }
}
