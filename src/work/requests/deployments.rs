//! Deployments: somebody proposes a model for a name, somebody else who had no part in making it approves, and from then
//! on the name serves it. Whatever changes what is served is one transaction, so that a name serves one model or none.

use std::collections::HashMap;

use super::{Performed, models};
use crate::{
    base::{Error, Id, IdKind, Result},
    seal::new_id,
    store::{Act, Deed, Deployment, DeploymentState, Edge, Governance, Model, Relation, Rows, Writes},
    work::{
        policy::Actor,
        request::{ActRow, DeployPolicy, DeploymentRow, Deployments},
        warden::Warden,
    },
};

/// A reason is a sentence or two.
const REASON_BYTES_MAX: usize = 2000;

pub(super) fn propose(
    warden: &Warden,
    actor: &Actor,
    named: &str,
    name: Option<&str>,
    reason: &str,
) -> Result<Performed> {
    let act = act(warden, actor, Deed::Proposed, Some(reason))?;
    changed(warden, Some(reason), |rows| {
        let model = models::find(rows, named)?;
        let name = name.unwrap_or(&model.name);
        models::check_name(name)?;
        must_be_evaluated(rows, &model)?;
        must_be_news(rows, name, model.id)?;
        govern(rows, name, &act)?;
        let deployment = Deployment {
            id: new_id(IdKind::Deployment)?,
            model: model.id,
            name: name.to_owned(),
            state: DeploymentState::Proposed,
            created_at_ms: act.at_ms,
            before: None,
            acts: vec![act],
        };
        rows.add_deployment(&deployment)?;
        Ok(deployment)
    })
}

/// `deed` is [`Deed::Approved`], or [`Deed::ApprovedAlone`], which asks for no second person.
pub(super) fn approve(
    warden: &Warden,
    actor: &Actor,
    deployment: Id,
    deed: Deed,
    reason: Option<&str>,
) -> Result<Performed> {
    let act = act(warden, actor, deed, reason)?;
    changed(warden, reason, |rows| {
        let mut deployment = proposed(rows, deployment)?;
        if deed == Deed::Approved {
            must_be_another(actor, &deployment, &model_of(rows, &deployment)?)?;
        }
        let active = active(rows.deployments_of(&deployment.name)?);
        deployment.before = active.as_ref().map(|active| active.id);
        end(rows, active, Deed::Superseded, &act)?;
        let relation = match deed {
            Deed::ApprovedAlone => Relation::DeployedAlone,
            _ => Relation::Deployed,
        };
        let edge = Edge { parent: deployment.model, child: deployment.id, relation };
        rows.add_edge(edge, act.at_ms)?;
        rows.move_deployment(&mut deployment, DeploymentState::Active, act)?;
        Ok(deployment)
    })
}

pub(super) fn reject(warden: &Warden, actor: &Actor, deployment: Id, reason: &str) -> Result<Performed> {
    let act = act(warden, actor, Deed::Rejected, Some(reason))?;
    changed(warden, Some(reason), |rows| {
        let mut deployment = proposed(rows, deployment)?;
        rows.move_deployment(&mut deployment, DeploymentState::Rejected, act)?;
        Ok(deployment)
    })
}

pub(super) fn withdraw(
    warden: &Warden,
    actor: &Actor,
    deployment: Id,
    reason: Option<&str>,
) -> Result<Performed> {
    let act = act(warden, actor, Deed::Withdrawn, reason)?;
    changed(warden, reason, |rows| {
        let mut deployment = proposed(rows, deployment)?;
        must_be_the_proposer(actor, &deployment)?;
        rows.move_deployment(&mut deployment, DeploymentState::Withdrawn, act)?;
        Ok(deployment)
    })
}

pub(super) fn roll_back(warden: &Warden, actor: &Actor, name: &str, reason: &str) -> Result<Performed> {
    let act = act(warden, actor, Deed::RolledBackTo, Some(reason))?;
    changed(warden, Some(reason), |rows| {
        let of_name = rows.deployments_of(name)?;
        let mut target = former(&of_name).cloned().ok_or_else(|| {
            Error::usage(format!("nothing that was approved stood for '{name}' before"))
                .remedy("`cloister deploy ls --all` shows what did; `cloister deploy retire` serves nothing")
        })?;
        end(rows, active(of_name), Deed::Superseded, &act)?;
        rows.move_deployment(&mut target, DeploymentState::Active, act)?;
        Ok(target)
    })
}

/// A name under which the newest model was served serves by approval alone from then on.
pub(super) fn retire(warden: &Warden, actor: &Actor, name: &str, reason: &str) -> Result<Performed> {
    let act = act(warden, actor, Deed::Retired, Some(reason))?;
    changed(warden, Some(reason), |rows| {
        govern(rows, name, &act)?;
        let active = active(rows.deployments_of(name)?);
        end(rows, active, Deed::Retired, &act)?.ok_or_else(|| {
            Error::not_found(format!("nothing is served under '{name}'"))
                .remedy("`cloister deploy ls` shows what is")
        })
    })
}

