//! The origin's stores as one: asked in order, none hidden by the failure of another. A store that fails is tried again
//! only after the others were asked for the same chunk, and is then asked last for a while: a dead store costs its
//! time-outs now and then, not for every chunk. What comes is not checked here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::ChunkId;
use tokio::time::Instant;

use super::http::FORBIDDEN;
use super::http_store::Fetched;
use super::remote_store::{Asking, RemoteStore};
use super::{ChunkSource, SourceError};

/// For how long a store is asked last after a first failure; it doubles with every further one.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Several stores with the same chunks, or each with some.
pub struct OriginStores {
    stores: Vec<(RemoteStore, Mutex<Health>)>,
}

/// What a store did last.
#[derive(Debug, Clone, Copy)]
struct Health {
    /// For how long it rests, and will the next time.
    rest: Option<Duration>,
    until: Instant,
}

/// What the stores said to one question.
#[derive(Debug, Default)]
pub struct OriginReply {
    /// The chunk, and the number of the store that gave it.
    pub found: Option<(usize, Fetched)>,
    /// What went wrong with those that could not say whether they have it.
    pub errors: BTreeMap<usize, SourceError>,
    /// Those that forbade it: as good as not having it, but worth telling.
    pub forbidden: BTreeMap<usize, SourceError>,
    /// How many requests it took, retries included.
    pub requests: u64,
}

impl OriginStores {
    /// These stores, to be asked in this order.
    pub fn new(stores: Vec<impl Into<RemoteStore>>) -> Self {
        let now = Instant::now();
        let well = || Mutex::new(Health { rest: None, until: now });
        Self { stores: stores.into_iter().map(|store| (store.into(), well())).collect() }
    }

    /// The stores' names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stores.iter().map(|(store, _)| store.name())
    }

    /// Asks for a chunk until a store has it or none is left to be asked; store number n not if `except(n)`.
    pub async fn ask(&self, id: ChunkId, except: impl Fn(usize) -> bool) -> OriginReply {
        let mut reply = OriginReply::default();
        let candidates: Vec<usize> = (0..self.stores.len()).filter(|number| !except(*number)).collect();
        let (first, last): (Vec<_>, Vec<_>) =
            candidates.iter().copied().partition(|number| self.health(*number).is_well());
        let mut again = Vec::new();
        for number in first.iter().chain(&last).copied() {
            let mut asking = self.stores[number].0.ask(id);
            if self.send(number, &mut asking, &mut reply).await {
                return reply;
            }
            // Whoever is resting gets no second chance as long as there are others, who will be asked again.
            if candidates.len() == 1 || first.contains(&number) {
                again.push((number, asking));
            }
        }
        loop {
            again.retain(|(_, asking)| asking.may_try_again());
            if again.is_empty() {
                return reply;
            }
            for (number, asking) in &mut again {
                if self.send(*number, asking, &mut reply).await {
                    return reply;
                }
            }
        }
    }

    /// What a store gave was not the chunk: it is asked last for a while.
    pub fn blame(&self, number: usize) {
        if number < self.stores.len() {
            self.health(number).failed();
        }
    }

    /// Sends one request. Returns whether it brought the chunk.
    async fn send(&self, number: usize, asking: &mut Asking<'_>, reply: &mut OriginReply) -> bool {
        reply.requests += 1;
        let fetched = asking.send().await;
        reply.errors.remove(&number);
        match fetched {
            Ok(fetched) => {
                self.health(number).rest = None;
                if fetched.forbidden {
                    reply.forbidden.insert(number, SourceError::refused(asking.url(), FORBIDDEN));
                }
                let found = fetched.encoded.is_some();
                reply.found = found.then_some((number, fetched));
                found
            }
            Err(error) => {
                self.health(number).failed();
                reply.errors.insert(number, error);
                false
            }
        }
    }

    fn health(&self, number: usize) -> std::sync::MutexGuard<'_, Health> {
        self.stores[number].1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    /// Whether to ask it in its turn. After a rest that is so once, and then again after another rest, unless it has
    /// answered by then: only one request at a time finds out how a store is.
    fn is_well(&mut self) -> bool {
        let Some(rest) = self.rest else { return true };
        let now = Instant::now();
        let rested = now >= self.until;
        if rested {
            self.until = now + rest;
        }
        rested
    }

    fn failed(&mut self) {
        let rest = self.rest.map_or(FIRST_REST, |rest| (rest * 2).min(LONGEST_REST));
        self.rest = Some(rest);
        self.until = Instant::now() + rest;
    }
}
