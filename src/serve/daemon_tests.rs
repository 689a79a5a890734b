//! The whole daemon over a real installation and real TLS, with a model of random weights.

use std::{io::Write, net::TcpListener, path::Path, time::Instant};

use axum::{body::Body, http};
use futures_util::StreamExt;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::*;
use crate::{
    auditlog::{Entry, Outcome},
    base::{Error, ErrorKind, Id, IdKind, Silent},
    corpus,
    device::Device,
    improve::SignedReceipt,
    infer::{Generation, Prompt, Sampling, testkit},
    model::{Config, Decoder, Options, weights},
    ops::Exec,
    serve::{
        api::Api,
        identity, models,
        records::{Asked, Records, WardenRecords},
        routes::router,
    },
    store::{AnswerKind, AnswerState, Model, ObjectState, TokenizerRow},
    tensor::DType,
    vault,
    work::{
        Fingerprint, Request, Site, Unsealer, client,
        request::{DeployPolicy, NewToken, TokenSpec},
    },
};

/// Stands in no file of the data directory, whatever happens.
const SECRET: &str = "the patient Ermentrude Vasquez-Okonkwo";

fn config(vocab_size: usize) -> Config {
    Config {
        architectures: vec!["LlamaForCausalLM".to_owned()],
        vocab_size,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        tie_word_embeddings: true,
        initializer_range: 0.3,
    }
}

/// Puts a model with random weights into the vault, as training would.
fn add_model(warden: &Warden, name: &str, seed: u64) {
    let tokenizer = testkit::tokenizer();
    let depot = warden.depot();
    let tokenizer_id = corpus::tokenizer::keep(&tokenizer, depot).expect("kept");
    let exec = Exec::new(Device::cpu(Some(1)), 16 << 20, 16 << 20).expect("memory");
    let config = config(tokenizer.vocab_size());
    let options = Options { dtype: DType::F32, recompute: false, positions: 256 };
    let mut params = Decoder::new(&exec, &config, options).expect("valid").new_params(&exec).expect("memory");
    params.init(&exec, seed);
    let length = weights::len_bytes(&params, &config).expect("a length");
    let mut object = depot.create(IdKind::Model, length).expect("begun");
    weights::save(&params, &config, &mut object).expect("written");
    object.flush().expect("flushed");
    let model = depot.commit(object).expect("committed");
    let vocab_size = tokenizer.vocab_size() as u64;
    warden
        .store()
        .write(|rows| {
            for id in [tokenizer_id, model] {
                rows.add_object(id, ObjectState::Kept, None, 1)?;
            }
            let row = TokenizerRow {
                id: tokenizer_id,
                snapshot: None,
                vocab_size,
                bytes_per_token: None,
                created_at_ms: 1,
                made_by: None,
            };
            rows.add_tokenizer(&row)?;
            rows.add_model(&Model {
                id: model,
                run: None,
                tokenizer: Some(tokenizer_id),
                parameters: 1,
                bits_per_byte: None,
                created_at_ms: 1,
                name: name.to_owned(),
                purpose: Value::Null,
                details: Value::Null,
                makers: Vec::new(),
            })
        })
        .expect("recorded");
}

fn install(data_dir: &Path) -> Arc<Warden> {
    let site = Site {
        data_dir: data_dir.join("data"),
        unsealer: Some(Unsealer::KeyFile(data_dir.join("root.key"))),
        device: Choice::Cpu,
        threads: Some(1),
    };
    Arc::new(Warden::init(&site).expect("an installation"))
}

const PASSWORD: &str = "sacks of grain, counted twice";

fn ask(warden: &Warden, request: Request, secret: &str) -> Result<Value> {
    let secret = Secret::new(secret.as_bytes().to_vec());
    warden.execute_with(Actor::this_process(), request, &secret, &Silent)
}

/// A person who can log in.
fn person(warden: &Warden, name: &str, role: &str) {
    let (name, role) = (name.to_owned(), role.to_owned());
    ask(warden, Request::UserAdd { name: name.clone(), role }, "").expect("a user");
    ask(warden, Request::UserPassword { name }, PASSWORD).expect("a password");
}

fn token(warden: &Warden, role: &str) -> String {
    let request = Request::TokenNew(TokenSpec::of_role(role));
    let answer = warden.execute(Actor::this_process(), request, &Silent).expect("a token");
    serde_json::from_value::<NewToken>(answer).expect("its shape").token
}

/// A program with a certificate of its own.
struct Client {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Client {
    fn self_signed() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        Self { certificate, key }
    }
}

/// A daemon on a thread of its own.
struct Running {
    bound: Bound,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Ended>>,
}

