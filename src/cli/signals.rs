//! Ctrl-C and SIGTERM, once for the process: the first asks the work to stop at its next safe place, the
//! second stops at once. What was reported done is on the disk either way.

use std::sync::{
    Arc, LazyLock, Once,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static LISTENING: Once = Once::new();

/// What shells expect of a process that SIGINT ended: 128 + 2.
const EXIT_SIGINT: i32 = 130;

/// Whether somebody asked this process to stop.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Listens from now on, and gives the flag that is raised. Without a listener a signal ends the process as it
/// does any other, or is lost.
pub fn listen() -> Arc<AtomicBool> {
    LISTENING.call_once(|| {
        let (ready, listening) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("signals".into()).spawn(|| wait_for_signals(ready));
        if let Err(error) = spawned {
            tracing::warn!("cannot listen for Ctrl-C: {error}");
        }
        // An end without a word has been warned of.
        let _ = listening.recv();
    });
    Arc::clone(&STOP)
}

fn wait_for_signals(ready: mpsc::Sender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!("cannot listen for Ctrl-C: {error}"),
    };
    runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return tracing::warn!("cannot listen for Ctrl-C");
        };
        // Whoever started this thread waits to hear it.
        let _ = ready.send(());
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if STOP.swap(true, Ordering::Relaxed) {
                stop_at_once();
            }
            eprintln!("\nstopping: what runs is brought to a safe end (Ctrl-C again stops at once)");
        }
    });
}

#[allow(clippy::exit)] // The second Ctrl-C asks for exactly this; every write is atomic, nothing is half done.
fn stop_at_once() -> ! {
    std::process::exit(EXIT_SIGINT)
}
