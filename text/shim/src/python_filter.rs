//! Jinja's filters where minijinja's differ from Python's or are missing.

use crate::{python_method, python_value};
use minijinja::value::{Kwargs, Value, ValueKind};
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

/// `int(default=0)`: what is no number gives the default.
fn int(value: &Value, default: Option<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let default = argument(&keywords, "default", default)?.unwrap_or_else(|| Value::from(0));
    keywords.assert_all_used()?;
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
        "common" => Ok(Value::from((number * scale).round_ties_even() / scale)),
        "ceil" => Ok(Value::from((number * scale).ceil() / scale)),
        "floor" => Ok(Value::from((number * scale).floor() / scale)),
        _ => Err(wrong(format!("round: method '{method}', must be common, ceil or floor"))),
    }
}