fn start(warden: &Arc<Warden>, options: ServeOptions) -> Running {
    let (mut daemon, hear) = begin(Start::Open(Arc::clone(warden)), options);
    daemon.bound = hear.recv().expect("it listens").expect("it serves");
    daemon
}

/// A daemon, and what it has to tell: None where it is sealed.
fn begin(start: Start, options: ServeOptions) -> (Running, Receiver<Option<Bound>>) {
    let options = ServeOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        device: Choice::Cpu,
        threads: Some(2),
        ..options
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (say, hear) = mpsc::channel();
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            run(start, &options, &stop, |news| {
                let bound = if let News::Serving(bound) = news { Some(bound.clone()) } else { None };
                say.send(bound).expect("heard");
            })
        }
    });
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = Bound {
        address: nowhere,
        fingerprint: String::new(),
        certificate_pem: "".into(),
        models: Vec::new(),
        policy: DeployPolicy::Newest,
    };
    (Running { bound, stop, thread }, hear)
}

impl Running {
    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join().expect("no panic").expect("it stops well");
        assert!(matches!(ended, Ended::Stopped));
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        self.connect_as(None).await.expect("TLS")
    }

    /// With the client's certificate, if it has one.
    async fn connect_as(
        &self,
        client: Option<&Client>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let pem = std::fs::read(&self.bound.certificate_pem).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("an anchor");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(Client { certificate, key }) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
                config.with_client_auth_cert(vec![certificate.der().clone()], key).expect("a certificate")
            }
        };
        let stream = tokio::net::TcpStream::connect(self.bound.address).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Status and everything behind the head.
    async fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, String) {
        self.ask_as(None, method, path, token, body).await.expect("an answer")
    }

    async fn ask_as(
        &self,
        client: Option<&Client>,
        method: &str,
        path: &str,
        token: &str,
        body: &Value,
    ) -> std::io::Result<(u16, String)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = self.connect_as(client).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        Ok((head[9..12].parse().expect("a status"), body.to_owned()))
    }
}

/// What the audit log says was done, in its order.
fn actions(data_dir: &Path) -> Vec<String> {
    crate::auditlog::read(&data_dir.join("audit"), 0)
        .expect("the log")
        .map(|entry| entry.map(|(_, entry)| format!("{} {:?}", entry.action, entry.outcome)))
        .collect::<Result<_>>()
        .expect("entries")
}

/// Whether the intent of an answer is on record.
fn has_begun(warden: &Warden) -> bool {
    crate::auditlog::read(&warden.data_dir().join("audit"), 0)
        .expect("the log")
        .flatten()
        .any(|(_, entry)| entry.action == "answer.ask")
}

fn files_under(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

#[test]
fn silent_connections_keep_nobody_out() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let operator = token(&warden, "operator");
    let connections = crate::serve::listen::ConnectionLimits { connections_max: 8, ..Default::default() };
    let daemon = start(&warden, ServeOptions { connections, ..ServeOptions::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(tokio::net::TcpStream::connect(daemon.bound.address).await.expect("connects"));
            if silent.len() % 50 == 0 {
                assert_eq!(daemon.ask("GET", "/v1/models", &operator, &Value::Null).await.0, 200);
            }
        }
        // Those that came first made room, and hear of it.
        let heard = silent[0].read_u8().await;
        assert!(heard.is_err(), "{heard:?}");
    });
    daemon.stop();
}

