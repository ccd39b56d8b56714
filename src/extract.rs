//! An image from its index: what the target has already is kept, what seeds and local stores have is taken from there,
//! and the rest is asked of the network. Regular files appear whole; devices are written in place.
//!
//! The order of things: the index, the target (every reason why the image cannot go there comes before the first
//! write), the network joins, the target is looked through, and from then on local work and arrivals from the network
//! go through one pool of [`workers`] that checks every chunk before it writes it into the [`assembly`].

pub mod assembly;
pub mod holes;
pub mod index_file;
pub mod local;
pub mod network;
pub mod plan;
pub mod progress;
pub mod report;
pub mod stdout;
pub mod target;
pub mod tree;
pub mod workers;

mod kept;
mod moved;
pub(crate) mod reflink;
mod seeds;
pub(crate) mod sources;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use proto::IndexId;
use roaring::RoaringBitmap;
use tokio::sync::mpsc;

use crate::browse::BrowseError;
use crate::browse::indexed::Indexed;
use crate::chunk::Chunk;
use crate::format::layout::Layout;
use crate::source::http::HttpClient;
use crate::source::location::Location;
use crate::source::{ChunkSource, SourceError};
use assembly::Assembly;
use index_file::{IndexFile, IndexFileError};
use local::Local;
use network::{FetchError, Finished, Job, Network, NetworkReport};
use plan::Plan;
use plan::span;
use progress::{Place, Progress};
use report::{DryRun, Report};
pub use sources::SourceOptions;
use target::{Target, TargetError, TargetOptions};
use tree::{Sowing, TreeTarget};
use workers::{Context, Workers};

/// What is to be extracted, from where and to where.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the index is.
    pub index: Location,
    /// Accept only the index with this id.
    pub index_id: Option<IndexId>,
    /// A file or block device.
    pub target: PathBuf,
    /// How the target is treated.
    pub target_options: TargetOptions,
    /// The image is the archive of a tree: it becomes this, and `target` is what reports call it.
    pub tree: Option<TreeTarget>,
    /// The image goes to standard output, and `target` is what reports call that.
    pub stdout: bool,
    /// Stores and seeds.
    pub sources: SourceOptions,
    /// Threads that check and write.
    pub threads: usize,
}

