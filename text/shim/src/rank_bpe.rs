//! tiktoken-type tokenizers: a pattern cuts the text into pieces, byte pairs of a piece are merged in order of rank.

use crate::guard::{invalid, Outcome};
use crate::pair_merge::{self, Symbol};
use crate::pre_tokenizer;
use crate::special_token::{Segment, SpecialToken, SpecialTokens};
use ahash::AHashMap;
use base64::Engine;
use onig::Regex;
use unicode_normalization::{is_nfc_quick, IsNormalized, UnicodeNormalization};

/// What a vocabulary of bare ranks does not say itself.
struct Pattern {
    names: &'static [&'static str],
    /// Number of ranks by which the vocabulary is recognised when no name is given.
    ranks: &'static [usize],
    regex: &'static str,
    is_nfc: bool,
    specials: &'static [(&'static str, u32)],
    bos: Option<&'static str>,
}

const PATTERNS: &[Pattern] = &[
    Pattern {
        names: &["gpt2", "gpt-2", "r50k_base", "p50k_base"],
        ranks: &[50_256, 50_257],
        regex: pre_tokenizer::GPT2,
        is_nfc: false,
        specials: &[("<|endoftext|>", 50_256)],
        bos: None,
    },
    Pattern {
        names: &["cl100k", "cl100k_base", "gpt-4"],
        ranks: &[100_256],
        regex: pre_tokenizer::CL100K,
        is_nfc: false,
        specials: &[
            ("<|endoftext|>", 100_257),
            ("<|fim_prefix|>", 100_258),
            ("<|fim_middle|>", 100_259),
            ("<|fim_suffix|>", 100_260),
            ("<|endofprompt|>", 100_276),
        ],
        bos: None,
    },
    Pattern {
        names: &["o200k", "o200k_base", "gpt-4o"],
        ranks: &[199_998],
        regex: pre_tokenizer::O200K,
        is_nfc: false,
        specials: &[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)],
        bos: None,
    },
    Pattern {
        names: &["llama3", "llama-3", "llama-bpe"],
        ranks: &[128_000],
        regex: pre_tokenizer::CL100K,
        is_nfc: false,
        specials: &[
            ("<|begin_of_text|>", 128_000),
            ("<|end_of_text|>", 128_001),
            ("<|reserved_special_token_0|>", 128_002),
            ("<|reserved_special_token_1|>", 128_003),
            ("<|finetune_right_pad_id|>", 128_004),
            ("<|reserved_special_token_2|>", 128_005),
            ("<|start_header_id|>", 128_006),
            ("<|end_header_id|>", 128_007),
            ("<|eom_id|>", 128_008),
            ("<|eot_id|>", 128_009),
            ("<|python_tag|>", 128_010),
        ],
        bos: Some("<|begin_of_text|>"),
    },
    Pattern {
        names: &["qwen2", "qwen", "qwen2.5", "qwen3"],
        ranks: &[151_643],
        regex: pre_tokenizer::QWEN2,
        is_nfc: true,
        specials: &[("<|endoftext|>", 151_643), ("<|im_start|>", 151_644), ("<|im_end|>", 151_645)],
        bos: None,
    },
];

fn pattern_by_name(name: &str) -> Outcome<&'static Pattern> {
    match PATTERNS.iter().find(|pattern| pattern.names.contains(&name)) {
        Some(pattern) => Ok(pattern),
        None => invalid(format!("no pattern is called \"{name}\"; there are {}", pattern_names())),
    }
}

/// The first name of each pattern, for messages.
pub fn pattern_names() -> String {
    PATTERNS.iter().map(|pattern| pattern.names[0]).collect::<Vec<_>>().join(", ")
}

pub struct RankBpe {
    ranks: AHashMap<Box<[u8]>, u32>,
    token_bytes_max: usize,
    regex: Regex,
    is_nfc: bool,
    specials: SpecialTokens,
    bos: Option<u32>,
    tokens_total: usize,
}

fn parse_ranks(file: &[u8]) -> Outcome<AHashMap<Box<[u8]>, u32>> {
    let mut ranks = AHashMap::new();
    for (position, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = || format!("line {} is not \"BASE64 RANK\"", position + 1);
        let Some(space) = line.iter().position(|&byte| byte == b' ') else { return invalid(wrong()) };
        let token = base64::engine::general_purpose::STANDARD.decode(&line[..space]);
        let rank = std::str::from_utf8(&line[space + 1..]).ok().and_then(|text| text.trim().parse::<u32>().ok());
        match (token, rank) {
            (Ok(token), Some(rank)) if !token.is_empty() && rank < (1 << 24) => {
                if ranks.insert(token.into_boxed_slice(), rank).is_some() {
                    return invalid(format!("line {} repeats a token", position + 1));
                }
            }
            _ => return invalid(wrong()),
        }
    }
    if ranks.is_empty() {
        return invalid("the rank file is empty");
    }
    Ok(ranks)
}

