//! What the database promises: rows come back as written, content lies sealed, moved cells do not open.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::{
    base::{ErrorKind, IdKind},
    seal::{PasswordVerifier, Secret, new_id},
};

struct Bench {
    directory: tempfile::TempDir,
    install: Id,
    key: Key,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let install = id(IdKind::Install);
        let key = Key::generate().unwrap();
        let store =
            Store::create(&directory.path().join("cloister.db"), install, std::slice::from_ref(&key), 1)
                .unwrap();
        Self { directory, install, key, store }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cloister.db")
    }

    fn document(&self, collection: i64, name: &str, subjects: &[String]) -> Id {
        let id = id(IdKind::Document);
        let new = NewDocument {
            id,
            collection,
            job: None,
            format: "txt",
            source_bytes: 10,
            text_bytes: 9,
            content_hash: self.store.keyed_hash("content", name.as_bytes()),
            ingested_at_ms: 5,
            name,
            subjects,
            licence: Some("a licence of planted words"),
            remarks: &[],
        };
        self.store.write(|rows| rows.add_document(&new)).unwrap();
        id
    }

    fn collection(&self) -> i64 {
        self.store.write(|rows| rows.ensure_collection("planted collection", 2)).unwrap()
    }

    fn snapshot(&self, collection: i64, documents: &[Id]) -> Id {
        let id = id(IdKind::Snapshot);
        let snapshot = Snapshot {
            id,
            collection,
            merkle_root: [7; 32],
            documents: documents.len() as u64,
            duplicates: 0,
            train_bytes: 9,
            held_out_bytes: 1,
            created_at_ms: 3,
            spec: json!({"lower_case": false}),
        };
        self.store.write(|rows| rows.add_snapshot(&snapshot, documents)).unwrap();
        assert_eq!(self.store.read(|rows| rows.snapshot(id)).unwrap(), Some(snapshot));
        id
    }
}

fn id(kind: IdKind) -> Id {
    new_id(kind).unwrap()
}

fn deployment(model: Id, name: &str) -> Deployment {
    let reason = Some(name.to_owned());
    Deployment {
        id: id(IdKind::Deployment),
        model,
        name: name.to_owned(),
        state: DeploymentState::Proposed,
        created_at_ms: 4,
        before: None,
        acts: vec![Act { deed: Deed::Proposed, by: "local:0".to_owned(), at_ms: 4, reason }],
    }
}

fn raw(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}

#[test]
fn a_new_version_of_a_name_replaces_the_old_one_and_collections_are_apart() {
    let bench = Bench::new();
    let collection = bench.collection();
    let other = bench.store.write(|rows| rows.ensure_collection("other", 2)).unwrap();
    assert_eq!(bench.collection(), collection, "made once");
    let first = bench.document(collection, "/a/b.txt", &[]);
    let elsewhere = bench.document(other, "/a/b.txt", &[]);
    let second = bench.document(collection, "/a/b.txt", &["Jane".to_owned()]);
    let listed = bench.store.read(|rows| rows.documents(Some(collection))).unwrap();
    assert_eq!(listed.iter().map(|document| document.id).collect::<Vec<_>>(), [second]);
    assert_eq!(listed[0].subjects, ["Jane"]);
    assert_eq!(listed[0].licence.as_deref(), Some("a licence of planted words"));
    let old = bench.store.read(|rows| rows.document(first)).unwrap().unwrap();
    assert_eq!(old.state, DocumentState::Replaced);
    let all = bench.store.read(|rows| rows.documents(None)).unwrap();
    assert_eq!(all.len(), 2);
    assert!(all.iter().any(|document| document.id == elsewhere));
    assert_eq!(bench.store.read(|rows| rows.documents_of_subject("Jane")).unwrap(), [second]);
    assert!(bench.store.read(|rows| rows.documents_of_subject("jane")).unwrap().is_empty());
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let bench = Bench::new();
    let collection = bench.collection();
    let failed = bench.store.write(|rows| {
        rows.ensure_collection("never", 2)?;
        Err::<(), _>(Error::failed("no"))
    });
    assert!(failed.is_err());
    assert_eq!(bench.store.read(|rows| rows.collection_number("never")).unwrap(), None);
    assert_eq!(bench.store.read(|rows| rows.collections()).unwrap()[0].number, collection);
}

