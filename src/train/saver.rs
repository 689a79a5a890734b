//! Puts checkpoints into the vault in the background: the run copies its numbers and goes on, one thread seals
//! the copy, makes it durable, states it as a fact, and only then lets the older one go. At every moment at
//! least one whole checkpoint stands. Early in a run every evaluation finds better weights than the one before, faster
//! than they can be sealed: those wait, and give way to still better ones.

use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use super::{checkpoint::Copied, pretrain::Checkpoints};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result},
    vault::Depot,
};

/// Which of a run's two kinds of checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Weights and optimizer state: what resuming needs. The two newest are kept.
    Latest,
    /// Weights alone, at the lowest held-out loss. One is kept.
    Best,
}

/// Checkpoints with optimizer state that are kept.
const LATEST_KEPT: usize = 2;

pub struct Saver<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    vault: &'env Store<'env>,
    /// The one being sealed.
    busy: Option<ScopedJoinHandle<'scope, Result<()>>>,
    /// The best weights, to be sealed next.
    best: Option<Copied>,
}

/// What the sealing thread shares with the run.
pub struct Store<'a> {
    depot: &'a dyn Depot,
    monitor: &'a dyn Monitor,
    stand: Mutex<Checkpoints>,
}

impl<'a> Store<'a> {
    /// `stand` is what the run recorded before, if anything.
    pub fn new(depot: &'a dyn Depot, monitor: &'a dyn Monitor, stand: Checkpoints) -> Self {
        Self { depot, monitor, stand: Mutex::new(stand) }
    }

    /// The checkpoints that stand now.
    pub fn stand(&self) -> Checkpoints {
        self.stand.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, copied: &Copied, keep: Keep) -> Result<()> {
        let mut object = self.depot.create(IdKind::Checkpoint, copied.len_bytes())?;
        copied.write(&mut object)?;
        let id = self.depot.commit(object)?;
        let (now, gone) = with(self.stand(), id, keep);
        let fact = serde_json::to_value(&now).context("writing the list of checkpoints")?;
        self.monitor.record(Checkpoints::FACT, &fact)?;
        *self.stand.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if keep == Keep::Latest {
            self.monitor.note(&format!("checkpoint {id} holds step {}", copied.step));
        }
        // Only now: a stop between the two leaves one too many, never one too few.
        gone.into_iter().try_for_each(|id| self.depot.delete(id))
    }
}

/// The list with `id` in it, and what no longer belongs to it.
fn with(mut stand: Checkpoints, id: Id, keep: Keep) -> (Checkpoints, Vec<Id>) {
    let gone = match keep {
        Keep::Best => stand.best.replace(id).into_iter().collect(),
        Keep::Latest => {
            stand.latest.push(id);
            let excess = stand.latest.len().saturating_sub(LATEST_KEPT);
            stand.latest.drain(..excess).collect()
        }
    };
    (stand, gone)
}

impl<'scope, 'env> Saver<'scope, 'env> {
    pub fn new(scope: &'scope Scope<'scope, 'env>, vault: &'env Store<'env>) -> Self {
        Self { scope, vault, busy: None, best: None }
    }

    /// Begins to seal a copy. The best weights wait where something is being sealed; the latest checkpoint, which says what
    /// was best, waits until that is durable.
    ///
    /// # Errors
    /// What became of the one before.
    pub fn save(&mut self, copied: Copied, keep: Keep) -> Result<()> {
        match keep {
            Keep::Best => {
                self.best = Some(copied);
                self.tend()
            }
            Keep::Latest => {
                self.finish()?;
                self.seal(copied, keep);
                Ok(())
            }
        }
    }

    /// Begins to seal what waits, if nothing is being sealed.
    ///
    /// # Errors
    /// What became of the one before.
    pub fn tend(&mut self) -> Result<()> {
        if self.best.is_none() || self.busy.as_ref().is_some_and(|busy| !busy.is_finished()) {
            return Ok(());
        }
        self.join()?;
        if let Some(best) = self.best.take() {
            self.seal(best, Keep::Best);
        }
        Ok(())
    }

    /// Waits until everything that was saved is durable.
    pub fn finish(&mut self) -> Result<()> {
        self.join()?;
        self.tend()?;
        self.join()
    }

    fn seal(&mut self, copied: Copied, keep: Keep) {
        let vault = self.vault;
        self.busy =
            Some(self.scope.spawn(move || {
                vault.put(&copied, keep).map_err(|error| error.context("saving a checkpoint"))
            }));
    }

    fn join(&mut self) -> Result<()> {
        match self.busy.take().map(ScopedJoinHandle::join) {
            None => Ok(()),
            Some(Ok(saved)) => saved,
            Some(Err(_)) => Err(Error::failed("the thread that saves checkpoints panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_latest_and_one_best_are_kept() {
        let id = |n| Id::from_parts(IdKind::Checkpoint, n, [0; 10]);
        let mut stand = Checkpoints::default();
        let mut gone = Vec::new();
        for (n, keep) in
            [(1, Keep::Latest), (2, Keep::Best), (3, Keep::Latest), (4, Keep::Latest), (5, Keep::Best)]
        {
            let (now, went) = with(stand, id(n), keep);
            stand = now;
            gone.extend(went);
        }
        assert_eq!(stand, Checkpoints { latest: vec![id(3), id(4)], best: Some(id(5)) });
        assert_eq!(gone, [id(1), id(2)]);
    }
}
