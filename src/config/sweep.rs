//! `[[sweep]]`: one arm over lists of values. `arm` names the arm it starts from (without it,
//! `[defaults]` and a `name` of its own); every key that holds a list is varied, all
//! combinations are run, and each is named after the values that it has.

use serde::Deserialize;

use super::file::ArmKeys;
use super::mistakes::Source;
use crate::error::Result;

/// Keys of a sweep; an arm has thirty.
const MOST_KEYS: usize = 100;

/// The arms of the sweep at `place` in the file, in the order of its lists, `room` of
/// them at most.
pub(super) fn expand(
    sweep: &toml::Table,
    arms: &[ArmKeys],
    source: &Source<'_>,
    place: usize,
    room: usize,
) -> Result<Vec<ArmKeys>> {
    let mistake = |key: &str, message: &str| source.at_key("sweep", place, key, message);
    let base = match sweep.get("arm") {
        None => ArmKeys::default(),
        Some(toml::Value::String(name)) => {
            match arms.iter().find(|arm| arm.name.as_ref() == Some(name)) {
                Some(arm) => arm.clone(),
                None => {
                    let known: Vec<&str> = arms.iter().filter_map(|a| a.name.as_deref()).collect();
                    return Err(source.unknown("sweep", place, "arm", ("arm", name), &known));
                }
            }
        }
        Some(_) => return Err(mistake("arm", "must be the name of an [[arm]]")),
    };

    // Each list multiplies them: four of a thousand values are more than any memory holds.
    let lengths = sweep.values().filter_map(|value| value.as_array());
    let count = lengths.fold(1_usize, |count, list| count.saturating_mul(list.len()));
    if count > room || sweep.len() > MOST_KEYS {
        let message = format!("its lists make too many arms: {}", super::TOO_MANY_ARMS);
        return Err(source.in_section("sweep", place, &message));
    }
    let mut combinations: Vec<(ArmKeys, String)> = vec![(base.clone(), String::new())];
    // In the order of the file, which a TOML table does not keep.
    let mut varied: Vec<(&String, &toml::Value)> =
        sweep.iter().filter(|(key, _)| *key != "arm").collect();
    varied.sort_by_key(|(key, _)| source.key_line("sweep", place, key));
    for (key, value) in varied {
        let (values, is_list) = match value {
            toml::Value::Array(values) => (values.as_slice(), true),
            single => (std::slice::from_ref(single), false),
        };
        if values.is_empty() {
            return Err(mistake(key, "an empty list leaves nothing to run"));
        }
        let mut next = Vec::with_capacity(combinations.len() * values.len());
        // Each value is read by itself first, so that a mistake has its key and line.
        let mut read = Vec::with_capacity(values.len());
        for value in values {
            let table = toml::Table::from_iter([(key.clone(), value.clone())]);
            let keys = ArmKeys::deserialize(table)
                .map_err(|error| source.mistake_at_key("sweep", place, key, &error))?;
            read.push((keys, label(key, value)));
        }
        for (keys, suffix) in &combinations {
            for (own, label) in &read {
                let name = own.name.clone().or_else(|| keys.name.clone());
                let mut merged = own.clone().over(keys);
                merged.name = name;
                let suffix = match is_list {
                    true => format!("{suffix} {label}"),
                    false => suffix.clone(),
                };
                next.push((merged, suffix));
            }
        }
        combinations = next;
    }
    Ok(combinations
        .into_iter()
        .map(|(mut keys, suffix)| {
            keys.name = keys.name.map(|name| name + &suffix);
            keys
        })
        .collect())
}

/// `key=value` as it stands in an arm's name.
fn label(key: &str, value: &toml::Value) -> String {
    match value {
        toml::Value::String(word) => format!("{key}={word}"),
        toml::Value::Table(table) => match table.get("kind") {
            Some(toml::Value::String(kind)) if table.len() == 1 => format!("{key}={kind}"),
            _ => format!("{key}={value}"),
        },
        other => format!("{key}={other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Experiment;
    use crate::schedule::{Fcr, Scheduling};

    const BASE: &str = "[experiment]\nname = 'x'\n[[arm]]\nname = 'a'\n[[sweep]]\narm = 'a'\n";

    fn refusal(text: &str) -> String {
        Experiment::parse(text, Path::new("exp.toml"))
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn lists_are_combined_in_the_order_of_the_file() {
        let text = r#"
[experiment]
name = "x"
[defaults]
scheduling = "sorted"
[[arm]]
name = "full"
binning = 50
[[sweep]]
arm = "full"
group_size = [64, 256]
fcr = ["off", "recompute"]
[[sweep]]
name = "slots"
scheduling = "none"
batching = "continuous"
batch_size = [16, 64]
"#;
        let experiment = Experiment::parse(text, Path::new("exp.toml")).expect("reads");
        let names: Vec<&str> = experiment.arms.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "full",
                "full group_size=64 fcr=off",
                "full group_size=64 fcr=recompute",
                "full group_size=256 fcr=off",
                "full group_size=256 fcr=recompute",
                "slots batch_size=16",
                "slots batch_size=64",
            ]
        );
        let first = &experiment.arms[1].schedule;
        assert_eq!((first.group_size, first.fcr), (64, Fcr::Off));
        assert_eq!(first.binning, 50, "taken over from the arm");
        assert_eq!(first.scheduling, Scheduling::Sorted, "from the defaults");
        assert_eq!(experiment.arms[6].schedule.batch_size, 64);
    }

    #[test]
    fn mistakes_in_sweeps_have_lines_too() {
        let unknown = refusal(&format!("{BASE}groupsize = [1, 2]\n"));
        assert_eq!(
            unknown,
            "exp.toml:7: unknown key 'groupsize' in [[sweep]]; did you mean 'group_size'?"
        );
        let value = refusal(&format!("{BASE}fcr = ['off', 'resum']\n"));
        assert!(
            value.starts_with("exp.toml:7: ") && value.contains("did you mean 'resume'"),
            "{value}"
        );
        let missing = refusal(&format!("{BASE}group_size = []\n"));
        assert!(missing.contains("exp.toml:7"), "{missing}");
        let arm = refusal(&BASE.replace("arm = 'a'", "arm = 'b'"));
        assert!(
            arm.contains("exp.toml:6") && arm.contains("did you mean 'a'"),
            "{arm}"
        );
        let contradiction = refusal(&format!("{BASE}binning = [50]\n"));
        assert!(
            contradiction.starts_with("exp.toml:5: arm 'a binning=50'"),
            "{contradiction}"
        );
    }
}
