//! What is known of one peer: its holdings, its load, its pace, its claims. Decides nothing.

use std::time::Duration;

use roaring::RoaringBitmap;

use crate::bits::Bits;
use crate::election::GROUP;
use crate::sorted::Sorted;
use crate::{Position, Time};

/// A request is never called late before this.
const EARLIEST_LATE: Duration = Duration::from_millis(250);
/// A request is called late after this, whatever the peer's pace was.
const LATEST_LATE: Duration = Duration::from_secs(3);
/// A claim is never called late before this.
const EARLIEST_LATE_CLAIM: Duration = Duration::from_secs(1);
/// How much a new sign of progress with claims weighs against those before.
const CLAIM_WEIGHT: f64 = 0.2;
/// Gaps between signs of progress, times this, make a claim late.
const CLAIM_GAPS: f64 = 8.0;
/// The longest time that is waited for any progress with claims.
const LATEST_LATE_CLAIM: f64 = 10.0;
/// Bytes asked ahead of a peer whose pace is not known, and of any peer, at least and at most; of these the first two and
/// [`AHEAD`] are for few peers.
const FIRST_WINDOW: u64 = 512 << 10;
const LEAST_WINDOW: u64 = 64 << 10;
const MOST_WINDOW: u64 = 2 << 20;
/// Claims of one peer that are noted.
const MOST_CLAIMS: usize = 64;
/// Positions in a row that a peer may deny to hold.
const MOST_DENIED: usize = 128;
/// How long a peer may call itself busy without sending anything.
const LONGEST_BUSY: Duration = Duration::from_secs(3);
/// How long a peer that turned out silent or useless has to wait until its word counts again.
const FIRST_DISTRUST: Duration = Duration::from_secs(2);
/// A peer that owes answers and is silent for this long does not count as a holder any more.
const SILENT: Duration = Duration::from_secs(1);
/// Nor does one that talks and answers nothing for this long; half as long each time that it is found out.
const LONGEST_MUTE: Duration = Duration::from_secs(5);
/// A peer that stalled and says nothing is tried with a little this often.
const PROBE: Duration = Duration::from_secs(2);
/// A peer's pace is measured over so much time in which it owed answers: over less, what arrived together would count as
/// the pace of a fast one.
const MEASURED: Duration = Duration::from_millis(100);
/// Seconds of a peer's pace that are asked ahead. An answer on full links takes up to this, what waits in sockets and in
/// front of links included. With less, the pace would be what the window allows and the window a part of that pace, ever
/// smaller; with more, what queues at one peer could come sooner from another that gets it meanwhile.
const AHEAD: f64 = 0.5;
/// So many peers are few. Of more, less is asked ahead of each, and in all: what one is late with others make up for, and
/// what queues at one could come sooner from those that get it meanwhile.
const FEW: f64 = 8.0;
/// Nor is it less than this part.
const LEAST_PART: f64 = 0.2;
/// Bytes a second assumed of a peer that has not sent anything yet.
const UNKNOWN_RATE: f64 = 20e6;

/// One peer of an exchange. What is asked of every peer before each decision comes first, so that it is in few lines of
/// the processor's cache.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Peer {
    /// It is of the own zone.
    pub(super) near: bool,
    /// It said what it holds.
    pub(super) answered: bool,
    /// It downloads, so it may be elected.
    pub(super) downloads: bool,
    /// It holds everything.
    pub(super) complete: bool,
    /// It can reach the origin, as far as it said.
    pub(super) origin: bool,
    /// Its holdings do not count as available: it is silent.
    pub(super) discounted: bool,
    /// It made no progress with its claims and is out of the election until it does.
    pub(super) suspect: bool,
    /// What it holds.
    pub(super) holdings: Bits,
    outstanding_bytes: u64,
    /// Bytes that may be outstanding, and bytes a second that it is counted on for.
    window: u64,
    pace: f64,
    /// What it was asked and when, and the bytes expected.
    pub(super) outstanding: Sorted<Position, (Time, u64)>,
    /// It is not asked before this.
    pub(super) busy_until: Time,
    /// When it was last seen to owe answers for too long, if it sent nothing since.
    stalled_at: Option<Time>,
    arrived_at: Time,
    late_after: Duration,
    spoke_at: Time,
    /// Groups that it is fetching from the origin, and since when.
    pub(super) claims: Sorted<u32, Time>,
    /// Of another zone: the groups that it wants to hear of; `None`: all.
    pub(super) interest: Option<RoaringBitmap>,
    /// When it joined.
    pub(super) joined_at: Time,
    /// What part of what is asked ahead where there are few peers is asked here.
    part: f64,
    /// When it last answered a request, or came to owe an answer.
    served_at: Time,
    claim_progress_at: Time,
    claim_gap: f64,
    /// Positions that one sign of progress is about.
    claim_news: f64,
    rate: Option<f64>,
    /// The time in which it owed answers since its pace was last measured, but for what ran since `busy_since`, and the
    /// bytes that came in it.
    busy_for: Duration,
    busy_since: Time,
    busy_bytes: u64,
    latency: f64,
    deviation: f64,
    strikes: u32,
    distrusted_until: Time,
    denied: usize,
    busy_first: Option<Time>,
}

