//! Opens the stores and seeds of an extraction. One that cannot be used is a warning where others are left, and an error
//! where it was the only one.

use std::path::Path;

use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::source::http::HttpClient;
use crate::source::local_store::LocalStore;
use crate::source::location::Location;
use crate::source::remote_store::RemoteStore;
use crate::source::seed::{Seed, SeedName, Wanted};
use crate::source::{MAX_CHUNK, SourceError};

use super::local::{Local, StoreSource};

/// The stores and seeds that were named.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// The main store; `None` means the one that belongs to the index's place.
    pub store: Option<Location>,
    /// More stores, asked after the main one, local before remote.
    pub extra_stores: Vec<Location>,
    /// Seeds in the order in which they are asked.
    pub seeds: Vec<SeedName>,
    /// Whether the file that the target replaces is a seed too.
    pub seed_output: bool,
    /// Whether blocks are shared with seeds where the file system can.
    pub reflink: bool,
    /// Whether there are neighbours to be asked, so that no store at all is not the end.
    pub neighbours: bool,
}

/// The stores by the way in which they are asked.
#[derive(Default)]
pub(crate) struct Stores {
    pub(crate) local: Vec<StoreSource>,
    pub(crate) remote: Vec<RemoteStore>,
}

/// Opens the stores: local ones are looked at, remote ones are not asked yet.
///
/// # Errors
/// When a location is of a kind that is not supported, and when no store can be used and nobody else is there to ask.
pub(crate) fn open_stores(
    options: &SourceOptions,
    index: &Location,
    layout: &Layout,
    http: &HttpClient,
) -> Result<Stores, SourceError> {
    let longest = (0..layout.count()).map(|position| layout.length(position)).max().unwrap_or(0);
    // Compression makes noise longer by less than this.
    let limit = (u64::from(longest) + u64::from(longest) / 8 + 4096).min(MAX_CHUNK + (1 << 20));
    let main = options.store.clone().unwrap_or_else(|| index.default_store());
    let mut stores = Stores::default();
    let mut problems = Vec::new();
    for (number, location) in std::iter::once(&main).chain(&options.extra_stores).enumerate() {
        location.check_supported()?;
        match location {
            Location::Path(path) => match LocalStore::open(path) {
                Ok(store) => stores.local.push(StoreSource::new(store)),
                // A store that nobody named need not exist.
                Err(error) if number == 0 && options.store.is_none() => problems.push((error, true)),
                Err(error) => problems.push((error, false)),
            },
            remote => stores.remote.push(RemoteStore::new(remote, limit, http)?),
        }
    }
    let others = !stores.local.is_empty() || !stores.remote.is_empty() || !options.seeds.is_empty();
    for (error, unnamed) in problems {
        match (others, unnamed, options.neighbours) {
            (true, true, _) | (_, true, true) => tracing::debug!(%error, "no store beside the index"),
            (true, false, _) => tracing::warn!(%error, "this store cannot be used; going on with the others"),
            (false, ..) if layout.count() == 0 => {}
            (false, ..) => return Err(error),
        }
    }
    Ok(stores)
}

/// Opens the seeds, cutting those that have no index, and puts them before the stores. `replaced` is the file that the
/// target replaces. Blocks.
pub(super) fn open_local(
    options: &SourceOptions,
    replaced: Option<&Path>,
    kept: &roaring::RoaringBitmap,
    index: &Index,
    layout: &Layout,
    stores: Vec<StoreSource>,
    threads: usize,
) -> Local {
    let mut local = Local { seeds: Vec::new(), stores };
    let mut names = options.seeds.clone();
    if let Some(path) = replaced.filter(|_| options.seed_output) {
        let name = SeedName::parse(&path.to_string_lossy());
        if !names.iter().any(|other| other.file == name.file) {
            names.push(name);
        }
    }
    let missing = (0..layout.count()).filter(|position| !kept.contains(*position));
    let missing: Vec<_> = missing.map(|position| (layout.id(position), layout.length(position))).collect();
    let all = Wanted::new(missing.iter().copied());
    for name in names {
        // Cutting costs time: it looks only for what no seed before it claims to have.
        let rest = || Wanted::new(missing.iter().copied().filter(|(id, _)| !local.in_seed(id)));
        match open_seed(&name, index, &all, rest, threads) {
            Ok(seed) => local.add_seed(seed, options.reflink),
            Err(error) => tracing::warn!(%error, "this seed cannot be used; going on without it"),
        }
    }
    local
}

/// By its index, if there is one that can be read and speaks of the same digest; else by cutting it.
fn open_seed(
    name: &SeedName,
    target: &Index,
    all: &Wanted,
    rest: impl FnOnce() -> Wanted,
    threads: usize,
) -> Result<Seed, SourceError> {
    if let Some(path) = &name.index {
        match read_index(path) {
            Ok(index) if index.digest() == target.digest() => {
                return Seed::with_index(&name.file, &index, Some(all));
            }
            Ok(_) => tracing::warn!("{}: of another digest; cutting the seed instead", path.display()),
            Err(reason) => tracing::warn!("{}: {reason}; cutting the seed instead", path.display()),
        }
    }
    Seed::by_cutting(&name.file, target.sizes, target.digest(), &rest(), threads)
}

pub(super) fn read_index(path: &Path) -> Result<Index, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > crate::format::index::MAX_FILE {
        return Err("too long for an index".to_owned());
    }
    Index::parse(&std::fs::read(path).map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}
