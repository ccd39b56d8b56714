//! Which askable positions come next: the rarest, ties in an order of this node's own, neighbours together.

use roaring::RoaringBitmap;

use crate::election::{Election, group_of};
use crate::{NodeId, Position};

/// Positions looked at for one refill.
const LOOKED_AT: usize = 4096;
/// Positions that one refill keeps.
const KEPT: usize = 256;
/// From this number of holders on, a position counts as common.
const COMMON: u16 = 8;

/// A short queue of what to ask next, refilled from all that is askable.
#[derive(Debug)]
pub(super) struct Picks {
    order: Election,
    me: NodeId,
    queue: Vec<Position>,
    cursor: Position,
}

impl Picks {
    pub(super) fn new(order: Election, me: NodeId) -> Self {
        let cursor = order.score(&me, u32::MAX) as u32;
        Self { order, me, queue: Vec::new(), cursor }
    }

    /// The next position that is still askable; `None` when the queue is used up.
    pub(super) fn next(&mut self, askable: &RoaringBitmap) -> Option<Position> {
        while let Some(position) = self.queue.pop() {
            if askable.contains(position) {
                return Some(position);
            }
        }
        None
    }

    /// Looks again at what is askable; where that is much, at a window of it, elsewhere for each node.
    pub(super) fn refill(&mut self, askable: &RoaringBitmap, available: &[u16]) {
        let count = available.len() as u32;
        let from = if askable.len() <= LOOKED_AT as u64 || count == 0 { 0 } else { self.cursor % count };
        let mut seen: Vec<(u16, u64, Position)> = askable
            .range(from..)
            .chain(askable.range(..from))
            .take(LOOKED_AT)
            .map(|position| {
                let holders = available[position as usize].min(COMMON);
                (holders, self.order.score(&self.me, group_of(position)), position)
            })
            .collect();
        if let Some(last) = seen.last() {
            self.cursor = last.2;
        }
        if seen.len() > KEPT {
            seen.select_nth_unstable(KEPT);
            seen.truncate(KEPT);
        }
        seen.sort_unstable_by(|a, b| b.cmp(a));
        self.queue.clear();
        self.queue.extend(seen.into_iter().map(|(_, _, position)| position));
    }
}

#[cfg(test)]
mod tests;
