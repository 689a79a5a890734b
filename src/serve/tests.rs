//! The router without a socket: each row of the table, each refusal, and what is recorded when.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode, header},
    response::Response,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    Api, Limits, Served,
    records::{Asked, Ended, ModelFacts, Noted, Records},
    router,
    routes::{Handler, ROUTES, Recording, Route, recording},
    strangers::Failures,
};
use crate::{
    auditlog::Outcome,
    base::{
        Error, ErrorKind, Id, IdKind, Monitor, Progress, Result,
        damage::{FIRST_TIER, again_and_again},
    },
    improve::Opinion,
    infer::{
        Engine, EngineOptions,
        testkit::{ToyModel, tokenizer},
    },
    seal::Secret,
    store::{Answer, AnswerState},
    text::ChatTemplate,
    work::{
        Fingerprint, Request as Managed, Scope, Session,
        policy::{Action, Caller, Role},
    },
};

const CONTEXT: usize = 128;
const PASSWORD: &str = "the heron over the mill pond";
const NEXT_PASSWORD: &str = "the otter under the weir";

fn id(kind: IdKind, number: u8) -> Id {
    Id::from_parts(kind, 1, [number; 10])
}

/// Records kept in memory, that fail when told to.
#[derive(Default)]
struct Memory {
    answers: Mutex<HashMap<Id, Answer>>,
    opinions: Mutex<Vec<Opinion>>,
    /// Action and outcome of every entry that the audit log would hold, in order.
    noted: Mutex<Vec<(Action, Outcome)>>,
    cannot_write: AtomicBool,
}

impl Memory {
    fn only_answer(&self) -> Answer {
        let answers = self.answers.lock().expect("no panics");
        assert_eq!(answers.len(), 1);
        answers.values().next().expect("one").clone()
    }

    fn take_noted(&self) -> Vec<(Action, Outcome)> {
        std::mem::take(&mut *self.noted.lock().expect("no panics"))
    }

    fn noting(&self, action: Action, outcome: Outcome) {
        self.noted.lock().expect("no panics").push((action, outcome));
    }

    fn write(&self) -> Result<()> {
        if self.cannot_write.load(Ordering::SeqCst) { Err(Error::failed("no space left")) } else { Ok(()) }
    }
}

/// The token of a role is its name, and `user2` is a second user.
fn caller(bearer: &str) -> Option<Caller> {
    let (role, number) = if bearer == "user2" { ("user", 99) } else { (bearer, bearer.len() as u8) };
    // Users as well, whose tokens are for another model, and for nothing but asking it.
    let other = Scope { models: Some(vec!["other".to_owned()]), ..Scope::default() };
    let (role, scope) = match role {
        "elsewhere" => ("user", other),
        "narrow" => ("user", Scope { actions: Some(vec![Action::AnswerAsk]), ..other }),
        role => (role, Scope::default()),
    };
    let (token, role) = (id(IdKind::Token, number), Role::parse(role).ok()?);
    Some(Caller { token, user: None, role, scope: Arc::new(scope), from: None })
}

impl Records for Memory {
    fn authenticate(&self, bearer: &str, _: Option<Fingerprint>) -> Result<Caller> {
        caller(bearer).ok_or_else(|| Error::denied("unknown token"))
    }

    fn log_in(
        &self,
        name: &str,
        password: &Secret,
        _: Option<std::net::IpAddr>,
        lifetime: Duration,
    ) -> Result<Session> {
        if name != "alice" || password.danger_expose() != PASSWORD.as_bytes() {
            return Err(Error::denied("the name or the password is wrong"));
        }
        self.write()?;
        self.noting(Action::SessionBegin, Outcome::Intent);
        self.noting(Action::SessionBegin, Outcome::Done);
        let expires_at_ms = lifetime.as_millis() as u64;
        Ok(Session { token: "clst_x".to_owned(), role: Role::User, expires_at_ms })
    }

    fn log_out(&self, _: &Caller) -> Result<()> {
        self.write()
    }

    /// Each role is a user's name. The token of `user2` is no session.
    fn session_user(&self, asking: &Caller) -> Result<String> {
        if caller("user2").is_some_and(|program| program.token == asking.token) {
            return Err(Error::denied("this token was made for a program"));
        }
        Ok(asking.role.to_string())
    }

    fn change_password(&self, _: &Caller, present: &Secret, next: &Secret) -> Result<()> {
        self.write()?;
        self.noting(Action::PasswordChange, Outcome::Intent);
        let (outcome, answer) = if present.danger_expose() != PASSWORD.as_bytes() {
            (Outcome::Denied, Err(Error::denied("the name or the password is wrong")))
        } else if next.danger_expose() != NEXT_PASSWORD.as_bytes() {
            (Outcome::Failed, Err(Error::usage("a password has at least 12 characters")))
        } else {
            (Outcome::Done, Ok(()))
        };
        self.noting(Action::PasswordChange, outcome);
        answer
    }

