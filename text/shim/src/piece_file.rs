//! Readers of the files that piece vocabularies come in: SentencePiece's protobuf `tokenizer.model`, and lists of pieces
//! in JSON lines.

use crate::guard::{invalid, unimplemented_by_us, Outcome};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Debug)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Unigram,
    Bpe,
}

/// A vocabulary with everything that decides how text becomes pieces.
#[derive(Clone, Debug)]
pub struct PieceFile {
    pub pieces: Vec<Piece>,
    pub algorithm: Algorithm,
    pub byte_fallback: bool,
    pub adds_dummy_prefix: bool,
    pub removes_extra_spaces: bool,
    pub escapes_spaces: bool,
    pub space_is_suffix: bool,
    pub charsmap: Vec<u8>,
    /// Where no piece is of the unknown kind.
    pub unknown: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

/// One field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

struct Message<'a> {
    rest: &'a [u8],
}

fn broken<T>() -> Outcome<T> {
    invalid("the SentencePiece model is cut short or broken")
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Outcome<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else { return broken() };
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        broken()
    }

    fn take(&mut self, size: u64) -> Outcome<&'a [u8]> {
        match usize::try_from(size) {
            Ok(size) if size <= self.rest.len() => {
                let (taken, rest) = self.rest.split_at(size);
                self.rest = rest;
                Ok(taken)
            }
            _ => broken(),
        }
    }

    fn next(&mut self) -> Outcome<Option<(u64, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let size = self.varint()?;
                Field::Bytes(self.take(size)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => return broken(),
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn parse_piece(bytes: &[u8]) -> Outcome<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    let mut message = Message { rest: bytes };
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => piece.text = text.to_owned(),
                Err(_) => return invalid("a piece of the SentencePiece model is not UTF-8"),
            },
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    other => return invalid(format!("a piece has the unknown type {other}")),
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn token_id(number: u64) -> Option<u32> {
    // Negative ids (a token that is switched off) come as 64-bit two's complement.
    i32::try_from(number as i64).ok().and_then(|id| u32::try_from(id).ok())
}

/// Reads SentencePiece's `ModelProto`.
pub fn parse_sentence_piece(file: &[u8]) -> Outcome<PieceFile> {
    let mut model = PieceFile {
        pieces: Vec::new(),
        algorithm: Algorithm::Unigram,
        byte_fallback: false,
        adds_dummy_prefix: true,
        removes_extra_spaces: true,
        escapes_spaces: true,
        space_is_suffix: false,
        charsmap: Vec::new(),
        unknown: None,
        bos: Some(1),
        eos: Some(2),
    };
    let mut message = Message { rest: file };
    while let Some(field) = message.next()? {
        match field {
            (1, Field::Bytes(bytes)) => model.pieces.push(parse_piece(bytes)?),
            (2, Field::Bytes(bytes)) => {
                let mut trainer = Message { rest: bytes };
                while let Some(field) = trainer.next()? {
                    match field {
                        (3, Field::Number(1)) => model.algorithm = Algorithm::Unigram,
                        (3, Field::Number(2)) => model.algorithm = Algorithm::Bpe,
                        (3, Field::Number(other)) => {
                            return unimplemented_by_us(format!("SentencePiece model type {other} (word or char)"))
                        }
                        (24, Field::Number(flag)) => model.space_is_suffix = flag != 0,
                        (35, Field::Number(flag)) => model.byte_fallback = flag != 0,
                        (41, Field::Number(id)) => model.bos = token_id(id),
                        (42, Field::Number(id)) => model.eos = token_id(id),
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(bytes)) => {
                let mut normalizer = Message { rest: bytes };
                while let Some(field) = normalizer.next()? {
                    match field {
                        (2, Field::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
                        (3, Field::Number(flag)) => model.adds_dummy_prefix = flag != 0,
                        (4, Field::Number(flag)) => model.removes_extra_spaces = flag != 0,
                        (5, Field::Number(flag)) => model.escapes_spaces = flag != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return broken();
    }
    Ok(model)
}

/// `<0xAB>` as a byte.
pub fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// Reads a list of pieces, one JSON object a line: `{"id": 0, "piece": "<unk>", "score": 0.0}`, ids in order. Scored
/// byte-pair encoding as llama2.c does it; 0 is unknown, 1 begins and 2 ends a text.
pub fn parse_piece_lines(file: &[u8]) -> Outcome<PieceFile> {
    let mut pieces = Vec::new();
    for line in file.split(|&byte| byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row: serde_json::Value = match serde_json::from_slice(line) {
            Ok(row) => row,
            Err(error) => return invalid(format!("line {} is not JSON: {error}", pieces.len() + 1)),
        };
        let id = row.get("id").and_then(serde_json::Value::as_u64);
        let text = row.get("piece").and_then(serde_json::Value::as_str);
        let score = row.get("score").and_then(serde_json::Value::as_f64);
        let (Some(id), Some(text), Some(score)) = (id, text, score) else {
            return invalid(format!("line {} needs id, piece and score", pieces.len() + 1));
        };
        if id != pieces.len() as u64 {
            return invalid(format!("line {}: ids must count from 0, found {id}", pieces.len() + 1));
        }
        let kind = match id {
            0 => PieceKind::Unknown,
            1 | 2 => PieceKind::Control,
            _ if byte_of(text).is_some() => PieceKind::Byte,
            _ => PieceKind::Normal,
        };
        let text = if id < 3 { text.trim().to_owned() } else { text.replace(' ', "\u{2581}") };
        pieces.push(Piece { text, score: score as f32, kind });
    }
    if pieces.len() < 4 {
        return invalid("the list of pieces is empty");
    }
    let byte_fallback = pieces.iter().any(|piece| piece.kind == PieceKind::Byte);
    Ok(PieceFile {
        pieces,
        algorithm: Algorithm::Bpe,
        byte_fallback,
        adds_dummy_prefix: true,
        removes_extra_spaces: false,
        escapes_spaces: true,
        space_is_suffix: false,
        charsmap: Vec::new(),
        unknown: None,
        bos: Some(1),
        eos: Some(2),
    })
}