#[test]
fn no_planted_word_lies_in_the_files() {
    let bench = Bench::new();
    let planted = "the heron over the mill pond";
    let collection = bench.store.write(|rows| rows.ensure_collection(planted, 2)).unwrap();
    bench.document(collection, planted, &[planted.to_owned()]);
    let job = id(IdKind::Job);
    let answer = id(IdKind::Answer);
    let model = id(IdKind::Model);
    let token = id(IdKind::Token);
    bench
        .store
        .write(|rows| {
            rows.add_quarantined(&NewQuarantined {
                id: id(IdKind::Quarantine),
                collection,
                job: None,
                reason_code: "truncated",
                source_bytes: 3,
                refused_at_ms: 4,
                name: planted,
                format: "pdf",
                reason: planted,
            })?;
            rows.add_job(job, "data.ingest", "local:0", &json!({"path": planted}), 3)?;
            rows.start_job(job, 4)?;
            rows.end_job(job, JobState::Failed, Some(&Error::failed(planted)), 5)?;
            rows.set_fact(job, "seen", &json!(planted), 6)?;
            rows.add_model(&Model {
                id: model,
                run: None,
                tokenizer: None,
                parameters: 5,
                bits_per_byte: Some(2.5),
                created_at_ms: 3,
                name: planted.to_owned(),
                purpose: json!({"for": planted}),
                details: json!({}),
                makers: Vec::new(),
            })?;
            rows.add_deployment(&deployment(model, planted))?;
            rows.add_user(&User {
                id: id(IdKind::User),
                name: planted.to_owned(),
                role: "user".to_owned(),
                active: true,
                created_at_ms: 3,
                password: None,
            })?;
            rows.add_token(&NewToken {
                id: token,
                mac: [3; 32],
                user: None,
                role: "user",
                created_at_ms: 3,
                expires_at_ms: None,
                name: Some(planted),
                scope: &json!({ "models": [planted] }),
                session: false,
                certificate: Some(planted),
            })?;
            rows.add_answer(&NewAnswer {
                id: answer,
                token,
                model,
                kind: AnswerKind::Chat,
                prompt_tokens: 3,
                created_at_ms: 4,
                prompt: planted,
            })?;
            rows.finish_answer(&FinishedAnswer {
                id: answer,
                state: AnswerState::Done,
                finish_reason: Some("stop"),
                completion_tokens: 8,
                ended_at_ms: 5,
                answer: planted,
                receipt: Some(planted),
            })?;
            rows.add_feedback(&NewFeedback {
                id: id(IdKind::Feedback),
                answer,
                token,
                rating: Some(-1),
                created_at_ms: 6,
                correction: Some(planted),
                comment: Some(planted),
            })
        })
        .unwrap();
    let up = bench.store.read(|rows| rows.lineage(answer, Direction::Up)).unwrap();
    assert_eq!(up.iter().map(|step| step.edge.parent).collect::<Vec<_>>(), [model]);
    let down = bench.store.read(|rows| rows.lineage(answer, Direction::Down)).unwrap();
    assert_eq!(down.iter().map(|step| step.edge.relation).collect::<Vec<_>>(), [Relation::Rated]);
    let found = bench.store.read(|rows| rows.answer(answer)).unwrap().unwrap();
    assert_eq!((found.prompt.as_str(), found.answer.as_str()), (planted, planted));
    assert_eq!(bench.store.read(|rows| rows.model_named(planted)).unwrap().unwrap().id, model);
    assert_eq!(bench.store.read(|rows| rows.deployments()).unwrap()[0].name, planted);
    assert_eq!(bench.store.read(|rows| rows.user_named(planted)).unwrap().unwrap().name, planted);
    assert_eq!(bench.store.read(|rows| rows.fact(job, "seen")).unwrap(), Some(json!(planted)));

    let nowhere = |when: &str| {
        let mut files = 0;
        for entry in std::fs::read_dir(bench.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            files += 1;
            for word in [planted, "heron over", "mill pond"] {
                let clear = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!clear, "'{word}' lies in {} {when}", path.display());
            }
        }
        files
    };
    assert!(nowhere("with its WAL") >= 2, "the WAL was looked at too");
    bench.store.checkpoint().unwrap();
    nowhere("after a checkpoint");
}

