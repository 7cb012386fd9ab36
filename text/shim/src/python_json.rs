//! `tojson` as Hugging Face defines it: Python's `json.dumps` with `ensure_ascii=False`.

use crate::python_value::{as_float, float_repr};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write as _;

const DEPTH_MAX: usize = 200;

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
    bytes_max: usize,
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// The filter: `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub fn filter(value: &Value, positional: Rest<Value>, keywords: Kwargs, bytes_max: usize) -> Result<Value, Error> {
    let argument = |position: usize, name: &str| -> Result<Value, Error> {
        match keywords.get::<Option<Value>>(name)? {
            Some(value) => Ok(value),
            None => Ok(positional.get(position).cloned().unwrap_or_else(|| Value::from(()))),
        }
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_true();
    let indent_value = argument(1, "indent")?;
    let separators = argument(2, "separators")?;
    let sort_keys = argument(3, "sort_keys")?.is_true();
    keywords.assert_all_used()?;
    let indent = match indent_value.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => Some(indent_value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bool => Some(" ".repeat(usize::from(indent_value.is_true()))),
        _ => match i64::try_from(indent_value) {
            Ok(width) => Some(" ".repeat(width.clamp(0, 64) as usize)),
            Err(_) => return Err(refuse("tojson: indent must be a number or a string")),
        },
    };
    let (item_separator, key_separator) = if separators.is_none() || separators.is_undefined() {
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
    } else {
        let parts: Vec<Value> = separators.try_iter()?.collect();
        match parts.as_slice() {
            [item, key] if item.as_str().is_some() && key.as_str().is_some() => (item.to_string(), key.to_string()),
            _ => return Err(refuse("tojson: separators must be two strings")),
        }
    };
    let style = Style { ensure_ascii, indent, item_separator, key_separator, sort_keys, bytes_max };
    let mut out = String::new();
    write_value(value, &style, 0, &mut out)?;
    Ok(Value::from(out))
}

fn new_line(style: &Style, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_string(text: &str, style: &Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if style.ensure_ascii && (c as u32) >= 0x7f => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn number_text(value: &Value) -> String {
    match as_float(value) {
        Some(number) if number.is_nan() => "NaN".into(),
        Some(number) if number.is_infinite() => (if number > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        Some(number) => float_repr(number),
        None => value.to_string(),
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None => Some("null".into()),
        ValueKind::Bool => Some((if value.is_true() { "true" } else { "false" }).into()),
        ValueKind::Number => Some(number_text(value)),
        _ => None,
    }
}

fn write_value(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(refuse("tojson: nested too deeply"));
    }
    if out.len() > style.bytes_max {
        return Err(Error::new(ErrorKind::OutOfFuel, "tojson: the result is too large"));
    }
    if let Some(text) = value.as_str() {
        write_string(text, style, out);
        return Ok(());
    }
    if let Some(text) = scalar_text(value) {
        out.push_str(&text);
        return Ok(());
    }
    match value.kind() {
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            out.push('{');
            let is_empty = keys.is_empty();
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    out.push_str(&style.item_separator);
                }
                new_line(style, depth + 1, out);
                match (key.as_str(), scalar_text(&key)) {
                    (Some(text), _) => write_string(text, style, out),
                    (None, Some(text)) => write_string(&text, style, out),
                    _ => return Err(refuse("tojson: keys must be strings, numbers, booleans or none")),
                }
                out.push_str(&style.key_separator);
                write_value(&value.get_item(&key)?, style, depth + 1, out)?;
            }
            if !is_empty {
                new_line(style, depth, out);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut is_empty = true;
            for item in value.try_iter()? {
                if !is_empty {
                    out.push_str(&style.item_separator);
                }
                is_empty = false;
                new_line(style, depth + 1, out);
                write_value(&item, style, depth + 1, out)?;
            }
            if !is_empty {
                new_line(style, depth, out);
            }
            out.push(']');
        }
        kind => return Err(refuse(format!("tojson: a value of type {kind} is not JSON serializable"))),
    }
    Ok(())
}
