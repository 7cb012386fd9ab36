//! The inside of a template's tag as tokens of Jinja2.

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Name(String),
    Number(String),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
}

const SIGNS: [&str; 31] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",",
    ".", ":", "|", ";", "!", "&", "^", "@", "$",
];
/// Cuts the inside of a tag into tokens; also how long it is, up to `end` ("}}" or "%}") outside of brackets.
pub fn tokens_until(source: &str, end: &str) -> Option<(Vec<Token>, usize)> {
    let mut tokens = Vec::new();
    let mut open = 0usize;
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        let first = rest.chars().next()?;
        if open == 0 {
            if rest.starts_with(end) {
                return Some((tokens, at));
            }
            if (first == '-' || first == '+') && rest[1..].starts_with(end) {
                return Some((tokens, at));
            }
        }
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if first.is_alphabetic() || first == '_' {
            let size = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            tokens.push(Token::Name(rest[..size].to_owned()));
            at += size;
        } else if first.is_ascii_digit() {
            let size = number_size(rest);
            tokens.push(Token::Number(rest[..size].to_owned()));
            at += size;
        } else if first == '"' || first == '\'' {
            let (text, size) = string_at(rest, first)?;
            tokens.push(Token::Text(text));
            at += size;
        } else {
            let sign = *SIGNS.iter().find(|sign| rest.starts_with(**sign))?;
            match sign {
                "(" | "[" | "{" => open += 1,
                ")" | "]" | "}" => open = open.checked_sub(1)?,
                _ => {}
            }
            tokens.push(Token::Sign(sign));
            at += sign.len();
        }
    }
    None
}

fn number_size(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while at < bytes.len() && (bytes[at].is_ascii_digit() || bytes[at] == b'_') {
            at += 1;
        }
        at
    };
    if bytes.len() > 2 && bytes[0] == b'0' && matches!(bytes[1], b'x' | b'X' | b'o' | b'O' | b'b' | b'B') {
        return text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    }
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1 + sign);
        }
    }
    end
}

/// A string with Python's escapes, and how many bytes it takes with its quotes.
fn string_at(text: &str, quote: char) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((out, at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let (_, escape) = chars.next()?;
        let mut number = |digits: usize, radix: u32, mut value: u32| -> Option<char> {
            for _ in 0..digits {
                let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(radix)) else { break };
                value = value * radix + digit;
                chars.next();
            }
            char::from_u32(value)
        };
        match escape {
            '\n' => {}
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            '\\' | '\'' | '"' => out.push(escape),
            'x' => out.push(number(2, 16, 0)?),
            'u' => out.push(number(4, 16, 0)?),
            'U' => out.push(number(8, 16, 0)?),
            '0'..='7' => out.push(number(2, 8, escape.to_digit(8)?)?),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    None
}
