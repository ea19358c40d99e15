//! What `--predictor` names: one predictor, or several that differ only in their seed.

use std::path::Path;

use crate::error::{Error, Result};
use crate::evaluate::evaluation::TrainedOn;
use crate::predictor::decision;

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Group {
    /// As it was given.
    pub name: String,
    pub members: Vec<String>,
    pub trained_on: Option<TrainedOn>,
}

impl Group {
    /// Reads `./runs/head`, or `./runs/head-1,./runs/head-2` with a comma between the seeds. A
    /// comma in the name of a folder that is there is part of the name.
    ///
    /// # Errors
    /// Predictors that differ in more than the seed, or are named twice.
    pub fn parse(spec: &str) -> Result<Group> {
        let is_there = Path::new(spec.strip_prefix("file:").unwrap_or(spec)).exists();
        let members: Vec<String> = match is_there {
            true => vec![spec.to_string()],
            false => spec.split(',').map(|m| m.trim().to_string()).collect(),
        };
        if members.iter().any(String::is_empty) {
            return Err(Error::Usage(format!(
                "`--predictor {spec}` names an empty predictor: leave the comma out"
            )));
        }
        for (place, member) in members.iter().enumerate() {
            if members[..place].contains(member) {
                return Err(Error::Usage(format!(
                    "`--predictor {spec}` names {member} twice: a group is of different seeds"
                )));
            }
        }
        let described: Vec<Option<TrainedOn>> = members
            .iter()
            .map(|m| trained_on(m))
            .collect::<Result<_>>()?;
        let first = described.first().cloned().flatten();
        for (member, other) in members.iter().zip(&described).skip(1) {
            differs_only_in_seed((&members[0], &first), (member, other))?;
        }
        let times: Option<Vec<f64>> = described
            .iter()
            .map(|d| d.as_ref().and_then(|d| d.training_s))
            .collect();
        Ok(Group {
            name: spec.to_string(),
            trained_on: first.map(|first| TrainedOn {
                training_s: times.map(|t| t.iter().sum::<f64>() / t.len() as f64),
                ..first
            }),
            members,
        })
    }
}

fn differs_only_in_seed(
    (one, first): (&str, &Option<TrainedOn>),
    (two, second): (&str, &Option<TrainedOn>),
) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::Usage(format!(
            "{one} and {two} are given as one predictor under several seeds, but {what}: give \
             each with its own --predictor"
        )))
    };
    if rule(one) != rule(two) {
        return refuse(format!(
            "their rules differ (`{}`, `{}`)",
            rule(one),
            rule(two)
        ));
    }
    match (first, second) {
        (Some(a), Some(b)) => {
            for ((key, a), (_, b)) in a.identity().into_iter().zip(b.identity()) {
                if a != b {
                    return refuse(format!("their {key} differs (`{a}`, `{b}`)"));
                }
            }
            Ok(())
        }
        (None, None) if one.contains(['/', ':']) && two.contains(['/', ':']) => Ok(()),
        (None, None) => refuse("bare words have no seed".into()),
        _ => refuse("only one of them has a predictor.json".into()),
    }
}

/// How a number is read from a distribution, as written after the folder: `@q0.9`, or nothing.
fn rule(member: &str) -> &str {
    match decision::split(member) {
        Ok((dir, Some(_))) => &member[dir.len()..],
        _ => "",
    }
}

