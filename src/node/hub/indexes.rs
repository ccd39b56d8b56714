//! Index files between neighbours: getting one by its id, giving ours, and working out what this node holds of an index
//! that a neighbour named.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::index_race::{IndexRace, Step};
use proto::limits::{INDEX_BYTES, INDEX_PART_BYTES};
use proto::{Holdings, IndexId, Message, NodeId};
use tokio::sync::oneshot;

use super::{Event, Hub, Local};
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::node::holder::Holder;

/// Indexes named by neighbours that are looked at, at a time.
const FOREIGN: usize = 32;
/// Bytes of a foreign index: a million chunks.
const FOREIGN_BYTES: u64 = 48 << 20;
/// Bytes of all of them.
const ALL_FOREIGN_BYTES: u64 = 96 << 20;

/// The way to an index that somebody in this program waits for.
pub(crate) struct Race {
    pub(super) machine: IndexRace,
    reply: Option<oneshot::Sender<Option<Bytes>>>,
}

/// An index that comes in parts.
pub(crate) struct Gathering {
    total: u64,
    bytes: BytesMut,
}

impl Hub {
    pub(super) fn local(&mut self, index: IndexId) -> &mut Local {
        self.locals.entry(index).or_insert_with(|| Local {
            name: String::new(),
            place: None,
            bytes: None,
            layout: None,
            holdings: Holdings::new(),
            foreign: false,
            race: None,
            fetching: None,
        })
    }

    pub(super) fn find_index(&mut self, id: IndexId, origin: bool, reply: oneshot::Sender<Option<Bytes>>) {
        let now = self.now();
        let mut machine = IndexRace::new(self.me, &id, origin, now);
        for (peer, neighbour) in &self.neighbours {
            if let Some(roster) = neighbour.rosters.get(&id).filter(|roster| roster.downloads || roster.has_index) {
                machine.joined(*peer, roster.has_index);
            }
        }
        let local = self.local(id);
        if let Some(bytes) = local.bytes.clone() {
            let _ = reply.send(Some(bytes));
            return;
        }
        local.race = Some(Race { machine, reply: Some(reply) });
        self.heard_before();
        self.announce_local(id);
        self.doors.find_providers(id);
    }

    pub(super) fn tend_races(&mut self) {
        let now = self.now();
        let mut asks = Vec::new();
        for (id, local) in &mut self.locals {
            let Some(race) = &mut local.race else { continue };
            match race.machine.poll(now) {
                Some(Step::AskPeer(peer)) => asks.push((*id, peer)),
                Some(Step::AskOrigin) => {
                    if let Some(reply) = race.reply.take() {
                        let _ = reply.send(None);
                    }
                }
                None => {}
            }
        }
        for (id, peer) in asks {
            self.ask_index(id, peer);
        }
    }

    fn ask_index(&mut self, index: IndexId, peer: NodeId) {
        if let Some(neighbour) = self.neighbours.get(&peer) {
            self.gathering.insert((peer, index), Gathering { total: 0, bytes: BytesMut::new() });
            neighbour.send(&Message::GetIndex { index });
        }
    }

