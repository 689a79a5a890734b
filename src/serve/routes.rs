//! The one table of routes, and the router built from it. A route that is not open takes a valid token whose role
//! may do the route's action: a handler of a guarded route cannot be written without its caller. One route is for those
//! who come to get a token.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, Request},
    http::{HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

use super::{
    answering,
    api::Api,
    error::{ApiError, ApiResult},
    handlers,
    intake::{self, Call},
    managing,
    records::Noted,
    sessions,
};
use crate::{
    auditlog::Outcome,
    seal::Secret,
    work::{
        Kind, Request as Asked,
        policy::{Action, Caller},
    },
};

type Answering = Pin<Box<dyn Future<Output = ApiResult<Response>> + Send>>;

#[derive(Clone, Copy)]
pub enum Handler {
    /// For everybody; it is told nothing of the request.
    Open(fn(&Api) -> Response),
    /// For those who have no token and bring what gets them one. It slows, counts and records by itself.
    Entering(fn(Arc<Api>, Parts, Body) -> Answering),
    Guarded(Action, fn(Arc<Api>, Caller, Call) -> Answering),
    /// Guarded as well; the body goes into memory that is wiped. What is set says that a record is begun, as in [`Call`].
    Confided(Action, fn(Arc<Api>, Caller, Secret, Arc<AtomicBool>) -> Answering),
    /// A request of the warden's, who records it. It may be an ingest: it does not go before documents.
    Managed(&'static Kind),
}

#[derive(Clone)]
pub struct Route {
    pub method: MethodFilter,
    pub method_name: &'static str,
    pub path: Cow<'static, str>,
    pub handler: Handler,
}

impl Route {
    /// The route as a label of metrics.
    pub fn label(&self) -> String {
        format!("method=\"{}\",route=\"{}\"", self.method_name, self.path)
    }
}

const fn get(path: &'static str, handler: Handler) -> Route {
    Route { method: MethodFilter::GET, method_name: "GET", path: Cow::Borrowed(path), handler }
}

const fn post(path: &'static str, handler: Handler) -> Route {
    Route { method: MethodFilter::POST, method_name: "POST", path: Cow::Borrowed(path), handler }
}

const fn put(path: &'static str, handler: Handler) -> Route {
    Route { method: MethodFilter::PUT, method_name: "PUT", path: Cow::Borrowed(path), handler }
}

const fn delete(path: &'static str, handler: Handler) -> Route {
    Route { method: MethodFilter::DELETE, method_name: "DELETE", path: Cow::Borrowed(path), handler }
}

use Handler::{Confided, Entering, Guarded, Managed, Open};

/// All there are: those of applications, and one for each of the warden's requests.
pub static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let managed = Asked::KINDS.iter().map(|kind| Route {
        method: MethodFilter::POST,
        method_name: "POST",
        path: format!("/admin/v1/{}", kind.name).into(),
        handler: Managed(kind),
    });
    APPLICATIONS.iter().cloned().chain(managed).collect()
});

const APPLICATIONS: &[Route] = &[
    get("/healthz", Open(handlers::healthz)),
    get("/readyz", Open(handlers::readyz)),
    get("/metrics", Guarded(Action::MetricsRead, |api, _, _| Box::pin(handlers::metrics(api)))),
    post("/v1/sessions", Entering(|api, head, body| Box::pin(sessions::log_in(api, head, body)))),
    delete(
        "/v1/sessions/current",
        Guarded(Action::SessionEnd, |api, caller, _| Box::pin(sessions::log_out(api, caller))),
    ),
    put(
        "/v1/password",
        Confided(Action::PasswordChange, |api, caller, secret, recorded| {
            Box::pin(sessions::change_password(api, caller, secret, recorded))
        }),
    ),
    get("/v1/models", Guarded(Action::ModelServed, |api, caller, _| Box::pin(handlers::models(api, caller)))),
    get(
        "/v1/models/{id}",
        Guarded(Action::ModelServed, |api, caller, call| Box::pin(handlers::model(api, caller, call))),
    ),
    post(
        "/v1/chat/completions",
        Guarded(Action::AnswerAsk, |api, caller, call| Box::pin(answering::chat(api, caller, call))),
    ),
    post(
        "/v1/completions",
        Guarded(Action::AnswerAsk, |api, caller, call| Box::pin(answering::completion(api, caller, call))),
    ),
    post(
        "/v1/feedback",
        Guarded(Action::FeedbackGive, |api, caller, call| Box::pin(handlers::feedback(api, caller, call))),
    ),
    get(
        "/v1/receipts/{id}",
        Guarded(Action::ReceiptShow, |api, caller, call| Box::pin(handlers::receipt(api, caller, call))),
    ),
];

/// The router of the table; everything else is refused in the API's own words.
pub fn router(api: &Arc<Api>) -> Router {
    let mut router = Router::new();
    for (place, route) in ROUTES.iter().enumerate() {
        let (api, handler) = (Arc::clone(api), route.handler);
        let answer = move |parameters: RawPathParams, request: Request| {
            let api = Arc::clone(&api);
            let id = parameters.iter().next().map(|(_, value)| value.to_owned());
            async move { timed(api, place, handler, id, request).await }
        };
        router = router.route(&route.path, on(route.method, answer));
    }
    router.fallback(unknown_route).method_not_allowed_fallback(wrong_method)
}

