use super::*;
use crate::schedule::VbsTable;

const TABLE_5: &str = r#"
[experiment]
name = "table5"
seeds = [1, 2, 3]

[workload]
dataset = "val.parquet"
split = "test"
limit = 1024
served = 0.0

[executor]
kind = "replay"
step_time = "paper"

[defaults]
scheduling = "sorted"
predictor = "./runs/lexical"

[[arm]]
name = "vanilla"
scheduling = "none"
predictor = "constant"

[[arm]]
name = "full"
binning = 50
vbs = true
fcr = "recompute"
label = 0.9

[[arm]]
name = "custom"
vbs = { 50 = 64, 100 = 32 }

[[sweep]]
arm = "full"
group_size = [64, 256]
"#;

fn parse(text: &str) -> Result<Experiment> {
    Experiment::parse(text, Path::new("exp.toml"))
}

fn refusal(text: &str) -> String {
    let error = parse(text).expect_err("must be refused");
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn arms_override_defaults_and_defaults_the_built_in() {
    let experiment = parse(TABLE_5).expect("reads");
    assert_eq!(experiment.seeds, [1, 2, 3]);
    assert_eq!(experiment.workload.split, Some(Split::Test));
    assert_eq!(experiment.vanilla(), 0);
    let [vanilla, full, custom] = &experiment.arms[..3] else {
        panic!("three arms");
    };
    assert_eq!(vanilla.schedule, ScheduleOptions::default());
    assert_eq!(vanilla.predictor, "constant");
    assert_eq!(full.schedule, ScheduleOptions::paper());
    assert_eq!(full.predictor, "./runs/lexical");
    assert_eq!(full.label, Label::Quantile(0.9));
    let table = VbsTable::new(vec![(50, 64), (100, 32)]).expect("a table");
    assert_eq!(custom.schedule.vbs, Some(table));
}

#[test]
fn a_short_file_takes_every_default() {
    let experiment = parse("[experiment]\nname = 'x'\n[[arm]]\nname = 'vanilla'\n").expect("reads");
    assert_eq!(experiment.seeds, [42]);
    assert_eq!(experiment.workload.dataset, "embedded");
    assert_eq!(experiment.workload.served, Served::Temperature(0.0));
    assert_eq!(experiment.executor.kind, ExecutorKind::Replay);
    assert_eq!(experiment.executor.step_time, "paper");
    assert_eq!(experiment.arms[0].schedule.batching, Batching::Static);
    assert_eq!(experiment.arms[0].label, Label::Max);
}

#[test]
fn the_resolved_file_reads_as_the_same_experiment() {
    let short = "[experiment]\nname = 'x'\n[workload]\nserved = 'random'\n\
                     [[arm]]\nname = 'a'\nlabel = 'mean'\nbatching = 'continuous'\n";
    for text in [TABLE_5, short] {
        let experiment = parse(text).expect("reads");
        let written = experiment.to_toml().expect("writes");
        assert_eq!(
            parse(&written).expect("reads back"),
            experiment,
            "{written}"
        );
        assert!(written.contains("group_size") && !written.contains("[[sweep]]"));
    }
}

#[test]
fn mistakes_name_line_and_nearest_key() {
    assert_eq!(
        refusal("[experiment]\nname = 'x'\n[[arm]]\nname = 'a'\ngroupsize = 4\n"),
        "exp.toml:5: unknown key 'groupsize' in [[arm]]; did you mean 'group_size'?"
    );
    let far = refusal("[experiment]\nname = 'x'\nzzzzzzzz = 1\n");
    assert_eq!(
        far,
        "exp.toml:3: unknown key 'zzzzzzzz' in [experiment]; known: name, seeds, published"
    );
    let section = refusal("[experiment]\nname = 'x'\n[workloads]\n");
    assert!(
        section.contains("exp.toml:3") && section.contains("'workload'"),
        "{section}"
    );
    let kind = refusal("[experiment]\nname = 'x'\n[defaults]\nbatch_size = 'many'\n");
    assert!(kind.starts_with("exp.toml:4: `batch_size`: "), "{kind}");
    let value = refusal("[experiment]\nname = 'x'\n[defaults]\nscheduling = 'sortd'\n");
    assert!(
        value.contains("exp.toml:4") && value.contains("did you mean 'sorted'"),
        "{value}"
    );
    let syntax = refusal("[experiment\n");
    assert!(syntax.starts_with("exp.toml:1: "), "{syntax}");
}

#[test]
fn serving_over_time_is_read_and_written() {
    let base = "[experiment]\nname = 'x'\n[workload]\n\
                    arrivals = { kind = 'poisson', rate = 2.0 }\nslo = { ttft_s = 1.0 }\n";
    let text = format!(
        "{base}[defaults]\nkv_tokens = 9000\n[[arm]]\nname = 'fcfs'\n[[arm]]\nname = 'sjf'\n\
             policy = {{ kind = 'sjf', guard_s = 60.0 }}\nrate = 3.0\nbatch_size = 64\n\
             noise = 0.5\noverflow = {{ kind = 'swap', s_per_token = 1e-5 }}\n\
             [[arm]]\nname = 'lpt'\npolicy = 'lpt'\n"
    );
    let experiment = parse(&text).expect("reads");
    let online = experiment.arms[1].online.expect("arrives");
    assert_eq!(online.arrivals, Arrivals::Poisson { rate: 3.0 });
    assert_eq!((online.limits.slots, online.limits.kv_tokens), (64, 9000));
    assert_eq!(online.policy.name(), "sjf, guard 60 s");
    let written = experiment.to_toml().expect("writes");
    assert_eq!(parse(&written).expect("reads"), experiment, "{written}");

    let bare = "[experiment]\nname = 'x'\n";
    let word = refusal(&format!("{bare}[workload]\narrivals = 'poisson'\n"));
    assert!(
        word.contains("exp.toml:4") && word.contains("rate = 2.0"),
        "{word}"
    );
    let alone = refusal(&format!("{bare}[[arm]]\nname = 'a'\npolicy = 'sjf'\n"));
    assert!(alone.contains("`arrivals`"), "{alone}");
    let sorted = refusal(&format!(
        "{base}[[arm]]\nname = 'a'\nscheduling = 'sorted'\n"
    ));
    assert!(sorted.contains("`scheduling`"), "{sorted}");
    let unknown = refusal(&format!("{base}[[arm]]\nname = 'a'\npolicy = 'sjff'\n"));
    assert!(unknown.contains("sjf"), "{unknown}");
}

#[test]
fn live_arms_refuse_what_the_engine_cannot_do() {
    let base = "[experiment]\nname = 'x'\n[workload]\narrivals = 'at-once'\n\
                    [executor]\nkind = 'live'\n[[arm]]\nname = 'a'\n";
    let experiment = parse(&format!(
        "{base}policy = {{ kind = 'sjf', guard_s = 9.0 }}\nnoise = 0.5\nbatch_size = 4\n\
             kv_tokens = 0\n"
    ))
    .expect("reads");
    let online = experiment.arms[0].online.expect("arrives");
    assert_eq!((online.limits.slots, online.limits.kv_tokens), (4, 0));
    let written = experiment.to_toml().expect("writes");
    assert_eq!(parse(&written).expect("reads"), experiment, "{written}");
    assert!(!written.contains("token_budget"), "{written}");
    for key in [
        "policy = 'srpt'",
        "policy = { kind = 'las', quantum = 32 }",
        "policy = { kind = 'multi-bin', bins = 4 }",
        "memory = { kind = 'set-aside', at = 0.9 }",
        "repredict = { every = 64 }",
        "kv_tokens = 4096",
        "token_budget = 512",
        "block = 16",
        "watermark = 0.0",
        "overflow = 'recompute'",
    ] {
        let message = refusal(&format!("{base}{key}\n"));
        let name = key.split(' ').next().expect("a key");
        assert!(
            message.contains(&format!("`{name}` is beyond")) && message.contains("replay"),
            "{message}"
        );
    }
}

#[test]
fn contradictions_name_the_arm_and_its_line() {
    let base = "[experiment]\nname = 'x'\n[[arm]]\nname = 'ok'\n";
    let message = refusal(&format!("{base}[[arm]]\nname = 'bad'\nvbs = true\n"));
    assert!(
        message.starts_with("exp.toml:5: arm 'bad': `vbs = true`"),
        "{message}"
    );
    let twice = refusal(&format!("{base}[[arm]]\nname = 'ok'\n"));
    assert!(twice.contains("'ok'"), "{twice}");
    assert!(refusal("[experiment]\nname = 'x'\n").contains("nothing to run"));
    let nameless = refusal("[experiment]\nname = 'x'\n[[arm]]\nbinning = 0\n");
    assert!(nameless.contains("exp.toml:3"), "{nameless}");
    let seeds = refusal("[experiment]\nname = 'x'\nseeds = []\n[[arm]]\nname = 'a'\n");
    assert!(
        seeds.contains("exp.toml:1") && seeds.contains("seeds"),
        "{seeds}"
    );
}

#[test]
fn names_are_short_and_hide_nothing() {
    let named = |experiment: &str, arm: &str| {
        format!("[experiment]\nname = \"{experiment}\"\n[[arm]]\nname = \"{arm}\"\n")
    };
    parse(&named(&"\u{e9}".repeat(200), "a b")).unwrap();
    let long = "a".repeat(201);
    for (text, begin, part) in [
        (named(&long, "a"), "exp.toml:2: `name`: ", "201 letters"),
        (named("x", &long), "exp.toml:4: `name`: ", "201 letters"),
        (named("x", "\\u001b[2J"), "exp.toml:4: `name`: ", "\\u{1b}"),
        (named("\u{202e}x", "a"), "exp.toml:2: `name`: ", "\\u{202e}"),
        (named("x", "a\u{200b}"), "exp.toml:4: `name`: ", "\\u{200b}"),
    ] {
        let message = refusal(&text);
        assert!(
            message.starts_with(begin) && message.contains(part),
            "{message}"
        );
    }
    let swept = format!(
        "{}[[sweep]]\narm = 'a'\npredictor = ['b', 'file:{}']\n",
        named("x", "a"),
        "c".repeat(1000)
    );
    let message = refusal(&swept);
    assert!(
        message.starts_with("exp.toml:5: the name of an arm"),
        "{message}"
    );
}

#[test]
fn more_runs_than_anyone_waits_for_are_refused() {
    let base = "[experiment]\nname = 'x'\nseeds = [SEEDS]\n[[arm]]\nname = 'a'\n";
    let list = |count: usize| {
        let numbers: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
        numbers.join(", ")
    };
    let one = base.replace("SEEDS", "1");
    let sweep = |count: usize| {
        let keys = ["group_size", "batch_size", "max_new_tokens", "binning"].map(|key| {
            let values = list(count);
            format!("{key} = [{values}]\n")
        });
        format!("{one}[[sweep]]\narm = 'a'\n{}", keys.concat())
    };
    let message = refusal(&sweep(1000));
    assert!(
        message.starts_with("exp.toml:6: its lists make too many arms"),
        "{message}"
    );
    let few = sweep(4)
        .replace("group_size", "# ")
        .replace("binning", "# ");
    assert_eq!(parse(&few).unwrap().arms.len(), 17);
    let message = refusal(&base.replace("SEEDS", &list(100_001)));
    assert!(
        message.starts_with("exp.toml:3: `seeds`: 100001 seeds"),
        "{message}"
    );
    let arms: String = (0..1001)
        .map(|n| format!("[[arm]]\nname = '{n}'\n"))
        .collect();
    let message = refusal(&format!("[experiment]\nname = 'x'\n{arms}"));
    assert!(message.contains("1001 arms"), "{message}");
}