#[test]
fn answers_over_tls_with_receipts_and_leaves_no_prompt_on_the_disk() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 1);
    let (user, auditor) = (token(&warden, "user"), token(&warden, "auditor"));
    let daemon = start(&warden, ServeOptions::default());
    assert_eq!(daemon.bound.models, ["rules"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let body = json!({"model": "rules", "prompt": SECRET, "max_tokens": 24, "temperature": 0, "ignore_eos": true});
        let (status, whole) = daemon.ask("POST", "/v1/completions", &user, &body).await;
        assert_eq!(status, 200, "{whole}");
        let whole: Value = serde_json::from_str(&whole).expect("JSON");
        assert_eq!(whole["usage"]["completion_tokens"], 24);
        let id: Id = whole["id"].as_str().expect("an id").parse().expect("an id");
        let kept = warden.store().read(|rows| rows.answer(id)).expect("reads").expect("kept");
        assert_eq!((kept.state, kept.prompt.as_str()), (AnswerState::Done, SECRET));
        assert_eq!(json!(kept.answer), whole["choices"][0]["text"]);

        let (status, receipt) = daemon.ask("GET", &format!("/v1/receipts/{id}"), &auditor, &Value::Null).await;
        assert_eq!(status, 200, "{receipt}");
        let receipt: SignedReceipt = serde_json::from_str(&receipt).expect("a receipt");
        receipt.verify(&warden.signer().public_key()).expect("the appliance signed it");
        let published = std::fs::read_to_string(warden.data_dir().join("keys/receipts.pub")).expect("a key");
        assert_eq!(published.trim(), receipt.public_key);
        assert_eq!((receipt.receipt.answer, receipt.receipt.model_name.as_str()), (id, "rules"));

        let opinion = json!({"answer": id, "rating": 1, "comment": SECRET});
        assert_eq!(daemon.ask("POST", "/v1/feedback", &user, &opinion).await.0, 200);
        assert_eq!(daemon.ask("GET", "/v1/models", "clst_user_nonsense", &Value::Null).await.0, 401);

        // Two at once get what each gets alone.
        let (first, second) = tokio::join!(
            daemon.ask("POST", "/v1/completions", &user, &body),
            daemon.ask("POST", "/v1/completions", &user, &body)
        );
        for (status, again) in [first, second] {
            let again: Value = serde_json::from_str(&again).expect("JSON");
            assert_eq!((status, &again["choices"]), (200, &whole["choices"]));
        }
    });
    daemon.stop();
    let actions = actions(warden.data_dir());
    for action in [
        "serve.start Done",
        "answer.ask Intent",
        "answer.ask Done",
        "feedback.give Done",
        "receipt.show Intent",
        "receipt.show Done",
        "api.unauthenticated Denied",
        "serve.stop Done",
    ] {
        assert!(actions.iter().any(|written| written == action), "{action} not in {actions:?}");
    }
    let asked = crate::auditlog::read(&warden.data_dir().join("audit"), 0)
        .expect("the log")
        .map(|entry| entry.expect("entry").1)
        .find(|entry| entry.action == "answer.ask")
        .expect("one was asked");
    assert_eq!(
        (&asked.detail["role"], asked.detail["prompt_hmac"].as_str().map(str::len)),
        (&json!("user"), Some(64))
    );
    assert!(asked.detail["from"]["sealed"].is_string() && asked.detail["model"].is_string(), "{asked:?}");
    for file in files_under(directory.path()) {
        let bytes = std::fs::read(&file).expect("reads");
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "a prompt lies in {}", file.display());
    }
}

#[test]
fn people_log_in_keep_what_they_were_given_and_are_out_at_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 1);
    person(&warden, "Ermentrude", "user");
    person(&warden, "Wendelin", "auditor");
    let program = token(&warden, "user");
    let daemon = start(&warden, ServeOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let log_in = async |user: &str, password: &str| {
            let body = json!({"user": user, "password": password});
            let (status, body) = daemon.ask("POST", "/v1/sessions", "none", &body).await;
            (status, serde_json::from_str::<Value>(&body).expect("JSON"))
        };
        let enter = async |user: &str| {
            let (status, session) = log_in(user, PASSWORD).await;
            assert_eq!(status, 200, "{session}");
            session["token"].as_str().expect("a token").to_owned()
        };
        let models = async |token: &str| daemon.ask("GET", "/v1/models", token, &Value::Null).await.0;
        let (status, session) = log_in("Wendelin", PASSWORD).await;
        assert_eq!((status, &session["role"]), (200, &json!("auditor")));
        let unknown = log_in("Wendelina", PASSWORD).await;
        assert_eq!(unknown, log_in("Wendelin", "sacks of grain").await);
        assert_eq!(unknown.0, 401);

        let (first, second) = (enter("Ermentrude").await, enter("Ermentrude").await);
        let body = json!({"model": "rules", "prompt": "a", "max_tokens": 2, "ignore_eos": true});
        let (_, answer) = daemon.ask("POST", "/v1/completions", &first, &body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let opinion = json!({"answer": answer["id"], "rating": 1});
        assert_eq!(daemon.ask("DELETE", "/v1/sessions/current", &first, &Value::Null).await.0, 200);
        assert_eq!((models(&first).await, models(&second).await), (401, 200));
        assert_eq!(daemon.ask("POST", "/v1/feedback", &second, &opinion).await.0, 200, "the same person");
        assert_eq!(daemon.ask("POST", "/v1/feedback", &program, &opinion).await.0, 404, "somebody else");
        assert_eq!(daemon.ask("DELETE", "/v1/sessions/current", &program, &Value::Null).await.0, 404);

        let name = || "Ermentrude".to_owned();
        ask(&warden, Request::UserPassword { name: name() }, "another one, and long").expect("changed");
        assert_eq!((models(&second).await, log_in("Ermentrude", PASSWORD).await.0), (401, 401));
        let third = log_in("Ermentrude", "another one, and long").await.1;
        let third = third["token"].as_str().expect("a token").to_owned();
        assert_eq!(models(&third).await, 200);
        ask(&warden, Request::UserDisable { name: name() }, "").expect("disabled");
        assert_eq!(models(&third).await, 401);
        assert_eq!(log_in("Ermentrude", "another one, and long").await.0, 401);
        ask(&warden, Request::UserPassword { name: name() }, PASSWORD).expect_err("disabled");
    });
    daemon.stop();
    let actions = actions(warden.data_dir());
    let count = |wanted: &str| actions.iter().filter(|action| *action == wanted).count();
    for (wanted, number) in [
        ("session.begin Intent", 4),
        ("session.begin Done", 4),
        ("session.end Done", 1),
        ("session.end Failed", 1),
        ("user.manage Failed", 1),
    ] {
        assert_eq!(count(wanted), number, "{wanted}: {actions:?}");
    }
    for file in files_under(directory.path()) {
        let bytes = std::fs::read(&file).expect("reads");
        for word in [PASSWORD, "Ermentrude"] {
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "'{word}' lies in {}", file.display());
        }
    }
}

