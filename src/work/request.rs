//! What can be asked of the warden, and the rows it answers with: one variant a command, and one line for it in
//! `kinds.rs`. All plain data, so that a question and its answer cross the admin socket unchanged and read the same as in one process.
//! Names and texts in answers are unsealed for the caller: none of these types is ever written to the disk.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{fingerprint::Fingerprint, policy::Action, scope::Scope};
use crate::{base::Id, improve::Reached, store::Governance, text::Message, train::RunConfig};

/// One question. What answers it stands behind the arrow; `Vec` answers print a line a row with `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// -> [`Status`]
    Status,
    /// -> [`Ingested`]
    DataIngest(Ingest),
    /// -> `Vec<DocumentRow>`
    DataLs { collection: Option<String> },
    /// -> `Vec<QuarantineRow>`
    DataQuarantine { collection: Option<String> },
    /// -> [`Verified`]; an error of kind `Integrity` that names the object when anything is wrong
    DataVerify,
    /// -> [`SignedCertificate`](crate::improve::SignedCertificate)
    DataErase(Erase),
    /// -> [`ErasurePlan`]; nothing is changed
    DataErasePlan(Erase),
    /// -> [`SignedCertificate`](crate::improve::SignedCertificate); an error of kind `NotFound` where a subject is named
    /// that the erasure was not asked for
    DataCertificate { erasure: Id, subject: Option<String> },
    /// -> [`TokenizerRow`]
    TokenizerTrain {
        collection: String,
        vocab_size: Option<u32>,
        #[serde(default)]
        lower_case: bool,
    },
    /// -> `Vec<TokenizerRow>`: the one named, or all
    TokenizerShow { tokenizer: Option<Id> },
    /// -> [`RunRow`]
    ModelPretrain(Pretrain),
    /// -> the plan, as `train` makes it; nothing is trained
    ModelPlan(Pretrain),
    /// -> [`RunRow`]: goes on with the run named, or the latest that was stopped
    ModelResume { run: Option<Id> },
    /// -> [`ModelRow`]: a Hugging Face directory
    ModelImport { directory: PathBuf, name: String },
    /// -> `Vec<ModelRow>`
    ModelLs,
    /// -> [`ModelRow`]
    ModelShow { model: String },
    /// -> [`Generated`]; its text streams through `Monitor::text`
    ModelGenerate(Generate),
    /// -> [`Generated`]: the answer to the last message; its text streams through `Monitor::text`
    ModelChat(Chat),
    /// -> [`Lineage`]
    LineageShow { id: Id },
    /// -> [`AuditReport`]; an error of kind `Integrity` that names the entry when anything is wrong
    AuditVerify,
    /// -> `Vec<AuditRow>`, newest last
    AuditLs { from: Option<u64>, limit: u64 },
    /// -> the signed checkpoint, to be kept elsewhere
    AuditCheckpoint,
    /// -> the public key that verifies the log, as text
    AuditKey,
    /// -> [`AuditReport`], of the log as it was exported; its lines go through `Monitor::text`
    AuditExport {
        #[serde(default)]
        table: bool,
    },
    /// -> the proof that the log begins with that of an earlier checkpoint
    AuditProve { since: String },
    /// -> [`KeyStatus`]
    KeyStatus,
    /// -> [`KeyStatus`]: as it is then
    KeyRotate,
    /// -> [`BackupRow`]
    BackupCreate { to: PathBuf, keys: PathBuf },
    /// -> `Vec<Id>`: what went
    BackupForget { from: PathBuf, keys: PathBuf, keep: usize },
    /// -> nothing: the daemon ends what runs, and goes on sealed
    Seal,
    /// -> [`UserRow`]
    UserAdd { name: String, role: String },
    /// -> `Vec<UserRow>`
    UserLs,
    /// -> [`UserRow`]
    UserDisable { name: String },
    /// The password is the secret that comes with it -> [`UserRow`]
    UserPassword { name: String },
    /// -> [`UserRow`]
    UserPasswordRemove { name: String },
    /// -> [`NewToken`]
    TokenNew(TokenSpec),
    /// -> `Vec<TokenRow>`
    TokenLs,
    /// -> [`TokenRow`]
    TokenRevoke { token: Id },
    /// -> `Vec<FeedbackRow>`
    FeedbackLs { state: Option<String> },
    /// -> [`FeedbackRow`]
    FeedbackReview { feedback: Id, accept: bool },
    /// -> [`DeploymentRow`]; the name is the model's own where none is given
    DeployPropose { model: String, name: Option<String>, reason: String },
    /// -> [`DeploymentRow`]; an error of kind `Denied` to whoever proposed it or had a part in its making
    DeployApprove { deployment: Id, reason: Option<String> },
    /// -> [`DeploymentRow`]; at the machine alone
    DeployApproveAlone { deployment: Id, reason: String },
    /// -> [`DeploymentRow`]
    DeployReject { deployment: Id, reason: String },
    /// -> [`DeploymentRow`]; an error of kind `Denied` to whoever did not propose it
    DeployWithdraw { deployment: Id, reason: Option<String> },
    /// -> [`DeploymentRow`]: what is active then
    DeployRollback { name: String, reason: String },
    /// -> [`DeploymentRow`]: what was active
    DeployRetire { name: String, reason: String },
    /// -> [`Deployments`]: what is proposed and active, or all
    DeployLs {
        #[serde(default)]
        all: bool,
    },
    /// -> [`DeployPolicy`]
    DeployPolicy { policy: DeployPolicy },
    /// -> `Vec<JobRow>`
    JobLs,
    /// -> [`JobRow`]
    JobShow { job: Id },
    /// -> [`JobRow`]
    JobCancel { job: Id },
}

