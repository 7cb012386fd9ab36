//! Methods of Python's dictionaries, lists and numbers, and Jinja's filters over collections, where minijinja's differ or
//! are missing.

use crate::python_operator::{compare, equal, type_name};
use crate::python_value::{self, Tuple, View};
use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::cmp::Ordering;

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn pair(key: Value, value: Value) -> Value {
    Value::from_object(Tuple(vec![key, value]))
}

fn pairs(map: &Value) -> Result<Vec<(Value, Value)>, Error> {
    map.try_iter()?.map(|key| map.get_item(&key).map(|value| (key, value))).collect()
}

fn tuples(pairs: Vec<(Value, Value)>) -> Vec<Value> {
    pairs.into_iter().map(|(key, value)| pair(key, value)).collect()
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "items" | "keys" | "values" | "copy" => {
            let () = from_args(args)?;
            let all = pairs(map)?;
            match method {
                "items" => Value::from_object(View("dict_items", tuples(all))),
                "keys" => Value::from_object(View("dict_keys", all.into_iter().map(|(key, _)| key).collect())),
                "values" => Value::from_object(View("dict_values", all.into_iter().map(|(_, value)| value).collect())),
                _ => all.into_iter().collect(),
            }
        }
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(&key)?;
            if found.is_undefined() {
                default.unwrap_or_else(|| Value::from(()))
            } else {
                found
            }
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "index" => {
            let (what, start): (Value, Option<usize>) = from_args(args)?;
            let found = list.try_iter()?.enumerate().skip(start.unwrap_or(0)).find(|(_, item)| equal(item, &what));
            match found {
                Some((at, _)) => Value::from(at),
                None => return Err(wrong("the value is not in the list")),
            }
        }
        "count" => {
            let (what,): (Value,) = from_args(args)?;
            Value::from(list.try_iter()?.filter(|item| equal(item, &what)).count())
        }
        "copy" if list.downcast_object_ref::<Tuple>().is_none() => python_value::list(list.try_iter()?.collect()),
        _ => return Ok(None),
    }))
}

fn number_method(number: &Value, method: &str) -> Option<Value> {
    match (python_value::as_float(number), method) {
        (Some(float), "is_integer") => Some(Value::from(float.fract() == 0.0)),
        (None, "is_integer") => Some(Value::from(true)),
        (None, "bit_length") => {
            let whole = i128::try_from(number.clone()).ok()?;
            Some(Value::from(128 - whole.unsigned_abs().leading_zeros()))
        }
        (_, "conjugate") => Some(number.clone()),
        _ => None,
    }
}

/// A method of a value that is no string; nothing when there is none of that name here.
pub fn method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match value.kind() {
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args),
        ValueKind::Number => Ok(number_method(value, method)),
        _ => Ok(None),
    }
}

/// "k.v" or "0" of an item; `default` where it has none.
fn attribute_of(item: &Value, path: &str) -> Result<Value, Error> {
    path.split('.').try_fold(item.clone(), |item, name| match name.parse::<usize>() {
        Ok(at) => item.get_item(&Value::from(at)),
        Err(_) => item.get_attr(name),
    })
}

/// Strings compare without their case unless that is asked for.
fn key_of(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// Sorted by a key, stable; `reverse` keeps equal ones in order too, as Python does. Error: keys without an order.
fn sorted<T: Clone>(items: &[T], keys: &[Vec<Value>], reverse: bool) -> Result<Vec<T>, Error> {
    let mut failed = None;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| {
        for (left, right) in keys[a].iter().zip(&keys[b]) {
            if equal(left, right) {
                continue;
            }
            match compare("<", left, right) {
                Ok(order) => {
                    let order = order.unwrap_or(Ordering::Equal);
                    return if reverse { order.reverse() } else { order };
                }
                Err(error) => failed = failed.take().or(Some(error)),
            }
        }
        Ordering::Equal
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(order.into_iter().map(|at| items[at].clone()).collect()),
    }
}

/// Arguments by place or by name.
fn arguments<const N: usize>(
    names: [&str; N],
    positional: &Rest<Value>,
    keywords: &Kwargs,
) -> Result<[Value; N], Error> {
    if positional.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut values = [const { Value::UNDEFINED }; N];
    for (at, name) in names.iter().enumerate() {
        values[at] = match keywords.get::<Option<Value>>(name)? {
            Some(value) => value,
            None => positional.get(at).cloned().unwrap_or_default(),
        };
    }
    keywords.assert_all_used()?;
    Ok(values)
}

fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(wrong(format!("'{}' object is not iterable", type_name(value))))
        }
        _ => Ok(value.try_iter()?.collect()),
    }
}

