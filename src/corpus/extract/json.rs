//! JSON: a document per line, or per element of an array, where a field holds text; otherwise the file is one.

use serde_json::{Map, Value};

use super::{
    Event, Options, Piece, Refused, Sink,
    rows::{self, Columns},
};
use crate::corpus::{Format, Reason};

/// Hands the rows over, or the file as one document.
pub fn read(text: String, options: &Options, sink: &mut Sink) -> Result<(), Refused> {
    let body = text.trim_start_matches('\u{FEFF}').trim_start();
    let first_line = body.lines().next().unwrap_or_default();
    if serde_json::from_str::<Map<String, Value>>(first_line).is_ok() {
        return read_lines(body, options, sink);
    }
    // One value, or several behind one another over many lines each.
    match serde_json::Deserializer::from_str(body).into_iter().collect::<Result<Vec<Value>, _>>() {
        Ok(values) => {
            let elements = values.into_iter().flat_map(|value| match value {
                Value::Array(elements) => elements,
                other => vec![other],
            });
            read_elements(elements.collect(), options, sink)
        }
        // Neither: lines of which the first is broken, perhaps; each will be judged.
        Err(_) if body.lines().nth(1).is_some_and(|line| line.trim_start().starts_with('{')) => {
            read_lines(body, options, sink)
        }
        Err(error) if error.is_eof() => Err(Refused::new(Reason::Truncated, "the JSON does not end")),
        Err(error) => Err(Refused::new(Reason::Malformed, place(&error))),
    }
}

fn read_lines(body: &str, options: &Options, sink: &mut Sink) -> Result<(), Refused> {
    let parse = |line: &str| serde_json::from_str::<Map<String, Value>>(line);
    let numbered = || (1u64..).zip(body.lines()).filter(|(_, line)| !line.trim().is_empty());
    let Some(columns) = choose(numbered().filter_map(|(_, line)| parse(line).ok()).take(20), options)? else {
        let mut whole = String::new();
        for (row, line) in numbered() {
            match parse(line) {
                Ok(object) => describe(&object, &mut whole),
                Err(error) => sink(row_refused(row, Reason::Malformed, place(&error)))?,
            }
        }
        return sink(whole_piece(whole));
    };
    for (row, line) in numbered() {
        sink(match parse(line) {
            Ok(object) => piece(row, &object, &columns),
            Err(error) => row_refused(row, Reason::Malformed, place(&error)),
        })?;
    }
    Ok(())
}

fn read_elements(elements: Vec<Value>, options: &Options, sink: &mut Sink) -> Result<(), Refused> {
    let Some(columns) = choose(elements.iter().filter_map(Value::as_object).take(20).cloned(), options)?
    else {
        let mut whole = String::new();
        for element in &elements {
            match element {
                Value::Object(object) => describe(object, &mut whole),
                other => gather(other, &mut whole),
            }
        }
        return sink(whole_piece(whole));
    };
    for (row, element) in (1u64..).zip(&elements) {
        sink(match element {
            Value::Object(object) => piece(row, object, &columns),
            _ => row_refused(row, Reason::Malformed, "not an object".to_owned()),
        })?;
    }
    Ok(())
}

/// The fields to read, by the first objects of the file.
fn choose(
    sample: impl Iterator<Item = Map<String, Value>>,
    options: &Options,
) -> Result<Option<Columns>, Refused> {
    let mut names: Vec<String> = Vec::new();
    for object in sample {
        for (name, value) in object {
            let holds_text = value.is_string() || value.is_array() || value.is_number();
            if holds_text && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    rows::choose(&names, options)
}

fn piece(row: u64, object: &Map<String, Value>, columns: &Columns) -> Event {
    let mut text = String::new();
    for value in columns.text.iter().filter_map(|name| object.get(name)) {
        gather(value, &mut text);
    }
    let subjects = match columns.subject.as_ref().and_then(|name| object.get(name)) {
        Some(Value::String(subject)) => rows::subjects(subject),
        Some(Value::Number(number)) => vec![number.to_string()],
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).map(|subject| subject.trim().to_owned()).collect()
        }
        _ => Vec::new(),
    };
    Event::Piece(Piece { format: Format::Jsonl, row: Some(row), subjects, text })
}

/// The strings of a value, an empty line between them.
fn gather(value: &Value, text: &mut String) {
    match value {
        Value::String(string) => {
            if !text.is_empty() && !string.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(string);
        }
        Value::Array(values) => values.iter().for_each(|value| gather(value, text)),
        Value::Object(object) => object.values().for_each(|value| gather(value, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An object of which no field is known to be its text: a line per field.
fn describe(object: &Map<String, Value>, whole: &mut String) {
    if !whole.is_empty() {
        whole.push('\n');
    }
    for (name, value) in object {
        let mut said = String::new();
        gather(value, &mut said);
        match value {
            Value::Number(_) | Value::Bool(_) => said = value.to_string(),
            _ => {}
        }
        if !said.is_empty() {
            whole.push_str(name);
            whole.push_str(": ");
            whole.push_str(&said);
            whole.push('\n');
        }
    }
}

fn whole_piece(text: String) -> Event {
    Event::Piece(Piece { format: Format::Jsonl, row: None, subjects: Vec::new(), text })
}

fn row_refused(row: u64, reason: Reason, detail: String) -> Event {
    Event::RowRefused { row, refused: Refused::new(reason, detail).within(Format::Jsonl) }
}

/// Where a JSON text breaks, without quoting it.
fn place(error: &serde_json::Error) -> String {
    format!("not JSON at line {}, column {}", error.line(), error.column())
}
