//! Images under way: what the exchange says is done here, with sessions, the origin's stores and the extraction's sink.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::exchange::{Config, GiveUp, OriginAnswer, Output, Source};
use proto::{Exchange, Holdings, IndexId, Message, NodeId, Position, ZoneId};
use roaring::RoaringBitmap;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Done, Event, Hub, Local};
use crate::chunk::Encoded;
use crate::extract::assembly::Assembly;
use crate::extract::network::{FetchError, Job, NetworkReport};
use crate::format::layout::Layout;
use crate::node::fetch::{Arrival, From, Outcome, Sink};
use crate::node::holder::AssemblyHolder;
use crate::source::origin_stores::{self, OriginStores};

/// How long after its start a node leaves the origin alone, so that neighbours can be found and say what they hold.
const MEETING: Duration = Duration::from_millis(500);
/// How long a neighbour that has not heard of the index is given to say that it may hold chunks of it.
const HEARING: Duration = Duration::from_millis(100);
/// Who asked for chunks so lately will ask for more.
const ASKED: Duration = Duration::from_secs(3);
/// Origin requests in flight at most.
const ORIGIN_REQUESTS: usize = 64;

/// An image under way.
pub(crate) struct Fetching {
    pub(super) exchange: Exchange,
    layout: Arc<Layout>,
    assembly: Arc<Assembly>,
    sink: Arc<dyn Sink>,
    origins: Arc<OriginStores>,
    requests: JoinSet<()>,
    /// What is being verified, in order to be kept as it came.
    checking: BTreeMap<Position, (Encoded, Source)>,
    /// Stores that gave something else for a position.
    bad: BTreeMap<Position, u64>,
    /// What each store said last.
    complaints: Vec<Option<String>>,
    all_wanted: bool,
    synced: u64,
    origin_requests: u64,
    senders: BTreeSet<NodeId>,
    reply: Option<oneshot::Sender<Result<NetworkReport, FetchError>>>,
}

/// What the origin's stores answered to one request.
pub(crate) struct OriginReply {
    index: IndexId,
    position: Position,
    reply: origin_stores::OriginReply,
}

impl Local {
    /// What is served at this moment.
    pub(super) fn holds(&self) -> Holdings {
        match &self.fetching {
            Some(fetching) => Holdings::from(fetching.exchange.held().clone()),
            None => self.holdings.clone(),
        }
    }
}

impl Hub {
    pub(super) fn fetching(&mut self, index: &IndexId) -> Option<&mut Fetching> {
        self.locals.get_mut(index)?.fetching.as_deref_mut()
    }

