//! `cloister chat`: a conversation on the terminal, answered piece by piece. The messages stay in memory; what
//! is kept of them is what the audit log keeps of every question.

use std::io::{BufRead, IsTerminal};

use super::{model::Sampling, session::Session, signals};
use crate::{
    base::{Context, Result},
    text::Message,
    work::request::{Chat, Generated, Request},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an identifier
    #[arg(value_name = "MODEL")]
    model: String,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// At most so many tokens an answer
    #[arg(long, value_name = "K", default_value_t = 256)]
    max_tokens: u32,
    #[command(flatten)]
    sampling: Sampling,
}

pub fn run(args: Args, session: &Session) -> Result<()> {
    let said = |role: &str, content: String| Message { role: role.into(), content };
    let mut messages: Vec<Message> = args.system.map(|text| said("system", text)).into_iter().collect();
    let choice = args.sampling.choice(args.max_tokens, false);
    let is_talk = std::io::stdin().is_terminal() && !session.screen.is_json();
    if is_talk {
        eprintln!("A line is a message; Ctrl-D ends.");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if is_talk {
            eprint!("> ");
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.context("reading standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        messages.push(said("user", line));
        let request = Request::ModelChat(Chat {
            model: args.model.clone(),
            messages: messages.clone(),
            choice: choice.clone(),
        });
        let answer: Generated = session.ask_aloud(request)?;
        messages.push(said("assistant", answer.text));
        if signals::stop_requested() {
            return Ok(());
        }
    }
}
