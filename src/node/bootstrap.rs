//! One named node from which to start, where multicast does not reach: dialled at all its addresses until there is a
//! session, and again when that ended. Names are resolved anew each time, because what they stand for changes.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::PeerAddress;
use super::hub::Event;
use super::session::{self, Session, SessionConfig, SessionError};

/// A node that was not reached is tried again after this, then twice as long.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);

/// The next address is tried when the one before did not answer for this long.
const STAGGER: Duration = Duration::from_millis(250);

/// How long the same complaint is not repeated.
const QUIET: Duration = Duration::from_secs(600);

/// What became of one attempt.
enum Reached {
    /// There is a session with this node.
    Node(NodeId),
    /// The address is this node's own.
    Itself,
    Nobody(String),
}

/// Keeps a session with the node at `address` until the node ends.
pub(super) async fn keep(address: PeerAddress, config: SessionConfig, events: mpsc::Sender<Event>) {
    tokio::select! {
        () = dial(&address, &config, &events) => {}
        () = events.closed() => {}
    }
}

async fn dial(address: &PeerAddress, config: &SessionConfig, events: &mpsc::Sender<Event>) {
    let mut pause = RETRY;
    let mut complained: Option<Instant> = None;
    loop {
        match attempt(address, config, events).await {
            Reached::Node(node) => {
                let since = Instant::now();
                config.connected.lost(&node).await;
                // Whoever closes a session at once, full or shutting down, is not to be bothered every second.
                if since.elapsed() > LAST_RETRY {
                    pause = RETRY;
                    complained = None;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
            Reached::Itself => tokio::time::sleep(QUIET).await,
            Reached::Nobody(reason) => {
                if complained.is_none_or(|last| last.elapsed() > QUIET) {
                    complained = Some(Instant::now());
                    tracing::warn!("--bootstrap {address}: {reason}; it is tried again");
                } else {
                    tracing::debug!(%address, reason, "bootstrap node not reached");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn attempt(address: &PeerAddress, config: &SessionConfig, events: &mpsc::Sender<Event>) -> Reached {
    if let Some(node) = address.node.filter(|node| config.connected.contains(node)) {
        return Reached::Node(node);
    }
    let addresses = match tokio::time::timeout(RESOLVE, address.resolve()).await {
        Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
        Ok(Ok(_)) => return Reached::Nobody("the name has no address".into()),
        Ok(Err(error)) => return Reached::Nobody(error.to_string()),
        Err(_) => return Reached::Nobody(format!("no answer from a name server within {} s", RESOLVE.as_secs())),
    };
    match first_session(&addresses, address.node, config).await {
        Ok(session) => {
            let node = session.remote;
            let opened = Event::Opened { session: Box::new(session), dialled: true };
            if events.send(opened).await.is_err() {
                return Reached::Nobody("the node ended".into());
            }
            match config.connected.met(&node, session::OPENING).await {
                true => Reached::Node(node),
                false => Reached::Nobody(format!("a session with {node} is not wanted")),
            }
        }
        Err(SessionError::Connected { node, .. }) => Reached::Node(node),
        Err(SessionError::Itself { .. }) => Reached::Itself,
        Err(error) => Reached::Nobody(error.to_string()),
    }
}

/// The first session that opens at any of the addresses, else the last error that says more than that it is us.
async fn first_session(
    addresses: &[SocketAddr],
    node: Option<NodeId>,
    config: &SessionConfig,
) -> Result<Session, SessionError> {
    let mut attempts: FuturesUnordered<_> = (0..)
        .zip(addresses)
        .map(|(turn, addr)| async move {
            tokio::time::sleep(STAGGER * turn).await;
            session::connect(*addr, node, config).await
        })
        .collect();
    let mut failed = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(session) => return Ok(session),
            Err(error @ SessionError::Connected { .. }) => return Err(error),
            Err(SessionError::Itself { .. }) if failed.is_some() => {}
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or(SessionError::TimedOut { addr: addresses[0] }))
}
