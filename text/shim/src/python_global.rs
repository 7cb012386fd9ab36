//! Jinja2's global functions where minijinja's differ or are missing.

use crate::python_operator::equal;
use minijinja::value::{from_args, Enumerator, Object, ObjectRepr, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `cycler('odd', 'even')`: `next()`, `current`, `reset()`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str()? == "current").then(|| self.items[self.at.load(Ordering::Relaxed)].clone())
    }
    fn call_method(self: &Arc<Self>, _: &State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => {
                let at = self.at.load(Ordering::Relaxed);
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(wrong("at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
}

/// `dict(a=1)`, `dict({..}, a=1)`, `dict([('a', 1)])`.
fn dict(arguments: Rest<Value>) -> Result<Value, Error> {
    let mut entries: Vec<(Value, Value)> = Vec::new();
    for argument in arguments.iter() {
        let is_map = argument.kind() == minijinja::value::ValueKind::Map;
        for item in argument.try_iter()? {
            let (key, value) = if is_map {
                (item.clone(), argument.get_item(&item)?)
            } else {
                let pair: Vec<Value> = item.try_iter()?.collect();
                match <[Value; 2]>::try_from(pair) {
                    Ok([key, value]) => (key, value),
                    Err(_) => return Err(wrong("dict: an item is no pair")),
                }
            };
            match entries.iter_mut().find(|(known, _)| equal(known, &key)) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
    }
    Ok(entries.into_iter().collect())
}

/// A range, which is printed as such.
#[derive(Debug)]
struct Range {
    text: String,
    items: Vec<Value>,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Longest range, as Jinja2's sandbox has it.
const RANGE_MAX: usize = 100_000;

fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let by = step.unwrap_or(1);
    if by == 0 {
        return Err(wrong("range() arg 3 must not be zero"));
    }
    let mut items = Vec::new();
    let mut at = start;
    while (by > 0 && at < stop) || (by < 0 && at > stop) {
        if items.len() >= RANGE_MAX {
            return Err(wrong(format!("a range of more than {RANGE_MAX} items")));
        }
        items.push(Value::from(at));
        let Some(next) = at.checked_add(by) else { break };
        at = next;
    }
    let text = match step {
        Some(step) if step != 1 => format!("range({start}, {stop}, {step})"),
        _ => format!("range({start}, {stop})"),
    };
    Ok(Value::from_object(Range { text, items }))
}

/// How a range is printed, for lists that hold one.
pub fn range_text(value: &Value) -> Option<String> {
    value.downcast_object_ref::<Range>().map(|range| range.text.clone())
}

pub fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("cycler", cycler);
    environment.add_function("dict", dict);
    environment.add_function("range", range);
}
