//! Neighbours on the same network segment, by mDNS. What it finds are addresses to try, no more: nothing that mDNS says
//! is trusted, and who is alive is known from sessions.
//!
//! A node browses before it announces itself, and does so without probing (its name is its key, so it is unique): of
//! any two nodes the one that was there first hears the other's announcement at once and can dial it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use proto::NodeId;
use tokio::sync::{mpsc, watch};

use super::address;
use super::admission::Admission;
use super::identity::{Identity, node_id_of, peer_id_of};
use super::membership::Membership;
use super::zone;

const SERVICE: &str = "_caswarm._tcp.local.";

/// Bytes of all TXT entries together; more risks answers that do not fit one packet.
const TXT_BYTES: usize = 399;

/// Bytes of one TXT entry, its key included.
const TXT_ENTRY_BYTES: usize = 255;

/// Nodes kept track of; later ones are not told.
const NODES: usize = 4096;

/// How often at most the announcement is renewed because of [`Discovery::update`].
const RENEWAL: Duration = Duration::from_secs(3);

/// How often interfaces and their addresses are looked at, in seconds.
const INTERFACE_CHECK: u32 = 2;

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A short name of an index within a network: enough to see that a neighbour probably takes part in its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 4]);

/// What a node announces.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// The announced node.
    pub node: NodeId,
    /// Its session port.
    pub port: u16,
    /// The network. Nodes of others are not told.
    pub network: Membership,
    /// The zone label; empty = none.
    pub zone: String,
    /// With whom this node talks: interfaces whose address nobody may be reached at take no part.
    pub admission: Arc<Admission>,
}

impl DiscoveryConfig {
    /// The usual settings: default network, no zone label, private addresses only.
    pub fn new(identity: &Identity, port: u16) -> Self {
        Self {
            node: identity.node_id(),
            port,
            network: Membership::default(),
            zone: String::new(),
            admission: Arc::default(),
        }
    }
}

/// What mDNS says of a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who it claims to be.
    pub node: NodeId,
    /// Where its session port may be, in the order to try.
    pub addresses: Vec<SocketAddr>,
    /// Its zone label, cut at 63 bytes.
    pub zone: String,
    /// About how many chunks it holds.
    pub held: u64,
    /// Some of the indexes it holds or wants.
    pub tags: Vec<Tag>,
}

/// What discovery has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A neighbour appeared, or what it says of itself changed.
    Found(Found),
    /// A neighbour said goodbye, or was not heard of for long.
    Lost(NodeId),
    /// Something does not work; discovery goes on as well as it can.
    Warning(String),
}

/// The running discovery. Dropping it ends it, with a goodbye that nobody waits for.
pub struct Discovery {
    daemon: Option<ServiceDaemon>,
    name: String,
    updates: watch::Sender<(u64, Vec<Tag>)>,
}

impl Discovery {
    /// Starts looking for neighbours and announcing this node; has to be called within a tokio runtime. Where mDNS does
    /// not work at all, the only event is a warning; the receiver ends with the discovery.
    pub fn start(config: DiscoveryConfig) -> (Self, mpsc::Receiver<DiscoveryEvent>) {
        let (events, receiver) = mpsc::channel(256);
        let (updates, wanted) = watch::channel((0, Vec::new()));
        let name = peer_id_of(config.node).map(|peer| peer.to_base58()).unwrap_or_default();
        let daemon = match begin(&config) {
            Ok((daemon, found, monitor)) => {
                tokio::spawn(run(
                    Task { daemon: daemon.clone(), config, known: BTreeMap::new(), own: BTreeSet::new() },
                    found,
                    monitor,
                    events,
                    wanted,
                ));
                Some(daemon)
            }
            Err(e) => {
                events.try_send(DiscoveryEvent::Warning(format!("no discovery by mDNS: {e}"))).ok();
                None
            }
        };
        (Self { daemon, name, updates }, receiver)
    }

    /// Announces about how many chunks this node holds and the tags of its indexes, the most important first (31 at most are
    /// told). Renewed every few seconds at most; the latest call counts.
    pub fn update(&self, held: u64, tags: Vec<Tag>) {
        // While an image comes in, each change would be told to all machines; sessions tell of every chunk.
        let held = if held == 0 { 0 } else { 1 << held.ilog2() };
        let now = (held, tags);
        self.updates.send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
    }

    /// Asks whether a neighbour is still there, for instance because it could not be dialled. If it is silent, it is
    /// reported as lost after two seconds.
    pub fn verify(&self, node: NodeId) {
        let name = peer_id_of(node).map(|peer| format!("{}.{SERVICE}", peer.to_base58()));
        if let (Some(daemon), Some(name)) = (&self.daemon, name) {
            daemon.verify(name, Duration::from_secs(2)).ok();
        }
    }

