//! Answers that were served, with their receipts, and what people said about them.

use std::collections::HashSet;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    Rows, Writes,
    cell::{Place, get, named_column},
};
use crate::base::{Error, Id, Result};

named_column! {
    /// Where an answer stands.
    AnswerState {
        Pending = "pending",
        Done = "done",
        /// The client went away.
        Cancelled = "cancelled",
        Failed = "failed",
    }
}

named_column! {
    /// Which kind of request was answered.
    AnswerKind {
        Chat = "chat",
        Completion = "completion",
    }
}

named_column! {
    /// What a reviewer made of it.
    FeedbackState {
        New = "new",
        Accepted = "accepted",
        Rejected = "rejected",
    }
}

/// One answer; its receipt has the same identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub id: Id,
    /// Who asked.
    pub token: Id,
    pub model: Id,
    pub kind: AnswerKind,
    pub state: AnswerState,
    pub finish_reason: Option<String>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub created_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub prompt: String,
    pub answer: String,
    /// Signed JSON, once the answer is complete.
    pub receipt: Option<String>,
}

/// An answer that is about to be given: recorded before its first token leaves.
#[derive(Clone, Debug)]
pub struct NewAnswer<'a> {
    pub id: Id,
    pub token: Id,
    pub model: Id,
    pub kind: AnswerKind,
    pub prompt_tokens: u64,
    pub created_at_ms: u64,
    pub prompt: &'a str,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct FinishedAnswer<'a> {
    pub id: Id,
    pub state: AnswerState,
    pub finish_reason: Option<&'a str>,
    pub completion_tokens: u64,
    pub ended_at_ms: u64,
    pub answer: &'a str,
    pub receipt: Option<&'a str>,
}

/// What somebody said about an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    pub id: Id,
    pub answer: Id,
    pub token: Id,
    pub rating: Option<i64>,
    pub state: FeedbackState,
    pub reviewed_by: Option<String>,
    pub reviewed_at_ms: Option<u64>,
    pub created_at_ms: u64,
    pub correction: Option<String>,
    pub comment: Option<String>,
}

/// Feedback to be recorded.
#[derive(Clone, Debug)]
pub struct NewFeedback<'a> {
    pub id: Id,
    pub answer: Id,
    pub token: Id,
    pub rating: Option<i64>,
    pub created_at_ms: u64,
    pub correction: Option<&'a str>,
    pub comment: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct AnswerContent {
    prompt: String,
    answer: String,
    receipt: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct FeedbackContent {
    correction: Option<String>,
    comment: Option<String>,
}

const ANSWERS: &str = "answers";
const FEEDBACK: &str = "feedback";

impl Rows<'_> {
    pub fn answer(&self, id: Id) -> Result<Option<Answer>> {
        self.one("SELECT * FROM answers WHERE id = ?1", [id], |row| {
            let content: AnswerContent = self.content_of(ANSWERS, &id.to_string(), row)?;
            Ok(Answer {
                id,
                token: get(row, "token")?,
                model: get(row, "model")?,
                kind: get(row, "kind")?,
                state: get(row, "state")?,
                finish_reason: get(row, "finish_reason")?,
                prompt_tokens: get(row, "prompt_tokens")?,
                completion_tokens: get(row, "completion_tokens")?,
                created_at_ms: get(row, "created_at_ms")?,
                ended_at_ms: get(row, "ended_at_ms")?,
                prompt: content.prompt,
                answer: content.answer,
                receipt: content.receipt,
            })
        })
    }

    /// The answers to these tokens that have ended and still hold text, and the feedback with words of its own that
    /// came from these tokens or is about such an answer.
    pub fn texts_of_tokens(&self, tokens: &[Id]) -> Result<(Vec<Id>, Vec<Id>)> {
        let mut answers = Vec::new();
        for token in tokens {
            let sql = "SELECT id FROM answers WHERE token = ?1 AND state <> 'pending' ORDER BY id";
            answers.extend(self.all(sql, [token], |row| get::<Id>(row, "id"))?);
        }
        let mut feedback = self.feedback_with_words()?;
        feedback.retain(|row| tokens.contains(&row.token) || answers.contains(&row.answer));
        Ok((self.answers_with_text(&answers)?, feedback.into_iter().map(|row| row.id).collect()))
    }

    /// Of these answers and opinions, those that are here and hold text.
    pub fn texts_among(&self, ids: &[Id]) -> Result<(Vec<Id>, Vec<Id>)> {
        let wanted: HashSet<&Id> = ids.iter().collect();
        let mut feedback = self.feedback_with_words()?;
        feedback.retain(|row| wanted.contains(&row.id));
        Ok((self.answers_with_text(ids)?, feedback.into_iter().map(|row| row.id).collect()))
    }

    fn answers_with_text(&self, ids: &[Id]) -> Result<Vec<Id>> {
        let mut with_text = Vec::new();
        for &id in ids {
            let holds = |answer: Answer| !answer.prompt.is_empty() || !answer.answer.is_empty();
            if self.answer(id)?.is_some_and(holds) {
                with_text.push(id);
            }
        }
        Ok(with_text)
    }

    fn feedback_with_words(&self) -> Result<Vec<Feedback>> {
        let mut feedback = self.feedback(None)?;
        feedback.retain(|row| row.correction.is_some() || row.comment.is_some());
        Ok(feedback)
    }

    /// Oldest first; in one state, or in all.
    pub fn feedback(&self, state: Option<FeedbackState>) -> Result<Vec<Feedback>> {
        self.all("SELECT * FROM feedback WHERE ?1 IS NULL OR state = ?1 ORDER BY id", [state], |row| {
            let id: Id = get(row, "id")?;
            let content: FeedbackContent = self.content_of(FEEDBACK, &id.to_string(), row)?;
            Ok(Feedback {
                id,
                answer: get(row, "answer")?,
                token: get(row, "token")?,
                rating: get(row, "rating")?,
                state: get(row, "state")?,
                reviewed_by: get(row, "reviewed_by")?,
                reviewed_at_ms: get(row, "reviewed_at_ms")?,
                created_at_ms: get(row, "created_at_ms")?,
                correction: content.correction,
                comment: content.comment,
            })
        })
    }
}

