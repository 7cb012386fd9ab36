//! Tokenizers that the Hugging Face library runs: `tokenizer.json`, and the older file forms written as one.

use crate::added_tokens::Cutter;
use crate::guard::{invalid, Outcome};
use crate::special_token::SpecialToken;
use crate::token_bound;
use crate::token_table::{Decoder, TokenTable};
use serde::Deserialize;
use serde_json::{json, Value};
use std::sync::OnceLock;
use tokenizers::{AddedToken, Tokenizer};

/// No vocabulary of today is near this; ids beyond it are a broken file.
const TOKENS_MAX: usize = 1 << 22;

pub struct HuggingFace {
    tokenizer: Tokenizer,
    /// The same with special tokens left as plain text; made when first needed.
    plain: OnceLock<Box<Tokenizer>>,
    /// When given: whether BOS and EOS are added, instead of what the file's post-processor does.
    added: Option<(Option<u32>, Option<u32>)>,
    /// For texts in which some places are text whatever stands there; made when first needed.
    cutter: OnceLock<Cutter>,
}

#[derive(Deserialize)]
struct DecoderOnly {
    #[serde(default)]
    decoder: Value,
}

impl HuggingFace {
    /// `added`: tokens that other files of the model name; `special_texts`: those of them and of the vocabulary that are
    /// special; the number is the bytes of text that a token stands for at most. What the tokenizer has already stays as it is, and no token gets another id than it is said to have.
    pub fn load(
        file: &str,
        added: &[SpecialToken],
        special_texts: &[String],
    ) -> Outcome<(HuggingFace, TokenTable, u64)> {
        let decoder = match serde_json::from_str::<DecoderOnly>(file) {
            Ok(parsed) => Decoder::parse(&parsed.decoder)?,
            Err(error) => return invalid(format!("tokenizer.json is not understood: {error}")),
        };
        if let Ok(parsed) = serde_json::from_str::<ProcessorOnly>(file) {
            check_processor(&parsed.post_processor)?;
        }
        let mut tokenizer: Tokenizer = match file.parse().or_else(|error| match with_hard_spaces(file) {
            Some(repaired) => repaired.parse(),
            None => Err(error),
        }) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return invalid(format!("tokenizer.json is not understood: {error}")),
        };
        if tokenizer.with_truncation(None).is_err() {
            return invalid("tokenizer.json: truncation cannot be switched off");
        }
        tokenizer.with_padding(None);
        add_tokens(&mut tokenizer, added, special_texts);
        let strips = added.iter().any(|token| token.strips_left || token.strips_right);
        let vocabulary = tokenizer.get_vocab(true);
        let added = tokenizer.get_added_tokens_decoder();
        let end = vocabulary.values().chain(added.keys()).copied().max().map_or(0, |id| id as usize + 1);
        if end == 0 || end > TOKENS_MAX {
            return invalid(format!("tokenizer.json has token ids up to {end}"));
        }
        let mut tokens: Vec<Option<(String, bool)>> = vec![None; end];
        for (text, id) in vocabulary {
            tokens[id as usize] = Some((text, false));
        }
        for (id, token) in added {
            tokens[id as usize] = Some((token.content, token.special));
        }
        // What the file adds to every text, as far as one can see without a text.
        if let Ok(added) = tokenizer.encode_fast("", true) {
            if let Some(id) = added.get_ids().iter().find(|&&id| id as usize >= end) {
                return invalid(format!(
                    "tokenizer.json: its post_processor adds the token {id}, but the ids of its tokens end at {}",
                    end - 1
                ));
            }
        }
        let table = decoder.table(&tokens);
        let texts: Vec<&str> = tokens.iter().flatten().map(|(text, _)| text.as_str()).collect();
        let bound = match serde_json::from_str::<token_bound::Parts>(file) {
            Ok(parts) => token_bound::of_hugging_face(&parts, strips, &texts, &table),
            Err(_) => 0,
        };
        Ok((HuggingFace { tokenizer, plain: OnceLock::new(), added: None, cutter: OnceLock::new() }, table, bound))
    }

    pub fn set_added(&mut self, bos: Option<u32>, eos: Option<u32>) {
        self.added = Some((bos, eos));
    }

    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        text_starts: &[usize],
    ) -> Outcome<Vec<u32>> {
        let by_file = add_special && self.added.is_none();
        let encoding = if !parse_special {
            let plain = self.plain.get_or_init(|| {
                let mut plain = Box::new(self.tokenizer.clone());
                plain.set_encode_special_tokens(true);
                plain
            });
            plain.encode_fast(text, by_file)
        } else if text_starts.is_empty() {
            self.tokenizer.encode_fast(text, by_file)
        } else {
            let cutter = self.cutter.get_or_init(|| Cutter::new(&self.tokenizer));
            cutter.encode(&self.tokenizer, text, text_starts, by_file)
        };
        let encoding = match encoding {
            Ok(encoding) => encoding,
            Err(error) => return invalid(format!("the text cannot be encoded: {error}")),
        };
        let (bos, eos) = self.added.filter(|_| add_special).unwrap_or((None, None));
        Ok(bos.into_iter().chain(encoding.get_ids().iter().copied()).chain(eos).collect())
    }

    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }
}