pub(super) fn list(warden: &Warden, all: bool) -> Result<Performed> {
    let listed = warden.store.read(|rows| {
        let people = people(rows)?;
        let stands = |state| matches!(state, DeploymentState::Proposed | DeploymentState::Active);
        let shown = rows.deployments()?.into_iter().filter(|deployment| all || stands(deployment.state));
        let deployments: Result<Vec<_>> = shown.map(|deployment| row(rows, deployment, &people)).collect();
        Ok(Deployments { policy: rows.governance()?.into(), deployments: deployments? })
    })?;
    Performed::new(&listed)
}

pub(super) fn set_policy(warden: &Warden, wanted: DeployPolicy) -> Result<Performed> {
    warden.store.write(|rows| {
        let approved_only = wanted == DeployPolicy::ApprovedOnly;
        rows.set_governance(&Governance { approved_only, ..rows.governance()? })
    })?;
    warden.deployments_changed();
    Ok(Performed::new(&wanted)?.detail("policy", wanted.as_str()))
}

/// Does one change, and has the daemon look at what is to be served.
fn changed(
    warden: &Warden,
    reason: Option<&str>,
    change: impl FnOnce(&Writes<'_>) -> Result<Deployment>,
) -> Result<Performed> {
    let (deployment, row) = warden.store.write(|rows| {
        let deployment = change(rows)?;
        let row = row(rows, deployment.clone(), &people(rows)?)?;
        Ok((deployment, row))
    })?;
    warden.deployments_changed();
    let made = Performed::new(&row)?
        .made(deployment.id)
        .detail("model", deployment.model.to_string())
        .detail("state", deployment.state.as_str());
    let made = match row.unknown_makers.len() {
        0 => made,
        unknown => made.detail("unknown_makers", unknown),
    };
    Ok(match reason {
        Some(reason) => made.detail("reason_hmac", warden.text_mac(reason)),
        None => made,
    })
}

/// From the first time on that something is done about a name, it serves what was approved alone; until then what it served
/// at that moment goes on being served.
fn govern(rows: &Writes<'_>, name: &str, first: &Act) -> Result<()> {
    let mut governance = rows.governance()?;
    if !governance.names.insert(name.to_owned()) {
        return Ok(());
    }
    rows.set_governance(&governance)?;
    let served = if governance.approved_only { None } else { rows.model_named(name)? };
    let Some(model) = served else { return Ok(()) };
    let inherited = Deployment {
        id: new_id(IdKind::Deployment)?,
        model: model.id,
        name: name.to_owned(),
        state: DeploymentState::Active,
        created_at_ms: first.at_ms,
        before: None,
        acts: vec![Act { deed: Deed::Inherited, reason: None, ..first.clone() }],
    };
    rows.add_deployment(&inherited)?;
    let edge = Edge { parent: model.id, child: inherited.id, relation: Relation::Deployed };
    rows.add_edge(edge, first.at_ms)
}

/// # Errors
/// `Usage` for a model of which nobody knows how good it is. What was imported was evaluated, or not, elsewhere.
fn must_be_evaluated(rows: &Rows<'_>, model: &Model) -> Result<()> {
    if model.run.is_none() || !rows.evaluations(model.id)?.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("model {} was not evaluated", model.id)).remedy(
        "`cloister model pretrain` ends with an evaluation where the collection has documents enough to hold some out",
    ))
}