#[test]
fn a_moved_or_older_or_altered_cell_is_refused() {
    let bench = Bench::new();
    let collection = bench.collection();
    let first = bench.document(collection, "/one.txt", &[]);
    let second = bench.document(collection, "/two.txt", &[]);
    let refused = |what: &str| {
        let error = bench.store.read(|rows| rows.document(second)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{what}");
        assert!(error.to_string().contains(&second.to_string()), "{what}: {error}");
        assert!(!error.to_string().contains("two.txt"), "{what}");
    };
    let connection = raw(&bench.path());
    let cell = |id: Id| -> Vec<u8> {
        connection.query_row("SELECT content FROM documents WHERE id = ?1", [id], |row| row.get(0)).unwrap()
    };
    let put = |content: &[u8], version: u32| {
        connection
            .execute(
                "UPDATE documents SET content = ?2, version = ?3 WHERE id = ?1",
                rusqlite::params![second, content, version],
            )
            .unwrap();
    };
    let own = cell(second);
    put(&cell(first), 1);
    refused("another row's cell");
    put(&own, 2);
    refused("another version");
    for place in [0, own.len() / 2, own.len() - 1] {
        let mut altered = own.clone();
        altered[place] ^= 1;
        put(&altered, 1);
        refused("an altered byte");
    }
    put(&own[..own.len() - 1], 1);
    refused("a cut cell");
    put(&[], 1);
    refused("an empty cell");
    put(&own, 1);
    assert_eq!(bench.store.read(|rows| rows.document(second)).unwrap().unwrap().name, "/two.txt");
}

#[test]
fn another_key_or_installation_does_not_open_it() {
    let bench = Bench::new();
    let refused = |install, key: &Key| {
        let error = Store::open(&bench.path(), install, std::slice::from_ref(key)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(error.to_string().contains("belongs to installation"), "{error}");
    };
    refused(bench.install, &Key::generate().unwrap());
    refused(id(IdKind::Install), &bench.key);
    assert!(Store::open(&bench.path(), bench.install, std::slice::from_ref(&bench.key)).is_ok());
    assert!(
        Store::create(&bench.path(), bench.install, std::slice::from_ref(&bench.key), 1).is_err(),
        "never over another"
    );
    let nowhere = bench.directory.path().join("none.db");
    assert_eq!(
        Store::open(&nowhere, bench.install, std::slice::from_ref(&bench.key))
            .map(|_| ())
            .unwrap_err()
            .kind(),
        ErrorKind::Integrity
    );
    assert!(!nowhere.exists(), "asking makes nothing");
}

#[test]
fn one_deployment_of_a_name_is_active_and_the_row_of_the_installation_says_which_names_wait_for_approval() {
    let bench = Bench::new();
    let model = Model {
        id: id(IdKind::Model),
        run: None,
        tokenizer: None,
        parameters: 5,
        bits_per_byte: None,
        created_at_ms: 3,
        name: "letters".to_owned(),
        purpose: json!({}),
        details: json!({}),
        makers: Vec::new(),
    };
    let [mut one, mut two] = [(); 2].map(|()| deployment(model.id, "letters"));
    let act = |deed| Act { deed, by: "local:0".to_owned(), at_ms: 5, reason: None };
    let active = |rows: &Writes<'_>, row: &mut Deployment| {
        rows.move_deployment(row, DeploymentState::Active, act(Deed::Approved))
    };
    bench
        .store
        .write(|rows| {
            rows.add_model(&model)?;
            rows.add_deployment(&one)?;
            rows.add_deployment(&two)?;
            active(rows, &mut one)
        })
        .unwrap();
    assert!(bench.store.write(|rows| active(rows, &mut two.clone())).is_err(), "two of one name");
    bench
        .store
        .write(|rows| {
            rows.move_deployment(&mut one, DeploymentState::Retired, act(Deed::Superseded))?;
            active(rows, &mut two)
        })
        .unwrap();
    let mut kept = bench.store.read(|rows| rows.deployments_of("letters")).unwrap();
    kept.sort_by_key(|row| row.id != one.id);
    assert_eq!(kept, [one, two]);
    assert!(bench.store.read(|rows| rows.deployments_of("other")).unwrap().is_empty());
    let unknown = vec![Made { object: model.id, by: None }];
    assert_eq!(bench.store.read(|rows| rows.model(model.id)).unwrap().unwrap().makers, unknown);

    assert_eq!(bench.store.read(|rows| rows.governance()).unwrap(), Governance::default());
    let governance = Governance { approved_only: true, names: ["letters".to_owned()].into() };
    bench.store.write(|rows| rows.set_governance(&governance)).unwrap();
    let reopened = Store::open(&bench.path(), bench.install, std::slice::from_ref(&bench.key)).unwrap();
    assert_eq!(reopened.read(|rows| rows.governance()).unwrap(), governance);
    raw(&bench.path()).execute("UPDATE install SET version = version + 1", []).unwrap();
    assert_eq!(reopened.read(|rows| rows.governance()).unwrap_err().kind(), ErrorKind::Integrity);
}

#[test]
fn names_are_found_by_a_hash_that_differs_between_installations() {
    let (one, other) = (Bench::new(), Bench::new());
    assert_ne!(one.store.keyed_hash("d", b"x"), other.store.keyed_hash("d", b"x"));
    assert_ne!(one.store.keyed_hash("d", b"x"), one.store.keyed_hash("e", b"x"));
    let reopened = Store::open(&one.path(), one.install, std::slice::from_ref(&one.key)).unwrap();
    assert_eq!(one.store.keyed_hash("d", b"x"), reopened.keyed_hash("d", b"x"));
}

#[test]
fn lineage_walks_up_and_down_the_whole_road_and_ends_in_a_loop() {
    let bench = Bench::new();
    let collection = bench.collection();
    let document = bench.document(collection, "/a.txt", &[]);
    let bystander = bench.document(collection, "/b.txt", &[]);
    let snapshot = bench.snapshot(collection, &[document]);
    let [tokenizer, shard, run, model] =
        [IdKind::Tokenizer, IdKind::Shard, IdKind::Run, IdKind::Model].map(id);
    let road = [
        (snapshot, tokenizer, Relation::TrainedTokenizer),
        (snapshot, shard, Relation::Tokenized),
        (tokenizer, shard, Relation::Tokenized),
        (shard, run, Relation::ReadBy),
        (run, model, Relation::Produced),
    ];
    let add = |(parent, child, relation)| {
        bench.store.write(|rows| rows.add_edge(Edge { parent, child, relation }, 9)).unwrap();
    };
    road.into_iter().for_each(add);
    road.into_iter().for_each(add);
    let walk = |from, direction| bench.store.read(|rows| rows.lineage(from, direction)).unwrap();
    let mut up: Vec<(u64, Id)> =
        walk(model, Direction::Up).iter().map(|step| (step.depth, step.edge.parent)).collect();
    up.sort_unstable();
    let mut expected = [(1, run), (2, shard), (3, snapshot), (3, tokenizer), (4, snapshot)];
    expected.sort_unstable();
    assert_eq!(up, expected, "the snapshot is reached twice, and walked from once");
    let down = walk(document, Direction::Down);
    assert_eq!(down[0].edge.relation, Relation::MemberOf);
    assert_eq!(down.last().unwrap().edge.child, model);
    assert_eq!(down.len(), 6);
    assert!(walk(bystander, Direction::Down).is_empty());
    assert!(walk(model, Direction::Down).is_empty());
    add((model, snapshot, Relation::Follows));
    assert_eq!(walk(model, Direction::Up).len(), 6, "a loop ends");
}

#[test]
fn jobs_move_forward_only() {
    let bench = Bench::new();
    let [first, second] = [id(IdKind::Job), id(IdKind::Job)];
    let add = |job| bench.store.write(|rows| rows.add_job(job, "data.ingest", "local:0", &json!(1), 1));
    add(first).unwrap();
    add(second).unwrap();
    bench.store.write(|rows| rows.start_job(first, 2)).unwrap();
    assert!(bench.store.write(|rows| rows.start_job(first, 2)).is_err(), "started twice");
    bench.store.write(|rows| rows.end_job(first, JobState::Done, None, 3)).unwrap();
    assert!(bench.store.write(|rows| rows.end_job(first, JobState::Failed, None, 4)).is_err());
    let cut_off = bench.store.write(|rows| rows.interrupt_jobs(5)).unwrap();
    assert_eq!(cut_off, [second]);
    let state = |job| bench.store.read(|rows| rows.job(job)).unwrap().unwrap().state;
    assert_eq!((state(first), state(second)), (JobState::Done, JobState::Interrupted));
    assert_eq!(bench.store.read(|rows| rows.jobs(10)).unwrap().len(), 2);
    assert_eq!(bench.store.read(|rows| rows.jobs(1)).unwrap().len(), 1);
}

#[test]
fn tokens_are_found_by_mac_and_stay_revoked() {
    let bench = Bench::new();
    let token = id(IdKind::Token);
    let new = NewToken {
        id: token,
        mac: [9; 32],
        user: None,
        role: "service",
        created_at_ms: 1,
        expires_at_ms: Some(99),
        name: Some("billing"),
        scope: &json!({ "models": ["contracts"] }),
        session: false,
        certificate: Some("AB:CD"),
    };
    bench.store.write(|rows| rows.add_token(&new)).unwrap();
    assert!(bench.store.write(|rows| rows.add_token(&new)).is_err());
    assert_eq!(bench.store.read(|rows| rows.token_by_mac(&[8; 32])).unwrap(), None);
    bench.store.write(|rows| rows.revoke_token(token, 50)).unwrap();
    bench.store.write(|rows| rows.revoke_token(token, 60)).unwrap();
    let found = bench.store.read(|rows| rows.token_by_mac(&[9; 32])).unwrap().unwrap();
    assert_eq!((found.revoked_at_ms, found.expires_at_ms), (Some(50), Some(99)));
    assert_eq!((found.name.as_deref(), &found.scope), (Some("billing"), new.scope));
    assert_eq!(found.certificate.as_deref(), new.certificate);
    bench.store.write(|rows| rows.token_used(token, 70)).unwrap();
    bench.store.write(|rows| rows.token_used(token, 65)).unwrap();
    let found = bench.store.read(|rows| rows.tokens()).unwrap().remove(0);
    assert_eq!(found.last_used_at_ms, Some(70));
    assert!(bench.store.write(|rows| rows.revoke_token(id(IdKind::Token), 60)).is_err());
}

#[test]
fn nobody_who_can_write_the_file_makes_more_of_a_token() {
    let bench = Bench::new();
    let token = id(IdKind::Token);
    let new = NewToken {
        id: token,
        mac: [9; 32],
        user: None,
        role: "user",
        created_at_ms: 1,
        expires_at_ms: Some(99),
        name: None,
        scope: &json!(null),
        session: true,
        certificate: None,
    };
    bench.store.write(|rows| rows.add_token(&new)).unwrap();
    let find = || bench.store.read(|rows| rows.token_by_mac(&[9; 32]));
    assert!(find().unwrap().is_some());
    for (change, back) in [
        ("role = 'security_officer'", "role = 'user'"),
        ("expires_at_ms = NULL", "expires_at_ms = 99"),
        ("session = 0", "session = 1"),
    ] {
        raw(&bench.path()).execute_batch(&format!("UPDATE tokens SET {change}")).unwrap();
        assert_eq!(find().unwrap_err().kind(), ErrorKind::Integrity, "{change}");
        raw(&bench.path()).execute_batch(&format!("UPDATE tokens SET {back}")).unwrap();
    }
    raw(&bench.path()).execute_batch("UPDATE tokens SET role = 'security_officer', version = 0").unwrap();
    assert!(find().unwrap().unwrap().revoked_at_ms.is_some(), "without its seal it has ended");
}

#[test]
fn a_password_lies_sealed_in_its_own_users_row_and_takes_its_sessions_with_it() {
    let bench = Bench::new();
    let user = |name: &str| User {
        id: id(IdKind::User),
        name: name.to_owned(),
        role: "auditor".to_owned(),
        active: true,
        created_at_ms: 1,
        password: None,
    };
    let (alice, bob) = (user("alice"), user("bob"));
    let verifier = PasswordVerifier::new(&Secret::new(b"the heron over the mill pond".to_vec())).unwrap();
    let scope = json!(null);
    let token = |number: u8, session| NewToken {
        id: id(IdKind::Token),
        mac: [number; 32],
        user: Some(alice.id),
        role: "auditor",
        created_at_ms: 1,
        expires_at_ms: None,
        name: None,
        scope: &scope,
        session,
        certificate: None,
    };
    bench
        .store
        .write(|rows| {
            rows.add_user(&alice)?;
            rows.add_user(&bob)?;
            rows.add_token(&token(1, false))?;
            rows.add_token(&token(2, true))?;
            rows.set_password(alice.id, Some(verifier.clone()), 5)
        })
        .unwrap();
    let found = |name: &str| bench.store.read(|rows| rows.user_named(name));
    assert_eq!(found("alice").unwrap().unwrap().password, Some(verifier));
    let revoked = |mac: u8| {
        bench.store.read(|rows| rows.token_by_mac(&[mac; 32])).unwrap().unwrap().revoked_at_ms.is_some()
    };
    assert_eq!((revoked(1), revoked(2)), (false, true), "the session ended, the token did not");
    // A better role, and the password of somebody else's row.
    raw(&bench.path()).execute_batch("UPDATE users SET role = 'security_officer'").unwrap();
    assert_eq!(found("alice").unwrap_err().kind(), ErrorKind::Integrity);
    raw(&bench.path()).execute_batch("UPDATE users SET role = 'auditor'").unwrap();
    let moved = format!(
        "UPDATE users SET (version, content) = (SELECT version, content FROM users WHERE id = '{}') WHERE id = '{}'",
        alice.id, bob.id
    );
    raw(&bench.path()).execute_batch(&moved).unwrap();
    assert_eq!(found("bob").unwrap_err().kind(), ErrorKind::Integrity);
    // Whoever lets a disabled user in again has no password to let them in with.
    bench.store.write(|rows| rows.disable_user(alice.id, 9)).unwrap();
    raw(&bench.path()).execute_batch("UPDATE users SET state = 'active'").unwrap();
    assert_eq!(found("alice").unwrap().unwrap().password, None);
    assert!(revoked(1));
}

#[test]
fn feedback_needs_its_answer_and_rows_need_their_parents() {
    let bench = Bench::new();
    let orphan = NewFeedback {
        id: id(IdKind::Feedback),
        answer: id(IdKind::Answer),
        token: id(IdKind::Token),
        rating: None,
        created_at_ms: 1,
        correction: None,
        comment: None,
    };
    let error = bench.store.write(|rows| rows.add_feedback(&orphan)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let run = NewRun {
        id: id(IdKind::Run),
        snapshot: id(IdKind::Snapshot),
        tokenizer: id(IdKind::Tokenizer),
        started_at_ms: 1,
        name: "m",
        purpose: &json!({}),
        config: &json!({}),
        makers: &[],
    };
    assert!(bench.store.write(|rows| rows.add_run(&run)).is_err(), "foreign keys hold");
}

#[test]
fn objects_are_staged_until_they_are_kept() {
    let bench = Bench::new();
    let job = id(IdKind::Job);
    let [kept, staged] = [id(IdKind::Model), id(IdKind::Checkpoint)];
    bench
        .store
        .write(|rows| {
            rows.add_job(job, "model.pretrain", "local:0", &json!({}), 1)?;
            rows.add_object(kept, ObjectState::Staged, Some(job), 1)?;
            rows.add_object(staged, ObjectState::Staged, Some(job), 1)?;
            rows.keep_object(kept)
        })
        .unwrap();
    assert_eq!(bench.store.read(|rows| rows.staged_objects(job)).unwrap(), [staged]);
    assert_eq!(bench.store.write(|rows| rows.remove_staged_objects()).unwrap(), 1);
    let left = bench.store.read(|rows| rows.kept_objects()).unwrap();
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [kept]);
}

#[test]
fn an_erased_document_leaves_structure_and_nothing_that_tells_a_guess() {
    let bench = Bench::new();
    let collection = bench.collection();
    let older = bench.document(collection, "/planted/doe.txt", &[]);
    let newer = bench.document(collection, "/planted/doe.txt", &["J. Doe".to_owned()]);
    let other = bench.document(collection, "/planted/roe.txt", &["J. Doe".to_owned()]);
    let snapshot = bench.snapshot(collection, &[older, other]);
    let versions = |id| -> Vec<Id> {
        let rows = bench.store.read(|rows| rows.versions_of(id)).unwrap();
        let mut ids: Vec<Id> = rows.into_iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids
    };
    let mut both = [older, newer];
    both.sort_unstable();
    assert_eq!(
        (versions(older), versions(newer), versions(other)),
        (both.to_vec(), both.to_vec(), vec![other])
    );
    bench.store.write(|rows| rows.erase_document(older)).unwrap();
    assert_eq!((versions(older), versions(newer)), (vec![], vec![newer]));
    bench.store.write(|rows| rows.erase_document(newer)).unwrap();
    assert!(bench.store.write(|rows| rows.erase_document(newer)).is_err(), "twice");
    assert_eq!(bench.store.read(|rows| rows.erased_members(snapshot)).unwrap(), [older]);
    assert_eq!(bench.store.read(|rows| rows.documents_of_subject("J. Doe")).unwrap(), [other]);
    // The name is free again.
    let again = bench.document(collection, "/planted/doe.txt", &[]);
    assert_eq!(versions(again), [again]);
    let empty: i64 = raw(&bench.path())
        .query_row(
            "SELECT count(*) FROM documents
             WHERE state = 'erased' AND content IS NULL AND name_hash = zeroblob(32) AND content_hash = zeroblob(32)
               AND id NOT IN (SELECT document FROM document_subjects)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(empty, 2);
}

#[test]
fn an_erasure_is_pending_until_it_has_its_certificate() {
    let bench = Bench::new();
    let (erasure, document) = (id(IdKind::Erasure), id(IdKind::Document));
    let taken = Taken {
        subjects: vec!["ab".into()],
        documents: [(document, "cd".into())].into(),
        jobs: 3,
        ..Taken::default()
    };
    bench.store.write(|rows| rows.add_erasure(erasure, "local:7", &taken, 5)).unwrap();
    let read = |state| bench.store.read(|rows| rows.erasures(Some(state))).unwrap();
    assert_eq!(read(ErasureState::Pending)[0].taken, taken);
    assert!(bench.store.read(|rows| rows.is_known(erasure)).unwrap());
    bench.store.write(|rows| rows.end_erasure(erasure, "{}", 6)).unwrap();
    assert!(bench.store.write(|rows| rows.end_erasure(erasure, "{}", 7)).is_err(), "done is done");
    let done = read(ErasureState::Done).remove(0);
    assert_eq!((done.certificate.as_deref(), done.done_at_ms, &done.taken), (Some("{}"), Some(6), &taken));
    bench.store.write(|rows| rows.reopen_erasure(erasure)).unwrap();
    assert_eq!(read(ErasureState::Pending).len(), 1);
}
