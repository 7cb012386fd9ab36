//! Grammars over a model's vocabulary (llguidance): what tokens may come next.
//!
//! A matcher's state follows from the tokens that it was given and from nothing else: every matcher begins as a copy of
//! the compiled grammar with caches of its own.

use crate::guard::{invalid, Bytes, Code, Failure, Outcome};
use crate::token_table::{FLAG_ABSENT, FLAG_SPECIAL};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// Of a grammar's text.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Brackets within brackets; what is deeper is no grammar that somebody wrote.
const NESTING_MAX: usize = 128;
const CHOICES_MAX: usize = 10_000;
/// Compilation recurses over what it reads. A grammar is checked with less stack than it is compiled with later, so
/// that one that has passed the check also compiles. Both are memory of their own that is given back.
const CHECK_STACK_BYTES: usize = 24 << 20;
const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Between the tokens of JSON: enough for a line break and what it is indented by, and an end of it, since models
/// that may write spaces for ever do.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Of a text that a grammar forces so much is given to the model's tokenizer, and tokens of so much of it are told; the
/// rest comes when these have. A grammar may force its whole text, which would be cut anew behind every run.
const CUT_BYTES_MAX: usize = 2048;
const FORCED_BYTES_MAX: usize = 1024;
/// At the end of a part of a text the tokens may be others than in the middle of the whole.
const CUT_MARGIN_BYTES: usize = 64;
/// Steps of a compilation that make it take 50 ms and less; of a mask 20 ms.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 2_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000, // of one matcher; up to 2 kB each
    max_grammar_size: 500_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};

/// What a grammar's text is. The numbers are those of `sluice_text.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    JsonSchema,
    JsonObject,
    Regex,
    Choice,
    Lark,
}

impl Kind {
    fn from_number(number: i32) -> Outcome<Kind> {
        Ok(match number {
            0 => Kind::JsonSchema,
            1 => Kind::JsonObject,
            2 => Kind::Regex,
            3 => Kind::Choice,
            4 => Kind::Lark,
            other => return invalid(format!("{other} is no kind of grammar")),
        })
    }
}

/// Mirrors `SluiceVocabulary` of the header's input: borrowed for one call.
#[repr(C)]
pub struct RawTokens {
    tokens: usize,
    bytes: *const u8,
    offsets: *const u32,
    flags: *const u8,
    /// Ids that the model knows; tokens that the table lacks are never allowed.
    vocabulary: u32,
    eos: *const u32,
    eos_count: usize,
}

/// `SluiceCutter` of the header: how the model's tokenizer cuts a text. Released when it is dropped.
#[repr(C)]
pub struct Cutter {
    context: *const c_void,
    cut: unsafe extern "C" fn(*const c_void, *const u8, usize, *mut u32, usize) -> isize,
    release: unsafe extern "C" fn(*const c_void),
}

// The header demands it of both functions.
unsafe impl Send for Cutter {}
unsafe impl Sync for Cutter {}

impl Drop for Cutter {
    fn drop(&mut self) {
        unsafe { (self.release)(self.context) }
    }
}

impl Cutter {
    /// # Safety
    /// `raw` is null or as `sluice_text.h` says; it is taken over.
    pub unsafe fn take(raw: *const Cutter) -> Option<Cutter> {
        if raw.is_null() {
            None
        } else {
            Some(std::ptr::read(raw))
        }
    }

    fn ids(&self, text: &[u8]) -> Option<Vec<TokenId>> {
        let mut ids = vec![0; text.len() + 8]; // some put a token in front
        let count = unsafe { (self.cut)(self.context, text.as_ptr(), text.len(), ids.as_mut_ptr(), ids.len()) };
        let count = usize::try_from(count).ok().filter(|count| *count <= ids.len())?;
        ids.truncate(count);
        Some(ids)
    }
}

/// The vocabulary, and the model's own way to cut a text, where that is there: what a grammar forces is then given as
/// the tokens that the model knows it by.
struct ModelTokens {
    trie: TokTrie,
    cutter: Option<Cutter>,
}