async fn timed(
    api: Arc<Api>,
    place: usize,
    handler: Handler,
    id: Option<String>,
    request: Request,
) -> Response {
    let received = Instant::now();
    let response = match handler {
        Open(answer) => {
            api.count_probe();
            answer(&api)
        }
        Entering(answer) => {
            let (head, body) = request.into_parts();
            answer(Arc::clone(&api), head, body).await.into_response()
        }
        Guarded(action, answer) => {
            let _ahead = api.precedence.answer();
            let work = called(id.clone(), received, answer);
            guarded(&api, action, recording(action), work, id, request, received).await.into_response()
        }
        Confided(action, answer) => {
            let _ahead = api.precedence.answer();
            let work = confided(answer);
            guarded(&api, action, recording(action), work, id, request, received).await.into_response()
        }
        Managed(kind) => {
            let answer =
                move |api, caller, call| -> Answering { Box::pin(managing::manage(api, caller, call, kind)) };
            let work = called(id.clone(), received, answer);
            guarded(&api, kind.action, Recording::Handler, work, id, request, received).await.into_response()
        }
    };
    api.metrics.routes[place].1.observe(response.status().as_u16(), received.elapsed());
    private(response)
}

/// A request whose caller may do what it asks for, and whose intent is recorded where the router does that.
struct Admitted {
    api: Arc<Api>,
    caller: Caller,
    head: Parts,
    body: Body,
    /// As in [`Call`].
    recorded: Arc<AtomicBool>,
}

/// Reads the body, and asks the handler.
fn called(
    id: Option<String>,
    received: Instant,
    answer: impl FnOnce(Arc<Api>, Caller, Call) -> Answering + Send + 'static,
) -> impl FnOnce(Admitted) -> Answering {
    move |Admitted { api, caller, head, body, recorded }| {
        Box::pin(async move {
            let body = intake::read_body(&api, &head.headers, body).await?;
            if head.method == Method::POST {
                intake::require_json(&head.headers)?;
            }
            let accepts_lines = intake::accepts_lines(&head.headers);
            answer(api, caller, Call { id, body, received, accepts_lines, recorded }).await
        })
    }
}

/// The same with a body that is a secret.
fn confided(
    answer: fn(Arc<Api>, Caller, Secret, Arc<AtomicBool>) -> Answering,
) -> impl FnOnce(Admitted) -> Answering {
    move |Admitted { api, caller, head, body, recorded }| {
        Box::pin(async move {
            let secret = intake::read_secret(body).await?;
            intake::require_json(&head.headers)?;
            answer(api, caller, secret, recorded).await
        })
    }
}

async fn guarded(
    api: &Arc<Api>,
    action: Action,
    by: Recording,
    work: impl FnOnce(Admitted) -> Answering,
    id: Option<String>,
    request: Request,
    received: Instant,
) -> ApiResult<Response> {
    let (head, body) = request.into_parts();
    let caller = match intake::caller(api, &head, action).await {
        Ok(caller) => caller,
        Err(refusal) => {
            // A connection closed over an unread body would swallow the refusal.
            intake::drain(body, intake::STRANGERS_BODY_MAX).await;
            return Err(refusal);
        }
    };
    if let Err(exceeded) = api.allowances.admit(&caller, received) {
        // Counted, not written down one by one: a flood must not fill the log.
        api.count_limited();
        intake::drain(body, intake::STRANGERS_BODY_MAX).await;
        return Err(ApiError::beyond(exceeded));
    }
    let note = |outcome, status| {
        let object = id.as_deref().and_then(|id| id.parse().ok());
        api.note(caller.clone(), Noted { action, object, outcome, status })
    };
    if by == Recording::Router {
        note(Outcome::Intent, None).await?;
    }
    let recorded = Arc::new(AtomicBool::new(false));
    let admitted = Admitted {
        api: Arc::clone(api),
        caller: caller.clone(),
        head,
        body,
        recorded: Arc::clone(&recorded),
    };
    let outcome = work(admitted).await;
    let (how, status) = match &outcome {
        Ok(response) => (Outcome::Done, response.status().as_u16()),
        Err(refusal) => (Outcome::Failed, refusal.status.as_u16()),
    };
    match by {
        Recording::Router => note(how, Some(status)).await?,
        // Refused before its handler began a record.
        Recording::Handler if !recorded.load(Ordering::Acquire) => {
            note(Outcome::Intent, None).await?;
            note(how, Some(status)).await?;
        }
        Recording::Handler => {}
        Recording::Window => api.count_probe(),
    }
    outcome
}

/// Who writes intent and outcome of a request into the audit log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recording {
    /// Before the handler is asked, and after it answered.
    Router,
    /// The handler, at the moment that its work calls for: an intent overlaps with the prompt's reading. Or the warden,
    /// for the handler.
    Handler,
    /// Nobody one by one: a machine asks all day, and one entry counts a minute's worth.
    Window,
}

/// Of a guarded route.
pub fn recording(action: Action) -> Recording {
    match action {
        Action::AnswerAsk | Action::FeedbackGive | Action::PasswordChange => Recording::Handler,
        Action::MetricsRead => Recording::Window,
        _ => Recording::Router,
    }
}

async fn unknown_route(method: Method, request: Request) -> Response {
    let (head, body) = request.into_parts();
    intake::drain(body, intake::STRANGERS_BODY_MAX).await;
    private(ApiError::unknown_route(method.as_str(), head.uri.path()).into_response())
}

async fn wrong_method(method: Method, request: Request) -> Response {
    let (head, body) = request.into_parts();
    intake::drain(body, intake::STRANGERS_BODY_MAX).await;
    private(ApiError::wrong_method(method.as_str(), head.uri.path()).into_response())
}

/// Nothing here belongs into a cache, nor is it to be taken for something else than it says.
pub(super) fn private(mut response: Response<Body>) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
