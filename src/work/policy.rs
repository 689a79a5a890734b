//! Who may do what: one table of actions and the roles that may perform them. What the table does not grant is
//! denied. The warden asks it before every request, and the routes of `serve` are built from it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{kinds::Kind, scope::Scope};
use crate::base::{Error, Id, Result};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What a person or a program is trusted with.
    Role {
        /// Keys, people, tokens; sees the audit log, and no document.
        SecurityOfficer = "security_officer",
        /// Documents: ingests, looks at what was refused, erases.
        DataSteward = "data_steward",
        /// Trains, fine-tunes and tries models.
        ModelBuilder = "model_builder",
        /// Evaluates models and reviews feedback.
        Validator = "validator",
        /// Runs the machine: jobs, deployments, health.
        Operator = "operator",
        /// Reads who did what, and where an answer came from.
        Auditor = "auditor",
        /// A person who asks and rates.
        User = "user",
        /// A program that asks and rates for its own users.
        Service = "service",
    }
}

words! {
    /// What can be done. The name is what the audit log says.
    Action {
        Status = "status",
        DataIngest = "data.ingest",
        DataList = "data.ls",
        DataVerify = "data.verify",
        DataErase = "data.erase",
        DataCertificate = "data.certificate",
        TokenizerTrain = "tokenizer.train",
        TokenizerShow = "tokenizer.show",
        ModelPretrain = "model.pretrain",
        ModelImport = "model.import",
        ModelList = "model.ls",
        ModelGenerate = "model.generate",
        LineageShow = "lineage.show",
        AuditRead = "audit.read",
        AuditCheckpoint = "audit.checkpoint",
        AuditExport = "audit.export",
        KeyStatus = "key.status",
        KeyRotate = "key.rotate",
        KeyRekey = "key.rekey",
        BackupCreate = "backup.create",
        BackupForget = "backup.forget",
        /// At the machine alone: there is no installation yet that could ask who it is.
        BackupRestore = "backup.restore",
        /// Ends what the daemon serves, and leaves it without any key.
        Seal = "seal",
        UserManage = "user.manage",
        UserList = "user.ls",
        TokenManage = "token.manage",
        TokenList = "token.ls",
        FeedbackList = "feedback.ls",
        FeedbackReview = "feedback.review",
        DeployPropose = "deploy.propose",
        DeployApprove = "deploy.approve",
        /// At the machine alone: the approval of one person without a second.
        DeployApproveAlone = "deploy.approve_alone",
        DeployReject = "deploy.reject",
        /// By whoever proposed it, and nobody else.
        DeployWithdraw = "deploy.withdraw",
        DeployRollback = "deploy.rollback",
        DeployRetire = "deploy.retire",
        DeployList = "deploy.ls",
        DeployPolicy = "deploy.policy",
        JobList = "job.ls",
        JobCancel = "job.cancel",
        /// Over the API: a chat or a completion.
        AnswerAsk = "answer.ask",
        /// Over the API: the names that can be asked.
        ModelServed = "model.served",
        /// Over the API: rating one's own answer.
        FeedbackGive = "feedback.give",
        ReceiptShow = "receipt.show",
        MetricsRead = "metrics.read",
        /// Over the API: a token for hours in exchange for a password.
        SessionBegin = "session.begin",
        SessionEnd = "session.end",
        /// Over the API: one's own.
        PasswordChange = "password.change",
    }
}

use Role::{Auditor, DataSteward, ModelBuilder, Operator, SecurityOfficer, Service, User, Validator};

/// Programs have tokens, and no passwords.
const PEOPLE: &[Role] = &[SecurityOfficer, DataSteward, ModelBuilder, Validator, Operator, Auditor, User];

