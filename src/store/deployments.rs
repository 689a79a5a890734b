//! Which model stands for a name, on whose word. A row is one proposal and all that became of it; name, model, state and acts
//! are sealed together, so that nobody who can write the database makes a proposal look approved. Which names are served by
//! approval alone stands in the row of the installation: a name whose rows were deleted serves nothing.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    KeyedHash, Rows, Writes,
    cell::{Place, get, named_column},
};
use crate::base::{Error, Id, Result};

named_column! {
    /// Where a deployment stands.
    DeploymentState {
        Proposed = "proposed",
        /// Its model is what the name serves; one at most of each name.
        Active = "active",
        Retired = "retired",
        Rejected = "rejected",
        Withdrawn = "withdrawn",
    }
}

named_column! {
    /// What somebody did to a deployment.
    Deed {
        Proposed = "proposed",
        /// It was served under its name when the name's first proposal came, and nobody approved it.
        Inherited = "inherited",
        /// By somebody who neither proposed nor made it.
        Approved = "approved",
        /// At the machine, by whoever was there, without a second person.
        ApprovedAlone = "approved alone",
        Rejected = "rejected",
        /// By whoever proposed it.
        Withdrawn = "withdrawn",
        /// Another one became active in its place.
        Superseded = "superseded",
        Retired = "retired",
        /// It is active again, on the approval that it had.
        RolledBackTo = "rolled back to",
    }
}

/// One thing that was done to a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub deed: Deed,
    /// A user, a token of no user, or `local:UID`.
    pub by: String,
    pub at_ms: u64,
    pub reason: Option<String>,
}

/// A model that stands for a name, stood for it, or is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: Id,
    pub model: Id,
    pub name: String,
    pub state: DeploymentState,
    pub created_at_ms: u64,
    /// What was active when this was approved.
    pub before: Option<Id>,
    /// Oldest first.
    pub acts: Vec<Act>,
}

impl Deployment {
    /// The act that lets it be served, if there was one.
    pub fn approval(&self) -> Option<&Act> {
        self.acts.iter().find(|act| matches!(act.deed, Deed::Approved | Deed::ApprovedAlone))
    }

    /// On what its being served rests: its approval, or that it was there before approvals.
    pub fn basis(&self) -> Option<Deed> {
        let inherited = || self.acts.iter().find(|act| act.deed == Deed::Inherited);
        self.approval().or_else(inherited).map(|act| act.deed)
    }

    pub fn proposer(&self) -> Option<&str> {
        self.acts.iter().find(|act| act.deed == Deed::Proposed).map(|act| act.by.as_str())
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
    model: Id,
    state: DeploymentState,
    before: Option<Id>,
    acts: Vec<Act>,
}

const TABLE: &str = "deployments";

impl Rows<'_> {
    fn deployment_hash(&self, name: &str) -> KeyedHash {
        self.keyed_hash("deployment name", name.as_bytes())
    }

    pub fn deployment(&self, id: Id) -> Result<Option<Deployment>> {
        self.one("SELECT * FROM deployments WHERE id = ?1", [id], |row| self.deployment_row(row))
    }

    /// Of all names, oldest first.
    pub fn deployments(&self) -> Result<Vec<Deployment>> {
        self.all("SELECT * FROM deployments ORDER BY id", [], |row| self.deployment_row(row))
    }

    /// Of one name, oldest first.
    pub fn deployments_of(&self, name: &str) -> Result<Vec<Deployment>> {
        self.all(
            "SELECT * FROM deployments WHERE name_hash = ?1 ORDER BY id",
            [self.deployment_hash(name)],
            |row| self.deployment_row(row),
        )
    }

    fn deployment_row(&self, row: &rusqlite::Row<'_>) -> Result<Deployment> {
        let id: Id = get(row, "id")?;
        let Content { name, model, state, before, acts } = self.content_of(TABLE, &id.to_string(), row)?;
        let in_the_clear: (Id, DeploymentState, KeyedHash) =
            (get(row, "model")?, get(row, "state")?, get(row, "name_hash")?);
        if in_the_clear != (model, state, self.deployment_hash(&name)) {
            return Err(Error::integrity(format!("deployment {id} was altered in the database"))
                .remedy("find out who did; `cloister audit ls` shows what was done with it"));
        }
        Ok(Deployment { id, model, name, state, created_at_ms: get(row, "created_at_ms")?, before, acts })
    }
}

impl Writes<'_> {
    pub fn add_deployment(&self, new: &Deployment) -> Result<()> {
        let place = Place { table: TABLE, row: &new.id.to_string(), version: 1 };
        let sealed = self.seal_cell(&place, &content(new))?;
        self.execute(
            "INSERT INTO deployments (id, name_hash, model, state, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6)",
            params![new.id, self.deployment_hash(&new.name), new.model, new.state, new.created_at_ms, sealed],
        )?;
        Ok(())
    }

    /// Moves a deployment to another state by an act.
    pub fn move_deployment(
        &self,
        deployment: &mut Deployment,
        state: DeploymentState,
        act: Act,
    ) -> Result<()> {
        deployment.state = state;
        deployment.acts.push(act);
        self.reseal(TABLE, deployment.id, &content(deployment))?;
        self.execute_one(
            &deployment.id,
            "UPDATE deployments SET state = ?2 WHERE id = ?1",
            params![deployment.id, state],
        )
    }
}

fn content(deployment: &Deployment) -> Content {
    let Deployment { name, model, state, before, acts, .. } = deployment.clone();
    Content { name, model, state, before, acts }
}
