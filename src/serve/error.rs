//! Errors as OpenAI's clients read them: a status, and `{"error": {message, type, param, code}}`. Messages say what
//! was wrong with the request; what failed inside is logged here and told to no stranger.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::allowance::Exceeded;
use crate::{
    base::{Error, ErrorKind},
    infer::Refusal,
};

pub type ApiResult<T> = Result<T, ApiError>;

#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub kind: &'static str,
    pub code: Option<&'static str>,
    /// The field of the request that is at fault.
    pub param: Option<String>,
    pub message: String,
    /// When it makes sense to ask again.
    pub retry_after_s: Option<u64>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after_s: None }
    }

    fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Names the field at fault.
    pub fn about(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// A field's value is out of range or makes no sense.
    pub fn invalid(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message).with_code(code).about(param)
    }

    pub fn wrong_type(param: &str, expected: &str, got: &Value) -> Self {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a decimal number",
            Value::Number(_) => "an integer",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        let message = format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
        Self::invalid(param, "invalid_type", message)
    }

    pub fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::invalid(param, "missing_required_parameter", message)
    }

    /// A known field of the OpenAI API that changes the answer and is not supported here.
    pub fn unsupported(param: &str) -> Self {
        let message = format!("Unsupported parameter: '{param}' is not supported by this server.");
        Self::invalid(param, "unsupported_parameter", message)
    }

    pub fn unknown_parameter(param: &str) -> Self {
        let shown: String = param.chars().take(80).collect();
        Self::invalid(&shown, "unknown_parameter", format!("Unknown parameter: '{shown}'."))
    }

    pub fn invalid_json(detail: &str) -> Self {
        let message = format!("We could not parse the JSON body of your request ({detail}).");
        Self::new(StatusCode::BAD_REQUEST, INVALID, message).with_code("invalid_json")
    }

    pub fn context_length(param: &str, message: String) -> Self {
        Self::invalid(param, "context_length_exceeded", message)
    }

    pub fn model_not_found(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let message = format!("The model '{shown}' does not exist or you do not have access to it.");
        Self::new(StatusCode::NOT_FOUND, INVALID, message).with_code("model_not_found").about("model")
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, message).with_code("not_found")
    }

    pub fn unknown_route(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(120).collect();
        let message = format!("Invalid URL ({method} {path})");
        Self::new(StatusCode::NOT_FOUND, INVALID, message).with_code("unknown_url")
    }

    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("Not allowed to {method} on {path}.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message).with_code("method_not_supported")
    }

    pub fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("The request body is larger than {bytes_max} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message).with_code("request_too_large")
    }

    pub fn body_too_slow() -> Self {
        let message = "The request body did not arrive in time.";
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, message).with_code("request_timeout")
    }

    pub fn wrong_media_type() -> Self {
        let message = "The body must be JSON: send the header Content-Type: application/json.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message).with_code("unsupported_media_type")
    }

    pub fn no_token() -> Self {
        let message = "You didn't provide an API key: send the header Authorization: Bearer YOUR_TOKEN.";
        Self::new(StatusCode::UNAUTHORIZED, INVALID, message).with_code("invalid_api_key")
    }

    /// Says nothing of why: unknown, expired and revoked look the same from outside.
    pub fn wrong_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, INVALID, "Incorrect API key provided.")
            .with_code("invalid_api_key")
    }

    /// Says nothing of which of them is wrong.
    pub fn wrong_password() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, INVALID, "Incorrect user or password.")
            .with_code("invalid_credentials")
    }

    /// The code is that of a log-in; the token is not what is at fault.
    pub fn wrong_present_password() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, INVALID, "Incorrect present password.")
            .with_code("invalid_credentials")
            .about("password")
    }

    pub fn too_many_log_ins(wait: Duration) -> Self {
        let message = "There are too many attempts to log in. Try again in a moment.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded")
            .retry_after(wait.as_secs() + 1)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).with_code("insufficient_permissions")
    }

    pub fn busy() -> Self {
        let message = "As many requests as allowed are running or waiting. Try again in a moment.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded")
            .retry_after(1)
    }

    /// This token has taken what it may.
    pub fn beyond(exceeded: Exceeded) -> Self {
        let message = format!("Rate limit reached for this API key: {}.", exceeded.what);
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded")
            .retry_after(exceeded.retry_after_s)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message)
            .with_code("service_unavailable")
            .retry_after(5)
    }

    /// To whoever manages the appliance a failure is told as the command line tells it, with what to do about it.
    pub fn managing(error: &Error) -> Self {
        let (status, kind, code) = match error.kind() {
            ErrorKind::Usage => (StatusCode::BAD_REQUEST, INVALID, "invalid_value"),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, INVALID, "not_found"),
            ErrorKind::Denied => (StatusCode::FORBIDDEN, "permission_error", "insufficient_permissions"),
            ErrorKind::Unavailable | ErrorKind::Sealed => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, "service_unavailable")
            }
            ErrorKind::Interrupted => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "interrupted"),
            ErrorKind::Integrity => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "integrity"),
            ErrorKind::Failed => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "failed"),
        };
        let remedy = error.remedy_text().map(|remedy| format!(" (help: {remedy})")).unwrap_or_default();
        Self::new(status, kind, format!("{error}{remedy}")).with_code(code)
    }

    /// An answer that is made of lines, asked for by somebody who does not take them.
    pub fn lines_only() -> Self {
        let message = "This answer comes in lines: send the header Accept: application/x-ndjson.";
        Self::new(StatusCode::NOT_ACCEPTABLE, INVALID, message).with_code("not_acceptable")
    }

    /// Nobody can say when people come who unseal it.
    pub fn sealed() -> Self {
        let message = "The server is sealed: its administrator has to unseal it before it answers.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).with_code("sealed").retry_after(30)
    }

    /// The audit log or the database refused a record: without it nothing is served.
    pub fn unrecorded(error: &Error) -> Self {
        tracing::error!(%error, "a record could not be written: refusing to serve");
        Self::unavailable(
            "The server cannot record what it does, and so does not do it. Tell its administrator.",
        )
    }

    pub fn internal(error: &Error) -> Self {
        tracing::error!(%error, "a request failed");
        let message = "The server had an error while processing your request.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).with_code("internal_error")
    }

    /// The `error` object alone, as a stream carries it.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self::busy(),
            Refusal::Stopping => Self::unavailable("The server is shutting down."),
            Refusal::EmptyPrompt => Self::invalid("prompt", "empty_prompt", "The prompt is empty."),
            Refusal::NoTokensAsked => below_minimum("max_tokens", 1, "0"),
            Refusal::TooLong { prompt_tokens, max_tokens, context_tokens } => Self::context_length(
                "max_tokens",
                format!(
                    "This model's maximum context length is {context_tokens} tokens. However, you requested {} \
                     tokens ({prompt_tokens} in the prompt, {max_tokens} in the completion). Please reduce the \
                     length of the prompt or of the completion.",
                    prompt_tokens.saturating_add(max_tokens)
                ),
            ),
            Refusal::UnknownToken { token, vocabulary } => Self::invalid(
                "prompt",
                "invalid_token",
                format!("The prompt holds token {token}; this model's vocabulary has {vocabulary}."),
            ),
            Refusal::Sampling(error) => {
                Self::new(StatusCode::BAD_REQUEST, INVALID, error.to_string()).with_code("invalid_value")
            }
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Usage => {
                Self::new(StatusCode::BAD_REQUEST, INVALID, error.to_string()).with_code("invalid_value")
            }
            ErrorKind::NotFound => Self::not_found(error.to_string()),
            ErrorKind::Denied => Self::forbidden(error.to_string()),
            ErrorKind::Unavailable | ErrorKind::Sealed => Self::unavailable(error.to_string()),
            ErrorKind::Failed | ErrorKind::Integrity | ErrorKind::Interrupted => Self::internal(&error),
        }
    }
}

pub fn below_minimum(param: &str, least: impl std::fmt::Display, got: impl std::fmt::Display) -> ApiError {
    let message = format!(
        "Invalid '{param}': below the minimum value. Expected a value >= {least}, but got {got} instead."
    );
    ApiError::invalid(param, "integer_below_min_value", message)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