    /// Starts an image.
    pub(super) fn fetch(&mut self, job: Job, reply: oneshot::Sender<Result<NetworkReport, FetchError>>) {
        let Job { index_id, index, layout, assembly, origins, mut wanted, sink, in_order } = job;
        let now = self.now();
        let lengths: Arc<[u32]> = (0..layout.count()).map(|position| layout.length(position)).collect();
        let held = assembly.held().into_positions();
        let known = held.len();
        let usual = Config {
            patience: self.config.patience,
            origin_requests: ORIGIN_REQUESTS,
            peers_budget: self.config.limits.ahead(),
            in_order,
            ..Config::default()
        };
        let unheard = self.neighbours.values().any(|neighbour| !neighbour.rosters.contains_key(&index_id));
        let grace = MEETING.saturating_sub(now).max(if unheard { HEARING } else { Duration::ZERO });
        let config = match (self.config.lan, !origins.is_empty()) {
            (true, origin) => Config { origin, zone: ZoneId::of(&self.config.zone), grace, ..usual },
            (false, true) => Config { grace: Duration::ZERO, absent_patience: Duration::ZERO, ..usual },
            // Nobody can be asked: what is missing stays so.
            (false, false) => Config { origin: false, patience: Duration::ZERO, ..usual },
        };
        let mut exchange = Exchange::new(self.me, &index_id, lengths, held, config, now);
        let mut all = RoaringBitmap::new();
        all.insert_range(0..layout.count());
        exchange.postpone(&all);
        exchange.set_bounded(self.choice.bounded());
        for (id, neighbour) in &self.neighbours {
            let Some(roster) = neighbour.rosters.get(&index_id) else { continue };
            exchange.joined(*id, neighbour.zone(), roster.downloads, now);
            exchange.peer_origin(*id, !roster.no_origin);
            match &roster.holdings {
                Some(holdings) => exchange.have(*id, holdings, now),
                None if roster.downloads && !roster.has_index => exchange.have(*id, &Holdings::new(), now),
                None => {}
            }
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            while let Some(positions) = wanted.recv().await {
                if events.send(Event::Wanted { index: index_id, positions: Some(positions) }).await.is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Wanted { index: index_id, positions: None }).await;
        });
        self.serving.know(index_id, layout.clone());
        self.serving.add(Arc::new(AssemblyHolder(assembly.clone())));
        let fetching = Fetching {
            exchange,
            synced: known,
            complaints: vec![None; origins.len()],
            layout: layout.clone(),
            assembly,
            sink,
            origins: Arc::new(OriginStores::new(origins)),
            requests: JoinSet::new(),
            checking: BTreeMap::new(),
            bad: BTreeMap::new(),
            all_wanted: false,
            origin_requests: 0,
            senders: BTreeSet::new(),
            reply: Some(reply),
        };
        let local = self.local(index_id);
        local.bytes = Some(index);
        local.layout = Some(layout);
        local.race = None;
        local.foreign = false;
        local.fetching = Some(Box::new(fetching));
        self.heard_before();
        self.announce_local(index_id);
        self.doors.provide(index_id);
        self.doors.find_providers(index_id);
    }

    pub(super) fn wanted(&mut self, index: IndexId, positions: Option<Vec<Position>>) {
        let now = self.now();
        let Some(fetching) = self.fetching(&index) else { return };
        match positions {
            Some(positions) => fetching.exchange.want(positions, now),
            None => fetching.all_wanted = true,
        }
    }

    pub(super) fn chunk_came(&mut self, from: NodeId, index: IndexId, position: Position, encoded: Encoded) {
        let now = self.now();
        let done = self.done.clone();
        tracing::trace!(%from, position, "chunk");
        let Some(fetching) = self.fetching(&index) else { return };
        let bytes = encoded.bytes.len() as u64;
        if fetching.exchange.arrived(position, from, bytes, now) {
            fetching.senders.insert(from);
            fetching.check(index, position, encoded, Source::Peer(from), 0, done);
        }
    }

    pub(super) fn origin_replied(&mut self, reply: OriginReply) {
        let now = self.now();
        let done = self.done.clone();
        let OriginReply { index, position, reply } = reply;
        let Some(fetching) = self.fetching(&index) else { return };
        fetching.origin_requests += reply.requests;
        let failed = !reply.errors.is_empty();
        for (store, error) in reply.forbidden.into_iter().chain(reply.errors) {
            tracing::debug!(%error, "origin");
            fetching.complaints[store] = Some(error.to_string());
        }
        let found = reply.found.and_then(|(store, fetched)| Some((store, fetched.first_byte, fetched.encoded?)));
        let answer = match &found {
            Some((_, first_byte, encoded)) => {
                OriginAnswer::Bytes { bytes: encoded.bytes.len() as u64, first_byte: *first_byte }
            }
            None if failed => OriginAnswer::Unavailable,
            None => OriginAnswer::Absent,
        };
        let accepted = fetching.exchange.origin_answered(position, answer, now);
        if let Some((store, _, encoded)) = found
            && accepted
        {
            fetching.check(index, position, encoded, Source::Origin, store, done);
        }
    }

    /// A chunk was verified and written, or not.
    pub(super) fn done(&mut self, done: Done) {
        let now = self.now();
        let Done { index, position, from, store, outcome } = done;
        let serving = self.serving.clone();
        let anybody = self.config.share && !self.neighbours.is_empty();
        let Some(fetching) = self.fetching(&index) else { return };
        let kept = fetching.checking.remove(&position);
        match outcome {
            Outcome::Stored => {
                if let Some((encoded, _)) = kept.filter(|_| anybody) {
                    serving.recent.keep(fetching.layout.id(position), encoded);
                }
                fetching.exchange.stored(position, now);
            }
            Outcome::Corrupt(reason) => {
                tracing::debug!(position, reason, "corrupt");
                if from == Source::Origin {
                    *fetching.bad.entry(position).or_default() |= 1 << store.min(63);
                    fetching.complaints[store] = Some(reason);
                    fetching.origins.blame(store);
                }
                fetching.exchange.corrupt(position, from, now);
            }
            Outcome::Failed(reason) => {
                fetching.fail(FetchError { missing: fetching.assembly.missing().len(), reasons: reason });
            }
        }
    }

    /// Asks every exchange what to do, and does it.
    pub(super) fn drive(&mut self) {
        let now = self.now();
        let under_way: Vec<IndexId> =
            self.locals.iter().filter(|(_, local)| local.fetching.is_some()).map(|(index, _)| *index).collect();
        for index in under_way {
            while let Some(output) = self.fetching(&index).and_then(|fetching| fetching.exchange.poll(now)) {
                self.carry_out(index, output);
            }
            if let Some(fetching) = self.fetching(&index) {
                fetching.settle();
            }
        }
    }

    fn carry_out(&mut self, index: IndexId, output: Output) {
        let send = |hub: &Self, to: NodeId, message: &Message| {
            if let Some(neighbour) = hub.neighbours.get(&to) {
                neighbour.send(message);
            }
        };
        match output {
            Output::Ask(to, positions) => {
                tracing::trace!(%to, ?positions, "asks");
                send(self, to, &Message::Want { index, positions, plain: false });
            }
            Output::Cancel(to, positions) => {
                tracing::trace!(%to, ?positions, "cancels");
                send(self, to, &Message::Cancel { index, positions });
            }
            Output::AskOrigin(position) => self.ask_origin(index, position),
            Output::Announce(to, holdings, started) if self.config.share => {
                let message = Message::HaveMore { index, holdings, started };
                to.into_iter().for_each(|to| send(self, to, &message));
            }
            Output::Claim(groups) if self.config.share => {
                self.tell(&index, &Message::Claim { index, groups, origin: true });
            }
            Output::Tell(to, message) if self.config.share => to.into_iter().for_each(|to| send(self, to, &message)),
            Output::TellOrigin(reachable) => self.tell(&index, &Message::Origin { index, reachable }),
            Output::Ban(peer) => self.ban(peer),
            Output::GiveUp(reason) => {
                let lan = self.config.lan;
                if let Some(fetching) = self.fetching(&index) {
                    let error = fetching.gave_up(&reason, lan);
                    fetching.fail(error);
                }
            }
            Output::Announce(..) | Output::Claim(_) | Output::Tell(..) | Output::Complete => {}
        }
    }

    fn ask_origin(&mut self, index: IndexId, position: Position) {
        let events = self.events.clone();
        let Some(fetching) = self.fetching(&index) else { return };
        let id = fetching.layout.id(position);
        let bad = fetching.bad.get(&position).copied().unwrap_or(0);
        let stores = fetching.origins.clone();
        while fetching.requests.try_join_next().is_some() {}
        fetching.requests.spawn(async move {
            let reply = stores.ask(id, |store| bad & (1 << store.min(63)) != 0).await;
            let _ = events.send(Event::Origin(Box::new(OriginReply { index, position, reply }))).await;
        });
    }

    /// What turned up by local work is held too.
    pub(super) fn tend_fetching(&mut self) {
        let now = self.now();
        for fetching in self.locals.values_mut().filter_map(|local| local.fetching.as_mut()) {
            let count = fetching.assembly.count();
            if count != fetching.synced {
                fetching.synced = count;
                let news = fetching.assembly.held().into_positions() - fetching.exchange.held();
                for position in news {
                    if !fetching.checking.contains_key(&position) {
                        fetching.exchange.stored(position, now);
                    }
                }
            }
        }
    }

    pub(super) fn needed(&mut self, index: &IndexId) -> bool {
        let now_missing = |neighbour: &super::Neighbour, layout: &Layout| {
            neighbour.rosters.get(index).is_some_and(|roster| {
                let held = roster.holdings.as_ref().map_or(0, |holdings| holdings.positions().len());
                // Who gives nothing does not say what it lacks, but asks.
                match roster.downloads {
                    true => held < u64::from(layout.count()),
                    false => roster.asked.is_some_and(|at| at.elapsed() < ASKED),
                }
            })
        };
        let Some(layout) = self.locals.get(index).and_then(|local| local.layout.clone()) else { return false };
        self.neighbours.values().any(|neighbour| now_missing(neighbour, &layout))
    }

    /// A neighbour left the exchange of an index; `there`: it is no neighbour any more, and takes part all the same.
    pub(super) fn departed(&mut self, id: NodeId, index: &IndexId, there: bool) {
        let now = self.now();
        if let Some(local) = self.locals.get_mut(index) {
            if let Some(race) = &mut local.race {
                race.machine.left(id);
            }
            if let Some(fetching) = &mut local.fetching {
                if there { fetching.exchange.parted(id, now) } else { fetching.exchange.left(id, now) }
            }
        }
    }
}

