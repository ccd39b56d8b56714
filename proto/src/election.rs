//! Who asks the origin for a position that nobody in the zone holds: rendezvous hashing over the zone's downloaders.
//!
//! Each node gives each group of neighbouring positions a score, a keyed hash of (node, group). The node with the
//! highest score is the group's owner. A membership that changes moves only the groups of who came or left.

use siphasher::sip::SipHasher13;

use crate::{IndexId, NodeId, Position};

/// Positions in a group. Neighbours stay together, so that holdings are runs and disks read in sequence.
pub const GROUP: u32 = 16;

/// The group of a position.
pub const fn group_of(position: Position) -> u32 {
    position / GROUP
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

    /// The score of `node` for `group`. The highest asks the origin.
    pub fn score(&self, node: &NodeId, group: u32) -> u64 {
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&node.0);
        bytes[32..].copy_from_slice(&group.to_le_bytes());
        self.keyed.hash(&bytes)
    }
}

#[cfg(test)]
mod tests;
