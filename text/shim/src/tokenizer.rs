//! One tokenizer, whatever file it came from.

use crate::gguf_vocabulary::Vocabulary;
use crate::guard::{invalid, Outcome};
use crate::hugging_face::{self, HuggingFace};
use crate::piece_file::{self, PieceFile, PieceKind};
use crate::rank_bpe::RankBpe;
use crate::sentence_piece::SentencePiece;
use crate::special_token::SpecialToken;
use crate::token_bound;
use crate::token_table::{FirstRule, TokenTable, FLAG_ABSENT, FLAG_BYTE, FLAG_SPECIAL};
use serde::Deserialize;

/// What the bytes given to `load` are; the numbers are those of `sluice_text.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    HuggingFaceJson,
    Ranks,
    SentencePieceModel,
    VocabAndMerges,
    WordList,
    PieceLines,
}

impl FileKind {
    pub fn from_number(number: i32) -> Outcome<FileKind> {
        Ok(match number {
            0 => FileKind::HuggingFaceJson,
            1 => FileKind::Ranks,
            2 => FileKind::SentencePieceModel,
            3 => FileKind::VocabAndMerges,
            4 => FileKind::WordList,
            5 => FileKind::PieceLines,
            other => return invalid(format!("{other} is no kind of tokenizer file")),
        })
    }
}

#[derive(Deserialize, Clone)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// What `tokenizer_config.json` or the user adds to the file.
#[derive(Deserialize, Default)]
#[serde(default)]
struct LoadOptions {
    pattern: String,
    bos: Option<String>,
    eos: Option<String>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    lower_case: Option<bool>,
    legacy: Option<bool>,
    added_tokens: Vec<AddedToken>,
    special_texts: Vec<String>,
}

enum Kind {
    HuggingFace(Box<HuggingFace>),
    Ranks(Box<RankBpe>),
    Pieces(Box<SentencePiece>),
}

pub struct Tokenizer {
    kind: Kind,
    table: TokenTable,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
    /// 0: nothing is known.
    text_bytes_per_token: u64,
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Outcome<&'a str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => invalid(format!("{what} is not UTF-8: byte {} is wrong", error.valid_up_to())),
    }
}

fn rank_table(ranks: &RankBpe) -> TokenTable {
    let mut tokens: Vec<(&[u8], u8)> = vec![(&[], FLAG_ABSENT); ranks.tokens_total()];
    for (bytes, id) in ranks.ranks() {
        tokens[id as usize] = (bytes, 0);
    }
    for token in ranks.specials().tokens() {
        tokens[token.id as usize] = (token.text.as_bytes(), if token.is_special { FLAG_SPECIAL } else { 0 });
    }
    let mut table = TokenTable::default();
    for (bytes, flags) in tokens {
        table.push(bytes, flags);
    }
    table
}

fn piece_table(pieces: &SentencePiece) -> TokenTable {
    let file = pieces.file();
    let strips = file.adds_dummy_prefix || file.removes_extra_spaces;
    let mut table = TokenTable {
        first_rule: if strips { FirstRule::StripText } else { FirstRule::Nothing },
        leading_spaces: if file.removes_extra_spaces { u32::MAX } else { 1 },
        replaces_each_byte: true,
        ..TokenTable::default()
    };
    let mut tokens: Vec<(Vec<u8>, u8)> = Vec::new();
    for piece in &file.pieces {
        let plain = if file.escapes_spaces { piece.text.replace('\u{2581}', " ") } else { piece.text.clone() };
        tokens.push(match piece.kind {
            PieceKind::Byte => (piece_file::byte_of(&piece.text).into_iter().collect(), FLAG_BYTE),
            PieceKind::Control | PieceKind::Unknown => (plain.into_bytes(), FLAG_SPECIAL),
            _ => (plain.into_bytes(), 0),
        });
    }
    for token in pieces.specials().tokens() {
        let id = token.id as usize;
        if tokens.len() <= id {
            tokens.resize(id + 1, (Vec::new(), FLAG_ABSENT));
        }
        tokens[id] = (token.text.clone().into_bytes(), if token.is_special { FLAG_SPECIAL } else { 0 });
    }
    for (bytes, flags) in tokens {
        table.push(&bytes, flags);
    }
    table
}

