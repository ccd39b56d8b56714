//! A node that stays: it serves the stores and images that it was told of until it is stopped, and answers on a control
//! socket. What a node does is [`crate::node`]'s business.

pub mod control;
mod kept_images;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::node::extracted::Extracted;
use crate::node::holder::StoreHolder;
use crate::node::{Node, NodeConfig, StartError};
use crate::source::SourceError;
use control::{ControlError, Controlled};
use kept_images::KeptImages;

/// The port on which a node that stays accepts sessions, unless told otherwise.
pub const PORT: u16 = 7748;

/// What a daemon serves and where it is controlled.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// Its node.
    pub node: NodeConfig,
    /// Chunk stores to serve from.
    pub stores: Vec<PathBuf>,
    /// Images and trees to serve from: index file, and image or directory.
    pub images: Vec<(PathBuf, PathBuf)>,
    /// The control socket.
    pub control: PathBuf,
}

/// Why a daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A store or image cannot be served.
    #[error(transparent)]
    Holder(#[from] SourceError),
    /// An index cannot be read.
    #[error("{path}: {source}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another node uses the state directory.
    #[error("a node is running here already: it holds {lock}; another needs its own --state-dir")]
    Running {
        /// The file by which they know of each other.
        lock: PathBuf,
    },
    /// The state directory cannot be used.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs until `shutdown` is ready; tells systemd when it is up. Trees are served a while later, each once it was walked.
///
/// # Errors
/// When something it was told to serve is not there, or its port or socket is taken.
pub async fn run(config: DaemonConfig, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    let state = config.node.state_dir.clone();
    // Held until this function ends, however it ends.
    let _lock = state.as_deref().map(lock).transpose()?;
    let (mut images, mut trees) = (Vec::new(), Vec::new());
    for (index, place) in config.images {
        let bytes = std::fs::read(&index).map_err(|source| DaemonError::Index { path: index.clone(), source })?;
        match place.is_dir() {
            true => trees.push((index, place, Bytes::from(bytes))),
            false => images.push((Extracted::open(&place, Bytes::from(bytes))?, index.display().to_string())),
        }
    }
    let stores = config.stores.iter().map(|path| StoreHolder::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut kept = None;
    if let Some(state) = &state {
        let (list, opened) = KeptImages::load(state);
        kept = Some(Arc::new(Mutex::new(list)));
        // Of two that lie at one place, the one that was named now is served.
        let named: BTreeSet<_> = images.iter().map(|(image, _)| image.holder.name()).collect();
        let others = opened.into_iter().map(|(image, path)| (image, path.display().to_string()));
        images.extend(others.filter(|(image, _)| !named.contains(&image.holder.name())));
    }
    let listener = control::listen(&config.control)?;
    let node = Node::start(config.node).await?;
    for store in stores {
        node.serve(Arc::new(store), None, String::new()).await;
    }
    for (image, index) in images {
        serve_image(&node, image, index).await;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(port = node.port(), "serving");
    let ended = tokio::select! {
        () = control::answer(listener, Controlled { node: node.clone(), kept: kept.clone() }) => Ok(()),
        () = shutdown => Ok(()),
        Err(error) = serve_trees(&node, trees, kept, state) => Err(error),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = std::fs::remove_file(&config.control);
    node.shutdown().await;
    ended
}

/// Opens trees, each of which is walked, while the node runs already, and serves each from then on: those that were named,
/// and those that are kept. Ends when one that was named cannot be served, else never.
async fn serve_trees(
    node: &Node,
    named: Vec<(PathBuf, PathBuf, Bytes)>,
    kept: Option<Arc<Mutex<KeptImages>>>,
    state: Option<PathBuf>,
) -> Result<Infallible, DaemonError> {
    let places: BTreeSet<PathBuf> = named.iter().map(|(_, place, _)| place.clone()).collect();
    for (index, place, bytes) in named {
        if let Some(tree) = blocking(move || Extracted::open(&place, bytes)).await {
            serve_image(node, tree?, index.display().to_string()).await;
        }
    }
    let lock = || kept.as_deref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
    let trees = lock().map_or_else(Vec::new, |list| list.trees());
    for tree in trees.into_iter().filter(|tree| !places.contains(tree.place())) {
        let state = state.clone().unwrap_or_default();
        let Some((opened, tree)) = blocking(move || (tree.open(&state), tree)).await else { continue };
        // What came to lie there meanwhile is served already.
        match opened {
            Ok(found) if lock().is_some_and(|list| list.keeps(&tree)) => {
                serve_image(node, found, tree.place().display().to_string()).await;
            }
            Ok(_) => {}
            Err(reason) => {
                if let Some(mut list) = lock() {
                    list.drop_with_a_word(&tree, &reason);
                }
            }
        }
    }
    std::future::pending().await
}

/// `None` only while the program ends.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Takes the state directory for this process; whatever becomes of it, the system gives it back.
fn lock(state: &Path) -> Result<File, DaemonError> {
    let path = state.join("node.lock");
    let failed = |source| DaemonError::State { path: path.clone(), source };
    let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DaemonError::Running { lock: path }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn serve_image(node: &Node, image: Extracted, name: String) {
    node.serve(image.holder, Some((image.index_id, image.index, image.layout)), name).await;
}
