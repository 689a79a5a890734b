//! The routes that answer at once: health, metrics, models, feedback, receipts.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    api::{Api, Served},
    error::{ApiError, ApiResult},
    intake::Call,
    metrics::{Page, escaped},
    wire::fields::Fields,
};
use crate::{
    base::{Id, IdKind},
    improve::Opinion,
    store::Answer,
    work::policy::{Action, Caller},
};

/// The process lives and answers.
pub fn healthz(_: &Api) -> Response {
    Json(json!({"status": "ok", "sealed": false})).into_response()
}

/// A request for text would be answered now.
pub fn readyz(api: &Api) -> Response {
    match api.unreadiness() {
        None => Json(json!({"status": "ready"})).into_response(),
        Some(reason) => {
            let body = Json(json!({"status": "not ready", "reason": reason}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

pub async fn models(api: Arc<Api>, caller: Caller) -> ApiResult<Response> {
    let data: Vec<Value> = api.models_of(&caller).iter().map(|served| model_json(served)).collect();
    Ok(Json(json!({"object": "list", "data": data})).into_response())
}

pub async fn model(api: Arc<Api>, caller: Caller, call: Call) -> ApiResult<Response> {
    let served = api.model(&caller, call.id.as_deref().unwrap_or(""))?;
    Ok(Json(model_json(&served)).into_response())
}

fn model_json(served: &Served) -> Value {
    json!({
        "id": served.facts.name,
        "object": "model",
        "created": served.facts.created_at_ms / 1000,
        "owned_by": "cloister",
        "version": served.facts.id,
        "context_length": served.engine.context_tokens(),
    })
}

pub async fn metrics(api: Arc<Api>) -> ApiResult<Response> {
    let mut page = Page::default();
    api.metrics.write(&mut page);
    engine_metrics(&api, &mut page);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.into_text())
        .into_response())
}

type Reading = fn(&Served) -> u64;

/// Name, kind, help and reading of what the engines count.
const ENGINE_METRICS: &[(&str, &str, &str, Reading)] = &[
    ("cloister_requests_running", "gauge", "Sequences in the batch.", |served| {
        served.engine.counters().running.load(Ordering::Relaxed)
    }),
    ("cloister_requests_waiting", "gauge", "Requests that wait for cache blocks.", |served| {
        served.engine.counters().waiting.load(Ordering::Relaxed)
    }),
    ("cloister_kv_blocks_used", "gauge", "Blocks of the KV cache in use.", |served| {
        served.engine.counters().blocks_in_use.load(Ordering::Relaxed)
    }),
    ("cloister_kv_blocks", "gauge", "Blocks that the KV cache has.", |served| {
        served.engine.shape().blocks as u64
    }),
    ("cloister_prompt_tokens_total", "counter", "Prompt tokens read.", |served| {
        served.engine.counters().prompt_tokens.load(Ordering::Relaxed)
    }),
    ("cloister_completion_tokens_total", "counter", "Tokens written.", |served| {
        served.engine.counters().answer_tokens.load(Ordering::Relaxed)
    }),
    (
        "cloister_preemptions_total",
        "counter",
        "Sequences that gave up their blocks for an older one.",
        |served| served.engine.counters().preemptions.load(Ordering::Relaxed),
    ),
];

fn engine_metrics(api: &Api, page: &mut Page) {
    let models = api.models();
    for (name, kind, help, read) in ENGINE_METRICS {
        page.head(name, kind, help);
        for served in &models {
            page.sample(name, &format!("model=\"{}\"", escaped(&served.facts.name)), read(served) as f64);
        }
    }
}

pub async fn feedback(api: Arc<Api>, caller: Caller, call: Call) -> ApiResult<Response> {
    let opinion = read_opinion(&call.body)?;
    let answer = own_answer(&api, &caller, opinion.answer, Action::FeedbackReview).await?;
    let kept = opinion.clone();
    call.recorded.store(true, Ordering::Release);
    let id = api.ask(move |records| records.add_feedback(&caller, &kept)).await;
    let id = api.recorded(id)?;
    let body = json!({"id": id, "object": "feedback", "answer": answer.id, "rating": opinion.rating});
    Ok(Json(body).into_response())
}

fn read_opinion(body: &[u8]) -> ApiResult<Opinion> {
    let mut fields = Fields::parse(body)?;
    let answer = fields.required_string("answer")?;
    let answer = Id::parse_as(IdKind::Answer, &answer)
        .map_err(|error| ApiError::invalid("answer", "invalid_value", error.to_string()))?;
    let rating = match fields.take("rating") {
        None => None,
        Some(value) => {
            Some(value.as_i64().ok_or_else(|| ApiError::wrong_type("rating", "an integer", &value))?)
        }
    };
    let opinion = Opinion {
        answer,
        rating,
        correction: fields.string("correction")?,
        comment: fields.string("comment")?,
    };
    fields.finish()?;
    opinion.check()?;
    Ok(opinion)
}

pub async fn receipt(api: Arc<Api>, caller: Caller, call: Call) -> ApiResult<Response> {
    let unknown = || ApiError::not_found("There is no such receipt.");
    let id = Id::parse_as(IdKind::Answer, call.id.as_deref().unwrap_or("")).map_err(|_| unknown())?;
    let answer = own_answer(&api, &caller, id, Action::AuditRead).await?;
    let receipt = answer.receipt.ok_or_else(|| {
        ApiError::not_found(format!("The answer {id} is {}: it has no receipt.", answer.state))
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], receipt).into_response())
}

/// An answer that this caller, or another token of the same user, was given, or any where the role may do `anybodys`. Another's looks like none.
async fn own_answer(api: &Arc<Api>, caller: &Caller, id: Id, anybodys: Action) -> ApiResult<Answer> {
    let (asker, any) = (caller.clone(), caller.may(anybodys));
    let found = api.ask(move |records| {
        let Some(answer) = records.answer(id)? else { return Ok(None) };
        Ok((any || records.was_given(&asker, &answer)?).then_some(answer))
    });
    found
        .await
        .map_err(|error| ApiError::unrecorded(&error))?
        .ok_or_else(|| ApiError::not_found(format!("There is no answer {id}.")))
}
