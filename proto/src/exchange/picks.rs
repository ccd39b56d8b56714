//! Which askable positions come next: the rarest, ties in an order of this node's own, neighbours together; of a group,
//! too, each node begins with another position, so that what one node holds is soon held by several. Where the beginning
//! is wanted first, equally rare ones come section by section. The rarest still come before all: they are what came last,
//! which its holder has at hand, and nobody goes far ahead in the image with what it takes from the origin.

use crate::bits::Bits;
use crate::election::{Election, GROUP, group_of, section_of};
use crate::{NodeId, Position};

/// Positions looked at for one refill.
pub(super) const LOOKED_AT: usize = 4096;
/// Positions that one refill keeps.
const KEPT: usize = 256;
/// From this number of holders on, a position counts as common.
const COMMON: u16 = 8;

/// A short queue of what to ask next, refilled from all that is askable.
#[derive(Debug)]
pub(super) struct Picks {
    order: Election,
    me: NodeId,
    in_order: bool,
    queue: Vec<Position>,
    cursor: Position,
}

impl Picks {
    pub(super) fn new(order: Election, me: NodeId, in_order: bool) -> Self {
        let cursor = order.score(&me, u32::MAX) as u32;
        Self { order, me, in_order, queue: Vec::new(), cursor }
    }

    /// Where this node begins with what it may choose from freely.
    pub(super) fn start(&self) -> Position {
        self.cursor
    }

    /// The next position that is still askable; `None` when the queue is used up.
    pub(super) fn next(&mut self, askable: &Bits) -> Option<Position> {
        while let Some(position) = self.queue.pop() {
            if askable.contains(position) {
                return Some(position);
            }
        }
        None
    }

    /// Looks again at what is askable; of much, at what begins about where the last look ended.
    pub(super) fn refill(&mut self, askable: Vec<Position>, available: &[u16]) {
        let mut seen: Vec<(u16, u32, u64, u32, Position)> = askable
            .into_iter()
            .map(|position| {
                let holders = available[position as usize].min(COMMON);
                let score = self.order.score(&self.me, group_of(position));
                let section = section_of(group_of(position), self.in_order);
                (holders, section, score, position ^ (score as u32 % GROUP), position)
            })
            .collect();
        if let Some(last) = seen.last().filter(|_| seen.len() >= LOOKED_AT) {
            self.cursor = last.4;
        }
        if seen.len() > KEPT {
            seen.select_nth_unstable(KEPT);
            seen.truncate(KEPT);
        }
        seen.sort_unstable_by(|a, b| b.cmp(a));
        self.queue.clear();
        self.queue.extend(seen.into_iter().map(|(_, _, _, _, position)| position));
    }
}

#[cfg(test)]
mod tests;
