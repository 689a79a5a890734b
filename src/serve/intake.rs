//! What stands between the wire and a handler: who is calling, whether they may, and a body of bounded size that
//! arrived in bounded time.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header, request::Parts},
};
use futures_util::StreamExt;

use super::{
    api::Api,
    error::{ApiError, ApiResult},
    records::Noted,
};
use crate::{
    auditlog::Outcome,
    base::ErrorKind,
    seal::{Secret, WipedVec},
    work::{
        Fingerprint,
        policy::{Action, Caller},
    },
};

/// What is read and thrown away for somebody who may not ask anything.
pub const STRANGERS_BODY_MAX: usize = 1 << 20;
const STRANGERS_BODY_TIME: Duration = Duration::from_secs(5);
/// A name and a password, or two passwords.
const SECRET_BODY_MAX: usize = 4 << 10;
const SECRET_BODY_TIME: Duration = Duration::from_secs(10);
/// Our tokens have some 60 characters.
const BEARER_BYTES_MAX: usize = 512;

/// A request that was let in.
#[derive(Debug)]
pub struct Call {
    /// The path's parameter, where the route has one.
    pub id: Option<String>,
    pub body: Bytes,
    pub received: Instant,
    /// Whether the client takes lines of JSON as they come.
    pub accepts_lines: bool,
    /// Set by a handler that writes intent and outcome itself, as soon as it begins to.
    pub recorded: Arc<AtomicBool>,
}

/// Who is at the other end of a connection, as its requests carry it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: IpAddr,
    /// Of the certificate whose key the client proved to have.
    pub certificate: Option<Fingerprint>,
}

/// Where a request comes from, as far as that is known.
pub fn origin(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<Peer>().map(|peer| peer.address)
}

/// Who calls, if they may do `action`.
pub async fn caller(api: &Arc<Api>, head: &Parts, action: Action) -> ApiResult<Caller> {
    let from = origin(head);
    let Some(bearer) = bearer(&head.headers) else {
        api.slow_stranger(from).await;
        return Err(ApiError::no_token());
    };
    let bearer = bearer.to_owned();
    let certificate = head.extensions.get::<Peer>().and_then(|peer| peer.certificate);
    let caller = match api.ask(move |records| records.authenticate(&bearer, certificate)).await {
        Ok(caller) => Caller { from, ..caller },
        Err(error) if error.kind() == ErrorKind::Denied => {
            api.slow_stranger(from).await;
            return Err(ApiError::wrong_token());
        }
        Err(error) => return Err(ApiError::unrecorded(&error)),
    };
    if !caller.may(action) {
        let message = if caller.role.may(action) {
            format!("The scope of this token leaves out '{action}'.")
        } else {
            format!("A token with the role '{}' may not do '{action}'.", caller.role)
        };
        api.note(caller, Noted { action, object: None, outcome: Outcome::Denied, status: Some(403) }).await?;
        return Err(ApiError::forbidden(message));
    }
    Ok(caller)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= BEARER_BYTES_MAX)
        .then_some(token)
}

/// The whole body, if it is small enough and comes soon enough.
pub async fn read_body(api: &Api, headers: &HeaderMap, body: Body) -> ApiResult<Bytes> {
    let bytes_max = api.limits.body_bytes_max;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut stream = body.into_data_stream();
    let mut read = Vec::new();
    let reading = async {
        if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
            return Err(ApiError::body_too_large(bytes_max));
        }
        while let Some(piece) = stream.next().await {
            let piece =
                piece.map_err(|error| ApiError::invalid_json(&format!("the body broke off: {error}")))?;
            if read.len() + piece.len() > bytes_max {
                return Err(ApiError::body_too_large(bytes_max));
            }
            read.extend_from_slice(&piece);
        }
        Ok(())
    };
    match tokio::time::timeout(api.limits.body_time_max, reading).await {
        Ok(Ok(())) => Ok(Bytes::from(read)),
        Ok(Err(refusal)) => {
            drop(std::mem::take(&mut read));
            let rest = Body::from_stream(stream);
            drain_within(rest, api.limits.drained_bytes_max, api.limits.body_time_max).await;
            Err(refusal)
        }
        Err(_) => Err(ApiError::body_too_slow()),
    }
}

/// A small body that holds a secret, into memory that is wiped. What the connection itself read it into is not ours.
pub async fn read_secret(body: Body) -> ApiResult<Secret> {
    let mut stream = body.into_data_stream();
    let (mut read, mut length) = (WipedVec::zeroed(SECRET_BODY_MAX), 0);
    let reading = async {
        while let Some(piece) = stream.next().await {
            let piece =
                piece.map_err(|error| ApiError::invalid_json(&format!("the body broke off: {error}")))?;
            let place = read
                .get_mut(length..length + piece.len())
                .ok_or_else(|| ApiError::body_too_large(SECRET_BODY_MAX))?;
            place.copy_from_slice(&piece);
            length += piece.len();
        }
        Ok::<(), ApiError>(())
    };
    let outcome = tokio::time::timeout(SECRET_BODY_TIME, reading).await;
    match outcome.unwrap_or_else(|_| Err(ApiError::body_too_slow())) {
        Ok(()) => Ok(Secret::new(read[..length].to_vec())),
        Err(refusal) => {
            drain(Body::from_stream(stream), STRANGERS_BODY_MAX).await;
            Err(refusal)
        }
    }
}

/// Reads a body to throw it away, within bounds: what is left makes the connection close.
pub async fn drain(body: Body, bytes_max: usize) {
    drain_within(body, bytes_max, STRANGERS_BODY_TIME).await;
}

async fn drain_within(body: Body, bytes_max: usize, time_max: Duration) {
    let mut stream = body.into_data_stream();
    let draining = async {
        let mut drained = 0;
        while let Some(Ok(piece)) = stream.next().await {
            drained += piece.len();
            if drained > bytes_max {
                break;
            }
        }
    };
    // Too slow a sender gets its answer all the same; whether it can read it is its affair.
    let _ = tokio::time::timeout(time_max, draining).await;
}

pub fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(','));
    types.any(|value| {
        let essence = value.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/x-ndjson")
    })
}

pub fn require_json(headers: &HeaderMap) -> ApiResult<()> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(ApiError::wrong_media_type()) }
}
