//! Encoding with the Hugging Face library where some places of a text are text whatever stands there: the library finds
//! the tokens of a fixed text itself and cannot be told to leave one out, so the text is cut at them here, as it does.

use crate::special_token::Matches;
use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::normalizer::Range;
use tokenizers::pre_tokenizer::OffsetType;
use tokenizers::tokenizer::{
    Model, NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, Result, Split, Token,
};
use tokenizers::{AddedToken, Encoding, Tokenizer};

/// Tokens that are looked for together.
struct Set {
    automaton: AhoCorasick,
    tokens: Vec<(AddedToken, u32)>,
}

impl Set {
    fn new(tokens: Vec<(AddedToken, u32)>, texts: Vec<String>) -> Option<Set> {
        if tokens.is_empty() {
            return None;
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Set { automaton, tokens })
    }

    /// A text as the pieces between tokens and the tokens, with the white space that these take. `is_text`: see Matches.
    fn cut(&self, text: &NormalizedString, is_text: impl Fn(usize, usize) -> bool) -> Vec<Split> {
        let whole = text.get();
        let mut splits: Vec<Split> = Vec::new();
        let mut push = |start: usize, end: usize, id: Option<u32>| {
            if let Some(slice) = text.slice(Range::Normalized(start..end)) {
                let token = id.map(|id| vec![Token::new(id, slice.get().to_owned(), (0, end - start))]);
                splits.push((slice, token).into());
            }
        };
        let mut done = 0;
        for (mut start, mut end, pattern) in Matches::new(&self.automaton, whole, is_text) {
            let (token, id) = &self.tokens[pattern];
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            if token.single_word && (whole[..start].ends_with(is_word) || whole[end..].starts_with(is_word)) {
                continue;
            }
            if token.lstrip {
                start = whole[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = whole.len() - whole[end..].trim_start().len();
            }
            if start < done {
                continue;
            }
            if done < start {
                push(done, start, None);
            }
            push(start, end, Some(*id));
            done = end;
        }
        if done < whole.len() {
            push(done, whole.len(), None);
        }
        splits
    }
}

pub struct Cutter {
    /// Looked for in the text as it is, and in what the normalizer makes of it.
    raw: Option<Set>,
    normalized: Option<Set>,
}

impl Cutter {
    pub fn new(tokenizer: &Tokenizer) -> Cutter {
        let mut tokens: Vec<(AddedToken, u32)> =
            tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (token, id)).collect();
        tokens.retain(|(token, _)| !token.content.is_empty());
        tokens.sort_by_key(|(_, id)| *id);
        let (normalized, raw): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|(token, _)| token.normalized);
        let normalized_texts = normalized
            .iter()
            .map(|(token, _)| {
                let mut text = NormalizedString::from(token.content.as_str());
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    let _ = normalizer.normalize(&mut text); // as it is where the normalizer cannot
                }
                text.get().to_owned()
            })
            .collect();
        let raw_texts = raw.iter().map(|(token, _)| token.content.clone()).collect();
        Cutter { raw: Set::new(raw, raw_texts), normalized: Set::new(normalized, normalized_texts) }
    }

    /// As `tokenizer.encode_fast(text, add_special)`, but no token of a fixed text begins at `text_starts` (ascending).
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        text_starts: &[usize],
        add_special: bool,
    ) -> Result<Encoding> {
        let mut pieces = PreTokenizedString::from(text);
        if let Some(raw) = &self.raw {
            pieces.split(|_, piece| Ok(raw.cut(&piece, |start, _| text_starts.binary_search(&start).is_ok())))?;
        }
        if let Some(normalizer) = tokenizer.get_normalizer() {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(normalized) = &self.normalized {
            pieces.split(|_, piece| {
                Ok(normalized.cut(&piece, |start, end| holds_one(&piece, start, end, text_starts)))
            })?;
        }
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = tokenizer.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get()))?;
        tokenizer.post_process(pieces.into_encoding(None, 0, OffsetType::None)?, None, add_special)
    }
}

/// Whether one of `text_starts`, places of the original text, lies in a range of a normalized piece of it.
fn holds_one(piece: &NormalizedString, start: usize, end: usize, text_starts: &[usize]) -> bool {
    let Some(range) = piece.convert_offsets(Range::Normalized(start..end)) else { return false };
    let begin = piece.offsets_original().0;
    let next = text_starts.partition_point(|&at| at < begin + range.start);
    text_starts.get(next).is_some_and(|&at| at < begin + range.end)
}