/// # Errors
/// `Usage` where the name serves this model on an approval, or somebody proposed the same before.
fn must_be_news(rows: &Rows<'_>, name: &str, model: Id) -> Result<()> {
    for other in rows.deployments_of(name)?.iter().filter(|other| other.model == model) {
        let id = other.id;
        match other.state {
            DeploymentState::Active if other.approval().is_some() => {
                return Err(Error::usage(format!("'{name}' serves {model} already, as {id}"))
                    .remedy("name another model, or another name with --as"));
            }
            DeploymentState::Proposed => {
                return Err(Error::usage(format!("{model} is proposed for '{name}' already, as {id}"))
                    .remedy(format!("a validator goes on: `cloister deploy approve {id}`")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// # Errors
/// `Denied` where the actor proposed it, or had a part in making the model or what it was made of: it says which.
fn must_be_another(actor: &Actor, deployment: &Deployment, model: &Model) -> Result<()> {
    let person = actor.person();
    let part = if deployment.proposer() == Some(person.as_str()) {
        format!("proposed {}", deployment.id)
    } else {
        let by_them = model.makers.iter().find(|made| made.by.as_deref() == Some(person.as_str()));
        let Some(made) = by_them else { return Ok(()) };
        match made.object {
            object if object == model.id => format!("brought in {object}"),
            object if object.kind() == IdKind::Run => format!("trained {} in {object}", model.id),
            object => format!("made {object}, of which {} was made", model.id),
        }
    };
    let id = deployment.id;
    let error = Error::denied(format!("you ({person}) {part}: it takes somebody else to approve {id}"));
    Err(match actor {
        Actor::Local { .. } => error.remedy(format!(
            "have another validator approve it; where there is none, `cloister deploy approve {id} --alone REASON` goes \
             without, and every receipt says so"
        )),
        Actor::Remote(_) => error.remedy("have another validator approve it"),
    })
}

/// # Errors
/// `Denied` where somebody else proposed it.
fn must_be_the_proposer(actor: &Actor, deployment: &Deployment) -> Result<()> {
    let (person, id) = (actor.person(), deployment.id);
    if deployment.proposer() == Some(person.as_str()) {
        return Ok(());
    }
    Err(Error::denied(format!(
        "you ({person}) did not propose {id}: whoever did can withdraw it, and nobody else"
    ))
    .remedy(format!("a validator turns it down: `cloister deploy reject {id} --reason TEXT`")))
}

fn proposed(rows: &Rows<'_>, id: Id) -> Result<Deployment> {
    let found = rows.deployment(id)?.ok_or_else(|| {
        Error::not_found(format!("there is no deployment {id}")).remedy("`cloister deploy ls` shows them")
    })?;
    match found.state {
        DeploymentState::Proposed => Ok(found),
        state => {
            let remedy = match state {
                DeploymentState::Active => "`cloister deploy retire` ends what is served",
                _ => "`cloister deploy propose` asks anew",
            };
            Err(Error::usage(format!("{id} is {state}: there is nothing to decide")).remedy(remedy))
        }
    }
}

fn active(of_name: Vec<Deployment>) -> Option<Deployment> {
    of_name.into_iter().find(|deployment| deployment.state == DeploymentState::Active)
}

/// What was active before what is, or, where nothing is, what was retired last; if it was ever approved.
fn former(of_name: &[Deployment]) -> Option<&Deployment> {
    let active = of_name.iter().find(|deployment| deployment.state == DeploymentState::Active);
    let former = match active {
        Some(active) => of_name.iter().find(|deployment| Some(deployment.id) == active.before),
        None => {
            let retired = of_name.iter().filter_map(|deployment| {
                let last = deployment.acts.last().filter(|act| act.deed == Deed::Retired)?;
                Some((last.at_ms, deployment))
            });
            retired.max_by_key(|(at_ms, _)| *at_ms).map(|(_, deployment)| deployment)
        }
    };
    former.filter(|deployment| deployment.approval().is_some())
}

/// Retires what is active, on the word of whoever did `because`.
fn end(
    rows: &Writes<'_>,
    active: Option<Deployment>,
    deed: Deed,
    because: &Act,
) -> Result<Option<Deployment>> {
    let Some(mut active) = active else { return Ok(None) };
    let act = Act { deed, ..because.clone() };
    rows.move_deployment(&mut active, DeploymentState::Retired, act)?;
    Ok(Some(active))
}

fn act(warden: &Warden, actor: &Actor, deed: Deed, reason: Option<&str>) -> Result<Act> {
    if let Some(reason) = reason {
        let printable = !reason.trim().is_empty() && !reason.chars().any(char::is_control);
        if !printable || reason.len() > REASON_BYTES_MAX {
            return Err(Error::usage(format!("a reason is 1 to {REASON_BYTES_MAX} bytes of printable text")));
        }
    }
    Ok(Act { deed, by: actor.person(), at_ms: warden.now_ms(), reason: reason.map(str::to_owned) })
}

fn model_of(rows: &Rows<'_>, deployment: &Deployment) -> Result<Model> {
    let found = rows.model(deployment.model)?;
    found.ok_or_else(|| Error::not_found(format!("there is no model {}", deployment.model)))
}

/// Users' names by what acts call them.
fn people(rows: &Rows<'_>) -> Result<HashMap<String, String>> {
    Ok(rows.users()?.into_iter().map(|user| (user.id.to_string(), user.name)).collect())
}

fn row(rows: &Rows<'_>, deployment: Deployment, people: &HashMap<String, String>) -> Result<DeploymentRow> {
    let model = model_of(rows, &deployment)?;
    let unknown = model.makers.iter().filter(|made| made.by.is_none());
    let acts = deployment.acts.iter().map(|act| ActRow {
        deed: act.deed.to_string(),
        name: people.get(&act.by).cloned(),
        by: act.by.clone(),
        at_ms: act.at_ms,
        reason: act.reason.clone(),
    });
    Ok(DeploymentRow {
        id: deployment.id,
        name: deployment.name.clone(),
        model: deployment.model,
        state: deployment.state.to_string(),
        basis: deployment.basis().map(|deed| deed.to_string()),
        unknown_makers: unknown.map(|made| made.object).collect(),
        erased: models::erased(rows, model.run)?,
        acts: acts.collect(),
    })
}

#[cfg(test)]
#[path = "deployments_tests.rs"]
mod tests;
