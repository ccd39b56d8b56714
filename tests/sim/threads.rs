//! The racks, and the threads that run them for a while, each rack on one of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::Time;

use super::part::Part;

/// So many racks with something to do are worth waking the other threads for.
const WORTH_WAKING: usize = 8;

#[derive(Clone)]
pub struct Parts(Arc<[Slot]>);

struct Slot {
    part: Mutex<Part>,
    /// When its next event is due, and when it was before it ran, in nanoseconds.
    next: AtomicU64,
    before: AtomicU64,
}

fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Parts {
    pub fn new(parts: Vec<Part>) -> Self {
        let slot = |part| Slot { part: Mutex::new(part), next: u64::MAX.into(), before: 0.into() };
        Self(parts.into_iter().map(slot).collect())
    }

    pub fn of(&self, rack: usize) -> MutexGuard<'_, Part> {
        self.0[rack].part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Part>> {
        (0..self.0.len()).map(|rack| self.of(rack))
    }

    /// Something is to happen in a rack at this time.
    pub fn due(&self, rack: usize, at: Time) {
        self.0[rack].next.fetch_min(nanos(at), Ordering::Relaxed);
    }

    /// When the next event of any is due.
    pub fn next_at(&self) -> Time {
        let next = self.0.iter().map(|slot| slot.next.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX);
        if next == u64::MAX { Time::MAX } else { Duration::from_nanos(next) }
    }

    /// Those that ran until then.
    pub fn ran(&self, until: Time) -> Vec<usize> {
        let until = nanos(until);
        (0..self.0.len()).filter(|rack| self.0[*rack].before.load(Ordering::Relaxed) < until).collect()
    }

    /// Something may have been noted in a rack that is to happen.
    pub fn look(&self, rack: usize) {
        let next = self.of(rack).next_at().map_or(u64::MAX, nanos);
        self.0[rack].next.store(next, Ordering::Relaxed);
    }

    fn run(&self, rack: usize, until: Time) {
        let slot = &self.0[rack];
        let next = slot.next.load(Ordering::Relaxed);
        slot.before.store(next, Ordering::Relaxed);
        if next < nanos(until) {
            let mut part = self.of(rack);
            part.run(until);
            slot.next.store(part.next_at().map_or(u64::MAX, nanos), Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Each thread's next rack, of those that are its own as long as no other has nothing left to do: what is known of
    /// them is in its processor's cache.
    next: Vec<AtomicUsize>,
}

#[derive(Default)]
struct State {
    round: u64,
    until: Time,
    working: usize,
    over: bool,
    panic: Option<Box<dyn std::any::Any + Send>>,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn new(threads: usize) -> Self {
        Self { next: (0..threads).map(AtomicUsize::new).collect(), ..Self::default() }
    }

    fn take(&self, parts: &Parts, thread: usize, until: Time) {
        let all = self.next.len();
        for of in (0..all).map(|other| (thread + other) % all) {
            loop {
                let rack = self.next[of].fetch_add(all, Ordering::Relaxed);
                if rack >= parts.0.len() {
                    break;
                }
                parts.run(rack, until);
            }
        }
    }

    fn work(&self, parts: &Parts, thread: usize) {
        let mut done = 0;
        loop {
            let mut state = self.lock();
            while state.round == done && !state.over {
                state = self.wait(state);
            }
            if state.over {
                return;
            }
            done = state.round;
            let until = state.until;
            drop(state);
            let result = catch_unwind(AssertUnwindSafe(|| self.take(parts, thread, until)));
            let mut state = self.lock();
            state.panic = result.err().or(state.panic.take());
            state.working -= 1;
            drop(state);
            self.changed.notify_all();
        }
    }

    fn run(&self, parts: &Parts, until: Time) {
        let others = self.next.len() - 1;
        self.next.iter().enumerate().for_each(|(first, next)| next.store(first, Ordering::Relaxed));
        let end = nanos(until);
        let busy = parts.0.iter().filter(|slot| slot.next.load(Ordering::Relaxed) < end).take(WORTH_WAKING).count();
        if others == 0 || busy < WORTH_WAKING {
            return self.take(parts, 0, until);
        }
        let mut state = self.lock();
        state.round += 1;
        state.until = until;
        state.working = others;
        drop(state);
        self.changed.notify_all();
        self.take(parts, 0, until);
        let mut state = self.lock();
        while state.working > 0 {
            state = self.wait(state);
        }
        if let Some(panic) = state.panic.take() {
            drop(state);
            resume_unwind(panic);
        }
    }
}

/// Calls this with what runs all racks until some time, on so many threads.
pub fn with_workers(parts: &Parts, threads: usize, go: impl FnOnce(&dyn Fn(Time))) {
    struct Over<'a>(&'a Gate);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.lock().over = true;
            self.0.changed.notify_all();
        }
    }
    let gate = &Gate::new(threads.max(1));
    std::thread::scope(|scope| {
        let _over = Over(gate);
        for thread in 1..threads {
            scope.spawn(move || gate.work(parts, thread));
        }
        go(&|until| gate.run(parts, until));
    });
}
