//! Expressions of Jinja2, parsed by its grammar and written again for minijinja, with calls of the functions in
//! `python_operator` where the two differ.

use crate::jinja_token::Token;

pub type Parsed<T> = Result<T, ()>;

/// Nesting of brackets in one expression.
const DEPTH_MAX: usize = 100;

/// What is written for a part of an expression.
#[derive(Clone)]
pub struct Written {
    pub text: String,
    /// minijinja would compute it at compile time, with its own idea of `and` and `or`.
    is_constant: bool,
    /// It is a string whatever the variables are.
    is_text: bool,
}

impl Written {
    fn of(text: String) -> Written {
        Written { text, is_constant: false, is_text: false }
    }
}

/// A string as minijinja reads it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Methods of dictionaries: in Python `x.items` is the method even where the dictionary has such a key.
const DICT_METHODS: [&str; 11] =
    ["items", "keys", "values", "get", "pop", "popitem", "update", "copy", "clear", "setdefault", "fromkeys"];

pub struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    pub fn new(tokens: Vec<Token>) -> Parser {
        Parser { tokens, at: 0, depth: 0 }
    }

    fn sign(&self) -> &str {
        match self.tokens.get(self.at) {
            Some(Token::Sign(sign)) => sign,
            _ => "",
        }
    }

    fn name(&self) -> &str {
        match self.tokens.get(self.at) {
            Some(Token::Name(name)) => name,
            _ => "",
        }
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is_it = self.sign() == sign;
        self.at += usize::from(is_it);
        is_it
    }

    pub fn take_name(&mut self, name: &str) -> bool {
        let is_it = self.name() == name;
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        self.take_sign(sign).then_some(()).ok_or(())
    }

    fn any_name(&mut self) -> Parsed<String> {
        let name = self.name().to_owned();
        if name.is_empty() {
            return Err(());
        }
        self.at += 1;
        Ok(name)
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.tokens.len()
    }

    pub fn expression(&mut self) -> Parsed<Written> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(());
        }
        let mut value = self.or()?;
        while self.take_name("if") {
            let condition = self.or()?;
            let other =
                if self.take_name("else") { format!(" else {}", self.expression()?.text) } else { String::new() };
            value = Written::of(format!("({} if {}{other})", value.text, condition.text));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn or(&mut self) -> Parsed<Written> {
        let mut left = self.and()?;
        while self.take_name("or") {
            left = short_circuit(left, "or", self.and()?);
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Written> {
        let mut left = self.not()?;
        while self.take_name("and") {
            left = short_circuit(left, "and", self.not()?);
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed<Written> {
        if self.take_name("not") {
            let value = self.not()?;
            return Ok(Written { text: format!("(not {})", value.text), is_text: false, ..value });
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed<Written> {
        let first = self.sum()?;
        let mut left = first.clone();
        let mut all: Vec<String> = Vec::new();
        loop {
            let function = match self.sign() {
                "==" => "__eq",
                "!=" => "__ne",
                "<" => "__lt",
                "<=" => "__le",
                ">" => "__gt",
                ">=" => "__ge",
                _ if self.name() == "in" => "__in",
                _ if self.name() == "not"
                    && matches!(self.tokens.get(self.at + 1), Some(Token::Name(name)) if name == "in") =>
                {
                    self.at += 1;
                    "__not_in"
                }
                _ => break,
            };
            self.at += 1;
            let right = self.sum()?;
            // Between strings, or with a constant string, there is nothing to put right.
            let native = match function {
                "__eq" if left.is_text || right.is_text => Some("=="),
                "__ne" if left.is_text || right.is_text => Some("!="),
                _ => None,
            };
            all.push(match native {
                Some(operator) => format!("({} {operator} {})", left.text, right.text),
                None => format!("{function}({}, {})", left.text, right.text),
            });
            left = right;
        }
        if all.is_empty() {
            return Ok(first);
        }
        Ok(Written::of(if all.len() == 1 { all.remove(0) } else { format!("({})", all.join(" and ")) }))
    }

    fn sum(&mut self) -> Parsed<Written> {
        let mut left = self.concatenation()?;
        loop {
            let function = match self.sign() {
                "+" => "__add",
                "-" => "__sub",
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.concatenation()?;
            left = if function == "__add" && (left.is_text || right.is_text) {
                Written { text: format!("({} + {})", left.text, right.text), is_constant: false, is_text: true }
            } else {
                Written::of(format!("{function}({}, {})", left.text, right.text))
            };
        }
    }

    fn concatenation(&mut self) -> Parsed<Written> {
        let mut left = self.product()?;
        while self.take_sign("~") {
            let right = self.product()?;
            left = Written { text: format!("({} ~ {})", left.text, right.text), is_constant: false, is_text: true };
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed<Written> {
        let mut left = self.power()?;
        loop {
            let function = match self.sign() {
                "*" => "__mul",
                "/" => "__div",
                "//" => "__floordiv",
                "%" => "__mod",
                _ => return Ok(left),
            };
            self.at += 1;
            left = Written::of(format!("{function}({}, {})", left.text, self.power()?.text));
        }
    }

    fn power(&mut self) -> Parsed<Written> {
        let mut left = self.unary(true)?;
        while self.take_sign("**") {
            left = Written::of(format!("__pow({}, {})", left.text, self.unary(true)?.text));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Parsed<Written> {
        let mut value = if self.take_sign("-") {
            let inner = self.unary(false)?;
            if matches!(inner.text.parse::<f64>(), Ok(number) if number >= 0.0) {
                Written { text: format!("-{}", inner.text), is_constant: true, is_text: false }
            } else {
                Written::of(format!("__neg({})", inner.text))
            }
        } else if self.take_sign("+") {
            Written::of(format!("__pos({})", self.unary(false)?.text))
        } else {
            self.primary()?
        };
        value = self.postfix(value)?;
        if with_filters {
            value = self.filters(value)?;
        }
        Ok(value)
    }

    fn primary(&mut self) -> Parsed<Written> {
        let token = self.tokens.get(self.at).cloned().ok_or(())?;
        self.at += 1;
        match token {
            Token::Name(name) => Ok(match name.as_str() {
                "true" | "True" | "false" | "False" | "none" | "None" => {
                    Written { text: name.to_lowercase(), is_constant: true, is_text: false }
                }
                "if" | "else" | "and" | "or" | "not" | "in" | "is" => return Err(()),
                _ => Written::of(name),
            }),
            Token::Number(number) => Ok(Written { text: plain_number(&number)?, is_constant: true, is_text: false }),
            Token::Text(mut text) => {
                while let Some(Token::Text(more)) = self.tokens.get(self.at) {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(Written { text: quoted(&text), is_constant: true, is_text: true })
            }
            Token::Sign("(") => {
                let value = self.tuple(&[")"], true)?;
                self.expect(")")?;
                Ok(Written { text: format!("({})", value.text), ..value })
            }
            Token::Sign("[") => {
                let (items, is_constant) = self.items("]")?;
                Ok(Written { text: format!("[{}]", items.join(", ")), is_constant, is_text: false })
            }
            Token::Sign("{") => {
                let mut entries = Vec::new();
                while !self.take_sign("}") {
                    if !entries.is_empty() {
                        self.expect(",")?;
                        if self.take_sign("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push(format!("{}: {}", key.text, self.expression()?.text));
                }
                Ok(Written { text: format!("{{{}}}", entries.join(", ")), is_constant: true, is_text: false })
            }
            Token::Sign(_) => Err(()),
        }
    }

    /// Expressions with commas between them, up to `end`, which is taken.
    fn items(&mut self, end: &str) -> Parsed<(Vec<String>, bool)> {
        let mut items = Vec::new();
        let mut is_constant = true;
        while !self.take_sign(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.take_sign(end) {
                    break;
                }
            }
            let item = self.expression()?;
            is_constant &= item.is_constant;
            items.push(item.text);
        }
        Ok((items, is_constant))
    }

    /// One expression, or several with commas: a tuple. `ends`: signs that may follow.
    pub fn tuple(&mut self, ends: &[&str], with_condition: bool) -> Parsed<Written> {
        let mut items: Vec<Written> = Vec::new();
        let mut is_tuple = false;
        while !ends.contains(&self.sign()) && !self.is_at_end() {
            if !items.is_empty() {
                if !self.take_sign(",") {
                    break;
                }
                is_tuple = true;
                if ends.contains(&self.sign()) || self.is_at_end() {
                    break;
                }
            }
            items.push(if with_condition { self.expression()? } else { self.or()? });
        }
        if items.len() == 1 && !is_tuple {
            return Ok(items.remove(0));
        }
        if items.is_empty() && ends.is_empty() {
            return Err(());
        }
        let texts: Vec<String> = items.into_iter().map(|item| item.text).collect();
        Ok(Written::of(format!("__tuple([{}])", texts.join(", "))))
    }

    fn postfix(&mut self, mut value: Written) -> Parsed<Written> {
        loop {
            if self.take_sign(".") {
                let Some(token) = self.tokens.get(self.at).cloned() else { return Err(()) };
                self.at += 1;
                let text = match token {
                    Token::Name(name) if DICT_METHODS.contains(&name.as_str()) && self.sign() != "(" => {
                        format!("__method({}, \"{name}\")", value.text)
                    }
                    Token::Name(name) => format!("{}.{name}", value.text),
                    Token::Number(number) => format!("{}[{number}]", value.text),
                    _ => return Err(()),
                };
                value = Written::of(text);
            } else if self.take_sign("[") {
                value = self.subscript(value)?;
            } else if self.sign() == "(" {
                value = Written::of(format!("{}{}", value.text, self.call()?));
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Written) -> Parsed<Written> {
        let mut parts: Vec<String> = vec!["none".to_owned()];
        let mut is_slice = false;
        while !self.take_sign("]") {
            if self.take_sign(":") {
                is_slice = true;
                parts.push("none".to_owned());
                continue;
            }
            let item = self.tuple(&["]", ":"], true)?;
            *parts.last_mut().ok_or(())? = item.text;
        }
        if !is_slice {
            return Ok(Written::of(format!("{}[{}]", value.text, parts[0])));
        }
        if parts.len() > 3 {
            return Err(());
        }
        parts.resize(3, "none".to_owned());
        Ok(Written::of(format!("__slice({}, {})", value.text, parts.join(", "))))
    }

    /// "(a, b=c)".
    fn call(&mut self) -> Parsed<String> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        while !self.take_sign(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
                if self.take_sign(")") {
                    break;
                }
            }
            let splat = if self.take_sign("**") {
                "**"
            } else if self.take_sign("*") {
                "*"
            } else {
                ""
            };
            let is_keyword = matches!(self.tokens.get(self.at + 1), Some(Token::Sign("="))) && !self.name().is_empty();
            let keyword = if is_keyword {
                let name = self.any_name()?;
                self.at += 1;
                format!("{name}=")
            } else {
                String::new()
            };
            arguments.push(format!("{splat}{keyword}{}", self.expression()?.text));
        }
        Ok(format!("({})", arguments.join(", ")))
    }

    fn dotted(&mut self) -> Parsed<String> {
        let mut name = self.any_name()?;
        while self.take_sign(".") {
            name = format!("{name}.{}", self.any_name()?);
        }
        Ok(name)
    }

    fn filters(&mut self, mut value: Written) -> Parsed<Written> {
        loop {
            if self.take_sign("|") {
                let name = self.dotted()?;
                let arguments = if self.sign() == "(" { self.call()? } else { String::new() };
                value = Written::of(format!("({}|{name}{arguments})", value.text));
            } else if self.take_name("is") {
                let not = if self.take_name("not") { "not " } else { "" };
                let name = self.dotted()?;
                let arguments = self.test_arguments()?;
                value = Written::of(format!("({} is {not}{name}{arguments})", value.text));
            } else if self.sign() == "(" {
                value = Written::of(format!("{}{}", value.text, self.call()?));
            } else {
                return Ok(value);
            }
        }
    }

    fn test_arguments(&mut self) -> Parsed<String> {
        if self.sign() == "(" {
            return self.call();
        }
        let takes_one = match self.tokens.get(self.at) {
            Some(Token::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and" | "is" | "if" | "in" | "not"),
            Some(Token::Number(_) | Token::Text(_)) => true,
            Some(Token::Sign(sign)) => matches!(*sign, "[" | "{"),
            None => false,
        };
        if !takes_one {
            return Ok(String::new());
        }
        let argument = self.primary()?;
        Ok(format!("({})", self.postfix(argument)?.text))
    }
}

/// Python's `and` and `or` give one of their operands. minijinja does so unless it knows both at compile time.
fn short_circuit(left: Written, operator: &str, right: Written) -> Written {
    let left_text = if left.is_constant { format!("__value({})", left.text) } else { left.text };
    Written::of(format!("({left_text} {operator} {})", right.text))
}

/// Numbers with underscores, or not in decimals, are written plainly.
fn plain_number(number: &str) -> Parsed<String> {
    let digits = number.replace('_', "");
    let lower = digits.to_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = lower.strip_prefix(prefix) {
            return i128::from_str_radix(rest, radix).map(|value| value.to_string()).map_err(|_| ());
        }
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.parse::<i128>().map(|value| value.to_string()).map_err(|_| ());
    }
    Ok(digits)
}
