//! Which position comes from where. Pure: it is told what is where and answers with sets; it reads and fetches nothing.

use proto::ChunkId;
use roaring::RoaringBitmap;

use crate::format::layout::Layout;

/// Where each position of an image is to come from. Every position is in exactly one of the sets. All of them are
/// worked on in ascending order, which is the order of the image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Right in the target already.
    pub kept: RoaringBitmap,
    /// In a seed, as far as its index says.
    pub seeds: RoaringBitmap,
    /// To be asked of the local stores.
    pub stores: RoaringBitmap,
    /// Nowhere on this machine.
    pub missing: RoaringBitmap,
}

/// Bytes of the image by where they are to come from; they add up to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanBytes {
    /// Right in the target already.
    pub kept: u64,
    /// From seeds.
    pub seeds: u64,
    /// From local stores.
    pub stores: u64,
    /// From the network.
    pub missing: u64,
}

impl Plan {
    /// Decides for every position that is not `kept`: a seed before a store before the network.
    pub fn of(
        layout: &Layout,
        kept: RoaringBitmap,
        in_seed: impl Fn(&ChunkId) -> bool,
        in_store: impl Fn(&ChunkId) -> bool,
    ) -> Self {
        let mut plan = Plan { kept, ..Plan::default() };
        for position in (0..layout.count()).filter(|position| !plan.kept.contains(*position)) {
            let id = layout.id(position);
            let set = match () {
                () if in_seed(&id) => &mut plan.seeds,
                () if in_store(&id) => &mut plan.stores,
                () => &mut plan.missing,
            };
            set.insert(position);
        }
        plan
    }

    /// What can be done without the network, ascending.
    pub fn local(&self) -> RoaringBitmap {
        &self.seeds | &self.stores
    }

    /// The plan in bytes of the image.
    pub fn bytes(&self, layout: &Layout) -> PlanBytes {
        PlanBytes {
            kept: bytes_of(layout, &self.kept),
            seeds: bytes_of(layout, &self.seeds),
            stores: bytes_of(layout, &self.stores),
            missing: bytes_of(layout, &self.missing),
        }
    }
}

/// Bytes of the image that these positions are, at all their offsets.
pub fn bytes_of(layout: &Layout, positions: &RoaringBitmap) -> u64 {
    positions.iter().map(|position| span(layout, position)).sum()
}

/// Bytes of the image that one position is, at all its offsets.
pub(super) fn span(layout: &Layout, position: u32) -> u64 {
    u64::from(layout.length(position)) * layout.offsets(position).len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::{Index, IndexChunk};

    fn layout() -> Layout {
        // Ends at 10, 20, 35, 45; the second chunk occurs again at the end.
        let chunk = |end, name| IndexChunk { end, id: ChunkId([name; 32]) };
        let chunks = vec![chunk(10, 1), chunk(20, 2), chunk(35, 3), chunk(45, 2)];
        Layout::of(&Index { flags: 0xb000_0000_0000_0000, sizes: [1, 10, 20], chunks })
    }

    #[test]
    fn a_seed_comes_before_a_store_and_a_store_before_the_network() {
        let seeds = |id: &ChunkId| id.0[0] == 2;
        let stores = |id: &ChunkId| id.0[0] < 3;
        let plan = Plan::of(&layout(), RoaringBitmap::new(), seeds, stores);
        let set = |positions: &[u32]| positions.iter().copied().collect::<RoaringBitmap>();
        assert_eq!((&plan.stores, &plan.seeds, &plan.missing), (&set(&[0]), &set(&[1]), &set(&[2])));
        let bytes = PlanBytes { kept: 0, seeds: 20, stores: 10, missing: 15 };
        assert_eq!(plan.bytes(&layout()), bytes);
    }

    #[test]
    fn what_the_target_has_is_asked_of_nobody() {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..3);
        let plan = Plan::of(&layout(), all, |_| panic!("asked"), |_| panic!("asked"));
        assert!(plan.local().is_empty() && plan.missing.is_empty());
    }
}
