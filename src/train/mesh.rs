//! Ranks: members that train one model together, each a thread with its own copy of it and its own share of every
//! step's rows. Gradients are summed over ranks in rank order as backward completes them, so every rank takes the
//! same step to the same bits; the first rank leads and alone evaluates, saves and speaks.

use std::thread::{Scope, ScopedJoinHandle};

use super::{
    checkpoint::Reading,
    data::Data,
    learner::{Learner, Needs},
    loader::{Order, Packed, Piece, Reader},
    pretrain::not_finite,
    recipe::Recipe,
    saver::Keep,
};
use crate::{
    base::{Context, Error, ErrorKind, Id, Result},
    device::{Comm, Device},
    nn::{GradReady, ParamId},
    ops::Exec,
    tensor::TensorMut,
    vault::Depot,
};

/// What every rank of a run is told.
pub struct Job<'a> {
    pub data: &'a Data<'a>,
    pub depot: &'a dyn Depot,
    pub recipe: &'a Recipe,
    pub needs: Needs,
    /// The checkpoint to go on from.
    pub from: Option<Id>,
    pub first_step: u64,
    /// A processor's threads are shared out to the ranks.
    pub device: &'a Device,
}

/// Makes the first rank's member, and starts every other rank on a thread of its own. They end with the run, or
/// when the first rank's member is dropped.
pub fn form<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    job: &'scope Job<'scope>,
) -> Result<(Member<'scope>, Followers<'scope>)> {
    let mut ends = Comm::group(job.recipe.ranks as usize).into_iter();
    let first = ends.next().ok_or_else(|| Error::usage("a run needs at least one rank"))?;
    let followers = ends.map(|comm| scope.spawn(move || Member::new(job, comm)?.follow())).collect();
    Ok((Member::new(job, first)?, Followers(followers)))
}

/// The ranks beside the first.
pub struct Followers<'scope>(Vec<ScopedJoinHandle<'scope, Result<()>>>);

impl Followers<'_> {
    /// Waits for the others and gives back the first rank's result, or the failure of theirs that was its cause.
    pub fn join<T>(self, first: Result<T>) -> Result<T> {
        let others: Vec<_> = self.0.into_iter().map(ScopedJoinHandle::join).collect();
        // A rank that only heard of another's end says so with `Unavailable`: it is not the cause.
        let released = |error: &Error| error.kind() == ErrorKind::Unavailable;
        if first.as_ref().is_err_and(|error| !released(error)) {
            return first;
        }
        for (rank, other) in others.into_iter().enumerate() {
            let rank = rank + 1;
            match other {
                Err(_) => return Err(Error::failed(format!("rank {rank} panicked"))),
                Ok(Err(error)) if !released(&error) => return Err(error.context(format!("rank {rank}"))),
                Ok(_) => {}
            }
        }
        first
    }
}

/// One rank.
pub struct Member<'a> {
    job: &'a Job<'a>,
    pub learner: Learner,
    comm: Comm,
    order: Order,
    reader: Reader<'a>,
    packed: Packed,
}

impl<'a> Member<'a> {
    /// With initial weights, or those of the checkpoint.
    fn new(job: &'a Job<'a>, comm: Comm) -> Result<Self> {
        let recipe = job.recipe;
        let device = match job.device {
            Device::Cpu(pool) if comm.ranks() > 1 => {
                Device::cpu(Some((pool.threads() / comm.ranks()).max(1)))
            }
            whole => whole.clone(),
        };
        let mut learner = Learner::new(job.needs.exec(&device)?, recipe)?;
        match job.from {
            Some(id) => learner.restore(Reading::begin(job.depot.open(id)?)?, Keep::Latest)?,
            None => learner.init(recipe.seed),
        }
        if comm.ranks() > 1 {
            learner.on_ready(Box::new(Exchange(comm.clone())));
        }
        let order = Order::new(job.data.train.clone(), recipe.shape.context, recipe.seed)?;
        Ok(Self { job, learner, comm, order, reader: job.data.reader(), packed: Packed::default() })
    }

    /// Makes every step that the first rank makes.
    fn follow(mut self) -> Result<()> {
        for step in self.job.first_step..self.job.recipe.steps {
            if self.step(step, false)?.last {
                break;
            }
        }
        Ok(())
    }

    /// Makes step `step`, counted from 0. `stop` on any rank makes it the last on all.
    ///
    /// # Errors
    /// Where loss or gradient is not finite: no rank has then changed its weights.
    pub fn step(&mut self, step: u64, stop: bool) -> Result<Stepped> {
        let recipe = self.job.recipe;
        let scale = 1.0 / recipe.tokens_per_step() as f64;
        self.learner.begin_step();
        for pass in 0..recipe.accumulate {
            self.load(step, pass)?;
            self.learner.accumulate(&self.packed, scale)?;
        }
        let mut sums = [self.learner.step_nats()?, f64::from(u8::from(stop))];
        self.comm.sum(&mut sums)?;
        let [nats, stops] = sums;
        if !nats.is_finite() {
            return Err(not_finite("the loss", nats, step));
        }
        self.learner
            .update(recipe.schedule.at(step), step + 1)
            .with_context(|| format!("step {} with a loss of {:.3}", step + 1, nats * scale))?;
        Ok(Stepped { nats, last: stops > 0.0 })
    }

    /// Reads the rows of this rank's pass `pass` of a step. Passes of a step are dealt to ranks in turn, so that
    /// two ranks see together what one rank sees in twice the passes.
    fn load(&mut self, step: u64, pass: u64) -> Result<()> {
        let recipe = self.job.recipe;
        let turn = pass * self.comm.ranks() as u64 + self.comm.rank() as u64;
        let first = step * recipe.rows_per_step() + turn * recipe.micro_batch;
        self.packed.clear();
        for row in first..first + recipe.micro_batch {
            let pieces = self.order.row(row);
            self.reader.append(&pieces, &mut self.packed)?;
        }
        Ok(())
    }

    /// Nats over held-out rows and the positions they predict; None where there are none.
    pub fn heldout(&mut self, rows: &[Vec<Piece>]) -> Result<Option<(f64, u64)>> {
        let recipe = self.job.recipe;
        let (mut nats, mut positions) = (0.0, 0);
        for rows in rows.chunks(recipe.micro_batch as usize) {
            self.packed.clear();
            for row in rows {
                self.reader.append(row, &mut self.packed)?;
            }
            positions += self.packed.inputs.len() as u64;
            let context = recipe.shape.context as usize;
            self.packed.pad(recipe.micro_batch as usize * context, context);
            nats += self.learner.nats(&self.packed)?;
        }
        Ok((positions > 0).then_some((nats, positions)))
    }
}

/// What a step gave, the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// Summed over the step's tokens.
    pub nats: f64,
    /// A rank was asked to stop: no rank makes another.
    pub last: bool,
}

/// Sums a gradient over the ranks as soon as it is complete.
pub struct Exchange(pub Comm);

impl GradReady for Exchange {
    fn grad_ready(&mut self, _: &Exec, _: ParamId, grad: TensorMut) -> Result<()> {
        self.0.all_reduce(grad)
    }
}
