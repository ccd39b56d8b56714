//! Zones: nodes that reach each other cheaply, one rack or one segment, and how a zone is named between nodes.
//!
//! A zone is its name, nothing more: nodes that say the same name in `Hello` are in the same one. Who tells machines
//! their name, a person's label or the segment's network prefix, is the shell's business.

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// A zone, by the hash of its name: what is kept and told of zones that a node has never met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ZoneId(pub u64);

impl ZoneId {
    /// The zone of this name; the empty name is the zone of those that have none.
    pub fn of(name: &str) -> Self {
        Self(SipHasher13::new_with_key(b"caswarm zone id\0").hash(name.as_bytes()))
    }
}

impl Default for ZoneId {
    fn default() -> Self {
        Self::of("")
    }
}
