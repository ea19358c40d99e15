//! Records the git commit the tool was built from, for the provenance of what it writes;
//! `-modified` where the sources are not that commit's.

use std::process::Command;

const SOURCES: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    for path in [".git/HEAD", ".git/refs/heads"].iter().chain(&SOURCES) {
        println!("cargo:rerun-if-changed={path}");
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        output.status.success().then_some(text)
    };
    if let Some(mut commit) = git(&["rev-parse", "HEAD"]) {
        let changes = git(&[&["status", "--porcelain", "--"][..], &SOURCES].concat());
        if changes.is_none_or(|changes| !changes.is_empty()) {
            commit.push_str("-modified");
        }
        println!("cargo:rustc-env=LENAWARE_GIT_COMMIT={commit}");
    }
}
