//! What the API asks of the appliance's memory: who a token or a password belongs to, and the records without which nothing is
//! served. [`WardenRecords`] is the warden's; the router's tests bring one that fails when told to.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value;

use super::{answering::now_ms, strangers::Failures};
use crate::{
    auditlog::{Entry, Outcome},
    base::{Context, Id, IdKind, Monitor, Result},
    improve::{Opinion, Receipt, receipt::text_hash},
    infer::{FinishReason, Usage},
    seal::{self, Secret},
    store::{Answer, AnswerKind, AnswerState, FinishedAnswer, NewAnswer, NewFeedback},
    work::{
        Actor, Deployed, Fingerprint, Request, Session, Warden,
        policy::{Action, Caller},
    },
};

/// A request for text that is about to be answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: Id,
    pub caller: Caller,
    pub kind: AnswerKind,
    pub model: Arc<ModelFacts>,
    pub at_ms: u64,
    pub prompt_tokens: u64,
    /// The prompt as it is kept: text, or the messages as JSON.
    pub prompt: String,
}

/// Where a served model comes from: what a receipt says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    pub id: Id,
    pub name: String,
    pub created_at_ms: u64,
    pub tokenizer: Option<Id>,
    pub run: Option<Id>,
    pub snapshot: Option<Id>,
    pub dataset_root: Option<String>,
    /// None where it is served as the newest of its name.
    pub deployed: Option<Deployed>,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub state: AnswerState,
    pub reason: Option<FinishReason>,
    pub usage: Usage,
    pub text: String,
}

/// An entry of the audit log about a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noted {
    pub action: Action,
    /// What the path named, where that is an identifier.
    pub object: Option<Id>,
    pub outcome: Outcome,
    /// What was answered.
    pub status: Option<u16>,
}

/// All of these block, on the disk at times: they are called away from the asynchronous threads.
pub trait Records: Send + Sync + 'static {
    /// # Errors
    /// `Denied` for whatever is not a living token, or not over this certificate's connection; anything else means that it could not be found out.
    fn authenticate(&self, bearer: &str, certificate: Option<Fingerprint>) -> Result<Caller>;

    /// A token that lives for `lifetime`, for the user of this name and password; recorded.
    ///
    /// # Errors
    /// `Denied` whatever is wrong with them.
    fn log_in(
        &self,
        name: &str,
        password: &Secret,
        from: Option<IpAddr>,
        lifetime: Duration,
    ) -> Result<Session>;

    /// Ends the session that a caller's token is. Whoever asks records it.
    ///
    /// # Errors
    /// `NotFound` where it is a token that somebody made.
    fn log_out(&self, caller: &Caller) -> Result<()>;

    /// The name of the user whose session a caller's token is.
    ///
    /// # Errors
    /// `Denied` where it is a token that somebody made.
    fn session_user(&self, caller: &Caller) -> Result<String>;

    /// Changes the password of that user, and ends all their sessions; recorded.
    ///
    /// # Errors
    /// `Denied` where `present` is not their password; `Usage` where it is, and `next` is not one to have.
    fn change_password(&self, caller: &Caller, present: &Secret, next: &Secret) -> Result<()>;

    /// Does what a caller asks of the warden, if the caller may; recorded.
    fn manage(&self, caller: &Caller, request: Request, monitor: &dyn Monitor) -> Result<Value>;

    /// Durable when it returns: the intent in the audit log, the prompt sealed.
    fn begin_answer(&self, asked: &Asked) -> Result<()>;

    /// Durable when it returns: the outcome, the answer and its receipt.
    fn end_answer(&self, asked: &Asked, ended: &Ended) -> Result<()>;

    fn answer(&self, id: Id) -> Result<Option<Answer>>;

    /// Whether a caller was given an answer: with this token, or with another of the same user's.
    fn was_given(&self, caller: &Caller, answer: &Answer) -> Result<bool>;

    fn add_feedback(&self, caller: &Caller, opinion: &Opinion) -> Result<Id>;

    /// What becomes of a request that writes no record of its own. Durable when it returns.
    fn note(&self, caller: &Caller, noted: &Noted) -> Result<()>;

    /// So many looks at health and metrics since the last time, in one entry.
    fn note_probes(&self, requests: u64) -> Result<()>;

    /// So many requests beyond what their tokens may take, in one entry.
    fn note_limited(&self, requests: u64) -> Result<()>;

    /// Requests without a valid token since the last time: one entry for all, so that a stranger cannot fill the
    /// disk.
    fn note_unauthenticated(&self, failures: &Failures) -> Result<()>;

    /// Writes down when tokens were last used.
    fn keep_last_uses(&self) -> Result<()>;
}

