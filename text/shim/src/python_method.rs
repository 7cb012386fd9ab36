//! Methods of Python's strings and lists that templates call, where `minijinja_contrib::pycompat` lacks them or counts
//! bytes instead of characters.

use minijinja::value::{from_args, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// `str.isspace` of one character; Python counts the four separators 1C..1F, Unicode does not.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn strip(text: &str, chars: Option<&str>, left: bool, right: bool) -> String {
    let gone = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let mut rest = text;
    if left {
        rest = rest.trim_start_matches(gone);
    }
    if right {
        rest = rest.trim_end_matches(gone);
    }
    rest.to_owned()
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}' | '\u{1d}' | '\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let mut end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        if rest[at..].starts_with("\r\n") {
            end = at + 2;
        }
        lines.push(rest[..if keep_ends { end } else { at }].to_owned());
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

fn split(text: &str, separator: Option<&str>, limit: Option<i64>, from_right: bool) -> Result<Vec<String>, Error> {
    let limit = match limit {
        Some(limit) if limit >= 0 => limit as usize,
        _ => usize::MAX,
    };
    let mut parts: Vec<String> = Vec::new();
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if from_right => {
            parts.extend(text.rsplitn(limit.saturating_add(1), separator).map(str::to_owned));
            parts.reverse();
        }
        Some(separator) => parts.extend(text.splitn(limit.saturating_add(1), separator).map(str::to_owned)),
        None if from_right => {
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                match rest.rfind(is_space) {
                    Some(at) if parts.len() < limit => {
                        let word = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                        parts.push(rest[word..].to_owned());
                        rest = rest[..at].trim_end_matches(is_space);
                    }
                    _ => {
                        parts.push(if parts.len() < limit { rest } else { rest.trim_end_matches(is_space) }.to_owned());
                        break;
                    }
                }
            }
            parts.reverse();
        }
        None => {
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                match rest.find(is_space) {
                    Some(at) if parts.len() < limit => {
                        parts.push(rest[..at].to_owned());
                        rest = rest[at..].trim_start_matches(is_space);
                    }
                    _ => {
                        parts.push(rest.to_owned());
                        break;
                    }
                }
            }
        }
    }
    Ok(parts)
}

fn find(text: &str, what: &str, from_right: bool) -> i64 {
    let at = if from_right { text.rfind(what) } else { text.find(what) };
    at.map_or(-1, |at| text[..at].chars().count() as i64)
}

fn padded(text: &str, width: i64, fill: Option<&str>, left: bool, right: bool) -> Result<String, Error> {
    let fill = fill.and_then(|fill| fill.chars().next()).unwrap_or(' ');
    let have = text.chars().count() as i64;
    let missing = (width - have).max(0);
    if missing > 1_000_000 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the padded string is too large"));
    }
    let before = match (left, right) {
        (true, true) => missing / 2 + (missing & width & 1),
        (true, false) => missing,
        _ => 0,
    };
    let mut out: String = std::iter::repeat_n(fill, before as usize).collect();
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, (missing - before) as usize));
    Ok(out)
}

fn list_of(parts: Vec<String>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            // `sep` and `maxsplit` may also come by name.
            let (positional, keywords): (&[Value], minijinja::value::Kwargs) = from_args(args)?;
            let separator = match keywords.get::<Option<Value>>("sep")? {
                Some(value) => Some(value),
                None => positional.first().cloned(),
            };
            let limit = match keywords.get::<Option<i64>>("maxsplit")? {
                Some(limit) => Some(limit),
                None => positional.get(1).map(|limit| i64::try_from(limit.clone())).transpose()?,
            };
            keywords.assert_all_used()?;
            let separator = separator.filter(|value| !value.is_none());
            let text_separator = match &separator {
                None => None,
                Some(value) => match value.as_str() {
                    Some(separator) => Some(separator),
                    None => return Err(Error::new(ErrorKind::InvalidOperation, "the separator must be a string")),
                },
            };
            list_of(split(text, text_separator, limit, method == "rsplit")?)
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            list_of(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let at = if method == "partition" { text.find(separator) } else { text.rfind(separator) };
            list_of(match at {
                Some(at) => vec![text[..at].into(), separator.into(), text[at + separator.len()..].into()],
                None if method == "partition" => vec![text.into(), String::new(), String::new()],
                None => vec![String::new(), String::new(), text.into()],
            })
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(find(text, what, method == "rfind"))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            match find(text, what, method == "rindex") {
                -1 => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
                at => Value::from(at),
            }
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(if what.is_empty() { text.chars().count() + 1 } else { text.matches(what).count() })
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            Value::from(padded(text, width, fill, method != "ljust", method != "rjust")?)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = if text.starts_with(['+', '-']) { 1 } else { 0 };
            Value::from(format!(
                "{}{}",
                &text[..sign],
                padded(&text[sign..], width - sign as i64, Some("0"), true, false)?
            ))
        }
        "swapcase" => Value::from(
            text.chars()
                .flat_map(|c| {
                    let swapped: Vec<char> =
                        if c.is_lowercase() { c.to_uppercase().collect() } else { c.to_lowercase().collect() };
                    swapped
                })
                .collect::<String>(),
        ),
        "casefold" => Value::from(text.to_lowercase()),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isupper" => Value::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
        "islower" => Value::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
        "isdigit" | "isnumeric" | "isdecimal" | "isalnum" | "isalpha" if text.is_empty() => Value::from(false),
        "isdecimal" => Value::from(text.chars().all(|c| c.is_ascii_digit())),
        _ => return Ok(None),
    }))
}

/// The environment's callback for methods that a value itself does not have.
pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = string_method(text, method, args)? {
            return Ok(result);
        }
    }
    if method == "index" && matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        let (what,): (Value,) = from_args(args)?;
        let mut items = value.try_iter()?;
        return match items.position(|item| item == what) {
            Some(at) => Ok(Value::from(at)),
            None => Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list")),
        };
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