impl Tokenizer {
    /// `first` is the file; `second` is `merges.txt` where the kind has two files, and empty otherwise.
    pub fn load(kind: FileKind, first: &[u8], second: &[u8], options_json: &str) -> Outcome<Tokenizer> {
        let options: LoadOptions = match serde_json::from_str(options_json) {
            Ok(options) => options,
            Err(error) => return invalid(format!("the tokenizer options are not understood: {error}")),
        };
        let added: Vec<SpecialToken> = options
            .added_tokens
            .iter()
            .cloned()
            .map(|token| SpecialToken {
                id: token.id,
                text: token.content,
                is_special: token.special,
                strips_left: token.lstrip,
                strips_right: token.rstrip,
            })
            .collect();
        if let Some(token) = added.iter().find(|token| token.id >= 1 << 22) {
            return invalid(format!("the added token {} has the impossible id {}", token.text, token.id));
        }
        match kind {
            FileKind::HuggingFaceJson => Self::from_hugging_face(text(first, "tokenizer.json")?, &added, &options),
            FileKind::VocabAndMerges => {
                let file = hugging_face::from_vocab_and_merges(
                    text(first, "vocab.json")?,
                    text(second, "merges.txt")?,
                    added,
                )?;
                Self::from_hugging_face(&file, &[], &options)
            }
            FileKind::WordList => {
                let lower_case = match options.pattern.as_str() {
                    "bert-uncased" | "bert-base-uncased" | "bert-bge" | "uncased" => Some(true),
                    "bert-cased" | "bert-base-cased" | "cased" => Some(false),
                    "" | "bert" => options.lower_case,
                    other => {
                        return invalid(format!(
                            "a word list has no pattern \"{other}\"; there are bert-uncased, bert-cased"
                        ))
                    }
                };
                let file = hugging_face::from_word_list(text(first, "the word list")?, lower_case, added)?;
                Self::from_hugging_face(&file, &[], &options)
            }
            FileKind::Ranks => {
                let ranks = RankBpe::load(first, &options.pattern, added, options.bos.as_deref())?;
                let adds_bos = options.add_bos.unwrap_or(ranks.bos().is_some());
                let eos = options.eos.as_deref().and_then(|text| ranks.specials().id_of(text));
                let table = rank_table(&ranks);
                Ok(Tokenizer {
                    text_bytes_per_token: token_bound::of_ranks(ranks.specials(), ranks.is_nfc(), &table),
                    table,
                    bos: ranks.bos(),
                    eos,
                    adds_bos,
                    adds_eos: options.add_eos.unwrap_or(false),
                    kind: Kind::Ranks(Box::new(ranks)),
                })
            }
            FileKind::SentencePieceModel => {
                Self::from_pieces(piece_file::parse_sentence_piece(first)?, added, &options)
            }
            FileKind::PieceLines => Self::from_pieces(piece_file::parse_piece_lines(first)?, added, &options),
        }
    }

    /// The vocabulary of a GGUF file.
    pub fn from_gguf(vocabulary: &Vocabulary) -> Outcome<Tokenizer> {
        match vocabulary.model {
            "gpt2" => {
                let (file, adds_bos) = vocabulary.to_tokenizer_json()?;
                let mut tokenizer = Self::from_hugging_face(&file, &[], &LoadOptions::default())?;
                (tokenizer.bos, tokenizer.eos) = (vocabulary.bos, vocabulary.eos);
                if let Kind::HuggingFace(model) = &mut tokenizer.kind {
                    model
                        .set_added(vocabulary.bos.filter(|_| adds_bos), vocabulary.eos.filter(|_| vocabulary.adds_eos));
                }
                Ok(tokenizer)
            }
            "llama" => {
                let (file, specials, adds_bos) = vocabulary.to_pieces()?;
                let options = LoadOptions {
                    add_bos: Some(adds_bos),
                    add_eos: Some(vocabulary.adds_eos),
                    ..LoadOptions::default()
                };
                Self::from_pieces(file, specials, &options)
            }
            _ => vocabulary.no_such_kind(),
        }
    }

