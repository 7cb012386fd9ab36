//! The bytes of every token and the rules that turn a run of tokens into text, worked out once at load so that the C++
//! side decodes (also token by token) without this library.

use crate::guard::{unimplemented_by_us, Outcome};
use crate::piece_file::byte_of;
use serde_json::Value;

pub const FLAG_SPECIAL: u8 = 1;
/// One byte of a character that the vocabulary lacks.
pub const FLAG_BYTE: u8 = 2;
/// Begins with a space that is dropped when the token is the first.
pub const FLAG_SPACED: u8 = 4;
/// Gets the continuation prefix back when it is the first.
pub const FLAG_CONTINUATION: u8 = 8;
pub const FLAG_ABSENT: u8 = 16;
/// Ends with a space that is dropped when the token is the last.
pub const FLAG_SUFFIXED: u8 = 32;

/// What happens at the start of a decoded text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum FirstRule {
    #[default]
    Nothing = 0,
    /// Up to `leading_spaces` spaces of the text go.
    StripText = 1,
    /// The flags of the first token apply.
    ByFlags = 2,
    /// Every space of the first token goes.
    StripToken = 3,
}

#[derive(Default)]
pub struct TokenTable {
    pub bytes: Vec<u8>,
    pub offsets: Vec<u32>,
    pub flags: Vec<u8>,
    pub first_rule: FirstRule,
    pub leading_spaces: u32,
    /// Broken UTF-8 becomes one U+FFFD for each byte, instead of one for each broken sequence.
    pub replaces_each_byte: bool,
    pub continuation_prefix: String,
}

impl TokenTable {
    pub fn push(&mut self, bytes: &[u8], flags: u8) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.bytes.extend_from_slice(bytes);
        self.offsets.push(self.bytes.len() as u32);
        self.flags.push(flags);
    }
}

/// One step of a `tokenizer.json` decoder, as far as it works on single tokens.
enum Step {
    Replace(String, String),
    ByteFallback,
    ByteLevel,
    StripToken { content: char, start: usize, stop: usize },
    MetaspaceMarks(char),
    WordPiece { prefix: String, cleans_up: bool },
    Suffix(String),
    Spaced,
}

/// The decoder of a `tokenizer.json`.
pub struct Decoder {
    steps: Vec<Step>,
    first_rule: FirstRule,
    leading_spaces: u32,
    replaces_each_byte: bool,
    continuation_prefix: String,
    byte_of_char: ahash::AHashMap<char, u8>,
}

/// GPT-2's printable stand-ins of the 256 bytes.
pub fn byte_level_chars() -> Vec<char> {
    let is_own = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0;
    (0..256u32)
        .map(|byte| {
            let code = if is_own(byte) {
                byte
            } else {
                shifted += 1;
                255 + shifted
            };
            char::from_u32(code).unwrap_or('\0')
        })
        .collect()
}

fn text_field<'a>(decoder: &'a Value, name: &str) -> &'a str {
    decoder.get(name).and_then(Value::as_str).unwrap_or_default()
}

impl Decoder {
    /// `decoder`: that of the file, null when it has none.
    pub fn parse(decoder: &Value) -> Outcome<Decoder> {
        let byte_of_char = byte_level_chars().into_iter().zip(0..=255u8).collect();
        let mut plan = Decoder {
            steps: Vec::new(),
            first_rule: FirstRule::Nothing,
            leading_spaces: 0,
            replaces_each_byte: false,
            continuation_prefix: String::new(),
            byte_of_char,
        };
        if decoder.is_null() {
            plan.steps.push(Step::Spaced);
            plan.first_rule = FirstRule::ByFlags;
            return Ok(plan);
        }
        let mut is_fused = false;
        plan.add(decoder, &mut is_fused)?;
        Ok(plan)
    }

