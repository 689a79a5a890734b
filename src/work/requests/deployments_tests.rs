//! Four eyes: who may approve what, what a name serves before, between and after, and what editing the database gains.

use serde_json::{Value, json};

use super::*;
use crate::{
    auditlog::{self, Outcome},
    base::{ErrorKind, Silent},
    store::{Evaluation, Made, NewRun, RunState, Snapshot, TokenizerRow},
    work::{
        Caller, Request, Role,
        requests::reached,
        tests::{Bench, ask},
    },
};

/// Of a millisecond of its own, so that it sorts behind those that were made before.
fn id(kind: IdKind) -> Id {
    std::thread::sleep(std::time::Duration::from_millis(1));
    new_id(kind).unwrap()
}

/// Somebody with a token: their user's, or of none.
fn remote(role: Role, user: Option<Id>) -> Actor {
    let token = id(IdKind::Token);
    Actor::Remote(Caller { token, user, role, scope: Default::default(), from: None })
}

struct Trained {
    document: Id,
    tokenizer: Id,
    run: Id,
    model: Id,
}

/// Rows as a tokenizer's job, a run and its resumption leave them, by three people.
fn trained(warden: &Warden, name: &str, [tokenizers, runs, resumes]: [Option<&Actor>; 3]) -> Trained {
    let by = |actor: Option<&Actor>| actor.map(Actor::person);
    let [document, snapshot, tokenizer, run, model] =
        [IdKind::Document, IdKind::Snapshot, IdKind::Tokenizer, IdKind::Run, IdKind::Model].map(id);
    let made_by = by(tokenizers);
    let makers = match by(runs) {
        Some(by) => vec![Made { object: run, by: Some(by) }, Made { object: tokenizer, by: made_by.clone() }],
        None => Vec::new(),
    };
    let nothing = json!({});
    warden
        .store
        .write(|rows| {
            let collection = rows.ensure_collection("letters", 1)?;
            rows.add_document(&crate::store::NewDocument {
                id: document,
                collection,
                job: None,
                format: "txt",
                source_bytes: 1,
                text_bytes: 1,
                content_hash: rows.keyed_hash("content", document.to_string().as_bytes()),
                ingested_at_ms: 1,
                name: &document.to_string(),
                subjects: &[],
                licence: None,
                remarks: &[],
            })?;
            let manifest = Snapshot {
                id: snapshot,
                collection,
                merkle_root: [7; 32],
                documents: 1,
                duplicates: 0,
                train_bytes: 1,
                held_out_bytes: 1,
                created_at_ms: 1,
                spec: nothing.clone(),
            };
            rows.add_snapshot(&manifest, &[document])?;
            rows.add_tokenizer(&TokenizerRow {
                id: tokenizer,
                snapshot: Some(snapshot),
                vocab_size: 300,
                bytes_per_token: None,
                created_at_ms: 1,
                made_by,
            })?;
            rows.add_run(&NewRun {
                id: run,
                snapshot,
                tokenizer,
                started_at_ms: 1,
                name,
                purpose: &nothing,
                config: &nothing,
                makers: &makers,
            })?;
            if let Some(resumes) = resumes {
                let stopped = rows.run(run)?.expect("added");
                rows.add_run_maker(stopped, &resumes.person())?;
            }
            rows.set_run_state(run, RunState::Done, Some(2))?;
            rows.add_model(&Model {
                id: model,
                run: Some(run),
                tokenizer: Some(tokenizer),
                parameters: 1,
                bits_per_byte: None,
                created_at_ms: 2,
                name: name.to_owned(),
                purpose: nothing.clone(),
                details: nothing.clone(),
                makers: rows.run(run)?.expect("added").makers,
            })?;
            for (parent, child, relation) in [
                (snapshot, tokenizer, Relation::TrainedTokenizer),
                (tokenizer, run, Relation::ReadBy),
                (run, model, Relation::Produced),
            ] {
                rows.add_edge(Edge { parent, child, relation }, 2)?;
            }
            rows.add_evaluation(&Evaluation {
                id: id(IdKind::Evaluation),
                model,
                snapshot: Some(snapshot),
                kind: "held-out text".into(),
                metrics: nothing.clone(),
                created_at_ms: 2,
            })
        })
        .unwrap();
    Trained { document, tokenizer, run, model }
}

