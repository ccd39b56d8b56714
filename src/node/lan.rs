//! An extraction's network: a node of its own, which seeds while it fetches, hands the finished image to the machine's
//! running node, or stays while a neighbour still needs it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::IndexId;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{Node, NodeConfig};
use crate::daemon::control;
use crate::extract::network::{FetchError, Finished, Job, Network, NetworkReport};

/// How long a node stays at most while it is needed, unless told otherwise.
const LINGER: Duration = Duration::from_secs(120);

/// How often it looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);

/// A node behind the extraction's seam. It starts when it is first needed: an extraction that finds everything on its
/// own machine never opens a port.
pub struct Lan {
    config: NodeConfig,
    node: OnceCell<Option<Node>>,
    /// Where a running node of this machine listens.
    control: Option<PathBuf>,
}

impl Lan {
    /// A node of this kind. `control` is the socket of the machine's own running node, if there may be one.
    pub fn new(config: NodeConfig, control: Option<PathBuf>) -> Self {
        Self { config, node: OnceCell::new(), control }
    }

    /// The node. One that cannot open its port goes on without neighbours; `None` if not even that works.
    async fn node(&self) -> Option<&Node> {
        let started = self.node.get_or_init(|| async {
            match Node::start(self.config.clone()).await {
                Ok(node) => Some(node),
                Err(error) => {
                    tracing::warn!("{error}; going on without neighbours");
                    Node::start(NodeConfig { lan: false, ..self.config.clone() }).await.ok()
                }
            }
        });
        started.await.as_ref()
    }

    async fn fetch_wanted(&self, mut job: Job) -> Result<NetworkReport, FetchError> {
        let Some(first) = job.wanted.recv().await else { return Ok(NetworkReport::default()) };
        let (sender, wanted) = tokio::sync::mpsc::unbounded_channel();
        let mut rest = std::mem::replace(&mut job.wanted, wanted);
        let Some(node) = self.node().await else {
            return Err(FetchError { missing: first.len() as u64, reasons: "no node could be started".into() });
        };
        let forward = async {
            let _ = sender.send(first);
            while let Some(batch) = rest.recv().await {
                let _ = sender.send(batch);
            }
            drop(sender);
        };
        tokio::join!(node.fetch(job), forward).0
    }

    /// Says goodbye, if there was anybody to say it to.
    pub async fn close(&self) {
        if let Some(Some(node)) = self.node.get() {
            node.shutdown().await;
        }
    }
}

impl Network for Lan {
    fn index(&self, id: IndexId, origin: bool) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let node = self.node().await?;
            if origin {
                return node.index(id, true).await;
            }
            tokio::time::timeout(self.config.patience, node.index(id, false)).await.ok().flatten()
        })
    }

    fn fetch(&self, job: Job) -> BoxFuture<'_, Result<NetworkReport, FetchError>> {
        Box::pin(self.fetch_wanted(job))
    }

    fn finished(&self, image: Finished) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let (Some(socket), Some(path)) = (&self.control, &image.path) {
                match control::add_image(socket, path, &image.index).await {
                    Ok(()) => {
                        tracing::info!("the running node serves the image from now on");
                        return;
                    }
                    Err(control::ControlError::NoNode { .. }) => {}
                    Err(error) => tracing::warn!("the running node did not take the image: {error}"),
                }
            }
            let Some(Some(node)) = self.node.get() else { return };
            let until = Instant::now() + image.linger.unwrap_or(LINGER);
            while Instant::now() < until && node.needed(image.index_id).await {
                tokio::time::sleep(LOOK).await;
            }
            self.close().await;
        })
    }
}