impl Request {
    /// What the policy and the audit log call it.
    pub fn action(&self) -> Action {
        self.kind().action
    }

    /// What it is about, where one identifier says it.
    pub fn object(&self) -> Option<Id> {
        match self {
            Self::DataCertificate { erasure, .. } => Some(*erasure),
            Self::LineageShow { id } => Some(*id),
            Self::TokenizerShow { tokenizer } => *tokenizer,
            Self::ModelResume { run } => *run,
            Self::TokenRevoke { token } => Some(*token),
            Self::FeedbackReview { feedback, .. } => Some(*feedback),
            Self::DeployApprove { deployment, .. }
            | Self::DeployApproveAlone { deployment, .. }
            | Self::DeployReject { deployment, .. }
            | Self::DeployWithdraw { deployment, .. } => Some(*deployment),
            Self::JobShow { job } | Self::JobCancel { job } => Some(*job),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ingest {
    /// Absolute: a daemon stands elsewhere.
    pub paths: Vec<PathBuf>,
    /// The documents that ship in the binary, instead of paths.
    pub sample: bool,
    pub collection: String,
    pub subjects: Vec<String>,
    pub licence: Option<String>,
    /// Read on though the kernel cannot cage the readers.
    #[serde(default)]
    pub allow_weak_sandbox: bool,
}

/// Whose documents, and which.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Erase {
    pub subjects: Vec<String>,
    /// One version stands for all of its document.
    pub documents: Vec<Id>,
}

/// A run to begin: what its file and flags say, already laid over each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    pub collection: String,
    /// The model's name; a later run of the same name is its next version.
    pub name: String,
    /// None: the newest tokenizer of the collection, or one trained now.
    pub tokenizer: Option<Id>,
    /// Of a tokenizer that is trained now; None lets the size of the corpus decide.
    #[serde(default)]
    pub vocab_size: Option<u32>,
    #[serde(default)]
    pub lower_case: bool,
    pub config: RunConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generate {
    /// A name or an identifier.
    pub model: String,
    /// Empty: the beginning of a text.
    pub prompt: String,
    /// What is computed in, `f32` or `bf16`; None: f32.
    #[serde(default)]
    pub dtype: Option<String>,
    pub choice: Choice,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chat {
    /// A name or an identifier.
    pub model: String,
    pub messages: Vec<Message>,
    pub choice: Choice,
}

/// How each next token is chosen, and when it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Choice {
    pub max_tokens: u32,
    pub temperature: f32,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    pub ignore_eos: bool,
}

/// What `init` made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Installed {
    pub install: Id,
    pub data_dir: PathBuf,
    /// The server's public certificate, in PEM.
    pub certificate: PathBuf,
    /// SHA-256 of the certificate, in hexadecimal with colons.
    pub fingerprint: String,
}

/// What a data directory holds: what a second quickstart goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub install: Id,
    /// Whether the root key is a trial's, lying beside the data it protects.
    pub trial_key: bool,
    pub collections: Vec<CollectionRow>,
    pub tokenizers: Vec<TokenizerRow>,
    pub runs: Vec<RunRow>,
    pub models: Vec<ModelRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionRow {
    pub name: String,
    pub documents: u64,
    pub text_bytes: u64,
    pub quarantined: u64,
}

/// What one ingest did; every input is counted once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ingested {
    pub job: Option<Id>,
    pub new: u64,
    pub new_versions: u64,
    pub unchanged: u64,
    pub text_bytes: u64,
    /// Format to number of documents taken.
    pub formats: BTreeMap<String, u64>,
    pub refused: Vec<QuarantineRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DocumentRow {
    pub id: Id,
    pub name: String,
    pub collection: String,
    pub format: String,
    /// Of the source file.
    pub bytes: u64,
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub subjects: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    pub ingested_at_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantineRow {
    pub id: Id,
    pub name: String,
    pub collection: String,
    /// What it seemed to be.
    pub format: String,
    pub bytes: u64,
    pub state: String,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    pub objects: u64,
    pub bytes: u64,
}

/// What an erasure would take, and what the documents have reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErasurePlan {
    /// Every version is one.
    pub documents: Vec<DocumentRow>,
    pub quarantined: u64,
    pub answers: u64,
    pub feedback: u64,
    pub reached: Vec<Reached>,
    /// What it cannot reach.
    pub residual: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupRow {
    pub id: Id,
    pub install: Id,
    pub taken_at_ms: u64,
    pub objects: u64,
    /// Of everything but the keys.
    pub bytes: u64,
    /// What was not in the repository before; known to whoever made it.
    pub new_objects: Option<u64>,
    pub new_bytes: Option<u64>,
    pub vault_epoch: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenizerRow {
    pub id: Id,
    pub collection: String,
    pub snapshot: Option<Id>,
    pub vocab_size: u64,
    /// On held-out text.
    pub bytes_per_token: Option<f64>,
    pub created_at_ms: u64,
    /// Documents that it was trained on and that were erased since.
    pub erased: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRow {
    pub id: Id,
    pub name: String,
    pub collection: String,
    pub snapshot: Id,
    pub tokenizer: Id,
    /// running, interrupted, failed or done
    pub state: String,
    pub steps_done: u64,
    pub steps_total: u64,
    pub parameters: u64,
    pub tokens_seen: u64,
    pub elapsed_s: f64,
    /// Documents of its snapshot that were erased since.
    pub erased: u64,
    pub model: Option<Id>,
    pub evaluation: Option<Evaluation>,
}

/// Bits per byte on the same held-out text: the model's, and those of what does not learn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    pub held_out_bits_per_byte: f64,
    pub unigram_bits_per_byte: f64,
    pub order2_bits_per_byte: f64,
    pub gzip_bits_per_byte: f64,
    pub held_out_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelRow {
    pub id: Id,
    pub name: String,
    pub run: Option<Id>,
    pub tokenizer: Option<Id>,
    pub parameters: u64,
    pub evaluation: Option<Evaluation>,
    /// Who it is for, what it is for, what it is not for.
    pub purpose: Option<crate::train::Purpose>,
    pub created_at_ms: u64,
    /// Documents that it was trained on and that were erased since.
    pub erased: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generated {
    pub model: Id,
    pub text: String,
    pub token_ids: Vec<u32>,
    pub prompt_tokens: u64,
    pub finish_reason: String,
}

/// The way up (what it was made from) and down (what was made from it), nearest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lineage {
    pub id: Id,
    pub up: Vec<LineageEdge>,
    pub down: Vec<LineageEdge>,
    /// What the identifiers above are called, where they are called something.
    pub labels: BTreeMap<Id, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineageEdge {
    /// Steps away from the object that was asked about.
    pub depth: u64,
    pub parent: Id,
    pub child: Id,
    pub relation: String,
    pub created_at_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditReport {
    pub entries: u64,
    /// Merkle root over all entries, in hexadecimal.
    pub root: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditRow {
    pub number: u64,
    pub at_ms: u64,
    pub actor: String,
    pub action: String,
    pub object: Option<Id>,
    pub outcome: String,
    pub detail: BTreeMap<String, String>,
}

/// What keys there are; nothing of what they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyStatus {
    pub unsealed_by: Vec<String>,
    /// Purpose to the newest version of its key.
    pub versions: BTreeMap<String, u32>,
    pub objects: u64,
    /// Objects whose keys an older version still wraps.
    pub objects_to_rewrap: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserRow {
    pub id: Id,
    pub name: String,
    pub role: String,
    pub state: String,
    /// Whether a password lets the user log in.
    pub password: bool,
    pub created_at_ms: u64,
}

/// The only time the token's text is seen: what is kept is its HMAC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    pub id: Id,
    pub token: String,
    pub role: String,
    pub expires_at_ms: Option<u64>,
}

/// A token to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSpec {
    pub role: String,
    /// By name.
    pub user: Option<String>,
    pub days: Option<u32>,
    /// What people call it.
    pub name: Option<String>,
    pub scope: Scope,
    /// Of the client's certificate that it is to be good with alone.
    pub certificate: Option<Fingerprint>,
}

impl TokenSpec {
    /// All that a role may, until it is revoked.
    pub fn of_role(role: &str) -> Self {
        Self { role: role.to_owned(), ..Self::default() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: Id,
    pub role: String,
    pub user: Option<String>,
    pub name: Option<String>,
    /// Whether it came of a log-in.
    pub session: bool,
    pub scope: Scope,
    /// Fingerprint of the client's certificate that it is good with alone.
    pub certificate: Option<String>,
    /// To the minute.
    pub last_used_at_ms: Option<u64>,
    /// active, expired or revoked
    pub state: String,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeedbackRow {
    pub id: Id,
    pub answer: Id,
    pub rating: Option<i64>,
    pub correction: Option<String>,
    pub comment: Option<String>,
    pub state: String,
    pub created_at_ms: u64,
}

/// What a name serves that nothing was ever proposed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeployPolicy {
    /// Its newest model.
    #[serde(rename = "newest")]
    Newest,
    /// Nothing.
    #[serde(rename = "approved-only")]
    ApprovedOnly,
}

impl From<Governance> for DeployPolicy {
    fn from(governance: Governance) -> Self {
        if governance.approved_only { Self::ApprovedOnly } else { Self::Newest }
    }
}

impl DeployPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::ApprovedOnly => "approved-only",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployments {
    pub policy: DeployPolicy,
    /// Oldest first.
    pub deployments: Vec<DeploymentRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeploymentRow {
    pub id: Id,
    pub name: String,
    pub model: Id,
    /// proposed, active, retired or rejected
    pub state: String,
    /// approved, approved alone or inherited; None where it never was any of them
    pub basis: Option<String>,
    /// What the model is or was made of and nobody knows the maker of: it is older than the record of that.
    pub unknown_makers: Vec<Id>,
    /// Documents that the model was trained on and that were erased since.
    pub erased: u64,
    /// Oldest first.
    pub acts: Vec<ActRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActRow {
    pub deed: String,
    /// A user, a token of no user, or `local:UID`.
    pub by: String,
    /// The user's.
    pub name: Option<String>,
    pub at_ms: u64,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRow {
    pub id: Id,
    pub kind: String,
    pub state: String,
    pub actor: String,
    pub run: Option<Id>,
    pub created_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub error: Option<String>,
}
