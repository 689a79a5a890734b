//! Logging in and out: a name and a password for a token that lives for hours. Whoever comes has no token yet, so that
//! this route is open, and yet slowed, answered in the same words whatever is wrong, and recorded. Whoever is in changes
//! the password by knowing it: a session that was stolen guesses no faster than a stranger.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, de};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    api::Api,
    attempts::Attempt,
    error::{ApiError, ApiResult},
    intake,
};
use crate::{base::ErrorKind, seal::Secret, work::policy::Caller};

/// Passwords that are tried at once: each takes 64 MiB for a tenth of a second.
pub const TRIED_AT_ONCE: usize = 2;
/// How long one waits for the others.
const TURN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogIn {
    user: String,
    #[serde(deserialize_with = "secret")]
    password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(deserialize_with = "secret")]
    password: Secret,
    #[serde(deserialize_with = "secret")]
    new_password: Secret,
}

pub async fn log_in(api: Arc<Api>, head: Parts, body: Body) -> ApiResult<Response> {
    let from = intake::origin(&head);
    let entered = enter(&api, &head, body).await;
    if entered.is_err() {
        api.count_failed_log_in();
        api.slow_stranger(from).await;
    }
    entered
}

async fn enter(api: &Arc<Api>, head: &Parts, body: Body) -> ApiResult<Response> {
    let body = intake::read_secret(body).await?;
    intake::require_json(&head.headers)?;
    // What serde would say quotes what it read.
    let LogIn { user, password } = serde_json::from_slice(body.danger_expose()).map_err(|_| {
        ApiError::invalid_json("it must hold the strings 'user' and 'password', and nothing else")
    })?;
    drop(body);
    let from = intake::origin(head);
    let (attempt, turn) = take_turn(api, &user, from).await?;
    let lifetime = api.limits.session_time;
    let outcome = api
        .ask(move |records| {
            // Held until the work is done, whoever still waits for it.
            let _turn = turn;
            records.log_in(&user, &password, from, lifetime)
        })
        .await;
    let session = match outcome {
        Ok(session) => session,
        Err(error) if error.kind() == ErrorKind::Denied => return Err(ApiError::wrong_password()),
        Err(error) => return Err(ApiError::unrecorded(&error)),
    };
    api.attempts.succeeded(&attempt, Instant::now());
    let body = json!({
        "token": session.token,
        "role": session.role.as_str(),
        "expires_at": session.expires_at_ms / 1000,
    });
    Ok(Json(body).into_response())
}

/// When a password of this account may be tried, and the right to.
async fn take_turn(
    api: &Arc<Api>,
    user: &str,
    from: Option<IpAddr>,
) -> ApiResult<(Attempt, OwnedSemaphorePermit)> {
    let attempt = api.attempts.begin(user, from, Instant::now()).map_err(ApiError::too_many_log_ins)?;
    tokio::time::sleep(attempt.wait).await;
    let turn = tokio::time::timeout(TURN_WITHIN, Arc::clone(&api.trying).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(ApiError::too_many_log_ins(TURN_WITHIN)) };
    Ok((attempt, turn))
}

pub async fn change_password(
    api: Arc<Api>,
    caller: Caller,
    body: Secret,
    recorded: Arc<AtomicBool>,
) -> ApiResult<Response> {
    // What serde would say quotes what it read.
    let Change { password, new_password } = serde_json::from_slice(body.danger_expose()).map_err(|_| {
        ApiError::invalid_json("it must hold the strings 'password' and 'new_password', and nothing else")
    })?;
    drop(body);
    let from = caller.from;
    let asker = caller.clone();
    let user = api.ask(move |records| records.session_user(&asker)).await?;
    let (attempt, turn) = take_turn(&api, &user, from).await?;
    recorded.store(true, Ordering::Release);
    let outcome = api
        .ask(move |records| {
            // Held until the work is done, whoever still waits for it.
            let _turn = turn;
            records.change_password(&caller, &password, &new_password)
        })
        .await;
    match outcome {
        Err(error) if error.kind() == ErrorKind::Denied => {
            api.count_failed_log_in();
            api.slow_stranger(from).await;
            return Err(ApiError::wrong_present_password());
        }
        Err(error) if error.kind() == ErrorKind::Usage => {
            api.attempts.succeeded(&attempt, Instant::now());
            return Err(ApiError::managing(&error).about("new_password"));
        }
        outcome => outcome?,
    }
    api.attempts.succeeded(&attempt, Instant::now());
    Ok(Json(json!({"object": "password", "changed": true, "sessions_ended": true})).into_response())
}

pub async fn log_out(api: Arc<Api>, caller: Caller) -> ApiResult<Response> {
    let token = caller.token;
    api.ask(move |records| records.log_out(&caller)).await?;
    Ok(Json(json!({"id": token, "object": "session", "ended": true})).into_response())
}

/// A string, straight into memory that is wiped.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = Secret;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
            Ok(Secret::new(text.as_bytes().to_vec()))
        }
    }
    deserializer.deserialize_str(Text)
}
