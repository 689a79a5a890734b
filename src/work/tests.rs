//! What the warden promises: nothing without an intent, keys for what a task needs alone, a worker's nonsense or
//! death costs one job, and what was begun and not finished is gone at the next start.

use std::{
    io::Write,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Barrier,
    time::Duration,
};

use serde_json::json;

use super::{
    client::{Site, Unsealer},
    frame,
    host::{Host, Leave},
    policy::Actor,
    protocol::{Call, FromWorker, Reply, Task, ToWorker},
    request::{Request, TokenSpec},
    scope::Scope,
    warden::Warden,
    worker,
};
use crate::{
    auditlog,
    base::{Error, ErrorKind, Id, IdKind, Result, Silent},
    corpus::{IngestReport, IngestSpec},
    device::Choice,
    seal::{Secret, new_id},
    store::{JobState, ObjectState},
    vault::Depot,
};

pub(super) struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn site(&self) -> Site {
        Site {
            data_dir: self.path("data"),
            unsealer: Some(Unsealer::KeyFile(self.path("root.key"))),
            device: Choice::Cpu,
            threads: Some(2),
        }
    }

    pub(super) fn init(&self) -> Warden {
        Warden::init(&self.site()).unwrap()
    }

    pub(super) fn open(&self) -> Warden {
        Warden::open(&self.site()).unwrap()
    }

    pub(super) fn document(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path("in")).unwrap();
        std::fs::write(self.path("in").join(name), text).unwrap();
    }

    fn ingest_task(&self) -> Task {
        Task::Ingest(IngestSpec {
            paths: vec![self.path("in")],
            collection: "letters".to_owned(),
            threads: 2,
            ..IngestSpec::default()
        })
    }
}

fn id(kind: IdKind) -> Id {
    new_id(kind).unwrap()
}

fn new_job(warden: &Warden) -> Id {
    let job = id(IdKind::Job);
    warden
        .store
        .write(|rows| {
            rows.add_job(job, "test", "local:0", &json!({}), 1)?;
            rows.start_job(job, 1)
        })
        .unwrap();
    job
}

fn intake() -> Leave {
    Leave { create: &[IdKind::Document], intake: true, ..Leave::default() }
}

/// Serves a worker that runs in a thread of this process.
fn serve(warden: &Warden, job: Id, task: Task, leave: Leave) -> Result<Option<serde_json::Value>> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| worker::work(theirs));
        Host::new(warden, job, leave, &Silent, ours).serve(task)
    })
}

pub(super) fn ingest(bench: &Bench, warden: &Warden) -> IngestReport {
    let outcome = serve(warden, new_job(warden), bench.ingest_task(), intake()).unwrap().unwrap();
    serde_json::from_value(outcome).unwrap()
}

pub(super) fn ask(warden: &Warden, request: Request) -> Result<serde_json::Value> {
    warden.execute(Actor::Local { uid: 7 }, request, &Silent)
}

/// Plays a worker that says `messages` as they are, after it got its task.
fn serve_raw(
    warden: &Warden,
    leave: Leave,
    play: impl FnOnce(UnixStream) + Send,
) -> Result<Option<serde_json::Value>> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let job = new_job(warden);
    let task = Task::Ingest(IngestSpec::default());
    std::thread::scope(|threads| {
        threads.spawn(move || {
            frame::receive::<ToWorker>(&mut theirs).unwrap().unwrap();
            play(theirs);
        });
        Host::new(warden, job, leave, &Silent, ours).serve(task)
    })
}

fn call(socket: &mut UnixStream, call: Call) -> Result<Reply> {
    frame::send(socket, &FromWorker::Call(call)).unwrap();
    match frame::receive::<ToWorker>(socket).unwrap().unwrap().message {
        ToWorker::Reply(reply) => reply,
        other => panic!("no reply: {other:?}"),
    }
}

