//! Where this node's own announcements go, and where those of others are looked for: carries out what [`super::shards`]
//! decides.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, KBucketKey, QueryId, QueryResult};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId};
use proto::IndexId;
use tokio::sync::oneshot;

use super::behaviour::BehaviourEvent;
use super::shards::{self, Place, Search};
use super::{Dht, INDEXES};
use crate::node::identity::node_id_of;
use crate::source;

/// How long after an announcement it is looked whether it is in a good place, at first and when it stays; each time up to
/// twice as long, so that machines that started together do not look together.
const FIRST_LOOK: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_secs(200);

/// Announcements that are looked at, at a time, and searches for one index.
const LOOKS: usize = 8;
const SEARCHES: usize = 2;

/// How long taking back all announcements may take, and their last bytes.
const WITHDRAW: Duration = Duration::from_millis(350);
const LAST_BYTES: Duration = Duration::from_millis(50);

/// An index that this node provides.
pub(super) struct Provided {
    place: Place,
    look: Instant,
}

/// A question that was asked.
pub(super) enum Asked {
    /// Who else is in this node's shard?
    Look { index: IndexId, level: u8, others: BTreeSet<PeerId> },
    /// Who has it?
    Search(Search),
}

impl Dht {
    /// About how many nodes keep records.
    fn nodes(&mut self) -> f64 {
        let local = KBucketKey::from(*self.swarm.local_peer_id());
        let kad = &mut self.swarm.behaviour_mut().kad;
        let closest = kad.get_closest_local_peers(&local).take(shards::FULL);
        let distances: Vec<_> = closest.filter_map(|peer| local.distance(&peer).ilog2()).collect();
        shards::estimate_nodes(&distances)
    }

    pub(super) fn begin_providing(&mut self, index: IndexId) -> bool {
        if self.provided.len() >= INDEXES || self.provided.contains_key(&index) {
            return false;
        }
        let place = Place::new(self.nodes());
        self.provided.insert(index, Provided { place, look: soon(FIRST_LOOK) });
        self.provide(index);
        true
    }

    pub(super) fn stop_providing(&mut self, index: IndexId) {
        let Some(provided) = self.provided.remove(&index) else { return };
        for level in provided.place.levels() {
            self.unprovide(index, level);
        }
    }

    /// Announces an index that this node provides, at all its levels.
    pub(super) fn provide(&mut self, index: IndexId) {
        let Some(place) = self.provided.get(&index).map(|provided| provided.place) else { return };
        for level in place.levels() {
            let key = self.own_key(&index, level);
            if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(key) {
                tracing::debug!(%error, %index, "not announced in the DHT");
            }
        }
    }

    fn unprovide(&mut self, index: IndexId, level: u8) {
        let key = self.own_key(&index, level);
        self.swarm.behaviour_mut().kad.stop_providing(&key);
    }

    fn own_key(&self, index: &IndexId, level: u8) -> kad::RecordKey {
        shards::key(index, level, shards::shard_of(index, &self.config.identity.node_id(), level))
    }

    /// Looks at the places of announcements whose time has come.
    pub(super) fn look_around(&mut self) {
        let now = Instant::now();
        if self.sessions.is_empty() && self.remote.is_empty() {
            return;
        }
        let due: Vec<_> = self.provided.iter().filter(|(_, provided)| provided.look <= now).collect();
        let due: Vec<_> = due.into_iter().take(LOOKS).map(|(index, provided)| (*index, provided.place)).collect();
        for (index, place) in due {
            for level in place.levels() {
                let key = self.own_key(&index, level);
                let id = self.swarm.behaviour_mut().kad.get_providers(key);
                self.asked.insert(id, Asked::Look { index, level, others: BTreeSet::new() });
            }
            if let Some(provided) = self.provided.get_mut(&index) {
                provided.look = soon(LOOK);
            }
        }
    }

    /// Searches for an index.
    pub(super) fn find(&mut self, index: IndexId) {
        let of_it = |asked: &&Asked| matches!(asked, Asked::Search(search) if search.index == index);
        if self.asked.values().filter(of_it).count() < SEARCHES {
            let search = Search::new(index, self.nodes(), source::random() as u32);
            self.ask(search);
        }
    }

