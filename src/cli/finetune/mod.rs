//! `lenaware finetune`: trains a predictor into a folder.

mod dry_run;
mod lora;
mod settings;
mod states;
mod words;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::dataset::embedded;
use crate::dataset::{Label, LengthDataset};
use crate::error::{Error, Result};
use crate::model::resolve;
use crate::persist::{self, Lock};
use crate::predictor::head::Objective;
use crate::predictor::seen::Seen;
use crate::predictor::stored::{self, Description, Kind};
use crate::predictor::training::TrainingData;
use crate::predictor::tuning;
use crate::tensor::Storage;
use crate::train::Dtype;
use crate::train::length_head::Target;

pub use lora::tune;
use settings::{Settings, Trainable};

use super::{Global, interrupt, progress};

/// Train a predictor of response lengths
///
/// `lora` tunes an adapter for the perception-only prompt (a PEFT folder any engine serves);
/// `lora-head` puts a head on the prompt's last state and tunes an adapter under it, `len-token`
/// one on a learned token after the prompt (--lora-r 0: nothing else is tuned);
/// `ridge` fits a line on a hidden state of the untuned model in seconds. Without the model:
/// `lexical` fits a line on the instruction's words, `neighbour` keeps the lengths of the
/// instructions it is trained on and looks for the most alike, `encoder` fits a sentence
/// encoder's embedding. `head` trains small networks on hidden states of the untuned model
/// (`pooling-mlp` is the paper's), `stack` mixes trained predictors.
///
/// Flags override the file of --config. Curves go into the folder's loss.csv and, for TensorBoard,
/// its events.out.tfevents.* (of tuned adapters; heads have the latter).
///
/// Examples:
///   lenaware finetune --predictor lexical --out ./runs/lexical        # a second, without a model
///   lenaware finetune --predictor head --out ./runs/head
///   lenaware finetune --predictor stack --members ./runs/head,./runs/lexical --out ./runs/stack
///   lenaware finetune --predictor ridge --dataset train.parquet --label mean --out ./runs/ridge
///   lenaware finetune --predictor lora --dataset data/run1 --epochs 3 --out ./runs/lora --dry-run
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A TOML file with these settings and [terms], [head], [lora], [tuned_head] and [train] sections
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to train
    #[arg(long, value_name = "KIND")]
    predictor: Option<Trainable>,
    /// The model to look into or to tune: smollm2-135m, hub:org/name[@revision], a model's
    /// directory or a .gguf file [default: smollm2-135m]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Instead of the model's own chat template: chatml, llama-2, llama-3, vicuna_v1.1 or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// A length dataset: a Parquet file, a folder of build-dataset, or `embedded` [default]
    #[arg(long, value_name = "PATH")]
    dataset: Option<PathBuf>,
    /// What to foresee of an instruction's samples: max, mean or a quantile [default: max]
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the first N training instructions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keep this share of the instructions (0.2: a fifth) out of the training, for `evaluate`;
    /// only of datasets that have no split of their own
    #[arg(long, value_name = "SHARE")]
    hold_out: Option<f64>,
    /// Go on from the checkpoint in --out (lora, lora-head, len-token)
    #[arg(long)]
    resume: bool,
    /// Print the resolved settings and what they come to, and stop; nothing is written and no
    /// weights are read
    #[arg(long)]
    dry_run: bool,
    /// Keep to the training instructions once all is chosen; else those of validation are used
    /// too (all but lora and stack)
    #[arg(long)]
    no_refit: bool,
    /// Longest run of words that counts (lexical, neighbour) [default: 2]
    #[arg(long, value_name = "N")]
    ngrams: Option<usize>,
    /// Leave out words of fewer training instructions (lexical, neighbour) [default: 2]
    #[arg(long, value_name = "N")]
    min_documents: Option<usize>,
    /// The sentence encoder: minilm, hub:org/name or a directory (encoder) [default: minilm]
    #[arg(long, value_name = "NAME|DIR")]
    encoder: Option<String>,
    /// Keep hidden states in this folder between runs (head, pooling-mlp)
    #[arg(long, value_name = "DIR")]
    states_cache: Option<PathBuf>,
    /// What a head learns to say [default: bins; regression for pooling-mlp]
    #[arg(long, value_name = "OBJECTIVE")]
    objective: Option<Objective>,
    /// The lengths a head learns (lora-head's too): the label, or every sample [default: label]
    #[arg(long, value_name = "TARGET")]
    target: Option<Target>,
    /// Networks that a head averages [default: 4; 1 for pooling-mlp]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Width of a head's hidden layer; 0 for none [default: 256]
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,
    /// Layers whose last-token state a head sees [default: about 0.53, 0.67, 0.83 of the depth]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    layers: Option<Vec<usize>>,
    /// Layers whose averaged states a head sees [default: a third and two thirds of the depth]
    #[arg(long, value_delimiter = ',', value_name = "LAYERS")]
    mean_layers: Option<Vec<usize>>,
    /// Folders of the trained predictors that a stack mixes
    #[arg(long, value_delimiter = ',', value_name = "DIRS")]
    members: Option<Vec<PathBuf>>,
    /// Rank of the adapter [default: 8]
    #[arg(long, value_name = "R")]
    lora_r: Option<usize>,
    /// Scale of the adapter: what it adds is multiplied by ALPHA / R [default: 16]
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<f64>,
    /// Share of what the adapter reads that is dropped while tuning [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    lora_dropout: Option<f64>,
    /// Layers to adapt [default: q_proj,v_proj]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    target_modules: Option<Vec<String>>,
    /// Adapt the top N blocks only [default: all]
    #[arg(long, value_name = "N")]
    lora_layers: Option<usize>,
    /// Units between state and output, 0 for none (lora-head, len-token) [default: 0]
    #[arg(long, value_name = "N")]
    tuned_head_hidden: Option<usize>,
    /// Share of what each layer of the head reads that is dropped (lora-head, len-token)
    /// [default: 0]
    #[arg(long, value_name = "SHARE")]
    tuned_head_dropout: Option<f64>,
    /// Run only the first N blocks of the model (lora-head, len-token) [default: all]
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Learning rate of the head (lora-head, len-token) [default: 0.001]
    #[arg(long, value_name = "RATE")]
    head_learning_rate: Option<f64>,
    /// In what products with the model's weights are computed while tuning [default: f32]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<Dtype>,
    /// Keep the model's weights in blocks of 8.5 or 4.5 bits a weight while tuning: 7 or 4 GB of
    /// memory for 7B [default: dense]
    #[arg(long, value_name = "STORAGE")]
    frozen_weights: Option<Storage>,
    /// Stop tuning after N validation losses without a new best [default: never]
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Passes over the training instructions while tuning [default: 3]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Stop tuning after so many optimizer steps, whatever the epochs say
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<usize>,
    /// Highest learning rate of the adapter [default: 0.001]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Examples that go through the model together while tuning [default: 16]
    #[arg(long, value_name = "EXAMPLES")]
    micro_batch_size: Option<usize>,
    /// Micro-batches of an optimizer step [default: 2]
    #[arg(long, value_name = "N")]
    gradient_accumulation: Option<usize>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<()> {
    let settings = Settings::resolve(global, arguments)?;
    let missing = |flag: &str| Error::Usage(format!("--{flag} is missing (or set it in --config)"));
    let kind = settings.predictor.ok_or_else(|| missing("predictor"))?;
    let out = settings.out.clone().ok_or_else(|| missing("out"))?;
    let label: Label = settings.label.parse()?;
    if out.join(stored::FILE).exists() {
        return Err(Error::Usage(format!(
            "{} holds a trained predictor already: give another --out",
            out.display()
        )));
    }
    let begun = || tuning::CHECKPOINTS.iter().any(|of| out.join(of).exists());
    if begun() && !arguments.resume {
        return Err(Error::Usage(format!(
            "{} holds an unfinished run: add --resume to go on with it, or give another --out",
            out.display()
        )));
    }
    let started = Instant::now();
    // Those that keep checkpoints say so themselves once they have begun.
    interrupt::ends(format!(
        "stopped: {} is no predictor yet, the same command starts anew",
        out.display()
    ));
    progress::say(global, &format!("reading {}", settings.dataset.display()));
    let dataset = embedded::open(&settings.dataset)?;
    let name = settings.dataset.display().to_string();
    let mut data = TrainingData::but_for(&name, &dataset, label, settings.hold_out)?;
    data.truncate(settings.limit.unwrap_or(usize::MAX));
    if arguments.dry_run {
        return dry_run::dry_run(global, kind, &data, &settings, arguments.resume, &out);
    }
    let text = toml::to_string(&settings).map_err(|e| Error::Numeric(e.to_string()))?;
    let model = || {
        let files = resolve(&settings.model, global.shows_progress(), global.offline)?
            .with_chat_template(settings.chat_template.clone());
        progress::loading(global, &files);
        Ok::<_, Error>(files)
    };
    progress::say(
        global,
        &format!(
            "{} instructions to train on, {} to choose on",
            data.train.len(),
            data.validation.len()
        ),
    );
    let seen = settings
        .members
        .iter()
        .try_fold(Seen::in_training(&data), |seen, member| {
            Ok::<_, Error>(seen.and(Seen::read(member)?))
        })?;
    let before = Seen::read(&out)?;
    if begun() && !before.is_empty() && before != seen {
        return Err(Error::Usage(format!(
            "{} was begun on other instructions: resume with the --dataset, --limit and --hold-out \
             of then, or give another --out",
            out.display()
        )));
    }
    let lock = Lock::take(&out)?;
    // First of all, so that no predictor is there that does not say what it was trained on and
    // how.
    seen.write(&out)?;
    let config = out.join("config.toml");
    persist::write(&config, text.as_bytes())?;
    let train = || -> Result<()> {
        match kind {
            Trainable::Lora | Trainable::LoraHead | Trainable::LenToken => lora::lora(
                global,
                kind,
                &model()?,
                &data,
                &settings,
                arguments.resume,
                &out,
            ),
            Trainable::Lexical | Trainable::Neighbour | Trainable::Encoder | Trainable::Stack => {
                words::train(global, kind, &data, &settings, &out)
            }
            Trainable::Ridge | Trainable::Head | Trainable::PoolingMlp => {
                let (files, begun) = (model()?, Instant::now());
                let chosen = match kind {
                    Trainable::Ridge => states::ridge(global, &files, &data, &settings, &out),
                    Trainable::PoolingMlp => {
                        states::head(global, Kind::PoolingMlp, &files, &data, &settings, &out)
                    }
                    _ => states::head(global, Kind::Head, &files, &data, &settings, &out),
                };
                chosen.map(|chosen| words::say(global, &out, &chosen, begun))
            }
        }
    };
    let outcome = train();
    // Neither trained nor to be continued.
    if outcome.is_err() && !begun() && !out.join(stored::FILE).exists() {
        drop(lock);
        let _ = std::fs::remove_file(&config);
        Seen::forget(&out);
    }
    if outcome.is_ok() {
        let took = started.elapsed().as_secs_f64();
        // The predictor is whole without.
        if let Err(error) = Description::complete(&out, &dataset.provenance.model, took) {
            progress::warn(&format!(
                "note: what the training took is not kept: {error}"
            ));
        }
        if let Some(note) = what_is_left_to_evaluate(&dataset, &data) {
            progress::warn(&format!("note: {note}"));
        }
    }
    outcome
}

/// What must be known of a dataset without splits: whether anything of it is left that the
/// predictor does not know.
fn what_is_left_to_evaluate(dataset: &LengthDataset, data: &TrainingData<'_>) -> Option<String> {
    let trained = data.train.len() + data.validation.len();
    if data.held_out > 0 {
        return Some(format!(
            "{} of {} instructions are held out: `evaluate` asks about these",
            data.held_out,
            dataset.instances().len()
        ));
    }
    let has_splits = dataset.samples.iter().any(|sample| sample.split.is_some());
    (!has_splits).then(|| {
        format!(
            "{} has no split, so all {trained} instructions are trained on: evaluate on another \
             dataset, or train with --hold-out 0.2",
            data.name
        )
    })
}
