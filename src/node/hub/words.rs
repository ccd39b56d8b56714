//! What neighbours say, passed on to whom it concerns.

use bytes::Bytes;
use proto::message::Join;
use proto::{Holdings, IndexId, Message, NodeId};

use super::{Hub, encoded};

impl Hub {
    /// Tells a new neighbour what this node takes part in.
    pub(super) fn introduce(&mut self, to: NodeId) {
        let Some(neighbour) = self.neighbours.get(&to) else { return };
        let peers = self.peers_for(&to);
        if !peers.is_empty() {
            neighbour.send(&Message::Peers { peers });
        }
        for (index, local) in &self.locals {
            if let Some(join) = self.join(index) {
                neighbour.send(&join);
            }
            if let Some(have) = self.have(index) {
                neighbour.send(&have);
            }
            if local.fetching.as_ref().is_some_and(|fetching| !fetching.exchange.origin_reachable()) {
                neighbour.send(&Message::Origin { index: *index, reachable: false });
            }
        }
    }

    /// Tells every neighbour that this node takes part in an index, and what it holds.
    pub(super) fn announce_local(&self, index: IndexId) {
        for message in [self.join(&index), self.have(&index)].into_iter().flatten() {
            self.tell_all(&message);
        }
    }

    fn join(&self, index: &IndexId) -> Option<Message> {
        let local = self.locals.get(index)?;
        // Who gives nothing is elected for nothing: what it brought in, others would wait for in vain.
        let downloads = self.config.share && (local.race.is_some() || local.fetching.is_some());
        let has_index = self.config.share && local.bytes.is_some();
        Some(Message::Join(Join { index: *index, downloads, has_index }))
    }

    /// What this node gives of an index, as soon as that is known: of one that gives nothing, at once.
    fn have(&self, index: &IndexId) -> Option<Message> {
        let local = self.locals.get(index)?;
        let holdings = match self.config.share {
            true => local.layout.as_ref().map(|_| local.holds())?,
            false => Holdings::new(),
        };
        Some(Message::Have { index: *index, holdings })
    }

    pub(super) fn said(&mut self, from: NodeId, message: Message, payload: Bytes) {
        self.heard(from, payload.len());
        let now = self.now();
        match message {
            Message::Hello(_) => self.close(from, "said hello twice"),
            Message::Join(join) => self.joined(from, &join),
            Message::Leave { index } => {
                self.departed(from, &index, false);
                if let Some(neighbour) = self.neighbours.get_mut(&from) {
                    neighbour.rosters.remove(&index);
                }
            }
            Message::Have { index, holdings } => self.has(from, index, holdings, false),
            Message::HaveMore { index, holdings, started } => {
                self.has(from, index, holdings, true);
                if let Some(fetching) = self.fetching(&index) {
                    fetching.exchange.started(from, &started, now);
                }
            }
            Message::Claim { index, groups, origin } => {
                if let Some(fetching) = self.fetching(&index) {
                    fetching.exchange.claimed(from, &groups, origin, now);
                }
            }
            Message::Interest { index, groups } => {
                if let Some(fetching) = self.fetching(&index) {
                    fetching.exchange.interested(from, &groups, now);
                }
            }
            Message::Others { index, zones, joined, left } => {
                if let Some(fetching) = self.fetching(&index) {
                    fetching.exchange.others(from, &zones, &joined, &left, now);
                }
            }
            Message::Peers { peers } => self.told_of(&peers),
            Message::Origin { index, reachable } => {
                // Of an index that it has not joined, its word means nothing.
                if let Some(roster) = self.neighbours.get_mut(&from).and_then(|n| n.rosters.get_mut(&index)) {
                    roster.no_origin = !reachable;
                }
                if let Some(fetching) = self.fetching(&index) {
                    fetching.exchange.peer_origin(from, reachable);
                }
            }
            Message::Want { index, positions, plain } => {
                if let Some(neighbour) = self.neighbours.get_mut(&from) {
                    if let Some(roster) = neighbour.rosters.get_mut(&index) {
                        roster.asked = Some(tokio::time::Instant::now());
                    }
                    // Chunks leave only for those who take part.
                    match self.config.share && neighbour.rosters.contains_key(&index) {
                        true => neighbour.wants.push(index, &positions, plain, &neighbour.sender),
                        false => neighbour.send(&Message::Absent { index, positions, retry_ms: 0 }),
                    }
                }
            }
            Message::Cancel { index, positions } => {
                if let Some(neighbour) = self.neighbours.get(&from) {
                    neighbour.wants.cancel(index, &positions, &neighbour.sender);
                }
            }
            Message::Chunk { index, position, encoding, .. } => {
                self.chunk_came(from, index, position, encoded(encoding, payload));
            }
            Message::Absent { index, positions, retry_ms } => {
                if let Some(fetching) = self.fetching(&index) {
                    let retry = std::time::Duration::from_millis(retry_ms.into());
                    fetching.exchange.absent(from, &positions, retry, now);
                }
            }
            Message::GetIndex { index } => self.index_wanted(from, index),
            Message::IndexPart { index, total, offset, .. } => self.index_part(from, index, total, offset, &payload),
            Message::NoIndex { index } => self.no_index(from, index),
            Message::GetChunk { chunk } => {
                if let Some(neighbour) = self.neighbours.get(&from) {
                    let joined = |index: &IndexId| self.config.share && neighbour.rosters.contains_key(index);
                    match self.serving.place(&chunk, joined) {
                        Some((index, position)) => neighbour.wants.push_by_id(index, position, &neighbour.sender),
                        None => neighbour.send(&Message::NoChunk { chunk }),
                    }
                }
            }
            Message::Ping { nonce } => {
                if let Some(neighbour) = self.neighbours.get(&from) {
                    neighbour.send(&Message::Pong { nonce });
                }
            }
            Message::ChunkById { .. } | Message::NoChunk { .. } | Message::Pong { .. } => {}
            Message::Bye { reason } => {
                tracing::debug!(node = ?from, reason, "said goodbye");
                let there = reason == proto::neighbours::ENOUGH;
                self.close_as(from, "goodbye", there);
            }
        }
    }

