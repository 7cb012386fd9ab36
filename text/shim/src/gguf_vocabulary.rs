//! The vocabulary in a GGUF file's metadata: byte-level BPE ("gpt2") as a `tokenizer.json`, SentencePiece ("llama") as
//! pieces. The file itself is read on the C++ side.

use crate::guard::{invalid, unimplemented_by_us, Bytes, Outcome};
use crate::hugging_face;
use crate::piece_file::{Algorithm, Piece, PieceFile, PieceKind};
use crate::pre_tokenizer;
use crate::special_token::SpecialToken;
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write;

/// Mirrors `SluiceGgufVocabulary`.
#[repr(C)]
pub struct RawVocabulary {
    model: Bytes,
    pre: Bytes,
    tokens: Bytes,
    merges: Bytes,
    scores: Bytes,
    types: Bytes,
    bos: i64,
    eos: i64,
    unknown: i64,
    adds_bos: i32,
    adds_eos: i32,
    adds_space: i32,
}

const TYPE_UNKNOWN: i32 = 2;
const TYPE_CONTROL: i32 = 3;
const TYPE_USER_DEFINED: i32 = 4;
const TYPE_UNUSED: i32 = 5;
const TYPE_BYTE: i32 = 6;

pub struct Vocabulary<'a> {
    pub model: &'a str,
    pre: &'a str,
    tokens: Vec<&'a str>,
    merges: Vec<&'a str>,
    scores: Vec<f32>,
    types: Vec<i32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    unknown: Option<u32>,
    /// Nothing: the file does not say.
    adds_bos: Option<bool>,
    pub adds_eos: bool,
    adds_space: Option<bool>,
}

/// Strings that each have their length in 8 bytes before them.
fn strings<'a>(mut bytes: &'a [u8], what: &str) -> Outcome<Vec<&'a str>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let Some((size, rest)) = bytes.split_first_chunk::<8>() else {
            return invalid(format!("{what} is cut short"));
        };
        let size = usize::try_from(u64::from_le_bytes(*size)).unwrap_or(usize::MAX);
        if size > rest.len() {
            return invalid(format!("{what} is cut short"));
        }
        match std::str::from_utf8(&rest[..size]) {
            Ok(text) => texts.push(text),
            Err(_) => return invalid(format!("item {} of {what} is not UTF-8", texts.len())),
        }
        bytes = &rest[size..];
    }
    Ok(texts)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]])
}

fn flag(number: i32) -> Option<bool> {
    (number >= 0).then_some(number != 0)
}

impl RawVocabulary {
    /// # Safety
    /// The fields point at what they say.
    pub unsafe fn read<'a>(&self) -> Outcome<Vocabulary<'a>> {
        let tokens = strings(self.tokens.as_slice(), "tokenizer.ggml.tokens")?;
        let id = |number: i64, name: &str| match u32::try_from(number) {
            Ok(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            Ok(id) => {
                let count = tokens.len();
                invalid(format!("tokenizer.ggml.{name}_token_id is {id}, there are {count} tokens"))
            }
            Err(_) => Ok(None),
        };
        let vocabulary = Vocabulary {
            model: self.model.as_text("tokenizer.ggml.model")?,
            pre: self.pre.as_text("tokenizer.ggml.pre")?,
            merges: strings(self.merges.as_slice(), "tokenizer.ggml.merges")?,
            scores: words(self.scores.as_slice()).map(f32::from_le_bytes).collect(),
            types: words(self.types.as_slice()).map(i32::from_le_bytes).collect(),
            bos: id(self.bos, "bos")?,
            eos: id(self.eos, "eos")?,
            unknown: id(self.unknown, "unknown")?,
            adds_bos: flag(self.adds_bos),
            adds_eos: flag(self.adds_eos).unwrap_or(false),
            adds_space: flag(self.adds_space),
            tokens,
        };
        if vocabulary.tokens.is_empty() {
            return invalid("tokenizer.ggml.tokens is missing or empty");
        }
        if vocabulary.types.len() != vocabulary.tokens.len() {
            let (types, tokens) = (vocabulary.types.len(), vocabulary.tokens.len());
            return invalid(format!("tokenizer.ggml.token_type has {types} items, there are {tokens} tokens"));
        }
        Ok(vocabulary)
    }
}

impl Vocabulary<'_> {
    fn special_tokens(&self) -> Vec<SpecialToken> {
        let added = self.tokens.iter().zip(&self.types).enumerate();
        added
            .filter(|(_, (text, &kind))| !text.is_empty() && (kind == TYPE_CONTROL || kind == TYPE_USER_DEFINED))
            .map(|(id, (text, &kind))| SpecialToken {
                id: id as u32,
                text: (*text).to_owned(),
                is_special: kind == TYPE_CONTROL,
                strips_left: false,
                strips_right: false,
            })
            .collect()
    }

