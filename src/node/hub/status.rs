//! What a node knows of itself, for people and programs.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::Hub;

/// A node's state. The JSON of `caswarm status --json` has these names.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Status {
    /// The node's libp2p peer id.
    pub peer_id: String,
    /// The program and its version.
    pub version: String,
    /// The network's name; empty = the default one.
    pub network: String,
    /// Whether anybody on the LAN may join; false where a network key is needed.
    pub open: bool,
    /// The port for sessions.
    pub port: u16,
    /// Seconds since the start.
    pub uptime: f64,
    /// Bytes of chunks sent to neighbours.
    pub sent: u64,
    /// Chunks that did not verify when they were to be sent.
    pub refused: u64,
    /// What the node serves from: paths.
    pub holders: Vec<String>,
    /// Indexes that it takes part in.
    pub images: Vec<ImageStatus>,
    /// Nodes with which there is a session.
    pub neighbours: Vec<NeighbourStatus>,
}

/// One index.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct ImageStatus {
    /// The index id.
    pub index: String,
    /// Its path, or empty where it was named by a neighbour.
    pub name: String,
    /// Distinct chunks in it; 0 while it is not known.
    pub chunks: u32,
    /// Of these, held here.
    pub held: u64,
    /// Whether it is being fetched.
    pub downloading: bool,
    /// Neighbours that take part.
    pub neighbours: usize,
}

/// One neighbour.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct NeighbourStatus {
    /// Its peer id.
    pub peer_id: String,
    /// Its address.
    pub addr: SocketAddr,
    /// What it runs.
    pub agent: String,
    /// Seconds since the session opened.
    pub connected: f64,
    /// Payload bytes that it sent.
    pub received: u64,
    /// Bytes that it was sent, messages included.
    pub sent: u64,
}

impl Hub {
    pub(super) fn status(&self) -> Status {
        let peer = |node| crate::node::identity::peer_id_of(node).map(|peer| peer.to_string()).unwrap_or_default();
        Status {
            peer_id: peer(self.me),
            version: env!("CARGO_PKG_VERSION").into(),
            network: self.config.network.name().to_owned(),
            open: self.config.network.is_open(),
            port: self.session_config.hello.session_port,
            uptime: self.now().as_secs_f64(),
            sent: self.serving.sent.load(Ordering::Relaxed),
            refused: self.serving.refused.load(Ordering::Relaxed),
            holders: self.serving.holders().iter().map(|holder| holder.name()).collect(),
            images: self
                .locals
                .iter()
                .map(|(index, local)| ImageStatus {
                    index: index.to_string(),
                    name: local.name.clone(),
                    chunks: local.layout.as_ref().map_or(0, |layout| layout.count()),
                    held: local.holds().positions().len(),
                    downloading: local.fetching.as_ref().is_some_and(|fetching| !fetching.exchange.complete()),
                    neighbours: self.neighbours.values().filter(|n| n.rosters.contains_key(index)).count(),
                })
                .collect(),
            neighbours: self
                .neighbours
                .iter()
                .map(|(id, neighbour)| NeighbourStatus {
                    peer_id: peer(*id),
                    addr: neighbour.addr,
                    agent: neighbour.hello.agent.clone(),
                    connected: neighbour.since.elapsed().as_secs_f64(),
                    received: neighbour.received,
                    sent: neighbour.sender.sent_bytes(),
                })
                .collect(),
        }
    }

    /// Lets mDNS tell what this node has now.
    pub(super) fn update_discovery(&self) {
        let held = self.locals.values().map(|local| local.holds().positions().len()).sum();
        // Who gives nothing is not named as one that takes part: it would be counted on.
        let told = self.locals.keys().filter(|_| self.config.share);
        let tags = told.map(|index| self.config.network.tag(self.me, index)).collect();
        self.doors.update(held, tags);
    }
}
