//! SentencePiece BPE vocabularies (`tokenizer.model` of Llama 2 and Vicuna, or the metadata of
//! a GGUF file) as a tokenizer of the `tokenizers` library.
//!
//! SentencePiece merges whichever neighbours give the piece of the highest score; `tokenizers`
//! wants a list of merges. As in transformers' conversion, every split of every piece into two
//! pieces becomes a merge, ranked by the score of what it makes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost::Message;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};

use super::source::one_line;

/// SentencePiece's sign for a space.
const SPACE: &str = "\u{2581}";
/// Real files have half a megabyte to four.
const MAX_FILE: u64 = 64 << 20;
/// Bytes of a piece that merges may make; the longest of Llama has 48.
const MAX_PIECE: usize = 1024;
/// Tokens of a model; the largest vocabularies have 262,144.
const MAX_PIECES: usize = 1 << 21;

type Outcome<T> = std::result::Result<T, String>;

/// What SentencePiece does with a piece; numbered as in its files and in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub(super) fn numbered(n: i64) -> Option<Kind> {
        Some(match n {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// A vocabulary with all that says how a text becomes its pieces.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    pub pieces: Vec<Piece>,
    /// Whether a space is put before a text.
    pub add_dummy_prefix: bool,
    /// The token that begins a text, where there is one.
    pub bos: Option<u32>,
}

/// A token that was added to a vocabulary later.
#[derive(Debug, Clone)]
pub(super) struct Addition {
    pub id: u32,
    pub text: String,
    /// Left out of decoded text.
    pub special: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Fields of the file, most of them pieces: an empty one takes 2 bytes, and 40 once it is read.
fn fields(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while !bytes.is_empty() && count <= MAX_PIECES {
        let Ok((tag, kind)) = prost::encoding::decode_key(&mut bytes) else {
            break;
        };
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(kind, tag, &mut bytes, context).is_err() {
            break;
        }
        count += 1;
    }
    count
}

impl Vocabulary {
    /// Reads a `tokenizer.model`.
    ///
    /// # Errors
    /// No SentencePiece file, or one that does other than byte-pair encoding of unchanged text.
    pub fn read(path: &Path) -> Result<Vocabulary> {
        let bytes = crate::regular_file::bytes_up_to(path, MAX_FILE)?;
        Vocabulary::parse(&bytes).map_err(|why| Error::malformed(path, why))
    }

    fn parse(bytes: &[u8]) -> Outcome<Vocabulary> {
        let damaged =
            |why: &str| format!("damaged or not a SentencePiece model ({why}): download it again");
        if fields(bytes) > MAX_PIECES {
            return Err(damaged("more tokens than any model has"));
        }
        let proto = ModelProto::decode(bytes).map_err(|e| damaged(&one_line(e)))?;
        let trainer = proto.trainer.ok_or_else(|| damaged("no trainer_spec"))?;
        let normalizer = proto
            .normalizer
            .ok_or_else(|| damaged("no normalizer_spec"))?;
        let refused = [
            (trainer.model_type != Some(2), "is not of type BPE"),
            (
                trainer.treat_whitespace_as_suffix == Some(true),
                "puts spaces behind words",
            ),
            (
                normalizer
                    .precompiled_charsmap
                    .is_some_and(|m| !m.is_empty())
                    || normalizer.remove_extra_whitespaces != Some(false)
                    || normalizer.escape_whitespaces == Some(false),
                "changes texts before it splits them",
            ),
        ];
        if let Some((_, why)) = refused.iter().find(|(is, _)| *is) {
            return Err(format!(
                "its tokenizer {why}, which is not supported: put the model's tokenizer.json \
                 beside it"
            ));
        }
        let piece = |p: PieceProto| {
            Some(Piece {
                text: p.piece?,
                score: p.score.unwrap_or(0.0),
                kind: Kind::numbered(p.kind.unwrap_or(1).into())?,
            })
        };
        let pieces: Option<Vec<Piece>> = proto.pieces.into_iter().map(piece).collect();
        Ok(Vocabulary {
            pieces: pieces.ok_or_else(|| damaged("a piece of unknown type"))?,
            add_dummy_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
            bos: u32::try_from(trainer.bos_id.unwrap_or(1)).ok(),
        })
    }

    /// The text of the token that begins a text.
    pub fn bos_text(&self) -> Option<&str> {
        let piece = self.pieces.get(self.bos? as usize)?;
        (piece.kind == Kind::Control).then_some(&piece.text)
    }

    /// The tokenizer. With `prefix_each_part`, the space before a text is put behind every
    /// special token in it too, as transformers' `legacy` tokenizers do; without, none is put
    /// anywhere, and the caller does it.
    ///
    /// # Errors
    /// A vocabulary that makes no sense, in words.
    pub fn tokenizer(&self, prefix_each_part: bool, added: &[Addition]) -> Outcome<Tokenizer> {
        let ids = self.ids()?;
        let merges = self.merges(&ids)?;
        let mut bpe = BPE::builder()
            .byte_fallback(self.pieces.iter().any(|p| p.kind == Kind::Byte))
            .fuse_unk(true);
        if let Some(unknown) = self.pieces.iter().find(|p| p.kind == Kind::Unknown) {
            bpe = bpe.unk_token(unknown.text.clone());
        }
        let ids = ids.into_iter().map(|(text, id)| (text.to_string(), id));
        let bpe = bpe
            .vocab_and_merges(ids.collect::<tokenizers::models::bpe::Vocab>(), merges)
            .build()
            .map_err(one_line)?;
        let mut tokenizer = Tokenizer::new(bpe);
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if prefix_each_part && self.add_dummy_prefix {
            normalizers.push(Prepend::new(SPACE.into()).into());
        }
        normalizers.push(Replace::new(" ", SPACE).map_err(one_line)?.into());
        tokenizer
            .with_normalizer(Some(Normalizers::new(normalizers)))
            .map_err(one_line)?;
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new(SPACE, " ").map_err(one_line)?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if self.add_dummy_prefix {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_decoder(Some(Decoders::new(decoders)));
        self.add(&mut tokenizer, added)?;
        Ok(tokenizer)
    }

    fn ids(&self) -> Outcome<HashMap<&str, u32>> {
        let mut ids = HashMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            // Those that are looked for whole are thirty times as large in memory.
            let length = piece.text.len();
            if length > MAX_PIECE {
                return Err(format!(
                    "its token {id} of {length} bytes makes no sense: download it again"
                ));
            }
            if length == 0 || !piece.score.is_finite() {
                return Err(format!("its token {id} makes no sense: download it again"));
            }
            if ids.insert(piece.text.as_str(), id as u32).is_some() {
                return Err(format!("its token {id} is there twice: download it again"));
            }
        }
        match ids.len() {
            0 => Err("has no tokens: download it again".into()),
            _ => Ok(ids),
        }
    }

    fn merges(&self, ids: &HashMap<&str, u32>) -> Outcome<Vec<(String, String)>> {
        let merged = |piece: &&Piece| matches!(piece.kind, Kind::Normal | Kind::UserDefined);
        let usable: HashSet<&str> = self
            .pieces
            .iter()
            .filter(merged)
            .map(|p| p.text.as_str())
            .collect();
        let mut merges = Vec::new();
        for piece in self.pieces.iter().filter(merged) {
            let text = piece.text.as_str();
            let first = merges.len();
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if usable.contains(left) && usable.contains(right) {
                    merges.push((piece.score, left, right));
                }
            }
            merges[first..].sort_by_key(|(_, left, right)| (ids[left], ids[right]));
        }
        // transformers' order: score, then the longer left part, then the longer right one.
        let length = |text: &str| text.chars().count();
        merges.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then_with(|| length(b.1).cmp(&length(a.1)))
                .then_with(|| length(b.2).cmp(&length(a.2)))
        });
        let owned = |(_, left, right): (f32, &str, &str)| (left.to_string(), right.to_string());
        Ok(merges.into_iter().map(owned).collect())
    }

    /// Has whole tokens recognised in a text, and takes those in that the vocabulary lacks.
    fn add(&self, tokenizer: &mut Tokenizer, added: &[Addition]) -> Outcome<()> {
        let token = |text: &str, special| AddedToken::from(text, special).normalized(false);
        let own = self.pieces.iter().filter_map(|piece| match piece.kind {
            Kind::Control | Kind::Unknown => Some(token(&piece.text, true)),
            Kind::UserDefined => Some(token(&piece.text, false)),
            _ => None,
        });
        let mut added = added.to_vec();
        added.sort_by_key(|a| a.id);
        let later = added.iter().map(|a| token(&a.text, a.special));
        tokenizer.add_tokens(own.chain(later)).map_err(one_line)?;
        for Addition { id, text, .. } in &added {
            if tokenizer.token_to_id(text) != Some(*id) {
                return Err(format!(
                    "the added token `{}` cannot have the id {id}: download added_tokens.json and \
                     tokenizer_config.json again",
                    text.escape_debug()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "sentencepiece_tests.rs"]
mod tests;