    /// Says goodbye and ends, within half a second.
    pub async fn shutdown(mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        if let Ok(done) = daemon.unregister(&format!("{}.{SERVICE}", self.name)) {
            tokio::time::timeout(GOODBYE, done.recv_async()).await.ok();
        }
        daemon.shutdown().ok();
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon {
            daemon.unregister(&format!("{}.{SERVICE}", self.name)).ok();
            daemon.shutdown().ok();
        }
    }
}

type Events<T> = mdns_sd::Receiver<T>;

fn begin(config: &DiscoveryConfig) -> mdns_sd::Result<(ServiceDaemon, Events<ServiceEvent>, Events<DaemonEvent>)> {
    let daemon = ServiceDaemon::new()?;
    let started = (|| {
        let admission = config.admission.clone();
        let foreign = IfPredicate::new(move |interface| !admission.is_reachable(interface.ip()));
        daemon.disable_interface(IfKind::Predicate(foreign))?;
        daemon.set_ip_check_interval(INTERFACE_CHECK)?;
        let monitor = daemon.monitor()?;
        let found = daemon.browse(SERVICE)?;
        daemon.register(announcement(config, 0, &[])?)?;
        Ok((found, monitor))
    })();
    match started {
        Ok((found, monitor)) => Ok((daemon, found, monitor)),
        Err(e) => {
            daemon.shutdown().ok();
            Err(e)
        }
    }
}

struct Task {
    daemon: ServiceDaemon,
    config: DiscoveryConfig,
    known: BTreeMap<NodeId, Found>,
    /// Addresses that are, or were, this machine's.
    own: BTreeSet<IpAddr>,
}

/// Keeps mdns-sd's channel empty, whatever the pace of the receiver of `events`: a slow one gets the latest of each
/// node.
async fn run(
    mut task: Task,
    found: Events<ServiceEvent>,
    monitor: Events<DaemonEvent>,
    events: mpsc::Sender<DiscoveryEvent>,
    mut wanted: watch::Receiver<(u64, Vec<Tag>)>,
) {
    let mut changed = BTreeSet::new();
    let (mut warning, mut warned) = (None, false);
    let mut renewal: Option<(u64, Vec<Tag>)> = None;
    let mut announced = (0, Vec::new());
    let mut next_renewal = Instant::now();
    loop {
        tokio::select! {
            event = found.recv_async() => match event {
                Ok(event) => {
                    if let Some(ip) = task.twin(&event).filter(|_| !warned) {
                        warned = true;
                        warning = Some(format!(
                            "{ip} announces itself with the key of this node: one of them runs with a copy of the other's \
                             state directory, and neither talks to the other; remove node.key there and start it again"
                        ));
                    }
                    changed.extend(task.take(event));
                }
                Err(_) => return,
            },
            Ok(event) = monitor.recv_async() => if let DaemonEvent::Error(e) = event {
                warning = Some(format!("mDNS: {e}"));
            },
            permit = events.reserve(), if !changed.is_empty() || warning.is_some() => {
                let Ok(permit) = permit else { return };
                if let Some(warning) = warning.take() {
                    permit.send(DiscoveryEvent::Warning(warning));
                } else if let Some(node) = changed.pop_first() {
                    let found = task.known.get(&node).cloned();
                    permit.send(found.map_or(DiscoveryEvent::Lost(node), DiscoveryEvent::Found));
                }
            },
            Ok(()) = wanted.changed() => {
                renewal = Some(wanted.borrow_and_update().clone()).filter(|update| *update != announced);
            },
            () = tokio::time::sleep_until(next_renewal.into()), if renewal.is_some() => {
                if let Some((held, tags)) = renewal.take() {
                    match announcement(&task.config, held, &tags).and_then(|info| task.daemon.register(info)) {
                        Ok(()) => announced = (held, tags),
                        Err(e) => warning = Some(format!("mDNS: {e}")),
                    }
                    next_renewal = Instant::now() + RENEWAL;
                }
            },
        }
    }
}

impl Task {
    /// Another machine that announces itself under this node's name.
    fn twin(&mut self, event: &ServiceEvent) -> Option<IpAddr> {
        let ServiceEvent::ServiceResolved(service) = event else { return None };
        if node_of(&service.fullname) != Some(self.config.node) {
            return None;
        }
        for ip in service.addresses.iter().map(ScopedIp::to_ip_addr) {
            if !self.own.contains(&ip) && !address::is_own(ip) {
                return Some(ip);
            }
            self.own.insert(ip);
        }
        None
    }

    /// Takes in what mdns-sd says; returns the node about which there is something new to tell.
    fn take(&mut self, event: ServiceEvent) -> Option<NodeId> {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let found = understand(&service, &self.config)?;
                let node = found.node;
                if self.known.len() >= NODES && !self.known.contains_key(&node) {
                    return None;
                }
                (self.known.insert(node, found.clone()) != Some(found)).then_some(node)
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                let node = node_of(&name)?;
                self.known.remove(&node).map(|_| node)
            }
            _ => None,
        }
    }
}

