//! Tokens with a fixed text (BOS, `<|im_end|>`, ...): the list, and cutting a text at them.

use crate::guard::{invalid, Outcome};
use aho_corasick::{AhoCorasick, Input, MatchKind};

#[derive(Clone, Debug)]
pub struct SpecialToken {
    pub id: u32,
    pub text: String,
    /// Left out by a decode that skips special tokens, and plain text unless special tokens are parsed.
    pub is_special: bool,
    /// Swallows the white space before it.
    pub strips_left: bool,
    /// Swallows the white space after it.
    pub strips_right: bool,
}

/// A piece of a text that was cut at special tokens.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Finds tokens in a text: the leftmost, and the longest of those that start there.
#[derive(Default)]
pub struct SpecialTokens {
    tokens: Vec<SpecialToken>,
    /// Over all tokens; and over those that are found also in text where special tokens are not parsed.
    every: Option<(AhoCorasick, Vec<usize>)>,
    plain: Option<(AhoCorasick, Vec<usize>)>,
}

fn automaton(
    tokens: &[SpecialToken],
    wanted: impl Fn(&SpecialToken) -> bool,
) -> Outcome<Option<(AhoCorasick, Vec<usize>)>> {
    let chosen: Vec<usize> =
        (0..tokens.len()).filter(|&at| !tokens[at].text.is_empty() && wanted(&tokens[at])).collect();
    if chosen.is_empty() {
        return Ok(None);
    }
    let built = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(chosen.iter().map(|&at| tokens[at].text.as_bytes()));
    match built {
        Ok(automaton) => Ok(Some((automaton, chosen))),
        Err(error) => invalid(format!("the special tokens cannot be searched for: {error}")),
    }
}

impl SpecialTokens {
    pub fn new(tokens: Vec<SpecialToken>) -> Outcome<SpecialTokens> {
        let every = automaton(&tokens, |_| true)?;
        let plain = automaton(&tokens, |token| !token.is_special)?;
        Ok(SpecialTokens { tokens, every, plain })
    }

    pub fn tokens(&self) -> &[SpecialToken] {
        &self.tokens
    }

    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.tokens.iter().find(|token| token.text == text).map(|token| token.id)
    }

    /// `parse_special`: special tokens are found too. `text_starts`: ascending places at which none may begin.
    pub fn cut<'a>(&self, text: &'a str, parse_special: bool, text_starts: &[usize]) -> Vec<Segment<'a>> {
        let mut segments = Vec::new();
        let mut done = 0;
        if let Some((automaton, chosen)) = if parse_special { &self.every } else { &self.plain } {
            let is_text = |start: usize, _| text_starts.binary_search(&start).is_ok();
            for (start, end, pattern) in Matches::new(automaton, text, is_text) {
                let token = &self.tokens[chosen[pattern]];
                if start < done {
                    continue;
                }
                let mut before = &text[done..start];
                if token.strips_left {
                    before = before.trim_end();
                }
                if !before.is_empty() {
                    segments.push(Segment::Text(before));
                }
                segments.push(Segment::Token(token.id));
                done = end;
                if token.strips_right {
                    done += text[done..].len() - text[done..].trim_start().len();
                }
            }
        }
        if done < text.len() {
            segments.push(Segment::Text(&text[done..]));
        }
        segments
    }
}

/// What an automaton finds in a text, but for what is said to be text: there the search goes on at the next character.
pub struct Matches<'a, IsText: Fn(usize, usize) -> bool> {
    automaton: &'a AhoCorasick,
    text: &'a str,
    is_text: IsText,
    at: usize,
}

impl<'a, IsText: Fn(usize, usize) -> bool> Matches<'a, IsText> {
    /// `is_text(start, end)`: whether a find is none.
    pub fn new(automaton: &'a AhoCorasick, text: &'a str, is_text: IsText) -> Self {
        Matches { automaton, text, is_text, at: 0 }
    }
}

impl<IsText: Fn(usize, usize) -> bool> Iterator for Matches<'_, IsText> {
    /// Where it begins and ends, and the number of its pattern.
    type Item = (usize, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.automaton.find(Input::new(self.text).range(self.at..))?;
            if !(self.is_text)(found.start(), found.end()) {
                self.at = found.end();
                return Some((found.start(), found.end(), found.pattern().as_usize()));
            }
            self.at = found.start() + self.text[found.start()..].chars().next().map_or(1, char::len_utf8);
        }
    }
}
