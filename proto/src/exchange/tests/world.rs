//! What is around one exchange in a test: who holds what in truth, and what was asked and not answered.

use std::collections::BTreeSet;

use super::super::*;

pub(super) const INDEX: IndexId = IndexId([7; 32]);
pub(super) const ME: NodeId = NodeId([0; 32]);

pub(super) fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

pub(super) fn node(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 32])
}

pub(super) fn set(positions: impl IntoIterator<Item = Position>) -> RoaringBitmap {
    positions.into_iter().collect()
}

pub(super) fn bytes() -> OriginAnswer {
    OriginAnswer::Bytes { bytes: 900, first_byte: ms(1) }
}

/// Everything around one exchange: who holds what in truth, and what was asked and not answered.
pub(super) struct World {
    pub(super) exchange: Exchange,
    pub(super) count: u32,
    pub(super) now: Time,
    /// What each peer holds; `None` for one that says it holds everything and has nothing.
    pub(super) truth: Vec<Option<RoaringBitmap>>,
    pub(super) asked: BTreeMap<NodeId, BTreeSet<Position>>,
    pub(super) origin_asked: BTreeSet<Position>,
    pub(super) checking: Vec<(Position, Source, bool)>,
    pub(super) announced: RoaringBitmap,
    pub(super) banned: BTreeSet<NodeId>,
    pub(super) completed: usize,
    pub(super) claimed: Vec<u32>,
}

impl World {
    pub(super) fn new(count: u32, truth: Vec<Option<RoaringBitmap>>, config: Config) -> Self {
        let lengths: Arc<[u32]> = vec![2000; count as usize].into();
        let exchange = Exchange::new(ME, &INDEX, lengths, RoaringBitmap::new(), config, Time::ZERO);
        let mut world = Self {
            exchange,
            count,
            now: Time::ZERO,
            truth,
            asked: BTreeMap::new(),
            origin_asked: BTreeSet::new(),
            checking: Vec::new(),
            announced: RoaringBitmap::new(),
            banned: BTreeSet::new(),
            completed: 0,
            claimed: Vec::new(),
        };
        (0..world.truth.len()).for_each(|peer| world.arrive(peer));
        world
    }

    /// A world of peers that hold these, with an origin of everything.
    pub(super) fn of(count: u32, peers: &[&[Position]]) -> Self {
        let truth = peers.iter().map(|held| Some(set(held.iter().copied()))).collect();
        Self::new(count, truth, Config { grace: Duration::ZERO, ..Config::default() })
    }

    pub(super) fn said(&self, peer: usize) -> Holdings {
        self.truth[peer].clone().map_or_else(|| Holdings::all(self.count), Holdings::from)
    }

    pub(super) fn arrive(&mut self, peer: usize) {
        self.exchange.joined(node(peer), ZoneId::default(), true, self.now);
        self.exchange.have(node(peer), &self.said(peer), self.now);
    }

    pub(super) fn leave(&mut self, peer: usize) {
        self.exchange.left(node(peer), self.now);
        self.asked.remove(&node(peer));
    }

    /// Does what the exchange wants done, and checks it.
    pub(super) fn drain(&mut self) {
        while let Some(output) = self.exchange.poll(self.now) {
            match output {
                Output::Ask(peer, positions) => {
                    assert!(!self.banned.contains(&peer), "asked {peer:?}, which is banned");
                    self.asked.entry(peer).or_default().extend(positions);
                }
                Output::Cancel(peer, positions) => {
                    self.asked.entry(peer).or_default().retain(|position| !positions.contains(position));
                }
                Output::AskOrigin(position) => {
                    assert!(self.origin_asked.insert(position), "the origin asked for {position} twice");
                }
                Output::Announce(_, news, _) => {
                    assert!(news.positions().is_subset(self.exchange.held()), "announced what is not held");
                    assert!(news.positions().is_disjoint(&self.announced), "announced twice");
                    self.announced |= news.positions();
                }
                Output::Claim(groups) => self.claimed.extend(groups),
                Output::Ban(peer) => {
                    assert!(self.banned.insert(peer), "banned twice");
                    self.asked.remove(&peer);
                }
                Output::Complete => self.completed += 1,
                Output::TellOrigin(_) | Output::Tell(..) => {}
                Output::GiveUp(why) => panic!("gave up: {why:?}"),
            }
        }
        self.exchange.check().unwrap();
    }

