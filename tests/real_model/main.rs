//! Tests on the real SmolLM2-135M and MiniLM. They need the models (from the cache, by pip or
//! from the hub) and fail, not skip, where they cannot be had.

mod golden;
mod minilm;

use std::sync::OnceLock;

use lenaware::chat::ChatModel;
use lenaware::kernel::Team;
use lenaware::model::{ModelFiles, resolve};

/// The model's files, resolved once.
fn files() -> &'static ModelFiles {
    static FILES: OnceLock<ModelFiles> = OnceLock::new();
    FILES.get_or_init(|| resolve("smollm2-135m", false, false).expect("the model can be had"))
}

/// The model, loaded once for all tests.
fn chat() -> &'static ChatModel {
    static CHAT: OnceLock<ChatModel> = OnceLock::new();
    CHAT.get_or_init(|| ChatModel::load(files(), Team::of_the_machine()).expect("it loads"))
}
