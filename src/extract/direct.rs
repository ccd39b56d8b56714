//! The network without neighbours: every missing chunk from the remote stores, many requests in flight, the next store
//! where one cannot give it. Used where the LAN is not wanted.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use proto::{IndexId, Position};
use tokio::sync::{mpsc, oneshot};

use super::network::{FetchError, Finished, Job, Network, NetworkReport};
use crate::node::fetch::{Arrival, From, Outcome};
use crate::source::{ChunkSource, SourceError};

/// Requests in flight: enough to fill a link with some delay, few enough not to annoy a server.
const IN_FLIGHT: usize = 32;

/// Most reasons quoted when chunks are nowhere to be had.
const REASONS: usize = 3;

/// Lost chunks after which the rest is not tried: the image cannot become whole, and the user should hear of it.
const MOST_LOST: u64 = 16;

/// Errors of a remote store, one after the other and without a success between, after which it is not asked again.
const SICK: u32 = 32;

/// Fetches from remote stores only.
#[derive(Debug, Default)]
pub struct Direct;

impl Network for Direct {
    fn index(&self, _: IndexId, _: bool) -> BoxFuture<'_, Option<Bytes>> {
        futures::future::ready(None).boxed()
    }

    fn fetch(&self, job: Job) -> BoxFuture<'_, Result<NetworkReport, FetchError>> {
        fetch_all(job).boxed()
    }

    fn finished(&self, _: Finished) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}

enum Got {
    Stored,
    /// Nowhere, and what each store said.
    Nowhere(String),
    TargetFailed,
}

async fn fetch_all(mut job: Job) -> Result<NetworkReport, FetchError> {
    let wanted = std::mem::replace(&mut job.wanted, mpsc::unbounded_channel().1);
    let mut wanted = Batches { channel: wanted, batch: Vec::new().into_iter(), ended: false };
    let health: Vec<Health> = job.origins.iter().map(|_| Health::default()).collect();
    let mut flights = FuturesUnordered::new();
    let mut report = NetworkReport::default();
    let mut lost = Lost::default();
    while lost.count < MOST_LOST {
        tokio::select! {
            Some((requests, got)) = flights.next() => {
                report.origin_requests += requests;
                match got {
                    Got::Stored => {}
                    Got::Nowhere(reason) => lost.add(reason),
                    Got::TargetFailed => return Ok(report),
                }
            }
            Some(position) = wanted.next(), if flights.len() < IN_FLIGHT && !wanted.ended => {
                flights.push(one(&job, position, &health));
            }
            else => break,
        }
    }
    lost.into_result(report)
}

/// Asks every remote store in order. Returns how many requests that took.
async fn one(job: &Job, position: Position, health: &[Health]) -> (u64, Got) {
    let id = job.layout.id(position);
    let mut requests = 0;
    let mut reasons: Vec<String> = Vec::new();
    for (number, (origin, health)) in job.origins.iter().zip(health).enumerate() {
        if let Some(reason) = health.sick() {
            reasons.push(reason);
            continue;
        }
        requests += 1;
        let answer = origin.fetch(id).await;
        health.note(answer.as_ref().err());
        let encoded = match answer {
            Ok(Some(encoded)) => encoded,
            Ok(None) => {
                reasons.push(format!("{} does not have {id}", origin.name()));
                continue;
            }
            Err(error) => {
                reasons.push(error.to_string());
                continue;
            }
        };
        let (tell, told) = oneshot::channel();
        let arrival = Arrival { position, encoded, from: From::Origin(number) };
        let done = Box::new(move |outcome| drop(tell.send(outcome)));
        job.sink.arrived(arrival, done);
        match told.await {
            Ok(Outcome::Stored) => return (requests, Got::Stored),
            Ok(Outcome::Corrupt(reason)) => reasons.push(format!("{}: {reason}", origin.name())),
            Ok(Outcome::Failed(_)) | Err(_) => return (requests, Got::TargetFailed),
        }
    }
    if reasons.is_empty() {
        reasons.push(format!("chunk {id} is in no local store or seed, and no remote store is named"));
    }
    (requests, Got::Nowhere(reasons.join("; ")))
}

/// How a remote store has answered lately.
#[derive(Default)]
struct Health(Mutex<(u32, String)>);

impl Health {
    fn note(&self, error: Option<&SourceError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => state.0 = 0,
            Some(error) => *state = (state.0 + 1, error.to_string()),
        }
    }

    /// Why it is not worth asking, if so.
    fn sick(&self) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.0 >= SICK).then(|| state.1.clone())
    }
}

/// The batches of a job as single positions.
struct Batches {
    channel: mpsc::UnboundedReceiver<Vec<Position>>,
    batch: std::vec::IntoIter<Position>,
    ended: bool,
}

impl Batches {
    async fn next(&mut self) -> Option<Position> {
        loop {
            if let Some(position) = self.batch.next() {
                return Some(position);
            }
            match self.channel.recv().await {
                Some(batch) => self.batch = batch.into_iter(),
                None => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }
}

#[derive(Default)]
struct Lost {
    count: u64,
    reasons: Vec<String>,
}

impl Lost {
    fn add(&mut self, reason: String) {
        self.count += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(reason);
        }
    }

    fn into_result(self, report: NetworkReport) -> Result<NetworkReport, FetchError> {
        match self.count {
            0 => Ok(report),
            missing => Err(FetchError { missing, reasons: self.reasons.join("; ") }),
        }
    }
}