    /// A proof goes on until it is told to stop; everything else says a little on its way.
    fn manage(&self, _: &Caller, request: Managed, monitor: &dyn Monitor) -> Result<Value> {
        self.write().map_err(|error| error.with_kind(ErrorKind::Unavailable))?;
        let action = request.action();
        self.noting(action, Outcome::Intent);
        monitor.progress(&Progress { stage: "half-way".into(), ..Progress::default() });
        monitor.progress(&Progress { stage: "too soon to say so".into(), ..Progress::default() });
        if matches!(request, Managed::AuditProve { .. }) {
            while !monitor.stop_requested() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.noting(action, Outcome::Failed);
            return Err(Error::interrupted("stopped"));
        }
        if let Managed::ModelShow { model } = &request {
            self.noting(action, Outcome::Failed);
            return Err(Error::not_found(format!("there is no model '{model}'")).remedy("look at model_ls"));
        }
        monitor.note("one\ntwo");
        monitor.text("vier — ✓");
        self.noting(action, Outcome::Done);
        Ok(serde_json::to_value(request).expect("JSON"))
    }

    fn begin_answer(&self, asked: &Asked) -> Result<()> {
        self.write()?;
        self.noting(Action::AnswerAsk, Outcome::Intent);
        let answer = Answer {
            id: asked.id,
            token: asked.caller.token,
            model: asked.model.id,
            kind: asked.kind,
            state: AnswerState::Pending,
            finish_reason: None,
            prompt_tokens: asked.prompt_tokens,
            completion_tokens: 0,
            created_at_ms: asked.at_ms,
            ended_at_ms: None,
            prompt: asked.prompt.clone(),
            answer: String::new(),
            receipt: None,
        };
        self.answers.lock().expect("no panics").insert(asked.id, answer);
        Ok(())
    }

    fn end_answer(&self, asked: &Asked, ended: &Ended) -> Result<()> {
        self.write()?;
        self.noting(Action::AnswerAsk, Outcome::Done);
        let mut answers = self.answers.lock().expect("no panics");
        let answer = answers.get_mut(&asked.id).expect("it was begun");
        assert_eq!(answer.state, AnswerState::Pending, "ended twice");
        answer.state = ended.state;
        answer.completion_tokens = ended.usage.completion_tokens as u64;
        answer.answer = ended.text.clone();
        answer.receipt = (ended.state == AnswerState::Done).then(|| format!("{{\"of\":\"{}\"}}", asked.id));
        Ok(())
    }

    fn answer(&self, id: Id) -> Result<Option<Answer>> {
        Ok(self.answers.lock().expect("no panics").get(&id).cloned())
    }

    fn was_given(&self, caller: &Caller, answer: &Answer) -> Result<bool> {
        Ok(answer.token == caller.token)
    }

    fn add_feedback(&self, _: &Caller, opinion: &Opinion) -> Result<Id> {
        self.write()?;
        self.noting(Action::FeedbackGive, Outcome::Intent);
        self.noting(Action::FeedbackGive, Outcome::Done);
        self.opinions.lock().expect("no panics").push(opinion.clone());
        Ok(id(IdKind::Feedback, 1))
    }

    fn note(&self, _: &Caller, noted: &Noted) -> Result<()> {
        self.write()?;
        self.noting(noted.action, noted.outcome);
        Ok(())
    }

    fn note_limited(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn note_probes(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn note_unauthenticated(&self, _: &Failures) -> Result<()> {
        Ok(())
    }

    fn keep_last_uses(&self) -> Result<()> {
        Ok(())
    }
}

struct Bench {
    router: Router,
    api: Arc<Api>,
    records: Arc<Memory>,
}

fn bench_with(change: impl FnOnce(&mut ToyModel, &mut Limits)) -> Bench {
    let tokenizer = tokenizer();
    let mut model = ToyModel::new(tokenizer.vocab_size(), CONTEXT, 256);
    let mut limits = Limits { body_bytes_max: 64 << 10, ..Limits::default() };
    change(&mut model, &mut limits);
    let facts = ModelFacts {
        id: id(IdKind::Model, 1),
        name: "rules".into(),
        created_at_ms: 1_700_000_000_123,
        tokenizer: None,
        run: None,
        snapshot: None,
        dataset_root: None,
        deployed: None,
    };
    let engine = Engine::start(Box::new(model), tokenizer, EngineOptions::default()).expect("starts");
    let served = Served::new(facts, engine, ChatTemplate::default());
    let records = Arc::new(Memory::default());
    let api =
        Arc::new(Api::new(Arc::clone(&records) as Arc<dyn Records>, vec![served], limits, Arc::default()));
    Bench { router: router(&api), api, records }
}

fn bench() -> Bench {
    bench_with(|_, _| {})
}

fn request(method: &str, path: &str, token: Option<&str>, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.header(header::CONTENT_TYPE, "application/json").body(body.into()).expect("a request")
}

impl Bench {
    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("infallible")
    }

    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.send(request(method, path, token, body)).await;
        let status = response.status();
        (status, serde_json::from_slice(&bytes(response).await).expect("JSON"))
    }

    async fn complete(&self, body: Value) -> (StatusCode, Value) {
        self.ask("POST", "/v1/completions", Some("user"), &body).await
    }
}

async fn bytes(response: Response) -> Bytes {
    axum::body::to_bytes(response.into_body(), 1 << 24).await.expect("a body")
}

/// The events of a stream, without the last, which must be the end mark.
async fn events(response: Response) -> Vec<Value> {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
    let text = String::from_utf8(bytes(response).await.to_vec()).expect("text");
    let mut events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("data")).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
}