/// The matrix. Its written form in `docs/security.md` is checked against it.
const GRANTS: &[(Action, &[Role])] = &[
    (Action::Status, &[SecurityOfficer, DataSteward, ModelBuilder, Validator, Operator, Auditor]),
    (Action::DataIngest, &[DataSteward]),
    (Action::DataList, &[DataSteward]),
    (Action::DataVerify, &[SecurityOfficer, DataSteward, Operator, Auditor]),
    (Action::DataErase, &[DataSteward]),
    (Action::DataCertificate, &[SecurityOfficer, DataSteward, Auditor]),
    (Action::TokenizerTrain, &[ModelBuilder]),
    (Action::TokenizerShow, &[ModelBuilder, Validator, Auditor]),
    (Action::ModelPretrain, &[ModelBuilder]),
    (Action::ModelImport, &[ModelBuilder]),
    (Action::ModelList, &[ModelBuilder, Validator, Operator, Auditor]),
    (Action::ModelGenerate, &[ModelBuilder, Validator]),
    (Action::LineageShow, &[DataSteward, ModelBuilder, Validator, Auditor]),
    (Action::AuditRead, &[SecurityOfficer, Auditor]),
    (Action::AuditCheckpoint, &[SecurityOfficer, Auditor]),
    (Action::AuditExport, &[SecurityOfficer, Auditor]),
    (Action::KeyStatus, &[SecurityOfficer, Operator, Auditor]),
    (Action::KeyRotate, &[SecurityOfficer]),
    (Action::KeyRekey, &[SecurityOfficer]),
    (Action::BackupCreate, &[Operator]),
    (Action::BackupForget, &[SecurityOfficer]),
    (Action::BackupRestore, &[SecurityOfficer]),
    (Action::Seal, &[SecurityOfficer]),
    (Action::UserManage, &[SecurityOfficer]),
    (Action::UserList, &[SecurityOfficer, Auditor]),
    (Action::TokenManage, &[SecurityOfficer]),
    (Action::TokenList, &[SecurityOfficer, Auditor]),
    (Action::FeedbackList, &[Validator, Auditor]),
    (Action::FeedbackReview, &[Validator]),
    (Action::DeployPropose, &[ModelBuilder]),
    (Action::DeployApprove, &[Validator]),
    (Action::DeployApproveAlone, &[]),
    (Action::DeployReject, &[Validator]),
    (Action::DeployWithdraw, &[ModelBuilder]),
    (Action::DeployRollback, &[Operator]),
    (Action::DeployRetire, &[Operator]),
    (Action::DeployList, &[ModelBuilder, Validator, Operator, Auditor]),
    (Action::DeployPolicy, &[SecurityOfficer]),
    (Action::JobList, &[DataSteward, ModelBuilder, Validator, Operator, Auditor]),
    (Action::JobCancel, &[Operator]),
    (Action::AnswerAsk, &[ModelBuilder, Validator, User, Service]),
    (Action::ModelServed, &[ModelBuilder, Validator, Operator, User, Service]),
    (Action::FeedbackGive, &[ModelBuilder, Validator, User, Service]),
    (Action::ReceiptShow, &[Validator, Auditor, User, Service]),
    (Action::MetricsRead, &[Operator, Service]),
    (Action::SessionBegin, PEOPLE),
    (Action::SessionEnd, PEOPLE),
    (Action::PasswordChange, PEOPLE),
];

impl Role {
    /// Whether the matrix grants `action` to this role.
    pub fn may(self, action: Action) -> bool {
        GRANTS.iter().any(|(granted, roles)| *granted == action && roles.contains(&self))
    }

    /// # Errors
    /// `Usage`, naming the roles that there are.
    pub fn parse(text: &str) -> Result<Self> {
        let wanted = text.replace('-', "_");
        Self::ALL.iter().copied().find(|role| role.as_str() == wanted).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|role| role.as_str()).collect();
            let shown: String = text.chars().take(40).collect();
            Error::usage(format!("there is no role '{shown}'"))
                .remedy(format!("the roles are {}", known.join(", ")))
        })
    }
}

impl Action {
    /// # Errors
    /// `Usage` where there is none of that name.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|action| action.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::usage(format!("there is no action '{shown}'"))
                .remedy("docs/security.md lists the actions, and which role may do them")
        })
    }
}

/// Who stands behind an API token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub token: Id,
    pub user: Option<Id>,
    pub role: Role,
    /// What the token may do of what the role may.
    pub scope: Arc<Scope>,
    /// The address that the request came from.
    pub from: Option<std::net::IpAddr>,
}

impl Caller {
    pub fn may(&self, action: Action) -> bool {
        self.role.may(action) && self.scope.allows(action)
    }
}

/// Who asks for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody at the machine who holds the data directory and its unsealing secret, and so holds everything
    /// that a role could keep from them.
    Local { uid: u32 },
    /// Somebody or something with an API token.
    Remote(Caller),
}

impl Actor {
    /// The account that this process runs under.
    pub fn this_process() -> Self {
        Self::Local { uid: rustix::process::geteuid().as_raw() }
    }

    /// Who it is, as far as duties are kept apart: the user, a token of no user, or the account at the machine.
    pub fn person(&self) -> String {
        match self {
            Self::Remote(Caller { user: Some(user), .. }) => user.to_string(),
            _ => self.to_string(),
        }
    }

    /// # Errors
    /// `Denied`, naming the roles that may, or why nobody does over a network.
    pub fn may_ask(&self, kind: &Kind) -> Result<()> {
        self.authorise(kind.action)?;
        match self {
            Self::Local { .. } => Ok(()),
            Self::Remote(_) => kind.must_reach_the_network(),
        }
    }

