//! Requests for text, read from JSON: `/v1/chat/completions` and `/v1/completions` differ in how the prompt is
//! given and share everything else.

use serde_json::Value;

use super::{
    super::error::{ApiError, ApiResult, below_minimum},
    fields::Fields,
};
use crate::{
    infer::{Prompt, Sampling},
    text::Message,
};

/// The OpenAI API's own bounds.
const TEMPERATURE_MAX: f32 = 2.0;
const PENALTY_MAX: f32 = 2.0;
/// The OpenAI API allows four; more cost only time.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1024;
/// What a completion gets where it names no length, as in the OpenAI API.
const COMPLETION_TOKENS_DEFAULT: u64 = 16;

/// A request for text, as it was asked.
#[derive(Debug, PartialEq)]
pub struct Ask {
    pub model: String,
    pub prompt: Prompt,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    /// None: as many as the context holds.
    pub max_tokens: Option<u64>,
    pub ignore_eos: bool,
    pub stream: bool,
    pub include_usage: bool,
    pub logprobs: bool,
}

impl Ask {
    /// The field of the request that the prompt came in.
    pub fn prompt_field(&self) -> &'static str {
        match self.prompt {
            Prompt::Chat(_) => "messages",
            Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
        }
    }
}

pub fn chat(body: &[u8]) -> ApiResult<Ask> {
    let mut fields = Fields::parse(body)?;
    let messages = fields.take("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let prompt = Prompt::Chat(read_messages(messages)?);
    let logprobs = fields.boolean("logprobs")?;
    if fields.count("top_logprobs", 0)?.is_some_and(|alternatives| alternatives > 0) {
        return Err(ApiError::unsupported("top_logprobs"));
    }
    let newer = fields.count("max_completion_tokens", 1)?;
    let older = fields.count("max_tokens", 1)?;
    if newer.is_some() && older.is_some() && newer != older {
        let message = "Give 'max_tokens' or 'max_completion_tokens', not both.";
        return Err(ApiError::invalid("max_tokens", "invalid_value", message));
    }
    common(fields, prompt, newer.or(older), logprobs)
}

pub fn completion(body: &[u8]) -> ApiResult<Ask> {
    let mut fields = Fields::parse(body)?;
    let prompt = read_prompt(fields.take("prompt").ok_or_else(|| ApiError::missing("prompt"))?)?;
    if fields.take("logprobs").is_some_and(|value| value != false) {
        return Err(ApiError::unsupported("logprobs"));
    }
    let max_tokens = fields.count("max_tokens", 1)?.unwrap_or(COMPLETION_TOKENS_DEFAULT);
    common(fields, prompt, Some(max_tokens), false)
}

fn common(mut fields: Fields, prompt: Prompt, max_tokens: Option<u64>, logprobs: bool) -> ApiResult<Ask> {
    let model = fields.required_string("model")?;
    let stream = fields.boolean("stream")?;
    let include_usage = match fields.object("stream_options")? {
        None => false,
        Some(_) if !stream => {
            let message = "'stream_options' is only allowed when 'stream' is true.";
            return Err(ApiError::invalid("stream_options", "invalid_value", message));
        }
        Some(mut options) => {
            let include_usage = options.boolean("include_usage")?;
            options.boolean("include_obfuscation")?;
            options.finish()?;
            include_usage
        }
    };
    let ask = Ask {
        model,
        prompt,
        sampling: sampling(&mut fields)?,
        stop: fields.take("stop").map_or(Ok(Vec::new()), read_stops)?,
        max_tokens,
        ignore_eos: fields.boolean("ignore_eos")?,
        stream,
        include_usage,
        logprobs,
    };
    fields.finish()?;
    Ok(ask)
}

fn sampling(fields: &mut Fields) -> ApiResult<Sampling> {
    let default = Sampling::default();
    let top_k = fields.count("top_k", 0)?.unwrap_or(0);
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0, TEMPERATURE_MAX)?.unwrap_or(default.temperature),
        top_k: u32::try_from(top_k).unwrap_or(u32::MAX),
        // Zero is what some clients send for "the best token only".
        top_p: fields.number("top_p", 0.0, 1.0)?.map_or(default.top_p, |top_p| top_p.max(f32::MIN_POSITIVE)),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(default.min_p),
        repetition_penalty: fields
            .number("repetition_penalty", 0.01, 10.0)?
            .unwrap_or(default.repetition_penalty),
        presence_penalty: fields
            .number("presence_penalty", -PENALTY_MAX, PENALTY_MAX)?
            .unwrap_or(default.presence_penalty),
        frequency_penalty: fields
            .number("frequency_penalty", -PENALTY_MAX, PENALTY_MAX)?
            .unwrap_or(default.frequency_penalty),
        seed: fields.integer("seed")?,
    })
}