impl RankBpe {
    /// `pattern`: a name, or empty to recognise the vocabulary by its size. `added`: special tokens that come with the
    /// model; when there are none, those that belong to the pattern are used.
    pub fn load(file: &[u8], pattern: &str, added: Vec<SpecialToken>, bos: Option<&str>) -> Outcome<RankBpe> {
        let ranks = parse_ranks(file)?;
        let pattern = if pattern.is_empty() {
            match PATTERNS.iter().find(|pattern| pattern.ranks.contains(&ranks.len())) {
                Some(pattern) => pattern,
                None => {
                    return invalid(format!(
                        "a vocabulary of {} bare ranks is not known: name its pattern, one of {}",
                        ranks.len(),
                        pattern_names()
                    ))
                }
            }
        } else {
            pattern_by_name(pattern)?
        };
        let ranks_end = ranks.values().copied().max().unwrap_or(0) + 1;
        let mut specials = added;
        if specials.is_empty() {
            for &(text, id) in pattern.specials {
                if id >= ranks_end || !ranks.values().any(|&rank| rank == id) {
                    let text = text.to_owned();
                    specials.push(SpecialToken { id, text, is_special: true, strips_left: false, strips_right: false });
                }
            }
            if pattern.names[0] == "llama3" {
                for number in 3..248u32 {
                    let text = format!("<|reserved_special_token_{number}|>");
                    let id = 128_008 + number;
                    specials.push(SpecialToken { id, text, is_special: true, strips_left: false, strips_right: false });
                }
            }
        }
        let tokens_total = specials.iter().map(|token| token.id + 1).max().unwrap_or(0).max(ranks_end) as usize;
        let specials = SpecialTokens::new(specials)?;
        let regex = match Regex::new(pattern.regex) {
            Ok(regex) => regex,
            Err(error) => return invalid(format!("the pattern does not compile: {error}")),
        };
        let bos = bos.or(pattern.bos).and_then(|text| specials.id_of(text));
        let token_bytes_max = ranks.keys().map(|token| token.len()).max().unwrap_or(1);
        Ok(RankBpe { ranks, token_bytes_max, regex, is_nfc: pattern.is_nfc, specials, bos, tokens_total })
    }

    fn encode_piece(&self, piece: &[u8], ids: &mut Vec<u32>) -> Outcome<()> {
        if let Some(&rank) = self.ranks.get(piece) {
            ids.push(rank);
            return Ok(());
        }
        let bytes = (0..piece.len()).map(|at| Symbol { start: at, end: at + 1, is_frozen: false }).collect();
        let parts = pair_merge::merge(piece, bytes, self.token_bytes_max, |joined| self.ranks.get(joined).copied());
        for part in parts {
            match self.ranks.get(&piece[part.start..part.end]) {
                Some(&rank) => ids.push(rank),
                None => return invalid(format!("the vocabulary has no token for byte {}", piece[part.start])),
            }
        }
        Ok(())
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Outcome<()> {
        let normalized: String;
        let text = if self.is_nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            normalized = text.nfc().collect();
            &normalized
        } else {
            text
        };
        let mut done = 0;
        for (start, end) in self.regex.find_iter(text) {
            if start > done {
                self.encode_piece(&text.as_bytes()[done..start], ids)?;
            }
            if end > start {
                self.encode_piece(&text.as_bytes()[start..end], ids)?;
            }
            done = end;
        }
        if done < text.len() {
            self.encode_piece(&text.as_bytes()[done..], ids)?;
        }
        Ok(())
    }

    pub fn encode(&self, text: &str, parse_special: bool, text_starts: &[usize]) -> Outcome<Vec<u32>> {
        let mut ids = Vec::new();
        for segment in self.specials.cut(text, parse_special, text_starts) {
            match segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(text) => self.encode_text(text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    pub fn tokens_total(&self) -> usize {
        self.tokens_total
    }
    pub fn ranks(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.ranks.iter().map(|(token, &rank)| (token.as_ref(), rank))
    }
    pub fn specials(&self) -> &SpecialTokens {
        &self.specials
    }
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
    pub fn is_nfc(&self) -> bool {
        self.is_nfc
    }
}
