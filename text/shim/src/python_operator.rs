//! Python's operators, as functions that `python_syntax` writes into templates in place of minijinja's.

use crate::python_value::{self, as_float, Tuple};
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::cmp::Ordering;
use std::sync::Arc;

/// The longest string or list that `*` makes.
const REPEATED_MAX: usize = 10_000_000;

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Python's name of a type.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if as_float(value).is_some() => "float",
        ValueKind::Number => "int",
        ValueKind::String => "str",
        ValueKind::Map => "dict",
        ValueKind::Seq | ValueKind::Iterable if is_tuple(value) => "tuple",
        ValueKind::Seq | ValueKind::Iterable => "list",
        _ => "object",
    }
}

fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    if left.is_undefined() || right.is_undefined() {
        return Error::from(ErrorKind::UndefinedError);
    }
    let (left, right) = (type_name(left), type_name(right));
    wrong(format!("unsupported operand type(s) for {operator}: '{left}' and '{right}'"))
}

/// A number as Python's arithmetic takes it: booleans are 0 and 1.
enum Number {
    Whole(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Whole(i128::from(value.is_true()))),
        ValueKind::Number => match as_float(value) {
            Some(float) => Some(Number::Float(float)),
            None => i128::try_from(value.clone()).ok().map(Number::Whole),
        },
        _ => None,
    }
}

impl Number {
    fn float(&self) -> f64 {
        match *self {
            Number::Whole(whole) => whole as f64,
            Number::Float(float) => float,
        }
    }
}

fn whole_value(whole: i128) -> Value {
    i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
}

fn whole_or_error(whole: Option<i128>) -> Result<Value, Error> {
    whole.map(whole_value).ok_or_else(|| wrong("an integer of more than 127 bits"))
}

fn items(value: &Value) -> Result<Vec<Value>, Error> {
    Ok(value.try_iter()?.collect())
}

fn like(value: &Value, items: Vec<Value>) -> Value {
    if is_tuple(value) {
        Value::from_object(Tuple(items))
    } else {
        python_value::list(items)
    }
}

fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => return whole_or_error(a.checked_add(b)),
        (Some(a), Some(b)) => return Ok(Value::from(a.float() + b.float())),
        _ => {}
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(Value::from(format!("{a}{b}")));
    }
    if is_list(left) && is_list(right) && is_tuple(left) == is_tuple(right) {
        let mut all = items(left)?;
        all.extend(right.try_iter()?);
        return Ok(like(left, all));
    }
    Err(unsupported("+", left, right))
}

fn sub(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => whole_or_error(a.checked_sub(b)),
        (Some(a), Some(b)) => Ok(Value::from(a.float() - b.float())),
        _ => Err(unsupported("-", left, right)),
    }
}

fn repeated(value: &Value, times: i128) -> Result<Value, Error> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    let too_large = || Error::new(ErrorKind::OutOfFuel, "the repeated value is too large");
    if let Some(text) = value.as_str() {
        let fits = text.len().checked_mul(times).is_some_and(|size| size <= REPEATED_MAX);
        return if fits { Ok(Value::from(text.repeat(times))) } else { Err(too_large()) };
    }
    let once = items(value)?;
    if !once.len().checked_mul(times).is_some_and(|size| size <= REPEATED_MAX / 16) {
        return Err(too_large());
    }
    Ok(like(value, once.iter().cycle().take(once.len() * times).cloned().collect()))
}

fn mul(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => return whole_or_error(a.checked_mul(b)),
        (Some(a), Some(b)) => return Ok(Value::from(a.float() * b.float())),
        (None, Some(Number::Whole(times))) if left.as_str().is_some() || is_list(left) => return repeated(left, times),
        (Some(Number::Whole(times)), None) if right.as_str().is_some() || is_list(right) => {
            return repeated(right, times)
        }
        _ => {}
    }
    Err(unsupported("*", left, right))
}

fn zero_division() -> Error {
    wrong("division by zero")
}

fn div(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(zero_division()),
        (Some(a), Some(b)) => Ok(Value::from(a.float() / b.float())),
        _ => Err(unsupported("/", left, right)),
    }
}

/// Rounded down, as Python does it also for negative numbers.
fn floor_div(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(zero_division()),
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => {
            let quotient = a.checked_div(b).ok_or_else(|| wrong("an integer of more than 127 bits"))?;
            Ok(whole_value(quotient - i128::from(a % b != 0 && (a < 0) != (b < 0))))
        }
        (Some(a), Some(b)) => Ok(Value::from((a.float() / b.float()).floor())),
        _ => Err(unsupported("//", left, right)),
    }
}