    pub(super) fn answer(&mut self, peer: usize, position: Position) {
        self.asked.entry(node(peer)).or_default().remove(&position);
        if self.exchange.arrived(position, node(peer), 900, self.now) {
            let right = self.truth[peer].as_ref().is_some_and(|held| held.contains(position));
            self.checking.push((position, Source::Peer(node(peer)), right));
        }
    }

    pub(super) fn origin(&mut self, position: Position, answer: OriginAnswer) {
        self.origin_asked.remove(&position);
        if self.exchange.origin_answered(position, answer, self.now) {
            self.checking.push((position, Source::Origin, true));
        }
    }

    pub(super) fn verify(&mut self, at: usize) {
        let (position, from, right) = self.checking.swap_remove(at);
        if right {
            self.exchange.stored(position, self.now);
        } else {
            self.exchange.corrupt(position, from, self.now);
        }
    }

    pub(super) fn wait(&mut self, wait: Duration) {
        self.now += wait;
        self.drain();
    }

    pub(super) fn honest(&self) -> Vec<usize> {
        (0..self.truth.len()).filter(|peer| self.truth[*peer].is_some()).collect()
    }

    pub(super) fn owed(&self, peer: usize) -> Vec<Position> {
        self.asked.get(&node(peer)).into_iter().flatten().copied().collect()
    }

    /// Anything that can happen, by three numbers.
    pub(super) fn happen(&mut self, what: u8, who: u16, value: u16, origin: &RoaringBitmap) {
        let peer = usize::from(who) % self.truth.len();
        let position = u32::from(value) % self.count;
        match what {
            0 | 1 => self.now += ms(u64::from(value) % 400),
            2 | 3 => self.owed(peer).into_iter().take(3).for_each(|position| self.answer(peer, position)),
            4 => {
                let refused: Vec<Position> = self.owed(peer).into_iter().take(5).chain([position]).collect();
                self.asked.entry(node(peer)).or_default().retain(|position| !refused.contains(position));
                let retry = ms(u64::from(value) % 3 * 200);
                self.exchange.absent(node(peer), &refused, retry, self.now);
            }
            5 => {
                let Some(position) = self.origin_asked.iter().nth(usize::from(who) % 3).copied() else { return };
                let answer = match origin.contains(position) {
                    _ if value.is_multiple_of(5) => OriginAnswer::Unavailable,
                    true => bytes(),
                    false => OriginAnswer::Absent,
                };
                self.origin(position, answer);
            }
            6 | 7 if !self.checking.is_empty() => self.verify(usize::from(value) % self.checking.len()),
            8 => self.leave(peer),
            9 => self.arrive(peer),
            10 => {
                let more: Holdings = self.said(peer).positions().iter().take(usize::from(value) % 40).collect();
                self.exchange.have_more(node(peer), &more, self.now);
            }
            11 => self.exchange.claimed(
                node(peer),
                &[position / GROUP, u32::from(value), u32::MAX],
                value.is_multiple_of(2),
                self.now,
            ),
            12 => self.exchange.peer_origin(node(peer), value.is_multiple_of(2)),
            13 if self.truth[peer].as_ref().is_none_or(|held| held.contains(position)) => self.answer(peer, position),
            14 => self.exchange.want([position, u32::MAX], self.now),
            15 => self.exchange.stored(position, self.now),
            16 if self.truth[peer].is_none() => {
                self.exchange.have(node(peer), &Holdings::all(u32::from(value) * 8), self.now);
                self.answer(peer, u32::MAX - u32::from(value));
            }
            _ => {}
        }
    }

    /// From here on everybody who is honest answers, and so does the origin; the others stay silent.
    pub(super) fn come_to_rest(&mut self, origin: &RoaringBitmap) {
        self.exchange.want(0..self.count, self.now);
        for peer in self.honest() {
            self.arrive(peer);
        }
        self.drain();
        let until = self.now + Duration::from_secs(600);
        while self.completed == 0 {
            assert!(self.now < until, "{} of {} held after 600 s", self.exchange.held().len(), self.count);
            for peer in self.honest() {
                self.owed(peer).into_iter().for_each(|position| self.answer(peer, position));
            }
            for position in self.origin_asked.clone() {
                let answer = if origin.contains(position) { bytes() } else { OriginAnswer::Absent };
                self.origin(position, answer);
            }
            (0..self.checking.len()).for_each(|_| self.verify(0));
            self.drain();
            if let Some((at, _)) = self.exchange.poll_timeout() {
                self.now = self.now.max(at);
            }
        }
    }
}
