//! Published traces, as tables whose columns are known.

use std::path::Path;

use crate::dataset::Split;
use crate::table::Format;

use super::{ArrivalUnit, TableColumns, TableImport};

/// A published trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Azure's LLM inference traces (2023 and 2024): CSV with the time, context and generated
    /// tokens of each request. <https://github.com/Azure/AzurePublicDataset>
    Azure,
    /// Mooncake's traces: JSON lines with the time in ms, input and output lengths.
    /// <https://github.com/kvcache-ai/Mooncake>
    Mooncake,
    /// SSJF's response lengths of LMSYS-Chat-1M prompts, a CSV that also holds its predictions
    /// (left out here). <https://github.com/James-QiuHaoran/LLM-serving-with-proxy-models>
    Ssjf,
}

/// SSJF's longest recorded length. Of 85,482 lengths none is longer, 257 are exactly this long
/// and about 60 each of the lengths before it: answers were cut here.
const SSJF_LIMIT: u32 = 511;

impl Trace {
    /// How the trace's file at `path` is read. Azure and Mooncake do not say why responses
    /// ended: all count as ended by themselves, marked as an assumption, unless
    /// `max_new_tokens` says where they were cut.
    pub fn import(
        self,
        path: &Path,
        max_new_tokens: Option<u32>,
        split: Option<Split>,
    ) -> TableImport {
        let name = |name: &str| Some(name.to_string());
        let (format, model, columns) = match self {
            Trace::Azure => (
                Format::Csv,
                "unknown (an Azure LLM inference trace)",
                TableColumns {
                    response_tokens: "GeneratedTokens".into(),
                    prompt_tokens: name("ContextTokens"),
                    arrival: name("TIMESTAMP"),
                    ..TableColumns::default()
                },
            ),
            Trace::Mooncake => (
                Format::JsonLines,
                "unknown (a Mooncake trace)",
                TableColumns {
                    response_tokens: "output_length".into(),
                    prompt_tokens: name("input_length"),
                    arrival: name("timestamp"),
                    ..TableColumns::default()
                },
            ),
            Trace::Ssjf => (
                Format::Csv,
                "as in `category` (SSJF's lengths of LMSYS-Chat-1M)",
                TableColumns {
                    response_tokens: "output_token_length".into(),
                    id: name(""),
                    category: name("model"),
                    ..TableColumns::default()
                },
            ),
        };
        TableImport {
            path: path.to_path_buf(),
            format,
            columns,
            arrival_unit: ArrivalUnit::Milliseconds,
            max_new_tokens: max_new_tokens.or((self == Trace::Ssjf).then_some(SSJF_LIMIT)),
            temperature: None,
            split,
            model: model.into(),
            by_flags: false,
        }
    }
}
