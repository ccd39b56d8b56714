//! The origin as this node sees it: whether it answers, how much may be asked ahead of it, what it does not have.
//!
//! How much: like a congestion window by delay. Twice the measured rate times the least delay seen keeps the link full;
//! more only queues in front of it, where it takes room from the neighbours who share that link and makes it drop
//! packets that then cross it again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Position, Time};

/// How the origin answered one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginAnswer {
    /// A chunk, as stored.
    Bytes {
        /// Bytes received.
        bytes: u64,
        /// From the request to the first byte of the answer.
        first_byte: Duration,
    },
    /// No store has it.
    Absent,
    /// No store answered, or only with errors.
    Unavailable,
}

/// Requests in flight, at least.
const LEAST_REQUESTS: usize = 2;
/// Bytes in flight, at most, of all nodes that share the way: who measured a delay in which others' answers queued before
/// its own would ask for more than its part, and all wait for what one has to pass on.
const MOST_BYTES: u64 = 4 << 20;
/// The least delay assumed, in seconds: on a shorter path it is the two programs' own pace that counts.
const LEAST_DELAY: f64 = 0.005;
/// Round trips after which the first byte is not late: a new connection with TLS takes two more than an old one.
const TRIPS: f64 = 3.0;
/// How long a rate is remembered.
const RATE_MEMORY: Duration = Duration::from_secs(2);
/// Failures in a row that make the origin unreachable.
const FAILURES: u32 = 3;
/// Corrupt answers for one chunk after which the origin counts as not having it.
const CORRUPT: u32 = 3;
/// The pause after one failure.
const BREATH: Duration = Duration::from_millis(200);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Origin {
    exists: bool,
    most_requests: usize,
    opens_at: Time,
    failures: u32,
    retry: Duration,
    /// Requests in flight: since when, and the bytes expected.
    asked: BTreeMap<Position, (Time, u64)>,
    bytes: u64,
    lacks: BTreeMap<Position, u32>,
    delay: Option<f64>,
    rate: f64,
    rate_at: Time,
    /// Nothing queues in front of it yet: what is asked ahead may grow with every answer.
    growing: bool,
    /// Bytes that may be asked ahead at least, while growing and until the rate after it is measured.
    start: u64,
    window_since: Time,
    window_bytes: u64,
    answered_at: Time,
}

impl Origin {
    pub(super) fn new(exists: bool, most_requests: usize, opens_at: Time) -> Self {
        Self {
            exists,
            most_requests,
            opens_at,
            failures: 0,
            retry: FIRST_RETRY,
            asked: BTreeMap::new(),
            bytes: 0,
            lacks: BTreeMap::new(),
            delay: None,
            rate: 0.0,
            rate_at: opens_at,
            growing: true,
            start: 0,
            window_since: opens_at,
            window_bytes: 0,
            answered_at: opens_at,
        }
    }

    /// It exists, and did not just fail several times in a row.
    pub(super) fn reachable(&self) -> bool {
        self.exists && self.failures < FAILURES
    }

    /// When it may be asked: at the start after a grace, after failures after a pause. `None` if there is none.
    pub(super) fn opens_at(&self) -> Option<Time> {
        self.exists.then_some(self.opens_at)
    }

    /// Whether one more request fits, where so many nodes share the way to it.
    pub(super) fn room(&self, sharers: usize, now: Time) -> bool {
        if !self.exists || now < self.opens_at {
            return false;
        }
        if self.failures > 0 {
            return self.asked.is_empty();
        }
        let ahead = (2.0 * self.rate * self.delay.unwrap_or(0.0).max(LEAST_DELAY)) as u64;
        let ahead = ahead.max(self.start).min(MOST_BYTES / sharers.max(1) as u64);
        let requests = self.asked.len();
        requests < LEAST_REQUESTS || (requests < self.most_requests && self.bytes < ahead)
    }

