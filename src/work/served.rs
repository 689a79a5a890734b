//! What is to be served, and under which name. A name that nothing was ever proposed for serves its newest model; any other,
//! and all of them where the policy says so, serves what was approved.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::{request::DeployPolicy, warden::Warden};
use crate::{
    base::{Id, Result, hex},
    store::{Deed, Deployment, DeploymentState, Governance, Model, Rows},
};

/// A model that can be asked over the API.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedModel {
    pub name: String,
    pub model: Id,
    pub tokenizer: Id,
    pub run: Option<Id>,
    pub snapshot: Option<Id>,
    /// Merkle root of the snapshot, in hexadecimal.
    pub dataset_root: Option<String>,
    pub created_ms: u64,
    pub chat_template: Option<String>,
    /// None where it is served as the newest of its name.
    pub deployed: Option<Deployed>,
}

/// By what a model stands for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub id: Id,
    pub basis: Deed,
}

impl ServedModel {
    /// None where it has no tokenizer to read a question with.
    fn new(rows: &Rows<'_>, name: String, model: Model, deployed: Option<Deployed>) -> Result<Option<Self>> {
        let Some(tokenizer) = model.tokenizer else { return Ok(None) };
        let run = model.run.map(|run| rows.run(run)).transpose()?.flatten();
        let snapshot = run.map(|run| rows.snapshot(run.snapshot)).transpose()?.flatten();
        Ok(Some(Self {
            name,
            model: model.id,
            tokenizer,
            run: model.run,
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.id),
            dataset_root: snapshot.map(|snapshot| hex(&snapshot.merkle_root)),
            created_ms: model.created_at_ms,
            chat_template: model.details["chat_template"].as_str().map(str::to_owned),
            deployed,
        }))
    }
}

impl Warden {
    /// What can be asked, in order of names.
    pub fn served_models(&self) -> Result<Vec<ServedModel>> {
        self.store.read(|rows| {
            let governance = rows.governance()?;
            let mut served = BTreeMap::new();
            for model in rows.models()? {
                if !governance.approved_only && !governance.names.contains(&model.name) {
                    served.insert(model.name.clone(), (model, None));
                }
            }
            for deployment in rows.deployments()? {
                let Some(deployed) = standing(&governance, &deployment) else { continue };
                if let Some(model) = rows.model(deployment.model)? {
                    served.insert(deployment.name, (model, Some(deployed)));
                }
            }
            let served = served
                .into_iter()
                .map(|(name, (model, deployed))| ServedModel::new(rows, name, model, deployed));
            served.filter_map(Result::transpose).collect()
        })
    }

    /// What names serve that nothing was ever proposed for.
    pub fn deploy_policy(&self) -> Result<DeployPolicy> {
        Ok(self.store.read(|rows| rows.governance())?.into())
    }

    /// Counts the changes of what is to be served by approval: whoever serves looks again when it has moved.
    pub fn deployment_changes(&self) -> u64 {
        self.deployment_changes.load(Ordering::Acquire)
    }

    pub(super) fn deployments_changed(&self) {
        self.deployment_changes.fetch_add(1, Ordering::AcqRel);
    }
}

/// By what a deployment is served, where it is. What was inherited is no longer where the policy asks for approvals.
fn standing(governance: &Governance, deployment: &Deployment) -> Option<Deployed> {
    if deployment.state != DeploymentState::Active {
        return None;
    }
    let basis = deployment.basis()?;
    let counts = basis != Deed::Inherited || !governance.approved_only;
    counts.then_some(Deployed { id: deployment.id, basis })
}
