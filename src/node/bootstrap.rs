//! One named node from which to start, where multicast does not reach: dialled at all its addresses until there is a
//! session, and again when that ended. Or the nodes behind a DNS name: some of them are dialled, and others when there is
//! no session with any left. Names are resolved anew each time, because what they stand for changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::{Bootstrap, PeerAddress};
use super::hub::Event;
use super::names;
use super::session::{self, Session, SessionConfig, SessionError};

/// A node that was not reached is tried again after this, then twice as long.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);

/// The next address is tried when the one before did not answer for this long.
const STAGGER: Duration = Duration::from_millis(250);

/// Sessions that are enough to start from, of all nodes behind a name.
const ENOUGH: usize = 3;

/// How long the same complaint is not repeated.
const QUIET: Duration = Duration::from_secs(600);

/// What became of one attempt.
enum Reached {
    /// There are sessions with these nodes, one at least.
    Nodes(Vec<NodeId>),
    /// The address is this node's own.
    Itself,
    Nobody(String),
}

/// Keeps a session with the node at `address`, or with some behind it, until the node ends.
pub(super) async fn keep(address: Bootstrap, config: SessionConfig, events: mpsc::Sender<Event>) {
    tokio::select! {
        () = dial(&address, &config, &events) => {}
        () = events.closed() => {}
    }
}

async fn dial(address: &Bootstrap, config: &SessionConfig, events: &mpsc::Sender<Event>) {
    let mut pause = RETRY;
    let mut complained: Option<Instant> = None;
    loop {
        let reached = match address {
            Bootstrap::Node(node) => attempt(node, config, events).await,
            Bootstrap::Name(name) => attempt_some(name, config, events).await,
        };
        match reached {
            Reached::Nodes(nodes) => {
                let since = Instant::now();
                for node in &nodes {
                    config.connected.lost(node).await;
                }
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

async fn attempt_some(name: &str, config: &SessionConfig, events: &mpsc::Sender<Event>) -> Reached {
    let found = match tokio::time::timeout(RESOLVE, names::nodes_behind(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => return Reached::Nobody(reason),
        Err(_) => return Reached::Nobody(format!("no answer from a name server within {} s", RESOLVE.as_secs())),
    };
    let (mut reached, mut failed) = (BTreeSet::new(), String::new());
    for node in &found {
        if reached.len() >= ENOUGH {
            break;
        }
        match attempt(node, config, events).await {
            Reached::Nodes(nodes) => reached.extend(nodes),
            Reached::Itself => {}
            Reached::Nobody(reason) => failed = format!("{node}: {reason}"),
        }
    }
    match (reached.is_empty(), failed.is_empty()) {
        (false, _) => Reached::Nodes(reached.into_iter().collect()),
        (true, true) => Reached::Itself,
        (true, false) => Reached::Nobody(failed),
    }
}

async fn attempt(address: &PeerAddress, config: &SessionConfig, events: &mpsc::Sender<Event>) -> Reached {
    if let Some(node) = address.node.filter(|node| config.connected.contains(node)) {
        return Reached::Nodes(vec![node]);
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
                true => Reached::Nodes(vec![node]),
                false => Reached::Nobody(format!("a session with {node} is not wanted")),
            }
        }
        Err(SessionError::Connected { node, .. }) => Reached::Nodes(vec![node]),
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
