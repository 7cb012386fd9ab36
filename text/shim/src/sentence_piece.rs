//! SentencePiece: text to pieces by score (byte pairs) or by likelihood (unigram), with its normaliser.

use crate::guard::{invalid, Outcome};
use crate::pair_merge::{self, Symbol};
use crate::piece_file::{byte_of, Algorithm, PieceFile, PieceKind};
use crate::special_token::{Segment, SpecialToken, SpecialTokens};
use ahash::AHashMap;

const SPACE: &str = "\u{2581}";
/// How much worse than the worst piece an unknown character is (unigram), from SentencePiece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The precompiled character map of a normaliser: a double-array trie over UTF-8, then the replacements.
struct CharacterMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharacterMap {
    fn parse(blob: &[u8]) -> Outcome<Option<CharacterMap>> {
        if blob.is_empty() {
            return Ok(None);
        }
        let wrong = "the normaliser's character map is broken";
        if blob.len() < 8 {
            return invalid(wrong);
        }
        let size = u32::from_le_bytes([blob[0], blob[1], blob[2], blob[3]]) as usize;
        if size == 0 || size % 4 != 0 || size > blob.len() - 4 {
            return invalid(wrong);
        }
        let units = blob[4..4 + size].chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        Ok(Some(CharacterMap { units, replacements: blob[4 + size..].to_vec() }))
    }

    /// The longest entry at the start of `text`: its replacement and how many bytes of the text it stands for.
    fn longest(&self, text: &[u8]) -> Option<(&str, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut best = None;
        let mut at = offset(*self.units.first()?);
        for (position, &byte) in text.iter().enumerate() {
            at ^= usize::from(byte);
            let unit = *self.units.get(at)?;
            if unit & ((1 << 31) | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit & (1 << 8) != 0 {
                let value = *self.units.get(at)? & 0x7fff_ffff;
                best = Some((value as usize, position + 1));
            }
        }
        let (start, consumed) = best?;
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, consumed))
    }
}

pub struct SentencePiece {
    file: PieceFile,
    ids: AHashMap<Box<[u8]>, u32>,
    piece_bytes_max: usize,
    bytes: [Option<u32>; 256],
    unknown: u32,
    character_map: Option<CharacterMap>,
    /// Longest first.
    user_defined: Vec<String>,
    specials: SpecialTokens,
    score_min: f32,
    score_max: f32,
    /// Hugging Face's "legacy": every text between special tokens gets the leading space, not only the first.
    prefixes_every_segment: bool,
}

