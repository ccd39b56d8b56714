//! The threads that read local sources, check and write: as many as there are cores, each with a bounded batch in hand.
//! Chunks that arrive from the network go before local work. What comes from the origin is taken up at once; what comes
//! from neighbours waits a moment for more of it, because a batch is hashed at several times the pace of one chunk. Whom
//! to ask for what a machine lacks is not decided here: positions that no local source could give are handed on.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proto::Position;
use roaring::RoaringBitmap;
use tokio::sync::mpsc;

use super::assembly::Assembly;
use super::local::Local;
use super::plan::span;
use super::progress::{Place, Progress};
use crate::chunk::{self, Claim};
use crate::format::digest::Digest;
use crate::node::fetch::{Arrival, Done, From, Outcome, Sink};

/// Most chunks in one batch: as many as the hash's lanes like, and few enough to be done soon.
const BATCH_CHUNKS: usize = 16;

/// So many chunks from neighbours are worth hashing together: two rounds of AVX2's lanes, or one of AVX-512's.
const GATHERED: usize = 8;

/// How long a chunk from a neighbour waits for others at most.
const GATHERING: Duration = Duration::from_millis(20);

/// Most plain bytes in one batch, unless one chunk alone is longer. Bounds the memory of a thread.
const BATCH_BYTES: u64 = 2 << 20;

/// The pool. Dropping it without [`Workers::finish`] ends the threads after the batch in hand.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads work with.
pub struct Context {
    /// The target.
    pub assembly: Arc<Assembly>,
    /// Which digest the ids are.
    pub digest: Digest,
    /// The names of the remote stores, to blame them by.
    pub origins: Vec<String>,
    /// What is counted.
    pub progress: Arc<Progress>,
}

struct Shared {
    context: Context,
    local: OnceLock<Local>,
    queue: Mutex<Queue>,
    ready: Condvar,
}

struct Queue {
    /// What came from the origin goes first: neighbours wait for it, and for what they sent nobody does.
    from_origin: VecDeque<(Arrival, Done)>,
    from_peers: VecDeque<(Arrival, Done)>,
    /// Since when there is something in `from_peers`.
    gathering_since: Instant,
    /// Positions for the local sources, ascending, the first `taken` of which are taken.
    local: Vec<Position>,
    taken: usize,
    busy: usize,
    /// Where positions go that no local source has; dropped when the local work is done.
    leftovers: Option<mpsc::UnboundedSender<Vec<Position>>>,
    closed: bool,
    given_up: bool,
    failure: Option<io::Error>,
}

enum Task {
    Local(Vec<Position>),
    Arrived(Vec<(Arrival, Done)>),
}

impl Workers {
    /// Starts `threads` threads, which take what arrives. `leftovers` is kept until the local work is done.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(
        context: Context,
        leftovers: mpsc::UnboundedSender<Vec<Position>>,
        threads: usize,
    ) -> io::Result<Self> {
        let queue = Queue {
            from_origin: VecDeque::new(),
            from_peers: VecDeque::new(),
            gathering_since: Instant::now(),
            local: Vec::new(),
            taken: 0,
            busy: 0,
            leftovers: Some(leftovers),
            closed: false,
            given_up: false,
            failure: None,
        };
        let shared =
            Arc::new(Shared { context, local: OnceLock::new(), queue: Mutex::new(queue), ready: Condvar::new() });
        let mut workers = Workers { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let shared = workers.shared.clone();
            let thread = std::thread::Builder::new().name(format!("worker {number}"));
            workers.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(workers)
    }

    /// Begins the local work, once: the positions that local sources may have are asked of them, and those that they
    /// turn out not to have go to the leftovers, after `missing`, which nobody is asked for. The leftovers end when all
    /// have been tried.
    pub fn begin_local(&self, local: Local, positions: &RoaringBitmap, missing: &RoaringBitmap) {
        let _ = self.shared.local.set(local);
        let mut queue = self.shared.lock();
        if let Some(leftovers) = queue.leftovers.as_ref().filter(|_| !missing.is_empty()) {
            // Nobody listening: the extraction is over.
            let _ = leftovers.send(missing.iter().collect());
        }
        if queue.failure.is_none() && !queue.given_up {
            queue.local = positions.iter().collect();
        }
        queue.settle();
        drop(queue);
        self.shared.ready.notify_all();
    }

    /// Where the network puts what it fetched.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.shared.clone()
    }

    /// Takes up no more local work.
    pub fn give_up_local(&self) {
        let mut queue = self.shared.lock();
        queue.taken = queue.local.len();
        queue.given_up = true;
        queue.settle();
    }

    /// Ends the threads when the local work and all arrivals are done. Blocks.
    ///
    /// # Errors
    /// The first error of the target, if there was one.
    pub fn finish(mut self) -> io::Result<()> {
        self.shared.close();
        let whole = self.threads.drain(..).all(|thread| thread.join().is_ok());
        match self.shared.lock().failure.take() {
            Some(failure) => Err(failure),
            None if whole => Ok(()),
            None => Err(io::Error::other("a worker thread panicked")),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.give_up_local();
        self.shared.close();
    }
}