    /// `added`: tokens that files beside `file` name.
    fn from_hugging_face(file: &str, added: &[SpecialToken], options: &LoadOptions) -> Outcome<Tokenizer> {
        let (mut model, table, text_bytes_per_token) = HuggingFace::load(file, added, &options.special_texts)?;
        let bos = options.bos.as_deref().and_then(|text| model.id_of(text));
        let eos = options.eos.as_deref().and_then(|text| model.id_of(text));
        if options.add_bos.is_some() || options.add_eos.is_some() {
            model.set_added(
                bos.filter(|_| options.add_bos == Some(true)),
                eos.filter(|_| options.add_eos == Some(true)),
            );
        }
        let kind = Kind::HuggingFace(Box::new(model));
        Ok(Tokenizer { kind, table, bos, eos, adds_bos: false, adds_eos: false, text_bytes_per_token })
    }

    fn from_pieces(file: PieceFile, added: Vec<SpecialToken>, options: &LoadOptions) -> Outcome<Tokenizer> {
        let end = file.pieces.len() as u32;
        let (bos, eos) = (file.bos.filter(|&id| id < end), file.eos.filter(|&id| id < end));
        let pieces = SentencePiece::load(file, added, options.legacy.unwrap_or(true))?;
        let table = piece_table(&pieces);
        let texts = pieces.file().pieces.iter().map(|piece| piece.text.as_str());
        let text_bytes_per_token =
            if pieces.keeps_text() { token_bound::of_pieces(pieces.specials(), texts, &table) } else { 0 };
        Ok(Tokenizer {
            table,
            text_bytes_per_token,
            bos,
            eos,
            adds_bos: options.add_bos.unwrap_or(bos.is_some()),
            adds_eos: options.add_eos.unwrap_or(false),
            kind: Kind::Pieces(Box::new(pieces)),
        })
    }

    /// `text_starts`: places of `text`, ascending, at which no token of a fixed text begins.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        text_starts: &[usize],
    ) -> Outcome<Vec<u32>> {
        let body = match &self.kind {
            Kind::HuggingFace(model) => return model.encode(text, add_special, parse_special, text_starts),
            Kind::Ranks(ranks) => ranks.encode(text, parse_special, text_starts)?,
            Kind::Pieces(pieces) => pieces.encode(text, parse_special, text_starts),
        };
        if !add_special {
            return Ok(body);
        }
        let bos = self.bos.filter(|_| self.adds_bos);
        let eos = self.eos.filter(|_| self.adds_eos);
        Ok(bos.into_iter().chain(body).chain(eos).collect())
    }

    pub fn id_of(&self, text: &str) -> Option<u32> {
        match &self.kind {
            Kind::HuggingFace(model) => model.id_of(text),
            Kind::Ranks(ranks) => ranks
                .specials()
                .id_of(text)
                .or_else(|| ranks.ranks().find(|(bytes, _)| *bytes == text.as_bytes()).map(|(_, id)| id)),
            Kind::Pieces(pieces) => pieces.specials().id_of(text).or_else(|| {
                pieces.file().pieces.iter().position(|piece| piece.text == text).map(|position| position as u32)
            }),
        }
    }

    pub fn table(&self) -> &TokenTable {
        &self.table
    }
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
    pub fn text_bytes_per_token(&self) -> u64 {
        self.text_bytes_per_token
    }
}
