//! A card's primary context and the one stream on which everything runs in order.

use std::ptr;

use cudarc::driver::sys;

use super::{driver::check, info};
use crate::base::Result;

/// The primary context, held.
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver lets any thread use a context; it is made current by whoever calls.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Of a card that exists. It becomes this thread's.
    pub fn of(ordinal: u32) -> Result<Self> {
        let device = info::device(ordinal)?;
        let mut context = ptr::null_mut();
        // SAFETY: the symbol was looked for and the card exists; the context is written on success.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) }, "opening the card")?;
        let context = Self { device, context };
        context.bind()?;
        Ok(context)
    }

    /// Makes it this thread's: calls of the driver mean the current context.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is held for as long as `self` lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "turning to the card")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: held once by `of`, given back once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A stream of the context that was current when it was made.
pub struct Stream(pub sys::CUstream);

// SAFETY: the driver lets any thread use a stream.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new() -> Result<Self> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a context is current; the stream is written on success.
        check(unsafe { sys::cuStreamCreate(&mut stream, flags) }, "making a stream")?;
        Ok(Self(stream))
    }

    /// Until all that was enqueued is done.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        check(unsafe { sys::cuStreamSynchronize(self.0) }, "waiting for the card")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody else has it.
        unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}
