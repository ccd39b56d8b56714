//! The DHT where many nodes provide one index: who is found, by whom, and until when.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use caswarm::node::dht::{self, DhtConfig, DhtEvent, DhtHandle};
use caswarm::node::identity::Identity;
use proto::{IndexId, NodeId};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

const INDEX: IndexId = IndexId([8; 32]);

async fn start(server: bool) -> (NodeId, DhtHandle, Receiver<DhtEvent>) {
    let identity = Identity::ephemeral();
    let node = identity.node_id();
    let listen = "127.0.0.1".parse().unwrap();
    let config = DhtConfig { listen, server, ..DhtConfig::new(identity, 5001) };
    let (handle, events) = dht::start(config).await.unwrap();
    (node, handle, events)
}

fn at(handle: &DhtHandle) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], handle.port()))
}

/// The providers that are found within a time, asking again each second as a node does that lacks something.
async fn found(handle: &DhtHandle, events: &mut Receiver<DhtEvent>, time: Duration) -> BTreeSet<NodeId> {
    let until = Instant::now() + time;
    let mut found = BTreeSet::new();
    while Instant::now() < until {
        handle.find_providers(INDEX);
        let next = until.min(Instant::now() + Duration::from_secs(1));
        while let Ok(Some(event)) = tokio::time::timeout_at(next, events.recv()).await {
            if let DhtEvent::Provider { node, .. } = event {
                found.insert(node);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_came_after_the_first_twenty_are_found_too() {
    const EARLY: usize = 22;
    const LATE: usize = 10;
    let mut nodes = Vec::new();
    for _ in 0..EARLY + LATE {
        nodes.push(start(true).await);
    }
    let (first, first_at) = (nodes[0].0, at(&nodes[0].1));
    for (_, handle, _) in &nodes[1..] {
        handle.add_peer(first, first_at);
    }
    let deadline = Instant::now() + Duration::from_secs(150);
    let search = async || {
        let (_, handle, mut events) = start(false).await;
        handle.add_peer(first, first_at);
        found(&handle, &mut events, Duration::from_secs(4)).await
    };
    nodes[..EARLY].iter().for_each(|(_, handle, _)| handle.provide(INDEX));
    let mut seen = BTreeSet::new();
    while seen.len() < EARLY - 4 {
        assert!(Instant::now() < deadline, "of the first only {} were found", seen.len());
        seen.extend(search().await);
    }

    nodes[EARLY..].iter().for_each(|(_, handle, _)| handle.provide(INDEX));
    let late: BTreeSet<_> = nodes[EARLY..].iter().map(|(node, ..)| *node).collect();
    // libp2p by itself tells everybody of the twenty that came first.
    while seen.intersection(&late).count() < LATE / 2 {
        assert!(Instant::now() < deadline, "of the others only {} were found", seen.intersection(&late).count());
        seen.extend(search().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_that_leaves_is_not_found_any_more() {
    let (middle, keeper, _middle_events) = start(true).await;
    let (stays, staying, _s) = start(false).await;
    let (leaves, leaving, _l) = start(false).await;
    for handle in [&staying, &leaving] {
        handle.add_peer(middle, at(&keeper));
        handle.provide(INDEX);
    }
    let (_, early, mut early_events) = start(false).await;
    early.add_peer(middle, at(&keeper));
    let until = Instant::now() + Duration::from_secs(30);
    let mut seen = BTreeSet::new();
    while seen.len() < 2 && Instant::now() < until {
        seen.extend(found(&early, &mut early_events, Duration::from_secs(1)).await);
    }
    assert_eq!(seen, BTreeSet::from([stays, leaves]));

    leaving.close().await;
    let (_, late, mut late_events) = start(false).await;
    late.add_peer(middle, at(&keeper));
    let mut seen = BTreeSet::new();
    let until = Instant::now() + Duration::from_secs(30);
    while seen.is_empty() && Instant::now() < until {
        seen = found(&late, &mut late_events, Duration::from_secs(2)).await;
    }
    assert_eq!(seen, BTreeSet::from([stays]));
}
