//! Everything that reads what strangers wrote, each as a function of one file's bytes. The other
//! files that it needs are good ones, of a [`Place`].

use std::path::Path;
use std::sync::Arc;

use lenaware::chat::ChatModel;
use lenaware::config::Experiment;
use lenaware::dataset::describe::describe;
use lenaware::dataset::import::{Trace, import_table, sequence_scheduling};
use lenaware::dataset::{Label, LengthDataset};
use lenaware::engine::{Batching, Engine, Place as Device, Request, Response};
use lenaware::model::{Checkpoint, ModelFiles};
use lenaware::predictor::{Predictor, Query, Workshop, from_file::FromFile};
use lenaware::{Result, instruction, lora, report};

use crate::place::Place;

/// A reader.
pub struct Reader {
    /// Names its kept cases and its corpus.
    pub name: &'static str,
    /// Reads a file of these bytes, and uses what it got as a command would.
    pub read: fn(&Place, &[u8]) -> Result<()>,
}

/// All of them.
pub const READERS: [Reader; 20] = [
    Reader {
        name: "gguf",
        read: |place, bytes| model(place, &place.put("small.gguf", bytes)),
    },
    Reader {
        name: "safetensors",
        read: |place, bytes| place.with("model/model.safetensors", bytes, model),
    },
    Reader {
        name: "torch-bin",
        read: |place, bytes| place.with("torch/pytorch_model-00002-of-00002.bin", bytes, model),
    },
    Reader {
        name: "model-config",
        read: |place, bytes| place.with("model/config.json", bytes, model),
    },
    Reader {
        name: "tokenizer-json",
        read: |place, bytes| place.with("model/tokenizer.json", bytes, model),
    },
    Reader {
        name: "tokenizer-config",
        read: |place, bytes| place.with("torch/tokenizer_config.json", bytes, model),
    },
    Reader {
        name: "tokenizer-model",
        read: |place, bytes| place.with("torch/tokenizer.model", bytes, model),
    },
    Reader {
        name: "chat-template",
        read: chat_template,
    },
    Reader {
        name: "peft-config",
        read: |place, bytes| place.with("adapter/adapter_config.json", bytes, adapter),
    },
    Reader {
        name: "peft-tensors",
        read: |place, bytes| place.with("adapter/adapter_model.safetensors", bytes, adapter),
    },
    Reader {
        name: "predictor",
        read: |place, bytes| place.with("words/predictor.json", bytes, predictor),
    },
    Reader {
        name: "words",
        read: |place, bytes| place.with("unsealed/lexical.safetensors", bytes, predictor),
    },
    Reader {
        name: "predictions",
        read: predictions,
    },
    Reader {
        name: "instructions",
        read: instructions,
    },
    Reader {
        name: "dataset",
        read: dataset,
    },
    Reader {
        name: "traces",
        read: traces,
    },
    Reader {
        name: "lengths",
        read: lengths,
    },
    Reader {
        name: "experiment",
        read: experiment,
    },
    Reader {
        name: "endpoint",
        read: |place, bytes| place.answer(bytes),
    },
    Reader {
        name: "results",
        read: |place, bytes| place.with("results/arms.jsonl", bytes, results),
    },
];

/// Loads a model, puts a question to it and has it answer with a few tokens, greedy and drawn.
pub fn model(place: &Place, path: &Path) -> Result<()> {
    let files = ModelFiles::local(path)?;
    let chat = ChatModel::load(&files, place.team())?;
    let prompt: Arc<[u32]> = chat.fitting_prompt("a", "Say <s>hi</s>.", 2)?.into();
    if prompt.len() > 512 {
        return Ok(());
    }
    let mut engine = Engine::new(chat.model().as_ref(), 2, prompt.len() + 2)?;
    let mut requests = (0..2).map(|id| Request {
        id,
        prompt: prompt.clone(),
        max_new_tokens: 2,
        temperature: id as f32,
        top_p: 0.9,
        seed: 1,
    });
    let mut responses: Vec<Response> = Vec::new();
    engine.generate(&mut || requests.next(), Batching::Static, &mut responses)?;
    for response in responses {
        chat.tokenizer().decode(&response.tokens)?;
    }
    Ok(())
}

fn chat_template(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("chat.jinja", bytes);
    let choice = Some(path.display().to_string());
    let files = ModelFiles::local(&place.path("model"))?.with_chat_template(choice);
    let template = lenaware::model::ChatTemplate::from_files(&files)?;
    template.render("Say hi.").map(|_| ())
}

pub fn adapter(place: &Place, dir: &Path) -> Result<()> {
    let adapter = lora::peft::read(dir)?;
    let files = ModelFiles::local(&place.path("model"))?;
    let mut checkpoint = Checkpoint::load(&files)?;
    adapter.merge_into(&mut checkpoint)?;
    Device::Cpu
        .put(&checkpoint, lenaware::model::Precision::F32, place.team())
        .map(|_| ())
}

/// What is asked of predictors.
fn query<'q>() -> [Query<'q>; 1] {
    [Query {
        instruction_id: "a",
        instruction: "Say hi.",
        prompt_tokens: 3,
        label: 5.0,
        served: None,
    }]
}

pub fn predictor(place: &Place, dir: &Path) -> Result<()> {
    let model = place.path("model").display().to_string();
    let workshop = Workshop::new(&model, Device::Cpu, place.team(), false, true);
    let predictor = workshop.predictor(&dir.display().to_string(), &[])?;
    predictor.predict(&query()).map(|_| ())
}

fn predictions(place: &Place, bytes: &[u8]) -> Result<()> {
    let file = FromFile::read("file:p.jsonl", &place.put("p.jsonl", bytes))?;
    file.predict(&query()).map(|_| ())
}

/// Of several readers of one file, the first refusal, after all have read.
fn all(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    outcomes.into_iter().fold(Ok(()), Result::and)
}

fn instructions(place: &Place, bytes: &[u8]) -> Result<()> {
    all(["jsonl", "csv", "tsv", "txt", "parquet"].map(|format| {
        let path = place.put(&format!("instructions.{format}"), bytes);
        instruction::read(&path).map(|_| ())
    }))
}

fn dataset(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("dataset.parquet", bytes);
    let described = describe(&path, Label::Max).map(|_| ());
    let read = LengthDataset::read_parquet(&path).map(|dataset| {
        dataset.training_instances();
    });
    described.and(read)
}

fn traces(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("trace", bytes);
    let out = place.path("imported.parquet");
    all([Trace::Azure, Trace::Mooncake, Trace::Ssjf].map(|trace| {
        import_table(&trace.import(&path, None, None), &out)?;
        describe(&out, Label::Max).map(|_| ())
    }))
}

/// The paper's recorded lengths.
fn lengths(place: &Place, bytes: &[u8]) -> Result<()> {
    let path = place.put("lengths.json", bytes);
    sequence_scheduling(&place.path("conversations.json"), &path, None).map(|_| ())
}

fn experiment(place: &Place, bytes: &[u8]) -> Result<()> {
    let experiment = Experiment::load(&place.put("experiment.toml", bytes))?;
    experiment.to_toml().map(|_| ())
}

fn results(_: &Place, dir: &Path) -> Result<()> {
    report::read_run(dir)?;
    report::Comparison::read(&[dir.into(), dir.into()])?.differences();
    report::draw_run(dir).map(|_| ())
}
