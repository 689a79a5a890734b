//! `cloister lineage`: where a thing came from, and what came of it.

use super::{
    screen::printable,
    session::{Session, any_id},
};
use crate::{
    base::{Id, Result},
    work::request::{Lineage, LineageEdge, Request},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The way up and the way down from a document, snapshot, tokenizer, run, model, deployment or answer
    Show {
        #[arg(value_parser = any_id, value_name = "ID")]
        id: Id,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let Command::Show { id } = command;
    let lineage: Lineage = session.ask(Request::LineageShow { id })?;
    session.screen.show(&lineage, |screen, Lineage { id, up, down, labels }| {
        screen.line(id)?;
        let draw = |edge: &LineageEdge, far: Id| {
            let indent = 2 * edge.depth.min(20) as usize;
            let label = labels.get(&far).map_or_else(String::new, |label| format!("  {}", printable(label)));
            screen.line(format_args!("{:indent$}{far}  {}{label}", "", edge.relation))
        };
        screen.line("made from")?;
        up.iter().try_for_each(|edge| draw(edge, edge.parent))?;
        screen.line("made into")?;
        down.iter().try_for_each(|edge| draw(edge, edge.child))
    })
}