fn prompt(max_tokens: u64) -> Value {
    json!({"model": "rules", "prompt": "the controller", "max_tokens": max_tokens, "temperature": 0})
}

/// None where no role is asked for.
fn action(route: &Route) -> Option<Action> {
    match route.handler {
        Handler::Open(_) | Handler::Entering(_) => None,
        Handler::Guarded(action, _) | Handler::Confided(action, _) => Some(action),
        Handler::Managed(kind) => Some(kind.action),
    }
}

fn stays_at_the_machine(route: &Route) -> bool {
    matches!(route.handler, Handler::Managed(kind) if kind.must_reach_the_network().is_err())
}

#[tokio::test]
async fn without_a_valid_token_every_guarded_route_is_shut() {
    let bench = bench();
    for route in ROUTES.iter() {
        let path = route.path.replace("{id}", "rules");
        for token in [None, Some("nobody"), Some("")] {
            let (status, body) = bench.ask(route.method_name, &path, token, &prompt(1)).await;
            match route.handler {
                Handler::Open(_) => assert_eq!(status, StatusCode::OK),
                // Nothing of a prompt is a name and a password, whatever token comes with it.
                Handler::Entering(_) => assert_eq!(status, StatusCode::BAD_REQUEST, "{path}"),
                Handler::Guarded(..) | Handler::Confided(..) | Handler::Managed(_) => {
                    assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
                    assert_eq!(body["error"]["code"], "invalid_api_key");
                }
            }
        }
    }
    assert!(bench.records.answers.lock().expect("no panics").is_empty());
    let closed = ROUTES.iter().filter(|route| !matches!(route.handler, Handler::Open(_))).count() as u64;
    let strangers = bench.api.take_strangers();
    assert_eq!((strangers.requests, strangers.log_ins), (3 * closed, 3));
    assert!(bench.records.take_noted().is_empty(), "strangers are counted, and not written down one by one");
}

#[tokio::test]
async fn a_log_in_gives_a_token_and_whatever_is_wrong_sounds_the_same() {
    let bench = bench();
    let log_in = async |body: Value| bench.ask("POST", "/v1/sessions", None, &body).await;
    let (status, session) = log_in(json!({"user": "alice", "password": PASSWORD})).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let expected = json!({"token": "clst_x", "role": "user", "expires_at": 12 * 60 * 60});
    assert_eq!(session, expected);
    let expected = [Outcome::Intent, Outcome::Done].map(|outcome| (Action::SessionBegin, outcome));
    assert_eq!(bench.records.take_noted(), expected);
    let wrong =
        [("alice", "wrong"), ("nobody", PASSWORD), ("", ""), ("alice", "the heron over the mill pon")];
    let mut said = Vec::new();
    for (user, password) in wrong {
        let (status, body) = log_in(json!({"user": user, "password": password})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        said.push(body);
    }
    assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{said:?}");
    assert_eq!(said[0]["error"]["code"], "invalid_credentials");
    for malformed in [
        json!({"user": "alice"}),
        json!({"user": "alice", "password": 7}),
        json!({"user": "alice", "password": PASSWORD, "role": "auditor"}),
        json!({"user": "alice", "password": "x".repeat(5000)}),
    ] {
        let (status, body) = log_in(malformed).await;
        assert!(matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), "{body}");
        assert!(!body.to_string().contains("heron"), "{body}");
    }
    let strangers = bench.api.take_strangers();
    assert_eq!((strangers.requests, strangers.log_ins), (8, 8));
    assert!(bench.records.take_noted().is_empty());
}