    pub(super) fn asked(&mut self, position: Position, bytes: u64, now: Time) {
        if self.asked.is_empty() {
            self.window_since = now;
            self.window_bytes = 0;
            self.answered_at = now;
        }
        if self.asked.insert(position, (now, bytes)).is_none() {
            self.bytes += bytes;
        }
    }

    /// Since when a request for this position is in flight.
    pub(super) fn asked_at(&self, position: Position) -> Option<Time> {
        self.asked.get(&position).map(|(at, _)| *at)
    }

    pub(super) fn answered(&mut self, position: Position, answer: &OriginAnswer, now: Time) {
        if let Some((_, bytes)) = self.asked.remove(&position) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        match *answer {
            OriginAnswer::Bytes { bytes, first_byte } => {
                self.answered_at = now;
                self.failures = 0;
                self.retry = FIRST_RETRY;
                self.measure(bytes, first_byte.as_secs_f64(), now);
            }
            OriginAnswer::Absent => {
                self.answered_at = now;
                self.failures = 0;
                self.lacks.insert(position, CORRUPT);
            }
            OriginAnswer::Unavailable => {
                let pausing = !self.reachable() && now < self.opens_at;
                self.failures += 1;
                if pausing {
                    // It was asked before the pause: the same failure, seen once more.
                    return;
                }
                let pause = if self.failures >= FAILURES { self.retry } else { BREATH };
                if self.failures >= FAILURES {
                    self.retry = (self.retry * 2).min(LAST_RETRY);
                }
                self.opens_at = now + pause;
            }
        }
    }

    /// Bytes of the origin that were not the chunk.
    pub(super) fn gave_corrupt(&mut self, position: Position) {
        *self.lacks.entry(position).or_default() += 1;
    }

    pub(super) fn lacks(&self, position: Position) -> bool {
        self.lacks.get(&position).is_some_and(|count| *count >= CORRUPT)
    }

    /// How long requests have been in flight without any answer; zero if there are none.
    pub(super) fn waiting_for(&self, now: Time) -> Duration {
        if self.asked.is_empty() { Duration::ZERO } else { now.saturating_sub(self.answered_at) }
    }

    /// Nothing is asked of it at present.
    pub(super) fn idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// How long so many bytes take at the pace that was measured; a minute where none was.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64((bytes as f64 / self.rate.max(1.0)).min(60.0))
    }

    /// It is worth a try before the pause after failures is over.
    pub(super) fn try_soon(&mut self, now: Time) {
        if self.failures > 0 {
            self.opens_at = self.opens_at.min(now + BREATH);
            self.retry = FIRST_RETRY;
        }
    }

    /// Leaves it alone until then.
    pub(super) fn hold_until(&mut self, until: Time) {
        self.opens_at = self.opens_at.max(until);
    }

    fn measure(&mut self, bytes: u64, first_byte: f64, now: Time) {
        let least = self.delay.map_or(first_byte, |least| least.min(first_byte));
        self.delay = Some(least);
        self.window_bytes += bytes;
        if self.growing && first_byte > TRIPS * least + LEAST_DELAY {
            self.growing = false;
            self.window_since = now;
            self.window_bytes = 0;
        } else if self.growing {
            // As in TCP's slow start: it doubles with each round trip.
            self.start = (self.start + 2 * bytes).min(MOST_BYTES);
        }
        let span = now.saturating_sub(self.window_since).as_secs_f64();
        let enough = (4.0 * self.delay.unwrap_or(0.0)).clamp(0.02, 0.5);
        if span >= enough {
            let seen = self.window_bytes as f64 / span;
            if !self.growing {
                self.start = 0;
            }
            // More was asked ahead and no more came: something other than the queue is the limit.
            self.growing &= seen > 1.25 * self.rate;
            if seen >= self.rate || now.saturating_sub(self.rate_at) > RATE_MEMORY {
                self.rate = seen;
                self.rate_at = now;
            }
            self.window_since = now;
            self.window_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests;