    /// Byte-level BPE as a `tokenizer.json`, and whether a text begins with BOS.
    pub fn to_tokenizer_json(&self) -> Outcome<(String, bool)> {
        let pre = pre_tokenizer::by_name(self.pre)?;
        if self.merges.is_empty() {
            return invalid("tokenizer.ggml.merges is missing or empty");
        }
        let mut seen = HashSet::with_capacity(self.tokens.len());
        let mut entries = String::new();
        for (id, (text, &kind)) in self.tokens.iter().zip(&self.types).enumerate() {
            if text.is_empty() || kind == TYPE_UNUSED {
                continue; // room in the model's matrices that no text uses
            }
            if !seen.insert(*text) {
                return invalid(format!("token {id} has the text of another token: {text}"));
            }
            let comma = if entries.is_empty() { "" } else { "," };
            let _ = write!(entries, "{comma}{}:{id}", json!(text)); // writing to a string does not fail
        }
        let splits = pre.patterns.iter().map(
            |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
        );
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let rest = json!({
            "version": "1.0",
            "added_tokens": hugging_face::added_tokens_json(&self.special_tokens()),
            "normalizer": pre.is_nfc.then(|| json!({"type": "NFC"})),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits.chain([byte_level.clone()]).collect::<Vec<_>>()},
            "post_processor": null,
            "decoder": byte_level,
        });
        // The vocabulary is put together as text: as values it would be built and copied once more.
        let rest = rest.to_string();
        let head = rest.strip_suffix('}').unwrap_or(&rest);
        let merges = json!(self.merges);
        let ignores = pre.ignores_merges;
        let file = format!(
            "{head},\"model\":{{\"type\":\"BPE\",\"ignore_merges\":{ignores},\"vocab\":{{{entries}}},\"merges\":{merges}}}}}"
        );
        Ok((file, self.adds_bos.unwrap_or(pre.adds_bos)))
    }

    /// SentencePiece's pieces, the tokens that text is cut at before, and whether a text begins with BOS.
    pub fn to_pieces(&self) -> Outcome<(PieceFile, Vec<SpecialToken>, bool)> {
        if self.scores.len() != self.tokens.len() {
            let (scores, tokens) = (self.scores.len(), self.tokens.len());
            return invalid(format!("tokenizer.ggml.scores has {scores} items, there are {tokens} tokens"));
        }
        let pieces: Vec<Piece> = self
            .tokens
            .iter()
            .zip(&self.scores)
            .zip(&self.types)
            .map(|((text, &score), &kind)| Piece {
                text: (*text).to_owned(),
                score,
                kind: match kind {
                    TYPE_UNKNOWN => PieceKind::Unknown,
                    TYPE_CONTROL => PieceKind::Control,
                    TYPE_USER_DEFINED => PieceKind::UserDefined,
                    TYPE_UNUSED => PieceKind::Unused,
                    TYPE_BYTE => PieceKind::Byte,
                    _ => PieceKind::Normal,
                },
            })
            .collect();
        let file = PieceFile {
            byte_fallback: pieces.iter().any(|piece| piece.kind == PieceKind::Byte),
            pieces,
            algorithm: Algorithm::Bpe,
            adds_dummy_prefix: self.adds_space.unwrap_or(true),
            removes_extra_spaces: false,
            escapes_spaces: true,
            space_is_suffix: false,
            charsmap: Vec::new(),
            unknown: Some(self.unknown.unwrap_or(0)),
            bos: self.bos,
            eos: self.eos,
        };
        Ok((file, self.special_tokens(), self.adds_bos.unwrap_or(true)))
    }

    /// For the kinds that there are besides.
    pub fn no_such_kind<T>(&self) -> Outcome<T> {
        unimplemented_by_us(format!(
            "a GGUF vocabulary of the kind \"{}\" (tokenizer.ggml.model); there are \"gpt2\" and \"llama\"",
            self.model
        ))
    }
}