#[test]
fn people_change_their_own_password_and_are_out_with_it() {
    const NEXT: &str = "a mill race, and the heron there";
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 1);
    person(&warden, "Ermentrude", "user");
    person(&warden, "Wendelin", "user");
    let spec = TokenSpec { user: Some("Ermentrude".to_owned()), ..TokenSpec::of_role("user") };
    let program = ask(&warden, Request::TokenNew(spec), "").expect("a token");
    let program = program["token"].as_str().expect("a token");
    let daemon = start(&warden, ServeOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let log_in = async |user: &str, password: &str| {
            let body = json!({"user": user, "password": password});
            let (status, body) = daemon.ask("POST", "/v1/sessions", "none", &body).await;
            let body: Value = serde_json::from_str(&body).expect("JSON");
            (status, body["token"].as_str().unwrap_or_default().to_owned())
        };
        let change = async |token: &str, present: &str, next: &str| {
            let body = json!({"password": present, "new_password": next});
            let (status, body) = daemon.ask("PUT", "/v1/password", token, &body).await;
            for word in [present, next] {
                assert!(!body.contains(word), "{body}");
            }
            (status, body)
        };
        let models = async |token: &str| daemon.ask("GET", "/v1/models", token, &Value::Null).await.0;
        let (first, second) =
            (log_in("Ermentrude", PASSWORD).await.1, log_in("Ermentrude", PASSWORD).await.1);
        let others = log_in("Wendelin", PASSWORD).await.1;
        for (token, present, next, status, said) in [
            (first.as_str(), "sacks of grain, counted", NEXT, 401, "Incorrect present password"),
            (&first, "sacks of grain, counted", "weak", 401, "Incorrect present password"),
            (&first, PASSWORD, PASSWORD, 400, "the new password is the present one"),
            (&first, PASSWORD, "elevenchars", 400, "at least 12 characters"),
            (&first, PASSWORD, "Password1234", 400, "first that anybody would try"),
            (program, PASSWORD, NEXT, 403, "made for a program"),
            ("clst_user_nonsense", PASSWORD, NEXT, 401, "Incorrect API key"),
        ] {
            let changed = change(token, present, next).await;
            assert!(changed.0 == status && changed.1.contains(said), "{status} {said}: {changed:?}");
        }
        assert_eq!((models(&first).await, log_in("Ermentrude", NEXT).await.0), (200, 401));

        let (status, changed) = change(&first, PASSWORD, NEXT).await;
        assert_eq!(status, 200, "{changed}");
        assert_eq!((models(&first).await, models(&second).await), (401, 401), "also the one that asked");
        assert_eq!((models(program).await, models(&others).await), (200, 200));
        assert_eq!(log_in("Ermentrude", PASSWORD).await.0, 401);
        assert_eq!(log_in("Wendelin", PASSWORD).await.0, 200);
        let (status, third) = log_in("Ermentrude", NEXT).await;
        assert_eq!((status, models(&third).await), (200, 200));
    });
    daemon.stop();
    let actions = actions(warden.data_dir());
    let count = |wanted: &str| actions.iter().filter(|action| *action == wanted).count();
    let outcomes = ["Intent", "Done", "Denied", "Failed"];
    let outcomes = outcomes.map(|outcome| count(&format!("password.change {outcome}")));
    // A program is turned away before anything is tried.
    assert_eq!(outcomes, [7, 1, 2, 4], "{actions:?}");
    for file in files_under(directory.path()) {
        let bytes = std::fs::read(&file).expect("reads");
        let found = bytes.windows(NEXT.len()).any(|window| window == NEXT.as_bytes());
        assert!(!found, "a password lies in {}", file.display());
    }
}

