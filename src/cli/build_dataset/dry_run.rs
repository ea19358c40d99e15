//! `build-dataset --dry-run`: what would be sampled, and about how long that takes.

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use crate::dataset::LengthDataset;
use crate::dataset::appended::each_appended;
use crate::dataset::build::BuildOptions;
use crate::dataset::embedded::embedded;
use crate::dataset::plan::{Plan, Sampler};
use crate::dataset::store::{self, DATASET};
use crate::engine::Place;
use crate::error::{Error, Result};
use crate::execute::StepTimeModel;
use crate::instruction::Instruction;
use crate::memory;
use crate::model::{ChatTemplate, Checkpoint, ModelFiles, TextTokenizer, resolve};
use crate::report::wording::grouped;

use super::super::{Global, ablate::about};
use super::{Arguments, MODEL};

/// Step times that are known of the default model.
const STEP_TIME: &str = "smollm2-135m-2-cores";

/// What a build comes to.
struct Outlook {
    plan: Plan,
    planned: usize,
    /// Samples that are there already.
    kept: usize,
    /// Shortest, mean and longest prompt, tokens; none where the model is not here yet.
    prompts: Option<(usize, f64, usize)>,
    /// New tokens if all answers are as long as the recorded ones on average.
    expected_tokens: Option<f64>,
    estimated_s: Option<f64>,
    /// Bytes of weights, and of the most keys and values; none where they are not this machine's.
    memory: Option<(usize, usize)>,
    /// Why the model's files are not there; they would be fetched.
    model_missing: Option<String>,
}

pub(super) fn dry_run(
    global: &Global,
    arguments: &Arguments,
    instructions: &[Instruction],
    options: &BuildOptions,
) -> Result<()> {
    let outlook = outlook(global.place()?, arguments, instructions, options)?;
    let (plan, missing) = (&outlook.plan, outlook.planned - outlook.kept);
    let most = missing * options.max_new_tokens as usize;
    if global.json {
        println!(
            "{}",
            json!({
                "dry_run": true,
                "dataset": arguments.out.join(DATASET),
                "sampler": plan.sampler.name(),
                "model": plan.model,
                "model_missing": outlook.model_missing,
                "instructions": instructions.len(),
                "temperatures": plan.temperatures,
                "samples": outlook.planned,
                "resumed": outlook.kept,
                "missing": missing,
                "prompt_tokens": outlook.prompts.map(|(min, mean, max)| {
                    json!({"min": min, "mean": mean, "max": max})
                }),
                "most_tokens": most,
                "expected_tokens": outlook.expected_tokens,
                "estimated_s": outlook.estimated_s,
                "memory": outlook.memory.map(|(weights, cache)| {
                    json!({"weights_bytes": weights, "kv_cache_bytes": cache,
                        "free_bytes": memory::available()})
                }),
            })
        );
        return Ok(());
    }
    let count = |n: usize| grouped(n as f64, 0);
    println!(
        "would sample {} responses of {} to {} instructions, at temperatures {:?}, into {}",
        count(outlook.planned),
        plan.model,
        count(instructions.len()),
        plan.temperatures,
        arguments.out.display()
    );
    if outlook.kept > 0 {
        println!(
            "{} of them are there already, {} are missing",
            count(outlook.kept),
            count(missing)
        );
    }
    if let Some(why) = &outlook.model_missing {
        println!("the model is not here yet and would be fetched first: {why}");
    }
    if let Some((min, mean, max)) = outlook.prompts {
        println!("prompts have {min} to {max} tokens, {mean:.0} on average");
    }
    println!("at most {} new tokens", count(most));
    if let Some((weights, cache)) = outlook.memory {
        let gb = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
        let free = memory::available().map_or(String::new(), |b| format!("; {} are free", gb(b)));
        println!(
            "memory: weights {}, keys and values of {} sequences up to {}{free}",
            gb(weights),
            options.slots,
            gb(cache)
        );
    }
    if let (Some(tokens), Some(seconds)) = (outlook.expected_tokens, outlook.estimated_s) {
        println!(
            "with answers as long as the recorded ones: {} tokens, about {} by the step times of \
             {STEP_TIME}",
            grouped(tokens, 0),
            about(seconds)
        );
    }
    println!("nothing was written");
    Ok(())
}