#[test]
fn documents_come_in_sealed_and_come_back_as_they_were() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", "the heron stands over the mill pond\n");
    bench.document("b.txt", "and the miller counts his sacks\n");
    bench.document("c.txt", "");
    let report = ingest(&bench, &warden);
    assert_eq!((report.new, report.refused), (2, 1));
    let rows = ask(&warden, Request::DataLs { collection: Some("letters".into()) }).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let first: Id = rows[0]["id"].as_str().unwrap().parse().unwrap();
    let text = warden.vault.open(first).unwrap().read_all().unwrap();
    assert!(String::from_utf8(text).unwrap().contains("the"));
    let refused = ask(&warden, Request::DataQuarantine { collection: None }).unwrap();
    assert_eq!(refused.as_array().unwrap().len(), 1);
    assert!(refused[0]["reason"].as_str().unwrap().contains("empty"));
    assert_eq!(ingest(&bench, &warden).unchanged, 2, "the same again changes nothing");
    bench.document("a.txt", "the heron has flown\n");
    bench.document("c.txt", "no longer empty\n");
    let report = ingest(&bench, &warden);
    assert_eq!((report.new, report.new_versions, report.unchanged), (1, 1, 1));
    let refused = ask(&warden, Request::DataQuarantine { collection: None }).unwrap();
    assert!(refused.as_array().unwrap().is_empty(), "what reads well now is quarantined no more");
    ask(&warden, Request::DataVerify).unwrap();
    for planted in ["heron", "miller counts", "letters", "a.txt", "b.txt"] {
        assert!(!lies_in_the_clear(&bench.path("data"), planted), "{planted}");
    }
}

pub(super) fn lies_in_the_clear(path: &Path, words: &str) -> bool {
    std::fs::read_dir(path).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return lies_in_the_clear(&path, words);
        }
        let name = path.file_name().unwrap().to_string_lossy().contains(words);
        name || std::fs::read(&path).unwrap().windows(words.len()).any(|window| window == words.as_bytes())
    })
}

#[test]
fn every_request_has_an_intent_and_an_outcome() {
    let bench = Bench::new();
    let warden = bench.init();
    ask(&warden, Request::Status).unwrap();
    ask(&warden, Request::ModelShow { model: "none".into() }).unwrap_err();
    let caller = super::Caller {
        token: id(IdKind::Token),
        user: None,
        role: super::Role::User,
        scope: Default::default(),
        from: None,
    };
    let denied = warden.execute(Actor::Remote(caller.clone()), Request::DataLs { collection: None }, &Silent);
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
    let entries: Vec<String> = auditlog::read(&bench.path("data").join("audit"), 0)
        .unwrap()
        .map(|entry| {
            let (_, entry) = entry.unwrap();
            format!("{} {} {:?}", entry.actor, entry.action, entry.outcome)
        })
        .collect();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(
        entries,
        [
            format!("local:{uid} init Done"),
            "cloister vault.root Done".to_owned(),
            "local:7 status Intent".to_owned(),
            "local:7 status Done".to_owned(),
            "local:7 model.ls Intent".to_owned(),
            "local:7 model.ls Failed".to_owned(),
            format!("{} data.ls Denied", caller.token),
        ]
    );
    ask(&warden, Request::AuditVerify).unwrap();
}

#[test]
fn one_process_at_a_time_and_the_other_hears_which() {
    let bench = Bench::new();
    let warden = bench.init();
    let error = Warden::open(&bench.site()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(warden);
    bench.open();
}

#[test]
fn a_wrong_key_and_a_foreign_directory_are_told_apart() {
    let (bench, other) = (Bench::new(), Bench::new());
    drop(bench.init());
    drop(other.init());
    let opened = |site: &Site| Warden::open(site).map(|_| ()).unwrap_err();
    let with_other_key = Site { unsealer: Some(Unsealer::KeyFile(other.path("root.key"))), ..bench.site() };
    assert_eq!(opened(&with_other_key).kind(), ErrorKind::Sealed);
    let nowhere = Site { data_dir: bench.path("nowhere"), ..bench.site() };
    assert_eq!(opened(&nowhere).kind(), ErrorKind::NotFound);
    assert!(!bench.path("nowhere").exists(), "asking makes nothing");
    let again = Warden::init(&bench.site()).map(|_| ()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Usage);
    let foreign = Site { data_dir: bench.path("foreign"), ..bench.site() };
    std::fs::create_dir(&foreign.data_dir).unwrap();
    std::fs::write(foreign.data_dir.join("thesis.tex"), "mine").unwrap();
    let refused = Warden::init(&foreign).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("thesis.tex"), "{refused}");
    std::fs::copy(other.path("data").join("cloister.db"), bench.path("data").join("cloister.db")).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(bench.path("data").join(format!("cloister.db{suffix}")));
    }
    assert_eq!(opened(&bench.site()).kind(), ErrorKind::Integrity);
}