fn read_stops(value: Value) -> ApiResult<Vec<String>> {
    let stops = match value {
        Value::String(stop) => vec![stop],
        Value::Array(stops) => stops
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                other => Err(ApiError::wrong_type("stop", "strings", &other)),
            })
            .collect::<ApiResult<_>>()?,
        other => return Err(ApiError::wrong_type("stop", "a string or an array of strings", &other)),
    };
    let usable = |stop: &String| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX;
    if stops.len() > STOPS_MAX || !stops.iter().all(usable) {
        let message = format!(
            "Invalid 'stop': at most {STOPS_MAX} strings, none of them empty or longer than {STOP_BYTES_MAX} bytes."
        );
        return Err(ApiError::invalid("stop", "invalid_value", message));
    }
    Ok(stops)
}

fn read_prompt(value: Value) -> ApiResult<Prompt> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(mut parts) => match parts.first() {
            None => Err(ApiError::invalid("prompt", "empty_array", "Invalid 'prompt': the array is empty.")),
            Some(Value::Number(_)) => Ok(Prompt::Tokens(read_tokens(parts)?)),
            Some(Value::String(_) | Value::Array(_)) if parts.len() == 1 => match parts.remove(0) {
                Value::Array(tokens) if tokens.iter().any(|token| !token.is_number()) => {
                    Err(ApiError::wrong_type("prompt", "token numbers", &Value::Array(tokens)))
                }
                one => read_prompt(one),
            },
            Some(Value::String(_) | Value::Array(_)) => {
                let message = "Unsupported 'prompt': this server takes one prompt in a request.";
                Err(ApiError::invalid("prompt", "unsupported_value", message))
            }
            Some(other) => Err(ApiError::wrong_type("prompt", "text or token numbers", other)),
        },
        other => Err(ApiError::wrong_type("prompt", "a string or an array", &other)),
    }
}

fn read_tokens(values: Vec<Value>) -> ApiResult<Vec<u32>> {
    let token = |value: &Value| match value.as_i64() {
        Some(negative) if negative < 0 => Err(below_minimum("prompt", 0, negative)),
        // Tokens past 32 bits are as unknown to every vocabulary as the largest.
        Some(token) => Ok(u32::try_from(token).unwrap_or(u32::MAX)),
        None => Err(ApiError::wrong_type("prompt", "token numbers", value)),
    };
    values.iter().map(token).collect()
}

fn read_messages(value: Value) -> ApiResult<Vec<Message>> {
    let Value::Array(messages) = value else {
        return Err(ApiError::wrong_type("messages", "an array of objects", &value));
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': expected at least one message.";
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    messages.into_iter().enumerate().map(|(place, message)| read_message(place, message)).collect()
}

fn read_message(place: usize, value: Value) -> ApiResult<Message> {
    let name = |field: &str| format!("messages[{place}]{field}");
    let Value::Object(mut message) = value else {
        return Err(ApiError::wrong_type(&name(""), "an object", &value));
    };
    let role = match message.remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(ApiError::wrong_type(&name(".role"), "a string", &other)),
        None => return Err(ApiError::missing(&name(".role"))),
    };
    let role = match role.as_str() {
        "system" | "user" | "assistant" => role,
        "developer" => "system".to_owned(),
        _ => {
            let message =
                format!("Invalid '{}': expected system, developer, user or assistant.", name(".role"));
            return Err(ApiError::invalid(&name(".role"), "invalid_value", message));
        }
    };
    let content = match message.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => read_parts(&name(".content"), parts)?,
        Some(other) if !other.is_null() => {
            return Err(ApiError::wrong_type(&name(".content"), "a string or an array of parts", &other));
        }
        _ => return Err(ApiError::missing(&name(".content"))),
    };
    // Participants' names do not reach the template, so one that is given would be lost.
    match message.iter().find(|(_, value)| !value.is_null()) {
        Some((field, _)) => Err(ApiError::unsupported(&name(&format!(".{field}")))),
        None => Ok(Message { role, content }),
    }
}

