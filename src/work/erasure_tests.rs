use std::{
    io::Write,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;

use super::*;
use crate::{
    base::{ErrorKind, Progress, Silent},
    store::{
        AnswerKind, AnswerState, Edge, FinishedAnswer, JobState, Model, NewAnswer, NewDocument, NewFeedback,
        NewQuarantined, NewRun, NewToken, ObjectState, Pinned, Relation, TokenizerRow, User,
    },
    vault::Depot,
    work::{
        Request,
        client::Site,
        request::{BackupRow, Pretrain},
        tests::{Bench, ask},
    },
};

const ACTOR: Actor = Actor::Local { uid: 7 };

/// A document with its text sealed, as an ingest leaves it.
fn document(warden: &Warden, collection: &str, name: &str, subjects: &[&str]) -> Id {
    let text = format!("the text of {name}");
    let mut object = warden.vault.create(IdKind::Document, text.len() as u64).unwrap();
    object.write_all(text.as_bytes()).unwrap();
    let id = warden.vault.commit(object).unwrap();
    let subjects: Vec<String> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    warden
        .store
        .write(|rows| {
            rows.add_object(id, ObjectState::Kept, None, 1)?;
            rows.add_document(&NewDocument {
                id,
                collection: rows.ensure_collection(collection, 1)?,
                job: None,
                format: "txt",
                source_bytes: 9,
                text_bytes: text.len() as u64,
                content_hash: rows.keyed_hash("document content", text.as_bytes()),
                ingested_at_ms: 1,
                name,
                subjects: &subjects,
                licence: Some("internal"),
                remarks: &[],
            })
        })
        .unwrap();
    id
}

fn of_subject(subject: &str) -> Erase {
    Erase { subjects: vec![subject.into()], documents: Vec::new() }
}

fn erase(warden: &Warden, wanted: Erase) -> Result<SignedCertificate> {
    ask(warden, Request::DataErase(wanted)).map(|answer| serde_json::from_value(answer).unwrap())
}

fn is_gone(warden: &Warden, id: Id) -> bool {
    let row = warden.store.read(|rows| rows.document(id)).unwrap().unwrap();
    row.state == DocumentState::Erased
        && row.name.is_empty()
        && row.content_hash == [0; 32]
        && warden.vault.extent_key(id).is_err()
        && warden.vault.open(id).is_err()
}

/// The entries of the audit log about erasures, but for plans.
fn entries(warden: &Warden) -> Vec<(u64, Entry)> {
    let entries = auditlog::read(&warden.data_dir.join("audit"), 0).unwrap().map(Result::unwrap);
    entries.filter(|(_, entry)| entry.action == "data.erase").collect()
}

#[test]
fn a_subject_goes_with_every_version_and_nobody_else_does() {
    let bench = Bench::new();
    let warden = bench.init();
    let untagged = document(&warden, "letters", "/in/doe.txt", &[]);
    let tagged = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let shared = document(&warden, "letters", "/in/both.txt", &["J. Doe", "R. Roe"]);
    let other = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
    let elsewhere = document(&warden, "bills", "/in/doe.txt", &["R. Roe"]);

    let plan = ask(&warden, Request::DataErasePlan(of_subject("J. Doe"))).unwrap();
    assert_eq!(plan["documents"].as_array().unwrap().len(), 3, "{plan}");
    assert!(warden.vault.contains(tagged), "a plan changes nothing");

    let signed = erase(&warden, of_subject("J. Doe")).unwrap();
    signed.verify(&warden.signer().public_key()).unwrap();
    let went: BTreeSet<Id> = signed.certificate.documents.keys().copied().collect();
    assert_eq!(went, [untagged, tagged, shared].into());
    assert!(went.iter().all(|&id| is_gone(&warden, id)));
    for stays in [other, elsewhere] {
        assert!(!warden.vault.open(stays).unwrap().read_all().unwrap().is_empty());
    }
    let text = serde_json::to_string(&signed).unwrap();
    assert!(!text.contains("Doe") && !text.contains("doe.txt"), "{text}");
    ask(&warden, Request::DataVerify).unwrap();

    let again = erase(&warden, of_subject("J. Doe")).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    assert!(
        again
            .to_string()
            .contains(&format!("nothing is left of subject 'J. Doe': {}", signed.certificate.erasure))
    );
    let by_id = Erase { subjects: Vec::new(), documents: vec![tagged] };
    assert!(erase(&warden, by_id).unwrap_err().to_string().contains("nothing is left of doc_"));
    assert!(erase(&warden, of_subject("Nobody")).unwrap_err().to_string().contains("there is nothing of"));
    assert_eq!(erase(&warden, Erase::default()).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_name_that_is_known_with_others_that_are_not_erases_nothing() {
    let bench = Bench::new();
    let warden = bench.init();
    let known = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let wanted = Erase { subjects: vec!["J. Doe".into(), "J. Doo".into()], documents: Vec::new() };
    assert!(erase(&warden, wanted).unwrap_err().to_string().contains("J. Doo"));
    assert!(warden.vault.contains(known) && warden.vault.tombstones().unwrap().is_empty());
}

#[test]
fn the_log_has_an_intent_and_an_outcome_with_hashes_and_no_name() {
    let bench = Bench::new();
    let warden = bench.init();
    document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let signed = erase(&warden, of_subject("J. Doe")).unwrap();
    let [(_, intent), (number, outcome)] = &entries(&warden)[..] else { panic!("two entries") };
    assert_eq!((intent.outcome, outcome.outcome), (Outcome::Intent, Outcome::Done));
    assert_eq!((*number, outcome.object), (signed.certificate.audit_entry, Some(signed.certificate.erasure)));
    for entry in [intent, outcome] {
        assert_eq!(entry.actor, "local:7");
        assert_eq!(entry.detail["subjects"], json!(signed.certificate.subjects));
    }
    let checkpoint = warden.log.key().open_checkpoint(&signed.certificate.audit_checkpoint).unwrap();
    assert!(checkpoint.size > *number, "the checkpoint covers the entry");
    let line = std::fs::read_to_string(bench.path("data").join("keys/tombstones")).unwrap();
    let hash = hex(&crate::seal::sha256(line.trim_end().as_bytes()));
    assert_eq!(outcome.detail["tombstone"], hash, "the log binds the tombstone");
    ask(&warden, Request::AuditVerify).unwrap();

    let erasure = signed.certificate.erasure;
    let shown =
        |subject: &str| ask(&warden, Request::DataCertificate { erasure, subject: Some(subject.into()) });
    assert_eq!(shown("J. Doe").unwrap(), serde_json::to_value(&signed).unwrap());
    assert_eq!(shown("R. Roe").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn rows_that_quoted_the_names_quote_them_no_more() {
    let bench = Bench::new();
    let warden = bench.init();
    let collection = warden.store.write(|rows| rows.ensure_collection("letters", 1)).unwrap();
    document(&warden, "letters", "/in/people/doe/a.txt", &["J. Doe"]);
    document(&warden, "letters", "/in/list.csv#2", &["J. Doe"]);
    document(&warden, "letters", "/in/people/roe.txt", &["R. Roe"]);
    document(&warden, "letters", "/in/list.csv#3", &[]);
    let quarantined = |name: &str| {
        let id = new_id(IdKind::Quarantine).unwrap();
        let new = NewQuarantined {
            id,
            collection,
            job: None,
            reason_code: "empty",
            source_bytes: 0,
            refused_at_ms: 1,
            name,
            format: "txt",
            reason: "is empty",
        };
        warden.store.write(|rows| rows.add_quarantined(&new)).unwrap();
        id
    };
    let goes = quarantined("/in/people/doe/a.txt");
    let stay = [quarantined("/in/people/roe.bad"), quarantined("/in/list.csv")];
    let job = |paths: &[&str], subjects: &[&str], error: &str| {
        let id = new_id(IdKind::Job).unwrap();
        let request = json!({ "data_ingest": { "paths": paths, "subjects": subjects } });
        warden
            .store
            .write(|rows| {
                rows.add_job(id, "data.ingest", "local:7", &request, 1)?;
                rows.end_job(id, JobState::Failed, Some(&Error::failed(error)), 2)
            })
            .unwrap();
        id
    };
    let quoting = job(
        &["/in/people/doe", "/in/people/doe/", "/in/people", "/in/list.csv"],
        &["J. Doe", "R. Roe"],
        "reading /in/people/doe/a.txt: is a directory",
    );
    let other = job(&["/in/people"], &["R. Roe"], "no");
    let signed = erase(&warden, of_subject("J. Doe")).unwrap();
    assert_eq!((signed.certificate.quarantined, signed.certificate.jobs), (1, 1));
    warden
        .store
        .read(|rows| {
            let left: BTreeSet<Id> = rows.quarantine(None)?.into_iter().map(|row| row.id).collect();
            assert_eq!(left, stay.into(), "{goes} is gone");
            let job = rows.job(quoting)?.unwrap();
            let due = json!({ "data_ingest": {
                "paths": ["(erased)", "(erased)", "/in/people", "/in/list.csv"],
                "subjects": ["(erased)", "R. Roe"],
            }});
            assert_eq!(job.request, due);
            assert_eq!(job.error.unwrap().to_string(), "reading (erased): is a directory");
            assert_eq!(rows.job(other)?.unwrap().request["data_ingest"]["paths"], json!(["/in/people"]));
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_the_user_of_that_name_asked_is_emptied_and_nobody_elses_is() {
    let bench = Bench::new();
    let warden = bench.init();
    let [theirs, others] = ["J. Doe", "R. Roe"].map(|name| {
        let (user, token) = (new_id(IdKind::User).unwrap(), new_id(IdKind::Token).unwrap());
        let user = User {
            id: user,
            name: name.into(),
            role: "user".into(),
            active: true,
            created_at_ms: 1,
            password: None,
        };
        let new = NewToken {
            id: token,
            mac: std::array::from_fn(|at| token.to_bytes()[at % 17]),
            user: Some(user.id),
            role: "user",
            created_at_ms: 1,
            expires_at_ms: None,
            name: None,
            scope: &Value::Null,
            session: false,
            certificate: None,
        };
        warden
            .store
            .write(|rows| {
                rows.add_user(&user)?;
                rows.add_token(&new)
            })
            .unwrap();
        token
    });
    let model = trained_on(&warden, &[document(&warden, "letters", "/in/roe.txt", &[])]).model;
    let answer = |token: Id, rated_by: Id| {
        let (id, feedback) = (new_id(IdKind::Answer).unwrap(), new_id(IdKind::Feedback).unwrap());
        let asked = NewAnswer {
            id,
            token,
            model,
            kind: AnswerKind::Chat,
            prompt_tokens: 1,
            created_at_ms: 1,
            prompt: "am I well",
        };
        let ended = FinishedAnswer {
            id,
            state: AnswerState::Done,
            finish_reason: Some("stop"),
            completion_tokens: 2,
            ended_at_ms: 2,
            answer: "no",
            receipt: Some("{}"),
        };
        let said = NewFeedback {
            id: feedback,
            answer: id,
            token: rated_by,
            rating: Some(-1),
            created_at_ms: 3,
            correction: Some("yes"),
            comment: None,
        };
        warden
            .store
            .write(|rows| {
                rows.add_answer(&asked)?;
                rows.finish_answer(&ended)?;
                rows.add_feedback(&said)
            })
            .unwrap();
        (id, feedback)
    };
    let (mine, about_mine) = answer(theirs, others);
    let (another, about_another) = answer(others, others);
    let backup = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
    let backup: BackupRow = serde_json::from_value(ask(&warden, backup).unwrap()).unwrap();
    // A person with no document can be erased too.
    let signed = erase(&warden, of_subject("J. Doe")).unwrap();
    assert_eq!((signed.certificate.answers, signed.certificate.feedback), (1, 1));
    assert!(signed.certificate.documents.is_empty());
    let tombstone = warden.vault.tombstones().unwrap().remove(0);
    assert_eq!(tombstone.emptied, [mine, about_mine]);
    let emptied = |warden: &Warden| {
        let found = warden.store.read(|rows| {
            let emptied = rows.answer(mine)?.unwrap();
            assert_eq!((emptied.prompt.as_str(), emptied.answer.as_str(), emptied.receipt), ("", "", None));
            assert_eq!(rows.answer(another)?.unwrap().prompt, "am I well");
            let feedback = rows.feedback(None)?;
            let words = |id| feedback.iter().find(|row| row.id == id).unwrap().correction.clone();
            assert_eq!((words(about_mine), words(about_another)), (None, Some("yes".into())));
            rows.erasure(tombstone.erasure)
        });
        assert_eq!(found.unwrap().unwrap().taken.emptied, [mine, about_mine]);
        ask(warden, Request::DataVerify).unwrap();
    };
    emptied(&warden);
    assert!(erase(&warden, of_subject("J. Doe")).unwrap_err().to_string().contains("nothing is left"));
    // A backup from before brings them back, and the tombstone from after empties them again.
    let site = Site { data_dir: bench.path("restored"), ..bench.site() };
    let kept = bench.path("data").join("keys/tombstones");
    let (disk, stick) = (bench.path("disk"), bench.path("stick"));
    let restored = Warden::restore(&site, &disk, &stick, Some(backup.id), Some(&kept), &Silent).unwrap();
    assert!(restored.notices.iter().any(|notice| notice.contains("erased again")), "{restored:?}");
    let warden = Warden::open(&site).unwrap();
    emptied(&warden);
    assert!(warden.notices().all(|notice| !notice.contains("erased again")), "once");
}

struct Trained {
    snapshot: Id,
    tokenizer: Id,
    shard: Id,
    run: Id,
    model: Id,
}

/// The rows of a model that was trained on these documents of the collection "letters".
fn trained_on(warden: &Warden, documents: &[Id]) -> Trained {
    let tokenizer = new_id(IdKind::Tokenizer).unwrap();
    let trained = trained_with(warden, documents, tokenizer, Some(tokenizer));
    Trained { tokenizer, ..trained }
}

/// With a tokenizer that is there, or one that is made of this snapshot.
fn trained_with(warden: &Warden, documents: &[Id], tokenizer: Id, made: Option<Id>) -> Trained {
    let [snapshot, shard, run, model] =
        [IdKind::Snapshot, IdKind::Shard, IdKind::Run, IdKind::Model].map(|kind| new_id(kind).unwrap());
    let edge = |parent, child, relation| Edge { parent, child, relation };
    let config = json!({ "steps": 5, "learning_rate": 1e-3, "purpose": {
        "for_whom": "the clerk's desk", "for_what": "tests", "not_for_what": "answers" } });
    warden
        .store
        .write(|rows| {
            let newest = rows.snapshots()?.last().map(|row| row.id);
            rows.add_snapshot(
                &crate::store::Snapshot {
                    id: snapshot,
                    collection: rows.ensure_collection("letters", 1)?,
                    merkle_root: [7; 32],
                    documents: documents.len() as u64,
                    duplicates: 0,
                    train_bytes: 9,
                    held_out_bytes: 1,
                    created_at_ms: 3,
                    spec: json!({ "clean": { "lower_case": true } }),
                },
                documents,
            )?;
            if let Some(older) = newest {
                rows.add_edge(edge(older, snapshot, Relation::Follows), 3)?;
            }
            if let Some(id) = made {
                rows.add_tokenizer(&TokenizerRow {
                    id,
                    snapshot: Some(snapshot),
                    vocab_size: 300,
                    bytes_per_token: None,
                    created_at_ms: 3,
                    made_by: None,
                })?;
                rows.add_edge(edge(snapshot, id, Relation::TrainedTokenizer), 3)?;
            }
            rows.add_shard(&crate::store::Shard { id: shard, snapshot, tokenizer, created_at_ms: 3 })?;
            rows.add_run(&NewRun {
                id: run,
                snapshot,
                tokenizer,
                started_at_ms: 3,
                name: "letter writer",
                purpose: &json!({}),
                config: &config,
                makers: &[],
            })?;
            rows.set_run_state(run, crate::store::RunState::Interrupted, Some(4))?;
            rows.add_model(&Model {
                id: model,
                run: Some(run),
                tokenizer: Some(tokenizer),
                parameters: 1,
                bits_per_byte: None,
                created_at_ms: 4,
                name: "letter writer".into(),
                purpose: json!({}),
                details: json!({}),
                makers: Vec::new(),
            })?;
            for (parent, child, relation) in [
                (snapshot, shard, Relation::Tokenized),
                (tokenizer, shard, Relation::Tokenized),
                (shard, run, Relation::ReadBy),
                (tokenizer, run, Relation::ReadBy),
                (run, model, Relation::Produced),
                (tokenizer, model, Relation::UsedBy),
            ] {
                rows.add_edge(edge(parent, child, relation), 4)?;
            }
            Ok(())
        })
        .unwrap();
    Trained { snapshot, tokenizer, shard, run, model }
}

#[test]
fn everything_reached_is_listed_with_its_command_and_nothing_else_is() {
    let bench = Bench::new();
    let warden = bench.init();
    let doe = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let roe = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
    let direct = trained_on(&warden, &[doe, roe]);
    // A newer snapshot without the document: once with the tokenizer that was trained on it, once without.
    let through = trained_with(&warden, &[roe], direct.tokenizer, None);
    let clean = trained_on(&warden, &[roe]);
    let checkpoint = new_id(IdKind::Checkpoint).unwrap();
    let fact = json!({ "latest": [checkpoint] });
    warden.store.write(|rows| rows.set_fact(direct.run, "checkpoints", &fact, 5)).unwrap();

    let reached = erase(&warden, of_subject("J. Doe")).unwrap().certificate.reached;
    let ids: BTreeSet<Id> = reached.iter().map(|reached| reached.id).collect();
    let due = [
        direct.snapshot,
        direct.tokenizer,
        direct.shard,
        through.shard,
        direct.run,
        checkpoint,
        through.run,
        direct.model,
        through.model,
    ];
    assert_eq!((ids.clone(), reached.len()), (due.into(), due.len()));
    assert!(!ids.contains(&clean.model) && !ids.contains(&through.snapshot));
    let of = |id: Id| reached.iter().find(|reached| reached.id == id).unwrap();
    assert_eq!(of(direct.model).because, "was trained on them");
    assert_eq!(of(through.model).because, "uses a tokenizer that was trained on them");
    let command = of(direct.model).retrain.clone().unwrap();
    assert!(
        command.starts_with(
            "cloister model pretrain --data letters --name 'letter writer' --vocab-size 300 --lower-case"
        ),
        "{command}"
    );
    for said in ["--set steps=5", "--set learning_rate=0.001", "--set 'purpose={", "clerk'\\''s"] {
        assert!(command.contains(said), "no {said} in {command}");
    }
    assert_eq!(of(direct.run).retrain.as_ref(), Some(&command));
    assert_eq!(
        of(direct.tokenizer).retrain.as_deref(),
        Some("cloister tokenizer train --data letters --vocab-size 300 --lower-case")
    );

    let resumed = ask(&warden, Request::ModelResume { run: Some(direct.run) }).unwrap_err();
    assert_eq!(resumed.kind(), ErrorKind::Usage);
    assert!(resumed.to_string().contains(&doe.to_string()), "{resumed}");
    assert!(resumed.remedy_text().unwrap().contains(&command), "{resumed:?}");
    let shown = ask(&warden, Request::ModelShow { model: direct.model.to_string() }).unwrap();
    assert_eq!(shown["erased"], 1);
}

#[test]
fn a_collection_that_holds_nothing_any_more_has_no_command() {
    let bench = Bench::new();
    let warden = bench.init();
    let doe = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let trained = trained_on(&warden, &[doe]);
    let plan = ask(&warden, Request::DataErasePlan(of_subject("J. Doe"))).unwrap();
    let signed = erase(&warden, of_subject("J. Doe")).unwrap();
    assert_eq!(plan["reached"], json!(signed.certificate.reached), "the plan says what the certificate does");
    assert!(signed.certificate.reached.iter().all(|reached| reached.retrain.is_none()));
    let resumed = ask(&warden, Request::ModelResume { run: Some(trained.run) }).unwrap_err();
    assert!(resumed.remedy_text().unwrap().contains("nothing is left"), "{resumed:?}");
    let config = serde_json::from_value(json!({ "purpose": {
        "for_whom": "tests", "for_what": "tests", "not_for_what": "answers" } }))
    .unwrap();
    let pretrain = Pretrain {
        collection: "letters".into(),
        name: "again".into(),
        tokenizer: None,
        vocab_size: None,
        lower_case: false,
        config,
    };
    let error = ask(&warden, Request::ModelPretrain(pretrain)).unwrap_err();
    assert!(error.to_string().contains("holds no document"), "{error}");
}

/// Opens an installation that was cut off with an erasure begun, and sees that it is finished.
fn finished_by_the_next_start(bench: &Bench, erasure: Id, gone: Id, kept: Id) {
    let warden = bench.open();
    assert!(warden.notices().any(|notice| notice.contains(&erasure.to_string())));
    assert!(is_gone(&warden, gone));
    assert!(!object_file(bench, gone), "its file is gone");
    warden.vault.open(kept).unwrap().read_all().unwrap();
    let found = warden.store.read(|rows| rows.erasure(erasure)).unwrap().unwrap();
    assert_eq!(found.state, ErasureState::Done);
    let signed: SignedCertificate = serde_json::from_str(&found.certificate.unwrap()).unwrap();
    signed.verify(&warden.signer().public_key()).unwrap();
    assert_eq!(warden.vault.tombstones().unwrap().len(), 1);
    let done = entries(&warden).into_iter().filter(|(_, entry)| entry.outcome == Outcome::Done);
    let done: Vec<u64> = done.map(|(number, _)| number).collect();
    assert_eq!(done, [signed.certificate.audit_entry], "one outcome");
    ask(&warden, Request::DataVerify).unwrap();
    ask(&warden, Request::AuditVerify).unwrap();
    drop(warden);
    let warden = bench.open();
    assert!(warden.notices().all(|notice| !notice.contains("era_")), "and then there is nothing to finish");
}

fn object_file(bench: &Bench, id: Id) -> bool {
    fn below(directory: &Path, name: &str) -> bool {
        std::fs::read_dir(directory).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, name) } else { path.to_string_lossy().contains(name) }
        })
    }
    below(&bench.path("data").join("objects"), &id.to_string())
}

#[test]
fn cut_off_after_any_step_it_is_finished_by_the_next_start() {
    type Steps = fn(&Warden, &Erasure);
    let bury: Steps = |warden, erasure| {
        warden.vault.bury(erasure.id, erasure.created_at_ms, &erasure.taken.documents, &[]).unwrap();
    };
    let delete: Steps = |warden, erasure| {
        let ids: Vec<Id> = erasure.taken.documents.keys().copied().collect();
        warden.vault.delete_all(&ids).unwrap();
    };
    let destroy: Steps = |warden, erasure| {
        warden.destroy_keys(erasure).unwrap();
    };
    let record: Steps = |warden, erasure| {
        warden.record_outcome(erasure, None, Some(&ACTOR)).unwrap();
    };
    let all: [&[Steps]; 5] = [&[], &[bury], &[bury, delete], &[destroy], &[destroy, record]];
    for steps in all {
        let bench = Bench::new();
        let warden = bench.init();
        let gone = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
        let kept = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
        let erasure = warden.begin_erasure(&ACTOR, &of_subject("J. Doe")).unwrap();
        let row = warden.store.read(|rows| rows.erasure(erasure)).unwrap().unwrap();
        steps.iter().for_each(|step| step(&warden, &row));
        drop(warden);
        finished_by_the_next_start(&bench, erasure, gone, kept);
    }
}

#[test]
fn one_that_failed_on_the_way_is_finished_by_the_next_erasure_of_the_same_process() {
    let bench = Bench::new();
    let warden = bench.init();
    let first = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let second = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
    warden.begin_erasure(&ACTOR, &of_subject("J. Doe")).unwrap();
    erase(&warden, of_subject("R. Roe")).unwrap();
    assert!(is_gone(&warden, first) && is_gone(&warden, second));
    assert_eq!(warden.vault.tombstones().unwrap().len(), 2);
}

#[test]
fn one_that_a_backup_stands_in_the_way_of_is_finished_afterwards() {
    let bench = Bench::new();
    let warden = bench.init();
    let gone = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let kept = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
    let pinned = warden.store.pin(|| Ok(())).unwrap().0;
    let erasure = given_up(&warden, "J. Doe");
    assert!(is_gone(&warden, gone), "the keys are gone all the same");
    drop(pinned);
    drop(warden);
    finished_by_the_next_start(&bench, erasure, gone, kept);
}

/// Hears that it has to wait, and has the backup end then, or stops waiting where there is none.
struct Waits(Mutex<Option<Pinned>>, AtomicBool);

impl Monitor for Waits {
    fn progress(&self, _: &Progress) {}

    fn note(&self, message: &str) {
        assert!(message.contains("a backup still reads"), "{message}");
        if self.0.lock().unwrap().take().is_none() {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    fn stop_requested(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

/// An erasure that somebody stopped while it waited for a backup.
fn given_up(warden: &Warden, subject: &str) -> Id {
    let stops = Waits(Mutex::default(), AtomicBool::default());
    let error = warden.execute(ACTOR, Request::DataErase(of_subject(subject)), &stops).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("is begun, and not finished"), "{error}");
    warden.store.read(|rows| rows.erasures(None)).unwrap().pop().unwrap().id
}

#[test]
fn one_that_a_backup_stands_in_the_way_of_waits_for_it() {
    let bench = Bench::new();
    let warden = bench.init();
    let gone = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let pinned = warden.store.pin(|| Ok(())).unwrap().0;
    let waits = Waits(Mutex::new(Some(pinned)), AtomicBool::default());
    let answer = warden.execute(ACTOR, Request::DataErase(of_subject("J. Doe")), &waits).unwrap();
    let signed: SignedCertificate = serde_json::from_value(answer).unwrap();
    assert!(signed.certificate.documents.contains_key(&gone) && is_gone(&warden, gone));
    assert!(waits.0.lock().unwrap().is_none(), "it did wait");
}

#[test]
fn one_that_nobody_waits_for_is_finished_when_the_backup_ends() {
    let bench = Bench::new();
    let warden = bench.init();
    document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let pinned = warden.store.pin(|| Ok(())).unwrap().0;
    let erasure = given_up(&warden, "J. Doe");
    drop(pinned);
    let backup = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
    ask(&warden, backup).unwrap();
    ask(&warden, Request::DataCertificate { erasure, subject: Some("J. Doe".into()) }).unwrap();
}

#[test]
fn a_copy_from_before_that_is_put_back_is_erased_again() {
    let bench = Bench::new();
    let warden = bench.init();
    let gone = document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let kept = document(&warden, "letters", "/in/roe.txt", &["R. Roe"]);
    warden.store.checkpoint().unwrap();
    drop(warden);
    let (data, copy) = (bench.path("data"), bench.path("copy"));
    let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&copy).status();
    assert!(copied.unwrap().success());
    let warden = bench.open();
    let erasure = erase(&warden, of_subject("J. Doe")).unwrap().certificate.erasure;
    drop(warden);
    // As a restore does: everything from the backup, and the tombstones from before the restore.
    std::fs::copy(data.join("keys/tombstones"), copy.join("keys/tombstones")).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    let warden = bench.open();
    assert!(warden.notices().any(|notice| notice.contains("erased again")));
    assert!(is_gone(&warden, gone) && !object_file(&bench, gone));
    assert!(warden.store.read(|rows| rows.documents_of_subject("J. Doe")).unwrap().is_empty());
    warden.vault.open(kept).unwrap().read_all().unwrap();
    let found = warden.store.read(|rows| rows.erasure(erasure)).unwrap().unwrap();
    assert_eq!((found.state, found.actor.as_str()), (ErasureState::Done, "cloister"));
    ask(&warden, Request::DataVerify).unwrap();
    drop(warden);
    assert!(bench.open().notices().all(|notice| !notice.contains("erased again")), "once");
}

#[test]
fn a_restore_obeys_the_newest_tombstones_that_it_is_given() {
    let bench = Bench::new();
    let warden = bench.init();
    let [first, second, kept] =
        [("/in/doe.txt", "J. Doe"), ("/in/poe.txt", "E. Poe"), ("/in/roe.txt", "R. Roe")]
            .map(|(name, subject)| document(&warden, "letters", name, &[subject]));
    let back_up = || -> BackupRow {
        let request = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
        serde_json::from_value(ask(&warden, request).unwrap()).unwrap()
    };
    let oldest = back_up().id;
    erase(&warden, of_subject("J. Doe")).unwrap();
    back_up();
    erase(&warden, of_subject("E. Poe")).unwrap();
    let tombstones = bench.path("data").join("keys/tombstones");
    let restore = |name: &str, tombstones: Option<&Path>| {
        let site = Site { data_dir: bench.path(name), ..bench.site() };
        let (disk, stick) = (bench.path("disk"), bench.path("stick"));
        let restored = Warden::restore(&site, &disk, &stick, Some(oldest), tombstones, &Silent)?;
        assert!(restored.notices.iter().any(|notice| notice.contains("erased again")), "{restored:?}");
        Warden::open(&site)
    };
    // A later backup in the same place knows of the first erasure, and only the kept file of the second.
    let restored = restore("fresh", None).unwrap();
    assert!(is_gone(&restored, first) && !is_gone(&restored, second) && !is_gone(&restored, kept));
    ask(&restored, Request::DataVerify).unwrap();
    let restored = restore("fresher", Some(&tombstones)).unwrap();
    assert!(is_gone(&restored, first) && is_gone(&restored, second) && !is_gone(&restored, kept));
    ask(&restored, Request::DataVerify).unwrap();
    ask(&restored, Request::AuditVerify).unwrap();

    let whole = std::fs::read_to_string(&tombstones).unwrap();
    let forged = bench.path("forged");
    for text in
        [whole.replacen("doc_", "dok_", 1), whole.replacen("\n", " \n", 1), whole[..whole.len() - 9].into()]
    {
        std::fs::write(&forged, text).unwrap();
        let error = restore("never", Some(&forged)).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(!bench.path("never").join("keys").exists(), "nothing is left of it");
    }
}

#[test]
fn an_altered_tombstone_stops_the_start_and_a_missing_one_is_told() {
    let bench = Bench::new();
    let warden = bench.init();
    document(&warden, "letters", "/in/doe.txt", &["J. Doe"]);
    let erasure = erase(&warden, of_subject("J. Doe")).unwrap().certificate.erasure;
    drop(warden);
    let path = bench.path("data").join("keys/tombstones");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, whole.replacen("doc_", "dok_", 1)).unwrap();
    let error = Warden::open(&bench.site()).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
    std::fs::write(&path, "").unwrap();
    let error = ask(&bench.open(), Request::DataVerify).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&erasure.to_string()), "{error}");
    std::fs::write(&path, whole).unwrap();
    ask(&bench.open(), Request::DataVerify).unwrap();
}

#[test]
fn what_a_path_covers_is_told_by_what_lies_below_it() {
    for (path, name, due) in [
        ("/in/a.txt", "/in/a.txt", true),
        ("/in", "/in/a.txt", true),
        ("/in/", "/in/a.txt", true),
        ("/in/a.csv", "/in/a.csv#7", true),
        ("/in/a", "/in/a.txt", false),
        ("/in/a.txt/b", "/in/a.txt", false),
        ("", "/in/a.txt", false),
    ] {
        assert_eq!(lies_in(path, name), due, "{path} {name}");
    }
}