#[test]
fn a_worker_gets_what_its_task_needs_and_nothing_else() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", "some text of the house\n");
    ingest(&bench, &warden);
    let document = warden.vault.objects()[0];
    let denied = |socket: &mut UnixStream, asked: Call| {
        assert_eq!(call(socket, asked).unwrap_err().kind(), ErrorKind::Denied);
    };
    let nothing = serve_raw(&warden, Leave::default(), |mut socket| {
        denied(&mut socket, Call::Open(document));
        denied(&mut socket, Call::ExtentKey(document));
        denied(&mut socket, Call::Delete(document));
        denied(&mut socket, Call::Commit(vec![document]));
        denied(&mut socket, Call::Create { kind: IdKind::Model, length_bytes: 1 });
        denied(&mut socket, Call::Record { kind: "checkpoints".into(), fact: json!([]) });
        denied(&mut socket, Call::Offer(vec![]));
        denied(&mut socket, Call::Admit(vec![]));
        denied(&mut socket, Call::Quarantine(vec![]));
    });
    assert_eq!(nothing.unwrap(), None, "it went away without a word");
    let reader = Leave { read: [document].into(), ..Leave::default() };
    serve_raw(&warden, reader, |mut socket| {
        assert!(matches!(call(&mut socket, Call::Open(document)), Ok(Reply::Granted)));
        denied(&mut socket, Call::ExtentKey(document));
        denied(&mut socket, Call::Delete(document));
    })
    .unwrap();
    assert!(warden.vault.contains(document));
}

#[test]
fn what_a_worker_says_that_is_no_message_ends_its_job_alone() {
    let bench = Bench::new();
    let warden = bench.init();
    let giant = [&u32::MAX.to_le_bytes()[..], &[0; 4]].concat();
    let framed = |json: &str| [&(json.len() as u32).to_le_bytes()[..], &[0; 4], json.as_bytes()].concat();
    let bad: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0; 8],
        giant,
        framed("{}"),
        framed("\"finished\""),
        framed("{\"call\":{\"open\":\"../../etc/passwd\"}}"),
        framed("{\"call\":{\"open\":17}}"),
        framed("{\"call\":\"everything\"}"),
        framed("{\"call\":{\"create\":{\"kind\":\"Root\",\"length_bytes\":1}}}"),
        framed("{\"call\":{\"create\":{\"kind\":\"Model\",\"length_bytes\":-1}}}"),
        framed(&"[".repeat(100_000)),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for bytes in bad {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let ended = serve_raw(&warden, intake(), move |mut socket| {
            socket.write_all(&bytes).unwrap();
            let _ = socket.shutdown(Shutdown::Write);
        });
        assert!(ended.is_err(), "{shown}");
    }
    ask(&warden, Request::Status).unwrap();
}

#[test]
fn what_was_written_and_never_kept_is_gone_with_its_job_or_the_next_start() {
    let bench = Bench::new();
    let warden = bench.init();
    let leave =
        || Leave { create: &[IdKind::Checkpoint], facts_of: Some(id(IdKind::Run)), ..Leave::default() };
    let written = |warden: &Warden, leave: Leave, record: bool| {
        let made = std::sync::Mutex::new(None);
        serve_raw(warden, leave, |mut socket| {
            let create = FromWorker::Call(Call::Create { kind: IdKind::Checkpoint, length_bytes: 5 });
            frame::send(&mut socket, &create).unwrap();
            let granted = frame::receive::<ToWorker>(&mut socket).unwrap().unwrap();
            let mut object = crate::vault::WriteGrant::from_wire(&granted.secret).unwrap().create().unwrap();
            object.write_all(b"state").unwrap();
            let id = object.id();
            object.finish().unwrap();
            assert!(matches!(call(&mut socket, Call::Commit(vec![id])), Ok(Reply::Done)));
            assert!(call(&mut socket, Call::Commit(vec![id])).is_err(), "committed twice");
            if record {
                let fact = json!({ "latest": [id] });
                assert!(call(&mut socket, Call::Record { kind: "checkpoints".into(), fact }).is_ok());
            }
            *made.lock().unwrap() = Some(id);
        })
        .unwrap();
        made.into_inner().unwrap().unwrap()
    };
    let lost = written(&warden, leave(), false);
    let kept = written(&warden, leave(), true);
    assert!(warden.vault.contains(lost) && warden.vault.contains(kept));
    drop(warden);
    let warden = bench.open();
    assert!(!warden.vault.contains(lost), "nobody had kept it");
    assert!(warden.vault.contains(kept), "a fact names it");
    assert!(warden.notices().any(|notice| notice.contains("cut off")));
    let jobs = warden.store.read(|rows| rows.jobs(10)).unwrap();
    assert!(jobs.iter().all(|job| job.state == JobState::Interrupted));
    ask(&warden, Request::DataVerify).unwrap();
}