#[derive(Deserialize)]
struct ProcessorOnly {
    #[serde(default)]
    post_processor: Value,
}

/// The library takes templates with names that it then looks for in vain, with every text.
fn check_processor(processor: &Value) -> Outcome<()> {
    for inner in processor.get("processors").and_then(Value::as_array).into_iter().flatten() {
        check_processor(inner)?;
    }
    let Some(defined) = processor.get("special_tokens") else { return Ok(()) };
    let pieces = ["single", "pair"].map(|name| processor.get(name).and_then(Value::as_array));
    for piece in pieces.into_iter().flatten().flatten() {
        let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) else { continue };
        if defined.get(name).is_none() {
            return invalid(format!(
                "tokenizer.json: its post_processor adds the special token {name:?}, which it does not define"
            ));
        }
    }
    Ok(())
}

/// As transformers adds the tokens of tokenizer_config.json, added_tokens.json and special_tokens_map.json to those of
/// tokenizer.json.
fn add_tokens(tokenizer: &mut Tokenizer, added: &[SpecialToken], special_texts: &[String]) {
    let known = tokenizer.get_added_tokens_decoder();
    let is_known = |text: &str| known.values().any(|token| token.content == text);
    let mut sorted: Vec<&SpecialToken> = added.iter().filter(|token| !is_known(&token.text)).collect();
    sorted.sort_by_key(|token| token.id);
    for token in sorted {
        let next = tokenizer.get_vocab_size(true) as u32;
        if tokenizer.token_to_id(&token.text).unwrap_or(next) != token.id {
            continue; // the vocabulary has it elsewhere, or there would be a gap
        }
        let new =
            AddedToken::from(token.text.clone(), token.is_special).lstrip(token.strips_left).rstrip(token.strips_right);
        tokenizer.add_tokens(&[new]);
    }
    for text in special_texts {
        let is_added = is_known(text) || added.iter().any(|token| token.text == *text);
        if !is_added && !text.is_empty() && tokenizer.token_to_id(text).is_some() {
            tokenizer.add_special_tokens(&[AddedToken::from(text.clone(), true)]);
        }
    }
}

fn replaces_spaces(normalizer: &Value) -> bool {
    let is_space = normalizer.pointer("/pattern/String").and_then(Value::as_str) == Some(" ");
    is_space || normalizer.get("normalizers").and_then(Value::as_array).into_iter().flatten().any(replaces_spaces)
}