    /// # Errors
    /// `Denied`, naming the roles that may.
    pub fn authorise(&self, action: Action) -> Result<()> {
        let Self::Remote(caller) = self else { return Ok(()) };
        if caller.may(action) {
            return Ok(());
        }
        if caller.role.may(action) {
            return Err(Error::denied(format!("this token's scope leaves out {action}"))
                .remedy("`cloister token new` makes one with another scope"));
        }
        let may: Vec<&str> =
            Role::ALL.iter().filter(|role| role.may(action)).map(|role| role.as_str()).collect();
        if may.is_empty() {
            return Err(Error::denied(format!("no token may do {action}"))
                .remedy("it is done at the machine, by who can open the data directory"));
        }
        Err(Error::denied(format!("role {} may not do {action}", caller.role))
            .remedy(format!("it takes one of the roles {}", may.join(", "))))
    }
}

/// What the audit log says.
impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "local:{uid}"),
            Self::Remote(caller) => write!(f, "{}", caller.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ErrorKind, IdKind};

    fn remote(role: Role) -> Actor {
        let token = Id::from_parts(IdKind::Token, 1, [0; 10]);
        Actor::Remote(Caller { token, user: None, role, scope: Arc::default(), from: None })
    }

    #[test]
    fn every_action_stands_in_the_matrix_once_and_somebody_may_do_it() {
        // At the machine, where no role is asked for.
        let at_the_machine_alone = [Action::DeployApproveAlone];
        for &action in Action::ALL {
            let rows: Vec<_> = GRANTS.iter().filter(|(granted, _)| *granted == action).collect();
            assert_eq!(rows.len(), 1, "{action}");
            assert_eq!(rows[0].1.is_empty(), at_the_machine_alone.contains(&action), "{action}");
        }
    }

    #[test]
    fn the_written_matrix_says_what_is_checked() {
        let page = include_str!("../../docs/security.md");
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let rows: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
        let written = |action: Action| {
            let named = rows.iter().filter(|row| row[0] == format!("`{action}`"));
            let [row] = named.collect::<Vec<_>>()[..] else { panic!("{action} is not written once") };
            let roles = row[1].split(", ").filter(|role| !role.is_empty());
            roles.map(|role| Role::parse(role).expect("a role")).collect::<Vec<_>>()
        };
        for &action in Action::ALL {
            let written = written(action);
            for &role in Role::ALL {
                assert_eq!(role.may(action), written.contains(&role), "{role} and {action}");
            }
        }
    }

    #[test]
    fn duties_are_separated() {
        for &action in Action::ALL {
            let both = |a: Role, b: Role| a.may(action) && b.may(action);
            // Whoever makes tokens cannot read documents or train; whoever trains cannot make tokens.
            if action == Action::TokenManage || action == Action::UserManage {
                assert_eq!(Role::ALL.iter().filter(|role| role.may(action)).count(), 1);
            }
            let is_of_oneself =
                [Action::SessionBegin, Action::SessionEnd, Action::PasswordChange].contains(&action);
            assert!(is_of_oneself || !both(User, SecurityOfficer), "{action}: a user is no officer");
        }
        for action in [
            Action::DataIngest,
            Action::DataErase,
            Action::ModelPretrain,
            Action::TokenManage,
            Action::KeyRekey,
            Action::JobCancel,
        ] {
            assert!(!Auditor.may(action), "an auditor changes nothing");
            assert!(!User.may(action) && !Service.may(action));
        }
        assert!(!SecurityOfficer.may(Action::DataList), "an officer sees no document names");
        for &role in Role::ALL {
            let proposes = [Action::DeployPropose, Action::ModelPretrain, Action::ModelImport];
            let makes = proposes.into_iter().any(|action| role.may(action));
            assert!(!(makes && role.may(Action::DeployApprove)), "{role} makes or proposes, and approves");
            assert!(!role.may(Action::DeployApproveAlone), "{role} approves alone from afar");
        }
    }

    #[test]
    fn denial_names_who_may() {
        let error = remote(User).authorise(Action::DataIngest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.remedy_text().is_some_and(|text| text.contains("data_steward")));
        assert!(remote(DataSteward).authorise(Action::DataIngest).is_ok());
        assert!(Actor::Local { uid: 0 }.authorise(Action::DataIngest).is_ok());
    }

    #[test]
    fn a_scope_narrows_a_role_and_never_widens_it() {
        let Actor::Remote(caller) = remote(User) else { unreachable!("remote") };
        let scope = Scope { actions: Some(vec![Action::AnswerAsk, Action::DataIngest]), ..Scope::default() };
        let narrowed = Actor::Remote(Caller { scope: Arc::new(scope), ..caller });
        assert!(narrowed.authorise(Action::AnswerAsk).is_ok());
        assert!(narrowed.authorise(Action::DataIngest).is_err(), "the role may not");
        let error = narrowed.authorise(Action::FeedbackGive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("scope"), "{error}");
    }

    #[test]
    fn roles_are_read_with_either_dash() {
        assert_eq!(Role::parse("model-builder").unwrap(), ModelBuilder);
        assert_eq!(Role::parse("model_builder").unwrap(), ModelBuilder);
        for text in ["", "root", "admin", "USER", "user "] {
            assert!(Role::parse(text).is_err(), "{text}");
        }
    }
}
