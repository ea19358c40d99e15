//! Chat templates for models that bring none: each the official form of its family for one
//! turn, with the system prompt that is in force where the user gives none.

use super::tokenizer::TextTokenizer;

/// The names of the built-in templates.
pub(super) const NAMES: [&str; 4] = ["chatml", "llama-2", "llama-3", "vicuna_v1.1"];

/// SmolLM2's.
const CHATML: &str = "{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful \
AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Llama-2-chat's without a system prompt (Meta's recommendation since July 2023).
const LLAMA_2: &str = "{% for message in messages %}{% if message['role'] == 'user' %}\
{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}\
{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

/// Llama 3's: no system prompt. (3.1 and later date theirs; their files bring it.)
const LLAMA_3: &str = "{{ bos_token }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim \
+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/// FastChat's conversation `vicuna_v1.1`.
const VICUNA: &str = "{{ bos_token }}A chat between a curious user and an artificial intelligence \
assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.\
{% for message in messages %}{% if message['role'] == 'user' %}\
{{ ' USER: ' + message['content'] }}{% elif message['role'] == 'assistant' %}\
{{ ' ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}";

/// The Jinja text of a built-in template.
pub(super) fn source(name: &str) -> Option<&'static str> {
    Some(match name {
        "chatml" => CHATML,
        "llama-2" => LLAMA_2,
        "llama-3" => LLAMA_3,
        "vicuna_v1.1" => VICUNA,
        _ => return None,
    })
}

/// The template that a model without one was tuned on, as far as its names and its vocabulary
/// tell.
pub(super) fn detected(names: &str, tokenizer: &TextTokenizer) -> Option<&'static str> {
    let names = names.to_lowercase();
    let named = |parts: &[&str]| parts.iter().any(|part| names.contains(part));
    let knows = |tokens: &[&str]| tokens.iter().all(|t| tokenizer.token_id(t).is_some());
    if named(&["vicuna"]) {
        Some("vicuna_v1.1")
    } else if knows(&["<|start_header_id|>", "<|eot_id|>"]) {
        Some("llama-3")
    } else if knows(&["<|im_start|>", "<|im_end|>"]) {
        Some("chatml")
    } else if named(&["llama-2", "llama2", "llama 2", "llama_2"]) && named(&["chat"]) {
        Some("llama-2")
    } else {
        None
    }
}