/// The warden's records: the audit log and the database.
pub struct WardenRecords(pub Arc<Warden>);

impl WardenRecords {
    fn audit(&self, entry: Entry) -> Result<()> {
        self.0.audit(entry).map(|_| ())
    }

    fn entry(&self, caller: &Caller, action: Action, outcome: Outcome) -> Result<Entry> {
        self.0.about(Entry::new(caller.token.to_string(), action.as_str(), outcome), caller)
    }

    fn receipt(&self, asked: &Asked, ended: &Ended, now_ms: u64) -> Result<String> {
        let model = &asked.model;
        let receipt = Receipt {
            version: Receipt::version(),
            install: self.0.install(),
            answer: asked.id,
            kind: asked.kind.to_string(),
            token: asked.caller.token,
            model: model.id,
            model_name: model.name.clone(),
            tokenizer: model.tokenizer,
            run: model.run,
            snapshot: model.snapshot,
            dataset_root: model.dataset_root.clone(),
            deployment: model.deployed.map(|deployed| deployed.id),
            deployed_by: model.deployed.map(|deployed| deployed.basis.to_string()),
            asked_at_ms: asked.at_ms,
            answered_at_ms: now_ms,
            prompt_tokens: ended.usage.prompt_tokens as u64,
            completion_tokens: ended.usage.completion_tokens as u64,
            finish_reason: ended.reason.map(FinishReason::as_str).unwrap_or_default().to_owned(),
            prompt_sha256: text_hash(&asked.prompt),
            answer_sha256: text_hash(&ended.text),
        };
        serde_json::to_string(&receipt.sign(self.0.signer())?).context("writing a receipt")
    }
}

impl Records for WardenRecords {
    fn authenticate(&self, bearer: &str, certificate: Option<Fingerprint>) -> Result<Caller> {
        self.0.authenticate(bearer, certificate)
    }

    fn log_in(
        &self,
        name: &str,
        password: &Secret,
        from: Option<IpAddr>,
        lifetime: Duration,
    ) -> Result<Session> {
        self.0.log_in(name, password, from, lifetime)
    }

    fn log_out(&self, caller: &Caller) -> Result<()> {
        self.0.log_out(caller)
    }

    fn session_user(&self, caller: &Caller) -> Result<String> {
        self.0.session_user(caller)
    }

    fn change_password(&self, caller: &Caller, present: &Secret, next: &Secret) -> Result<()> {
        self.0.change_password(caller, present, next)
    }

    fn manage(&self, caller: &Caller, request: Request, monitor: &dyn Monitor) -> Result<Value> {
        self.0.execute(Actor::Remote(caller.clone()), request, monitor)
    }

    fn begin_answer(&self, asked: &Asked) -> Result<()> {
        let intent = self
            .entry(&asked.caller, Action::AnswerAsk, Outcome::Intent)?
            .object(asked.id)
            .detail("model", asked.model.id.to_string())
            .detail("prompt_hmac", self.0.text_mac(&asked.prompt))
            .detail("prompt_tokens", asked.prompt_tokens);
        self.audit(intent)?;
        self.0.store().write(|rows| {
            rows.add_answer(&NewAnswer {
                id: asked.id,
                token: asked.caller.token,
                model: asked.model.id,
                kind: asked.kind,
                prompt_tokens: asked.prompt_tokens,
                created_at_ms: asked.at_ms,
                prompt: &asked.prompt,
            })
        })
    }