fn next_char_bytes(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

/// Higher scores first.
fn priority(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    !ascending
}

impl SentencePiece {
    /// `added`: tokens that the model's folder adds to, or marks in, the vocabulary.
    pub fn load(file: PieceFile, added: Vec<SpecialToken>, legacy: bool) -> Outcome<SentencePiece> {
        let mut ids = AHashMap::new();
        let mut bytes = [None; 256];
        let mut unknown = None;
        let mut user_defined = Vec::new();
        let mut specials = added;
        let (mut score_min, mut score_max) = (f32::INFINITY, f32::MIN_POSITIVE); // as SentencePiece starts them
        for (position, piece) in file.pieces.iter().enumerate() {
            let id = position as u32;
            match piece.kind {
                PieceKind::Byte => match byte_of(&piece.text) {
                    Some(byte) => bytes[usize::from(byte)] = Some(id),
                    None => return invalid(format!("piece {id} is of byte type but not of the form <0xAB>")),
                },
                PieceKind::Unknown => unknown = Some(id),
                PieceKind::Control => {
                    if !specials.iter().any(|token| token.id == id) {
                        let text = piece.text.clone();
                        specials.push(SpecialToken {
                            id,
                            text,
                            is_special: true,
                            strips_left: false,
                            strips_right: false,
                        });
                    }
                }
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                    if piece.score.is_nan() {
                        return invalid(format!("piece {id} has no score"));
                    }
                    let is_user_defined = piece.kind == PieceKind::UserDefined;
                    if is_user_defined && specials.iter().any(|token| token.id == id && !token.is_special) {
                        continue; // text is cut at it before
                    }
                    if is_user_defined {
                        user_defined.push(piece.text.clone());
                    } else if piece.kind == PieceKind::Normal {
                        score_min = score_min.min(piece.score);
                        score_max = score_max.max(piece.score);
                    }
                    ids.entry(piece.text.clone().into_bytes().into_boxed_slice()).or_insert(id);
                }
            }
        }
        user_defined.retain(|text| !text.is_empty());
        user_defined.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let Some(unknown) = unknown.or(file.unknown) else { return invalid("the vocabulary has no unknown piece") };
        if file.byte_fallback && bytes.iter().any(Option::is_none) {
            return invalid("byte fallback is on but not all 256 byte pieces are there");
        }
        Ok(SentencePiece {
            character_map: CharacterMap::parse(&file.charsmap)?,
            piece_bytes_max: ids.keys().map(|text: &Box<[u8]>| text.len()).max().unwrap_or(1),
            ids,
            bytes,
            unknown,
            user_defined,
            specials: SpecialTokens::new(specials)?,
            score_min,
            score_max,
            prefixes_every_segment: legacy,
            file,
        })
    }

    fn user_defined_at(&self, text: &str) -> Option<usize> {
        self.user_defined.iter().find(|symbol| text.starts_with(symbol.as_str())).map(String::len)
    }

    /// One step of normalisation: what the start of `text` becomes and how many bytes it takes.
    fn normalize_start<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(size) = self.user_defined_at(text) {
            return (&text[..size], size);
        }
        if let Some(map) = &self.character_map {
            if let Some((replacement, size)) = map.longest(text.as_bytes()) {
                if text.is_char_boundary(size) {
                    return (replacement, size);
                }
            }
        }
        let size = next_char_bytes(text);
        (&text[..size], size)
    }

    fn normalize(&self, text: &str, adds_prefix: bool) -> String {
        let space = if self.file.escapes_spaces { SPACE } else { " " };
        let mut rest = text;
        if self.file.removes_extra_spaces {
            while !rest.is_empty() {
                let (normalized, size) = self.normalize_start(rest);
                if normalized != " " {
                    break;
                }
                rest = &rest[size..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut out = String::with_capacity(rest.len() + 8);
        if adds_prefix && !self.file.space_is_suffix {
            out.push_str(space);
        }
        let mut after_space = self.file.removes_extra_spaces;
        while !rest.is_empty() {
            let (normalized, size) = self.normalize_start(rest);
            rest = &rest[size..];
            let normalized = if after_space { normalized.trim_start_matches(' ') } else { normalized };
            if !normalized.is_empty() {
                for c in normalized.chars() {
                    if c == ' ' {
                        out.push_str(space);
                    } else {
                        out.push(c);
                    }
                }
                after_space = normalized.ends_with(' ');
            }
            if !self.file.removes_extra_spaces {
                after_space = false;
            }
        }
        if self.file.removes_extra_spaces {
            while out.ends_with(space) {
                out.truncate(out.len() - space.len());
            }
        }
        if adds_prefix && self.file.space_is_suffix {
            out.push_str(space);
        }
        out
    }

    /// Appends the id of a piece of normalised text that is no token: its bytes, or one unknown for a run of them.
    fn push_unknown(&self, piece: &[u8], after_unknown: bool, ids: &mut Vec<u32>) {
        if self.file.byte_fallback {
            ids.extend(piece.iter().filter_map(|&byte| self.bytes[usize::from(byte)]));
        } else if !after_unknown {
            ids.push(self.unknown);
        }
    }

    fn encode_bpe(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let rest = &text[start..];
            let (size, is_frozen) = match self.user_defined_at(rest) {
                Some(size) => (size, true),
                None => (next_char_bytes(rest), false),
            };
            symbols.push(Symbol { start, end: start + size, is_frozen });
            start += size;
        }
        let parts = pair_merge::merge(text.as_bytes(), symbols, self.piece_bytes_max, |joined| {
            self.ids.get(joined).map(|&id| priority(self.file.pieces[id as usize].score))
        });
        let mut after_unknown = false;
        for part in parts {
            let piece = &text.as_bytes()[part.start..part.end];
            match self.ids.get(piece) {
                Some(&id) if self.file.pieces[id as usize].kind == PieceKind::Unused => {
                    after_unknown = self.split_unused(&text[part.start..part.end], after_unknown, ids);
                }
                Some(&id) => {
                    ids.push(id);
                    after_unknown = false;
                }
                None => {
                    self.push_unknown(piece, after_unknown, ids);
                    after_unknown = true;
                }
            }
        }
    }

    /// A merge ended in a piece that must not be used: its best split into pieces that may.
    fn split_unused(&self, text: &str, after_unknown: bool, ids: &mut Vec<u32>) -> bool {
        let usable = |piece: &str| {
            self.ids
                .get(piece.as_bytes())
                .copied()
                .filter(|&id| self.file.pieces[id as usize].kind != PieceKind::Unused)
        };
        let mut after_unknown = after_unknown;
        let mut rest = text;
        while !rest.is_empty() {
            let ends: Vec<usize> = rest.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
            match ends.iter().rev().find_map(|&end| usable(&rest[..end]).map(|id| (id, end))) {
                Some((id, end)) => {
                    ids.push(id);
                    after_unknown = false;
                    rest = &rest[end..];
                }
                None => {
                    let size = next_char_bytes(rest);
                    self.push_unknown(&rest.as_bytes()[..size], after_unknown, ids);
                    after_unknown = true;
                    rest = &rest[size..];
                }
            }
        }
        after_unknown
    }

    /// The most likely way to cut the text into pieces (Viterbi).
    fn encode_unigram(&self, text: &str, ids: &mut Vec<u32>) {
        #[derive(Clone, Copy)]
        struct Node {
            id: u32,
            score: f32,
            start: usize,
        }
        const NOWHERE: usize = usize::MAX;
        let bytes = text.as_bytes();
        let mut best = vec![Node { id: self.unknown, score: 0.0, start: NOWHERE }; bytes.len() + 1];
        let unknown_score = self.score_min - UNKNOWN_PENALTY;
        let mut start = 0;
        while start < bytes.len() {
            let so_far = best[start].score;
            let char_size = next_char_bytes(&text[start..]);
            let mut has_single = false;
            for size in 1..=self.piece_bytes_max.min(bytes.len() - start) {
                if !text.is_char_boundary(start + size) {
                    continue;
                }
                let Some(&id) = self.ids.get(&bytes[start..start + size]) else { continue };
                let piece = &self.file.pieces[id as usize];
                let score = match piece.kind {
                    PieceKind::Unused => continue,
                    PieceKind::UserDefined => size as f32 * self.score_max - 0.1,
                    _ => piece.score,
                };
                let node = &mut best[start + size];
                if node.start == NOWHERE || so_far + score > node.score {
                    *node = Node { id, score: so_far + score, start };
                }
                has_single |= size == char_size;
            }
            if !has_single {
                let node = &mut best[start + char_size];
                if node.start == NOWHERE || so_far + unknown_score > node.score {
                    *node = Node { id: self.unknown, score: so_far + unknown_score, start };
                }
            }
            start += char_size;
        }
        let mut path = Vec::new();
        let mut end = bytes.len();
        while end > 0 {
            let node = best[end];
            path.push((node.id, node.start, end));
            end = node.start;
        }
        let mut after_unknown = false;
        for (id, start, end) in path.into_iter().rev() {
            if id == self.unknown {
                self.push_unknown(&bytes[start..end], after_unknown, ids);
                after_unknown = true;
            } else {
                ids.push(id);
                after_unknown = false;
            }
        }
    }

    pub fn encode(&self, text: &str, parse_special: bool, text_starts: &[usize]) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut is_first = true;
        for segment in self.specials.cut(text, parse_special, text_starts) {
            match segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(text) => {
                    let adds_prefix = self.file.adds_dummy_prefix && (is_first || self.prefixes_every_segment);
                    let normalized = self.normalize(text, adds_prefix);
                    match self.file.algorithm {
                        Algorithm::Bpe => self.encode_bpe(&normalized, &mut ids),
                        Algorithm::Unigram => self.encode_unigram(&normalized, &mut ids),
                    }
                }
            }
            is_first = false;
        }
        ids
    }

    /// Whether nothing of a text is dropped on the way to its tokens.
    pub fn keeps_text(&self) -> bool {
        self.file.charsmap.is_empty()
            && !self.file.removes_extra_spaces
            && self.file.byte_fallback
            && self.bytes.iter().all(Option::is_some)
    }

    pub fn file(&self) -> &PieceFile {
        &self.file
    }
    pub fn specials(&self) -> &SpecialTokens {
        &self.specials
    }
}