/// How long a peer is left alone with a group: until it has had it for `most` and needs as much again for what it claims;
/// or, if it needs more than `slow` seconds for a position, has had it for `least` and needs as much again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) most: Duration,
    pub(super) least: Duration,
    pub(super) slow: f64,
}

impl Peer {
    /// `count` are the positions of the index.
    pub(super) fn new(near: bool, count: u32, now: Time) -> Self {
        Self {
            near,
            answered: false,
            downloads: false,
            complete: false,
            origin: true,
            discounted: false,
            suspect: false,
            holdings: Bits::new(count),
            outstanding: Sorted::new(),
            claims: Sorted::new(),
            busy_until: Duration::ZERO,
            interest: None,
            joined_at: now,
            part: 1.0,
            outstanding_bytes: 0,
            window: FIRST_WINDOW,
            pace: UNKNOWN_RATE,
            late_after: EARLIEST_LATE,
            spoke_at: now,
            arrived_at: now,
            served_at: now,
            claim_progress_at: now,
            claim_gap: 0.0,
            claim_news: 0.0,
            rate: None,
            busy_for: Duration::ZERO,
            busy_since: now,
            busy_bytes: 0,
            latency: 0.0,
            deviation: 0.0,
            strikes: 0,
            distrusted_until: Duration::ZERO,
            denied: 0,
            busy_first: None,
            stalled_at: None,
        }
    }

    /// It said something.
    pub(super) fn spoke(&mut self, now: Time) {
        self.spoke_at = now;
    }

    /// It holds more, which is noted already. True if that belongs to its claims: it is alive as a fetcher.
    pub(super) fn progressed(&mut self, news: &[(u32, u64)], count: u32, now: Time) -> bool {
        let mut touched = 0;
        for &(at, word) in news {
            if self.claims.is_empty() {
                break;
            }
            for part in 0..64 / GROUP {
                let new = word >> (part * GROUP) & ((1 << GROUP) - 1);
                let group = at * (64 / GROUP) + part;
                if new == 0 || !self.claims.contains_key(&group) {
                    continue;
                }
                touched += new.count_ones();
                let (first, end) = (group * GROUP, ((group + 1) * GROUP).min(count));
                if self.holdings.count_range(first, end) == end - first {
                    self.claims.remove(&group);
                }
            }
        }
        if touched == 0 {
            return false;
        }
        let positions = f64::from(touched);
        let gap = now.saturating_sub(self.claim_progress_at).as_secs_f64();
        self.claim_gap += (gap - self.claim_gap) * CLAIM_WEIGHT;
        self.claim_news += (positions - self.claim_news) * CLAIM_WEIGHT;
        self.claim_progress_at = now;
        true
    }

    /// It starts on a group. What it claims beyond all measure is not noted, and a claim is not made younger by repeating it.
    pub(super) fn claim(&mut self, group: u32, now: Time) {
        if self.claims.is_empty() {
            self.claim_progress_at = now;
        }
        if self.claims.len() < MOST_CLAIMS {
            self.claims.get_or_insert_with(group, || now);
        }
    }