/// The remainder has the sign of the divisor; a string on the left is a pattern.
fn modulo(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(pattern) = left.as_str() {
        let mut arguments = vec![left.clone()];
        if is_tuple(right) {
            arguments.extend(right.try_iter()?);
        } else {
            arguments.push(right.clone());
        }
        let taken = pattern.replace("%%", "").matches('%').count();
        if taken < arguments.len() - 1 && right.kind() != ValueKind::Map {
            return Err(wrong("not all arguments converted during string formatting"));
        }
        return state.apply_filter("format", &arguments);
    }
    match (number(left), number(right)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(zero_division()),
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => {
            let rest = a % b;
            Ok(whole_value(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        (Some(a), Some(b)) => {
            let (a, b) = (a.float(), b.float());
            let rest = a % b;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
        }
        _ => Err(unsupported("%", left, right)),
    }
}

fn pow(left: &Value, right: &Value) -> Result<Value, Error> {
    match (number(left), number(right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) if b >= 0 => {
            let exponent = u32::try_from(b).map_err(|_| wrong("an integer of more than 127 bits"))?;
            whole_or_error(a.checked_pow(exponent))
        }
        (Some(a), Some(b)) => {
            if a.float() == 0.0 && b.float() < 0.0 {
                return Err(zero_division());
            }
            Ok(Value::from(a.float().powf(b.float())))
        }
        _ => Err(unsupported("**", left, right)),
    }
}

fn signed(value: &Value, sign: i128) -> Result<Value, Error> {
    match number(value) {
        Some(Number::Whole(whole)) => whole_or_error(whole.checked_mul(sign)),
        Some(Number::Float(float)) => Ok(Value::from(float * sign as f64)),
        None if value.is_undefined() => Err(Error::from(ErrorKind::UndefinedError)),
        None => Err(wrong(format!("bad operand type for unary operator: '{}'", type_name(value)))),
    }
}

/// Python's `==`: between numbers and booleans, strings, lists and lists, tuples and tuples, dictionaries.
pub fn equal(left: &Value, right: &Value) -> bool {
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return match (a, b) {
            (Number::Whole(a), Number::Whole(b)) => a == b,
            (a, b) => a.float() == b.float(),
        };
    }
    match (left.kind(), right.kind()) {
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => true,
        (ValueKind::String, ValueKind::String) => left.as_str() == right.as_str(),
        (ValueKind::Map, ValueKind::Map) => {
            left.len() == right.len()
                && left.try_iter().into_iter().flatten().all(|key| match (left.get_item(&key), right.get_item(&key)) {
                    (Ok(a), Ok(b)) => !b.is_undefined() && equal(&a, &b),
                    _ => false,
                })
        }
        (ValueKind::Seq | ValueKind::Iterable, ValueKind::Seq | ValueKind::Iterable) => {
            is_tuple(left) == is_tuple(right)
                && left.len() == right.len()
                && match (left.try_iter(), right.try_iter()) {
                    (Ok(a), Ok(b)) => a.zip(b).all(|(a, b)| equal(&a, &b)),
                    _ => false,
                }
        }
        (ValueKind::Plain | ValueKind::Bytes, _) => left == right,
        _ => false,
    }
}

/// Python's order. Error: values of types that have none.
pub fn compare(operator: &str, left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    if let (Some(a), Some(b)) = (number(left), number(right)) {
        return Ok(match (a, b) {
            (Number::Whole(a), Number::Whole(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        });
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    if is_list(left) && is_list(right) && is_tuple(left) == is_tuple(right) {
        let (a, b) = (items(left)?, items(right)?);
        for (a, b) in a.iter().zip(&b) {
            if !equal(a, b) {
                return compare(operator, a, b);
            }
        }
        return Ok(Some(a.len().cmp(&b.len())));
    }
    if left.is_undefined() || right.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let (left, right) = (type_name(left), type_name(right));
    Err(wrong(format!("'{operator}' not supported between instances of '{left}' and '{right}'")))
}

fn contains(needle: &Value, container: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => match needle.as_str() {
            Some(needle) => Ok(container.as_str().unwrap_or_default().contains(needle)),
            None => Err(wrong(format!("'in <string>' requires string as left operand, not {}", type_name(needle)))),
        },
        ValueKind::Map => match needle.as_str() {
            Some(_) => Ok(container.get_item(needle).is_ok_and(|value| !value.is_undefined())),
            None => Ok(container.try_iter()?.any(|key| equal(&key, needle))),
        },
        ValueKind::Seq | ValueKind::Iterable => Ok(container.try_iter()?.any(|item| equal(&item, needle))),
        _ => Err(wrong(format!("argument of type '{}' is not iterable", type_name(container)))),
    }
}

/// Where a slice begins and ends; Python's `slice.indices`.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let index = |value: &Value| -> Result<Option<i64>, Error> {
        match number(value) {
            Some(Number::Whole(whole)) => Ok(Some(whole.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)),
            None if value.is_none() => Ok(None),
            _ => Err(wrong("slice indices must be integers or None")),
        }
    };
    let (start, stop, step) = (index(start)?, index(stop)?, index(step)?.unwrap_or(1));
    if step == 0 {
        return Err(wrong("slice step cannot be zero"));
    }
    let text: Vec<char> = value.as_str().map(|text| text.chars().collect()).unwrap_or_default();
    let list = match value.kind() {
        ValueKind::String => Vec::new(),
        ValueKind::Seq | ValueKind::Iterable => items(value)?,
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        _ => return Err(wrong(format!("'{}' object is not subscriptable", type_name(value)))),
    };
    let size = text.len().max(list.len()) as i64;
    let (lowest, highest) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let place = |at: Option<i64>, missing: i64| match at {
        None => missing,
        Some(at) if at < 0 => at.saturating_add(size).max(lowest),
        Some(at) => at.min(highest),
    };
    let (mut at, end) =
        if step > 0 { (place(start, 0), place(stop, size)) } else { (place(start, size - 1), place(stop, -1)) };
    let mut places = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        places.push(at as usize);
        at = at.saturating_add(step);
    }
    if value.as_str().is_some() {
        return Ok(Value::from(places.into_iter().map(|at| text[at]).collect::<String>()));
    }
    Ok(like(value, places.into_iter().map(|at| list[at].clone()).collect()))
}

/// A method that is not called: there, and nothing more is known of it.
#[derive(Debug)]
struct Method(&'static str, String);

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.1, self.0)
    }
}