#[test]
fn a_bound_token_is_good_with_its_certificate_alone() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let (own, other) = (Client::self_signed(), Client::self_signed());
    let certificate = Some(Fingerprint::of(own.certificate.der()));
    let spec = TokenSpec { certificate, ..TokenSpec::of_role("service") };
    let made = ask(&warden, Request::TokenNew(spec), "").expect("a token");
    let bound = serde_json::from_value::<NewToken>(made).expect("its shape").token;
    let free = token(&warden, "service");
    let daemon = start(&warden, ServeOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let models = async |client: Option<&Client>, token: &str| {
            daemon.ask_as(client, "GET", "/v1/models", token, &Value::Null).await.expect("an answer")
        };
        assert_eq!(models(Some(&own), &bound).await.0, 200);
        let wrong = models(None, "clst_service_nonsense").await;
        assert_eq!(wrong.0, 401);
        assert_eq!(models(None, &bound).await, wrong, "it sounds like any wrong token");
        assert_eq!(models(Some(&other), &bound).await, wrong);
        for client in [None, Some(&own), Some(&other)] {
            assert_eq!(models(client, &free).await.0, 200);
        }
    });
    daemon.stop();
    let rows = ask(&warden, Request::TokenLs, "").expect("a list");
    let shown = rows.as_array().expect("rows").iter().find(|row| !row["certificate"].is_null());
    assert_eq!(shown.expect("one is bound")["certificate"], json!(certificate));
}

#[test]
fn nobody_gets_past_the_handshake_whom_the_authority_did_not_sign_for() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "the hospital's authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, authority.pem()).expect("written");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::default().signed_by(&key, &authority).expect("signed");
    let (signed, stranger) = (Client { certificate, key }, Client::self_signed());
    let operator = token(&warden, "operator");
    let daemon = start(&warden, ServeOptions { client_ca: Some(path), ..ServeOptions::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ask = async |client: Option<&Client>| {
            daemon.ask_as(client, "GET", "/v1/models", &operator, &Value::Null).await
        };
        assert_eq!(ask(Some(&signed)).await.expect("an answer").0, 200);
        assert!(ask(Some(&stranger)).await.is_err() && ask(None).await.is_err());
    });
    daemon.stop();
}

#[test]
fn people_manage_over_the_network_what_their_role_may() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    person(&warden, "Ermentrude", "security_officer");
    let steward = token(&warden, "data_steward");
    let daemon = start(&warden, ServeOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let manage = async |token: &str, name: &str, body: Value| {
            let (status, body) = daemon.ask("POST", &format!("/admin/v1/{name}"), token, &body).await;
            (status, serde_json::from_str::<Value>(&body).expect("JSON"))
        };
        let body = json!({"user": "Ermentrude", "password": PASSWORD});
        let (_, session) = daemon.ask("POST", "/v1/sessions", "none", &body).await;
        let session: Value = serde_json::from_str(&session).expect("JSON");
        let officer = session["token"].as_str().expect("a token");
        assert_eq!(manage(&steward, "data_ls", json!({})).await, (200, json!([])));
        assert_eq!(manage(officer, "data_ls", json!({})).await.0, 403);
        assert_eq!(manage(&steward, "seal", json!({})).await.0, 403);
        let (status, refused) = manage(officer, "seal", json!({})).await;
        assert_eq!(status, 403);
        assert!(
            refused["error"]["message"].as_str().is_some_and(|text| text.contains("unseal")),
            "{refused}"
        );
        let (status, made) = manage(officer, "token_new", json!({"role": "auditor", "days": 1})).await;
        assert_eq!(status, 200, "{made}");
        let auditor = made["token"].as_str().expect("a token");
        let (_, entries) = manage(auditor, "audit_ls", json!({"limit": 100})).await;
        let of = |action: &str, outcome: &str| {
            let entries = entries.as_array().expect("entries").iter();
            let found: Vec<&Value> =
                entries.filter(|entry| entry["action"] == action && entry["outcome"] == outcome).collect();
            found.into_iter().cloned().collect::<Vec<_>>()
        };
        for outcome in ["intent", "done"] {
            let entry = &of("token.manage", outcome)[1];
            assert_eq!(entry["detail"]["role"], "security_officer", "{entry}");
            assert_eq!(entry["detail"]["from"], "127.0.0.1");
            assert!(entry["detail"]["user"].as_str().is_some_and(|user| user.starts_with("usr_")), "{entry}");
        }
        assert_eq!((of("seal", "denied").len(), of("data.ls", "denied").len()), (2, 1));
    });
    daemon.stop();
}

