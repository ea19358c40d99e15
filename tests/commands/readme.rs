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
    let experiments = std::fs::read_dir(root.join("experiments")).unwrap();
    files.extend(experiments.map(|entry| entry.unwrap().path()));
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
