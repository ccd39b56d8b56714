//! The neighbours of the last run, kept in the state directory: addresses to try where multicast does not reach.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::NodeId;
use serde::{Deserialize, Serialize};

use super::address::is_dialable;

const FILE: &str = "known-peers.json";

/// How many are kept; the one seen longest ago goes first.
pub const KNOWN_PEERS: usize = 64;

/// A node that is there all the time is written down again after so many seconds.
const RENEWAL: u64 = 60;

/// Bytes of a file that is read at all.
const FILE_BYTES: u64 = 1 << 20;

/// A node met before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who it was.
    pub node: NodeId,
    /// Where its session port was.
    pub addr: SocketAddr,
    /// When it was last seen, in seconds since 1970.
    pub seen: u64,
}

/// The nodes met before, at most [`KNOWN_PEERS`].
#[derive(Debug)]
pub struct KnownPeers {
    path: PathBuf,
    peers: BTreeMap<NodeId, (SocketAddr, u64)>,
    changed: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    node: String,
    addr: SocketAddr,
    seen: u64,
}

impl KnownPeers {
    /// Reads the file in `state_dir`. One that cannot be read counts as empty; the second value says why.
    pub fn load(state_dir: &Path) -> (Self, Option<String>) {
        let path = state_dir.join(FILE);
        let (peers, warning) = match read(&path) {
            Ok(peers) => (peers, None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => (BTreeMap::new(), None),
            Err(e) => (BTreeMap::new(), Some(format!("{}: {e}; starting without known peers", path.display()))),
        };
        let mut known = Self { path, peers, changed: false };
        known.trim();
        (known, warning)
    }

    /// Remembers a node; `seen` is in seconds since 1970.
    pub fn note(&mut self, node: NodeId, addr: SocketAddr, seen: u64) {
        let noted = |&(at, last): &(SocketAddr, u64)| at == addr && seen.saturating_sub(last) < RENEWAL;
        if is_dialable(addr) && !self.peers.get(&node).is_some_and(noted) {
            self.peers.insert(node, (addr, seen));
            self.changed = true;
            self.trim();
        }
    }

    /// Those known, the latest seen first.
    pub fn latest_first(&self) -> Vec<KnownPeer> {
        let peers = self.peers.iter().map(|(&node, &(addr, seen))| KnownPeer { node, addr, seen });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.seen));
        peers
    }

    /// Writes the file if anything changed; whole or not at all.
    pub fn save(&mut self) -> io::Result<()> {
        if !self.changed {
            return Ok(());
        }
        let entries = self.latest_first();
        let entries: Vec<_> =
            entries.iter().map(|p| Entry { node: p.node.to_string(), addr: p.addr, seen: p.seen }).collect();
        let temporary = self.path.with_extension(format!("json.{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(&entries)?)?;
            std::fs::rename(&temporary, &self.path)
        })();
        if written.is_err() {
            std::fs::remove_file(&temporary).ok();
        }
        self.changed = written.is_err();
        written
    }

    fn trim(&mut self) {
        while self.peers.len() > KNOWN_PEERS {
            let oldest = self.peers.iter().min_by_key(|(_, (_, seen))| *seen).map(|(node, _)| *node);
            oldest.and_then(|node| self.peers.remove(&node));
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<NodeId, (SocketAddr, u64)>> {
    if path.metadata()?.len() > FILE_BYTES {
        return Err(io::Error::other("too large"));
    }
    let entries: Vec<Entry> = serde_json::from_slice(&std::fs::read(path)?)?;
    let parsed = entries.into_iter().filter(|e| is_dialable(e.addr)).map(|e| {
        let node = e.node.parse().map_err(io::Error::other)?;
        Ok((node, (e.addr, e.seen)))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_nodes_are_remembered_and_the_oldest_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (mut known, warning) = KnownPeers::load(dir.path());
        assert_eq!(warning, None);
        for n in 0..100 {
            known.note(NodeId([n; 32]), SocketAddr::from(([10, 0, 0, n], 7)), u64::from(n));
        }
        known.save().unwrap();
        let (known, warning) = KnownPeers::load(dir.path());
        assert_eq!(warning, None);
        let seen: Vec<_> = known.latest_first().iter().map(|p| p.seen).collect();
        assert_eq!(seen, (36..100).rev().collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn who_is_still_there_outlives_those_that_came_and_went() {
        let dir = tempfile::tempdir().unwrap();
        let (mut known, _) = KnownPeers::load(dir.path());
        let stays = NodeId([255; 32]);
        for n in 0..200 {
            known.note(stays, SocketAddr::from(([10, 0, 0, 1], 7)), n * RENEWAL);
            known.note(NodeId([n as u8; 32]), SocketAddr::from(([10, 0, 0, 2], n as u16 + 1)), n * RENEWAL);
        }
        assert!(known.latest_first()[..2].iter().any(|peer| peer.node == stays));
        known.save().unwrap();
        known.note(stays, SocketAddr::from(([10, 0, 0, 1], 7)), 199 * RENEWAL + 1);
        assert!(!known.changed, "written again although there is no news");
    }

    #[test]
    fn a_corrupt_file_is_a_warning_and_counts_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[{}]", r#"[{"node":"zz","addr":"1.2.3.4:5","seen":1}]"#] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let (known, warning) = KnownPeers::load(dir.path());
            assert!(warning.unwrap().contains(FILE));
            assert!(known.latest_first().is_empty());
        }
    }
}