/// A model of a name, by nobody who appears here.
fn another(warden: &Warden, name: &str) -> Id {
    let stranger = remote(Role::ModelBuilder, Some(id(IdKind::User)));
    trained(warden, name, [Some(&stranger), Some(&stranger), None]).model
}

fn propose(warden: &Warden, actor: &Actor, model: Id, name: Option<&str>) -> Result<Id> {
    let request = Request::DeployPropose {
        model: model.to_string(),
        name: name.map(str::to_owned),
        reason: "it is better".into(),
    };
    let row = warden.execute(actor.clone(), request, &Silent)?;
    Ok(row["id"].as_str().unwrap().parse().unwrap())
}

fn approve(warden: &Warden, actor: &Actor, deployment: Id) -> Result<Value> {
    warden.execute(actor.clone(), Request::DeployApprove { deployment, reason: None }, &Silent)
}

/// Proposed by one and approved by another, neither of whom made it.
fn deployed(warden: &Warden, model: Id, name: Option<&str>) -> Id {
    let deployment = propose(warden, &remote(Role::ModelBuilder, None), model, name).unwrap();
    approve(warden, &remote(Role::Validator, None), deployment).unwrap();
    deployment
}

fn roll_back(warden: &Warden, name: &str) -> Result<Value> {
    let request = Request::DeployRollback { name: name.into(), reason: "it answers badly".into() };
    warden.execute(remote(Role::Operator, None), request, &Silent)
}

fn retire(warden: &Warden, name: &str) -> Result<Value> {
    let request = Request::DeployRetire { name: name.into(), reason: "it answers badly".into() };
    warden.execute(remote(Role::Operator, None), request, &Silent)
}

/// Name and model of what is served.
fn served(warden: &Warden) -> Vec<(String, Id)> {
    let served = warden.served_models().unwrap();
    served.into_iter().map(|served| (served.name, served.model)).collect()
}

fn at(name: &str, model: Id) -> Vec<(String, Id)> {
    vec![(name.to_owned(), model)]
}

fn listed(warden: &Warden, all: bool) -> Vec<DeploymentRow> {
    let listed: Deployments =
        serde_json::from_value(ask(warden, Request::DeployLs { all }).unwrap()).unwrap();
    listed.deployments
}

#[test]
fn whoever_proposed_or_had_a_part_in_it_cannot_approve_and_hears_by_what() {
    let bench = Bench::new();
    let warden = bench.init();
    let users = [(); 4].map(|()| Some(id(IdKind::User)));
    let as_builder = users.map(|user| remote(Role::ModelBuilder, user));
    // The same people, who have since become validators and hold other tokens.
    let as_validator = users.map(|user| remote(Role::Validator, user));
    let local = Actor::Local { uid: 1000 };
    let Trained { tokenizer, run, model, .. } =
        trained(&warden, "letters", [Some(&as_builder[0]), Some(&as_builder[1]), Some(&as_builder[2])]);
    let deployment = propose(&warden, &as_builder[3], model, None).unwrap();
    let refused = |actor: &Actor, object: Id, word: &str| {
        let error = approve(&warden, actor, deployment).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let said = error.to_string();
        assert!(said.contains(&object.to_string()) && said.contains(word), "{said}");
        assert!(said.contains(&actor.person()) && error.remedy_text().is_some(), "{said}");
    };
    refused(&as_validator[0], tokenizer, "made");
    refused(&as_validator[1], run, "trained");
    refused(&as_validator[2], run, "trained");
    refused(&as_validator[3], deployment, "proposed");
    assert_eq!(served(&warden), at("letters", model), "what was served before goes on");
    approve(&warden, &remote(Role::Validator, None), deployment).unwrap();

    // At the machine an account is a person; a token of no user is one too.
    let by_token = remote(Role::ModelBuilder, None);
    for maker in [&local, &by_token] {
        let ours = trained(&warden, "ours", [None, Some(maker), None]);
        let deployment = propose(&warden, &as_builder[3], ours.model, None).unwrap();
        let Actor::Remote(caller) = maker else {
            let error = approve(&warden, maker, deployment).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.to_string().contains("(local:1000)"), "{error}");
            assert!(error.remedy_text().unwrap().contains("--alone"), "{error:?}");
            approve(&warden, &Actor::Local { uid: 1001 }, deployment).unwrap();
            continue;
        };
        let validating = Actor::Remote(Caller { role: Role::Validator, ..caller.clone() });
        assert_eq!(approve(&warden, &validating, deployment).unwrap_err().kind(), ErrorKind::Denied);
        approve(&warden, &as_validator[3], deployment).unwrap_err();
        approve(&warden, &as_validator[0], deployment).unwrap();
    }
    let denied = auditlog::read(&bench.path("data").join("audit"), 0).unwrap().map(Result::unwrap);
    let denied = denied.filter(|(_, entry)| entry.outcome == Outcome::Denied);
    assert_eq!(denied.filter(|(_, entry)| entry.action == "deploy.approve").count(), 7);
}