impl Fetching {
    fn check(
        &mut self,
        index: IndexId,
        position: Position,
        encoded: Encoded,
        from: Source,
        store: usize,
        done: tokio::sync::mpsc::UnboundedSender<Done>,
    ) {
        self.checking.insert(position, (encoded.clone(), from));
        let sender = match from {
            Source::Peer(node) => From::Peer(node),
            Source::Origin => From::Origin(store),
        };
        let arrival = Arrival { position, encoded, from: sender };
        self.sink.arrived(
            arrival,
            Box::new(move |outcome| {
                let _ = done.send(Done { index, position, from, store, outcome });
            }),
        );
    }

    /// Answers the extraction once all that it wanted is in place.
    fn settle(&mut self) {
        if self.all_wanted
            && self.exchange.settled()
            && let Some(reply) = self.reply.take()
        {
            let report = NetworkReport {
                origin_requests: self.origin_requests,
                peers: self.senders.len() as u64,
                duplicates: self.exchange.stats().duplicates,
            };
            let _ = reply.send(Ok(report));
        }
    }

    fn fail(&mut self, error: FetchError) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(error));
        }
    }

    fn gave_up(&self, reason: &GiveUp, lan: bool) -> FetchError {
        let missing = self.assembly.missing();
        let first = match reason {
            GiveUp::Absent(positions) => positions.first().copied(),
            GiveUp::Unreachable(_) => missing.min(),
        };
        let mut reasons: Vec<String> = first.map(|p| format!("chunk {}", self.layout.id(p))).into_iter().collect();
        for (store, complaint) in self.origins.names().zip(&self.complaints) {
            reasons.push(complaint.clone().unwrap_or_else(|| format!("{store} does not have it")));
        }
        if lan {
            reasons.push("no neighbour has it".into());
        }
        FetchError { missing: missing.len(), reasons: reasons.join("; ") }
    }
}