fn announcement(config: &DiscoveryConfig, held: u64, tags: &[Tag]) -> mdns_sd::Result<ServiceInfo> {
    let name = peer_id_of(config.node).map(|peer| peer.to_base58()).unwrap_or_default();
    let mut txt = vec![
        ("id", name.clone()),
        ("v", proto::VERSION.to_string()),
        ("net", config.network.mdns_hash()),
        ("zone", zone::cut(&config.zone).to_owned()),
    ];
    // The number of its chunks may tell which image it is.
    if config.network.is_open() {
        txt.push(("n", held.to_string()));
    }
    let used: usize = txt.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    let room = (TXT_BYTES.saturating_sub(used + 3)).min(TXT_ENTRY_BYTES - 2) / 8;
    txt.push(("x", tags.iter().take(room).map(|tag| hex::encode(tag.0)).collect()));

    let host = format!("caswarm-{}.local.", hex::encode(&config.node.as_bytes()[..8]));
    let mut info = ServiceInfo::new(SERVICE, &name, &host, (), config.port, &txt[..])?.enable_addr_auto();
    info.set_requires_probe(false);
    Ok(info)
}

/// What a resolved service says; `None` if it is this node, of another network or version, or nonsense.
fn understand(service: &ResolvedService, config: &DiscoveryConfig) -> Option<Found> {
    let node = node_of(&service.fullname)?;
    let text = |key| service.txt_properties.get_property_val_str(key);
    let ours = text("net") == Some(&config.network.mdns_hash()) && text("v") == Some(&proto::VERSION.to_string());
    if !ours || node == config.node {
        return None;
    }
    let addresses = service.addresses.iter().filter_map(|ip| match ip {
        ScopedIp::V6(ip) => {
            let scope = if ip.addr().is_unicast_link_local() { ip.scope_id().index } else { 0 };
            Some(std::net::SocketAddrV6::new(*ip.addr(), service.port, 0, scope).into())
        }
        ScopedIp::V4(ip) => Some(SocketAddr::from((*ip.addr(), service.port))),
        _ => None,
    });
    let mut addresses: Vec<_> = addresses.filter(|addr| config.admission.admits_dial(*addr)).collect();
    address::order(&mut addresses);
    if addresses.is_empty() {
        return None;
    }
    let tags = text("x").unwrap_or_default().as_bytes().chunks_exact(8).map_while(|digits| {
        let mut tag = [0; 4];
        hex::decode_to_slice(digits, &mut tag).ok().map(|()| Tag(tag))
    });
    Some(Found {
        node,
        addresses,
        zone: text("zone").unwrap_or_default().to_owned(),
        held: text("n").and_then(|n| n.parse().ok()).unwrap_or(0),
        tags: tags.collect(),
    })
}

fn node_of(fullname: &str) -> Option<NodeId> {
    node_id_of(fullname.split('.').next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::network_key::NetworkKey;
    use super::*;

    #[test]
    fn the_announcement_stays_small_whatever_the_node_holds() {
        let mut config = DiscoveryConfig::new(&Identity::ephemeral(), 7);
        config.zone = "é".repeat(120);
        let tags = vec![Tag([0xab; 4]); 100];
        let info = announcement(&config, u64::MAX, &tags).unwrap();
        let bytes: usize = info.get_properties().iter().map(|p| p.key().len() + p.val_str().len() + 2).sum();
        assert!(bytes < 400, "{bytes}");
        assert!(info.get_property_val_str("x").unwrap().len() >= 20 * 8);
        assert!(!info.requires_probe());
    }

    #[test]
    fn the_announcement_in_a_keyed_network_tells_nothing_of_what_is_held() {
        let key = NetworkKey::generate().unwrap();
        let mut config = DiscoveryConfig::new(&Identity::ephemeral(), 7);
        config.network = Membership::new("lab", Some(&key));
        let index = proto::IndexId([3; 32]);
        let tag = config.network.tag(config.node, &index);
        let info = announcement(&config, 4711, &[tag]).unwrap();
        let told: Vec<_> = info.get_properties().iter().map(|p| format!("{}={}", p.key(), p.val_str())).collect();
        assert!(told.iter().any(|entry| *entry == format!("x={}", hex::encode(tag.0))), "{told:?}");
        // What anybody can compute who knows the network's name and the index.
        let guess = Membership::from("lab");
        for known in [hex::encode(guess.tag(config.node, &index).0), guess.mdns_hash(), "4711".to_owned()] {
            assert!(told.iter().all(|entry| !entry.contains(&known)), "{known} in {told:?}");
        }
    }
}
