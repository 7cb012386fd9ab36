//! How many bytes of text a token can stand for at most, where that can be told: a text is then refused by its length
//! before it is looked at. Only kinds are known that drop nothing of a text, so that the bytes of its tokens together are
//! those of the text after the normalizer.

use crate::special_token::SpecialTokens;
use crate::token_table::{byte_level_chars, TokenTable};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;

/// NFC makes a text shorter by less than this: the worst is U+1FBE U+0308 U+0301 (7 bytes), which becomes U+0390 (2).
const NFC_SHRINKS: u64 = 4;

/// The parts of a `tokenizer.json` that decide it.
#[derive(Deserialize)]
pub struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Value>,
    #[serde(default)]
    model: ModelKind,
}

#[derive(Deserialize, Default)]
struct ModelKind {
    #[serde(default)]
    r#type: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// By how much the normalizer shrinks a text at most; nothing when it may drop some.
fn shrinking(normalizer: &Value) -> Option<u64> {
    if normalizer.is_null() {
        return Some(1);
    }
    match kind(normalizer) {
        "NFC" => Some(NFC_SHRINKS),
        "Prepend" => Some(1),
        "Replace" => {
            let from = normalizer.pointer("/pattern/String").and_then(Value::as_str)?;
            let to = normalizer.get("content").and_then(Value::as_str)?;
            (to.len() >= from.len()).then_some(1)
        }
        "Sequence" => {
            let mut all: u64 = 1;
            for part in normalizer.get("normalizers")?.as_array()? {
                all = all.checked_mul(shrinking(part)?)?;
            }
            Some(all)
        }
        _ => None,
    }
}

/// Whether the pre-tokenizer drops nothing; and whether it writes bytes as the printable stand-ins.
fn keeps_text(pre_tokenizer: &Value, is_byte_level: &mut bool) -> bool {
    if pre_tokenizer.is_null() {
        return true;
    }
    match kind(pre_tokenizer) {
        "ByteLevel" => {
            *is_byte_level = true;
            true
        }
        "Split" => pre_tokenizer.get("behavior").and_then(Value::as_str).is_some_and(|how| how != "Removed"),
        "Digits" | "Metaspace" => true,
        "Sequence" => match pre_tokenizer.get("pretokenizers").and_then(Value::as_array) {
            Some(parts) => parts.iter().all(|part| keeps_text(part, is_byte_level)),
            None => false,
        },
        _ => false,
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn longest_in_table(table: &TokenTable) -> u64 {
    table.offsets.windows(2).map(|pair| u64::from(pair[1] - pair[0])).max().unwrap_or(0)
}

/// Of a `tokenizer.json`; 0: nothing is known. `texts`: the vocabulary's tokens as the file writes them.
pub fn of_hugging_face(parts: &Parts, strips: bool, texts: &[&str], table: &TokenTable) -> u64 {
    let known = || -> Option<u64> {
        let shrinks = shrinking(&parts.normalizer)?;
        let mut is_byte_level = false;
        let set = |token: &Value, name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
        let strips = strips || parts.added_tokens.iter().any(|token| set(token, "lstrip") || set(token, "rstrip"));
        if parts.model.r#type.as_str().is_some_and(|name| name != "BPE")
            || !keeps_text(&parts.pre_tokenizer, &mut is_byte_level)
            || strips
            || !is_nothing(&parts.model.continuing_subword_prefix)
            || !is_nothing(&parts.model.end_of_word_suffix)
        {
            return None;
        }
        let vocabulary: HashSet<&str> = texts.iter().copied().collect();
        let has_every_byte = if is_byte_level {
            byte_level_chars().into_iter().all(|c| vocabulary.contains(c.to_string().as_str()))
        } else {
            parts.model.byte_fallback.as_bool() == Some(true)
                && (0..=255u8).all(|byte| vocabulary.contains(format!("<0x{byte:02X}>").as_str()))
        };
        if !has_every_byte {
            return None;
        }
        let longest = texts.iter().map(|text| text.len() as u64).max()?.max(longest_in_table(table));
        longest.checked_mul(shrinks)
    };
    known().unwrap_or(0)
}

fn strips(specials: &SpecialTokens) -> bool {
    specials.tokens().iter().any(|token| token.strips_left || token.strips_right)
}

/// Of ranks, which refuse a byte that they have no token for.
pub fn of_ranks(specials: &SpecialTokens, is_nfc: bool, table: &TokenTable) -> u64 {
    match strips(specials) {
        true => 0,
        false => longest_in_table(table) * if is_nfc { NFC_SHRINKS } else { 1 },
    }
}

/// Of pieces whose normalizer drops nothing and that have a token for every byte. A space may be written as three bytes.
pub fn of_pieces<'a>(specials: &SpecialTokens, pieces: impl Iterator<Item = &'a str>, table: &TokenTable) -> u64 {
    match strips(specials) {
        true => 0,
        false => pieces.map(|piece| piece.len() as u64).max().unwrap_or(0).max(longest_in_table(table)),
    }
}
