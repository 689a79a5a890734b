//! From a request for text to its answer, whole or streamed. The intent is durable before the first token leaves
//! (it is written while the prompt is being worked through) and the outcome before the last; an answer whose
//! client goes away ends there, and is recorded as far as it came.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    allowance::Place,
    api::{Api, Served},
    error::{ApiError, ApiResult},
    intake::Call,
    records::{Asked, Ended},
    wire::{
        answers::{Envelope, LoggedPiece},
        requests::{self, Ask},
    },
};
use crate::{
    base::{Error, Result},
    infer::{Event, Events, FinishReason, Generation, Piece, Prompt, Usage},
    seal,
    store::{AnswerKind, AnswerState},
    work::{Ahead, policy::Caller},
};

pub async fn chat(api: Arc<Api>, caller: Caller, call: Call) -> ApiResult<Response> {
    let ask = requests::chat(&call.body)?;
    answer(api, caller, AnswerKind::Chat, ask, call).await
}

pub async fn completion(api: Arc<Api>, caller: Caller, call: Call) -> ApiResult<Response> {
    let ask = requests::completion(&call.body)?;
    answer(api, caller, AnswerKind::Completion, ask, call).await
}

async fn answer(
    api: Arc<Api>,
    caller: Caller,
    kind: AnswerKind,
    ask: Ask,
    call: Call,
) -> ApiResult<Response> {
    let served = api.model(&caller, &ask.model)?;
    let permit = Arc::clone(&api.answers).try_acquire_owned().map_err(|_| ApiError::busy())?;
    let place = api.allowances.answer(&caller, call.received).map_err(ApiError::beyond)?;
    let most = api.allowances.of(&caller).answer_tokens_max;
    // A bound beyond the model's own says nothing that the model would not.
    let is_bound = most < served.engine.context_tokens() as u64;
    if let Some(wanted) = ask.max_tokens.filter(|&wanted| is_bound && wanted > most) {
        let message = format!("This API key may ask for {most} tokens at most, and {wanted} were asked for.");
        return Err(ApiError::invalid("max_tokens", "integer_above_max_value", message));
    }
    let (ask, mut generation) = prepare(&served, ask).await?;
    generation.max_tokens = generation.max_tokens.min(usize::try_from(most).unwrap_or(usize::MAX));
    place.spend(generation.prompt.len() as u64);
    let asked = Asked {
        id: seal::new_id(crate::base::IdKind::Answer)?,
        caller,
        kind,
        model: Arc::clone(&served.facts),
        at_ms: now_ms(),
        prompt_tokens: generation.prompt.len() as u64,
        prompt: kept_prompt(&ask.prompt, &served),
    };
    let envelope = Envelope {
        id: asked.id,
        kind,
        created_s: asked.at_ms / 1000,
        model: ask.model,
        include_usage: ask.include_usage,
    };
    let events = served.engine.submit(generation)?;
    // From here on the prompt is being worked through, while the intent goes to the disk.
    call.recorded.store(true, Ordering::Release);
    let record = Record::begin(&api, asked, permit, place).await?;
    let received = call.received;
    let listening = Listening { events, record, served, received, last: None, logs: ask.logprobs };
    if ask.stream { streamed(listening, envelope).await } else { whole(listening, &envelope).await }
}

/// Turns the prompt into tokens, away from the asynchronous threads: a long one takes a while.
async fn prepare(served: &Arc<Served>, ask: Ask) -> ApiResult<(Ask, Generation)> {
    let context = served.engine.context_tokens();
    let field = ask.prompt_field();
    if served.is_hopeless(&ask.prompt) {
        return Err(too_long(field, context, "is longer than that"));
    }
    let served = Arc::clone(served);
    let encoding =
        tokio::task::spawn_blocking(move || served.encode(&ask.prompt).map(|tokens| (ask, tokens)));
    let (ask, prompt) =
        encoding.await.map_err(|_| ApiError::internal(&Error::failed("encoding a prompt panicked")))??;
    if prompt.is_empty() {
        return Err(ApiError::invalid(
            field,
            "empty_prompt",
            format!("Invalid '{field}': it holds no token."),
        ));
    }
    if prompt.len() >= context {
        return Err(too_long(field, context, &format!("resulted in {} tokens", prompt.len())));
    }
    let room = context - prompt.len();
    let generation = Generation {
        sampling: ask.sampling.clone(),
        stop: ask.stop.clone(),
        max_tokens: ask.max_tokens.map_or(room, |max| usize::try_from(max).unwrap_or(usize::MAX)),
        ignore_eos: ask.ignore_eos,
        prompt,
    };
    Ok((ask, generation))
}