    /// Whether its claims are overdue.
    pub(super) fn claims_late(&self, now: Time) -> bool {
        let waited = now.saturating_sub(self.claim_progress_at);
        !self.claims.is_empty() && waited > EARLIEST_LATE_CLAIM && {
            waited > Duration::from_secs_f64((self.claim_gap * CLAIM_GAPS).min(LATEST_LATE_CLAIM))
        }
    }

    /// Whether it is at a group, as far as so much patience goes.
    pub(super) fn is_at(&self, group: u32, patience: Patience, now: Time) -> bool {
        let Some(since) = self.claims.get(&group) else { return false };
        let age = now.saturating_sub(*since);
        if age < patience.least.min(patience.most) {
            return true;
        }
        let left =
            self.claims.keys().map(|group| GROUP - self.holdings.count_range(group * GROUP, (group + 1) * GROUP));
        let waited = now.saturating_sub(self.claim_progress_at).as_secs_f64();
        let pace = self.claim_pace();
        let needs = pace.map(|pace| f64::from(left.sum::<u32>()) * pace + waited);
        let slow = pace.is_some_and(|pace| pace > patience.slow);
        let patience = if slow { patience.least } else { patience.most };
        age < patience || needs.is_some_and(|needs| needs < patience.as_secs_f64())
    }

    /// Seconds between two positions of what it claims, on average; `None` before the first.
    pub(super) fn claim_pace(&self) -> Option<f64> {
        (self.claim_news > 0.0).then(|| self.claim_gap / self.claim_news)
    }

    /// Notes a request.
    pub(super) fn ask(&mut self, position: Position, bytes: u64, now: Time) {
        if self.outstanding.is_empty() {
            self.arrived_at = now;
            self.served_at = now;
            self.busy_since = now;
        }
        let before = self.outstanding.insert(position, (now, bytes)).map_or(0, |(_, bytes)| bytes);
        self.outstanding_bytes = self.outstanding_bytes + bytes - before;
    }

    /// A request is no longer outstanding; when it was made, or `None` if there was none.
    pub(super) fn answered_ask(&mut self, position: Position) -> Option<Time> {
        let (asked, bytes) = self.outstanding.remove(&position)?;
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
        Some(asked)
    }

    /// Bytes of a chunk came: updates pace and latency.
    pub(super) fn arrived(&mut self, position: Position, bytes: u64, now: Time) {
        self.spoke(now);
        if !self.outstanding.is_empty() {
            self.busy_for += now.saturating_sub(self.busy_since);
            self.busy_since = now;
            self.busy_bytes += bytes;
        }
        if let Some(asked) = self.answered_ask(position) {
            let took = now.saturating_sub(asked).as_secs_f64();
            if self.latency == 0.0 {
                self.latency = took;
                self.deviation = took / 2.0;
            } else {
                self.deviation += ((took - self.latency).abs() - self.deviation) * 0.125;
                self.latency += (took - self.latency) * 0.125;
            }
            let late = Duration::from_secs_f64(self.latency + 4.0 * self.deviation);
            self.late_after = late.clamp(EARLIEST_LATE, LATEST_LATE);
            self.served_at = now;
            self.strikes = 0;
            self.denied = 0;
            self.busy_first = None;
        }
        self.arrived_at = now;
        self.stalled_at = None;
        if self.busy_for >= MEASURED {
            let seen = self.busy_bytes as f64 / self.busy_for.as_secs_f64();
            let rate = self.rate.map_or(seen, |rate| rate + (seen - rate) * 0.3);
            self.rate = Some(rate);
            self.pace = rate.max(1.0);
            self.set_window();
            self.busy_for = Duration::ZERO;
            self.busy_bytes = 0;
        }
    }

    /// It refused what it was asked for. True: it has refused so much, and sent nothing, that asking it is useless.
    pub(super) fn refused(&mut self, positions: usize, denied: bool, now: Time) -> bool {
        if denied {
            self.denied += positions;
        } else if self.busy_first.is_none() {
            self.busy_first = Some(now);
        }
        self.denied > MOST_DENIED || self.busy_first.is_some_and(|since| now.saturating_sub(since) > LONGEST_BUSY)
    }

