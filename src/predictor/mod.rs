//! Everything that foresees the length of an answer, behind one trait, a file each.

pub mod asked;
pub mod baseline;
pub mod calibration;
pub mod decision;
pub mod encoder;
mod fitted_file;
pub mod folds;
pub mod from_file;
pub mod head;
pub mod held_out;
pub mod hints;
pub mod known;
pub mod len_token;
pub mod length_scale;
pub mod lexical;
pub mod lora_head;
pub mod neighbour;
mod prediction;
pub mod ridge;
pub mod seen;
pub mod sparse_ridge;
pub mod stack;
pub mod state_ridge;
pub mod states;
pub mod states_cache;
pub mod stored;
pub mod training;
pub mod trials;
pub mod tuning;
pub mod vocabulary;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::chat::ChatModel;
use crate::dataset::{Instance, Label};
use crate::engine::Place;
use crate::error::{Error, Result};
use crate::evaluate::statistics::median;
use crate::kernel::Team;
use crate::model::{Checkpoint, ModelFiles, Precision, resolve, resolve_encoder};
use crate::provenance::ModelIdentity;

pub use prediction::{LEVELS, Prediction, Quantiles, Query};

/// Foresees lengths.
pub trait Predictor {
    /// As in tables: the word or the folder it was named by.
    fn name(&self) -> &str;

    /// One prediction a query, in order.
    ///
    /// # Errors
    /// A prompt that does not fit the model, or a query it cannot answer.
    fn predict(&self, queries: &[Query<'_>]) -> Result<Vec<Prediction>>;
}

/// Words that name a predictor without training.
pub const BARE_WORDS: [&str; 7] = [
    "constant",
    "input-length",
    folds::NAME,
    "perception-only",
    "pia",
    known::GROUND_TRUTH,
    known::ORACLE,
];

/// What predictors are made from: a model if one needs it, loaded once a chat template.
pub struct Workshop {
    place: Place,
    team: Arc<Team>,
    model: String,
    show_progress: bool,
    offline: bool,
    chat_template: Option<String>,
    /// By the choice of chat template.
    chats: RefCell<HashMap<Option<String>, Arc<ChatModel>>>,
    /// Every model that was loaded, the first one first.
    used: RefCell<Vec<ModelIdentity>>,
}

/// A training instruction as the cheapest predictors see it.
#[derive(Debug, Clone, Copy)]
pub struct TrainingLength {
    /// Size of the instruction: its words, or its tokens where its text is unknown.
    pub size: f64,
    /// Its label, tokens.
    pub label: f64,
}

/// The training lengths of some instructions under a label.
pub fn training_lengths(instances: &[Instance<'_>], label: Label) -> Vec<TrainingLength> {
    instances
        .iter()
        .map(|i| TrainingLength {
            size: baseline::size(
                i.instruction,
                i.samples.first().map_or(0, |s| s.prompt_tokens),
            ),
            label: i.label(label),
        })
        .collect()
}

/// Whether a name is a trained predictor's folder rather than a word or a file.
pub(crate) fn is_folder(spec: &str) -> bool {
    !spec.starts_with("file:") && (spec.contains('/') || spec == "." || spec == "..")
}

/// Refuses instructions without a text, which a model would answer with nonsense.
///
/// # Errors
/// If one has none, as those of traces.
pub fn need_texts<'a>(who: &str, mut instructions: impl Iterator<Item = &'a str>) -> Result<()> {
    match instructions.any(|text| text.trim().is_empty()) {
        true => Err(Error::Usage(format!(
            "{who} needs the instructions' texts, which this dataset does not have: use \
             `constant`, `input-length`, `ground-truth` or `oracle`"
        ))),
        false => Ok(()),
    }
}

/// Id and text of what is asked about, for those that read texts.
///
/// # Errors
/// As [`need_texts`].
fn asked_of<'q>(who: &str, queries: &[Query<'q>]) -> Result<Vec<(&'q str, &'q str)>> {
    need_texts(who, queries.iter().map(|q| q.instruction))?;
    let both = queries.iter().map(|q| (q.instruction_id, q.instruction));
    Ok(both.collect())
}

/// What a figure of this variance is divided by to be standardised: one that is always the same
/// says nothing, and stays as it is.
fn unit_of(variance: f64) -> f64 {
    match variance > 1e-12 {
        true => variance.sqrt(),
        false => 1.0,
    }
}

