//! How many neighbours are served at a time: a few at full pace rather than all at none. A slot is its owner's while it
//! has something to get, and, when others wait, for one turn at most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a slot is kept while others wait. A neighbour that is refused for three seconds counts as useless, so turns
/// are short.
const TURN: Duration = Duration::from_millis(400);

/// How long one that was refused has its place in the queue, without asking again.
const WAITS: Duration = Duration::from_secs(1);

/// The upload slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Who has a slot, and since when.
    taken: BTreeMap<u64, Instant>,
    /// Who was refused, and until when that counts.
    waiting: VecDeque<(u64, Instant)>,
}

impl Slots {
    /// So many slots, one at least.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Mutex::default() }
    }

    /// Whether `who` has a slot from now on. If not, it is next in turn when it asks again soon: then one that had its turn
    /// loses its slot.
    pub(crate) fn take(&self, who: u64, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.taken.contains_key(&who) {
            return true;
        }
        inner.waiting.retain(|(_, until)| *until > now);
        let place = inner.waiting.iter().position(|(waiting, _)| *waiting == who);
        let before = place.unwrap_or(inner.waiting.len());
        let free = self.limit.saturating_sub(inner.taken.len());
        let mut over: Vec<_> = inner.taken.iter().map(|(owner, since)| (*since, *owner)).collect();
        over.retain(|(since, _)| now.duration_since(*since) >= TURN);
        if before < free + over.len() {
            if free == 0
                && let Some((_, longest)) = over.into_iter().min()
            {
                inner.taken.remove(&longest);
            }
            inner.waiting.retain(|(waiting, _)| *waiting != who);
            inner.taken.insert(who, now);
            return true;
        }
        match place.and_then(|place| inner.waiting.get_mut(place)) {
            Some((_, until)) => *until = now + WAITS,
            None => inner.waiting.push_back((who, now + WAITS)),
        }
        false
    }

    /// Whether `who` still has a slot.
    pub(crate) fn has(&self, who: u64) -> bool {
        self.lock().taken.contains_key(&who)
    }

    /// `who` needs no slot any more.
    pub(crate) fn give_up(&self, who: u64) {
        self.lock().taken.remove(&who);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_were_refused_come_before_those_that_come_later() {
        let (slots, now) = (Slots::new(2), Instant::now());
        assert!(slots.take(1, now) && slots.take(2, now) && slots.take(1, now));
        assert!(!slots.take(3, now) && !slots.take(4, now));
        slots.give_up(1);
        assert!(!slots.take(1, now), "others wait");
        assert!(!slots.take(4, now), "3 is first");
        assert!(slots.take(3, now) && !slots.take(4, now));
        slots.give_up(2);
        assert!(slots.take(4, now));
    }

    #[test]
    fn a_turn_ends_when_somebody_who_waits_asks_again() {
        let (slots, now) = (Slots::new(1), Instant::now());
        assert!(slots.take(1, now) && !slots.take(2, now));
        assert!(!slots.take(2, now + TURN / 2) && slots.has(1), "too early");
        assert!(!slots.take(3, now + TURN), "2 is first");
        assert!(slots.has(1));
        assert!(slots.take(2, now + TURN) && !slots.has(1));
        // The other way round it is the same.
        assert!(!slots.take(1, now + TURN) && slots.take(3, now + TURN * 2) && slots.take(1, now + TURN * 3));
    }

    #[test]
    fn one_that_went_away_keeps_its_place_for_a_moment_only() {
        let (slots, now) = (Slots::new(1), Instant::now());
        assert!(slots.take(1, now) && !slots.take(2, now) && !slots.take(3, now));
        slots.give_up(1);
        assert!(!slots.take(3, now + WAITS / 2));
        assert!(slots.take(3, now + WAITS));
    }
}
