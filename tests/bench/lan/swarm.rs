//! One run: the machines start, are watched until every image stands, and are asked what they say about it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::process::peak_memory;
use crate::common::published::{Published, Version};
use crate::common::{assert_same_bytes, median};
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::process::Process;
use crate::{Args, Load, Mode};

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// How often the watch looks for finished images, and how often at memory, whose peak the kernel keeps.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_AT_MEMORY: Duration = Duration::from_millis(100);

/// What was measured.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// From the first start to the last image, in seconds.
    pub(super) seconds: f64,
    /// Bytes that the origin sent.
    pub(super) origin: u64,
    /// The most memory that one of the extractions had, in bytes.
    pub(super) memory: u64,
    /// The most memory that one of the nodes had, in bytes.
    pub(super) node_memory: Option<u64>,
    /// Seconds from a machine's start to its first session with a neighbour: the median, and the worst.
    pub(super) first_session: Option<(f64, f64)>,
    /// When each image stood, in seconds from the first start.
    pub(super) finished: Vec<f64>,
}

impl Run {
    /// The median of each number by itself.
    pub(super) fn median(runs: &[Run]) -> Run {
        let sessions = || runs.iter().filter_map(|run| run.first_session);
        let nodes = || runs.iter().filter_map(|run| run.node_memory);
        let first = (median(sessions().map(|one| one.0)), median(sessions().map(|one| one.1)));
        Run {
            seconds: median(runs.iter().map(|run| run.seconds)),
            origin: median(runs.iter().map(|run| run.origin as f64)) as u64,
            memory: median(runs.iter().map(|run| run.memory as f64)) as u64,
            node_memory: nodes().next().map(|_| median(nodes().map(|memory| memory as f64)) as u64),
            first_session: sessions().next().map(|_| first),
            finished: Vec::new(),
        }
    }
}

/// A machine that extracts.
struct Extraction {
    target: PathBuf,
    process: Process,
    started: SystemTime,
    memory: u64,
    finished: Option<Duration>,
}

/// Runs it once.
pub(super) fn run(mode: Mode, load: &Load, args: &Args, published: &Published, work: &Path) -> Run {
    let hosts = Vec::from([load.hosts]).leak();
    let plan = Plan::segments(hosts).lan_mbit(args.lan_mbit).origin_mbit(args.origin_mbit);
    let lan = Lan::new(plan.origin_delay_ms(args.origin_delay_ms));
    let origin = lan.origin(&published.root);
    let work = tempfile::tempdir_in(work).unwrap();

    let serving = load.hosts - load.extracting;
    let held = if mode == Mode::Late { Some(&published.new) } else { published.old.as_ref() };
    let nodes: Vec<_> = (1..=serving).map(|host| start_node(&lan, host, published, held.unwrap())).collect();

    let mut arguments = vec!["--json".to_owned(), "-v".to_owned()];
    arguments.push(format!("--store={}", origin.url(&published.store)));
    if let (Mode::Upgrade, false, Some(old)) = (mode, args.no_seed, &published.old) {
        arguments.push(format!("--seed={}:{}", published.index(old).display(), old.image.display()));
    }
    arguments.extend(args.extract_arg.iter().cloned());
    let step = load.starts / load.extracting.saturating_sub(1).max(1) as f64;

    let (sent, began) = (lan.origin_payload_sent(), Instant::now());
    let (mut extractions, mut looked) = (Vec::<Extraction>::new(), began);
    let seconds = loop {
        while extractions.len() < load.extracting && began.elapsed().as_secs_f64() >= step * extractions.len() as f64 {
            let host = serving + extractions.len() + 1;
            let target = work.path().join(format!("h{host}.img"));
            let started = SystemTime::now();
            let mut command = lan.caswarm(host);
            command.arg("extract").args(&arguments).arg(origin.url(&published.new.index)).arg(&target);
            let process = Process::spawn(&mut command);
            extractions.push(Extraction { target, process, started, memory: 0, finished: None });
        }
        let at_memory = looked.elapsed() >= LOOK_AT_MEMORY;
        if at_memory {
            looked = Instant::now();
        }
        for extraction in &mut extractions {
            extraction.look(began, at_memory);
        }
        let all = extractions.len() == load.extracting;
        if all && extractions.iter().all(|extraction| extraction.finished.is_some()) {
            break extractions.iter().filter_map(|one| one.finished).max().unwrap().as_secs_f64();
        }
        assert!(began.elapsed() < PATIENCE, "not finished after {PATIENCE:?}");
        std::thread::sleep(LOOK);
    };
    let sent = lan.origin_payload_sent() - sent;

    if !args.no_verify {
        for extraction in &extractions {
            assert_same_bytes(&extraction.target, &published.new.image);
        }
    }
    let finished = extractions.iter().filter_map(|one| Some(one.finished?.as_secs_f64())).collect();
    // They serve each other to the end, and that costs memory too.
    while extractions.iter_mut().any(|extraction| extraction.process.is_running()) {
        extractions.iter_mut().for_each(|extraction| extraction.look(began, true));
        std::thread::sleep(LOOK_AT_MEMORY);
    }
    let node_memory = nodes.iter().filter_map(|node| peak_memory(node.id())).max();
    let memory = extractions.iter().map(|extraction| extraction.memory).max().unwrap();
    let mut sessions = Vec::new();
    for extraction in extractions {
        let ran = extraction.process.wait(PATIENCE).ok();
        sessions.extend(first_session(extraction.started, &ran.stderr));
    }
    let worst = sessions.iter().copied().reduce(f64::max);
    let first_session = worst.map(|worst| (median(sessions), worst));
    Run { seconds, origin: sent, memory, node_memory, first_session, finished }
}

impl Extraction {
    fn look(&mut self, began: Instant, at_memory: bool) {
        // A regular file appears under its name when it is whole.
        if self.finished.is_none() && self.target.exists() {
            self.finished = Some(began.elapsed());
        }
        if at_memory {
            self.memory = self.memory.max(peak_memory(self.process.id()).unwrap_or(0));
        }
        if self.finished.is_none() && !self.process.is_running() && !self.target.exists() {
            panic!("an extraction ended without an image: {}{}", self.process.stdout(), self.process.stderr());
        }
    }
}

/// Starts a node that serves a version from its image, and waits until it answers.
fn start_node(lan: &Lan, host: usize, published: &Published, version: &Version) -> Process {
    let image = format!("{}={}", published.index(version).display(), version.image.display());
    let mut node = lan.start(host, &["node", "--image", &image]);
    wait_until("the node answers status", Duration::from_secs(60), || {
        assert!(node.is_running(), "the node ended: {}{}", node.stdout(), node.stderr());
        lan.start(host, &["status", "--json"]).wait(Duration::from_secs(10)).status.success()
    });
    node
}

/// Seconds from the start to the first session, by the time that the log gives it: `2025-01-02T03:04:05.678901Z`.
fn first_session(started: SystemTime, log: &str) -> Option<f64> {
    const DAY: f64 = 86_400.0;
    let line = log.lines().find(|line| line.contains(" session node="))?;
    let time = line.split_whitespace().next()?.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let logged = parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??;
    let started = started.duration_since(UNIX_EPOCH).ok()?.as_secs_f64() % DAY;
    Some((logged - started).rem_euclid(DAY))
}