#[tokio::test]
async fn tries_at_one_moment_are_sent_away_with_a_time_to_come_back() {
    let bench = bench();
    for _ in 0..20 {
        let _ = bench.api.attempts.begin("alice", None, std::time::Instant::now());
    }
    let body = json!({"user": "alice", "password": PASSWORD}).to_string();
    let response = bench.send(request("POST", "/v1/sessions", None, body)).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 =
        response.headers()[header::RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
    assert!((1..=30).contains(&seconds), "{seconds}");
    let (status, _) = bench.ask("DELETE", "/v1/sessions/current", Some("user"), &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "who is in is not slowed");
}

#[tokio::test]
async fn a_password_is_changed_by_whoever_knows_it_and_guessed_no_faster_than_at_the_door() {
    let bench = bench();
    let change = async |token: &str, body: Value| bench.ask("PUT", "/v1/password", Some(token), &body).await;
    let passwords =
        |present: &str, next: &str| json!({"password": present.to_owned(), "new_password": next.to_owned()});
    let noted = |last| [(Action::PasswordChange, Outcome::Intent), (Action::PasswordChange, last)];
    let changed = change("user", passwords(PASSWORD, NEXT_PASSWORD)).await;
    let expected = json!({"object": "password", "changed": true, "sessions_ended": true});
    assert_eq!(changed, (StatusCode::OK, expected));
    assert_eq!(bench.records.take_noted(), noted(Outcome::Done));

    let (status, body) = change("user2", passwords(PASSWORD, NEXT_PASSWORD)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("made for a program")));
    assert_eq!(bench.records.take_noted(), noted(Outcome::Failed));
    for malformed in [
        json!({"password": PASSWORD}),
        json!({"password": PASSWORD, "new_password": 7}),
        json!({"password": PASSWORD, "new_password": NEXT_PASSWORD, "user": "auditor"}),
        json!({"password": PASSWORD, "new_password": "heron".repeat(1000)}),
    ] {
        let (status, body) = change("user", malformed).await;
        assert!(matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), "{body}");
        assert!(!body.to_string().contains("heron"), "{body}");
    }
    let mut plain =
        request("PUT", "/v1/password", Some("user"), passwords(PASSWORD, NEXT_PASSWORD).to_string());
    plain.headers_mut().remove(header::CONTENT_TYPE);
    assert_eq!(bench.send(plain).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for _ in 0..10 {
        let (status, body) = change("user", passwords(PASSWORD, "otter")).await;
        assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("new_password")));
    }
    let wait =
        || bench.api.attempts.begin("user", None, std::time::Instant::now()).map(|attempt| attempt.wait);
    assert_eq!(wait(), Ok(Duration::ZERO), "who knows the password is not slowed");
    assert_eq!(bench.api.take_strangers().requests, 0);
    bench.records.take_noted();

    for _ in 0..6 {
        let (status, body) = change("user", passwords("the heron", NEXT_PASSWORD)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(body["error"]["code"], "invalid_credentials");
        assert_eq!(bench.records.take_noted(), noted(Outcome::Denied));
    }
    let strangers = bench.api.take_strangers();
    assert_eq!((strangers.requests, strangers.log_ins), (6, 6));
    assert!(wait().is_ok_and(|wait| wait > Duration::ZERO), "a log-in of that account waits as well");
    while wait().is_ok() {}
    let response = bench.send(request(
        "PUT",
        "/v1/password",
        Some("user"),
        passwords(PASSWORD, NEXT_PASSWORD).to_string(),
    ));
    let response = response.await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn a_role_gets_exactly_what_the_policy_grants() {
    let bench = bench();
    for route in ROUTES.iter() {
        let Some(action) = action(route) else { continue };
        let path = route.path.replace("{id}", "rules");
        for role in Role::ALL {
            let response = bench.send(request(route.method_name, &path, Some(role.as_str()), "{}")).await;
            let forbidden = !role.may(action) || stays_at_the_machine(route);
            assert_eq!(response.status() == StatusCode::FORBIDDEN, forbidden, "{role} {path}");
            let noted = bench.records.take_noted();
            let expected = if forbidden { Some(Outcome::Denied) } else { noted.last().map(|last| last.1) };
            assert_eq!(noted.last().map(|last| last.1), expected, "{role} {path}");
            assert!(!forbidden || noted.len() == 1, "{role} {path}: {noted:?}");
        }
    }
}

/// Whatever becomes of a request that was let in, the log has one intent and one outcome of it.
#[tokio::test]
async fn every_route_writes_one_intent_and_one_outcome() {
    let bench = bench();
    let answer = bench.complete(prompt(2)).await.1["id"].as_str().expect("an id").to_owned();
    bench.records.take_noted();
    for route in ROUTES.iter().filter(|route| !stays_at_the_machine(route)) {
        let Some(action) = action(route) else { continue };
        let is_managed = matches!(route.handler, Handler::Managed(_));
        let role = match is_managed || action == Action::MetricsRead {
            true => Role::ALL.iter().find(|role| role.may(action)).expect("somebody may").as_str(),
            false => "user",
        };
        let good = match route.path.as_ref() {
            "/v1/chat/completions" => {
                json!({"model": "rules", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 1})
            }
            "/v1/feedback" => json!({"answer": answer, "rating": 1}),
            "/v1/password" => json!({"password": PASSWORD, "new_password": NEXT_PASSWORD}),
            _ if is_managed => json!({}),
            _ => prompt(1),
        };
        let named = if route.path.contains("receipts") { answer.as_str() } else { "rules" };
        let requests = [
            (route.path.replace("{id}", named), good.to_string(), !is_managed),
            (route.path.replace("{id}", "nothing"), "{\"nonsense\":".to_owned(), false),
            (route.path.replace("{id}", "nothing"), "x".repeat(70 << 10), false),
        ];
        for (path, body, is_good) in requests {
            let response = bench.send(request(route.method_name, &path, Some(role), body)).await;
            let status = response.status();
            assert!(!is_good || status == StatusCode::OK, "{path}: {status}");
            bytes(response).await;
            let noted = bench.records.take_noted();
            let due: &[bool] = if recording(action) == Recording::Window { &[] } else { &[true, false] };
            let intents: Vec<bool> = noted.iter().map(|(_, outcome)| *outcome == Outcome::Intent).collect();
            assert_eq!(intents, due, "{path} {status}: {noted:?}");
            assert!(noted.iter().all(|(written, _)| *written == action), "{path}: {noted:?}");
        }
    }
    assert!(bench.api.take_probes() > 0);
}

#[tokio::test]
async fn nothing_is_answered_over_any_route_that_cannot_be_recorded() {
    let bench = bench();
    bench.records.cannot_write.store(true, Ordering::SeqCst);
    for route in ROUTES.iter() {
        let Some(action) = action(route) else { continue };
        if recording(action) == Recording::Window {
            continue;
        }
        let path = route.path.replace("{id}", "rules");
        let started = std::time::Instant::now();
        let (status, _) = bench.ask(route.method_name, &path, Some("user"), &prompt(1)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(started.elapsed() < Duration::from_secs(1), "{path}");
    }
}

#[tokio::test]
async fn a_request_is_its_fields_and_a_misspelt_one_is_refused() {
    let bench = bench();
    let ask = async |name: &str, role: &str, body: Value| {
        bench.ask("POST", &format!("/admin/v1/{name}"), Some(role), &body).await
    };
    assert_eq!(ask("status", "operator", json!({})).await, (StatusCode::OK, json!("status")));
    let (status, answer) = ask("data_ls", "data_steward", json!({})).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"data_ls": {"collection": null}})));
    let (_, answer) = ask("data_erase_plan", "data_steward", json!({"subjects": ["J. Doe"]})).await;
    assert_eq!(answer["data_erase_plan"]["subjects"], json!(["J. Doe"]));
    let (status, answer) = ask("model_show", "auditor", json!({"model": "x"})).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("look at model_ls")));
    for (name, role, body) in [
        ("status", "operator", json!({"verbose": true})),
        ("data_ls", "data_steward", json!({"colection": "x"})),
        ("data_erase_plan", "data_steward", json!({"subject": "x"})),
        ("token_new", "security_officer", json!({"role": "service", "day": 3})),
        ("token_new", "security_officer", json!({"role": "service", "certificate": "AB"})),
        ("audit_ls", "auditor", json!({})),
        ("model_plan", "model_builder", json!({"collection": "a", "name": "b", "config": {"step": 1}})),
    ] {
        let (status, answer) = ask(name, role, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(name)), "{answer}");
    }
    let (status, answer) = ask("data_erase", "data_steward", json!({"subjects": ["J. Doe"]})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("data_erase_plan")));
    let (status, answer) = ask("model_ls", "narrow", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert_eq!(ask("nothing", "operator", json!({})).await.0, StatusCode::NOT_FOUND);
}

