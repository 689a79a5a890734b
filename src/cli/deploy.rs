//! `cloister deploy`: which model stands for a name: one person proposes it, another approves it, and both stay on record.

use super::{
    screen::{Screen, printable},
    session::{Session, deployment_id, time},
};
use crate::{
    base::{Id, Result},
    store::Deed,
    work::request::{ActRow, DeployPolicy, DeploymentRow, Deployments, Request},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Ask that a model be what a name serves
    Propose {
        /// A name, for its newest model, or an identifier
        #[arg(value_name = "MODEL")]
        model: String,
        /// The name it is to be served under [default: the model's own]
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Let a proposed model be served; by somebody who neither proposed it nor had a part in making it
    Approve {
        #[arg(value_parser = deployment_id, value_name = "ID")]
        deployment: Id,
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Without a second person, at this machine: it stays on record as that
        #[arg(long, value_name = "REASON", conflicts_with = "reason")]
        alone: Option<String>,
    },
    /// Turn a proposal down
    Reject {
        #[arg(value_parser = deployment_id, value_name = "ID")]
        deployment: Id,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Take a proposal of your own back, while nobody has decided
    Withdraw {
        #[arg(value_parser = deployment_id, value_name = "ID")]
        deployment: Id,
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Go back to what was active before, on the approval that it had
    Rollback {
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Serve nothing under a name any more
    Retire {
        #[arg(value_name = "NAME")]
        name: String,
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// List what is proposed and active
    Ls {
        /// And what was retired, rejected or withdrawn
        #[arg(long)]
        all: bool,
    },
    /// What a name serves that nothing was ever proposed for: its newest model, or nothing
    Policy {
        #[arg(value_name = "POLICY", value_parser = ["approved-only", "newest"])]
        policy: String,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let request = match command {
        Command::Ls { all } => return list(all, session),
        Command::Policy { policy } => return set_policy(&policy, session),
        Command::Propose { model, name, reason } => Request::DeployPropose { model, name, reason },
        Command::Approve { deployment, alone: Some(reason), .. } => {
            Request::DeployApproveAlone { deployment, reason }
        }
        Command::Approve { deployment, reason, alone: None } => Request::DeployApprove { deployment, reason },
        Command::Reject { deployment, reason } => Request::DeployReject { deployment, reason },
        Command::Withdraw { deployment, reason } => Request::DeployWithdraw { deployment, reason },
        Command::Rollback { name, reason } => Request::DeployRollback { name, reason },
        Command::Retire { name, reason } => Request::DeployRetire { name, reason },
    };
    session.screen.show(&session.ask::<DeploymentRow>(request)?, draw)
}

fn list(all: bool, session: &Session) -> Result<()> {
    let listed: Deployments = session.ask(Request::DeployLs { all })?;
    session.screen.show(&listed, |screen, listed| {
        listed.deployments.iter().try_for_each(|row| draw(screen, row))?;
        draw_policy(screen, listed.policy)
    })
}

fn set_policy(named: &str, session: &Session) -> Result<()> {
    let wanted = if named == DeployPolicy::Newest.as_str() {
        DeployPolicy::Newest
    } else {
        DeployPolicy::ApprovedOnly
    };
    let policy: DeployPolicy = session.ask(Request::DeployPolicy { policy: wanted })?;
    session.screen.show(&policy, |screen, policy| draw_policy(screen, *policy))
}

fn draw(screen: &Screen, row: &DeploymentRow) -> Result<()> {
    let DeploymentRow { id, name, model, state, .. } = row;
    screen.line(format_args!("{id}  {state:<9}  {}  {model}", printable(name)))?;
    row.acts.iter().try_for_each(|act| draw_act(screen, act))?;
    if row.erased > 0 {
        screen.line(format_args!(
            "    {} of the documents that the model was trained on were erased since",
            row.erased
        ))?;
    }
    row.unknown_makers.iter().try_for_each(|object| {
        screen.line(format_args!("    nobody knows who made {object}: it is older than the record of that"))
    })
}

fn draw_act(screen: &Screen, act: &ActRow) -> Result<()> {
    let ActRow { deed, by, name, at_ms, reason } = act;
    let who = name.as_ref().map_or_else(|| by.clone(), |name| format!("{} ({by})", printable(name)));
    let why = reason.as_ref().map_or_else(String::new, |reason| format!(": {}", printable(reason)));
    let by = if deed == Deed::Inherited.as_str() { "from before approvals, noted by" } else { "by" };
    screen.line(format_args!("    {}  {deed} {by} {who}{why}", time(*at_ms)))
}

fn draw_policy(screen: &Screen, policy: DeployPolicy) -> Result<()> {
    screen.line(format_args!("policy {}: {}", policy.as_str(), rule(policy)))
}

/// A policy as people read it.
pub fn rule(policy: DeployPolicy) -> &'static str {
    match policy {
        DeployPolicy::Newest => "a name that nothing was ever proposed for serves its newest model",
        DeployPolicy::ApprovedOnly => "a name serves what was approved for it, and nothing else",
    }
}
