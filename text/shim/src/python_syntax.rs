//! Templates rewritten so that operators mean what they mean in Jinja2: minijinja orders values of any two types, folds
//! `and` and `or` of constants to a boolean, and has neither tuples nor `%` on strings. Expressions are parsed by
//! Jinja2's grammar (`jinja2.parser`) and written again with calls of the functions in `python_operator`. A tag that is
//! not understood stays as it is: minijinja says what is wrong with it.

use crate::jinja_expression::{Parsed, Parser};
use crate::jinja_token::{tokens_until, Token};

fn whole(tokens: Vec<Token>, with_condition: bool) -> Parsed<String> {
    let mut parser = Parser::new(tokens);
    let value = parser.tuple(&[], with_condition)?;
    parser.is_at_end().then_some(value.text).ok_or(())
}

/// The first place of a sign or a name outside of brackets.
fn find_outside(tokens: &[Token], wanted: impl Fn(&Token) -> bool) -> Option<usize> {
    let mut open = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign("(" | "[" | "{") => open += 1,
            Token::Sign(")" | "]" | "}") => open = open.saturating_sub(1),
            token if open == 0 && wanted(token) => return Some(at),
            _ => {}
        }
    }
    None
}

fn target(tokens: &[Token]) -> Parsed<String> {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Name(name) => text.push_str(name),
            Token::Sign(sign @ ("," | "." | "(" | ")")) => text.push_str(sign),
            _ => return Err(()),
        }
    }
    Ok(text)
}

/// What stands in a tag of a statement.
fn statement(mut tokens: Vec<Token>) -> Parsed<String> {
    let Some(Token::Name(keyword)) = tokens.first().cloned() else { return Err(()) };
    tokens.remove(0);
    match keyword.as_str() {
        "if" | "elif" => Ok(format!("{keyword} {}", whole(tokens, true)?)),
        "set" => {
            let at = find_outside(&tokens, |token| *token == Token::Sign("=")).ok_or(())?;
            let value = tokens.split_off(at + 1);
            tokens.pop();
            let names = target(&tokens)?;
            Ok(format!("set {names} = {}", whole(value, true)?))
        }
        "for" => {
            let at = find_outside(&tokens, |token| *token == Token::Name("in".into())).ok_or(())?;
            let mut rest = tokens.split_off(at + 1);
            tokens.pop();
            let names = target(&tokens)?;
            let mut end = String::new();
            if rest.last() == Some(&Token::Name("recursive".into())) {
                rest.pop();
                end = " recursive".to_owned();
            }
            let mut parser = Parser::new(rest);
            let items = parser.tuple(&[], false)?.text;
            if parser.take_name("if") {
                end = format!(" if {}{end}", parser.expression()?.text);
            }
            parser.is_at_end().then_some(()).ok_or(())?;
            Ok(format!("for {names} in __iterable({items}){end}"))
        }
        _ => Err(()),
    }
}

/// The whole template.
pub fn rewritten(source: &str) -> String {
    let mut out = String::with_capacity(source.len() * 5 / 4);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let kind = rest[at + 1..].chars().next().unwrap_or(' ');
        let end = match kind {
            '{' => "}}",
            '%' => "%}",
            '#' => "#}",
            _ => {
                out.push_str(&rest[..at + 1]);
                rest = &rest[at + 1..];
                continue;
            }
        };
        out.push_str(&rest[..at]);
        let tag = &rest[at..];
        if kind == '#' {
            let size = tag.find("#}").map_or(tag.len(), |end| end + 2);
            out.push_str(&tag[..size]);
            rest = &tag[size..];
            continue;
        }
        let begin = 2 + usize::from(tag[2..].starts_with(['-', '+']));
        let Some((tokens, size)) = tokens_until(&tag[begin..], end) else {
            out.push_str(tag); // minijinja says what is wrong
            return out;
        };
        let inside = &tag[begin..begin + size];
        let close = begin + size + tag[begin + size..].find(end).unwrap_or(0) + end.len();
        let is_raw = kind == '%' && tokens == [Token::Name("raw".into())];
        let new = if kind == '{' { whole(tokens, true) } else { statement(tokens) };
        out.push_str(&tag[..begin]);
        match new {
            Ok(new) => {
                // Errors name lines, so there must be as many as before.
                out.push(' ');
                out.push_str(&new);
                out.push_str(&"\n".repeat(inside.matches('\n').count()));
                out.push(' ');
            }
            Err(()) => out.push_str(inside),
        }
        out.push_str(&tag[begin + size..close]);
        rest = &tag[close..];
        if is_raw {
            let size = end_of_raw(rest);
            out.push_str(&rest[..size]);
            rest = &rest[size..];
        }
    }
    out.push_str(rest);
    out
}

/// Where `{% endraw %}` begins.
fn end_of_raw(text: &str) -> usize {
    let mut at = 0;
    while let Some(found) = text[at..].find("{%") {
        let inside = text[at + found + 2..].trim_start_matches(['-', '+']).trim_start();
        if inside.starts_with("endraw") {
            return at + found;
        }
        at += found + 2;
    }
    text.len()
}