    /// Its word does not count for a while, longer each time until it sends a chunk.
    pub(super) fn strike(&mut self, now: Time) {
        self.denied = 0;
        self.busy_first = None;
        self.distrusted_until = now + FIRST_DISTRUST * (1 << self.strikes.min(6)) / 2;
        self.strikes += 1;
    }

    /// Whether its word does not count at present.
    pub(super) fn distrusted(&self, now: Time) -> bool {
        now < self.distrusted_until
    }

    /// After how long without an answer a request to this peer is late.
    pub(super) fn late_after(&self) -> Duration {
        self.late_after
    }

    /// Whether it owes answers and none has come for too long.
    pub(super) fn stalled(&self, now: Time) -> bool {
        if self.outstanding.is_empty() {
            return false;
        }
        let waited = now.saturating_sub(self.arrived_at);
        waited > EARLIEST_LATE && waited > self.late_after()
    }

    /// Notes that it stalls: until it sends something, it is asked for little, and while it is silent for nearly nothing.
    pub(super) fn look(&mut self, now: Time) {
        if self.stalled(now) {
            self.stalled_at = Some(now);
        }
    }

    /// What was held against it is forgotten.
    pub(super) fn forgive(&mut self) {
        self.stalled_at = None;
    }

    /// Whether it owes answers and is silent, or talks and does not answer.
    pub(super) fn fails_to_answer(&self, now: Time) -> bool {
        if self.outstanding.is_empty() {
            return false;
        }
        let late = self.late_after() * 2;
        let silent_for = now.saturating_sub(self.arrived_at.max(self.spoke_at));
        let silent = self.stalled(now) && silent_for > SILENT.max(late);
        let mute_for = now.saturating_sub(self.served_at);
        let mute = mute_for > late.max(LONGEST_MUTE / (1 << self.strikes.min(4)));
        silent || mute
    }

    /// It is one of so many peers.
    pub(super) fn one_of(&mut self, peers: usize) {
        let part = (FEW / peers.max(1) as f64).clamp(LEAST_PART, 1.0);
        if part != self.part {
            self.part = part;
            self.set_window();
        }
    }

    /// The part counts twice: there are more peers to ask, and less is to be ahead of all of them together.
    fn set_window(&mut self) {
        let window = self.part * self.rate.map_or(FIRST_WINDOW as f64, |rate| rate * AHEAD * self.part);
        self.window = (window as u64).clamp(self.least_window(), MOST_WINDOW);
    }

    fn least_window(&self) -> u64 {
        (LEAST_WINDOW as f64 * self.part) as u64
    }

    /// Bytes that may still be asked.
    pub(super) fn room(&self, now: Time) -> u64 {
        let room = self.window.saturating_sub(self.outstanding_bytes);
        if room == 0 || now < self.busy_until || self.discounted || self.stalled(now) {
            return 0;
        }
        match self.stalled_at {
            None => room,
            Some(at) if self.outstanding.is_empty() && (self.spoke_at > at || now >= at + PROBE) => {
                room.min(self.least_window())
            }

            Some(_) => 0,
        }
    }

    /// Bytes that it was asked for and has not sent.
    pub(super) fn owes(&self) -> u64 {
        self.outstanding_bytes
    }

    /// Seconds until `bytes` more would be here.
    pub(super) fn wait_for(&self, bytes: u64) -> f64 {
        (self.outstanding_bytes + bytes) as f64 / self.pace
    }

    /// Whether its books are in order.
    pub(super) fn check(&self) -> Result<(), String> {
        let bytes: u64 = self.outstanding.values().map(|(_, bytes)| bytes).sum();
        if bytes == self.outstanding_bytes {
            Ok(())
        } else {
            Err(format!("a peer owes {bytes} bytes, noted are {}", self.outstanding_bytes))
        }
    }

    /// Whether the election counts it.
    pub(super) fn member(&self) -> bool {
        self.carrier() && self.origin && !self.suspect && !self.complete
    }

    /// Whether it may be elected to bring something into its zone from another. Who is slow with the origin need not be
    /// slow with that.
    pub(super) fn carrier(&self) -> bool {
        self.downloads && self.answered && !self.discounted
    }
}

#[cfg(test)]
mod tests;