    fn joined(&mut self, from: NodeId, join: &Join) {
        let now = self.now();
        let Some(roster) = self.neighbours.get_mut(&from).and_then(|neighbour| neighbour.roster(join.index)) else {
            return;
        };
        roster.downloads = join.downloads;
        roster.has_index = join.has_index;
        let has_index = join.has_index;
        let zone = self.neighbours.get(&from).map(|neighbour| neighbour.zone()).unwrap_or_default();
        match self.locals.get_mut(&join.index) {
            Some(local) => {
                if let Some(race) = &mut local.race {
                    race.machine.joined(from, has_index);
                    if !join.downloads && !has_index {
                        race.machine.left(from);
                    }
                }
                if let Some(fetching) = &mut local.fetching {
                    fetching.exchange.joined(from, zone, join.downloads, now);
                    if join.downloads && !has_index {
                        fetching.exchange.have(from, &Holdings::new(), now);
                    }
                }
            }
            None if has_index => self.foreign_index(from, join.index),
            None => {}
        }
    }

    fn has(&mut self, from: NodeId, index: IndexId, mut holdings: Holdings, more: bool) {
        let now = self.now();
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        // Holdings of an index nobody joined mean nothing.
        let Some(roster) = neighbour.rosters.get(&index) else { return };
        let count = |index: &IndexId| self.locals.get(index).and_then(|local| Some(local.layout.as_ref()?.count()));
        if let Some(count) = count(&index) {
            holdings.keep_below(count);
        }
        let all = match &roster.holdings {
            Some(known) if more => Some(Holdings::from(known.positions() | holdings.positions())),
            None if more => None,
            _ => Some(holdings.clone()),
        };
        let all = all.filter(|all| {
            count(&index).is_some() || neighbour.has_room_for(&index, all, |index| count(index).is_some())
        });
        match self.locals.get_mut(&index).and_then(|local| local.fetching.as_mut()) {
            Some(fetching) if more => fetching.exchange.have_more(from, &holdings, now),
            Some(fetching) => fetching.exchange.have(from, &holdings, now),
            None => {}
        }
        if let Some((all, roster)) = all.zip(neighbour.rosters.get_mut(&index)) {
            roster.holdings = Some(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dials::tests::hub;
    use super::*;
    use crate::node::admission::Admission;

    #[tokio::test]
    async fn who_gives_nothing_joins_as_one_that_nobody_counts_on_and_says_so_at_once() {
        let index = IndexId([9; 32]);
        for share in [true, false] {
            let (mut hub, _events) = hub(Admission::default()).await;
            hub.config.share = share;
            hub.find_index(index, true, tokio::sync::oneshot::channel().0);
            assert_eq!(hub.join(&index), Some(Message::Join(Join { index, downloads: share, has_index: false })));
            let nothing = Message::Have { index, holdings: Holdings::new() };
            assert_eq!(hub.have(&index), (!share).then_some(nothing));
        }
    }
}