#[test]
fn what_somebody_brought_in_somebody_else_approves() {
    let bench = Bench::new();
    let warden = bench.init();
    let importer = remote(Role::ModelBuilder, Some(id(IdKind::User)));
    let model = id(IdKind::Model);
    warden
        .store
        .write(|rows| {
            rows.add_model(&Model {
                id: model,
                run: None,
                tokenizer: None,
                parameters: 1,
                bits_per_byte: None,
                created_at_ms: 1,
                name: "imported".into(),
                purpose: Value::Null,
                details: Value::Null,
                makers: vec![Made { object: model, by: Some(importer.person()) }],
            })
        })
        .unwrap();
    let deployment = propose(&warden, &remote(Role::ModelBuilder, None), model, None).unwrap();
    let Actor::Remote(caller) = importer else { unreachable!("remote") };
    let validating = Actor::Remote(Caller { role: Role::Validator, ..caller });
    let error = approve(&warden, &validating, deployment).unwrap_err();
    assert!(error.to_string().contains("brought in"), "{error}");
}

#[test]
fn each_role_does_its_part_and_no_other() {
    let bench = Bench::new();
    let warden = bench.init();
    let model = another(&warden, "letters");
    let deployment = propose(&warden, &remote(Role::ModelBuilder, None), model, None).unwrap();
    let reason = || "why".to_owned();
    let requests = [
        (
            Request::DeployPropose { model: model.to_string(), name: None, reason: reason() },
            vec![Role::ModelBuilder],
        ),
        (Request::DeployApprove { deployment, reason: None }, vec![Role::Validator]),
        (Request::DeployApproveAlone { deployment, reason: reason() }, vec![]),
        (Request::DeployReject { deployment, reason: reason() }, vec![Role::Validator]),
        (Request::DeployWithdraw { deployment, reason: None }, vec![Role::ModelBuilder]),
        (Request::DeployRollback { name: "letters".into(), reason: reason() }, vec![Role::Operator]),
        (Request::DeployRetire { name: "letters".into(), reason: reason() }, vec![Role::Operator]),
        (Request::DeployPolicy { policy: DeployPolicy::ApprovedOnly }, vec![Role::SecurityOfficer]),
    ];
    for (request, may) in requests {
        for &role in Role::ALL.iter().filter(|role| !may.contains(role)) {
            let error = warden.execute(remote(role, None), request.clone(), &Silent).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{role}: {request:?}");
            assert!(error.remedy_text().is_some());
        }
    }
    assert_eq!(listed(&warden, true).len(), 2, "nothing was changed");
}