fn in_lines(name: &str, role: &str, body: &Value) -> Request<Body> {
    let mut request = request("POST", &format!("/admin/v1/{name}"), Some(role), body.to_string());
    request.headers_mut().insert(header::ACCEPT, "application/x-ndjson".parse().expect("a value"));
    request
}

#[tokio::test]
async fn long_work_says_how_it_goes_line_by_line() {
    let bench = bench();
    let response = bench.send(in_lines("data_verify", "operator", &json!({}))).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let text = String::from_utf8(bytes(response).await.to_vec()).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["progress"]["stage"], "half-way");
    let expected =
        [json!({"note": "one\ntwo"}), json!({"text": "vier — ✓"}), json!({"answer": "data_verify"})];
    assert_eq!(lines[1..], expected);
    let (status, _) =
        bench.ask("POST", "/admin/v1/audit_export", Some("auditor"), &json!({"table": true})).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE, "its answer is lines");
    let (status, body) = bench.ask("POST", "/admin/v1/data_verify", Some("operator"), &json!({})).await;
    assert_eq!((status, body), (StatusCode::OK, json!("data_verify")), "the answer alone");
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_work_and_so_does_the_end_of_the_daemon() {
    let bench = bench();
    let body = json!({"since": "forever"});
    let failed = async || {
        let recorded = async {
            while !bench.records.take_noted().contains(&(Action::AuditCheckpoint, Outcome::Failed)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), recorded).await.expect("it is recorded");
    };
    let mut stream =
        bench.send(in_lines("audit_prove", "auditor", &body)).await.into_body().into_data_stream();
    stream.next().await.expect("a first line").expect("no error");
    drop(stream);
    failed().await;
    let whole = || bench.send(request("POST", "/admin/v1/audit_prove", Some("auditor"), body.to_string()));
    assert!(tokio::time::timeout(Duration::from_millis(50), whole()).await.is_err(), "it takes its time");
    failed().await;
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.api.stop_accepting();
    };
    let (stopped, ()) = tokio::join!(whole(), stopping);
    assert_eq!(stopped.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let bench = bench();
    let (status, list) = bench.ask("GET", "/v1/models", Some("user"), &Value::Null).await;
    assert_eq!((status, &list["object"]), (StatusCode::OK, &json!("list")));
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][0]["created"]),
        (&json!("rules"), &json!(1_700_000_000))
    );
    let (status, model) = bench.ask("GET", "/v1/models/rules", Some("user"), &Value::Null).await;
    assert_eq!((status, &model["object"]), (StatusCode::OK, &json!("model")));
    let (status, missing) = bench.ask("GET", "/v1/models/other", Some("user"), &Value::Null).await;
    assert_eq!((status, &missing["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
}

#[tokio::test]
async fn a_completion_is_counted_recorded_and_repeats() {
    let bench = bench();
    let (status, first) = bench.complete(prompt(8)).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(first["object"], "text_completion");
    assert_eq!(first["choices"][0]["finish_reason"], "length");
    let tokenizer = tokenizer();
    let prompt_tokens = 1 + tokenizer.encode("the controller").expect("encodes").len();
    let usage =
        json!({"prompt_tokens": prompt_tokens, "completion_tokens": 8, "total_tokens": prompt_tokens + 8});
    assert_eq!(first["usage"], usage);
    let answer = bench.records.only_answer();
    assert_eq!(first["id"], json!(answer.id));
    assert_eq!((answer.state, answer.completion_tokens), (AnswerState::Done, 8));
    assert_eq!(json!(answer.answer), first["choices"][0]["text"]);
    assert_eq!(answer.prompt, "the controller");
    let (_, again) = bench.complete(prompt(8)).await;
    assert_eq!(again["choices"], first["choices"]);
}

#[tokio::test]
async fn a_chat_speaks_as_the_assistant() {
    let bench = bench();
    let body = json!({"model": "rules", "messages": [{"role": "user", "content": "who?"}],
        "max_tokens": 5, "temperature": 0, "logprobs": true, "metadata": {"team": "x"}});
    let (status, answer) = bench.ask("POST", "/v1/chat/completions", Some("service"), &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["message"]["role"]),
        (&json!("chat.completion"), &json!("assistant"))
    );
    let logged = answer["choices"][0]["logprobs"]["content"].as_array().expect("log probabilities");
    assert_eq!(logged.len(), 5);
    assert!(logged.iter().all(|token| token["logprob"].as_f64().expect("a number") <= 0.0));
}

#[tokio::test]
async fn a_stream_says_the_same_in_pieces() {
    let bench = bench();
    let (_, whole) = bench.complete(prompt(12)).await;
    let mut body = prompt(12);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = bench.send(request("POST", "/v1/completions", Some("user"), body.to_string())).await;
    let events = events(response).await;
    let text: String =
        events.iter().filter_map(|event| event["choices"].get(0)?.get("text")?.as_str()).collect();
    assert_eq!(json!(text), whole["choices"][0]["text"]);
    let (last, others) = events.split_last().expect("events");
    assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
    assert!(others.iter().all(|event| event["usage"].is_null() && event["id"] == last["id"]));
    assert_eq!(others.last().expect("one")["choices"][0]["finish_reason"], "length");

    let body = json!({"model": "rules", "messages": [{"role": "user", "content": "a"}], "stream": true, "max_tokens": 3});
    let response = bench.send(request("POST", "/v1/chat/completions", Some("user"), body.to_string())).await;
    let events = self::events(response).await;
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(
        events.iter().all(|event| event["object"] == "chat.completion.chunk" && event.get("usage").is_none())
    );
}

#[tokio::test]
async fn wrong_requests_get_the_error_that_openai_clients_know() {
    let bench = bench();
    let long = "the controller ".repeat(100);
    let cases = [
        (json!({"model": "other", "prompt": "a"}), 404, "model_not_found", "model"),
        (
            json!({"model": "rules", "prompt": long, "max_tokens": 1}),
            400,
            "context_length_exceeded",
            "prompt",
        ),
        (json!({"model": "rules", "prompt": "x".repeat(60_000)}), 400, "context_length_exceeded", "prompt"),
        (prompt(0), 400, "integer_below_min_value", "max_tokens"),
        (prompt(1_000_000), 400, "context_length_exceeded", "max_tokens"),
        (prompt(u64::MAX), 400, "context_length_exceeded", "max_tokens"),
        (json!({"model": 3, "prompt": "a"}), 400, "invalid_type", "model"),
        (json!({"model": "rules", "prompt": []}), 400, "empty_array", "prompt"),
        (json!({"model": "rules", "prompt": [99_999_999]}), 400, "invalid_token", "prompt"),
        (json!({"model": "rules", "prompt": "a", "n": 2}), 400, "unsupported_parameter", "n"),
        (json!({"model": "rules", "prompt": "a", "colour": 2}), 400, "unknown_parameter", "colour"),
        (
            json!({"model": "rules", "prompt": "a", "temperature": -1}),
            400,
            "decimal_out_of_range",
            "temperature",
        ),
    ];
    for (body, status, code, param) in cases {
        let (got, answer) = bench.complete(body.clone()).await;
        assert_eq!((got.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{body}: {answer}");
        assert_eq!(answer["error"]["param"], param);
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| message.len() > 10));
    }
    assert!(bench.records.answers.lock().expect("no panics").is_empty(), "nothing was begun");
}

#[tokio::test]
async fn wrong_bodies_routes_and_methods_are_refused() {
    let bench = bench();
    let post = |body: &'static str| request("POST", "/v1/completions", Some("user"), body);
    let code = async |request: Request<Body>| {
        let response = bench.send(request).await;
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&bytes(response).await).expect("JSON");
        (status, body["error"]["code"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(code(post("{")).await, (400, "invalid_json".into()));
    assert_eq!(code(post("")).await, (400, "invalid_json".into()));
    assert_eq!(code(post("[1]")).await, (400, "invalid_json".into()));
    assert_eq!(code(request("GET", "/v1/engines", Some("user"), "")).await, (404, "unknown_url".into()));
    assert_eq!(code(request("GET", "/", None, "")).await, (404, "unknown_url".into()));
    assert_eq!(
        code(request("DELETE", "/v1/models", Some("user"), "")).await,
        (405, "method_not_supported".into())
    );
    assert_eq!(
        code(request("GET", "/v1/completions", Some("user"), "")).await,
        (405, "method_not_supported".into())
    );
    let mut form = post("{}");
    form.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().expect("a value"));
    assert_eq!(code(form).await, (415, "unsupported_media_type".into()));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_thrown_away_as_it_comes() {
    let bench = bench();
    let sent = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&sent);
    let pieces = futures_util::stream::iter((0..1600).map(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::convert::Infallible>(Bytes::from(vec![b' '; 64 << 10]))
    }));
    let response =
        bench.send(request("POST", "/v1/completions", Some("user"), Body::from_stream(pieces))).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        sent.load(Ordering::SeqCst),
        1600,
        "it is read to its end, so that the sender hears the answer"
    );
    let body: Value = serde_json::from_slice(&bytes(response).await).expect("JSON");
    assert_eq!(body["error"]["code"], "request_too_large");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_answer_and_that_is_recorded() {
    let bench = bench_with(|model, _| model.step_time = Duration::from_millis(5));
    let mut body = prompt(100);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let response = bench.send(request("POST", "/v1/completions", Some("user"), body.to_string())).await;
    let mut stream = response.into_body().into_data_stream();
    stream.next().await.expect("a first chunk").expect("no error");
    assert_eq!(
        bench.records.only_answer().state,
        AnswerState::Pending,
        "the intent is there by the first chunk"
    );
    drop(stream);
    let recorded = async {
        while bench.records.only_answer().state == AnswerState::Pending {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recorded).await.expect("it is recorded");
    let answer = bench.records.only_answer();
    assert_eq!(answer.state, AnswerState::Cancelled);
    assert!(answer.completion_tokens >= 1 && answer.completion_tokens < 100);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_answered() {
    let bench = bench();
    bench.records.cannot_write.store(true, Ordering::SeqCst);
    let response = bench.send(request("POST", "/v1/completions", Some("user"), prompt(3).to_string())).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    let (status, body) = bench.ask("GET", "/readyz", None, &Value::Null).await;
    assert_eq!(
        (status, &body["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("records cannot be written"))
    );
    bench.records.cannot_write.store(false, Ordering::SeqCst);
    assert_eq!(bench.complete(prompt(3)).await.0, StatusCode::OK);
    assert_eq!(bench.ask("GET", "/readyz", None, &Value::Null).await.0, StatusCode::OK);
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_back() {
    let bench = bench_with(|model, limits| {
        model.step_time = Duration::from_millis(5);
        limits.answers_max = 1;
    });
    let mut body = prompt(100);
    body["stream"] = json!(true);
    let running = bench.send(request("POST", "/v1/completions", Some("user"), body.to_string())).await;
    let response = bench.send(request("POST", "/v1/completions", Some("user"), prompt(1).to_string())).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    drop(running);
}

#[tokio::test]
async fn a_token_gets_what_it_may_and_hears_when_to_come_back() {
    let bench = bench_with(|model, limits| {
        model.step_time = Duration::from_millis(5);
        limits.each.requests_a_minute = 4;
        limits.each.answers_at_once = 1;
        limits.each.answer_tokens_max = 50;
    });
    let (status, body) = bench.ask("POST", "/v1/completions", Some("user"), &prompt(51)).await;
    assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("max_tokens")));
    let mut body = prompt(50);
    body["stream"] = json!(true);
    let running = bench.send(request("POST", "/v1/completions", Some("user"), body.to_string())).await;
    let ask = || bench.send(request("POST", "/v1/completions", Some("user"), prompt(1).to_string()));
    let second = ask().await;
    assert_eq!(
        (second.status(), &second.headers()[header::RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().expect("a value"))
    );
    drop(running);
    ask().await;
    let fifth = ask().await;
    assert_eq!(fifth.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = fifth.headers()[header::RETRY_AFTER].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&seconds));
    let said: Value = serde_json::from_slice(&bytes(fifth).await).expect("JSON");
    assert_eq!(said["error"]["code"], "rate_limit_exceeded");
    assert_eq!(bench.ask("GET", "/v1/models", Some("service"), &Value::Null).await.0, StatusCode::OK);
    assert_eq!(bench.api.take_limited(), 1);
}

#[tokio::test]
async fn a_token_reaches_what_its_scope_names_and_nothing_else() {
    let bench = bench();
    let ask = async |method, path, token, body: Value| bench.ask(method, path, Some(token), &body).await;
    let (status, body) = ask("GET", "/v1/models", "elsewhere", Value::Null).await;
    assert_eq!((status, &body["data"]), (StatusCode::OK, &json!([])));
    assert_eq!(ask("GET", "/v1/models/rules", "elsewhere", Value::Null).await.0, StatusCode::NOT_FOUND);
    let (status, body) = ask("POST", "/v1/completions", "elsewhere", prompt(1)).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    let (status, body) = ask("GET", "/v1/models", "narrow", Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("scope")), "{body}");
    assert_eq!(ask("POST", "/v1/completions", "narrow", prompt(1)).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_failing_model_is_an_error_and_not_the_end() {
    let bench = bench_with(|model, _| model.fails_at = 0);
    let (status, body) = bench.complete(prompt(3)).await;
    assert_eq!((status.as_u16(), &body["error"]["type"]), (500, &json!("server_error")));
    assert!(!body.to_string().contains("out of memory"), "what failed inside is not told");
    assert_eq!(bench.records.only_answer().state, AnswerState::Failed);
    assert_eq!(bench.complete(prompt(3)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn feedback_and_receipt_belong_to_whoever_asked() {
    let bench = bench();
    let (_, answer) = bench.complete(prompt(3)).await;
    let id = answer["id"].as_str().expect("an id").to_owned();
    let opinion = json!({"answer": id, "rating": -1, "correction": "better", "comment": "see article 33"});
    let (status, kept) = bench.ask("POST", "/v1/feedback", Some("user"), &opinion).await;
    assert_eq!((status, &kept["object"]), (StatusCode::OK, &json!("feedback")));
    assert_eq!(bench.records.opinions.lock().expect("no panics")[0].correction.as_deref(), Some("better"));

    let receipts = format!("/v1/receipts/{id}");
    let (status, receipt) = bench.ask("GET", &receipts, Some("user"), &Value::Null).await;
    assert_eq!((status, &receipt["of"]), (StatusCode::OK, &json!(id)));
    assert_eq!(bench.ask("GET", &receipts, Some("auditor"), &Value::Null).await.0, StatusCode::OK);
    assert_eq!(bench.ask("GET", &receipts, Some("user2"), &Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bench.ask("POST", "/v1/feedback", Some("user2"), &opinion).await.0, StatusCode::NOT_FOUND);

    for (body, param) in [
        (json!({"rating": 1}), json!("answer")),
        (json!({"answer": "ans_1", "rating": 1}), json!("answer")),
        (json!({"answer": id, "rating": 0.5}), json!("rating")),
        (json!({"answer": id, "stars": 5}), json!("stars")),
        (json!({"answer": id, "rating": 7}), Value::Null),
        (json!({"answer": id}), Value::Null),
    ] {
        let (status, error) = bench.ask("POST", "/v1/feedback", Some("user"), &body).await;
        assert_eq!((status, &error["error"]["param"]), (StatusCode::BAD_REQUEST, &param), "{body}");
    }
    for receipt in ["x", "doc_00000000000000000000000000", "ans_00000000000000000000000000"] {
        let path = format!("/v1/receipts/{receipt}");
        assert_eq!(bench.ask("GET", &path, Some("user"), &Value::Null).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn stopping_refuses_newcomers_and_says_so() {
    let bench = bench();
    bench.api.stop_accepting();
    assert_eq!(bench.complete(prompt(3)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let (status, body) = bench.ask("GET", "/readyz", None, &Value::Null).await;
    assert_eq!((status, &body["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("stopping")));
    assert_eq!(bench.ask("GET", "/healthz", None, &Value::Null).await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let bench = bench();
    bench.complete(prompt(4)).await;
    bench.complete(prompt(0)).await;
    let response = bench.send(request("GET", "/metrics", Some("operator"), "")).await;
    let text = String::from_utf8(bytes(response).await.to_vec()).expect("text");
    for line in [
        "cloister_http_requests_total{method=\"POST\",route=\"/v1/completions\",status=\"2xx\"} 1",
        "cloister_http_requests_total{method=\"POST\",route=\"/v1/completions\",status=\"4xx\"} 1",
        "cloister_completion_tokens_total{model=\"rules\"} 4",
        "cloister_answers_total{outcome=\"done\"} 1",
        "cloister_first_token_seconds_count 1",
        "cloister_between_tokens_seconds_count 3",
        "cloister_kv_blocks{model=\"rules\"} 256",
    ] {
        assert!(text.lines().any(|written| written == line), "{line} not in\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').expect("name and value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

/// Of request bodies, in the long tier.
const MUTATIONS: u64 = 200_000;

#[test]
fn bodies_damaged_at_random_are_answered_or_refused() {
    withstands_damage(MUTATIONS / FIRST_TIER);
}

#[test]
#[ignore = "the long tier: minutes"]
fn bodies_damaged_at_random_are_always_answered_or_refused() {
    withstands_damage(MUTATIONS);
}

fn withstands_damage(mutations: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bench = bench();
    let answer = runtime.block_on(bench.complete(prompt(2))).1["id"].clone();
    let chat = json!({
        "model": "rules", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the é"}],
        "max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "stream": false, "user": "u",
    });
    let opinion = json!({"answer": answer, "rating": 1, "comment": "good", "correction": "better"});
    let bodies = [("/v1/chat/completions", chat), ("/v1/completions", prompt(1)), ("/v1/feedback", opinion)];
    for (seed, (path, body)) in (30..).zip(bodies) {
        again_and_again(mutations / 3, seed, &[body.to_string().into_bytes()], |_, damaged| {
            runtime.block_on(async {
                let response = bench.send(request("POST", path, Some("user"), damaged.to_vec())).await;
                let status = response.status();
                let said: Value = serde_json::from_slice(&bytes(response).await).expect("JSON");
                let refused = status.is_client_error() && said["error"]["message"].is_string();
                assert!(status == StatusCode::OK || refused, "{path}: {status} {said}");
            });
        });
    }
    assert_eq!(bench.api.unreadiness(), None, "it would answer the next");
}