    fn add(&mut self, decoder: &Value, is_fused: &mut bool) -> Outcome<()> {
        let kind = text_field(decoder, "type");
        if *is_fused && kind != "Strip" && kind != "Fuse" {
            return unimplemented_by_us(format!("a tokenizer.json decoder with {kind} after Fuse"));
        }
        match kind {
            "Sequence" => {
                for part in decoder.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                    self.add(part, is_fused)?;
                }
            }
            "Replace" => {
                let Some(from) =
                    decoder.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str)
                else {
                    return unimplemented_by_us("a tokenizer.json decoder that replaces a regular expression");
                };
                self.steps.push(Step::Replace(from.to_owned(), text_field(decoder, "content").to_owned()));
            }
            "ByteFallback" => {
                self.steps.push(Step::ByteFallback);
                self.replaces_each_byte = true;
            }
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "Fuse" => *is_fused = true,
            "Strip" => {
                let content = text_field(decoder, "content").chars().next().unwrap_or(' ');
                let count = |name: &str| decoder.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
                let (start, stop) = (count("start"), count("stop"));
                if !*is_fused {
                    self.steps.push(Step::StripToken { content, start, stop });
                } else if content == ' ' && stop == 0 {
                    self.first_rule = FirstRule::StripText;
                    self.leading_spaces = start as u32;
                } else {
                    return unimplemented_by_us("a tokenizer.json decoder that strips anything but leading spaces");
                }
            }
            "Metaspace" => {
                let mark = text_field(decoder, "replacement").chars().next().unwrap_or('\u{2581}');
                self.steps.push(Step::MetaspaceMarks(mark));
                let never = text_field(decoder, "prepend_scheme") == "never"
                    || decoder.get("add_prefix_space").and_then(Value::as_bool) == Some(false);
                if !never {
                    self.first_rule = FirstRule::StripToken;
                }
            }
            "WordPiece" => {
                let prefix = text_field(decoder, "prefix").to_owned();
                let cleans_up = decoder.get("cleanup").and_then(Value::as_bool).unwrap_or(true);
                self.continuation_prefix = prefix.clone();
                self.steps.push(Step::WordPiece { prefix, cleans_up });
                self.first_rule = FirstRule::ByFlags;
            }
            "BPEDecoder" => self.steps.push(Step::Suffix(text_field(decoder, "suffix").to_owned())),
            other => return unimplemented_by_us(format!("the tokenizer.json decoder {other}")),
        }
        Ok(())
    }

    /// The bytes that `token` adds to a text (not at its start), and its flags.
    fn bytes_of(&self, token: &str) -> (Vec<u8>, u8) {
        let mut text = token.to_owned();
        let mut flags = 0;
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => text = text.replace(from.as_str(), to),
                Step::ByteFallback => {
                    if let Some(byte) = byte_of(&text) {
                        return (vec![byte], flags | FLAG_BYTE);
                    }
                }
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = text.chars().map(|c| self.byte_of_char.get(&c).copied()).collect();
                    return (bytes.unwrap_or_else(|| text.into_bytes()), flags);
                }
                Step::StripToken { content, start, stop } => {
                    let mut chars: Vec<char> = text.chars().collect();
                    for _ in 0..*start {
                        if chars.first() == Some(content) {
                            chars.remove(0);
                        }
                    }
                    for _ in 0..*stop {
                        if chars.last() == Some(content) {
                            chars.pop();
                        }
                    }
                    text = chars.into_iter().collect();
                }
                Step::MetaspaceMarks(mark) => text = text.replace(*mark, " "),
                Step::WordPiece { prefix, cleans_up } => {
                    text = match text.strip_prefix(prefix.as_str()).filter(|_| !prefix.is_empty()) {
                        Some(rest) => {
                            flags |= FLAG_CONTINUATION;
                            rest.to_owned()
                        }
                        None => format!(" {text}"),
                    };
                    if *cleans_up {
                        text = clean_up(&text);
                    }
                    if flags & FLAG_CONTINUATION == 0 && text.starts_with(' ') {
                        flags |= FLAG_SPACED;
                    }
                }
                Step::Suffix(suffix) => {
                    if !suffix.is_empty() && text.ends_with(suffix.as_str()) {
                        flags |= FLAG_SUFFIXED;
                    }
                    if !suffix.is_empty() {
                        text = text.replace(suffix.as_str(), " ");
                    }
                }
                Step::Spaced => {
                    text = format!(" {text}");
                    flags |= FLAG_SPACED;
                }
            }
        }
        (text.into_bytes(), flags)
    }

    /// The table of a vocabulary; `tokens[id]` is the token's text (nothing where the id is not used) and whether it
    /// is special.
    pub fn table(&self, tokens: &[Option<(String, bool)>]) -> TokenTable {
        let mut table = TokenTable {
            first_rule: self.first_rule,
            leading_spaces: self.leading_spaces,
            replaces_each_byte: self.replaces_each_byte,
            continuation_prefix: self.continuation_prefix.clone(),
            ..TokenTable::default()
        };
        for token in tokens {
            match token {
                Some((text, is_special)) => {
                    let (bytes, flags) = self.bytes_of(text);
                    table.push(&bytes, flags | if *is_special { FLAG_SPECIAL } else { 0 });
                }
                None => table.push(&[], FLAG_ABSENT),
            }
        }
        table
    }
}

/// The white space that Hugging Face's WordPiece decoder takes out of each token.
fn clean_up(text: &str) -> String {
    text.replace(" .", ".")
        .replace(" ?", "?")
        .replace(" !", "!")
        .replace(" ,", ",")
        .replace(" ' ", "'")
        .replace(" n't", "n't")
        .replace(" 'm", "'m")
        .replace(" do not", " don't")
        .replace(" 's", "'s")
        .replace(" 've", "'ve")
        .replace(" 're", "'re")
}