#[test]
fn a_name_serves_its_newest_until_something_is_proposed_for_it_and_then_what_was_approved() {
    let bench = Bench::new();
    let warden = bench.init();
    let first = another(&warden, "letters");
    let bystander = another(&warden, "other");
    let with = |model| [at("letters", model), at("other", bystander)].concat();
    assert_eq!(served(&warden), with(first));
    let second = another(&warden, "letters");
    assert_eq!(served(&warden), with(second), "the newest, as ever");

    let third = another(&warden, "letters");
    let proposal = propose(&warden, &remote(Role::ModelBuilder, None), third, None).unwrap();
    let fourth = another(&warden, "letters");
    assert_eq!(served(&warden), with(third), "what it was at that moment");
    let error = propose(&warden, &remote(Role::ModelBuilder, None), third, None).unwrap_err();
    assert!(error.to_string().contains(&proposal.to_string()), "{error}");
    approve(&warden, &remote(Role::Validator, None), proposal).unwrap();
    assert_eq!(
        approve(&warden, &remote(Role::Validator, None), proposal).unwrap_err().kind(),
        ErrorKind::Usage
    );
    let error = roll_back(&warden, "letters").unwrap_err();
    assert!(error.to_string().contains("approved"), "what was inherited never was: {error}");

    let fourth = deployed(&warden, fourth, None);
    let fifth = another(&warden, "letters");
    let rejected = propose(&warden, &remote(Role::ModelBuilder, None), fifth, None).unwrap();
    let reject = Request::DeployReject { deployment: rejected, reason: "it repeats letters".into() };
    warden.execute(remote(Role::Validator, None), reject, &Silent).unwrap();
    approve(&warden, &remote(Role::Validator, None), rejected).unwrap_err();
    let changes = warden.deployment_changes();
    assert_eq!(roll_back(&warden, "letters").unwrap()["id"], json!(proposal));
    assert!(warden.deployment_changes() > changes, "a daemon would look again");
    assert_eq!(served(&warden), with(third));
    roll_back(&warden, "letters").unwrap_err();

    // From a later one the way back is to what it took the place of, and not to what was left before that.
    let fifth = deployed(&warden, fifth, None);
    roll_back(&warden, "letters").unwrap();
    assert_eq!(served(&warden), with(third));
    drop(warden);

    let warden = bench.open();
    assert_eq!(served(&warden), with(third));
    retire(&warden, "letters").unwrap();
    assert_eq!(served(&warden), at("other", bystander), "and not its newest");
    assert_eq!(retire(&warden, "letters").unwrap_err().kind(), ErrorKind::NotFound);
    roll_back(&warden, "letters").unwrap();
    assert_eq!(served(&warden), with(third), "what was retired last, on the approval that it had");
    let states: Vec<(Id, String)> =
        listed(&warden, true).into_iter().map(|row| (row.id, row.state)).collect();
    for (id, state) in [(proposal, "active"), (fourth, "retired"), (fifth, "retired"), (rejected, "rejected")]
    {
        assert!(states.contains(&(id, state.to_owned())), "{id} {state}: {states:?}");
    }
    let up = ask(&warden, Request::LineageShow { id: proposal }).unwrap();
    assert_eq!((&up["up"][0]["parent"], &up["up"][0]["relation"]), (&json!(third), &json!("deployed as")));
    assert!(
        up["labels"][proposal.to_string()].as_str().unwrap().contains("letters, active, approved"),
        "{up}"
    );
}

