//! Tokenizers, chat templates and grammars behind a C interface. The contract of every entry is in `sluice_text.h`.

mod added_tokens;
mod chat_template;
mod gguf_vocabulary;
mod grammar;
mod guard;
mod hugging_face;
mod jinja_expression;
mod jinja_token;
mod pair_merge;
mod piece_file;
mod pre_tokenizer;
mod python_container;
mod python_filter;
mod python_global;
mod python_json;
mod python_method;
mod python_operator;
mod python_syntax;
mod python_value;
mod rank_bpe;
mod sentence_piece;
mod special_token;
mod strftime;
mod token_bound;
mod token_table;
mod tokenizer;

use chat_template::{ChatTemplate, Limits};
use gguf_vocabulary::RawVocabulary;
use grammar::{Cutter, Grammar, GrammarMatcher, RawTokens, Vocabulary};
use guard::{enter, Buffer, Bytes};
use strftime::CivilTime;
use tokenizer::{FileKind, Tokenizer};

const ADD_SPECIAL: u32 = 1;
const PARSE_SPECIAL: u32 = 2;

/// Mirrors `SluiceTokenTable`: pointers live as long as the tokenizer.
#[repr(C)]
pub struct TokenTableView {
    tokens: usize,
    bytes: *const u8,
    offsets: *const u32,
    flags: *const u8,
    first_rule: i32,
    leading_spaces: u32,
    replaces_each_byte: i32,
    continuation_prefix: Bytes,
    bos: i64,
    eos: i64,
    text_bytes_per_token: u64,
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_buffer_free(buffer: *mut Buffer) {
    if !buffer.is_null() {
        guard::free_buffer(&mut *buffer);
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_load(
    kind: i32,
    first: Bytes,
    second: Bytes,
    options_json: Bytes,
    out: *mut *mut Tokenizer,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        let options = options_json.as_text("the options")?;
        let tokenizer = Tokenizer::load(FileKind::from_number(kind)?, first.as_slice(), second.as_slice(), options)?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_load_gguf(
    vocabulary: *const RawVocabulary,
    out: *mut *mut Tokenizer,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        let tokenizer = Tokenizer::from_gguf(&(*vocabulary).read()?)?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        enter(std::ptr::null_mut(), || {
            drop(Box::from_raw(tokenizer));
            Ok(Vec::new())
        });
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: Bytes,
    text_starts: *const usize,
    text_starts_count: usize,
    flags: u32,
    out: *mut Buffer,
) -> i32 {
    enter(out, || {
        let text = text.as_text("the text")?;
        let text_starts =
            if text_starts_count == 0 { &[] } else { std::slice::from_raw_parts(text_starts, text_starts_count) };
        let ids = (*tokenizer).encode(text, flags & ADD_SPECIAL != 0, flags & PARSE_SPECIAL != 0, text_starts)?;
        Ok(ids.iter().flat_map(|id| id.to_ne_bytes()).collect())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_id(tokenizer: *const Tokenizer, token: Bytes) -> i64 {
    let mut id = -1;
    let mut ignored = Buffer::from_vec(Vec::new());
    enter(&mut ignored, || {
        if let Some(found) = (*tokenizer).id_of(token.as_text("the token")?) {
            id = i64::from(found);
        }
        Ok(Vec::new())
    });
    guard::free_buffer(&mut ignored);
    id
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_tokenizer_table(tokenizer: *const Tokenizer, out: *mut TokenTableView) {
    let tokenizer = &*tokenizer;
    let table = tokenizer.table();
    let prefix = table.continuation_prefix.as_bytes();
    *out = TokenTableView {
        tokens: table.flags.len(),
        bytes: table.bytes.as_ptr(),
        offsets: table.offsets.as_ptr(),
        flags: table.flags.as_ptr(),
        first_rule: table.first_rule as i32,
        leading_spaces: table.leading_spaces,
        replaces_each_byte: i32::from(table.replaces_each_byte),
        continuation_prefix: Bytes { data: prefix.as_ptr(), size: prefix.len() },
        bos: tokenizer.bos().map_or(-1, i64::from),
        eos: tokenizer.eos().map_or(-1, i64::from),
        text_bytes_per_token: tokenizer.text_bytes_per_token(),
    };
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_template_compile(
    source: Bytes,
    limits: Limits,
    out: *mut *mut ChatTemplate,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        let template = ChatTemplate::compile(source.as_text("the template")?, limits)?;
        *out = Box::into_raw(Box::new(template));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        enter(std::ptr::null_mut(), || {
            drop(Box::from_raw(template));
            Ok(Vec::new())
        });
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_template_render(
    template: *const ChatTemplate,
    context_json: Bytes,
    now: CivilTime,
    out: *mut Buffer,
) -> i32 {
    enter(out, || (*template).render(context_json.as_text("the context")?, now))
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_grammar_check(kind: i32, source: Bytes, message: *mut Buffer) -> i32 {
    enter(message, || grammar::check(kind, source))
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_vocabulary_new(
    tokens: *const RawTokens,
    cutter: *const Cutter,
    out: *mut *mut Vocabulary,
    message: *mut Buffer,
) -> i32 {
    let cutter = Cutter::take(cutter);
    enter(message, move || {
        *out = Box::into_raw(Box::new(Vocabulary::from_raw(&*tokens, cutter)?));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_vocabulary_free(vocabulary: *mut Vocabulary) {
    if !vocabulary.is_null() {
        enter(std::ptr::null_mut(), || {
            drop(Box::from_raw(vocabulary));
            Ok(Vec::new())
        });
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_grammar_compile(
    vocabulary: *const Vocabulary,
    kind: i32,
    source: Bytes,
    out: *mut *mut Grammar,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        let grammar = Grammar::compile(&*vocabulary, kind, source.as_text("the grammar")?)?;
        *out = Box::into_raw(Box::new(grammar));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_grammar_free(grammar: *mut Grammar) {
    if !grammar.is_null() {
        enter(std::ptr::null_mut(), || {
            Box::from_raw(grammar).free();
            Ok(Vec::new())
        });
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_matcher_new(
    grammar: *const Grammar,
    out: *mut *mut GrammarMatcher,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        *out = Box::into_raw(Box::new((*grammar).matcher()?));
        Ok(Vec::new())
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_matcher_free(matcher: *mut GrammarMatcher) {
    if !matcher.is_null() {
        enter(std::ptr::null_mut(), || {
            drop(Box::from_raw(matcher));
            Ok(Vec::new())
        });
    }
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_matcher_consume(
    matcher: *mut GrammarMatcher,
    tokens: *const u32,
    count: usize,
    message: *mut Buffer,
) -> i32 {
    enter(message, || {
        let tokens = if count == 0 { &[] } else { std::slice::from_raw_parts(tokens, count) };
        (*matcher).consume(tokens)
    })
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_matcher_mask(
    matcher: *mut GrammarMatcher,
    words: *mut u32,
    count: usize,
    message: *mut Buffer,
) -> i32 {
    enter(message, || (*matcher).mask(std::slice::from_raw_parts_mut(words, count)))
}

/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_matcher_forced(matcher: *mut GrammarMatcher, out: *mut Buffer) -> i32 {
    enter(out, || (*matcher).forced())
}

/// For tests of the wall: panics inside an entry.
///
/// # Safety
/// As `sluice_text.h` says.
#[no_mangle]
pub unsafe extern "C" fn sluice_text_panic_for_test(out: *mut Buffer) -> i32 {
    enter(out, || panic!("a panic on purpose"))
}