impl Sink for Shared {
    fn arrived(&self, arrival: Arrival, done: Done) {
        let mut queue = self.lock();
        let tell = match arrival.from {
            From::Origin(_) => {
                queue.from_origin.push_back((arrival, done));
                true
            }
            From::Peer(_) => {
                if queue.from_peers.is_empty() {
                    queue.gathering_since = Instant::now();
                }
                queue.from_peers.push_back((arrival, done));
                // The first one sets a thread's alarm.
                let gathered = queue.from_peers.len();
                gathered == 1 || gathered >= GATHERED
            }
        };
        drop(queue);
        if tell {
            self.ready.notify_one();
        }
    }
}

impl Queue {
    /// The next batch of what came from the network; empty if there is nothing.
    fn arrived(&mut self) -> Vec<(Arrival, Done)> {
        let from_origin = self.from_origin.len().min(BATCH_CHUNKS);
        let from_peers = self.from_peers.len().min(BATCH_CHUNKS - from_origin);
        self.from_origin.drain(..from_origin).chain(self.from_peers.drain(..from_peers)).collect()
    }

    /// How long what came from neighbours still waits for more; `None` if it does not, or there is nothing.
    fn gathers_for(&self) -> Option<Duration> {
        if self.closed || !(1..GATHERED).contains(&self.from_peers.len()) {
            return None;
        }
        GATHERING.checked_sub(self.gathering_since.elapsed()).filter(|left| !left.is_zero())
    }

    /// Gives up the channel of leftovers when nobody can add to it any more.
    fn settle(&mut self) {
        if self.taken == self.local.len() && self.busy == 0 {
            self.leftovers = None;
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.failure.get_or_insert(error);
        self.taken = self.local.len();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            match task {
                Task::Arrived(batch) => self.arrivals(batch),
                Task::Local(positions) => {
                    let result = match self.local.get() {
                        Some(local) => local.process(&self.context, positions),
                        None => Ok(positions),
                    };
                    let mut queue = self.lock();
                    match result {
                        Ok(leftover) if leftover.is_empty() => {}
                        Ok(leftover) => {
                            if let Some(leftovers) = &queue.leftovers {
                                // Nobody listening: the extraction is over.
                                let _ = leftovers.send(leftover);
                            }
                        }
                        Err(error) => queue.fail(error),
                    }
                    queue.busy -= 1;
                    queue.settle();
                }
            }
        }
    }

    /// The next batch; `None` when the pool is closed and nothing is left.
    fn next(&self) -> Option<Task> {
        let mut queue = self.lock();
        loop {
            let gathering = queue.gathers_for();
            if gathering.is_none() || !queue.from_origin.is_empty() {
                let arrived = queue.arrived();
                if !arrived.is_empty() {
                    return Some(Task::Arrived(arrived));
                }
            }
            if queue.taken < queue.local.len() {
                let batch = self.batch(&queue.local[queue.taken..]);
                queue.taken += batch.len();
                queue.busy += 1;
                return Some(Task::Local(batch));
            }
            queue = match gathering {
                Some(left) => self.ready.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None if queue.closed => return None,
                None => self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn batch(&self, positions: &[Position]) -> Vec<Position> {
        let layout = self.context.assembly.layout();
        let mut bytes = 0;
        let fits = |position: &&Position| {
            bytes += u64::from(layout.length(**position));
            bytes <= BATCH_BYTES
        };
        let count = positions.iter().take(BATCH_CHUNKS).take_while(fits).count();
        positions[..count.max(1)].to_vec()
    }

    fn arrivals(&self, batch: Vec<(Arrival, Done)>) {
        let (assembly, progress) = (&self.context.assembly, &self.context.progress);
        let layout = assembly.layout();
        let mut wanted = Vec::with_capacity(batch.len());
        for (arrival, done) in batch {
            progress.add_received(place(arrival.from), arrival.encoded.bytes.len() as u64);
            if arrival.position >= layout.count() {
                done(Outcome::Corrupt(format!("position {} is not in the index", arrival.position)));
            } else if assembly.holds(arrival.position) {
                progress.duplicate();
                done(Outcome::Stored);
            } else {
                wanted.push((arrival, done));
            }
        }
        let claims: Vec<Claim> = wanted
            .iter()
            .map(|(arrival, _)| Claim {
                encoded: arrival.encoded.clone(),
                id: layout.id(arrival.position),
                length: layout.length(arrival.position),
            })
            .collect();
        let verified = chunk::verify_many(&claims, self.context.digest);
        for ((arrival, done), verified) in wanted.into_iter().zip(verified) {
            let chunk = match verified {
                Ok(chunk) => chunk,
                Err(corrupt) => {
                    progress.blame(self.name(arrival.from), layout.id(arrival.position).to_string());
                    done(Outcome::Corrupt(corrupt.to_string()));
                    continue;
                }
            };
            match assembly.put(arrival.position, &chunk) {
                Ok(true) => {
                    progress.add_image(place(arrival.from), span(layout, arrival.position));
                    done(Outcome::Stored);
                }
                Ok(false) => {
                    progress.duplicate();
                    done(Outcome::Stored);
                }
                Err(error) => {
                    let message = error.to_string();
                    self.lock().fail(error);
                    done(Outcome::Failed(message));
                }
            }
        }
    }

    fn name(&self, from: From) -> String {
        match from {
            From::Peer(node) => format!("node {node}"),
            From::Origin(number) => self.context.origins.get(number).cloned().unwrap_or_default(),
        }
    }
}

fn place(from: From) -> Place {
    match from {
        From::Peer(_) => Place::Lan,
        From::Origin(_) => Place::Origin,
    }
}