/// What the `predictor.json` of a trained predictor's folder says, if there is one. Only what
/// is common to all kinds is read; what is unreadable is told when the predictor is loaded.
fn trained_on(member: &str) -> Result<Option<TrainedOn>> {
    if member.starts_with("file:") || !member.contains('/') {
        return Ok(None);
    }
    let path = Path::new(decision::split(member)?.0).join("predictor.json");
    let text = crate::regular_file::text_up_to(&path, crate::regular_file::LISTS).ok();
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Short names for tables and figures: the last part of a path, `head-{1,2,3}` as `head (3
/// seeds)`; the whole name where two would be the same.
pub fn short_names(groups: &[Group]) -> Vec<String> {
    let short: Vec<String> = groups.iter().map(short_name).collect();
    short
        .iter()
        .zip(groups)
        .map(|(name, group)| {
            let same = short.iter().filter(|other| *other == name).count();
            match same {
                1 => name.clone(),
                _ => group.name.clone(),
            }
        })
        .collect()
}

fn short_name(group: &Group) -> String {
    let rule = group.members.first().map_or("", |member| rule(member));
    let last = |member: &String| {
        let path = member.strip_prefix("file:").unwrap_or(member);
        let path = Path::new(path.strip_suffix(rule).unwrap_or(path));
        let last = path.file_name();
        last.map_or_else(|| member.clone(), |n| n.to_string_lossy().into_owned())
    };
    let names: Vec<String> = group.members.iter().map(last).collect();
    let Some((first, others)) = names.split_first() else {
        return group.name.clone();
    };
    if others.is_empty() {
        return format!("{first}{rule}");
    }
    let common = others.iter().fold(first.as_str(), |common, name| {
        let same = common.char_indices().zip(name.chars());
        let end = same
            .take_while(|((_, a), b)| a == b)
            .last()
            .map_or(0, |((at, a), _)| at + a.len_utf8());
        &common[..end]
    });
    let stem = common
        .trim_end_matches(|c: char| !c.is_alphanumeric())
        .trim_end_matches("seed")
        .trim_end_matches(|c: char| !c.is_alphanumeric());
    let stem = if stem.is_empty() { first } else { stem };
    format!("{stem}{rule} ({} seeds)", names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path, name: &str, described: &str) -> String {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("predictor.json"), described).unwrap();
        dir.display().to_string()
    }

    #[test]
    fn a_group_differs_in_its_seed_alone() {
        let root = tempfile::tempdir().unwrap();
        let head = |n: usize, s: f64| {
            format!(
                "{{\"kind\": \"head\", \"label\": \"max\", \"training_instructions\": {n}, \"training_s\": {s}}}"
            )
        };
        let a = folder(root.path(), "head-seed-1", &head(100, 2.0));
        let b = folder(root.path(), "head-seed-2", &head(100, 4.0));
        let fewer = folder(root.path(), "head-50", &head(50, 1.0));
        let group = Group::parse(&format!("{a},{b}")).unwrap();
        assert_eq!(group.members, [a.clone(), b]);
        assert_eq!(group.trained_on.as_ref().unwrap().training_s, Some(3.0));
        assert_eq!(short_names(&[group]), ["head (2 seeds)"]);
        for (spec, said) in [
            (format!("{a},{fewer}"), "training_instructions differs"),
            (format!("{a},{a}"), "twice"),
            (format!("{a},"), "empty"),
            ("constant,input-length".into(), "no seed"),
            (format!("{a},constant"), "only one"),
        ] {
            let refused = Group::parse(&spec).unwrap_err();
            assert!(refused.to_string().contains(said), "{refused}");
            assert_eq!(refused.exit_code(), 2);
        }
        // A rule is part of what must be the same, and of the name.
        let b = root.path().join("head-seed-2").display().to_string();
        let mixed = Group::parse(&format!("{a}@q0.9,{b}@median")).unwrap_err();
        assert!(mixed.to_string().contains("rules differ"), "{mixed}");
        let ruled = Group::parse(&format!("{a}@q0.9,{b}@q0.9")).unwrap();
        assert_eq!(ruled.trained_on.as_ref().unwrap().training_s, Some(3.0));
        let alone = Group::parse(&format!("{a}@within-50")).unwrap();
        let names = short_names(&[ruled, alone]);
        assert_eq!(names, ["head@q0.9 (2 seeds)", "head-seed-1@within-50"]);
        // A folder with a comma in its name is one predictor.
        let odd = folder(root.path(), "a,b", &head(1, 1.0));
        assert_eq!(Group::parse(&odd).unwrap().members, [odd]);
    }

    #[test]
    fn short_names_stay_apart() {
        let groups: Vec<Group> = ["./x/head", "./y/head", "constant", "file:p/é.jsonl"]
            .iter()
            .map(|spec| Group::parse(spec).unwrap())
            .collect();
        let names = short_names(&groups);
        assert_eq!(names, ["./x/head", "./y/head", "constant", "é.jsonl"]);
        let odd = Group::parse("./1/é1,./2/è1").unwrap();
        assert_eq!(short_names(&[odd]), ["é1 (2 seeds)"]);
    }
}