impl ModelTokens {
    /// Those of the last tokens that spell exactly `text`.
    fn ends_with(&self, ids: &[TokenId], text: &[u8]) -> Option<Vec<TokenId>> {
        let mut begin = ids.len();
        let mut left = text;
        while !left.is_empty() {
            begin = begin.checked_sub(1)?;
            let word = self.trie.token(*ids.get(begin)?);
            left = left.strip_suffix(word).filter(|_| !word.is_empty())?;
        }
        Some(ids[begin..].to_vec())
    }

    /// In the middle of a text: SentencePiece puts a space before the first word, which a line break takes upon itself.
    fn cut(&self, cutter: &Cutter, text: &[u8]) -> Option<Vec<TokenId>> {
        let alone = cutter.ids(text).and_then(|ids| self.ends_with(&ids, text));
        alone.or_else(|| {
            let behind_break = [b"\n".as_slice(), text].concat();
            cutter.ids(&behind_break).and_then(|ids| self.ends_with(&ids, text))
        })
    }

    /// Tokens of the beginning of `text`, as the model's tokenizer cuts it, and how many bytes they are.
    fn cut_beginning(&self, text: &[u8]) -> (Vec<TokenId>, usize) {
        let head = whole_characters(text, CUT_BYTES_MAX);
        let tokens = self.cutter.as_ref().filter(|_| !head.is_empty()).and_then(|cutter| self.cut(cutter, head));
        let Some(mut tokens) = tokens else { return (Vec::new(), 0) };
        let mut bytes = head.len();
        while text.len() > CUT_BYTES_MAX && head.len() - bytes < CUT_MARGIN_BYTES {
            let Some(last) = tokens.pop() else { break };
            bytes -= self.trie.token_len(last);
        }
        (tokens, bytes)
    }
}

/// As much of `text` as is UTF-8, at most `most` bytes of it.
fn whole_characters(text: &[u8], most: usize) -> &[u8] {
    let part = &text[..text.len().min(most)];
    match std::str::from_utf8(part) {
        Ok(_) => part,
        Err(error) => &part[..error.valid_up_to()],
    }
}

impl TokenizerEnv for ModelTokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    /// What no tokenizer cuts (parts of characters, the rest of a long text) goes by the longest tokens.
    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        let is_inside = |byte: &u8| byte & 0xc0 == 0x80; // of a character
        let begin = text.iter().position(|byte| !is_inside(byte)).unwrap_or(text.len());
        let mut tokens = self.trie.greedy_tokenize(&text[..begin]);
        let (cut, bytes) = self.cut_beginning(&text[begin..]);
        tokens.extend(cut);
        tokens.extend(self.trie.greedy_tokenize(&text[begin + bytes..]));
        tokens
    }
    fn tokenize_is_canonical(&self) -> bool {
        self.cutter.is_some()
    }
}

pub struct Vocabulary {
    factory: ParserFactory,
}

pub struct Grammar {
    pristine: Mutex<Matcher>,
}

pub struct GrammarMatcher {
    matcher: Matcher,
}

fn failure<T>(code: Code, message: impl Into<String>) -> Outcome<T> {
    Err(Failure { code, message: message.into() })
}

fn factory_over(words: &[Vec<u8>], eos: &[u32], slices: &[String], cutter: Option<Cutter>) -> Outcome<ParserFactory> {
    let info = TokRxInfo::new(words.len() as u32, eos[0]);
    let trie = TokTrie::from(&info, words).with_eos_tokens(eos);
    let environment: TokEnv = Arc::new(ModelTokens { trie, cutter });
    let mut factory = match ParserFactory::new(&environment, InferenceCapabilities::default(), slices) {
        Ok(factory) => factory,
        Err(error) => return failure(Code::Invalid, format!("the vocabulary cannot be used for grammars: {error}")),
    };
    factory.quiet();
    *factory.limits_mut() = LIMITS;
    Ok(factory)
}

