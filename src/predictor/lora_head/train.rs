//! Training a head with the adapter under it: first on the training instructions, the best on
//! validation kept and calibrated there; then (`refit`) once more from the start on both, for as
//! large a part of the schedule as did best the first time.

use std::ops::Range;

use crate::chat::fits;
use crate::dataset::Instance;
use crate::engine::Place;
use crate::error::Result;
use crate::lora::{Adapter, peft};
use crate::memory;
use crate::model::Checkpoint;
use crate::predictor::calibration::Calibration;
use crate::predictor::fitted_file::{self, FittedFile};
use crate::predictor::held_out::HeldOut;
use crate::predictor::stored::Kind;
use crate::predictor::training::TrainingData;
use crate::predictor::tuning::{OnProgress, Part, Tune, TuneOutcome, WATCHED, finish, run};
use crate::predictor::{Quantiles, len_token};
use crate::tensor::Storage;
use crate::train::Training;
use crate::train::length_head::{
    HeadLoss, HeadShape, LengthExamples, LengthHeadConfig, Target, add_head,
};
use crate::train::llama::{LEARNED_TOKENS, Options, TrainableLlama};

use super::{FILE, LoraHead, Stored};

/// Trains a head of `kind` ([`Kind::LoraHead`] or [`Kind::LenToken`]).
///
/// # Errors
/// As for a LoRA adapter: a prompt that does not fit, a loss that is not a number, a folder
/// that cannot be written, an interruption.
pub fn train_lora_head(
    tune: &Tune<'_>,
    kind: Kind,
    head: &LengthHeadConfig,
    refit: bool,
    data: &TrainingData<'_>,
    on_progress: OnProgress<'_>,
) -> Result<TuneOutcome> {
    let recipe = Recipe::new(tune, kind, head, data)?;
    let (outcome, stored) = match recipe.first_part_done()? {
        Some(done) => done,
        None => recipe.first_part(on_progress)?,
    };
    let mut instructions = data.train.len();
    if refit {
        let all = [&data.train[..], &data.validation[..]].concat();
        instructions = all.len();
        // The schedule has more steps now: as large a share of them.
        let steps = outcome.best.map_or(outcome.steps, |(step, _)| step);
        let (was, is) = (data.train.len(), all.len());
        let (was, is) = (tune.config.total_steps(was), tune.config.total_steps(is));
        let part = Part::refit((steps * is).div_ceil(was.max(1)));
        let (training, weights, _) = recipe.tuned(&all, &[], &part, on_progress)?;
        recipe.write(&training, weights, &stored)?;
    }
    finish(tune, data, kind, instructions)?;
    Ok(outcome)
}

/// What both parts have in common.
struct Recipe<'a> {
    tune: &'a Tune<'a>,
    data: &'a TrainingData<'a>,
    head: &'a LengthHeadConfig,
    shape: HeadShape,
    /// Blocks that are run, and that the model has.
    depth: usize,
    blocks: usize,
    learned_token: bool,
}