/// Why an extraction did not end with the image in its place.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// There is no index.
    #[error(transparent)]
    Index(#[from] IndexFileError),
    /// The target cannot take the image.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A store that was named cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Chunks are missing.
    #[error("{target}: not extracted; {kept}")]
    Fetch {
        /// The target as named.
        target: PathBuf,
        /// What is missing.
        source: FetchError,
        /// What becomes of what was written.
        kept: String,
    },
    /// A tree could not be written.
    #[error(transparent)]
    Tree(#[from] tree::TreeError),
    /// A thread could not be had, or ended early.
    #[error("threads: {0}")]
    Threads(std::io::Error),
}

/// Extracts the image, and returns when it is durable and has its name. `progress` can be watched meanwhile. What the
/// network is to do with the finished image is the caller's to say, with the second part of the answer.
///
/// # Errors
/// [`ExtractError`]; nothing is under the target's name then that was not there before, and what was written to a
/// temporary file is found again by the next run.
pub async fn run(
    config: Config,
    network: &dyn Network,
    http: &HttpClient,
    progress: Arc<Progress>,
) -> Result<(Report, Finished), ExtractError> {
    let started = Instant::now();
    let file = index_file::load(&config.index, config.index_id, network, http).await?;
    let layout = Arc::new(Layout::of(&file.index));
    progress.set_total(layout.total());
    let mut stores = sources::open_stores(&config.sources, &config.index, &layout, http)?;
    let directory = whole_tree(&config);
    // A damaged chunk is found out only on the way, and what went out cannot be taken back: neighbours would have it.
    if config.stdout && !config.sources.neighbours && tree::all_local(&file.index, &stores.local) {
        let whole = Indexed::new(file.index.clone(), stores, config.index.to_string()).sequential();
        blocking(move || stdout::write(Box::new(whole))).await??;
        progress.add_image(progress::Place::Store, layout.total());
        let index = (file.id, file.whence, file.bytes.len() as u64);
        let nothing = NetworkReport::default();
        let report = Report::new(config.target, index, layout.count(), &progress, nothing, started.elapsed());
        return Ok((report, Finished { path: None, index_id: file.id, index: file.bytes, linger: None }));
    }
    let origins = config.tree.as_ref().and_then(|tree| tree::origins(tree, &config.sources, &layout));
    // What is to be shared with seeds has to be looked for there, whoever else has it.
    let share = config.tree.as_ref().is_some_and(|tree| origins.is_some() && (tree.hardlink || !tree.seeds.is_empty()));
    if let Some(target) = config.tree.clone().filter(|_| !share && tree::all_local(&file.index, &stores.local)) {
        match tree::unpack_local(file.index.clone(), stores, config.index.to_string(), target).await {
            Err(ExtractError::Tree(tree::TreeError::Archive(error @ BrowseError::Missing { .. }))) => {
                tracing::warn!("{error}; asking others too");
                stores = sources::open_stores(&config.sources, &config.index, &layout, http)?;
            }
            unpacked => {
                let unpacked = unpacked?;
                progress.add_image(progress::Place::Store, layout.total());
                let index = (file.id, file.whence, file.bytes.len() as u64);
                let nothing = NetworkReport::default();
                let report = Report::new(config.target, index, layout.count(), &progress, nothing, started.elapsed());
                let path = directory.filter(|_| unpacked.complaints_total == 0);
                let finished = Finished { path, index_id: file.id, index: file.bytes, linger: None };
                return Ok((report.with_tree(unpacked), finished));
            }
        }
    }

    let (opened, length, id) = (config.clone(), layout.total(), file.id);
    let target = Arc::new(blocking(move || open_target(&opened, length, id)).await??);
    let assembly = Arc::new(Assembly::new(target.file().clone(), layout.clone(), target.zeros()));
    let (leftovers, wanted) = mpsc::unbounded_channel();
    let context = Context {
        assembly: assembly.clone(),
        digest: layout.digest(),
        origins: stores.remote.iter().map(|store| store.name().to_owned()).collect(),
        progress: progress.clone(),
    };
    let workers = Workers::start(context, leftovers, config.threads).map_err(ExtractError::Threads)?;
    let job = Job {
        index_id: file.id,
        index: file.bytes.clone(),
        layout: layout.clone(),
        assembly: assembly.clone(),
        origins: stores.remote,
        wanted,
        sink: workers.sink(),
        // Who follows the front has little left to do when the last chunk comes.
        in_order: config.stdout || config.tree.is_some(),
    };

    let follower = match &config.tree {
        None if config.stdout => {
            let started =
                tree::Follower::start(file.index.clone(), assembly.clone(), |source, _| stdout::write(source));
            Some(started.map(|(follower, ending)| (follower.detached(), ending))).transpose()
        }
        tree => {
            let seed_output = config.sources.seed_output;
            let follow = |tree| tree::follow(tree, &file.index, &assembly, origins.clone(), seed_output);
            tree.as_ref().map(follow).transpose()
        }
    };
    let (follower, mut ending) = follower.map_err(ExtractError::Threads)?.unzip();

    let prepare = Prepare {
        config: config.clone(),
        file: file.clone(),
        assembly: assembly.clone(),
        progress: progress.clone(),
        origins,
    };
    let local = async {
        let in_target = target.clone();
        let (local, plan) = blocking(move || prepare.local(&in_target, stores.local)).await??;
        tracing::debug!(bytes = ?plan.bytes(&layout), "plan");
        if let Some(follower) = &follower {
            follower.begin();
        }
        workers.begin_local(local, &plan.local(), &plan.missing);
        Ok::<_, ExtractError>(())
    };
    let fetch = async {
        let fetched = network.fetch(job).await;
        if fetched.is_err() {
            workers.give_up_local();
        }
        Ok(fetched)
    };
    let failure = async {
        match &mut ending {
            Some(ending) => ending.failure().await,
            None => std::future::pending().await,
        }
    };
    // What cannot be unpacked need not be fetched.
    let (fetched, ()) = tokio::select! {
        done = async { tokio::try_join!(fetch, local) } => done?,
        error = failure => return Err(error.into()),
    };
    let written = blocking(move || workers.finish()).await?;
    written.map_err(|error| target.error("writing the image", error))?;
    let report = whole(&assembly, fetched).map_err(|source| {
        let kept = target.abandon(assembly.count() == 0);
        ExtractError::Fetch { target: config.target.clone(), source, kept }
    })?;
    let mut path = Some(target.path().to_owned());
    let mut unpacked = None;
    if let Some(ending) = ending {
        let done = ending.whole().await?;
        if !config.stdout {
            unpacked = Some(done);
            target.discard()?;
        }
        path = directory;
    } else {
        blocking(move || target.finish()).await??;
    }

    let index = (file.id, file.whence, file.bytes.len() as u64);
    let report = Report::new(config.target, index, layout.count(), &progress, report, started.elapsed());
    if unpacked.as_ref().is_some_and(|unpacked| unpacked.complaints_total > 0) {
        path = None;
    }
    let report = match unpacked {
        Some(unpacked) => report.with_tree(unpacked),
        None => report,
    };
    Ok((report, Finished { path, index_id: file.id, index: file.bytes, linger: None }))
}

/// The directory that has the whole tree when all is well, for those that go on serving it.
fn whole_tree(config: &Config) -> Option<PathBuf> {
    config.tree.as_ref().filter(|tree| tree.path.is_empty()).map(|tree| tree.directory.clone())
}

/// The file or device that the image becomes; for a tree, a spool.
fn open_target(config: &Config, length: u64, id: IndexId) -> Result<Target, ExtractError> {
    if config.stdout {
        return Ok(stdout::spool(length)?);
    }
    let Some(tree) = &config.tree else {
        return Ok(Target::open(&config.target, length, id, config.target_options)?);
    };
    if tree.directory.exists() && !tree.directory.is_dir() {
        let reason = "is no directory; a tree needs one, or a name for a new one";
        return Err(TargetError::Unsuitable { path: tree.directory.clone(), reason }.into());
    }
    let mut places = tree::spool_places(&tree.directory).into_iter();
    let mut opened = Target::open_spool(&places.next().unwrap_or_default(), length, id);
    for place in places {
        if matches!(opened, Err(TargetError::Io { .. })) {
            opened = Target::open_spool(&place, length, id);
        }
    }
    Ok(opened?)
}

/// Says what [`run`] would take from where. Nothing is written, and no chunk is fetched.
///
/// # Errors
/// [`ExtractError`] when there is no index, or a store or seed that was named cannot be used.
pub async fn dry_run(config: Config, network: &dyn Network, http: &HttpClient) -> Result<DryRun, ExtractError> {
    let file = index_file::load(&config.index, config.index_id, network, http).await?;
    let layout = Layout::of(&file.index);
    let stores = sources::open_stores(&config.sources, &config.index, &layout, http)?;
    blocking(move || {
        let mut kept = RoaringBitmap::new();
        let places = match &config.tree {
            Some(tree) => tree::spool_places(&tree.directory),
            None => vec![config.target.clone()],
        };
        let options = TargetOptions {
            in_place: config.target_options.in_place && config.tree.is_none(),
            ..config.target_options
        };
        if let Some(there) = places.iter().find_map(|place| Target::peek(place, file.id, options)) {
            kept = kept::look(&there, &layout, config.threads).unwrap_or_default();
        }
        let sown = Mutex::new(RoaringBitmap::new());
        if let Some(tree) = &config.tree {
            let lock = || sown.lock().unwrap_or_else(PoisonError::into_inner);
            let found = |position, _: &Chunk| {
                lock().insert(position);
            };
            let held = |position| kept.contains(position) || lock().contains(position);
            let (index, layout) = (&file.index, &layout);
            let sowing = Sowing { index, layout, threads: config.threads, origins: None, held: &held, found: &found };
            tree::sow(tree, config.sources.seed_output, &sowing);
        }
        let sown = sown.into_inner().unwrap_or_else(PoisonError::into_inner) - &kept;
        let replaced = config.target.is_file().then_some(config.target.as_path());
        let (options, threads) = (&config.sources, config.threads);
        let local = sources::open_local(options, replaced, &kept, &file.index, &layout, stores.local, threads);
        let in_store = |id: &_| local.stores.iter().any(|store| store.store().has(*id).unwrap_or(false));
        let sown = |id: &_| layout.position(id).is_some_and(|position| sown.contains(position));
        let plan = Plan::of(&layout, kept, |id| sown(id) || local.in_seed(id), in_store);
        Ok(DryRun::new(config.target, file.id, layout.total(), layout.count(), plan.bytes(&layout)))
    })
    .await?
}

/// Everything that comes before the local work and takes time: looking through the target and the seeds.
struct Prepare {
    config: Config,
    file: IndexFile,
    assembly: Arc<Assembly>,
    progress: Arc<Progress>,
    origins: Option<Arc<tree::Origins>>,
}

impl Prepare {
    fn local(&self, target: &Target, stores: Vec<local::StoreSource>) -> Result<(Local, Plan), ExtractError> {
        let (config, layout) = (&self.config, self.assembly.layout());
        kept::keep(target, &self.assembly, config.threads, &self.progress)
            .map_err(|error| target.error("looking at what is there", error))?;
        let (options, replaced, threads) = (&config.sources, target.replaced(), config.threads);
        if let Some(tree) = &config.tree {
            let seed_output = config.sources.seed_output;
            let found = |position, chunk: &Chunk| match self.assembly.put(position, chunk) {
                Ok(true) => self.progress.add_image(Place::Seeds, span(layout, position)),
                Ok(false) => {}
                // Whoever writes next finds the same and says so.
                Err(error) => tracing::debug!(%error, "a chunk of a seed could not be written"),
            };
            let held = |position| self.assembly.holds(position);
            let (index, origins) = (&self.file.index, self.origins.as_deref());
            let sowing = Sowing { index, layout, threads: config.threads, origins, held: &held, found: &found };
            tree::sow(tree, seed_output, &sowing);
        }
        let held = self.assembly.held().into_positions();
        let local = sources::open_local(options, replaced, &held, &self.file.index, layout, stores, threads);
        let any_store = !local.stores.is_empty();
        let plan = Plan::of(layout, held, |id| local.in_seed(id), |_| any_store);
        Ok((local, plan))
    }
}

/// Whether the image is whole, and if not, why.
fn whole(assembly: &Assembly, fetched: Result<NetworkReport, FetchError>) -> Result<NetworkReport, FetchError> {
    let report = fetched?;
    match assembly.missing() {
        missing if missing.is_empty() => Ok(report),
        missing => Err(FetchError { missing: missing.len(), reasons: "nobody gave them".to_owned() }),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ExtractError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| ExtractError::Threads(std::io::Error::other(error)))
}