#[test]
fn a_stop_lets_what_runs_finish_and_bounds_how_long() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 2);
    let user = token(&warden, "user");
    let body = json!({"model": "rules", "prompt": "a", "max_tokens": 200, "ignore_eos": true});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");

    let daemon = start(&warden, ServeOptions::default());
    let stop = Arc::clone(&daemon.stop);
    let (status, answer) = runtime.block_on(async {
        let stopping = async {
            while !has_begun(&warden) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.store(true, Ordering::Release);
        };
        tokio::join!(daemon.ask("POST", "/v1/completions", &user, &body), stopping).0
    });
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["usage"]["completion_tokens"], 200);
    daemon.stop();

    let options = ServeOptions { grace: Duration::from_millis(1), ..ServeOptions::default() };
    let daemon = start(&warden, options);
    let stop = Arc::clone(&daemon.stop);
    let before = Instant::now();
    runtime.block_on(async {
        let mut stream = daemon.connect().await;
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n").await.expect("sent");
        stop.store(true, Ordering::Release);
        let mut rest = Vec::new();
        // The head never comes: the connection is not waited for.
        let _ = stream.read_to_end(&mut rest).await;
    });
    daemon.stop();
    assert!(before.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_model_that_is_trained_meanwhile_is_served_and_a_broken_one_harms_nobody() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let device = Device::cpu(Some(1));
    assert!(models::refresh(&warden, &[], &device).expect("none").is_empty());
    add_model(&warden, "first", 1);
    let first = models::refresh(&warden, &[], &device).expect("one");
    add_model(&warden, "second", 2);
    assert_eq!(warden.served_models().expect("asks").len(), 2);
    let both = models::refresh(&warden, &first, &device).expect("two");
    assert_eq!(both.len(), 2);
    assert!(both.iter().any(|served| Arc::ptr_eq(served, &first[0])), "what stands is kept");
    // Its tokenizer is there, its weights are not.
    warden.depot().delete(warden.served_models().expect("asks")[0].model).expect("deleted");
    assert_eq!(models::refresh(&warden, &[], &device).expect("the other").len(), 1);
}

#[test]
fn one_model_under_two_names_is_loaded_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let device = Device::cpu(Some(1));
    add_model(&warden, "rules", 1);
    let first = models::refresh(&warden, &[], &device).expect("one");
    deploy(&warden, "rules", Some("desk"));
    let both = models::refresh(&warden, &first, &device).expect("two");
    let names: Vec<&str> = both.iter().map(|served| served.facts.name.as_str()).collect();
    assert_eq!(names, ["desk", "rules"]);
    assert!(both.iter().all(|served| Arc::ptr_eq(&served.engine, &first[0].engine)));
    assert!(both[0].facts.deployed.is_some() && both[1].facts.deployed.is_none());
    assert!(Arc::ptr_eq(&both[1], &first[0]), "what stands is kept");
}

/// Proposes the newest model of this name and approves it, alone.
fn deploy(warden: &Warden, model: &str, name: Option<&str>) -> Id {
    let ask = |request| warden.execute(Actor::this_process(), request, &Silent).expect("done");
    let (model, name, reason) = (model.to_owned(), name.map(str::to_owned), "a test".to_owned());
    let row = ask(Request::DeployPropose { model, name, reason: reason.clone() });
    let deployment = row["id"].as_str().expect("an id").parse().expect("an id");
    ask(Request::DeployApproveAlone { deployment, reason });
    deployment
}

