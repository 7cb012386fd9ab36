//! Jinja's filters where minijinja's differ from Python's or are missing.

use crate::{python_method, python_value};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("string", |value: &Value| python_value::text_of(value));
    environment.add_filter("trim", trim);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("wordcount", |value: &Value| python_value::text_of(value).split_whitespace().count());
    environment.add_filter("sum", sum);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("replace", replace);
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("indent", indent);
    environment.add_filter("attr", |value: &Value, name: &str| match value.kind() {
        ValueKind::Map => Ok(Value::UNDEFINED), // keys are no attributes
        _ => value.get_attr(name),
    });
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, |value: &Value| escape(&python_value::text_of(value)));
    }
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// An argument that may be given by place or by name.
fn argument(keywords: &Kwargs, name: &str, positional: Option<Value>) -> Result<Option<Value>, Error> {
    Ok(keywords.get::<Option<Value>>(name)?.or(positional))
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::Iterable => Ok(value.len().map_or_else(|| value.try_iter().map(Iterator::count), Ok)?),
        kind => value.len().ok_or_else(|| wrong(format!("a value of type {kind} has no length"))),
    }
}

fn trim(value: &Value, chars: Option<String>) -> String {
    python_method::strip(&python_value::text_of(value), chars.as_deref(), true, true)
}

/// `replace(old, new, count=None)`.
fn replace(value: &Value, old: &Value, new: &Value, count: Option<i64>, keywords: Kwargs) -> Result<String, Error> {
    let count = keywords.get::<Option<i64>>("count")?.or(count);
    keywords.assert_all_used()?;
    let (text, old, new) = (python_value::text_of(value), python_value::text_of(old), python_value::text_of(new));
    let count = count.filter(|count| *count >= 0).map_or(usize::MAX, |count| count as usize);
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.len() / old.len() };
    if places.min(count).saturating_mul(new.len()) > 64 << 20 {
        return Err(Error::new(ErrorKind::OutOfFuel, "the replaced text is too large"));
    }
    Ok(text.replacen(&old, &new, count))
}

fn center(value: &Value, width: Option<usize>, keywords: Kwargs) -> Result<String, Error> {
    let width = keywords.get::<Option<usize>>("width")?.or(width).unwrap_or(80);
    keywords.assert_all_used()?;
    python_method::padded(&python_value::text_of(value), width.min(1 << 20) as i64, None, true, true)
}

/// `truncate(length=255, killwords=False, end='...', leeway=5)`.
fn truncate(value: &Value, positional: Rest<Value>, keywords: Kwargs) -> Result<String, Error> {
    let get = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(argument(&keywords, name, positional.get(at).cloned())?.filter(|value| !value.is_none()))
    };
    let whole = |value: Option<Value>, missing: usize| value.map_or(Ok(missing), usize::try_from);
    let length = whole(get(0, "length")?, 255)?;
    let cuts_words = get(1, "killwords")?.is_some_and(|value| value.is_true());
    let end = get(2, "end")?.map_or_else(|| "...".to_owned(), |value| python_value::text_of(&value));
    let leeway = whole(get(3, "leeway")?, 5)?;
    keywords.assert_all_used()?;
    let text = python_value::text_of(value);
    let end_size = end.chars().count();
    if length < end_size {
        return Err(wrong(format!("truncate: expected length >= {end_size}, got {length}")));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length - end_size).collect();
    let kept = if cuts_words { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

/// `indent(width=4, first=False, blank=False)`; the width may be a text.
fn indent(value: &Value, positional: Rest<Value>, keywords: Kwargs) -> Result<String, Error> {
    let get = |at: usize, name: &str| argument(&keywords, name, positional.get(at).cloned());
    let width = get(0, "width")?.unwrap_or_else(|| Value::from(4));
    let first = get(1, "first")?.is_some_and(|value| value.is_true());
    let blank = get(2, "blank")?.is_some_and(|value| value.is_true());
    keywords.assert_all_used()?;
    let space = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(width)?.min(1000)),
    };
    let text = python_value::text_of(value);
    let mut out = String::new();
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let is_wanted = if number == 0 { first } else { blank || !line.is_empty() };
        if is_wanted {
            out.push_str(&space);
        }
        out.push_str(line);
        if out.len() > 64 << 20 {
            return Err(Error::new(ErrorKind::OutOfFuel, "the indented text is too large"));
        }
    }
    Ok(out)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;").replace('"', "&#34;")
}