impl Vocabulary {
    /// # Safety
    /// The pointers of `raw` are as `sluice_text.h` says.
    pub unsafe fn from_raw(raw: &RawTokens, cutter: Option<Cutter>) -> Outcome<Vocabulary> {
        if raw.vocabulary == 0 || raw.eos_count == 0 {
            return invalid("a vocabulary for grammars needs tokens and one that ends a text");
        }
        let offsets = std::slice::from_raw_parts(raw.offsets, raw.tokens + 1);
        let flags = std::slice::from_raw_parts(raw.flags, raw.tokens);
        let bytes = std::slice::from_raw_parts(raw.bytes, offsets[raw.tokens] as usize);
        let eos = std::slice::from_raw_parts(raw.eos, raw.eos_count);
        if eos.iter().any(|id| *id >= raw.vocabulary) {
            return invalid("an end of a text is outside of the vocabulary");
        }
        let mut words: Vec<Vec<u8>> = vec![Vec::new(); raw.vocabulary as usize];
        for (id, word) in words.iter_mut().enumerate().take(raw.tokens) {
            if flags[id] & FLAG_ABSENT != 0 {
                continue;
            }
            let text = &bytes[offsets[id] as usize..offsets[id + 1] as usize];
            if flags[id] & FLAG_SPECIAL != 0 || eos.contains(&(id as u32)) {
                word.push(TokTrie::SPECIAL_TOKEN_MARKER); // never matches text
            }
            word.extend_from_slice(text);
        }
        for id in eos {
            let word = &mut words[*id as usize];
            if word.is_empty() {
                word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                word.extend_from_slice(format!("<|end {id}|>").as_bytes());
            }
        }
        Ok(Vocabulary { factory: factory_over(&words, eos, &SlicedBiasComputer::general_slices(), cutter)? })
    }
}

/// One token for each byte, and an end: whether a grammar compiles does not depend on more, and the names of special
/// tokens are unknown here, so that no client demands them.
fn byte_factory() -> Outcome<ParserFactory> {
    let mut words: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    words[0xff].clear(); // no byte of UTF-8, and the marker of special tokens
    words.push(b"\xff<|end|>".to_vec());
    factory_over(&words, &[256], &[], None)
}

/// Depth of brackets, counted without regard to quotes: more than this is refused, so less is safe.
fn check_nesting(source: &str) -> Outcome<()> {
    let mut depth = 0usize;
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return failure(Code::Exhausted, format!("it is nested more than {NESTING_MAX} deep"));
                }
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn json_grammar(mut schema: Value) -> Outcome<TopLevelGrammar> {
    match &mut schema {
        Value::Object(object) => {
            object.insert("x-guidance".to_string(), json!({"whitespace_pattern": JSON_SPACE}));
        }
        Value::Bool(true) => schema = json!({"x-guidance": {"whitespace_pattern": JSON_SPACE}}),
        _ => return invalid("a JSON schema must be an object"),
    }
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn choice_grammar(source: &str) -> Outcome<TopLevelGrammar> {
    let choices: Vec<String> = match serde_json::from_str(source) {
        Ok(choices) => choices,
        Err(_) => return invalid("choices must be a list of strings"),
    };
    if choices.is_empty() || choices.len() > CHOICES_MAX || choices.iter().any(String::is_empty) {
        return invalid(format!("choices must be 1 to {CHOICES_MAX} strings that are not empty"));
    }
    let quoted: Vec<String> = choices.iter().map(|choice| Value::String(choice.clone()).to_string()).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | "))))
}

fn read_grammar(kind: Kind, source: &str) -> Outcome<TopLevelGrammar> {
    if source.len() > SOURCE_BYTES_MAX {
        return failure(Code::Exhausted, format!("it has {} bytes, more than {SOURCE_BYTES_MAX}", source.len()));
    }
    if kind != Kind::Choice {
        check_nesting(source)?;
    }
    match kind {
        Kind::JsonSchema => match serde_json::from_str(source) {
            Ok(schema) => json_grammar(schema),
            Err(error) => invalid(format!("it is no JSON: {error}")),
        },
        Kind::JsonObject => json_grammar(json!({"type": "object"})),
        Kind::Regex => Ok(TopLevelGrammar::from_regex(source)),
        Kind::Choice => choice_grammar(source),
        Kind::Lark => Ok(TopLevelGrammar::from_lark(source.to_string())),
    }
}

/// The first line of what the library says: the others show its own grammar. Of a pattern that is no regular expression
/// the reason, which stands last.
fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it cannot be compiled");
    let line = match lines.rfind(|line| line.starts_with("error: ")) {
        Some(reason) if first.ends_with("regex parse error:") => {
            format!("{first} {} (in a pattern)", reason.trim_start_matches("error: "))
        }
        _ => first.to_string(),
    };
    line.chars().take(500).collect()
}

