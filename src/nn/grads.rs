//! Gradients, and the count of what goes into each. A parameter may be used more than once in a step: a tied head,
//! several micro-batches. The first contribution replaces what the last step left, so nothing is zeroed; the last
//! one makes the gradient ready, and whoever exchanges gradients is told while backward goes on.

use std::sync::Arc;

use super::{ParamId, ParamTable, Params};
use crate::{
    base::{Error, Result},
    ops::{Exec, Write},
    tensor::{Buf, Tensor, TensorMut},
};

/// Told of each gradient as soon as it is complete, in the same order on every rank.
pub trait GradReady: Send {
    fn grad_ready(&mut self, exec: &Exec, id: ParamId, grad: TensorMut) -> Result<()>;
}

/// How often each parameter's gradient is contributed to in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contributions(Vec<u32>);

impl Contributions {
    /// For a step of so many equal passes.
    pub fn times(&self, passes: u32) -> Self {
        Self(self.0.iter().map(|count| count * passes).collect())
    }
}

pub struct Grads {
    table: Arc<ParamTable>,
    flat: Buf,
    expected: Option<Contributions>,
    seen: Contributions,
    ready: Option<Box<dyn GradReady>>,
}

impl Grads {
    /// In persistent memory, in the weights' type.
    pub fn new(exec: &Exec, params: &Params) -> Result<Self> {
        let table = params.table().clone();
        // The gaps between parameters are read by sums over the whole buffer.
        let flat = exec.take_zeros([table.buffer_len()], params.dtype())?;
        let seen = Contributions(vec![0; table.iter().len()]);
        Ok(Self { table, flat, expected: None, seen, ready: None })
    }

    /// Whom to tell of complete gradients.
    pub fn on_ready(&mut self, ready: Box<dyn GradReady>) {
        self.ready = Some(ready);
    }

    /// Begins a step. `expected` comes from [`Grads::contributions`] after a dry run.
    pub fn begin_step(&mut self, expected: &Contributions) {
        self.expected = Some(expected.clone());
        self.seen.0.fill(0);
    }

    /// Ends a step.
    ///
    /// # Errors
    /// If a gradient did not get all its contributions: it would be another step's.
    pub fn end_step(&self) -> Result<()> {
        let Some(expected) = &self.expected else { return Ok(()) };
        for (id, param) in self.table.iter() {
            let (expected, seen) = (expected.0[id.index()], self.seen.0[id.index()]);
            if expected != seen {
                let name = &param.parts[0].0;
                return Err(Error::failed(format!(
                    "the gradient of {name} had {seen} contributions where {expected} were counted"
                )));
            }
        }
        Ok(())
    }

    /// What has been contributed since the step began: after a dry run, what to expect of a real one.
    pub fn contributions(&self) -> Contributions {
        self.seen.clone()
    }

    /// Lets `write` replace or add to a gradient, and tells of it if that was the last contribution.
    pub fn contribute(
        &mut self,
        exec: &Exec,
        id: ParamId,
        write: impl FnOnce(&Exec, TensorMut, Write) -> Result<()>,
    ) -> Result<()> {
        let seen = &mut self.seen.0[id.index()];
        let how = if *seen == 0 { Write::Replace } else { Write::Add };
        *seen += 1;
        let last = self.expected.as_ref().is_some_and(|expected| expected.0[id.index()] == *seen);
        let param = &self.table[id];
        let mut grad = self.flat.view_mut().window(param.start, param.shape);
        write(exec, grad.reborrow(), how)?;
        match &mut self.ready {
            Some(ready) if last => ready.grad_ready(exec, id, grad),
            _ => Ok(()),
        }
    }

    pub fn view(&self, id: ParamId) -> Tensor<'_> {
        let param = &self.table[id];
        self.flat.view().window(param.start, param.shape)
    }

    /// All gradients in one row, in the order of the parameters.
    pub fn flat(&self) -> Tensor<'_> {
        self.flat.view()
    }

    pub fn flat_mut(&mut self) -> TensorMut<'_> {
        self.flat.view_mut()
    }
}