fn too_long(field: &str, context: usize, how: &str) -> ApiError {
    let message = format!(
        "This model's maximum context length is {context} tokens. However, your {field} {how}. Please reduce the \
         length of the {field}."
    );
    ApiError::context_length(field, message)
}

fn kept_prompt(prompt: &Prompt, served: &Served) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat(messages) => json!(messages).to_string(),
        Prompt::Tokens(tokens) => served.engine.tokenizer().decode(tokens),
    }
}

/// An answer in the making, as the handler hears it.
struct Listening {
    events: Events,
    record: Record,
    served: Arc<Served>,
    received: Instant,
    /// When the last token came.
    last: Option<Instant>,
    /// Whether log probabilities are wanted.
    logs: bool,
}

impl Listening {
    async fn next(&mut self) -> Event {
        let event = self.events.next().await;
        if let Event::Token(piece) = &event {
            self.measure();
            self.record.text.push_str(&piece.text);
            self.record.usage.completion_tokens += 1;
            self.record.place.spend(1);
        }
        event
    }

    fn measure(&mut self) {
        let now = Instant::now();
        let metrics = &self.record.api.metrics;
        match self.last {
            None => metrics.first_token.observe(now - self.received),
            Some(last) => metrics.between_tokens.observe(now - last),
        }
        self.last = Some(now);
    }

    fn logged(&self, piece: &Piece) -> Option<LoggedPiece> {
        self.logs.then(|| LoggedPiece::new(piece, self.served.engine.tokenizer().piece(piece.token)))
    }
}

async fn whole(mut listening: Listening, envelope: &Envelope) -> ApiResult<Response> {
    let mut logged = Vec::new();
    loop {
        match listening.next().await {
            Event::Token(piece) => logged.extend(listening.logged(&piece)),
            Event::Finished { reason: FinishReason::Cancelled, .. } => {
                listening.record.end(AnswerState::Cancelled, None).await?;
                return Err(ApiError::unavailable("The server is shutting down."));
            }
            Event::Finished { reason, usage, rest } => {
                listening.record.text.push_str(&rest);
                let text = listening.record.text.clone();
                listening.record.end(AnswerState::Done, Some(reason)).await?;
                let logged = listening.logs.then_some(logged.as_slice());
                return Ok(Json(envelope.whole(&text, logged, reason, usage)).into_response());
            }
            Event::Failed(error) => {
                listening.record.end(AnswerState::Failed, None).await?;
                return Err(ApiError::internal(&error));
            }
        }
    }
}

async fn streamed(mut listening: Listening, envelope: Envelope) -> ApiResult<Response> {
    // The head waits for the first token: what fails before it is an error with a status of its own.
    let first = listening.next().await;
    if let Event::Failed(error) = first {
        listening.record.end(AnswerState::Failed, None).await?;
        return Err(ApiError::internal(&error));
    }
    let mut stream = Stream { listening: Some(listening), envelope, ready: VecDeque::new() };
    stream.open();
    stream.hear(first).await;
    let chunks = futures_util::stream::unfold(stream, |mut stream| async {
        let chunk = stream.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), stream))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// A stream of server-sent events. Dropping it, as happens when the client goes away, ends the answer.
struct Stream {
    /// None once the answer is over.
    listening: Option<Listening>,
    envelope: Envelope,
    ready: VecDeque<Bytes>,
}

impl Stream {
    fn open(&mut self) {
        if let Some(opening) = self.envelope.opening() {
            self.send(&opening);
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            let event = self.listening.as_mut()?.next().await;
            self.hear(event).await;
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Token(piece) => self.piece(&piece),
            Event::Finished { reason: FinishReason::Cancelled, .. } => {
                let stopping = ApiError::unavailable("The server is shutting down.");
                self.break_off(AnswerState::Cancelled, &stopping).await;
            }
            Event::Finished { reason, usage, rest } => self.finish(reason, usage, &rest).await,
            Event::Failed(error) => {
                self.break_off(AnswerState::Failed, &ApiError::internal(&error)).await;
            }
        }
    }