    /// A neighbour asks for an index file.
    pub(super) fn index_wanted(&self, from: NodeId, index: IndexId) {
        let Some(neighbour) = self.neighbours.get(&from) else { return };
        let bytes = self.locals.get(&index).and_then(|local| local.bytes.clone()).filter(|_| self.config.share);
        let bytes = bytes.filter(|bytes| bytes.len() as u64 <= INDEX_BYTES);
        let (Some(bytes), Ok(permit)) = (bytes, neighbour.giving.clone().try_acquire_owned()) else {
            neighbour.send(&Message::NoIndex { index });
            return;
        };
        let (sender, serving) = (neighbour.sender.clone(), self.serving.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let total = bytes.len() as u64;
            for offset in (0..bytes.len()).step_by(INDEX_PART_BYTES) {
                let part = bytes.slice(offset..bytes.len().min(offset + INDEX_PART_BYTES));
                let length = part.len() as u32;
                let message = Message::IndexPart { index, total, offset: offset as u64, length };
                serving.may_leave(part.len()).await;
                if sender.send_chunk(message, part).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn index_part(&mut self, from: NodeId, index: IndexId, total: u64, offset: u64, part: &Bytes) {
        let room = self.room_for(from, index);
        let Some(gathering) = self.gathering.get_mut(&(from, index)) else { return };
        let fits = offset == gathering.bytes.len() as u64
            && (offset == 0 || total == gathering.total)
            && total <= room
            && !part.is_empty();
        if !fits {
            self.no_index(from, index);
            return;
        }
        gathering.total = total;
        gathering.bytes.extend_from_slice(part);
        if (gathering.bytes.len() as u64) < total {
            if let Some(race) = self.locals.get_mut(&index).and_then(|local| local.race.as_mut()) {
                race.machine.progressed(from, part.len() as u64);
            }
            return;
        }
        let Some(gathering) = self.gathering.remove(&(from, index)) else { return };
        let bytes = gathering.bytes.freeze();
        if Index::index_id(&bytes) == index {
            self.index_came(index, bytes);
        } else {
            tracing::info!(node = ?from, "sent an index that is not what it said");
            self.no_index(from, index);
        }
    }

    /// How long an index from a neighbour may be.
    fn room_for(&self, from: NodeId, index: IndexId) -> u64 {
        let foreign = |index| self.locals.get(index).is_none_or(|local| local.foreign);
        if !foreign(&index) {
            return INDEX_BYTES;
        }
        let coming = self.gathering.iter().filter(|((peer, of), _)| (*peer, *of) != (from, index) && foreign(of));
        let coming: u64 = coming.map(|(_, gathering)| gathering.total).sum();
        let here = self.locals.values().filter(|local| local.foreign).filter_map(|local| local.bytes.as_ref());
        let here: u64 = here.map(|bytes| bytes.len() as u64).sum();
        FOREIGN_BYTES.min(ALL_FOREIGN_BYTES.saturating_sub(coming + here))
    }

    /// A neighbour does not have the index, or not the right one.
    pub(super) fn no_index(&mut self, from: NodeId, index: IndexId) {
        self.gathering.remove(&(from, index));
        if let Some(race) = self.locals.get_mut(&index).and_then(|local| local.race.as_mut()) {
            race.machine.peer_failed(from);
        }
        if self.locals.get(&index).is_some_and(|local| local.foreign && local.bytes.is_none()) {
            self.locals.remove(&index);
            self.tell_all(&Message::Leave { index });
        }
    }

    fn index_came(&mut self, index: IndexId, bytes: Bytes) {
        let Some(local) = self.locals.get_mut(&index) else { return };
        if let Some(race) = local.race.take() {
            local.bytes = Some(bytes.clone());
            if let Some(reply) = race.reply {
                let _ = reply.send(Some(bytes));
            }
            // It stays a downloader: whoever waited for the index fetches the image next.
            local.race = Some(Race { machine: race.machine, reply: None });
            self.announce_local(index);
            if let Some(local) = self.locals.get_mut(&index) {
                local.race = None;
            }
        } else if local.foreign {
            local.bytes = Some(bytes.clone());
            let (serving, events) = (self.serving.clone(), self.events.clone());
            tokio::task::spawn_blocking(move || {
                let Ok(parsed) = Index::parse(&bytes) else { return };
                let layout = Arc::new(Layout::of(&parsed));
                let holdings = serving.holdings(&layout);
                let _ = events.blocking_send(Event::Worked { index, bytes, layout, holdings });
            });
        }
    }

    /// A neighbour named an index that this node does not know: it may hold chunks of it all the same.
    pub(super) fn foreign_index(&mut self, from: NodeId, index: IndexId) {
        let foreign = self.locals.values().filter(|local| local.foreign).count();
        let holds = self.serving.holders().iter().any(|holder| holder.count() > 0);
        if !self.config.share || !holds || foreign >= FOREIGN {
            return;
        }
        let local = self.local(index);
        local.foreign = true;
        // Whoever wants the image waits a moment for our holdings before it asks the origin, also those that this node did
        // not hear the index of.
        self.tell_all(&Message::Join(proto::message::Join { index, downloads: false, has_index: false }));
        self.ask_index(index, from);
    }

    /// What this node holds of an index is known.
    pub(super) fn worked(&mut self, index: IndexId, bytes: Bytes, layout: Arc<Layout>, holdings: Holdings) {
        let Some(local) = self.locals.get_mut(&index).filter(|local| local.fetching.is_none()) else { return };
        local.bytes = Some(bytes);
        local.layout = Some(layout.clone());
        local.holdings = holdings;
        self.serving.know(index, layout);
        self.announce_local(index);
    }

    /// Foreign indexes that no neighbour takes part in any more are forgotten.
    pub(super) fn forget_foreign(&mut self) {
        let neighbours = &self.neighbours;
        let serving = &self.serving;
        self.locals.retain(|index, local| {
            let keep = !local.foreign || neighbours.values().any(|neighbour| neighbour.rosters.contains_key(index));
            if !keep {
                serving.forget(index);
            }
            keep
        });
    }

    /// Serves from a store or an image.
    pub(super) fn serve(
        &mut self,
        holder: Arc<dyn Holder>,
        index: Option<(IndexId, Bytes, Arc<Layout>)>,
        name: String,
    ) {
        let place = holder.name();
        // What was at this place before is no longer there.
        self.unserve(|holder| holder.name() == place);
        self.serving.add(holder);
        let Some((id, bytes, layout)) = index else { return };
        let holdings = self.serving.holdings(&layout);
        let local = self.local(id);
        local.name = name;
        local.place = Some(place);
        local.foreign = false;
        local.bytes = Some(bytes);
        local.layout = Some(layout.clone());
        local.holdings = holdings;
        self.serving.know(id, layout);
        self.announce_local(id);
        self.doors.provide(id);
    }

    /// Serves no longer from those for which `unwanted` holds. Their indexes stay while a neighbour takes part, with what
    /// is held elsewhere.
    pub(super) fn unserve(&mut self, unwanted: impl Fn(&dyn Holder) -> bool) {
        let gone = self.serving.remove(unwanted);
        if gone.is_empty() {
            return;
        }
        tracing::info!(?gone, "served no longer");
        let mut changed = Vec::new();
        for (index, local) in &mut self.locals {
            let Some(layout) = local.layout.as_ref().filter(|_| local.fetching.is_none()) else { continue };
            local.holdings = self.serving.holdings(layout);
            if local.place.take_if(|place| gone.contains(place)).is_some() {
                local.name = String::new();
                local.foreign = true;
                self.doors.withdraw(*index);
            }
            changed.push(*index);
        }
        for index in changed {
            self.announce_local(index);
        }
    }
}
