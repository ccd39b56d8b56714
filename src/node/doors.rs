//! What produces addresses: mDNS, Kademlia and the peers known from before. Each may be missing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::{IndexId, NodeId};
use tokio::sync::mpsc;

use super::NodeConfig;
use super::dht::{self, DhtConfig, DhtHandle};
use super::discovery::{Discovery, DiscoveryConfig, Tag};
use super::hub::Event;
use super::known_peers::KnownPeers;

pub(crate) struct Doors {
    discovery: Option<Discovery>,
    dht: Option<DhtHandle>,
    pub(crate) known: KnownPeers,
    keep_known: bool,
}

impl Doors {
    /// Opens what the configuration wants and the machine can do.
    pub(crate) async fn open(config: &NodeConfig, port: u16, events: &mpsc::Sender<Event>) -> Self {
        let nowhere = Path::new("/nonexistent");
        let (known, warning) = KnownPeers::load(config.state_dir.as_deref().unwrap_or(nowhere));
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let mut doors = Self { discovery: None, dht: None, known, keep_known: config.state_dir.is_some() };
        if !config.lan {
            return doors;
        }
        let mut about = DiscoveryConfig::new(&config.identity, port);
        about.network.clone_from(&config.network);
        about.admission.clone_from(&config.admission);
        about.zone.clone_from(&config.zone);
        let (discovery, mut found) = Discovery::start(about);
        doors.discovery = Some(discovery);
        let to_hub = events.clone();
        tokio::spawn(async move {
            while let Some(event) = found.recv().await {
                if to_hub.send(Event::Discovery(event)).await.is_err() {
                    return;
                }
            }
        });
        let mut about = DhtConfig::new(config.identity.clone(), port);
        about.network.clone_from(&config.network);
        about.admission.clone_from(&config.admission);
        about.server = config.dht_server;
        about.background = config.limits.background;
        match dht::start(about).await {
            Ok((dht, mut told)) => {
                doors.dht = Some(dht);
                let to_hub = events.clone();
                tokio::spawn(async move {
                    while let Some(event) = told.recv().await {
                        if to_hub.send(Event::Dht(event)).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => tracing::warn!("{error}; going on without it"),
        }
        doors
    }

    pub(crate) fn dht_port(&self) -> u16 {
        self.dht.as_ref().map_or(0, DhtHandle::port)
    }

    pub(crate) fn add_dht_peer(&self, node: NodeId, addr: SocketAddr) {
        if let Some(dht) = &self.dht {
            dht.add_peer(node, addr);
        }
    }

    pub(crate) fn provide(&self, index: IndexId) {
        if let Some(dht) = &self.dht {
            dht.provide(index);
        }
    }

    pub(crate) fn withdraw(&self, index: IndexId) {
        if let Some(dht) = &self.dht {
            dht.withdraw(index);
        }
    }

    pub(crate) fn find_providers(&self, index: IndexId) {
        if let Some(dht) = &self.dht {
            dht.find_providers(index);
        }
    }

    /// A node could not be dialled: is it still there?
    pub(crate) fn verify(&self, node: NodeId) {
        if let Some(discovery) = &self.discovery {
            discovery.verify(node);
        }
    }

    pub(crate) fn update(&self, held: u64, tags: Vec<Tag>) {
        if let Some(discovery) = &self.discovery {
            discovery.update(held, tags);
        }
    }

    /// Remembers a node for the next start.
    pub(crate) fn note_known(&mut self, node: NodeId, addr: SocketAddr) {
        let seen = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.known.note(node, addr, seen);
    }

    /// Writes down the nodes met, if there are new ones.
    pub(crate) fn save_known(&mut self) {
        if self.keep_known
            && let Err(error) = self.known.save()
        {
            tracing::warn!(%error, "the peers met are not remembered");
            self.keep_known = false;
        }
    }

    /// Remembers the nodes met, and says goodbye where anybody may care.
    pub(crate) async fn close(&mut self, anybody: bool) {
        self.save_known();
        let (discovery, dht) = (self.discovery.take(), self.dht.take());
        let goodbye = async {
            if let Some(discovery) = discovery.filter(|_| anybody) {
                discovery.shutdown().await;
            }
        };
        let withdraw = async {
            if let Some(dht) = dht.filter(|_| anybody) {
                dht.close().await;
            }
        };
        tokio::join!(goodbye, withdraw);
    }
}