fn training_median(training: &[TrainingLength]) -> Result<f64> {
    if training.is_empty() {
        return Err(Error::Usage(
            "there is no training split to take a median length from".into(),
        ));
    }
    let labels: Vec<f64> = training.iter().map(|t| t.label).collect();
    Ok(median(&labels))
}

impl Workshop {
    /// `model` is what models are named by on the command line; it is only loaded when asked
    /// for, to compute at `place`.
    pub fn new(
        model: &str,
        place: Place,
        team: Arc<Team>,
        show_progress: bool,
        offline: bool,
    ) -> Workshop {
        Workshop {
            place,
            team,
            model: model.to_string(),
            show_progress,
            offline,
            chat_template: None,
            chats: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// Puts instructions to the model in another chat template than its own: the name of a
    /// built-in one or the path of a Jinja file.
    pub fn with_chat_template(self, choice: Option<String>) -> Workshop {
        Workshop {
            chat_template: choice,
            ..self
        }
    }

    /// The model's files.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn files(&self) -> Result<ModelFiles> {
        self.files_of(None)
    }

    /// The model's files with the chat template that was asked for, else with the one that
    /// `trained` was trained with.
    fn files_of(&self, trained: Option<&stored::Description>) -> Result<ModelFiles> {
        let files = resolve(&self.model, self.show_progress, self.offline)?;
        Ok(files.with_chat_template(self.template(trained)))
    }

    fn template(&self, trained: Option<&stored::Description>) -> Option<String> {
        let recorded = || trained.and_then(|d| d.chat_template.clone());
        self.chat_template.clone().or_else(recorded)
    }

    /// Where its models compute.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The threads that compute.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// The models that were loaded so far, each once: whose weights a run hangs on.
    pub fn used(&self) -> Vec<ModelIdentity> {
        self.used.borrow().clone()
    }

    /// Loading takes a second, or a minute.
    fn say_loading(&self, files: &ModelFiles) {
        if self.show_progress {
            eprintln!("loading {}", files.name);
        }
    }

    fn note(&self, name: &str, sha256: &str) {
        let identity = ModelIdentity {
            name: name.to_string(),
            sha256: Some(sha256.to_string()),
        };
        let mut used = self.used.borrow_mut();
        if !used.contains(&identity) {
            used.push(identity);
        }
    }

    /// The model, loaded at the first call.
    ///
    /// # Errors
    /// If it cannot be had or read.
    pub fn chat(&self) -> Result<Arc<ChatModel>> {
        self.chat_of(None)
    }

    /// The model with the chat template that a stored predictor was trained with, unless
    /// another was asked for.
    fn chat_of(&self, trained: Option<&stored::Description>) -> Result<Arc<ChatModel>> {
        let template = self.template(trained);
        if let Some(chat) = self.chats.borrow().get(&template) {
            return Ok(chat.clone());
        }
        let files = self.files_of(trained)?;
        self.say_loading(&files);
        let chat = Arc::new(ChatModel::load_on(
            &files,
            self.place,
            Precision::F32,
            self.team.clone(),
        )?);
        self.note(chat.name(), chat.sha256());
        self.chats.borrow_mut().insert(template, chat.clone());
        Ok(chat)
    }

    /// Takes a model that is loaded already, with the chat template that was asked for.
    pub fn set_chat(&self, chat: Arc<ChatModel>) {
        self.note(chat.name(), chat.sha256());
        let mut chats = self.chats.borrow_mut();
        chats.entry(self.chat_template.clone()).or_insert(chat);
    }

    /// The predictor that `spec` names: a bare word, `file:predictions.jsonl`, or a folder
    /// written by `finetune` (a path with a `/` in it). `training` is what `constant` and
    /// `input-length` are fitted on, and whose median stands in for answers without a number.
    ///
    /// # Errors
    /// An unknown name, an unreadable folder, a model that cannot be had.
    pub fn predictor(&self, spec: &str, training: &[TrainingLength]) -> Result<Box<dyn Predictor>> {
        if let Some(path) = spec.strip_prefix("file:") {
            return Ok(Box::new(from_file::FromFile::read(spec, Path::new(path))?));
        }
        if is_folder(spec) {
            return match decision::split(spec)? {
                (dir, None) => self.stored(dir, training),
                (dir, Some(decision)) => {
                    let inner = self.stored(dir, training)?;
                    Ok(Box::new(decision::Decided::new(spec, inner, decision)))
                }
            };
        }
        Ok(match spec {
            "constant" => Box::new(baseline::Constant::new(training_median(training)?)),
            "input-length" => Box::new(baseline::InputLength::fit(training)?),
            folds::NAME => Box::new(folds::LexicalFolds),
            known::GROUND_TRUTH => Box::new(known::GroundTruth),
            known::ORACLE => Box::new(known::Oracle),
            "perception-only" | "pia" => {
                let order = match spec {
                    "pia" => asked::Order::InAdvance,
                    _ => asked::Order::NumberOnly,
                };
                let fallback = training_median(training)?;
                Box::new(asked::Asked::new(spec, order, self.chat()?, fallback))
            }
            kind if stored::Kind::is_named(kind) => {
                return Err(Error::Usage(format!(
                    "`{kind}` is trained first (lenaware finetune --predictor {kind} --out \
                     ./runs/{kind}) and then named by its folder, ./runs/{kind}"
                )));
            }
            _ => {
                return Err(Error::Usage(format!(
                    "there is no predictor `{spec}`: use {}, file:FILE, or the path of a trained \
                     one with a `/` in it",
                    BARE_WORDS.join(", ")
                )));
            }
        })
    }

    fn stored(&self, spec: &str, training: &[TrainingLength]) -> Result<Box<dyn Predictor>> {
        let dir = Path::new(spec);
        let Some(description) = stored::Description::read(dir)? else {
            // A foreign PEFT folder is taken as instruction tuning.
            return self.tuned(spec, dir, None, training);
        };
        description.check_files(dir)?;
        match description.kind {
            stored::Kind::Ridge => {
                let chat = self.chat_of(Some(&description))?;
                description.check_model(dir, chat.sha256())?;
                Ok(Box::new(state_ridge::StateRidge::read(spec, dir, chat)?))
            }
            stored::Kind::Lora => self.tuned(spec, dir, Some(&description), training),
            stored::Kind::LoraHead | stored::Kind::LenToken => {
                let files = self.files_of(Some(&description))?;
                let sha256 = files.sha256()?;
                description.check_model(dir, &sha256)?;
                self.note(&files.name, &sha256);
                self.say_loading(&files);
                let team = self.team.clone();
                Ok(Box::new(lora_head::LoraHead::read(
                    spec, dir, &files, self.place, team,
                )?))
            }
            stored::Kind::Head | stored::Kind::PoolingMlp => {
                let chat = self.chat_of(Some(&description))?;
                description.check_model(dir, chat.sha256())?;
                Ok(Box::new(head::Head::read(spec, dir, chat)?))
            }
            stored::Kind::Stack => Ok(Box::new(stack::Stack::read(spec, dir, |member| {
                self.predictor(member, training)
            })?)),
            stored::Kind::Lexical => Ok(Box::new(lexical::Lexical::read(spec, dir)?)),
            stored::Kind::Encoder => Ok(Box::new(encoder::Encoder::read(
                spec,
                dir,
                &description,
                |name| resolve_encoder(name, self.show_progress, self.offline),
            )?)),
            stored::Kind::Neighbour => Ok(Box::new(neighbour::Neighbour::read(spec, dir)?)),
        }
    }

    fn tuned(
        &self,
        spec: &str,
        dir: &Path,
        description: Option<&stored::Description>,
        training: &[TrainingLength],
    ) -> Result<Box<dyn Predictor>> {
        let adapter = crate::lora::peft::read(dir)?;
        let files = self.files_of(description)?;
        if let Some(description) = description {
            description.check_model(dir, &files.sha256()?)?;
        }
        self.say_loading(&files);
        let mut checkpoint = Checkpoint::load(&files)?;
        adapter.merge_into(&mut checkpoint)?;
        let model = self
            .place
            .put(&checkpoint, Precision::F32, self.team.clone())?;
        let chat = Arc::new(ChatModel::with_model(&files, model)?);
        self.note(chat.name(), chat.sha256());
        let fallback = match description {
            Some(description) => description.training_median,
            None => training_median(training)?,
        };
        let order = asked::Order::NumberOnly;
        Ok(Box::new(asked::Asked::new(spec, order, chat, fallback)))
    }
}