#[test]
fn an_approval_holds_at_once_and_what_is_being_answered_is_answered() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 1);
    let (user, auditor) = (token(&warden, "user"), token(&warden, "auditor"));
    let daemon = start(&warden, ServeOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let version = async || {
            let (status, said) = daemon.ask("GET", "/v1/models/rules", &user, &Value::Null).await;
            let said: Value = serde_json::from_str(&said).expect("JSON");
            (status == 200).then(|| said["version"].as_str().expect("a version").to_owned())
        };
        let until = async |wanted: Option<String>| {
            while version().await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let first = version().await;
        deploy(&warden, "rules", None);
        add_model(&warden, "rules", 2);
        let second =
            warden.store().read(|rows| rows.model_named("rules")).expect("reads").expect("the newest").id;
        let body = json!({"model": "rules", "prompt": "a", "max_tokens": 200, "ignore_eos": true});
        let changing = async {
            while !has_begun(&warden) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(version().await, first, "the newer one is not approved");
            let deployment = deploy(&warden, "rules", None);
            until(Some(second.to_string())).await;
            deployment
        };
        let asking = daemon.ask("POST", "/v1/completions", &user, &body);
        let ((status, answer), deployment) = tokio::join!(asking, changing);
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(200)), "{answer}");

        let (_, answer) = daemon.ask("POST", "/v1/completions", &user, &body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let path = format!("/v1/receipts/{}", answer["id"].as_str().expect("an id"));
        let (_, receipt) = daemon.ask("GET", &path, &auditor, &Value::Null).await;
        let receipt: SignedReceipt = serde_json::from_str(&receipt).expect("a receipt");
        receipt.verify(&warden.signer().public_key()).expect("the appliance signed it");
        assert_eq!((receipt.receipt.model, receipt.receipt.deployment), (second, Some(deployment)));
        assert_eq!(receipt.receipt.deployed_by.as_deref(), Some("approved alone"));

        let (name, reason) = (|| "rules".to_owned(), || "a test".to_owned());
        let ask = |request| warden.execute(Actor::this_process(), request, &Silent).expect("done");
        ask(Request::DeployRollback { name: name(), reason: reason() });
        until(first).await;
        ask(Request::DeployRetire { name: name(), reason: reason() });
        until(None).await;
    });
    daemon.stop();
}

#[test]
fn an_address_that_is_taken_is_said_before_anything_starts() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let options = ServeOptions { listen: taken.local_addr().expect("an address"), ..ServeOptions::default() };
    let ended = run(Start::Open(warden), &options, &AtomicBool::new(false), |_| panic!("it cannot listen"));
    let error: Error = ended.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("listening on 127.0.0.1"), "{error}");
    assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("--listen")));
}

#[test]
fn it_starts_sealed_serves_once_it_is_unsealed_and_is_sealed_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let data_dir = directory.path().join("data");
    let site = Site { data_dir: data_dir.clone(), unsealer: None, device: Choice::Cpu, threads: Some(1) };
    let passphrase = || Secret::new(b"correct horse battery".to_vec());
    let unsealer = vault::Unsealer::Passphrase(passphrase());
    let warden = Warden::init_under(&site, &unsealer).expect("an installation");
    add_model(&warden, "rules", 3);
    let user = token(&warden, "user");
    drop(warden);

    let sealed = Sealed::hold(&site).expect("held");
    let (mut daemon, hear) = begin(Start::Sealed(sealed), ServeOptions::default());
    assert!(hear.recv().expect("it listens").is_none(), "it begins sealed");
    let error = client::run(&site, Request::Status, &Silent).expect_err("sealed");
    assert_eq!(error.kind(), ErrorKind::Sealed);
    assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("cloister unseal")), "{error}");
    assert_eq!(
        Warden::open(&site).map(|_| ()).expect_err("held by a sealed daemon").kind(),
        ErrorKind::Sealed
    );
    let bring = |secret: &Secret| client::unseal(&data_dir, SecretKind::Passphrase, secret, &Silent);
    let error = bring(&Secret::new(b"incorrect horse".to_vec())).expect_err("wrong");
    assert_eq!(error.kind(), ErrorKind::Sealed);
    assert!(!error.to_string().contains("incorrect horse"), "{error}");
    let state = client::state(&data_dir).expect("answers").expect("runs");
    assert!(matches!(state, DaemonState::Sealed(_)), "{state:?}");

    let DaemonState::Serving(bound) = bring(&passphrase()).expect("right") else { panic!("it serves") };
    assert_eq!(hear.recv().expect("it serves").as_ref(), Some(&bound));
    assert_eq!(bound.models, ["rules"]);
    daemon.bound = bound.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let body = json!({"model": "rules", "prompt": "a", "max_tokens": 4, "ignore_eos": true});
    assert_eq!(runtime.block_on(daemon.ask("POST", "/v1/completions", &user, &body)).0, 200);
    client::run(&site, Request::Status, &Silent).expect("open");
    let unneeded = bring(&Secret::new(b"whatever it is".to_vec())).expect("it is open");
    assert_eq!(unneeded, DaemonState::Serving(bound.clone()));

    client::run(&site, Request::Seal, &Silent).expect("told");
    let ended = daemon.thread.join().expect("no panic").expect("it ends well");
    let Ended::Sealed(doors) = ended else { panic!("it is sealed") };
    assert_eq!(doors.address(), bound.address);
    drop(doors);
    let done = actions(&data_dir);
    let wanted = [
        "unseal Failed",
        "unseal Done",
        "serve.start Done",
        "answer.ask Done",
        "seal Intent",
        "seal Done",
        "serve.stop Done",
    ];
    let places: Vec<usize> = wanted
        .iter()
        .map(|wanted| {
            done.iter().position(|action| action == wanted).unwrap_or_else(|| panic!("{wanted}: {done:?}"))
        })
        .collect();
    assert!(places.is_sorted(), "{done:?}");
}