    fn piece(&mut self, piece: &Piece) {
        let logged = self.listening.as_ref().and_then(|listening| listening.logged(piece));
        if !piece.text.is_empty() || logged.is_some() {
            let chunk = self.envelope.text(&piece.text, logged.as_ref());
            self.send(&chunk);
        }
    }

    async fn finish(&mut self, reason: FinishReason, usage: Usage, rest: &str) {
        let Some(mut listening) = self.listening.take() else { return };
        if !rest.is_empty() {
            listening.record.text.push_str(rest);
            self.send(&self.envelope.text(rest, None));
        }
        match listening.record.end(AnswerState::Done, Some(reason)).await {
            Ok(()) => {
                self.send(&self.envelope.closing(reason));
                if self.envelope.include_usage {
                    self.send(&self.envelope.usage(usage));
                }
                self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            }
            Err(unrecorded) => self.send(&unrecorded.body()),
        }
    }

    async fn break_off(&mut self, state: AnswerState, error: &ApiError) {
        let Some(listening) = self.listening.take() else { return };
        match listening.record.end(state, None).await {
            Ok(()) => self.send(&error.body()),
            Err(unrecorded) => self.send(&unrecorded.body()),
        }
    }

    fn send(&mut self, chunk: &Value) {
        // JSON escapes line ends, so that one event is one line.
        self.ready.push_back(Bytes::from(format!("data: {chunk}\n\n")));
    }
}

/// The record of one answer: begun before it, and ended exactly once, as cancelled where nobody else did.
struct Record {
    api: Arc<Api>,
    asked: Arc<Asked>,
    text: String,
    usage: Usage,
    /// Held until the outcome is durable; None once somebody ended it.
    permit: Option<OwnedSemaphorePermit>,
    /// Among what its token may have at once.
    place: Place,
    /// Before documents.
    _ahead: Ahead,
}

impl Record {
    async fn begin(
        api: &Arc<Api>,
        asked: Asked,
        permit: OwnedSemaphorePermit,
        place: Place,
    ) -> ApiResult<Self> {
        let api = Arc::clone(api);
        // On a task of its own: if the client goes away while this waits, the record still comes into being,
        // is dropped then, and so ends as cancelled after it has begun.
        let beginning = tokio::spawn(async move {
            let asked = Arc::new(asked);
            let to_record = Arc::clone(&asked);
            let begun = api.ask(move |records| records.begin_answer(&to_record)).await;
            api.recorded(begun)?;
            let usage = Usage { prompt_tokens: asked.prompt_tokens as usize, completion_tokens: 0 };
            let _ahead = api.precedence.answer();
            Ok(Self { api, asked, text: String::new(), usage, permit: Some(permit), place, _ahead })
        });
        beginning.await.map_err(|_| ApiError::internal(&Error::failed("beginning a record panicked")))?
    }

    async fn end(mut self, state: AnswerState, reason: Option<FinishReason>) -> ApiResult<()> {
        let Some(permit) = self.permit.take() else { return Ok(()) };
        let api = Arc::clone(&self.api);
        let ending = self.ending(state, reason, permit);
        let ended = tokio::task::spawn_blocking(ending)
            .await
            .unwrap_or_else(|_| Err(Error::failed("a record's thread ended before its work")));
        api.recorded(ended)
    }

    fn ending(
        &mut self,
        state: AnswerState,
        reason: Option<FinishReason>,
        permit: OwnedSemaphorePermit,
    ) -> impl FnOnce() -> Result<()> + Send + 'static {
        let counter = match state {
            AnswerState::Done => &self.api.metrics.answers_done,
            AnswerState::Cancelled => &self.api.metrics.answers_cancelled,
            AnswerState::Failed | AnswerState::Pending => &self.api.metrics.answers_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let records = Arc::clone(&self.api.records);
        let asked = Arc::clone(&self.asked);
        let ended = Ended { state, reason, usage: self.usage, text: std::mem::take(&mut self.text) };
        move || {
            let outcome = records.end_answer(&asked, &ended);
            drop(permit);
            outcome
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let ending = self.ending(AnswerState::Cancelled, None, permit);
        let api = Arc::clone(&self.api);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn_blocking(move || {
            // Nobody waits for the answer; that it could not be recorded stops the next one.
            let _ = api.recorded(ending());
        });
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
