//! The card's one stream, and what waits for it. Launches are kept in a row until something else needs the card: a copy,
//! or somebody who wants a result. A row that comes back, the same kernels with the same arguments, is a CUDA graph from
//! then on, which the driver starts as a whole instead of kernel by kernel. So the training step and the decode step of
//! each batch size become graphs without anybody above knowing of it, and a row that differs in anything at all is never
//! taken for another.

use std::{collections::HashMap, ffi::c_void, ptr};

use cudarc::driver::sys;

use super::{
    Cuda,
    context::Stream,
    cublaslt,
    driver::check,
    kernels::Kernel,
    launch::{Arg, Grid},
    staging::Staging,
};
use crate::{base::Result, tensor::DType};

/// A shorter row is not worth a graph.
const GRAPH_LAUNCHES_MIN: usize = 8;
/// A longer row does not wait for more.
const ROW_LAUNCHES_MAX: usize = 4096;
/// Rows that are remembered, with graphs or not; the one that was not seen for longest makes room.
const ROWS_MAX: usize = 64;
/// What NVIDIA's tools set to have every kernel run alone, so that the one at fault is known.
const ONE_BY_ONE: &str = "CUDA_LAUNCH_BLOCKING";

/// Whoever holds it enqueues; nobody else does, so that what is enqueued lies in order and a graph holds only its own.
pub struct Queue {
    /// Uploads that were not sent yet come before the row.
    staging: Staging,
    row: Row,
    known: HashMap<Row, Known>,
    /// Counts the rows that were sent.
    turn: u64,
    one_by_one: bool,
    stream: Stream,
}

// SAFETY: the driver lets any thread use streams, functions and graphs; access is through `&mut self`.
unsafe impl Send for Queue {}

/// Launches in order, with the values of their arguments one after the other.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Row {
    launches: Vec<Launch>,
    arguments: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Launch {
    Kernel { function: sys::CUfunction, name: &'static str, dtype: DType, grid: Grid, arguments: usize },
    Product { shape: cublaslt::Shape, addresses: cublaslt::Addresses, add: bool },
}

impl Launch {
    fn name(self) -> &'static str {
        match self {
            Self::Kernel { name, .. } => name,
            Self::Product { .. } => "cublasLtMatmul",
        }
    }
}

/// A row that was seen.
struct Known {
    /// From its second time on.
    graph: Option<Graph>,
    last_turn: u64,
}

impl Queue {
    /// In the current context.
    pub fn new() -> Result<Self> {
        Ok(Self {
            staging: Staging::new()?,
            row: Row::default(),
            known: HashMap::new(),
            turn: 0,
            one_by_one: std::env::var_os(ONE_BY_ONE).is_some_and(|value| value != "0"),
            stream: Stream::new()?,
        })
    }

    /// Puts a kernel into the row. There is an argument of the right size for each of its parameters.
    pub fn kernel(
        &mut self,
        cuda: &Cuda,
        (name, dtype): (&'static str, DType),
        kernel: &Kernel,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        self.row.arguments.extend(args.iter().map(|arg| arg.bits()));
        self.row.launches.push(Launch::Kernel {
            function: kernel.function,
            name,
            dtype,
            grid,
            arguments: args.len(),
        });
        self.pushed(cuda)
    }

    /// Puts a product of matrices into the row, see [`cublaslt::CublasLt::multiply`].
    pub fn product(
        &mut self,
        cuda: &Cuda,
        shape: cublaslt::Shape,
        addresses: cublaslt::Addresses,
        add: bool,
    ) -> Result<()> {
        self.row.launches.push(Launch::Product { shape, addresses, add });
        self.pushed(cuda)
    }

    fn pushed(&mut self, cuda: &Cuda) -> Result<()> {
        match self.one_by_one || self.row.launches.len() >= ROW_LAUNCHES_MAX {
            true => self.send(cuda),
            false => Ok(()),
        }
    }

    /// Enqueues a copy to the card. `whole` blocks of an arena may be copied with what pads them.
    ///
    /// # Safety
    /// `to` begins as many bytes of the card's memory, in the current context.
    pub unsafe fn upload(&mut self, cuda: &Cuda, to: u64, from: &[u8], whole: bool) -> Result<()> {
        if !self.row.launches.is_empty() {
            self.send(cuda)?;
        }
        // SAFETY: by this function's promise.
        unsafe { self.staging.upload(&self.stream, to, from, whole) }
    }

    /// Waits for all that was enqueued, and copies from the card, see [`Staging::download`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn download(
        &mut self,
        cuda: &Cuda,
        from: u64,
        len_bytes: usize,
        take: impl FnMut(&[u8]),
    ) -> Result<()> {
        self.send(cuda)?;
        // SAFETY: by this function's promise.
        unsafe { self.staging.download(&self.stream, from, len_bytes, take) }
    }

