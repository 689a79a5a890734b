//! Reading a JSON request field by field. Every field is either read, known to change nothing, or refused by
//! name: a setting that a client believes in is never passed over in silence.

use serde_json::{Map, Value};

use super::super::error::{ApiError, ApiResult, below_minimum};

/// Fields that clients send and that do not change the answer.
const HARMLESS: &[&str] = &[
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Whether a value asks for nothing.
type Neutral = fn(&Value) -> bool;

/// Fields that would change the answer. They are accepted only with the value that asks for nothing.
const UNSUPPORTED: &[(&str, Neutral)] = &[
    ("audio", |_| false),
    ("best_of", |value| value == 1),
    ("echo", |value| value == false),
    ("function_call", |value| value == "none"),
    ("functions", is_empty),
    ("logit_bias", is_empty),
    ("modalities", |value| *value == serde_json::json!(["text"])),
    ("moderation", |_| false),
    ("n", |value| value == 1),
    ("parallel_tool_calls", |_| true),
    ("prediction", |_| false),
    ("reasoning_effort", |value| value == "none"),
    ("response_format", |value| *value == serde_json::json!({"type": "text"})),
    ("suffix", |value| value == ""),
    ("tool_choice", |value| value == "none" || value == "auto"),
    ("tools", is_empty),
    ("verbosity", |value| value == "medium"),
    ("web_search_options", |_| false),
];

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// The fields of a request that have not been read yet. A field that is null counts as absent.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// # Errors
    /// What is no JSON, or no JSON object.
    pub fn parse(body: &[u8]) -> ApiResult<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(mut fields)) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Self(fields))
            }
            Ok(_) => Err(ApiError::invalid_json("it must be an object")),
            Err(error) => Err(ApiError::invalid_json(&format!(
                "{:?} error at line {}, column {}",
                error.classify(),
                error.line(),
                error.column()
            ))),
        }
    }

    /// For whoever reads all of them at once, and refuses what is left over.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub fn string(&mut self, name: &str) -> ApiResult<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::wrong_type(name, "a string", &other)),
        }
    }

    pub fn required_string(&mut self, name: &str) -> ApiResult<String> {
        self.string(name)?.ok_or_else(|| ApiError::missing(name))
    }

    pub fn boolean(&mut self, name: &str) -> ApiResult<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(other) => Err(ApiError::wrong_type(name, "a boolean", &other)),
        }
    }

    /// An integer of at least `least`.
    pub fn count(&mut self, name: &str, least: u64) -> ApiResult<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match (value.as_u64(), value.as_i64()) {
            (Some(count), _) if count >= least => Ok(Some(count)),
            (Some(count), _) => Err(below_minimum(name, least, count)),
            (None, Some(negative)) => Err(below_minimum(name, least, negative)),
            (None, None) => Err(ApiError::wrong_type(name, "an integer", &value)),
        }
    }

    /// Any 64-bit integer, signed or not, as its bits.
    pub fn integer(&mut self, name: &str) -> ApiResult<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let bits = value.as_u64().or_else(|| value.as_i64().map(|signed| signed as u64));
        bits.map(Some).ok_or_else(|| ApiError::wrong_type(name, "an integer", &value))
    }

    pub fn number(&mut self, name: &str, least: f32, most: f32) -> ApiResult<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| ApiError::wrong_type(name, "a number", &value))?;
        if !(f64::from(least)..=f64::from(most)).contains(&number) {
            let message = format!(
                "Invalid '{name}': expected a number from {least} to {most}, but got {number} instead."
            );
            return Err(ApiError::invalid(name, "decimal_out_of_range", message));
        }
        Ok(Some(number as f32))
    }

    /// A sub-object's fields.
    pub fn object(&mut self, name: &str) -> ApiResult<Option<Fields>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(mut fields)) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Some(Self(fields)))
            }
            Some(other) => Err(ApiError::wrong_type(name, "an object", &other)),
        }
    }

    /// Nothing may be left but what changes nothing.
    pub fn finish(self) -> ApiResult<()> {
        for (name, value) in &self.0 {
            let neutral = UNSUPPORTED.iter().find(|(unsupported, _)| unsupported == name);
            match neutral {
                Some((_, asks_for_nothing)) if asks_for_nothing(value) => {}
                Some(_) => return Err(ApiError::unsupported(name)),
                None if HARMLESS.contains(&name.as_str()) => {}
                None => return Err(ApiError::unknown_parameter(name)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    fn refused(result: ApiResult<impl std::fmt::Debug>) -> (&'static str, String) {
        let error = result.expect_err("must be refused");
        (error.code.unwrap_or(""), error.param.unwrap_or_default())
    }

    #[test]
    fn every_field_is_read_harmless_or_refused_by_name() {
        assert!(
            fields(r#"{"user": "x", "metadata": {"a": "b"}, "store": true, "tools": null}"#).finish().is_ok()
        );
        assert!(
            fields(r#"{"n": 1, "tools": [], "logit_bias": {}, "response_format": {"type": "text"}}"#)
                .finish()
                .is_ok()
        );
        for text in [
            r#"{"n": 2}"#,
            r#"{"tools": [{}]}"#,
            r#"{"response_format": {"type": "json_object"}}"#,
            r#"{"logit_bias": {"5": 1}}"#,
            r#"{"best_of": 3}"#,
            r#"{"suffix": "x"}"#,
            r#"{"echo": true}"#,
            r#"{"audio": {}}"#,
        ] {
            let (code, param) = refused(fields(text).finish());
            assert_eq!(code, "unsupported_parameter", "{text}");
            assert!(text.contains(&format!("\"{param}\"")));
        }
        assert_eq!(refused(fields(r#"{"temprature": 1}"#).finish()).0, "unknown_parameter");
    }

    #[test]
    fn values_of_the_wrong_type_or_range_are_refused() {
        let wrong = "invalid_type";
        assert_eq!(refused(fields(r#"{"a": 1}"#).string("a")), (wrong, "a".into()));
        assert_eq!(refused(fields(r#"{"a": "true"}"#).boolean("a")).0, wrong);
        assert_eq!(refused(fields(r#"{"a": 1.5}"#).count("a", 1)).0, wrong);
        assert_eq!(refused(fields(r#"{"a": 1e300}"#).count("a", 1)).0, wrong);
        assert_eq!(refused(fields(r#"{"a": "1"}"#).count("a", 1)).0, wrong);
        assert_eq!(refused(fields(r#"{"a": 0}"#).count("a", 1)).0, "integer_below_min_value");
        assert_eq!(refused(fields(r#"{"a": -3}"#).count("a", 1)).0, "integer_below_min_value");
        assert_eq!(refused(fields(r#"{"a": 2.1}"#).number("a", 0.0, 2.0)).0, "decimal_out_of_range");
        assert_eq!(refused(fields(r#"{"a": []}"#).number("a", 0.0, 2.0)).0, wrong);
        assert_eq!(refused(fields("{}").required_string("a")).0, "missing_required_parameter");
        assert_eq!(fields(r#"{"a": 18446744073709551615}"#).count("a", 1), Ok(Some(u64::MAX)));
        assert_eq!(fields(r#"{"a": -1}"#).integer("a"), Ok(Some(u64::MAX)));
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        for text in ["", "{", "[]", "3", "\"x\"", "{\"a\": NaN}", "{\"a\": 1}}", deep.as_str(), "\u{FEFF}{}"]
        {
            assert_eq!(refused(Fields::parse(text.as_bytes())).0, "invalid_json", "{:.20}", text);
        }
        assert_eq!(refused(Fields::parse(b"{\"a\": \"\xFF\"}")).0, "invalid_json");
    }
}