    fn ask(&mut self, search: Search) {
        let id = self.swarm.behaviour_mut().kad.get_providers(search.key());
        self.asked.insert(id, Asked::Search(search));
    }

    /// Providers of a key were named in answer to a question.
    pub(super) fn named(&mut self, id: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let local = *self.swarm.local_peer_id();
        let providers = providers.into_iter().filter(|peer| *peer != local);
        match self.asked.get_mut(&id) {
            Some(Asked::Look { others, .. }) => others.extend(providers.take(2 * shards::FULL)),
            Some(Asked::Search(search)) => {
                let (index, told) = (search.index, search.take(providers));
                self.found(index, told);
            }
            None => {}
        }
    }

    /// A question was answered by all who were asked.
    pub(super) fn answered(&mut self, id: QueryId) {
        match self.asked.remove(&id) {
            Some(Asked::Look { index, level, others }) => {
                self.looked.entry(index).or_default().insert(level, others.len());
                self.judge(index);
            }
            Some(Asked::Search(search)) => self.go_on(search),
            None => {}
        }
    }

    fn go_on(&mut self, mut search: Search) {
        if search.go_on() {
            self.ask(search);
        }
    }

    /// Moves an announcement, once it was looked at all its levels.
    fn judge(&mut self, index: IndexId) {
        let Some(provided) = self.provided.get_mut(&index) else {
            self.looked.remove(&index);
            return;
        };
        let seen = self.looked.get(&index);
        if !provided.place.levels().all(|level| seen.is_some_and(|seen| seen.contains_key(&level))) {
            return;
        }
        let others: BTreeMap<_, _> = self.looked.remove(&index).unwrap_or_default();
        let before = provided.place;
        if !provided.place.judge(&others) {
            return;
        }
        tracing::debug!(%index, ?others, from = ?before, to = ?provided.place, "announced elsewhere in the DHT");
        provided.look = soon(FIRST_LOOK);
        let left: Vec<_> = before.levels().filter(|level| !provided.place.levels().contains(level)).collect();
        for level in left {
            self.unprovide(index, level);
        }
        self.provide(index);
    }

    /// Takes back everything that was announced: a record without an address says that there is no such provider.
    pub(super) async fn withdraw_all(&mut self, done: oneshot::Sender<()>) {
        let own: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        for addr in own {
            self.swarm.remove_external_address(&addr);
        }
        let mut pending = HashSet::new();
        for (index, place) in self.provided.iter().map(|(index, provided)| (*index, provided.place)).collect::<Vec<_>>()
        {
            for level in place.levels() {
                let key = self.own_key(&index, level);
                pending.extend(self.swarm.behaviour_mut().kad.start_providing(key));
            }
        }
        let deadline = tokio::time::sleep(WITHDRAW);
        tokio::pin!(deadline);
        while !pending.is_empty() {
            let event = tokio::select! {
                event = self.swarm.select_next_some() => event,
                () = &mut deadline => break,
            };
            if let SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::StartProviding(_),
                ..
            })) = event
            {
                pending.remove(&id);
            }
        }
        // Nobody confirms: what was handed to connections has to leave them.
        let _ = tokio::time::timeout(LAST_BYTES, async {
            loop {
                self.swarm.select_next_some().await;
            }
        })
        .await;
        let _ = done.send(());
    }

    /// Forgets records that are over: libp2p does so only for keys that somebody asks for, and refuses new ones meanwhile.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let store = self.swarm.behaviour_mut().kad.store_mut();
        self.kept.retain(|key| {
            let records = store.providers(key);
            for record in records.iter().filter(|record| record.is_expired(now)) {
                store.remove_provider(key, &record.provider);
            }
            records.iter().any(|record| !record.is_expired(now))
        });
    }

    /// Nodes that provide an index: told as soon as it is known where they accept sessions.
    fn found(&mut self, index: IndexId, providers: Vec<PeerId>) {
        for peer in providers.into_iter().filter(|peer| node_id_of(*peer).is_some()) {
            self.locate(index, peer);
        }
    }
}

/// In this time or up to twice as long.
fn soon(time: Duration) -> Instant {
    Instant::now() + time + time.mul_f64(f64::from(source::random() as u32) / f64::from(u32::MAX))
}