#[test]
fn an_object_without_its_row_goes_and_a_row_without_its_object_is_told() {
    let bench = Bench::new();
    let warden = bench.init();
    let mut object = warden.vault.create(IdKind::Document, 4).unwrap();
    object.write_all(b"text").unwrap();
    let stray = warden.vault.commit(object).unwrap();
    let missing = id(IdKind::Document);
    warden.store.write(|rows| rows.add_object(missing, ObjectState::Kept, None, 1)).unwrap();
    drop(warden);
    let warden = bench.open();
    assert!(!warden.vault.contains(stray));
    let error = ask(&warden, Request::DataVerify).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&missing.to_string()), "{error}");
}

#[test]
fn a_database_put_back_from_an_older_day_is_refused_and_nothing_is_deleted() {
    let bench = Bench::new();
    let warden = bench.init();
    let request = Request::Status;
    let work = |warden: &Warden| {
        let actor = Actor::Local { uid: 7 };
        super::jobs::run(warden, &actor, &request, &Silent, |job| Ok(job.id)).unwrap()
    };
    let log = |warden: &Warden, job: Id| {
        let entry = auditlog::Entry::new("local:7", "test", auditlog::Outcome::Done).object(job);
        warden.audit(entry).unwrap();
    };
    log(&warden, work(&warden));
    warden.store.checkpoint().unwrap();
    drop(warden);
    let path = bench.path("data").join("cloister.db");
    let older = std::fs::read(&path).unwrap();
    let warden = bench.open();
    bench.document("a.txt", "taken in after the copy\n");
    ingest(&bench, &warden);
    let newer = work(&warden);
    log(&warden, newer);
    let objects = warden.vault.objects();
    drop(warden);
    std::fs::write(&path, older).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(bench.path("data").join(format!("cloister.db{suffix}")));
    }
    let error = Warden::open(&bench.site()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&newer.to_string()), "{error}");
    let unsealer = crate::vault::Unsealer::KeyFile(bench.path("root.key"));
    let root = crate::vault::Vault::unseal(&bench.path("data"), Some(&unsealer)).unwrap();
    let vault = crate::vault::Vault::open(&bench.path("data"), root).unwrap();
    assert_eq!(vault.objects(), objects);
}

#[test]
fn a_keyring_put_back_from_an_older_day_is_told_by_the_root_in_the_log() {
    let bench = Bench::new();
    let warden = bench.init();
    let keyring = bench.path("data").join("keys/keyring");
    let older = std::fs::read(&keyring).unwrap();
    bench.document("a.txt", "taken in after the copy\n");
    ingest(&bench, &warden);
    warden.bear_witness().unwrap();
    ask(&warden, Request::DataVerify).unwrap();
    drop(warden);
    std::fs::write(&keyring, older).unwrap();
    let refused = |warden: &Warden| {
        assert!(warden.notices().any(|notice| notice.contains("put back in time")));
        let job = super::jobs::run(warden, &Actor::Local { uid: 7 }, &Request::Status, &Silent, |_| Ok(()));
        let backup = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
        let others =
            [Request::DataVerify, Request::KeyRotate, backup].map(|request| ask(warden, request).map(drop));
        for outcome in others.into_iter().chain([job]) {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity);
            assert!(error.to_string().contains("put back in time"), "{error}");
        }
    };
    let warden = bench.open();
    refused(&warden);
    // What grows beyond the recorded commit is no newer for that.
    (0..20).for_each(|_| warden.vault.set_witness(warden.log.checkpoint().into_bytes()).unwrap());
    let token = ask(&warden, Request::TokenNew(TokenSpec::of_role("user"))).unwrap();
    let id = token["id"].as_str().unwrap().parse().unwrap();
    ask(&warden, Request::TokenRevoke { token: id }).expect("a token is revoked whatever else is wrong");
    drop(warden);
    refused(&bench.open());
}