#[test]
fn a_sealed_daemon_stops_when_it_is_told_to() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    identity(&warden).expect("an identity");
    let data_dir = warden.data_dir().to_owned();
    drop(warden);
    let site = Site { data_dir, unsealer: None, device: Choice::Cpu, threads: Some(1) };
    let (daemon, hear) = begin(Start::Sealed(Sealed::hold(&site).expect("held")), ServeOptions::default());
    assert!(hear.recv().expect("it listens").is_none());
    daemon.stop();
    Warden::open(&site).expect("let go of");
}

/// What trust adds before the first token, by parts: `cargo test --release trust_costs -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings, asserts nothing"]
fn what_trust_costs_before_the_first_token() {
    const ROUNDS: usize = 1000;
    let directory = tempfile::tempdir().expect("temporary directory");
    let warden = install(directory.path());
    add_model(&warden, "rules", 1);
    let bearer = token(&warden, "user");
    let records = Arc::new(WardenRecords(Arc::clone(&warden)));
    let served = models::refresh(&warden, &[], &Device::cpu(Some(1))).expect("it loads");
    let rules = Arc::clone(&served[0]);
    let api = Arc::new(Api::new(
        Arc::clone(&records) as Arc<dyn Records>,
        Vec::new(),
        Limits::default(),
        Arc::clone(warden.precedence()),
    ));
    api.replace_models(served);
    let router = router(&api);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let caller = records.authenticate(&bearer, None).expect("a living token");
    let asked = || Asked {
        id: crate::seal::new_id(IdKind::Answer).expect("randomness"),
        caller: caller.clone(),
        kind: AnswerKind::Completion,
        model: Arc::clone(&rules.facts),
        at_ms: 1,
        prompt_tokens: 3,
        prompt: SECRET.into(),
    };
    let mut plain = std::fs::File::create(directory.path().join("plain")).expect("a file");
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut timed = |what: &'static str, action: &mut dyn FnMut()| {
        let started = Instant::now();
        action();
        let took_ms = started.elapsed().as_secs_f64() * 1000.0;
        match all.iter_mut().find(|(name, _)| *name == what) {
            Some((_, times)) => times.push(took_ms),
            None => all.push((what, vec![took_ms])),
        }
    };
    let body =
        json!({"model": "rules", "prompt": "the controller", "max_tokens": 1, "stream": true}).to_string();
    for _ in 0..ROUNDS {
        timed("a plain write and sync of 512 bytes", &mut || {
            plain.write_all(&[7; 512]).and_then(|()| plain.sync_data()).expect("room");
        });
        timed("authentication", &mut || drop(records.authenticate(&bearer, None).expect("a living token")));
        timed("an entry of the audit log, durable", &mut || {
            warden.audit(Entry::new("local:0", "test.act", Outcome::Intent)).expect("room");
        });
        timed("intent and sealed prompt, durable", &mut || records.begin_answer(&asked()).expect("room"));
        timed("first token of the engine alone", &mut || {
            let prompt = rules.encode(&Prompt::Text("the controller".into())).expect("tokens");
            let generation = Generation {
                prompt,
                sampling: Sampling::default(),
                stop: Vec::new(),
                max_tokens: 1,
                ignore_eos: false,
            };
            let mut events = rules.engine.submit(generation).expect("room");
            runtime.block_on(events.next());
        });
        timed("first token of a whole request, without TLS", &mut || {
            runtime.block_on(async {
                let request = http::Request::post("/v1/completions")
                    .header("authorization", format!("Bearer {bearer}"))
                    .body(Body::from(body.clone()));
                let response = router.clone().oneshot(request.expect("a request")).await.expect("infallible");
                let first = response.into_body().into_data_stream().next().await;
                first.expect("a token").expect("a token");
            });
        });
    }
    for (what, mut times) in all {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{what:44} p50 {:7.3} ms  p90 {:7.3} ms  p99 {:7.3} ms", at(0.5), at(0.9), at(0.99));
    }
}