impl<'a> Recipe<'a> {
    fn new(
        tune: &'a Tune<'a>,
        kind: Kind,
        head: &'a LengthHeadConfig,
        data: &'a TrainingData<'a>,
    ) -> Result<Recipe<'a>> {
        head.validate()?;
        let mut checkpoint = Checkpoint::load(tune.files)?;
        let blocks = checkpoint.config.num_hidden_layers;
        let depth = head.depth.unwrap_or(blocks);
        checkpoint.truncate(depth)?;
        if tune.place == Place::Cpu && tune.config.frozen != Storage::Dense {
            // Said before hours of tuning, not after.
            let arithmetic = tune.config.dtype.arithmetic();
            let needed = checkpoint.config.packed_bytes(arithmetic, 1.0);
            let what = "calibrating the tuned head on the model's own weights takes";
            let remedy = "use --dtype bf16, a smaller --depth, or --predictor lora";
            memory::check(what, needed, memory::available(), remedy)?;
        }
        let learned_token = kind == Kind::LenToken;
        let norm = checkpoint.f32_values("model.norm.weight")?;
        let size = norm.iter().map(|w| w * w).sum::<f32>() / norm.len() as f32;
        let all = data.train.iter().chain(&data.validation);
        let shape = HeadShape {
            loss: head.loss.unwrap_or(match learned_token {
                true => len_token::LOSS,
                false => HeadLoss::Distribution,
            }),
            states: checkpoint.config.hidden_size,
            hidden: head.hidden,
            bins: head.bins,
            longest: all.flat_map(Instance::lengths).fold(1.0, f64::max),
            smoothing: head.smoothing,
            scale: 1.0 / size.max(1e-12).sqrt(),
        };
        Ok(Recipe {
            tune,
            data,
            head,
            shape,
            depth,
            blocks,
            learned_token,
        })
    }

    /// Learns on the training instructions, and is calibrated on those of validation.
    fn first_part(&self, on_progress: OnProgress<'_>) -> Result<(TuneOutcome, Stored)> {
        let (tune, data) = (self.tune, self.data);
        // It says that this part is done: not before it is.
        HeldOut::remove(tune.out)?;
        let watched = &data.validation[..data.validation.len().min(WATCHED)];
        let part = Part::first();
        let (training, weights, outcome) = self.tuned(&data.train, watched, &part, on_progress)?;
        let mut stored = Stored {
            shape: self.shape.clone(),
            depth: self.depth,
            calibration: Calibration::default(),
            adapter: tune.lora.r > 0,
            learned_token: self.learned_token,
            dtype: tune.config.dtype,
            recipe: self.in_words(),
        };
        self.write(&training, weights.clone(), &stored)?;
        // Calibrated on what the folder itself says of the validation instructions.
        let parameters = self.tensors(&training, weights)?;
        drop(training);
        let tuned = LoraHead::read("", tune.out, tune.files, tune.place, tune.team.clone())?;
        let asked = (data.validation.iter()).map(|i| (i.instruction_id, i.instruction));
        let held = tuned.readings(&asked.collect::<Vec<_>>())?;
        let labels = data.validation_labels();
        stored.calibration = Calibration::fit(&held, &labels, stored.shape.longest);
        fitted_file::write(&tune.out.join(FILE), &stored, &parameters)?;
        let quantiles: Vec<Quantiles> =
            (held.iter()).map(|q| stored.calibration.apply(q)).collect();
        HeldOut::write(tune.out, data.validation_ids(), &quantiles)?;
        part.remove_checkpoint(tune.out)?;
        Ok((outcome, stored))
    }

    /// The first part, where a run that is resumed had ended it.
    fn first_part_done(&self) -> Result<Option<(TuneOutcome, Stored)>> {
        let (out, part) = (self.tune.out, Part::first());
        if !self.tune.resume || part.checkpoint(out).exists() || !out.join(FILE).exists() {
            return Ok(None);
        }
        let Ok(HeldOut(held)) = HeldOut::read(out) else {
            return Ok(None);
        };
        let stored = FittedFile::<Stored>::read(&out.join(FILE))?.settings;
        // What another run left in the folder is no part of this one.
        let same = stored.recipe == self.in_words()
            && stored.shape == self.shape
            && held.len() == self.data.validation.len()
            && self.data.validation_ids().all(|id| held.contains_key(id));
        match same {
            true => Ok(Some((part.outcome(out)?, stored))),
            false => Ok(None),
        }
    }

    /// All that decides what is learnt, but for the data.
    fn in_words(&self) -> String {
        format!(
            "{} {} {:?} {:?} {:?}",
            self.data.label, self.depth, self.head, self.tune.lora, self.tune.config
        )
    }

    /// Adapter and head, as they are after the part.
    fn tuned(
        &self,
        train: &[Instance<'_>],
        watched: &[Instance<'_>],
        part: &Part,
        on_progress: OnProgress<'_>,
    ) -> Result<(Training, Range<usize>, TuneOutcome)> {
        let (tune, config) = (self.tune, &self.tune.config);
        let mut checkpoint = Checkpoint::load(tune.files)?;
        checkpoint.truncate(self.depth)?;
        let adapter = match tune.lora.r {
            0 => None,
            _ => {
                let (mut lora, name) = (tune.lora.clone(), &tune.files.name);
                // Said of the whole model, so that PEFT adapts no block that was not tuned.
                if self.depth < self.blocks && lora.layers.is_none() {
                    let below = || (0..self.depth).collect();
                    lora.layers_to_transform.get_or_insert_with(below);
                }
                let shape = &checkpoint.config;
                Some(Adapter::new(lora, shape, name, config.seed)?)
            }
        };
        let options = Options {
            arithmetic: config.dtype.arithmetic(),
            frozen: config.frozen,
            place: tune.place,
            without_vocabulary: true,
            learned_tokens: usize::from(self.learned_token),
            ..Options::default()
        };
        let limit = checkpoint.config.max_position_embeddings;
        let vocabulary = checkpoint.config.vocab_size as u32;
        let prompts = self.prompts(train, limit, vocabulary)?;
        let watched_prompts = self.prompts(watched, limit, vocabulary)?;
        let team = tune.team.clone();
        let mut model = TrainableLlama::with_options(&checkpoint, adapter, team, options)?;
        drop(checkpoint);
        let (targets, watched_targets) = (self.targets(train), self.targets(watched));
        let rate = self.head.learning_rate / config.learning_rate;
        let parameters = &mut model.parameters;
        let weights = add_head(parameters, &self.shape, &targets, rate, config.seed);
        let examples = |prompts, targets| LengthExamples {
            shape: self.shape.clone(),
            weights: weights.clone(),
            dropout: self.head.dropout,
            prompts,
            targets,
        };
        let train = examples(prompts, targets);
        let watched = examples(watched_prompts, watched_targets);
        let mut training = Training::new(model, config.clone())?;
        let outcome = run(tune, &mut training, &train, &watched, part, on_progress)?;
        Ok((training, weights, outcome))
    }

    fn prompts(&self, of: &[Instance<'_>], limit: usize, vocabulary: u32) -> Result<Vec<Vec<u32>>> {
        let learned = usize::from(self.learned_token);
        of.iter()
            .map(|i| {
                let text = self.tune.template.render(i.instruction)?;
                let mut prompt = self.tune.tokenizer.encode(&text)?;
                fits(i.instruction_id, prompt.len(), learned, limit)
                    .map_err(|e| e.from_file(&self.data.name))?;
                // The learned token is the first after the model's own.
                prompt.extend(self.learned_token.then_some(vocabulary));
                Ok(prompt)
            })
            .collect()
    }

    fn targets(&self, of: &[Instance<'_>]) -> Vec<Vec<f32>> {
        let label = |i: &Instance<'_>| i.label(self.data.label);
        of.iter()
            .map(|i| match (self.shape.loss, self.head.target) {
                (HeadLoss::LogRegression, _) => vec![label(i).max(1.0).ln() as f32],
                (_, Target::Label) => self.shape.spread(&[label(i)]),
                (_, Target::Samples) => self.shape.spread(&i.lengths()),
            })
            .collect()
    }

    fn tensors(
        &self,
        training: &Training,
        weights: Range<usize>,
    ) -> Result<[(&'static str, candle_core::Tensor); 2]> {
        let parameters = &training.model.parameters;
        let token = parameters.get(LEARNED_TOKENS).unwrap_or_default();
        Ok([
            ("weights", fitted_file::tensor(&parameters.values[weights])?),
            ("learned_token", fitted_file::tensor(token)?),
        ])
    }

    fn write(&self, training: &Training, weights: Range<usize>, stored: &Stored) -> Result<()> {
        let out = self.tune.out;
        if stored.adapter {
            peft::write(&training.model.adapter()?, out)?;
        }
        let tensors = self.tensors(training, weights)?;
        fitted_file::write(&out.join(FILE), stored, &tensors)
    }
}