#[test]
fn a_crash_is_told_by_its_place_and_not_by_what_it_quotes() {
    let said =
        "thread 'main' panicked at src/corpus/clean.rs:17:9:\nbyte index 1 is not a char boundary of `Jane`";
    assert_eq!(super::host::panicked_at(said), Some("src/corpus/clean.rs:17:9"));
    assert_eq!(super::host::panicked_at("out of memory"), None);
}

#[test]
fn tokens_open_until_they_are_revoked_or_expire() {
    let bench = Bench::new();
    let warden = bench.init();
    let new =
        |days| ask(&warden, Request::TokenNew(TokenSpec { days, ..TokenSpec::of_role("service") })).unwrap();
    let token = new(None)["token"].as_str().unwrap().to_owned();
    let caller = warden.authenticate(&token, None).unwrap();
    assert_eq!(caller.role, super::Role::Service);
    let expired = new(Some(0))["token"].as_str().unwrap().to_owned();
    let refused = |token: &str| warden.authenticate(token, None).unwrap_err();
    assert!(refused(&expired).to_string().contains("expired"));
    ask(&warden, Request::TokenRevoke { token: caller.token }).unwrap();
    assert_eq!(refused(&token).kind(), ErrorKind::Denied);
    for wrong in ["", "clst_service_", &token[1..], &token.replace("service", "user")] {
        assert_eq!(refused(wrong).kind(), ErrorKind::Denied, "{wrong}");
    }
    drop(warden);
    assert!(!lies_in_the_clear(&bench.path("data"), &token));
    assert!(ask(&bench.open(), Request::TokenNew(TokenSpec::of_role("root"))).is_err());
}

/// Puts every user and token back as an older copy of the database has them.
fn put_rows_back(bench: &Bench) {
    let database = rusqlite::Connection::open(bench.path("data").join("cloister.db")).unwrap();
    let older = bench.path("older.db");
    database
        .execute_batch(&format!(
            "ATTACH '{}' AS older; PRAGMA foreign_keys = OFF;
             REPLACE INTO users SELECT * FROM older.users; REPLACE INTO tokens SELECT * FROM older.tokens;",
            older.display()
        ))
        .unwrap();
}

