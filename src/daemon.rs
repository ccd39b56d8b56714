//! A node that stays: it serves the stores and images that it was told of until it is stopped, and answers on a control
//! socket. What a node does is [`crate::node`]'s business.

pub mod control;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::node::holder::{ImageHolder, StoreHolder};
use crate::node::{Node, NodeConfig, StartError};
use crate::source::SourceError;
use control::ControlError;

/// The port on which a node that stays accepts sessions, unless told otherwise.
pub const PORT: u16 = 7748;

/// What a daemon serves and where it is controlled.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// Its node.
    pub node: NodeConfig,
    /// Chunk stores to serve from.
    pub stores: Vec<PathBuf>,
    /// Images to serve from: index file and image.
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
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs until `shutdown` is ready; tells systemd when it is up.
///
/// # Errors
/// When something it was told to serve is not there, or its port or socket is taken.
pub async fn run(config: DaemonConfig, shutdown: impl Future<Output = ()>) -> Result<(), DaemonError> {
    let mut images = Vec::new();
    for (index, image) in &config.images {
        let bytes = std::fs::read(index).map_err(|source| DaemonError::Index { path: index.clone(), source })?;
        images.push((ImageHolder::open(image, Bytes::from(bytes))?, index));
    }
    let stores = config.stores.iter().map(|path| StoreHolder::open(path)).collect::<Result<Vec<_>, _>>()?;
    let listener = control::listen(&config.control)?;
    let node = Node::start(config.node).await?;
    for store in stores {
        node.serve(Arc::new(store), None, String::new()).await;
    }
    for (image, index) in images {
        serve_image(&node, image, index.display().to_string()).await;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(port = node.port(), "serving");
    tokio::select! {
        () = control::answer(listener, node.clone()) => {}
        () = shutdown => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = std::fs::remove_file(&config.control);
    node.shutdown().await;
    Ok(())
}

async fn serve_image(node: &Node, image: ImageHolder, name: String) {
    let index = (image.index_id(), image.index().clone(), image.layout().clone());
    node.serve(Arc::new(image), Some(index), name).await;
}