fn read_parts(name: &str, parts: Vec<Value>) -> ApiResult<String> {
    let mut content = String::new();
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => content.push_str(text),
            (Some("text"), None) => return Err(ApiError::missing(&format!("{name}.text"))),
            (Some(_), _) => return Err(ApiError::unsupported(&format!("{name}.type"))),
            (None, _) => return Err(ApiError::missing(&format!("{name}.type"))),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: ApiResult<Ask>) -> (String, String) {
        let error = result.expect_err("must be refused");
        (error.code.unwrap_or("").to_owned(), error.param.unwrap_or_default())
    }

    #[test]
    fn reads_what_the_openai_client_sends() {
        let ask = chat(
            br#"{"model": "m", "messages": [{"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
                "max_completion_tokens": 7, "temperature": 0, "top_p": 0, "seed": -1, "stop": "x",
                "stream": true, "stream_options": {"include_usage": true}, "logprobs": true, "user": "u"}"#,
        )
        .expect("reads");
        let Prompt::Chat(messages) = &ask.prompt else { panic!("a chat") };
        assert_eq!((messages[0].role.as_str(), messages[1].content.as_str()), ("system", "ab"));
        assert_eq!((ask.max_tokens, ask.sampling.temperature), (Some(7), 0.0));
        assert!(ask.sampling.validate().is_ok() && ask.stream && ask.include_usage && ask.logprobs);
        assert_eq!(ask.stop, ["x"]);

        let ask = completion(br#"{"model": "m", "prompt": ["once"]}"#).expect("reads");
        assert_eq!((ask.prompt, ask.max_tokens), (Prompt::Text("once".into()), Some(16)));
        let tokens = completion(br#"{"model": "m", "prompt": [[1, 2]], "max_tokens": 3}"#).expect("reads");
        assert_eq!(tokens.prompt, Prompt::Tokens(vec![1, 2]));
    }

    #[test]
    fn refuses_by_name_what_it_cannot_do() {
        let with = |field: &str| {
            format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "a"}}], {field}}}"#)
        };
        for (field, code, param) in [
            (r#""max_tokens": 0"#, "integer_below_min_value", "max_tokens"),
            (r#""max_tokens": -5"#, "integer_below_min_value", "max_tokens"),
            (r#""max_tokens": "9""#, "invalid_type", "max_tokens"),
            (r#""max_tokens": 1, "max_completion_tokens": 2"#, "invalid_value", "max_tokens"),
            (r#""n": 3"#, "unsupported_parameter", "n"),
            (r#""tools": [{"type": "function"}]"#, "unsupported_parameter", "tools"),
            (r#""response_format": {"type": "json_schema"}"#, "unsupported_parameter", "response_format"),
            (r#""logit_bias": {"1": 2}"#, "unsupported_parameter", "logit_bias"),
            (r#""top_logprobs": 3"#, "unsupported_parameter", "top_logprobs"),
            (r#""temperature": 2.5"#, "decimal_out_of_range", "temperature"),
            (r#""temperature": "hot""#, "invalid_type", "temperature"),
            (r#""stream": 1"#, "invalid_type", "stream"),
            (r#""stream_options": {"include_usage": true}"#, "invalid_value", "stream_options"),
            (r#""stream": true, "stream_options": {"x": true}"#, "unknown_parameter", "x"),
            (r#""stop": ["a", 1]"#, "invalid_type", "stop"),
            (r#""stop": """#, "invalid_value", "stop"),
            (r#""seed": 0.5"#, "invalid_type", "seed"),
            (r#""prompt": "x""#, "unknown_parameter", "prompt"),
        ] {
            assert_eq!(refused(chat(with(field).as_bytes())), (code.into(), param.into()), "{field}");
        }
    }

    #[test]
    fn refuses_malformed_messages_and_prompts() {
        for (messages, code, param) in [
            ("[]", "empty_array", "messages"),
            ("{}", "invalid_type", "messages"),
            ("[3]", "invalid_type", "messages[0]"),
            (r#"[{"content": "a"}]"#, "missing_required_parameter", "messages[0].role"),
            (r#"[{"role": "user"}]"#, "missing_required_parameter", "messages[0].content"),
            (r#"[{"role": "user", "content": null}]"#, "missing_required_parameter", "messages[0].content"),
            (r#"[{"role": "user", "content": 5}]"#, "invalid_type", "messages[0].content"),
            (r#"[{"role": "tool", "content": "a"}]"#, "invalid_value", "messages[0].role"),
            (
                r#"[{"role": "user", "content": [{"type": "image_url"}]}]"#,
                "unsupported_parameter",
                "messages[0].content.type",
            ),
            (
                r#"[{"role": "user", "content": "a", "name": "b"}]"#,
                "unsupported_parameter",
                "messages[0].name",
            ),
            (
                r#"[{"role": "assistant", "content": "a", "tool_calls": [1]}]"#,
                "unsupported_parameter",
                "messages[0].tool_calls",
            ),
        ] {
            let body = format!(r#"{{"model": "m", "messages": {messages}}}"#);
            assert_eq!(refused(chat(body.as_bytes())), (code.into(), param.into()), "{messages}");
        }
        for (prompt, code) in [
            ("[]", "empty_array"),
            (r#"["a", "b"]"#, "unsupported_value"),
            ("[[1], [2]]", "unsupported_value"),
            ("[[[1]]]", "invalid_type"),
            (r#"[["a"]]"#, "invalid_type"),
            (r#"[1, "a"]"#, "invalid_type"),
            ("[1, -2]", "integer_below_min_value"),
            ("[1.5]", "invalid_type"),
            ("{}", "invalid_type"),
            ("[true]", "invalid_type"),
        ] {
            let body = format!(r#"{{"model": "m", "prompt": {prompt}}}"#);
            assert_eq!(refused(completion(body.as_bytes())), (code.into(), "prompt".into()), "{prompt}");
        }
        assert_eq!(refused(completion(br#"{"model": "m"}"#)).1, "prompt");
        assert_eq!(refused(completion(br#"{"prompt": "a"}"#)).1, "model");
        assert_eq!(refused(completion(br#"{"model": "m", "prompt": "a", "logprobs": 2}"#)).1, "logprobs");
    }
}