#[test]
fn whoever_proposed_takes_it_back_nobody_else_does_and_the_name_stays_governed() {
    let bench = Bench::new();
    let warden = bench.init();
    let first = another(&warden, "letters");
    let [proposer, other] = [(); 2].map(|()| Some(id(IdKind::User)));
    let deployment = propose(&warden, &remote(Role::ModelBuilder, proposer), first, None).unwrap();
    let withdraw = |actor: &Actor, deployment: Id, reason: Option<&str>| {
        let request = Request::DeployWithdraw { deployment, reason: reason.map(str::to_owned) };
        warden.execute(actor.clone(), request, &Silent)
    };
    for actor in
        [remote(Role::ModelBuilder, other), remote(Role::ModelBuilder, None), Actor::Local { uid: 0 }]
    {
        let error = withdraw(&actor, deployment, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(&actor.person()), "{error}");
        let remedy = error.remedy_text().unwrap();
        assert!(remedy.contains(&format!("cloister deploy reject {deployment}")), "{remedy}");
    }
    assert_eq!(
        withdraw(&remote(Role::Validator, proposer), deployment, None).unwrap_err().kind(),
        ErrorKind::Denied
    );
    let row = listed(&warden, false).into_iter().find(|row| row.id == deployment).unwrap();
    assert_eq!((row.state.as_str(), row.acts.len()), ("proposed", 1), "nothing was changed");

    // With another token of theirs.
    let taken_back = remote(Role::ModelBuilder, proposer);
    withdraw(&taken_back, deployment, Some("it was the wrong run")).unwrap();
    assert!(listed(&warden, false).iter().all(|row| row.id != deployment));
    let row = listed(&warden, true).into_iter().find(|row| row.id == deployment).unwrap();
    let last = row.acts.last().unwrap();
    assert_eq!((row.state.as_str(), row.basis.as_deref()), ("withdrawn", None));
    assert_eq!((last.deed.as_str(), &last.by), ("withdrawn", &taken_back.person()));
    assert_eq!(last.reason.as_deref(), Some("it was the wrong run"));
    for error in [
        withdraw(&taken_back, deployment, None).unwrap_err(),
        approve(&warden, &remote(Role::Validator, None), deployment).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("is withdrawn"), "{error}");
    }
    let entries = auditlog::read(&bench.path("data").join("audit"), 0).unwrap().map(Result::unwrap);
    let ours: Vec<_> = entries.filter(|(_, entry)| entry.action == "deploy.withdraw").collect();
    assert_eq!(ours.iter().filter(|(_, entry)| entry.outcome == Outcome::Denied).count(), 4);
    let done: Vec<_> = ours.iter().filter(|(_, entry)| entry.outcome == Outcome::Done).collect();
    assert_eq!((done.len(), done[0].1.object), (1, Some(deployment)));
    assert_eq!(done[0].1.detail["reason_hmac"], json!(warden.text_mac("it was the wrong run")));

    let second = another(&warden, "letters");
    assert_eq!(served(&warden), at("letters", first), "the newest waits for an approval");
    let again = propose(&warden, &remote(Role::ModelBuilder, other), first, None).unwrap();
    approve(&warden, &remote(Role::Validator, None), again).unwrap();
    let error = withdraw(&remote(Role::ModelBuilder, other), again, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.remedy_text().unwrap().contains("deploy retire"), "{error:?}");
    assert_eq!(served(&warden), at("letters", first));
    deployed(&warden, second, None);
    assert_eq!(served(&warden), at("letters", second));

    // Who can write the database does not bring it back.
    let undone = rusqlite_of(&bench)
        .execute("UPDATE deployments SET state = 'proposed' WHERE id = ?1", [deployment.to_string()]);
    assert_eq!(undone.unwrap(), 1);
    let error = approve(&warden, &remote(Role::Validator, None), deployment).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    drop(warden);
    assert!(!crate::work::tests::lies_in_the_clear(&bench.path("data"), "the wrong run"));
}

