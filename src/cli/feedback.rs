//! `cloister feedback`: what people said about answers, and what a reviewer made of it.

use super::session::{Session, feedback_id, time};
use crate::{
    base::{Id, Result},
    work::request::{FeedbackRow, Request},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List feedback
    Ls {
        /// In this state alone: new, accepted or rejected
        #[arg(long, value_parser = ["new", "accepted", "rejected"])]
        state: Option<String>,
    },
    /// Accept a piece of feedback as an example to learn from
    Accept {
        #[arg(value_parser = feedback_id, value_name = "ID")]
        feedback: Id,
    },
    /// Reject one
    Reject {
        #[arg(value_parser = feedback_id, value_name = "ID")]
        feedback: Id,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::Ls { state } => session.ask::<Vec<FeedbackRow>>(Request::FeedbackLs { state })?,
        Command::Accept { feedback } => {
            vec![session.ask(Request::FeedbackReview { feedback, accept: true })?]
        }
        Command::Reject { feedback } => {
            vec![session.ask(Request::FeedbackReview { feedback, accept: false })?]
        }
    };
    session.screen.rows(&rows, ["id", "answer", "rating", "state", "given", "comment", "correction"], |row| {
        [
            row.id.to_string(),
            row.answer.to_string(),
            row.rating.map_or_else(String::new, |rating| rating.to_string()),
            row.state.clone(),
            time(row.created_at_ms),
            row.comment.clone().unwrap_or_default(),
            row.correction.clone().unwrap_or_default(),
        ]
    })
}
