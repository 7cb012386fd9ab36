//! Methods of Python's strings and lists that templates call, where `minijinja_contrib::pycompat` lacks them or counts
//! bytes instead of characters.

use crate::{python_container, python_value};
use minijinja::value::{from_args, Value};
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

/// The part of a text between two places as Python counts them (characters, negative ones from the end), and how many
/// characters come before it. Nothing when it begins behind the end.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, i64)> {
    if start.is_none() && end.is_none() {
        return Some((text, 0));
    }
    let size = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (at + size).max(0) } else { at };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(size)).min(size));
    if start > size || start > end {
        return None;
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Some((&text[byte(start)..byte(end)], start))
}

fn find(text: &str, what: &str, from_right: bool, start: Option<i64>, end: Option<i64>) -> i64 {
    let Some((inside, before)) = part(text, start, end) else { return -1 };
    let at = if from_right { inside.rfind(what) } else { inside.find(what) };
    at.map_or(-1, |at| before + inside[..at].chars().count() as i64)
}

/// `startswith` and `endswith`, of one text or a tuple of them.
fn has_end(text: &str, method: &str, args: &[Value]) -> Result<bool, Error> {
    let (what, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((inside, _)) = part(text, start, end) else { return Ok(false) };
    let is_it = |what: &Value| match what.as_str() {
        Some(what) if method == "startswith" => Ok(inside.starts_with(what)),
        Some(what) => Ok(inside.ends_with(what)),
        None => Err(Error::new(ErrorKind::InvalidOperation, format!("{method} takes a string or a tuple of strings"))),
    };
    if what.as_str().is_some() {
        return is_it(&what);
    }
    for one in what.try_iter()? {
        if is_it(&one)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn expand_tabs(text: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size.clamp(0, 1000)).unwrap_or(0);
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
        if out.len() > 10_000_000 {
            return Err(Error::new(ErrorKind::OutOfFuel, "the expanded string is too large"));
        }
    }
    Ok(out)
}

/// `table`: code points to texts, code points or none.
fn translate(text: &str, table: &Value) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let found = table.get_item(&Value::from(c as u32))?;
        if found.is_undefined() {
            out.push(c);
        } else if let Some(new) = found.as_str() {
            out.push_str(new);
        } else if !found.is_none() {
            match u32::try_from(found).ok().and_then(char::from_u32) {
                Some(new) => out.push(new),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "translate: not a character")),
            }
        }
    }
    Ok(out)
}

/// Words begin with a capital and go on without one.
fn is_title(text: &str) -> bool {
    let (mut after_letter, mut has_letter) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() && after_letter || c.is_lowercase() && !after_letter {
            return false;
        }
        after_letter = c.is_uppercase() || c.is_lowercase();
        has_letter |= after_letter;
    }
    has_letter
}

fn tuple_of(parts: Vec<String>) -> Value {
    Value::from_object(python_value::Tuple(parts.into_iter().map(Value::from).collect()))
}

/// `str.center` and the like.
pub fn padded(text: &str, width: i64, fill: Option<&str>, left: bool, right: bool) -> Result<String, Error> {
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
            tuple_of(match at {
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
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(find(text, what, method == "rfind", start, end))
        }
        "index" | "rindex" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            match find(text, what, method == "rindex", start, end) {
                -1 => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
                at => Value::from(at),
            }
        }
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let Some((inside, _)) = part(text, start, end) else { return Ok(Some(Value::from(0))) };
            Value::from(if what.is_empty() { inside.chars().count() + 1 } else { inside.matches(what).count() })
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
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "startswith" | "endswith" => Value::from(has_end(text, method, args)?),
        "expandtabs" => {
            let (positional, keywords): (&[Value], minijinja::value::Kwargs) = from_args(args)?;
            let size = match keywords.get::<Option<i64>>("tabsize")? {
                Some(size) => size,
                None => positional.first().map_or(Ok(8), |size| i64::try_from(size.clone()))?,
            };
            keywords.assert_all_used()?;
            Value::from(expand_tabs(text, size)?)
        }
        "translate" => {
            let (table,): (Value,) = from_args(args)?;
            Value::from(translate(text, &table)?)
        }
        "istitle" => Value::from(is_title(text)),
        "isprintable" => Value::from(text.chars().all(python_value::is_printable)),
        "isidentifier" => Value::from(
            text.chars().all(|c| c.is_alphanumeric() || c == '_')
                && text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_'),
        ),
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
    if let Some(result) = python_container::method(value, method, args)? {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
