//! Where numbers come from besides their configuration: the tool, its commit, the machine.

use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde_json::{Value, json};

use crate::dataset::embedded;
use crate::error::Result;

/// Tool version and commit, date, operating system, processor, cores and memory. What this
/// platform does not tell is null.
pub fn environment() -> Value {
    json!({
        "tool": "lenaware",
        "tool_version": env!("CARGO_PKG_VERSION"),
        "git_commit": git_commit(),
        "date": jiff::Timestamp::now().to_string(),
        "os": operating_system(),
        "architecture": std::env::consts::ARCH,
        "cpu": cpu_model(),
        "cores": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "memory_gib": memory_gib(),
    })
}

/// The time now for a record: UTC, RFC 3339, to the second.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A model by its name and the sha256 of its weights, where there are such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelIdentity {
    /// As datasets record it: `smollm2-135m`, `hub:..`, or the last part of a path.
    pub name: String,
    /// In hexadecimal; none of random weights.
    pub sha256: Option<String>,
}

/// What decides a run's numbers besides its configuration and the machine.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// Of the CPU.
    pub threads: usize,
    /// Where it was computed.
    pub device: String,
    /// As given: `embedded`, a file or a folder.
    pub dataset: &'a Path,
    /// Those that were run or looked into; none in replays without such predictors.
    pub models: Vec<ModelIdentity>,
    /// Everything random follows from them.
    pub seeds: Vec<u64>,
}

impl Inputs<'_> {
    /// [`environment`], and these.
    ///
    /// # Errors
    /// A dataset that cannot be read.
    pub fn environment(&self) -> Result<Value> {
        let mut all = environment();
        all["threads"] = json!(self.threads);
        all["device"] = json!(self.device);
        all["dataset"] = json!({
            "path": self.dataset,
            "sha256": embedded::sha256_of(self.dataset)?,
        });
        // One model as a rule; a second one where a predictor brings its own.
        all["model"] = json!(self.models.first());
        if self.models.len() > 1 {
            all["other_models"] = json!(self.models[1..]);
        }
        all["seeds"] = json!(self.seeds);
        Ok(all)
    }
}

/// The commit the program was built from (`build.rs` asks git).
pub fn git_commit() -> Option<String> {
    option_env!("LENAWARE_GIT_COMMIT").map(str::to_string)
}

fn operating_system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(kernel) => format!("{name}, kernel {}", kernel.trim()),
        Err(_) => name.to_string(),
    }
}

/// The processor's name, or `CPU` where the system does not tell.
pub fn processor() -> String {
    cpu_model().unwrap_or_else(|| "CPU".into())
}

fn cpu_model() -> Option<String> {
    if let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") {
        return field(&text, "model name").or_else(|| field(&text, "Hardware"));
    }
    let output = Command::new("sysctl")
        .args(["-n", "machdep.cpu.brand_string"])
        .output();
    let name = String::from_utf8_lossy(&output.ok()?.stdout)
        .trim()
        .to_string();
    (!name.is_empty()).then_some(name)
}

fn memory_gib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = field(&text, "MemTotal")?;
    let kib: f64 = total.split_whitespace().next()?.parse().ok()?;
    Some((kib / 1024.0 / 1024.0 * 10.0).round() / 10.0)
}

/// The first `name: value` line of a file as Linux writes them.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_named_by_what_they_hold() {
        let model = |name: &str| ModelIdentity {
            name: name.into(),
            sha256: Some("00".into()),
        };
        let mut inputs = Inputs {
            threads: 2,
            device: "cpu".into(),
            dataset: Path::new("embedded"),
            models: Vec::new(),
            seeds: vec![1, 2],
        };
        let of_replay = inputs.environment().unwrap();
        assert_eq!(of_replay["model"], Value::Null);
        assert_eq!(of_replay["seeds"], json!([1, 2]));
        let file = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = file.join("datasets/smollm2-135m/dataset.parquet");
        inputs.dataset = &file;
        inputs.models = vec![model("a"), model("b")];
        let of_file = inputs.environment().unwrap();
        assert_eq!(of_file["dataset"]["sha256"], of_replay["dataset"]["sha256"]);
        assert_eq!(of_file["model"]["name"], "a");
        assert_eq!(of_file["other_models"][0]["name"], "b");
        // The folder of a build stands for the file in it.
        inputs.dataset = file.parent().unwrap();
        assert_eq!(
            inputs.environment().unwrap()["dataset"]["sha256"],
            of_file["dataset"]["sha256"]
        );
        inputs.dataset = Path::new("gone.parquet");
        assert!(inputs.environment().is_err());
    }

    #[test]
    fn names_the_tool_and_the_machine() {
        let environment = environment();
        assert_eq!(environment["tool_version"], env!("CARGO_PKG_VERSION"));
        assert!(environment["cores"].as_u64().unwrap() >= 1);
        assert_eq!(field("a b\t: x y\nc: d\n", "a b").as_deref(), Some("x y"));
    }
}
