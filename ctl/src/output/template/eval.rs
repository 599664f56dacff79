//! A tree and a value to text.

use serde_json::{Map, Value};

use super::parse::{Command, Node, Pipeline, Term};

/// What is rendered.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// A value, with labels for `.Label`.
    Row(&'a Map<String, Value>),
    /// Headings of a table: functions pass them through.
    Headings,
}

type Answer<T> = Result<T, String>;

struct Scope<'a> {
    mode: Mode<'a>,
    root: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

pub fn render(nodes: &[Node], value: &Value, mode: Mode<'_>) -> Answer<String> {
    let mut scope = Scope {
        mode,
        root: value,
        variables: Vec::new(),
        out: String::new(),
    };
    scope.nodes(nodes, value)?;
    Ok(scope.out)
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Answer<()> {
        let depth = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Show(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.out.push_str(&shown(&value));
                }
                Node::Set(name, pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(test, body, otherwise) => {
                    let yes = truth(&self.pipeline(test, dot)?);
                    self.nodes(if yes { body } else { otherwise }, dot)?;
                }
                Node::With(test, body, otherwise) => {
                    let value = self.pipeline(test, dot)?;
                    if truth(&value) {
                        self.nodes(body, &value)?;
                    } else {
                        self.nodes(otherwise, dot)?;
                    }
                }
                Node::Range(index, element, list, body, otherwise) => {
                    let list = self.pipeline(list, dot)?;
                    let items: Vec<(Value, Value)> = match list {
                        Value::Array(items) => items
                            .into_iter()
                            .enumerate()
                            .map(|(i, v)| (i.into(), v))
                            .collect(),
                        Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
                        Value::Null => Vec::new(),
                        other => return Err(format!("range can't iterate over {}", shown(&other))),
                    };
                    if items.is_empty() {
                        self.nodes(otherwise, dot)?;
                    }
                    for (key, value) in items {
                        let depth = self.variables.len();
                        if !index.is_empty() {
                            self.variables.push((index.clone(), key));
                        }
                        if !element.is_empty() {
                            self.variables.push((element.clone(), value.clone()));
                        }
                        self.nodes(body, &value)?;
                        self.variables.truncate(depth);
                    }
                }
            }
        }
        self.variables.truncate(depth);
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Answer<Value> {
        let mut last = None;
        for command in pipeline {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(&self, command: &Command, dot: &Value, piped: Option<Value>) -> Answer<Value> {
        let Some((first, rest)) = command.split_first() else {
            return Ok(Value::Null);
        };
        let mut arguments = rest
            .iter()
            .map(|term| self.term(term, dot))
            .collect::<Answer<Vec<_>>>()?;
        arguments.extend(piped);
        match first {
            Term::Function(name)
                if matches!(self.mode, Mode::Headings)
                    && !matches!(name.as_str(), "print" | "println" | "printf") =>
            {
                // A heading stays what it is whatever is done with the column.
                let first = arguments.into_iter().find(Value::is_string);
                Ok(first.unwrap_or_else(|| Value::String(String::new())))
            }
            Term::Function(name) => super::eval::functions::call(name, &arguments),
            Term::Field(names)
                if names.len() == 1 && names[0] == "Label" && !arguments.is_empty() =>
            {
                match self.mode {
                    Mode::Row(labels) => {
                        let key = shown(&arguments[0]);
                        Ok(labels.get(&key).cloned().unwrap_or_else(|| "".into()))
                    }
                    Mode::Headings => Ok(shown(&arguments[0]).into()),
                }
            }
            _ if !arguments.is_empty() => Err("can't give argument to non-function".to_owned()),
            term => self.term(term, dot),
        }
    }

    fn term(&self, term: &Term, dot: &Value) -> Answer<Value> {
        Ok(match term {
            Term::Field(names) => walk(dot, names)?,
            Term::Variable(name, names) if name.is_empty() => walk(self.root, names)?,
            Term::Variable(name, names) => {
                let value = self.variables.iter().rev().find(|(n, _)| n == name);
                walk(
                    &value
                        .ok_or_else(|| format!("undefined variable \"${name}\""))?
                        .1,
                    names,
                )?
            }
            Term::Text(text) => Value::String(text.clone()),
            Term::Number(number) => as_number(*number),
            Term::Bool(value) => Value::Bool(*value),
            Term::Nil => Value::Null,
            Term::Function(name) => functions::call(name, &[])?,
            Term::Group(pipeline, names) => walk(&self.pipeline(pipeline, dot)?, names)?,
        })
    }
}

fn walk(value: &Value, names: &[String]) -> Answer<Value> {
    let mut value = value;
    for name in names {
        value = match value {
            Value::Object(map) => map.get(name).ok_or_else(|| {
                format!(
                    "at <.{}>: map has no entry for key \"{name}\"",
                    names.join(".")
                )
            })?,
            Value::Null => {
                return Err(format!(
                    "at <.{}>: nil pointer evaluating field {name}",
                    names.join(".")
                ));
            }
            _ => {
                return Err(format!(
                    "at <.{}>: can't evaluate field {name}",
                    names.join(".")
                ));
            }
        };
    }
    Ok(value.clone())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be whole; templates hold small numbers"
)]
fn as_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

/// Go's idea of empty.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go's `%v` prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(shown).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(map) => {
            let pairs: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", shown(v)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

mod functions {
    use std::cmp::Ordering;

    use serde_json::Value;

    use super::{shown, truth};

    pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
        let fail = |why: &str| format!("at <{name}>: error calling {name}: {why}");
        let get = |n: usize| {
            arguments.get(n).ok_or_else(|| {
                format!(
                    "at <{name}>: wrong number of args for {name}: want at least {} got {}",
                    n + 1,
                    arguments.len()
                )
            })
        };
        let text = |n: usize| get(n).map(shown);
        let number = |n: usize| {
            let value = get(n)?.as_i64().ok_or_else(|| fail("not a number"))?;
            usize::try_from(value).map_err(|_| fail("index out of range"))
        };
        Ok(match name {
            "json" => Value::String(get(0)?.to_string()),
            "join" => {
                let items = get(0)?.as_array().ok_or_else(|| fail("not a list"))?;
                items
                    .iter()
                    .map(shown)
                    .collect::<Vec<_>>()
                    .join(&text(1)?)
                    .into()
            }
            "lower" => text(0)?.to_lowercase().into(),
            "upper" => text(0)?.to_uppercase().into(),
            "title" => title(&text(0)?).into(),
            "split" => text(0)?.split(&text(1)?).map(Value::from).collect(),
            "print" => arguments.iter().map(shown).collect::<String>().into(),
            "println" => {
                let words: Vec<_> = arguments.iter().map(shown).collect();
                format!("{}\n", words.join(" ")).into()
            }
            "printf" => printf(&text(0)?, &arguments[1..]).into(),
            "truncate" => text(0)?.chars().take(number(1)?).collect::<String>().into(),
            "pad" => {
                let (before, after) = (number(1)?.min(1000), number(2)?.min(1000));
                format!("{}{}{}", " ".repeat(before), text(0)?, " ".repeat(after)).into()
            }
            "eq" => {
                get(1)?;
                arguments[1..]
                    .iter()
                    .any(|other| order(&arguments[0], other) == Some(Ordering::Equal))
                    .into()
            }
            "ne" => (order(get(0)?, get(1)?) != Some(Ordering::Equal)).into(),
            "lt" => (order(get(0)?, get(1)?) == Some(Ordering::Less)).into(),
            "le" => matches!(
                order(get(0)?, get(1)?),
                Some(Ordering::Less | Ordering::Equal)
            )
            .into(),
            "gt" => (order(get(0)?, get(1)?) == Some(Ordering::Greater)).into(),
            "ge" => matches!(
                order(get(0)?, get(1)?),
                Some(Ordering::Greater | Ordering::Equal)
            )
            .into(),
            "and" => arguments
                .iter()
                .find(|v| !truth(v))
                .or(arguments.last())
                .cloned()
                .unwrap_or(Value::Null),
            "or" => arguments
                .iter()
                .find(|v| truth(v))
                .or(arguments.last())
                .cloned()
                .unwrap_or(Value::Null),
            "not" => (!truth(get(0)?)).into(),
            "len" => match get(0)? {
                Value::Array(a) => a.len().into(),
                Value::Object(o) => o.len().into(),
                Value::String(s) => s.len().into(),
                _ => return Err(fail("len of a value without length")),
            },
            "index" => {
                get(0)?;
                let mut value = arguments[0].clone();
                for key in &arguments[1..] {
                    value = match (&value, key) {
                        (Value::Object(map), key) => {
                            map.get(&shown(key)).cloned().unwrap_or_else(|| "".into())
                        }
                        (Value::Array(items), Value::Number(n)) => {
                            let at = n.as_u64().and_then(|n| usize::try_from(n).ok());
                            at.and_then(|at| items.get(at))
                                .cloned()
                                .ok_or_else(|| fail(&format!("index out of range: {n}")))?
                        }
                        (Value::Null, _) => return Err(fail("index of untyped nil")),
                        _ => return Err(fail("can't index item of this type")),
                    };
                }
                value
            }
            "slice" => {
                let (from, to) = (number(1)?, arguments.get(2).map(|_| number(2)).transpose()?);
                match get(0)? {
                    Value::String(s) => s
                        .get(from..to.unwrap_or(s.len()))
                        .ok_or_else(|| fail("index out of range"))?
                        .into(),
                    Value::Array(a) => a
                        .get(from..to.unwrap_or(a.len()))
                        .ok_or_else(|| fail("index out of range"))?
                        .to_vec()
                        .into(),
                    _ => return Err(fail("can't slice item of this type")),
                }
            }
            _ => return Err(fail("only allowed at the start of --format")),
        })
    }

    fn order(a: &Value, b: &Value) -> Option<Ordering> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => (a == b).then_some(Ordering::Equal),
        }
    }

    fn title(text: &str) -> String {
        let mut start = true;
        text.chars()
            .map(|c| {
                let up = std::mem::replace(&mut start, c.is_whitespace());
                if up {
                    c.to_uppercase().next().unwrap_or(c)
                } else {
                    c
                }
            })
            .collect()
    }

    /// The verbs that are used with docker: %s %v %d %q %%.
    fn printf(format: &str, arguments: &[Value]) -> String {
        let mut out = String::new();
        let mut rest = arguments.iter();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => out.push('%'),
                Some('q') => {
                    out.push_str(&format!("{:?}", rest.next().map(shown).unwrap_or_default()))
                }
                Some('s' | 'v' | 'd') => {
                    out.push_str(&rest.next().map_or_else(|| "%!(MISSING)".to_owned(), shown))
                }
                Some(verb) => out.push_str(&format!("%!{verb}")),
                None => out.push_str("%!(NOVERB)"),
            }
        }
        out
    }
}