#[test]
fn a_model_can_stand_for_a_name_that_is_not_its_own_and_only_for_what_it_was_proposed() {
    let bench = Bench::new();
    let warden = bench.init();
    let model = another(&warden, "letters");
    let deployment = propose(&warden, &remote(Role::ModelBuilder, None), model, Some("desk")).unwrap();
    assert_eq!(served(&warden), at("letters", model));
    approve(&warden, &remote(Role::Validator, None), deployment).unwrap();
    assert_eq!(served(&warden), [at("desk", model), at("letters", model)].concat());
    for name in ["", " desk", "a\nb", &model.to_string()] {
        let error = propose(&warden, &remote(Role::ModelBuilder, None), model, Some(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
    }
    for reason in ["", "  ", "a\u{1b}[2J", &"x".repeat(2001)] {
        assert_eq!(retire(&warden, "nothing").unwrap_err().kind(), ErrorKind::NotFound);
        let request = Request::DeployRetire { name: "desk".into(), reason: reason.into() };
        assert_eq!(ask(&warden, request).unwrap_err().kind(), ErrorKind::Usage, "{reason}");
    }
    retire(&warden, "letters").unwrap();
    assert_eq!(served(&warden), at("desk", model), "a name that nobody proposed for can be retired too");
}

#[test]
fn by_policy_nothing_is_served_that_was_not_approved() {
    let bench = Bench::new();
    let warden = bench.init();
    let officer = remote(Role::SecurityOfficer, None);
    let set = |policy| {
        warden.execute(officer.clone(), Request::DeployPolicy { policy }, &Silent).unwrap();
        assert_eq!(warden.deploy_policy().unwrap(), policy);
    };
    let (approved, inherited, other) = (another(&warden, "a"), another(&warden, "b"), another(&warden, "c"));
    deployed(&warden, approved, None);
    propose(&warden, &remote(Role::ModelBuilder, None), inherited, None).unwrap();
    let all = [at("a", approved), at("b", inherited), at("c", other)].concat();
    assert_eq!(served(&warden), all);
    set(DeployPolicy::ApprovedOnly);
    assert_eq!(served(&warden), at("a", approved));
    // Here nothing was served that a proposal could inherit.
    propose(&warden, &remote(Role::ModelBuilder, None), other, None).unwrap();
    set(DeployPolicy::Newest);
    assert_eq!(served(&warden), all[..2]);
    let entries = auditlog::read(&bench.path("data").join("audit"), 0).unwrap().map(Result::unwrap);
    let set = entries.filter(|(_, entry)| entry.action == "deploy.policy" && entry.outcome == Outcome::Done);
    let set: Vec<Value> = set.map(|(_, entry)| entry.detail["policy"].clone()).collect();
    assert_eq!(set, [json!("approved-only"), json!("newest")]);
}

#[test]
fn alone_at_the_machine_is_possible_and_stays_on_record() {
    let bench = Bench::new();
    let warden = bench.init();
    let local = Actor::Local { uid: 7 };
    let model = trained(&warden, "letters", [Some(&local), Some(&local), None]).model;
    let deployment = propose(&warden, &local, model, None).unwrap();
    approve(&warden, &local, deployment).unwrap_err();
    let alone = Request::DeployApproveAlone { deployment, reason: "there is nobody else".into() };
    ask(&warden, alone).unwrap();
    let row = listed(&warden, false).into_iter().find(|row| row.id == deployment).unwrap();
    assert_eq!((row.state.as_str(), row.basis.as_deref()), ("active", Some("approved alone")));
    let last = row.acts.last().unwrap();
    assert_eq!((last.by.as_str(), last.reason.as_deref()), ("local:7", Some("there is nobody else")));
    let up = ask(&warden, Request::LineageShow { id: deployment }).unwrap();
    assert_eq!(up["up"][0]["relation"], "deployed alone as");
    let entries = auditlog::read(&bench.path("data").join("audit"), 0).unwrap().map(Result::unwrap);
    let done: Vec<_> = entries
        .filter(|(_, entry)| entry.action == "deploy.approve_alone" && entry.outcome == Outcome::Done)
        .collect();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.object, Some(deployment));
    assert_eq!(done[0].1.detail["reason_hmac"], json!(warden.text_mac("there is nobody else")));
    let deployed = warden.served_models().unwrap()[0].deployed.unwrap();
    assert_eq!((deployed.id, deployed.basis), (deployment, Deed::ApprovedAlone));
    drop(warden);
    assert!(!crate::work::tests::lies_in_the_clear(&bench.path("data"), "nobody else"));
}

#[test]
fn an_unknown_maker_is_said_and_an_unevaluated_model_refused() {
    let bench = Bench::new();
    let warden = bench.init();
    let builder = remote(Role::ModelBuilder, None);
    // Rows from before makers were kept, and a tokenizer from then under a run of today.
    let old = trained(&warden, "old", [None, None, None]);
    let half = trained(&warden, "half", [None, Some(&builder), None]);
    for (model, unknown) in [(old.model, old.run), (half.model, half.tokenizer)] {
        let deployment = propose(&warden, &builder, model, None).unwrap();
        let approved = approve(&warden, &remote(Role::Validator, None), deployment).unwrap();
        assert_eq!(approved["unknown_makers"], json!([unknown]));
    }
    let mine = trained(&warden, "mine", [Some(&builder), Some(&builder), None]);
    rusqlite_of(&bench)
        .execute("DELETE FROM evaluations WHERE model = ?1", [mine.model.to_string()])
        .unwrap();
    let error = propose(&warden, &builder, mine.model, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("was not evaluated"), "{error}");
    assert!(error.remedy_text().unwrap().contains("model pretrain"));
}

fn rusqlite_of(bench: &Bench) -> rusqlite::Connection {
    rusqlite::Connection::open(bench.path("data").join("cloister.db")).unwrap()
}

#[test]
fn who_can_write_the_database_gains_no_approval() {
    let bench = Bench::new();
    let warden = bench.init();
    let local = Actor::Local { uid: 7 };
    let first = another(&warden, "letters");
    let approved = deployed(&warden, first, None);
    let ours = trained(&warden, "letters", [None, Some(&local), None]);
    let deployment = propose(&warden, &local, ours.model, None).unwrap();
    let raw = rusqlite_of(&bench);
    let run = |sql: &str| {
        assert!(raw.execute(sql, []).unwrap() > 0, "{sql}");
    };
    // The trace of who made it.
    run("DELETE FROM lineage");
    run("UPDATE tokenizers SET version = 0, content = NULL");
    assert_eq!(approve(&warden, &local, deployment).unwrap_err().kind(), ErrorKind::Denied);
    // The state.
    run("UPDATE deployments SET state = 'retired' WHERE state = 'active'");
    run("UPDATE deployments SET state = 'active' WHERE state = 'proposed'");
    assert_eq!(warden.served_models().unwrap_err().kind(), ErrorKind::Integrity);
    run("UPDATE deployments SET state = 'proposed' WHERE state = 'active'");
    raw.execute("UPDATE deployments SET state = 'active' WHERE id = ?1", [approved.to_string()]).unwrap();
    assert_eq!(served(&warden), at("letters", first));
    // The model that was approved.
    raw.execute("UPDATE deployments SET model = ?1 WHERE state = 'active'", [ours.model.to_string()])
        .unwrap();
    assert_eq!(warden.served_models().unwrap_err().kind(), ErrorKind::Integrity);
    // All of it: the name still waits for an approval, and the next start says what is missing.
    run("DELETE FROM deployments");
    assert!(served(&warden).is_empty());
    drop(warden);
    let error = Warden::open(&bench.site()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains("dep_"), "{error}");
}

#[test]
fn an_erasure_names_what_serves_the_documents_now() {
    let bench = Bench::new();
    let warden = bench.init();
    let Trained { document, model, .. } = trained(&warden, "letters", [None, None, None]);
    let names = |kind: IdKind| -> Vec<Id> {
        let reached = warden.store.read(|rows| reached::by(rows, &[document])).unwrap();
        reached.into_iter().map(|reached| reached.id).filter(|id| id.kind() == kind).collect()
    };
    assert_eq!((names(IdKind::Model), names(IdKind::Deployment)), (vec![model], vec![]));
    let deployment = deployed(&warden, model, None);
    assert_eq!(names(IdKind::Deployment), [deployment], "and not what was inherited and is retired");
    retire(&warden, "letters").unwrap();
    assert!(names(IdKind::Deployment).is_empty());
}