impl Writes<'_> {
    pub fn add_answer(&self, new: &NewAnswer<'_>) -> Result<()> {
        let content = AnswerContent { prompt: new.prompt.to_owned(), answer: String::new(), receipt: None };
        let sealed =
            self.seal_cell(&Place { table: ANSWERS, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO answers (id, token, model, kind, state, prompt_tokens, completion_tokens,
                                  created_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, 'pending', ?5, 0, ?6, 1, ?7)",
            params![new.id, new.token, new.model, new.kind, new.prompt_tokens, new.created_at_ms, sealed],
        )?;
        Ok(())
    }

    /// Records how a pending answer ended.
    pub fn finish_answer(&self, end: &FinishedAnswer<'_>) -> Result<()> {
        let key = end.id.to_string();
        let (version, mut content) = self
            .one(
                "SELECT version, content FROM answers WHERE id = ?1 AND state = 'pending'",
                [end.id],
                |row| {
                    Ok((get::<u32>(row, "version")?, self.content_of::<AnswerContent>(ANSWERS, &key, row)?))
                },
            )?
            .ok_or_else(|| Error::not_found(format!("no answer {key} is pending")))?;
        content.answer = end.answer.to_owned();
        content.receipt = end.receipt.map(str::to_owned);
        let version = version + 1;
        let sealed = self.seal_cell(&Place { table: ANSWERS, row: &key, version }, &content)?;
        self.execute_one(
            &end.id,
            "UPDATE answers SET state = ?2, finish_reason = ?3, completion_tokens = ?4, ended_at_ms = ?5,
                                version = ?6, content = ?7
             WHERE id = ?1",
            params![
                end.id,
                end.state,
                end.finish_reason,
                end.completion_tokens,
                end.ended_at_ms,
                version,
                sealed
            ],
        )
    }

    /// Answers that were cut off with the process, at start.
    pub fn fail_pending_answers(&self, now_ms: u64) -> Result<usize> {
        self.execute(
            "UPDATE answers SET state = 'failed', ended_at_ms = ?1 WHERE state = 'pending'",
            [now_ms],
        )
    }

    /// # Errors
    /// `NotFound` where there is no such answer.
    pub fn add_feedback(&self, new: &NewFeedback<'_>) -> Result<()> {
        let known =
            self.one("SELECT id FROM answers WHERE id = ?1", [new.answer], |row| get::<Id>(row, "id"))?;
        if known.is_none() {
            return Err(Error::not_found(format!("there is no answer {}", new.answer)));
        }
        let content = FeedbackContent {
            correction: new.correction.map(str::to_owned),
            comment: new.comment.map(str::to_owned),
        };
        let sealed =
            self.seal_cell(&Place { table: FEEDBACK, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO feedback (id, answer, token, rating, state, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, 'new', ?5, 1, ?6)",
            params![new.id, new.answer, new.token, new.rating, new.created_at_ms, sealed],
        )?;
        Ok(())
    }

    /// Takes prompt, text and receipt out of an answer: that it was given stays.
    pub fn empty_answer(&self, id: Id) -> Result<()> {
        self.reseal(
            ANSWERS,
            id,
            &AnswerContent { prompt: String::new(), answer: String::new(), receipt: None },
        )
    }

    /// Takes the words out of feedback: the rating stays.
    pub fn empty_feedback(&self, id: Id) -> Result<()> {
        self.reseal(FEEDBACK, id, &FeedbackContent { correction: None, comment: None })
    }

    pub fn set_feedback_state(
        &self,
        id: Id,
        state: FeedbackState,
        reviewer: &str,
        now_ms: u64,
    ) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE feedback SET state = ?2, reviewed_by = ?3, reviewed_at_ms = ?4 WHERE id = ?1",
            params![id, state, reviewer, now_ms],
        )
    }
}
