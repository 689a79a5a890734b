//! The management API: the warden's requests over the network, a route for each. The warden authorises and records them
//! as it does those that come at the machine, and refuses what is asked there alone. A client that accepts lines of JSON
//! hears how long work goes; one that goes away stops it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    api::Api,
    error::{ApiError, ApiResult},
    intake::Call,
    records::Noted,
    wire::fields::Fields,
};
use crate::{
    auditlog::Outcome,
    base::{Error, Monitor, Progress, Result},
    work::{Kind, Reach, Request, policy::Caller},
};

/// Requests that are being worked on: a long one holds a thread.
pub const AT_ONCE: usize = 16;
/// Lines that wait for a slow client; then the work waits too.
const LINES_WAITING_MAX: usize = 64;
/// How often a line says how far the work is.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

pub async fn manage(api: Arc<Api>, caller: Caller, call: Call, kind: &'static Kind) -> ApiResult<Response> {
    if let Err(refused) = may_manage(&caller, kind) {
        call.recorded.store(true, Ordering::Release);
        let noted = Noted { action: kind.action, object: None, outcome: Outcome::Denied, status: Some(403) };
        api.note(caller, noted).await?;
        return Err(ApiError::managing(&refused));
    }
    let request = read(kind, &call.body)?;
    if kind.reach == Reach::InLines && !call.accepts_lines {
        return Err(ApiError::lines_only());
    }
    let permit = Arc::clone(&api.managing).try_acquire_owned().map_err(|_| ApiError::busy())?;
    call.recorded.store(true, Ordering::Release);
    let (said, heard) = mpsc::channel(LINES_WAITING_MAX);
    let gone = Gone(Arc::default());
    let relay = Relay {
        api: Arc::clone(&api),
        said: call.accepts_lines.then_some(said),
        gone: Arc::clone(&gone.0),
        last: Mutex::default(),
    };
    let work = tokio::task::spawn_blocking(move || {
        // Held until the work is done, whoever still waits for it.
        let _permit = permit;
        api.records.manage(&caller, request, &relay)
    });
    let lines = Lines { heard, work: Some(work), _gone: gone };
    if call.accepts_lines { lines.streamed().await } else { lines.whole().await }
}

/// What the warden would refuse too, said before anything is read.
fn may_manage(caller: &Caller, kind: &Kind) -> Result<()> {
    if caller.scope.models.is_some() {
        // What is managed is not one model's.
        return Err(Error::denied("this token's scope names models, and management is about all of them")
            .remedy("`cloister token new` makes one without --model"));
    }
    kind.must_reach_the_network()
}

/// The fields of a request, as the command line sends them under its name.
fn read(kind: &Kind, body: &[u8]) -> ApiResult<Request> {
    let fields = Fields::parse(body)?.into_map();
    let is_bare = fields.is_empty();
    let named = serde_json::from_value(json!({ (kind.name): fields }));
    // One without fields is its name alone.
    let named = named.or_else(|error| match is_bare {
        true => serde_json::from_value(Value::from(kind.name)).map_err(|_| error),
        false => Err(error),
    });
    named.map_err(|error| Error::usage(format!("{}: {error}", kind.name)).into())
}

/// Says that nobody waits any more, however that came.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Work that is being done, as its client hears it.
struct Lines {
    heard: mpsc::Receiver<Value>,
    /// None once its outcome was said.
    work: Option<JoinHandle<Result<Value>>>,
    _gone: Gone,
}

impl Lines {
    async fn whole(mut self) -> ApiResult<Response> {
        let answer = self.outcome().await.map_err(|error| ApiError::managing(&error))?;
        Ok(Json(answer).into_response())
    }

    async fn streamed(mut self) -> ApiResult<Response> {
        // The head waits for the first line: what fails before it is an error with a status of its own.
        let first = match self.heard.recv().await {
            Some(line) => line,
            None => {
                let answer = self.outcome().await.map_err(|error| ApiError::managing(&error))?;
                json!({"answer": answer})
            }
        };
        let first = futures_util::stream::once(async move { Ok(line(&first)) });
        let rest = futures_util::stream::unfold(self, |mut lines| async {
            let next = lines.next().await?;
            Some((Ok::<_, Infallible>(line(&next)), lines))
        });
        let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
        let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
        Ok((headers, body).into_response())
    }

    async fn next(&mut self) -> Option<Value> {
        if let Some(line) = self.heard.recv().await {
            return Some(line);
        }
        self.work.as_ref()?;
        Some(match self.outcome().await {
            Ok(answer) => json!({"answer": answer}),
            Err(error) => ApiError::managing(&error).body(),
        })
    }

    async fn outcome(&mut self) -> Result<Value> {
        match self.work.take() {
            Some(work) => work.await.unwrap_or_else(|_| Err(Error::failed("its thread ended before it did"))),
            None => Err(Error::failed("its outcome was said already")),
        }
    }
}

fn line(value: &Value) -> Bytes {
    // JSON escapes line ends, so that one line is one line.
    Bytes::from(format!("{value}\n"))
}

/// The monitor of work that is watched over the network.
struct Relay {
    api: Arc<Api>,
    /// None where only the answer is waited for.
    said: Option<mpsc::Sender<Value>>,
    gone: Arc<AtomicBool>,
    /// When it last said how far it is.
    last: Mutex<Option<Instant>>,
}

impl Relay {
    fn say(&self, line: Value) {
        if let Some(said) = &self.said
            && said.blocking_send(line).is_err()
        {
            self.gone.store(true, Ordering::Release);
        }
    }
}

impl Monitor for Relay {
    fn progress(&self, progress: &Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
            *last = Some(Instant::now());
            drop(last);
            self.say(json!({"progress": progress}));
        }
    }

    fn note(&self, message: &str) {
        self.say(json!({"note": message}));
    }

    fn text(&self, piece: &str) {
        self.say(json!({"text": piece}));
    }

    fn stop_requested(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.api.is_stopping()
    }
}