    fn end_answer(&self, asked: &Asked, ended: &Ended) -> Result<()> {
        let now_ms = now_ms();
        let receipt = match ended.state {
            AnswerState::Done => Some(self.receipt(asked, ended, now_ms)?),
            _ => None,
        };
        self.0.store().write(|rows| {
            rows.finish_answer(&FinishedAnswer {
                id: asked.id,
                state: ended.state,
                finish_reason: ended.reason.map(FinishReason::as_str),
                completion_tokens: ended.usage.completion_tokens as u64,
                ended_at_ms: now_ms,
                answer: &ended.text,
                receipt: receipt.as_deref(),
            })
        })?;
        let outcome = if ended.state == AnswerState::Failed { Outcome::Failed } else { Outcome::Done };
        let entry = self
            .entry(&asked.caller, Action::AnswerAsk, outcome)?
            .object(asked.id)
            .detail("model", asked.model.id.to_string())
            .detail("answer_hmac", self.0.text_mac(&ended.text))
            .detail("state", ended.state.as_str())
            .detail("completion_tokens", ended.usage.completion_tokens as u64);
        self.audit(entry)
    }

    fn answer(&self, id: Id) -> Result<Option<Answer>> {
        self.0.store().read(|rows| rows.answer(id))
    }

    fn was_given(&self, caller: &Caller, answer: &Answer) -> Result<bool> {
        if answer.token == caller.token || caller.user.is_none() {
            return Ok(answer.token == caller.token);
        }
        let token = self.0.store().read(|rows| rows.token(answer.token))?;
        Ok(token.is_some_and(|token| token.user == caller.user))
    }

    fn add_feedback(&self, caller: &Caller, opinion: &Opinion) -> Result<Id> {
        let id = seal::new_id(IdKind::Feedback)?;
        let about = |outcome| {
            let entry = self.entry(caller, Action::FeedbackGive, outcome)?;
            self.audit(entry.object(id).detail("answer", opinion.answer.to_string()))
        };
        about(Outcome::Intent)?;
        self.0.store().write(|rows| {
            rows.add_feedback(&NewFeedback {
                id,
                answer: opinion.answer,
                token: caller.token,
                rating: opinion.rating,
                created_at_ms: now_ms(),
                correction: opinion.correction.as_deref(),
                comment: opinion.comment.as_deref(),
            })
        })?;
        about(Outcome::Done)?;
        Ok(id)
    }

    fn note(&self, caller: &Caller, noted: &Noted) -> Result<()> {
        let mut entry = self.entry(caller, noted.action, noted.outcome)?;
        entry.object = noted.object;
        self.audit(match noted.status {
            Some(status) => entry.detail("status", status),
            None => entry,
        })
    }

    fn note_limited(&self, requests: u64) -> Result<()> {
        let entry = Entry::new("cloister", "api.limited", Outcome::Denied);
        self.audit(entry.detail("requests", requests))
    }

    fn note_probes(&self, requests: u64) -> Result<()> {
        let entry = Entry::new("anonymous", "api.probes", Outcome::Done);
        self.audit(entry.detail("requests", requests))
    }

    fn note_unauthenticated(&self, failures: &Failures) -> Result<()> {
        let entry = Entry::new("anonymous", "api.unauthenticated", Outcome::Denied);
        let mut entry = entry.detail("requests", failures.requests);
        if failures.log_ins > 0 {
            entry = entry.detail("log_ins", failures.log_ins);
        }
        if failures.from.is_empty() {
            return self.audit(entry);
        }
        let from: Vec<String> =
            failures.from.iter().map(|(network, requests)| format!("{network} ({requests})")).collect();
        self.audit(self.0.with_sealed(entry, "from", &from.join(", "))?)
    }

    fn keep_last_uses(&self) -> Result<()> {
        self.0.keep_last_uses()
    }
}