/// Files whose no-break spaces an editor or a converter turned into plain ones are about: their merges ("a b" in one
/// string) then have too many spaces and are refused. Where the normaliser replaces every plain space, a plain space
/// in the vocabulary can only be such a one, and is put right. Nothing when the file is not of that kind.
fn with_hard_spaces(file: &str) -> Option<String> {
    const HARD_SPACE: &str = "\u{a0}";
    let mut document: Value = serde_json::from_str(file).ok()?;
    if !replaces_spaces(document.get("normalizer")?) {
        return None;
    }
    let model = document.get_mut("model")?;
    let vocabulary: serde_json::Map<String, Value> = model
        .get("vocab")?
        .as_object()?
        .iter()
        .map(|(piece, id)| (piece.replace(' ', HARD_SPACE), id.clone()))
        .collect();
    let mut merges = Vec::new();
    for merge in model.get("merges")?.as_array()? {
        let merge = merge.as_str()?;
        let (left, right) = merge.match_indices(' ').find_map(|(at, _)| {
            let left = merge[..at].replace(' ', HARD_SPACE);
            let right = merge[at + 1..].replace(' ', HARD_SPACE);
            let is_merge = vocabulary.contains_key(&left)
                && vocabulary.contains_key(&right)
                && vocabulary.contains_key(&format!("{left}{right}"));
            is_merge.then_some((left, right))
        })?;
        merges.push(json!([left, right]));
    }
    model["vocab"] = Value::Object(vocabulary);
    model["merges"] = Value::Array(merges);
    Some(document.to_string())
}

/// The `added_tokens` of a `tokenizer.json`.
pub fn added_tokens_json(tokens: &[SpecialToken]) -> Vec<Value> {
    tokens
        .iter()
        .map(|token| {
            json!({"id": token.id, "content": token.text, "single_word": false, "lstrip": token.strips_left,
                   "rstrip": token.strips_right, "normalized": false, "special": token.is_special})
        })
        .collect()
}

fn special(id: u32, text: &str) -> SpecialToken {
    SpecialToken { id, text: text.to_owned(), is_special: true, strips_left: false, strips_right: false }
}

/// GPT-2's `vocab.json` and `merges.txt` as a `tokenizer.json`.
pub fn from_vocab_and_merges(vocab: &str, merges: &str, added: Vec<SpecialToken>) -> Outcome<String> {
    let vocabulary: Value = match serde_json::from_str(vocab) {
        Ok(vocabulary @ Value::Object(_)) => vocabulary,
        Ok(_) => return invalid("vocab.json is not an object"),
        Err(error) => return invalid(format!("vocab.json is not JSON: {error}")),
    };
    let mut specials = added;
    if specials.is_empty() {
        if let Some(id) = vocabulary.get("<|endoftext|>").and_then(Value::as_u64) {
            specials.push(special(id as u32, "<|endoftext|>"));
        }
    }
    let pairs: Vec<&str> = merges
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .collect();
    let byte_level = |adds_prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": adds_prefix, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens_json(&specials),
        "normalizer": null,
        "pre_tokenizer": byte_level(false),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    })
    .to_string())
}

/// BERT's word list (`vocab.txt`) as a `tokenizer.json`. `lower_case`: nothing to tell from the words.
pub fn from_word_list(words: &str, lower_case: Option<bool>, added: Vec<SpecialToken>) -> Outcome<String> {
    let mut vocabulary = serde_json::Map::new();
    for (id, word) in words.lines().map(|line| line.trim_end_matches('\r')).enumerate() {
        vocabulary.insert(word.to_owned(), json!(id));
    }
    let id_of = |word: &str| vocabulary.get(word).and_then(Value::as_u64).map(|id| id as u32);
    let (Some(unknown), Some(begin), Some(end)) = (id_of("[UNK]"), id_of("[CLS]"), id_of("[SEP]")) else {
        return invalid("the word list lacks [UNK], [CLS] or [SEP]: not a BERT vocabulary");
    };
    let lower_case = lower_case.unwrap_or_else(|| {
        !vocabulary.keys().any(|word| !word.starts_with('[') && word.chars().any(|c| c.is_ascii_uppercase()))
    });
    let mut specials = added;
    if specials.is_empty() {
        specials.extend([special(unknown, "[UNK]"), special(begin, "[CLS]"), special(end, "[SEP]")]);
        specials.extend(["[PAD]", "[MASK]"].iter().filter_map(|text| id_of(text).map(|id| special(id, text))));
        specials.sort_by_key(|token| token.id);
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": added_tokens_json(&specials),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                       "lowercase": lower_case},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", end], "cls": ["[CLS]", begin]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    })
    .to_string())
}
