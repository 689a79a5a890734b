//! Every request once, by its name: what the policy and the audit log call it, and from where it may be asked. The
//! management API has a route for each row, so that a request is reachable over the network by a line here and not before.

use super::{policy::Action, request::Request};
use crate::base::{Error, Result};

/// From where a request may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At the machine and over the network, by whoever's role may.
    Anywhere,
    /// As well, and its answer is lines that go out as they are made.
    InLines,
    /// At the machine alone, and why.
    Machine(&'static str),
}

/// What is known of a request by its name alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub action: Action,
    pub reach: Reach,
}

impl Kind {
    /// # Errors
    /// `Denied` where it is not asked over a network, saying why.
    pub fn must_reach_the_network(&self) -> Result<()> {
        let Reach::Machine(why) = self.reach else { return Ok(()) };
        Err(Error::denied(format!("{} is not asked over the network: {why}", self.name))
            .remedy("use the command line on the machine itself"))
    }
}

const PATHS: Reach = Reach::Machine("it names files of the machine");
const FOREVER: Reach =
    Reach::Machine("nothing brings back what it takes; data_erase_plan says what that would be");
const PASSWORD: Reach = Reach::Machine("a password is part of no message");
const UNRECORDED: Reach =
    Reach::Machine("nobody keeps what was answered; /v1/completions and /v1/chat/completions do");
const ALONE: Reach = Reach::Machine("only whoever holds the machine may do without a second person");
const UNSEALED_THERE: Reach = Reach::Machine("whoever seals it must be able to unseal it");

use Reach::{Anywhere, InLines};

macro_rules! kinds {
    ($($variant:ident $name:literal $action:ident $reach:ident;)*) => {
        impl Request {
            pub const KINDS: &[Kind] = &[$(Kind { name: $name, action: Action::$action, reach: $reach }),*];

            pub fn kind(&self) -> &'static Kind {
                match self {
                    $(Self::$variant { .. } => const {
                        &Kind { name: $name, action: Action::$action, reach: $reach }
                    },)*
                }
            }
        }
    };
}

kinds! {
    Status "status" Status Anywhere;
    DataIngest "data_ingest" DataIngest PATHS;
    DataLs "data_ls" DataList Anywhere;
    DataQuarantine "data_quarantine" DataList Anywhere;
    DataVerify "data_verify" DataVerify Anywhere;
    DataErase "data_erase" DataErase FOREVER;
    DataErasePlan "data_erase_plan" DataErase Anywhere;
    DataCertificate "data_certificate" DataCertificate Anywhere;
    TokenizerTrain "tokenizer_train" TokenizerTrain Anywhere;
    TokenizerShow "tokenizer_show" TokenizerShow Anywhere;
    ModelPretrain "model_pretrain" ModelPretrain Anywhere;
    ModelPlan "model_plan" ModelPretrain Anywhere;
    ModelResume "model_resume" ModelPretrain Anywhere;
    ModelImport "model_import" ModelImport PATHS;
    ModelLs "model_ls" ModelList Anywhere;
    ModelShow "model_show" ModelList Anywhere;
    ModelGenerate "model_generate" ModelGenerate UNRECORDED;
    ModelChat "model_chat" ModelGenerate UNRECORDED;
    LineageShow "lineage_show" LineageShow Anywhere;
    AuditVerify "audit_verify" AuditRead Anywhere;
    AuditLs "audit_ls" AuditRead Anywhere;
    AuditCheckpoint "audit_checkpoint" AuditCheckpoint Anywhere;
    AuditKey "audit_key" AuditRead Anywhere;
    AuditExport "audit_export" AuditExport InLines;
    AuditProve "audit_prove" AuditCheckpoint Anywhere;
    KeyStatus "key_status" KeyStatus Anywhere;
    KeyRotate "key_rotate" KeyRotate Anywhere;
    BackupCreate "backup_create" BackupCreate PATHS;
    BackupForget "backup_forget" BackupForget PATHS;
    Seal "seal" Seal UNSEALED_THERE;
    UserAdd "user_add" UserManage Anywhere;
    UserLs "user_ls" UserList Anywhere;
    UserDisable "user_disable" UserManage Anywhere;
    UserPassword "user_password" UserManage PASSWORD;
    UserPasswordRemove "user_password_remove" UserManage Anywhere;
    TokenNew "token_new" TokenManage Anywhere;
    TokenLs "token_ls" TokenList Anywhere;
    TokenRevoke "token_revoke" TokenManage Anywhere;
    FeedbackLs "feedback_ls" FeedbackList Anywhere;
    FeedbackReview "feedback_review" FeedbackReview Anywhere;
    DeployPropose "deploy_propose" DeployPropose Anywhere;
    DeployApprove "deploy_approve" DeployApprove Anywhere;
    DeployApproveAlone "deploy_approve_alone" DeployApproveAlone ALONE;
    DeployReject "deploy_reject" DeployReject Anywhere;
    DeployWithdraw "deploy_withdraw" DeployWithdraw Anywhere;
    DeployRollback "deploy_rollback" DeployRollback Anywhere;
    DeployRetire "deploy_retire" DeployRetire Anywhere;
    DeployLs "deploy_ls" DeployList Anywhere;
    DeployPolicy "deploy_policy" DeployPolicy Anywhere;
    JobLs "job_ls" JobList Anywhere;
    JobShow "job_show" JobList Anywhere;
    JobCancel "job_cancel" JobCancel Anywhere;
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_request_is_called_what_its_json_calls_it() {
        let error = serde_json::from_value::<Request>(Value::from("nothing")).unwrap_err().to_string();
        let known: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        let named: Vec<&str> = Request::KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(named, known, "{error}");
        for kind in Request::KINDS {
            if let Ok(request) = serde_json::from_value::<Request>(Value::from(kind.name)) {
                assert_eq!(request.kind(), kind);
            }
        }
    }

    #[test]
    fn what_names_paths_or_cannot_be_taken_back_stays_at_the_machine() {
        let far: Vec<&str> = Request::KINDS
            .iter()
            .filter(|kind| kind.must_reach_the_network().is_err())
            .map(|kind| kind.name)
            .collect();
        let expected = [
            "data_ingest",
            "data_erase",
            "model_import",
            "model_generate",
            "model_chat",
            "backup_create",
            "backup_forget",
            "seal",
            "user_password",
            "deploy_approve_alone",
        ];
        assert_eq!(far, expected);
    }
}