    /// Enqueues the writing of `byte` over a stretch of the card's memory.
    ///
    /// # Safety
    /// As [`Queue::upload`].
    pub unsafe fn fill(&mut self, cuda: &Cuda, start: u64, byte: u8, len_bytes: usize) -> Result<()> {
        self.send(cuda)?;
        // SAFETY: by this function's promise.
        let outcome = unsafe { sys::cuMemsetD8Async(start, byte, len_bytes, self.stream.0) };
        check(outcome, "filling the card's memory")
    }

    /// Enqueues what waits, and waits until all is done.
    pub fn wait(&mut self, cuda: &Cuda) -> Result<()> {
        self.send(cuda)?;
        self.stream.wait()
    }

    /// Waits for what was enqueued; what waits in the row is forgotten.
    pub fn abandon(&mut self) {
        self.row.clear();
        // Nobody is left to hear of errors.
        let _ = self.stream.wait();
    }

    /// Enqueues what waits.
    pub fn send(&mut self, cuda: &Cuda) -> Result<()> {
        self.staging.send(&self.stream)?;
        if self.row.launches.is_empty() {
            return Ok(());
        }
        let outcome = self.send_row(cuda);
        self.row.clear();
        outcome
    }

    fn send_row(&mut self, cuda: &Cuda) -> Result<()> {
        cuda.context.bind()?;
        let Self { row, known, stream, turn, .. } = self;
        *turn += 1;
        for launch in &row.launches {
            cuda.note(launch.name());
        }
        if row.launches.len() < GRAPH_LAUNCHES_MIN {
            return row.enqueue(cuda, stream);
        }
        let Some(seen) = known.get_mut(row) else {
            if known.len() >= ROWS_MAX {
                let oldest = known.values().map(|seen| seen.last_turn).min().unwrap_or_default();
                known.retain(|_, seen| seen.last_turn != oldest);
            }
            known.insert(row.clone(), Known { graph: None, last_turn: *turn });
            return row.enqueue(cuda, stream);
        };
        seen.last_turn = *turn;
        match &mut seen.graph {
            Some(graph) => graph.launch(stream),
            none => none.insert(Graph::of(stream, || row.enqueue(cuda, stream))?).launch(stream),
        }
    }
}

impl Row {
    fn clear(&mut self) {
        self.launches.clear();
        self.arguments.clear();
    }

    /// Enqueues each launch by itself.
    fn enqueue(&self, cuda: &Cuda, stream: &Stream) -> Result<()> {
        let mut values = self.arguments.as_slice();
        for &launch in &self.launches {
            match launch {
                Launch::Kernel { function, name, dtype, grid, arguments } => {
                    let (own, rest) = values.split_at(arguments);
                    values = rest;
                    start(function, grid, own, stream)
                        .map_err(|error| error.context(format!("launching {name}_{dtype}")))?;
                }
                Launch::Product { shape, addresses, add } => {
                    cuda.start_product(shape, addresses, add, stream)?;
                }
            }
        }
        Ok(())
    }
}

fn start(function: sys::CUfunction, grid: Grid, arguments: &[u64], stream: &Stream) -> Result<()> {
    let pointer = |value: &u64| -> *mut c_void { ptr::from_ref(value).cast_mut().cast() };
    let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer).collect();
    let [x, y, z] = grid.blocks;
    // SAFETY: the function is loaded, and there is an argument for each of its parameters, the shorter ones in the lower
    // bytes, which come first on every machine that a card is in; the driver copies them before it returns. What the
    // kernel does with its pointers is the operation's promise.
    let outcome = unsafe {
        sys::cuLaunchKernel(
            function,
            x,
            y,
            z,
            grid.threads,
            1,
            1,
            grid.shared_bytes,
            stream.0,
            pointers.as_mut_ptr(),
            ptr::null_mut(),
        )
    };
    check(outcome, "the launch")
}

/// Launches that the driver starts as one.
struct Graph(sys::CUgraphExec);

impl Graph {
    /// Of what `enqueue` enqueues.
    fn of(stream: &Stream, enqueue: impl FnOnce() -> Result<()>) -> Result<Self> {
        let doing = "making a graph of launches";
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        check(unsafe { sys::cuStreamBeginCapture_v2(stream.0, mode) }, doing)?;
        let enqueued = enqueue();
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the capture was begun, so it is ended whatever happened; the graph is written on success.
        let ended = check(unsafe { sys::cuStreamEndCapture(stream.0, &mut graph) }, doing);
        let made = enqueued.and(ended).and_then(|()| {
            // SAFETY: the graph is whole; the executable is written on success.
            check(unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) }, doing)
        });
        if !graph.is_null() {
            // SAFETY: written above, and its executable stands by itself.
            unsafe { sys::cuGraphDestroy(graph) };
        }
        made.map(|()| Self(executable))
    }

    fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live; what the launches need lives as it does for launches one by one.
        check(unsafe { sys::cuGraphLaunch(self.0, stream.0) }, "launching a graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `of`; the driver keeps it until it is done.
        unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}