/// Numbers only; `attribute` may be a path ("function.size").
fn sum(values: &Value, attribute: Option<String>, keywords: Kwargs) -> Result<Value, Error> {
    let attribute = match keywords.get::<Option<String>>("attribute")? {
        Some(attribute) => Some(attribute),
        None => attribute,
    };
    let start = keywords.get::<Option<Value>>("start")?.unwrap_or_else(|| Value::from(0));
    keywords.assert_all_used()?;
    let (mut whole, mut fraction, mut is_float) = (0i128, 0f64, false);
    for item in std::iter::once(Ok(start)).chain(values.try_iter()?.map(|item| match &attribute {
        Some(path) => path.split('.').try_fold(item, |item, name| item.get_attr(name)),
        None => Ok(item),
    })) {
        let item = item?;
        match python_value::as_float(&item) {
            Some(number) => {
                fraction += number;
                is_float = true;
            }
            None => whole = whole.checked_add(i128::try_from(item)?).ok_or_else(|| wrong("the sum is too large"))?,
        }
    }
    Ok(if is_float {
        Value::from(whole as f64 + fraction)
    } else if let Ok(small) = i64::try_from(whole) {
        Value::from(small)
    } else {
        Value::from(whole)
    })
}

/// Python's `int(text)`: digits with a sign, single underscores between them, space around.
fn int_of(text: &str) -> Option<i128> {
    let text = text.trim_matches(python_method::is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_number {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Python's `float(value)`.
fn float_of(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => value.as_str()?.trim_matches(python_method::is_space).parse().ok(),
    }
}

/// Digits in another base than 10, with its prefix or without.
fn int_in_base(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(python_method::is_space).to_lowercase().replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    i128::from_str_radix(digits, base).ok().filter(|_| !digits.starts_with(['+', '-'])).map(|whole| sign * whole)
}

/// `int(default=0, base=10)`: what is no number gives the default.
fn int(value: &Value, default: Option<Value>, base: Option<u32>, keywords: Kwargs) -> Result<Value, Error> {
    let default = argument(&keywords, "default", default)?.unwrap_or_else(|| Value::from(0));
    let base = keywords.get::<Option<u32>>("base")?.or(base).unwrap_or(10);
    keywords.assert_all_used()?;
    if let (Some(text), 2..=36) = (value.as_str(), base) {
        if base != 10 {
            return Ok(int_in_base(text, base)
                .map_or(default, |whole| i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)));
        }
    }
    let whole = match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => return Ok(value.clone()),
        _ => value.as_str().and_then(int_of),
    };
    let whole = whole.or_else(|| {
        let number = float_of(value)?.trunc();
        (number.abs() < i128::MAX as f64).then_some(number as i128)
    });
    Ok(match whole {
        Some(whole) => i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from),
        None => default,
    })
}

/// `float(default=0.0)`.
fn float(value: &Value, default: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let default = argument(&keywords, "default", default)?.unwrap_or_else(|| Value::from(0.0));
    keywords.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    Ok(float_of(value).map_or(default, Value::from))
}

/// `round(precision=0, method='common'|'ceil'|'floor')`; halves go to the even neighbour, as in Python.
fn round(value: &Value, precision: Option<Value>, method: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let precision = match argument(&keywords, "precision", precision)? {
        Some(precision) => i32::try_from(precision)?.clamp(-400, 400),
        None => 0,
    };
    let method =
        argument(&keywords, "method", method)?.map_or_else(|| "common".to_owned(), |method| method.to_string());
    keywords.assert_all_used()?;
    if !matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
        return Err(wrong(format!("a value of type {} cannot be rounded", value.kind())));
    }
    let number = float_of(value).ok_or_else(|| wrong("a number too large to be rounded"))?;
    let scale = 10f64.powi(precision);
    match method.as_str() {
        "common" if python_value::as_float(value).is_none() && precision >= 0 => Ok(value.clone()),
        "common" if precision >= 0 => {
            // The decimal digits decide, not a product that was rounded itself.
            format!("{number:.*}", precision as usize)
                .parse::<f64>()
                .map(Value::from)
                .map_err(|_| wrong("not a number"))
        }
        "common" => {
            let rounded = (number * scale).round_ties_even() / scale;
            let is_float = python_value::as_float(value).is_some();
            Ok(if is_float { Value::from(rounded) } else { Value::from(rounded as i64) })
        }
        "ceil" => Ok(Value::from((number * scale).ceil() / scale)),
        "floor" => Ok(Value::from((number * scale).floor() / scale)),
        _ => Err(wrong(format!("round: method '{method}', must be common, ceil or floor"))),
    }
}