fn sort(value: &Value, positional: Rest<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let [reverse, case, attribute] = arguments(["reverse", "case_sensitive", "attribute"], &positional, &keywords)?;
    let items = items_of(value)?;
    let mut keys = Vec::with_capacity(items.len());
    for item in &items {
        let found: Vec<Value> = match attribute.as_str() {
            Some(paths) => paths.split(',').map(|path| attribute_of(item, path)).collect::<Result<_, _>>()?,
            None => vec![item.clone()],
        };
        keys.push(found.into_iter().map(|key| key_of(key, case.is_true())).collect());
    }
    Ok(python_value::list(sorted(&items, &keys, reverse.is_true())?))
}

fn dict_sort(value: &Value, positional: Rest<Value>, keywords: Kwargs) -> Result<Value, Error> {
    let [case, by, reverse] = arguments(["case_sensitive", "by", "reverse"], &positional, &keywords)?;
    if value.kind() != ValueKind::Map {
        return Err(wrong(format!("dictsort: '{}' object has no items", type_name(value))));
    }
    let by_value = match by.as_str() {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(wrong("You can only sort by either \"key\" or \"value\"")),
    };
    let all = pairs(value)?;
    let keys: Vec<Vec<Value>> = all
        .iter()
        .map(|(key, item)| vec![key_of(if by_value { item.clone() } else { key.clone() }, case.is_true())])
        .collect();
    Ok(python_value::list(tuples(sorted(&all, &keys, reverse.is_true())?)))
}

fn extreme(value: &Value, positional: Rest<Value>, keywords: Kwargs, wanted: Ordering) -> Result<Value, Error> {
    let [case, attribute] = arguments(["case_sensitive", "attribute"], &positional, &keywords)?;
    let mut best: Option<(Value, Value)> = None;
    for item in items_of(value)? {
        let key = match attribute.as_str() {
            Some(path) => attribute_of(&item, path)?,
            None => item.clone(),
        };
        let key = key_of(key, case.is_true());
        let is_better = match &best {
            Some((_, known)) => compare("<", &key, known)? == Some(wanted),
            None => true,
        };
        if is_better {
            best = Some((item, key));
        }
    }
    Ok(best.map(|(item, _)| item).unwrap_or_default())
}

fn items(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(python_value::list(Vec::new())),
        ValueKind::Map => Ok(python_value::list(tuples(pairs(value)?))),
        _ => Err(wrong("Can only get item pairs from a mapping.")),
    }
}

fn join(value: &Value, positional: Rest<Value>, keywords: Kwargs) -> Result<String, Error> {
    let [separator, attribute] = arguments(["d", "attribute"], &positional, &keywords)?;
    let mut texts = Vec::new();
    for item in items_of(value)? {
        let item = match attribute.as_str() {
            Some(path) => attribute_of(&item, path)?,
            None => item,
        };
        texts.push(python_value::text_of(&item));
    }
    Ok(texts.join(&python_value::text_of(&separator)))
}

fn list(value: &Value) -> Result<Value, Error> {
    Ok(python_value::list(items_of(value)?))
}

/// One of the items, always the same one: a prompt must not depend on chance.
fn random(value: &Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().next().map(|c| Value::from(c.to_string())).unwrap_or_default()),
        None => Ok(items_of(value)?.into_iter().next().unwrap_or_default()),
    }
}

/// `value % 2`.
fn rest_of_two(value: &Value) -> Result<f64, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => match python_value::as_float(value) {
            Some(float) => Ok(float.rem_euclid(2.0)),
            None => Ok(i128::try_from(value.clone())?.rem_euclid(2) as f64),
        },
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        _ => Err(wrong(format!("not a number but '{}'", type_name(value)))),
    }
}

/// `str(value).islower()`, `str(value).isupper()`.
fn has_case(state: &State, value: &Value, method: &str) -> Result<bool, Error> {
    Ok(Value::from(python_value::text_of(value)).call_method(state, method, &[])?.is_true())
}

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("sort", sort);
    environment.add_filter("dictsort", dict_sort);
    environment.add_filter("min", |value: &Value, positional: Rest<Value>, keywords: Kwargs| {
        extreme(value, positional, keywords, Ordering::Less)
    });
    environment.add_filter("max", |value: &Value, positional: Rest<Value>, keywords: Kwargs| {
        extreme(value, positional, keywords, Ordering::Greater)
    });
    environment.add_filter("items", items);
    environment.add_filter("join", join);
    environment.add_filter("list", list);
    environment.add_filter("random", random);
    environment.add_test("odd", |value: &Value| rest_of_two(value).map(|rest| rest == 1.0));
    environment.add_test("even", |value: &Value| rest_of_two(value).map(|rest| rest == 0.0));
    environment.add_test("lower", |state: &State, value: &Value| has_case(state, value, "islower"));
    environment.add_test("upper", |state: &State, value: &Value| has_case(state, value, "isupper"));
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
        )
    });
    environment.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
}
