//! Chat templates: Jinja as Hugging Face's `apply_chat_template` sets it up, with bounds.

use crate::guard::{invalid, Code, Failure, Outcome};
use crate::strftime::{self, CivilTime};
use crate::{
    python_container, python_filter, python_global, python_json, python_method, python_operator, python_syntax,
    python_value,
};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};
use std::cell::{Cell, RefCell};

const NAME: &str = "chat_template";

/// Bounds of one render; the layout is that of `sluice_text.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub fuel: u64,
    pub output_bytes: u64,
    pub recursion: u32,
}

thread_local! {
    /// The wall clock of the render that runs on this thread.
    static NOW: Cell<Option<CivilTime>> = const { Cell::new(None) };
    /// What `raise_exception` was called with.
    static RAISED: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Bytes printed by `{{ }}` so far, also into captures that never reach the output.
    static PRINTED: Cell<u64> = const { Cell::new(0) };
}

pub struct ChatTemplate {
    environment: Environment<'static>,
    limits: Limits,
}

fn too_large() -> Error {
    Error::new(ErrorKind::OutOfFuel, "the rendered text is too large")
}

/// Python's view of a value where minijinja's differs: printing.
fn print(out: &mut Output, value: &Value, bytes_max: u64) -> Result<(), Error> {
    let write = |out: &mut Output, text: &str| -> Result<(), Error> {
        let printed = PRINTED.with(|printed| {
            printed.set(printed.get().saturating_add(text.len() as u64));
            printed.get()
        });
        if printed > bytes_max {
            return Err(too_large());
        }
        out.write_str(text).map_err(Error::from)
    };
    match value.as_str() {
        Some(text) => write(out, text),
        None => write(out, &python_value::text_of(value)),
    }
}

fn raise_exception(message: Value) -> Result<Value, Error> {
    let text = python_value::text_of(&message);
    RAISED.with(|raised| *raised.borrow_mut() = Some(text.clone()));
    Err(Error::new(ErrorKind::InvalidOperation, text))
}

fn strftime_now(pattern: String) -> Result<Value, Error> {
    match NOW.with(Cell::get) {
        Some(now) => Ok(Value::from(strftime::format(&now, &pattern))),
        None => Err(Error::new(ErrorKind::InvalidOperation, "strftime_now: no time was given")),
    }
}

/// `{% generation %}` only marks the assistant's text for training; its content stays.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        out.push_str(&rest[..open]);
        let tag = &rest[open..];
        let Some(close) = tag[2..].find("%}").map(|at| at + 2) else {
            out.push_str(tag);
            return out;
        };
        let inner = &tag[2..close];
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => out.push_str(&format!("{{%{}%}}", inner.replace(name, "if true"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inner.replace(name, "endif"))),
            _ => out.push_str(&tag[..close + 2]),
        }
        rest = &tag[close + 2..];
    }
    out.push_str(rest);
    out
}

fn add_python_semantics(environment: &mut Environment<'static>, bytes_max: u64) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python_method::call);
    environment.set_formatter(move |out: &mut Output, _: &State, value: &Value| print(out, value, bytes_max));

    environment.add_filter("tojson", move |value: &Value, positional: Rest<Value>, keywords: Kwargs| {
        python_json::filter(value, positional, keywords, usize::try_from(bytes_max).unwrap_or(usize::MAX))
    });
    python_operator::add_to(environment);
    python_filter::add_to(environment);
    python_container::add_to(environment);
    python_global::add_to(environment);

    environment.add_test("iterable", |value: &Value| {
        value.is_undefined()
            || matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));

    // What `apply_chat_template` always passes; the context overrides it.
    environment.add_global("tools", Value::from(()));
    environment.add_global("documents", Value::from(()));
    environment.add_global("add_generation_prompt", Value::from(false));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

/// Collects the output up to a bound.
struct BoundedOutput {
    bytes: Vec<u8>,
    bytes_max: u64,
}

impl std::io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.bytes_max {
            return Err(std::io::Error::other("the rendered text is too large"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn describe(error: &Error) -> String {
    let detail =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    match error.line() {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}

impl ChatTemplate {
    pub fn compile(source: &str, limits: Limits) -> Outcome<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(limits.fuel));
        environment.set_recursion_limit(limits.recursion as usize);
        add_python_semantics(&mut environment, limits.output_bytes);
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let source = python_syntax::rewritten(&without_generation_tags(&source));
        match environment.add_template_owned(NAME, source) {
            Ok(()) => Ok(ChatTemplate { environment, limits }),
            Err(error) => invalid(describe(&error)),
        }
    }

    pub fn render(&self, context_json: &str, now: CivilTime) -> Outcome<Vec<u8>> {
        if !now.is_valid() {
            return invalid(format!("not a time: {now:?}"));
        }
        let context = python_value::parse_json(context_json)?;
        if context.kind() != ValueKind::Map {
            return invalid("the context is not a JSON object");
        }
        NOW.with(|cell| cell.set(Some(now)));
        RAISED.with(|raised| *raised.borrow_mut() = None);
        PRINTED.with(|printed| printed.set(0));
        let mut output = BoundedOutput { bytes: Vec::new(), bytes_max: self.limits.output_bytes };
        let result = match self.environment.get_template(NAME) {
            Ok(template) => template.render_captured_to(context, &mut output).map(|_| ()),
            Err(error) => Err(error),
        };
        let Err(error) = result else { return Ok(output.bytes) };
        if let Some(message) = RAISED.with(|raised| raised.borrow_mut().take()) {
            return Err(Failure { code: Code::Raised, message });
        }
        let code = match error.kind() {
            ErrorKind::OutOfFuel | ErrorKind::WriteFailure => Code::Exhausted,
            _ => Code::Invalid,
        };
        Err(Failure { code, message: describe(&error) })
    }
}
