//! The signals that ask the program to end, and what the shell is told then.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// Listens for them from its creation on: from then on they no longer end the process by themselves.
pub(super) struct Signals {
    interrupted: Option<Signal>,
    terminated: Option<Signal>,
}

impl Signals {
    /// Starts to listen; has to be called within a tokio runtime.
    pub(super) fn listen() -> Self {
        let [interrupted, terminated] =
            [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
        Self { interrupted, terminated }
    }

    /// Waits for one of them. Can be dropped and called again.
    pub(super) async fn next(&mut self) -> Exit {
        let wait = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        };
        tokio::select! {
            () = wait(&mut self.interrupted) => Exit::Interrupted,
            () = wait(&mut self.terminated) => Exit::Terminated,
        }
    }
}