/// `namespace(..)`: has only the names that it was given.
fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

fn method(value: &Value, name: &str) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if !is_namespace(value) => Ok(Value::from_object(Method("dict", name.to_owned()))),
        _ => value.get_attr(name),
    }
}

fn iterable(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(wrong(format!("'{}' object is not iterable", type_name(&value))))
        }
        _ => Ok(value),
    }
}

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("__value", |value: Value| value);
    environment.add_function("__iterable", iterable);
    environment.add_function("__tuple", |values: Value| -> Result<Value, Error> {
        Ok(Value::from_object(Tuple(items(&values)?)))
    });
    environment.add_function("__method", |value: &Value, name: &str| method(value, name));
    environment.add_function("__add", |a: &Value, b: &Value| add(a, b));
    environment.add_function("__sub", |a: &Value, b: &Value| sub(a, b));
    environment.add_function("__mul", |a: &Value, b: &Value| mul(a, b));
    environment.add_function("__div", |a: &Value, b: &Value| div(a, b));
    environment.add_function("__floordiv", |a: &Value, b: &Value| floor_div(a, b));
    environment.add_function("__mod", |state: &State, a: &Value, b: &Value| modulo(state, a, b));
    environment.add_function("__pow", |a: &Value, b: &Value| pow(a, b));
    environment.add_function("__neg", |a: &Value| signed(a, -1));
    environment.add_function("__pos", |a: &Value| signed(a, 1));
    environment.add_function("__in", |a: &Value, b: &Value| contains(a, b));
    environment.add_function("__not_in", |a: &Value, b: &Value| contains(a, b).map(|is_in| !is_in));
    environment.add_function("__slice", |value: &Value, start: &Value, stop: &Value, step: &Value| {
        slice(value, start, stop, step)
    });
    type Decision = fn(Option<Ordering>) -> bool;
    let orders: [(&str, &str, &[&str], Decision); 4] = [
        ("__lt", "<", &["lt", "lessthan", "<"], |order| order == Some(Ordering::Less)),
        ("__le", "<=", &["le", "<="], |order| matches!(order, Some(Ordering::Less | Ordering::Equal))),
        ("__gt", ">", &["gt", "greaterthan", ">"], |order| order == Some(Ordering::Greater)),
        ("__ge", ">=", &["ge", ">="], |order| matches!(order, Some(Ordering::Greater | Ordering::Equal))),
    ];
    for (function, operator, tests, decide) in orders {
        let order = move |a: &Value, b: &Value| compare(operator, a, b).map(decide);
        environment.add_function(function, order);
        for test in tests {
            environment.add_test(*test, order);
        }
    }
    environment.add_function("__eq", |a: &Value, b: &Value| equal(a, b));
    environment.add_function("__ne", |a: &Value, b: &Value| !equal(a, b));
    for test in ["eq", "equalto", "=="] {
        environment.add_test(test, |a: &Value, b: &Value| equal(a, b));
    }
    for test in ["ne", "!="] {
        environment.add_test(test, |a: &Value, b: &Value| !equal(a, b));
    }
    environment.add_test("in", |a: &Value, b: &Value| contains(a, b));
}