#[test]
fn a_revocation_is_not_undone_by_rows_that_are_put_back() {
    let bench = Bench::new();
    let warden = bench.init();
    ask(&warden, Request::UserAdd { name: "ada".into(), role: "user".into() }).unwrap();
    let spec = |user: Option<&str>| TokenSpec { user: user.map(str::to_owned), ..TokenSpec::of_role("user") };
    let [hers, loose, stays] =
        [Some("ada"), None, None].map(|user| ask(&warden, Request::TokenNew(spec(user))).unwrap());
    let id = |token: &serde_json::Value| token["id"].as_str().unwrap().parse::<Id>().unwrap();
    let come = |warden: &Warden, token: &serde_json::Value| {
        warden.authenticate(token["token"].as_str().unwrap(), None)
    };
    warden.store.checkpoint().unwrap();
    std::fs::copy(bench.path("data").join("cloister.db"), bench.path("older.db")).unwrap();
    let shut_out = |warden: &Warden| {
        ask(warden, Request::TokenRevoke { token: id(&loose) }).unwrap();
        ask(warden, Request::UserDisable { name: "ada".into() }).unwrap();
        ask(warden, Request::DataVerify).unwrap();
    };
    shut_out(&warden);
    put_rows_back(&bench);
    let holds = |warden: &Warden| {
        assert_eq!(
            [&hers, &loose].map(|token| come(warden, token).unwrap_err().kind()),
            [ErrorKind::Denied; 2]
        );
        come(warden, &stays).unwrap();
        let states = |request| {
            let rows = ask(warden, request).unwrap();
            rows.as_array()
                .unwrap()
                .iter()
                .map(|row| row["state"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        // Tokens of one millisecond are listed in any order.
        let mut tokens = states(Request::TokenLs);
        tokens.sort();
        assert_eq!(tokens, ["active", "revoked", "revoked"]);
        assert_eq!(states(Request::UserLs), ["disabled"]);
        assert!(ask(warden, Request::TokenNew(spec(Some("ada")))).is_err());
        let error = ask(warden, Request::DataVerify).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains("and 2 more"), "{error}");
    };
    holds(&warden);
    drop(warden);
    let warden = bench.open();
    assert!(warden.notices().any(|notice| notice.contains(&id(&loose).to_string())));
    holds(&warden);
    shut_out(&warden);
    // As an older version revoked, or one that was cut off.
    warden.store.write(|rows| rows.revoke_token(id(&stays), 1)).unwrap();
    drop(warden);
    drop(bench.open());
    put_rows_back(&bench);
    assert_eq!(come(&bench.open(), &stays).unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn a_user_who_is_shut_out_while_a_token_is_made_gets_none() {
    let bench = Bench::new();
    let warden = bench.init();
    ask(&warden, Request::UserAdd { name: "ada".into(), role: "user".into() }).unwrap();
    let spec = TokenSpec { user: Some("ada".to_owned()), ..TokenSpec::of_role("user") };
    let is_begun = || {
        let entries = auditlog::read(&bench.path("data").join("audit"), 0).unwrap();
        entries.flatten().any(|(_, entry)| entry.action == "token.manage")
    };
    let refused = std::thread::scope(|threads| {
        // Nobody else writes until this is done; whoever makes the token reads what was before.
        let asked = warden.store.write(|rows| {
            let asked = threads.spawn(|| ask(&warden, Request::TokenNew(spec)));
            while !is_begun() {
                std::thread::yield_now();
            }
            rows.disable_user(rows.user_named("ada")?.unwrap().id, 1)?;
            Ok(asked)
        });
        asked.unwrap().join().unwrap().unwrap_err()
    });
    assert!(refused.to_string().contains("'ada' is disabled"), "{refused}");
    assert!(warden.store.read(|rows| rows.tokens()).unwrap().is_empty());
}

#[test]
fn of_two_changes_of_one_password_at_once_one_holds() {
    let bench = Bench::new();
    let warden = bench.init();
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let (first, other) = ("the heron over the mill pond", "the otter under the weir");
    ask(&warden, Request::UserAdd { name: "ada".into(), role: "user".into() }).unwrap();
    let set = Request::UserPassword { name: "ada".into() };
    warden.execute_with(Actor::Local { uid: 7 }, set, &secret(first), &Silent).unwrap();
    let log_in = |password: &str| warden.log_in("ada", &secret(password), None, Duration::from_secs(60));
    let enter = || warden.authenticate(&log_in(first).unwrap().token, None).unwrap();
    let callers = [enter(), enter()];
    let together = Barrier::new(callers.len());
    let next = [other, "ochre lapwing affidavit"];
    let change = |number: usize| {
        together.wait();
        warden.change_password(&callers[number], &secret(first), &secret(next[number]))
    };
    let changed = std::thread::scope(|threads| {
        [0, 1].map(|number| threads.spawn(move || change(number))).map(|change| change.join().unwrap())
    });
    assert_eq!(changed.iter().filter(|changed| changed.is_ok()).count(), 1, "{changed:?}");
    for (changed, next) in changed.iter().zip(next) {
        let outcome = changed.as_ref().map_err(Error::kind);
        assert!(matches!(outcome, Ok(()) | Err(ErrorKind::Denied)), "{changed:?}");
        assert_eq!(log_in(next).is_ok(), changed.is_ok());
    }
    assert!(log_in(first).is_err());
}

#[test]
fn a_token_keeps_its_scope_and_shows_when_it_last_came() {
    let bench = Bench::new();
    let warden = bench.init();
    let scope = Scope {
        actions: Some(vec![super::Action::AnswerAsk]),
        models: Some(vec!["contracts".to_owned()]),
        answers_at_once: Some(2),
        ..Scope::default()
    };
    let spec = |scope| TokenSpec { name: Some("billing".to_owned()), scope, ..TokenSpec::of_role("service") };
    let new = ask(&warden, Request::TokenNew(spec(scope.clone()))).unwrap();
    let tokens = |warden: &Warden| ask(warden, Request::TokenLs).unwrap()[0].clone();
    assert_eq!(tokens(&warden)["last_used_at_ms"], json!(null));
    let caller = warden.authenticate(new["token"].as_str().unwrap(), None).unwrap();
    assert_eq!(*caller.scope, scope);
    assert!(caller.may(super::Action::AnswerAsk) && !caller.may(super::Action::FeedbackGive));
    let row = tokens(&warden);
    assert_eq!((&row["name"], &row["scope"]["models"]), (&json!("billing"), &json!(["contracts"])));
    assert!(row["last_used_at_ms"].as_u64().is_some());
    drop(warden);
    assert!(tokens(&bench.open())["last_used_at_ms"].as_u64().is_some());
    assert!(!lies_in_the_clear(&bench.path("data"), "billing"));
    let beyond = Scope { actions: Some(vec![super::Action::DataIngest]), ..Scope::default() };
    let error = ask(&bench.open(), Request::TokenNew(spec(beyond))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[test]
fn a_cut_off_init_is_finished_at_the_next_open() {
    let bench = Bench::new();
    drop(bench.init());
    for file in ["cloister.db", "cloister.db-wal", "cloister.db-shm"] {
        let _ = std::fs::remove_file(bench.path("data").join(file));
    }
    // With a witness the vault has committed something: then a missing database is a loss, not a beginning.
    let error = Warden::open(&bench.site()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
    let fresh = Bench::new();
    let unsealer = crate::vault::Unsealer::KeyFile(fresh.path("root.key"));
    std::fs::create_dir(fresh.path("data")).unwrap();
    drop(crate::vault::Vault::init(&fresh.path("data"), &unsealer).unwrap());
    assert!(ask(&fresh.open(), Request::Status).is_ok());
}

#[test]
fn a_failure_inside_a_job_names_the_job_in_its_row() {
    let bench = Bench::new();
    let warden = bench.init();
    let failed = super::jobs::run(&warden, &Actor::Local { uid: 7 }, &Request::Status, &Silent, |_| {
        Err::<(), _>(Error::failed("the mill is broken").remedy("mend it"))
    });
    assert!(failed.is_err());
    let job = &warden.store.read(|rows| rows.jobs(1)).unwrap()[0];
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.error.as_ref().unwrap().remedy_text(), Some("mend it"));
}

#[test]
fn rows_and_tokens_from_before_a_rotation_are_still_known() {
    let bench = Bench::new();
    bench.document("a.txt", "Dear Sir, the sacks of grain are counted.");
    let warden = bench.init();
    ingest(&bench, &warden);
    let new_token = || Request::TokenNew(TokenSpec::of_role("auditor"));
    let text = |answer: serde_json::Value| answer["token"].as_str().unwrap().to_owned();
    let before = text(ask(&warden, new_token()).unwrap());
    for round in 2..4 {
        let status = ask(&warden, Request::KeyRotate).unwrap();
        assert_eq!(status["versions"]["columns"], round);
        assert_eq!(status["versions"]["audit"], 1);
    }
    let after = text(ask(&warden, new_token()).unwrap());
    bench.document("b.txt", "The heron waits until the water falls.");
    ingest(&bench, &warden);
    let known = |warden: &Warden| {
        warden.authenticate(&before, None).unwrap();
        warden.authenticate(&after, None).unwrap();
        assert!(warden.authenticate("clst_auditor_nonsense", None).is_err());
        let listed = ask(warden, Request::DataLs { collection: Some("letters".into()) }).unwrap();
        let names: Vec<&str> =
            listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].ends_with("a.txt") && names[1].ends_with("b.txt"), "{names:?}");
        ask(warden, Request::DataVerify).unwrap();
    };
    known(&warden);
    drop(warden);
    known(&bench.open());
}

#[test]
fn a_rekey_is_recorded_and_what_follows_reads_on() {
    let bench = Bench::new();
    let warden = bench.init();
    let passphrase = |text: &str| crate::vault::Unsealer::Passphrase(crate::seal::Secret::new(text.into()));
    assert_eq!(warden.rekey(&[passphrase("short")]).unwrap_err().kind(), ErrorKind::Usage);
    let status = warden.rekey(&[crate::vault::Unsealer::KeyFile(bench.path("new.key"))]).unwrap();
    assert!(status.unsealed_by[0].contains("new.key"), "{status:?}");
    drop(warden);
    assert_eq!(Warden::open(&bench.site()).map(|_| ()).unwrap_err().kind(), ErrorKind::Sealed);
    let site = Site { unsealer: Some(Unsealer::KeyFile(bench.path("new.key"))), ..bench.site() };
    let warden = Warden::open(&site).unwrap();
    let entries = auditlog::read(&bench.path("data").join("audit"), 0).unwrap().map(Result::unwrap);
    let rekeys: Vec<String> = entries
        .filter(|(_, entry)| entry.action == "key.rekey")
        .map(|(_, entry)| format!("{:?}", entry.outcome))
        .collect();
    assert_eq!(rekeys, ["Intent", "Failed", "Intent", "Done"]);
    ask(&warden, Request::AuditVerify).unwrap();
    ask(&warden, Request::DataVerify).unwrap();
}