fn outlook(
    place: Place,
    arguments: &Arguments,
    instructions: &[Instruction],
    options: &BuildOptions,
) -> Result<Outlook> {
    let name = arguments.model.as_deref();
    let (sampler, model, files, model_missing) = match arguments.endpoint {
        Some(_) => {
            let model = name.unwrap_or("the server's only model").to_string();
            (Sampler::Endpoint, model, None, None)
        }
        None => {
            let name = name.unwrap_or(MODEL);
            // Offline: a look, not a download.
            match resolve(name, false, true) {
                Ok(files) => {
                    let files = files.with_chat_template(arguments.chat_template.clone());
                    (Sampler::Engine, files.name.clone(), Some(files), None)
                }
                Err(Error::ModelUnavailable(why)) => {
                    (Sampler::Engine, name.to_string(), None, Some(why))
                }
                Err(error) => return Err(error),
            }
        }
    };
    let mut plan = options.plan(sampler, &model, instructions);
    plan.validate()?;
    let planned = plan.samples(instructions.len()).len();
    let kept = match store::begun(&arguments.out)? {
        Some(begun) => {
            // What only the loaded model tells is taken to be the same.
            plan.model_sha256.clone_from(&begun.model_sha256);
            plan.template_sha256.clone_from(&begun.template_sha256);
            plan.dtype = match arguments.endpoint {
                Some(_) => None,
                None => Some(place.dtype(arguments.dtype.precision())),
            };
            if arguments.endpoint.is_some() && name.is_none() {
                plan.model.clone_from(&begun.model);
            }
            store::refuse_differences(&arguments.out, &begun, &plan, instructions)?;
            kept(&arguments.out)?.min(planned)
        }
        None => 0,
    };
    let prompts = files
        .as_ref()
        .map(|files| prompts(files, instructions))
        .transpose()?;
    let expected = expected(&plan, options, planned - kept, prompts)?;
    let memory = match (place, &files, prompts) {
        (Place::Cpu, Some(files), Some((.., longest))) => {
            let precision = arguments.dtype.precision();
            let config = Checkpoint::load(files)?.config;
            let capacity = longest + options.max_new_tokens as usize;
            let cache = options.slots * capacity * config.kv_bytes_per_token(precision.cache);
            Some((config.packed_bytes(precision.products, 1.0), cache))
        }
        _ => None,
    };
    Ok(Outlook {
        plan,
        planned,
        kept,
        prompts,
        expected_tokens: expected.map(|(tokens, _)| tokens),
        estimated_s: expected.map(|(_, seconds)| seconds),
        memory,
        model_missing,
    })
}

/// Samples in a build's folder, finished or appended since.
fn kept(dir: &Path) -> Result<usize> {
    let finished = match dir.join(DATASET) {
        path if path.exists() => LengthDataset::read_parquet(&path)?.samples.len(),
        _ => 0,
    };
    let mut appended = HashSet::new();
    each_appended(&dir.join(store::SAMPLES), |_, stored| {
        let sample = stored.planned();
        appended.insert((
            sample.instruction,
            sample.temperature.to_bits(),
            sample.sample,
        ));
        Ok(())
    })?;
    Ok(finished + appended.len())
}

/// Shortest, mean and longest prompt in tokens.
fn prompts(files: &ModelFiles, instructions: &[Instruction]) -> Result<(usize, f64, usize)> {
    let tokenizer = TextTokenizer::from_files(files)?;
    let template = ChatTemplate::from_files(files)?;
    let lengths: Vec<usize> = instructions
        .iter()
        .map(|i| Ok(tokenizer.encode(&template.render(&i.text)?)?.len()))
        .collect::<Result<_>>()?;
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
    let (min, max) = (lengths.iter().min(), lengths.iter().max());
    Ok((min.copied().unwrap_or(0), mean, max.copied().unwrap_or(0)))
}

/// New tokens and seconds of so many samples of the default model, whose answers and step times
/// are known; nothing is foretold of others.
fn expected(
    plan: &Plan,
    options: &BuildOptions,
    missing: usize,
    prompts: Option<(usize, f64, usize)>,
) -> Result<Option<(f64, f64)>> {
    if plan.sampler != Sampler::Engine || plan.model != MODEL {
        return Ok(None);
    }
    let recorded = embedded()?.samples;
    let cut = recorded
        .iter()
        .map(|s| f64::from(s.response_tokens.min(options.max_new_tokens)));
    let mean = cut.sum::<f64>() / recorded.len().max(1) as f64;
    let tokens = mean * missing as f64;
    let prompt = prompts.map_or(0.0, |(_, mean, _)| mean);
    let step_time = StepTimeModel::load(STEP_TIME)?;
    let rows = options.slots.clamp(1, missing.max(1));
    // Freed slots are refilled: on average a row is in the middle of its answer.
    let steps = (tokens / rows as f64).ceil();
    let context = rows as f64 * (prompt + mean / 2.0);
    let step = step_time.steps(rows, context as usize, 1);
    let prefill = step_time.p0 + step_time.p1 * prompt;
    Ok(Some((tokens, steps * step + prefill * missing as f64)))
}
