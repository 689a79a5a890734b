//! What erased documents had reached, found through lineage, and the command that makes each of it anew without them.

use std::collections::BTreeSet;

use crate::{
    base::{Context, Error, Id, IdKind, Result},
    improve::Reached,
    store::{Deployment, DeploymentState, Rows, Run, Snapshot},
    train::{RunConfig, pretrain::Checkpoints},
    work::host::ids_in,
};

/// Every snapshot, tokenizer, set of tokens, run, checkpoint, model and active deployment that any of `erased` went into, in
/// this order.
pub(in crate::work) fn by(rows: &Rows<'_>, erased: &[Id]) -> Result<Vec<Reached>> {
    let all = rows.made_of(erased, |_| false)?;
    let direct = rows.made_of(erased, |made| made.kind() == IdKind::Tokenizer)?;
    let search = Search { rows, erased, all: &all };
    let mut reached = Vec::new();
    for &id in &all {
        // Numbers about a model, and answers of one: nothing is made of them.
        if [IdKind::Evaluation, IdKind::Answer, IdKind::Feedback].contains(&id.kind()) {
            continue;
        }
        // What was only proposed, or stands no longer, repeats nothing to anybody.
        let stands = |deployment: &Deployment| deployment.state == DeploymentState::Active;
        if id.kind() == IdKind::Deployment && !rows.deployment(id)?.is_some_and(|found| stands(&found)) {
            continue;
        }
        let because = because(id.kind(), direct.contains(&id));
        let retrain = search.command(id)?;
        reached.push(Reached { id, because: because.to_owned(), retrain: retrain.clone() });
        if id.kind() == IdKind::Run {
            let fact = rows.fact(id, Checkpoints::FACT)?;
            let named = fact.iter().flat_map(ids_in).filter(|id| id.kind() == IdKind::Checkpoint);
            let checkpoints: BTreeSet<Id> = named.collect();
            reached.extend(checkpoints.into_iter().map(|id| Reached {
                id,
                because: because.to_owned(),
                retrain: retrain.clone(),
            }));
        }
    }
    Ok(reached)
}

/// The command that begins a run of the same configuration on what is left of its collection.
pub(super) fn pretrain_anew(rows: &Rows<'_>, run: &Run) -> Result<Option<String>> {
    let erased = rows.erased_members(run.snapshot)?;
    let all = rows.made_of(&erased, |_| false)?;
    Search { rows, erased: &erased, all: &all }.pretrain(run)
}

fn because(kind: IdKind, is_direct: bool) -> &'static str {
    match kind {
        IdKind::Snapshot => "holds them",
        IdKind::Shard if is_direct => "holds their tokens, sealed under their keys",
        IdKind::Tokenizer => "was trained on them",
        IdKind::Deployment => "serves a model that they went into; `cloister deploy retire` ends that",
        _ if is_direct => "was trained on them",
        _ => "uses a tokenizer that was trained on them",
    }
}

struct Search<'a> {
    rows: &'a Rows<'a>,
    erased: &'a [Id],
    all: &'a BTreeSet<Id>,
}

impl Search<'_> {
    fn command(&self, id: Id) -> Result<Option<String>> {
        let rows = self.rows;
        match id.kind() {
            // The first thing that it makes is a snapshot of what is there.
            IdKind::Snapshot => match rows.snapshot(id)? {
                Some(snapshot) => self.train_tokenizer(&snapshot, None),
                None => Ok(None),
            },
            IdKind::Tokenizer => {
                let Some(row) = rows.tokenizer(id)? else { return Ok(None) };
                let snapshot = row.snapshot.map(|snapshot| rows.snapshot(snapshot)).transpose()?.flatten();
                snapshot.map_or(Ok(None), |snapshot| self.train_tokenizer(&snapshot, Some(row.vocab_size)))
            }
            IdKind::Run => rows.run(id)?.map_or(Ok(None), |run| self.pretrain(&run)),
            IdKind::Model => {
                let run = rows.model(id)?.and_then(|model| model.run);
                let run = run.map(|run| rows.run(run)).transpose()?.flatten();
                run.map_or(Ok(None), |run| self.pretrain(&run))
            }
            _ => Ok(None),
        }
    }

    fn train_tokenizer(&self, snapshot: &Snapshot, vocab_size: Option<u64>) -> Result<Option<String>> {
        let Some(collection) = self.collection_with_text(snapshot)? else { return Ok(None) };
        let mut words = ["cloister", "tokenizer", "train", "--data", &collection].map(str::to_owned).to_vec();
        words.extend(vocab_size.into_iter().flat_map(|size| ["--vocab-size".to_owned(), size.to_string()]));
        words.extend(lower_case(snapshot));
        Ok(Some(line(&words)))
    }

    fn pretrain(&self, run: &Run) -> Result<Option<String>> {
        let Some(snapshot) = self.rows.snapshot(run.snapshot)? else { return Ok(None) };
        let Some(collection) = self.collection_with_text(&snapshot)? else { return Ok(None) };
        let mut words = ["cloister", "model", "pretrain", "--data", &collection, "--name", &run.name]
            .map(str::to_owned)
            .to_vec();
        if self.all.contains(&run.tokenizer) {
            let size = self.rows.tokenizer(run.tokenizer)?.map(|tokenizer| tokenizer.vocab_size.to_string());
            words.extend(size.into_iter().flat_map(|size| ["--vocab-size".to_owned(), size]));
        } else {
            words.extend(["--tokenizer".to_owned(), run.tokenizer.to_string()]);
        }
        words.extend(lower_case(&snapshot));
        let config: RunConfig =
            serde_json::from_value(run.config.clone()).context("reading the configuration of a run")?;
        let config = toml::Table::try_from(config)
            .map_err(|error| Error::failed(format!("writing the configuration of a run: {error}")))?;
        words.extend(config.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]));
        Ok(Some(line(&words)))
    }

    /// The name of the snapshot's collection, where it holds anything beside what goes.
    fn collection_with_text(&self, snapshot: &Snapshot) -> Result<Option<String>> {
        let left = self.rows.documents(Some(snapshot.collection))?;
        if left.iter().all(|document| self.erased.contains(&document.id)) {
            return Ok(None);
        }
        self.rows.collection_name(snapshot.collection)
    }
}

fn lower_case(snapshot: &Snapshot) -> Option<String> {
    let folded = snapshot.spec["clean"]["lower_case"].as_bool() == Some(true);
    folded.then(|| "--lower-case".to_owned())
}

/// The words as a shell takes them.
fn line(words: &[String]) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./=:,+@%".contains(letter);
    let quoted = words.iter().map(|word| match word {
        word if !word.is_empty() && word.chars().all(plain) => word.clone(),
        word => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_shell() {
        let words = ["cloister", "a b", "it's", "", "x=1e-3", "$(rm)", "ü"].map(str::to_owned);
        let line = line(&words);
        assert_eq!(line, r"cloister 'a b' 'it'\''s' '' x=1e-3 '$(rm)' 'ü'");
        let said = std::process::Command::new("sh").args(["-c", &format!("printf '%s|' {line}")]).output();
        assert_eq!(String::from_utf8_lossy(&said.expect("a shell").stdout), words.join("|") + "|");
    }
}
