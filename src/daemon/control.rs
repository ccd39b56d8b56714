//! The control socket of a running node: one JSON object a line, one answer a line. Only this machine's owner of the
//! state directory reaches it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::kept_images::KeptImages;
use super::serve_image;
use crate::node::Node;
use crate::node::extracted::Extracted;
use crate::node::hub::Status;
use crate::source::SourceError;

/// Bytes of one request; an index of four million chunks fits, in hexadecimal.
const REQUEST_BYTES: u64 = 512 << 20;

/// How long a running node may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// What a node is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// Its state.
    Status,
    /// To serve this image, or the tree in this directory.
    AddImage { image: PathBuf, index_hex: String },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Status(Box<Status>),
    Done,
    Error(String),
}

/// Why a running node was not reached, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no running node.
    #[error("no node is running here: nothing answers at {socket}; start one with `caswarm node`")]
    NoNode {
        /// The socket.
        socket: PathBuf,
    },
    /// There is one already.
    #[error("a node is running here already: it answers at {socket}; another needs its own --state-dir")]
    Taken {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be used.
    #[error("{socket}: {source}")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The node refused.
    #[error("{0}")]
    Refused(String),
}

/// Takes the socket. One that a dead node left behind is replaced.
///
/// # Errors
/// When a node answers there, or the socket cannot be made.
pub fn listen(socket: &Path) -> Result<UnixListener, ControlError> {
    let failed = |source| ControlError::Io { socket: socket.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(ControlError::Taken { socket: socket.to_owned() });
    }
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// What the requests are about.
#[derive(Clone)]
pub(super) struct Controlled {
    pub(super) node: Node,
    /// `None`: nothing is kept for the next start.
    pub(super) kept: Option<Arc<Mutex<KeptImages>>>,
}

/// Answers requests until dropped.
pub(super) async fn answer(listener: UnixListener, controlled: Controlled) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let controlled = controlled.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &controlled).await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

/// The state of the node that listens there.
///
/// # Errors
/// [`ControlError::NoNode`] if there is none.
pub async fn status(socket: &Path) -> Result<Status, ControlError> {
    match ask(socket, &Request::Status).await? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(reason) => Err(ControlError::Refused(reason)),
        Answer::Done => Err(ControlError::Refused("the node answered something else".into())),
    }
}

/// Hands an image to the node that listens there.
///
/// # Errors
/// [`ControlError::NoNode`] if there is none.
pub async fn add_image(socket: &Path, image: &Path, index: &Bytes) -> Result<(), ControlError> {
    let image = std::path::absolute(image).unwrap_or_else(|_| image.to_owned());
    match ask(socket, &Request::AddImage { image, index_hex: hex::encode(index) }).await? {
        Answer::Done => Ok(()),
        Answer::Error(reason) => Err(ControlError::Refused(reason)),
        Answer::Status(_) => Err(ControlError::Refused("the node answered something else".into())),
    }
}

async fn ask(socket: &Path, request: &Request) -> Result<Answer, ControlError> {
    let failed = |source| ControlError::Io { socket: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NoNode { socket: socket.to_owned() }
        }
        _ => failed(source),
    })?;
    let exchange = async {
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        stream.take(REQUEST_BYTES).read_line(&mut answer).await?;
        serde_json::from_str(&answer).map_err(io::Error::from)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the node does not answer");
    tokio::time::timeout(ANSWER, exchange).await.unwrap_or_else(|_| Err(late())).map_err(failed)
}

async fn converse(stream: UnixStream, controlled: &Controlled) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(REQUEST_BYTES)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Status) => match controlled.node.status().await {
                Some(status) => Answer::Status(Box::new(status)),
                None => Answer::Error("the node is shutting down".into()),
            },
            Ok(Request::AddImage { image, index_hex }) => add(controlled, image, &index_hex).await,
            Err(error) => Answer::Error(format!("not a request: {error}")),
        };
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
    }
    Ok(())
}

async fn add(controlled: &Controlled, image: PathBuf, index_hex: &str) -> Answer {
    let Ok(index) = hex::decode(index_hex) else { return Answer::Error("the index is not hexadecimal".into()) };
    let (path, kept) = (image.clone(), controlled.kept.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let holder = Extracted::open(&path, Bytes::from(index))?;
        Ok::<_, SourceError>((keep(kept.as_deref(), &path, &holder), holder))
    });
    match opened.await {
        Ok(Ok((replaced, holder))) => {
            for place in replaced {
                controlled.node.unserve(place.display().to_string()).await;
            }
            serve_image(&controlled.node, holder, image.display().to_string()).await;
            Answer::Done
        }
        Ok(Err(error)) => Answer::Error(error.to_string()),
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// Keeps an image for the next start; without that it is served all the same. Returns those that had to make room.
fn keep(kept: Option<&Mutex<KeptImages>>, image: &Path, holder: &Extracted) -> Vec<PathBuf> {
    let Some(kept) = kept else { return Vec::new() };
    let added = kept.lock().unwrap_or_else(PoisonError::into_inner).add(image, holder);
    added.unwrap_or_else(|error| {
        tracing::warn!("{} is served until this node ends, and not kept for the next: {error}", image.display());
        Vec::new()
    })
}