fn compile_with(factory: &ParserFactory, kind: Kind, source: &str) -> Outcome<Matcher> {
    let grammar = read_grammar(kind, source)?;
    let parser = match factory.create_parser(grammar) {
        Ok(parser) => parser,
        Err(error) => return invalid(first_line(&format!("{error:#}"))),
    };
    let mut matcher = Matcher::new(Ok(parser));
    match matcher.compute_mask_or_eos() {
        Ok(mask) if mask.is_zero() => invalid("nothing matches it"),
        Ok(_) => Ok(matcher),
        Err(error) => invalid(first_line(&error.to_string())),
    }
}

/// Runs `body` on a stack of its own. A panic goes on to the caller.
fn on_stack<T>(bytes: usize, body: impl FnOnce() -> T) -> T {
    stacker::grow(bytes, body)
}

/// Whether the grammar can be compiled within all bounds, for any vocabulary.
pub fn check(kind: i32, source: Bytes) -> Outcome<Vec<u8>> {
    let kind = Kind::from_number(kind)?;
    let source = unsafe { source.as_text("the grammar")? };
    on_stack(CHECK_STACK_BYTES, || compile_with(&byte_factory()?, kind, source).map(|_| Vec::new()))
}

impl Grammar {
    pub fn compile(vocabulary: &Vocabulary, kind: i32, source: &str) -> Outcome<Grammar> {
        let kind = Kind::from_number(kind)?;
        let matcher = on_stack(COMPILE_STACK_BYTES, || compile_with(&vocabulary.factory, kind, source))?;
        Ok(Grammar { pristine: Mutex::new(matcher) })
    }

    pub fn matcher(&self) -> Outcome<GrammarMatcher> {
        match self.pristine.lock() {
            Ok(pristine) => Ok(GrammarMatcher { matcher: pristine.deep_clone() }),
            Err(_) => failure(Code::Panicked, "a compiled grammar is broken"),
        }
    }

    /// What it holds may be as deep as its text was.
    pub fn free(self: Box<Self>) {
        on_stack(COMPILE_STACK_BYTES, || drop(self));
    }
}

impl GrammarMatcher {
    pub fn consume(&mut self, tokens: &[u32]) -> Outcome<Vec<u8>> {
        match self.matcher.consume_tokens(tokens) {
            Ok(()) => Ok(Vec::new()),
            Err(error) => invalid(first_line(&error.to_string())),
        }
    }

    /// The tokens that have to come next, whatever the model would choose; mostly none. None without a cutter.
    pub fn forced(&mut self) -> Outcome<Vec<u8>> {
        let forced = self.matcher.compute_ff_tokens();
        let Ok(environment) = self.matcher.tok_env() else { return Ok(Vec::new()) };
        let mut bytes = 0;
        let first = forced.iter().take_while(|id| {
            bytes += environment.tok_trie().token_len(**id);
            bytes <= FORCED_BYTES_MAX
        });
        Ok(first.flat_map(|id| id.to_ne_bytes()).collect())
    }

    /// Sets all of `words`: bit t % 32 of word t / 32 says whether token t may come next.
    pub fn mask(&mut self, words: &mut [u32]) -> Outcome<Vec<u8>> {
        match self.matcher.compute_mask_or_eos() {
            Ok(mask) => {
                let source = mask.as_slice();
                let count = words.len().min(source.len());
                words[..count].copy_from_slice(&source[..count]);
                words[count..].fill(0);
                Ok(Vec::new())
            }
            Err(error) => failure(Code::Exhausted, first_line(&error.to_string())),
        }
    }
}
