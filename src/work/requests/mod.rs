//! What each request does: one file for each family of commands. The warden has authorised it and written its
//! intent before it comes here.

mod backups;
mod data;
mod deployments;
mod erase;
mod keys;
mod models;
mod people;
mod prepare;
pub(super) mod reached;
mod records;
mod runs;
mod text;
mod tokenizers;

use serde::Serialize;
use serde_json::Value;

use super::{policy::Actor, request::Request, warden::Warden};
use crate::{
    base::{Context, Id, Monitor, Result},
    seal::Secret,
    store::Deed,
};

/// The answer, and what the audit log says of it.
pub(super) struct Performed {
    pub answer: Value,
    /// What was made, where that is one thing.
    pub object: Option<Id>,
    /// Without names or text.
    pub detail: Vec<(&'static str, Value)>,
    /// Whether the audit log has the outcome already.
    pub logged: bool,
}

impl Performed {
    fn new<T: Serialize>(answer: &T) -> Result<Self> {
        let answer = serde_json::to_value(answer).context("writing an answer")?;
        Ok(Self { answer, object: None, detail: Vec::new(), logged: false })
    }

    fn made(mut self, object: Id) -> Self {
        self.object = Some(object);
        self
    }

    fn detail(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.detail.push((name, value.into()));
        self
    }

    fn logged(mut self) -> Self {
        self.logged = true;
        self
    }
}

/// What the intent says of a request beside its name, without names or text.
pub(super) fn about(warden: &Warden, request: &Request) -> Vec<(&'static str, Value)> {
    match request {
        Request::DataErase(wanted) | Request::DataErasePlan(wanted) => erase::about(warden, wanted),
        _ => Vec::new(),
    }
}

pub(super) fn perform(
    warden: &Warden,
    actor: &Actor,
    request: Request,
    secret: &Secret,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    match &request {
        Request::Status => records::status(warden),
        Request::DataIngest(_) => data::ingest(warden, actor, &request, monitor),
        Request::DataLs { collection } => data::list(warden, collection.as_deref()),
        Request::DataQuarantine { collection } => data::quarantine(warden, collection.as_deref()),
        Request::DataVerify => data::verify(warden, monitor),
        Request::DataErase(wanted) => erase::erase(warden, actor, wanted, monitor),
        Request::DataErasePlan(wanted) => erase::plan(warden, wanted),
        Request::DataCertificate { erasure, subject } => {
            erase::certificate(warden, *erasure, subject.as_deref())
        }
        Request::TokenizerTrain { .. } => tokenizers::train(warden, actor, &request, monitor),
        Request::TokenizerShow { tokenizer } => tokenizers::show(warden, *tokenizer),
        Request::ModelPretrain(pretrain) => runs::start(warden, actor, &request, pretrain, monitor),
        Request::ModelPlan(pretrain) => runs::plan(warden, actor, &request, pretrain, monitor),
        Request::ModelResume { run } => runs::resume(warden, actor, &request, *run, monitor),
        Request::ModelLs => models::list(warden),
        Request::ModelShow { model } => models::show(warden, model),
        Request::ModelImport { directory, name } => {
            models::import(warden, actor, &request, directory, name, monitor)
        }
        Request::ModelGenerate(generate) => text::generate(warden, generate, monitor),
        Request::ModelChat(chat) => text::chat(warden, chat, monitor),
        Request::LineageShow { id } => records::lineage(warden, *id),
        Request::AuditVerify => records::audit_verify(warden),
        Request::AuditLs { from, limit } => records::audit_list(warden, *from, *limit),
        Request::AuditCheckpoint => records::audit_checkpoint(warden),
        Request::AuditKey => records::audit_key(warden),
        Request::AuditExport { table } => records::audit_export(warden, *table, monitor),
        Request::AuditProve { since } => records::audit_prove(warden, since),
        Request::KeyStatus => keys::status(warden),
        Request::KeyRotate => keys::rotate(warden),
        Request::BackupCreate { to, keys } => backups::create(warden, to, keys, monitor),
        Request::BackupForget { from, keys, keep } => backups::forget(warden, from, keys, *keep),
        Request::Seal => keys::seal(warden),
        Request::UserAdd { name, role } => people::add_user(warden, name, role),
        Request::UserLs => people::users(warden),
        Request::UserDisable { name } => people::disable_user(warden, name),
        Request::UserPassword { name } => people::set_password(warden, name, secret),
        Request::UserPasswordRemove { name } => people::remove_password(warden, name),
        Request::TokenNew(spec) => people::new_token(warden, spec),
        Request::TokenLs => people::tokens(warden),
        Request::TokenRevoke { token } => people::revoke_token(warden, *token),
        Request::FeedbackLs { state } => records::feedback(warden, state.as_deref()),
        Request::FeedbackReview { feedback, accept } => {
            records::review_feedback(warden, actor, *feedback, *accept)
        }
        Request::DeployPropose { model, name, reason } => {
            deployments::propose(warden, actor, model, name.as_deref(), reason)
        }
        Request::DeployApprove { deployment, reason } => {
            deployments::approve(warden, actor, *deployment, Deed::Approved, reason.as_deref())
        }
        Request::DeployApproveAlone { deployment, reason } => {
            deployments::approve(warden, actor, *deployment, Deed::ApprovedAlone, Some(reason))
        }
        Request::DeployReject { deployment, reason } => {
            deployments::reject(warden, actor, *deployment, reason)
        }
        Request::DeployWithdraw { deployment, reason } => {
            deployments::withdraw(warden, actor, *deployment, reason.as_deref())
        }
        Request::DeployRollback { name, reason } => deployments::roll_back(warden, actor, name, reason),
        Request::DeployRetire { name, reason } => deployments::retire(warden, actor, name, reason),
        Request::DeployLs { all } => deployments::list(warden, *all),
        Request::DeployPolicy { policy } => deployments::set_policy(warden, *policy),
        Request::JobLs => records::jobs(warden),
        Request::JobShow { job } => records::job(warden, *job),
        Request::JobCancel { job } => records::cancel_job(warden, *job),
    }
}
