//! Who asks the origin for a position that nobody holds: rendezvous hashing over zones, then over a zone's downloaders.
//!
//! Each group of neighbouring positions gives each node a score, a keyed hash of (node, group), and each zone one. The
//! node with the highest score of its zone is the group's owner there: it brings the group into the zone, from the
//! origin if its zone has the highest score of all, else from another zone. Who comes or leaves moves only its groups.

use siphasher::sip::SipHasher13;

use crate::{IndexId, NodeId, Position, ZoneId};

/// Positions in a group. Neighbours stay together, so that holdings are runs and disks read in sequence.
pub const GROUP: u32 = 16;

/// The group of a position.
pub const fn group_of(position: Position) -> u32 {
    position / GROUP
}

/// Groups in a section. Where the beginning of an image is wanted first, sections come one after the other, each in
/// whatever order serves the network: enough groups for many nodes to be at different ones.
const SECTION: u32 = 64;

/// The section of a group; where no order is asked for, all are in one.
pub(crate) const fn section_of(group: u32, in_order: bool) -> u32 {
    if in_order { group / SECTION } else { 0 }
}

/// The hasher of one index, from which scores are drawn.
#[derive(Debug, Clone)]
pub struct Election {
    keyed: SipHasher13,
}

impl Election {
    /// The election for one index; the same on every node.
    pub fn new(index: &IndexId) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&index.0[..16]);
        Self { keyed: SipHasher13::new_with_key(&key) }
    }

    /// The score of `zone` for `group`. Of several zones, a node of the one with the highest asks the origin.
    pub fn zone_score(&self, zone: ZoneId, group: u32) -> u64 {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&zone.0.to_le_bytes());
        bytes[8..].copy_from_slice(&group.to_le_bytes());
        self.keyed.hash(&bytes)
    }

    /// The score of `node` for `group`. Within a zone, the highest brings it in.
    pub fn score(&self, node: &NodeId, group: u32) -> u64 {
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&node.0);
        bytes[32..].copy_from_slice(&group.to_le_bytes());
        self.keyed.hash(&bytes)
    }
}

#[cfg(test)]
mod tests;
