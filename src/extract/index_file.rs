//! The index of an extraction: from a file, or by its id from a neighbour, or else from the origin. What comes is
//! checked against the id, where one is known, before it is looked into.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::{IndexId, limits};

use super::network::Network;
use crate::format::index::{Index, IndexError};
use crate::remote::Place;
use crate::remote::sftp::Sftp;
use crate::source::SourceError;
use crate::source::http::HttpClient;
use crate::source::location::Location;

/// The longest index file that is read, in bytes: the most positions that peers speak of.
const LONGEST: u64 = 104 + 40 * limits::POSITIONS as u64;

/// The longest `.id` file: 64 digits, a line end, and some white space.
const LONGEST_ID: u64 = 256;

/// An index, its bytes, and whence.
#[derive(Debug, Clone)]
pub struct IndexFile {
    /// SHA-256 of `bytes`.
    pub id: IndexId,
    /// The file as it was.
    pub bytes: Bytes,
    /// What it says.
    pub index: Index,
    /// Where it came from.
    pub whence: Whence,
}

/// Where an index came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Whence {
    /// A local file.
    File,
    /// A neighbour, by its id.
    Lan,
    /// The remote place that the user named.
    Origin,
}

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexFileError {
    /// There is nothing at that place.
    #[error("{0}: there is no index")]
    Absent(String),
    /// What is there is not an index.
    #[error("{place}: {reason}")]
    Invalid {
        /// Path or URL.
        place: String,
        /// What is wrong with it.
        reason: IndexError,
    },
    /// What is there is a page for people, as servers send instead of an error.
    #[error("{0}: a web page, not an index: is the address right?")]
    WebPage(String),
    /// Another index than the one that was asked for.
    #[error("{place}: this index is {got}, not {want} as asked for with --index-id")]
    WrongId {
        /// Path or URL.
        place: String,
        /// The id asked for.
        want: IndexId,
        /// The id of what is there.
        got: IndexId,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The remote place cannot be asked.
    #[error(transparent)]
    Remote(#[from] SourceError),
    /// Longer than any index.
    #[error("{0}: too long for an index of at most {n} chunks", n = limits::POSITIONS)]
    TooLong(String),
}

/// Reads the index at `location`. With `pinned`, nothing but the index of that id is accepted.
///
/// # Errors
/// [`IndexFileError`] naming the place.
pub async fn load(
    location: &Location,
    pinned: Option<IndexId>,
    network: &dyn Network,
    http: &HttpClient,
) -> Result<IndexFile, IndexFileError> {
    let place = location.to_string();
    location.check_supported()?;
    if let Location::Path(path) = location {
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
        let bytes = read.unwrap_or_else(|_| Err(IndexFileError::Absent(place.clone())))?;
        return checked(place, bytes, pinned, Whence::File);
    }
    if let Some(there) = Place::of(location, "ssh") {
        if let Some(id) = pinned
            && let Some(bytes) = network.index(id, true).await
        {
            return checked(place, bytes, pinned, Whence::Lan);
        }
        // What names it beside would cost a connection, which costs more than the index mostly is.
        let bytes = crate::remote::pull::index(&there?, LONGEST).await?;
        return checked(place, bytes, pinned, Whence::Origin);
    }
    if let Some(there) = Place::of(location, "sftp") {
        let there = there?;
        let sftp = Sftp::connect(&there).await?;
        let beside = sftp.read(&format!("{}.id", there.path), LONGEST_ID).await.ok().flatten();
        let told = pinned.or_else(|| std::str::from_utf8(&beside?).ok()?.trim().parse().ok());
        if let Some(id) = told
            && let Some(bytes) = network.index(id, true).await
        {
            return checked(place, bytes, Some(id), Whence::Lan);
        }
        let bytes = sftp.read(&there.path, LONGEST).await?.ok_or_else(|| IndexFileError::Absent(place.clone()))?;
        return checked(place, bytes, pinned, Whence::Origin);
    }
    let told = match pinned {
        Some(id) => Some(id),
        None => id_beside(location, http).await,
    };
    if let Some(id) = told
        && let Some(bytes) = network.index(id, true).await
    {
        return checked(place, bytes, Some(id), Whence::Lan);
    }
    let bytes = match told {
        Some(id) => tokio::select! {
            found = http.get_file(&place, LONGEST) => match found {
                Ok(found) => found,
                // No way to the origin: a neighbour may get the index yet.
                Err(error) => match network.index(id, false).await {
                    Some(bytes) => return checked(place, bytes, Some(id), Whence::Lan),
                    None => return Err(error.into()),
                },
            },
            Some(bytes) = network.index(id, false) => return checked(place, bytes, Some(id), Whence::Lan),
        },
        None => http.get_file(&place, LONGEST).await?,
    };
    let bytes = bytes.ok_or_else(|| IndexFileError::Absent(place.clone()))?;
    let file = checked(place, bytes, pinned, Whence::Origin)?;
    if let Some(told) = told.filter(|told| *told != file.id) {
        tracing::warn!("{location} is not the index {told} that its .id file names; write the .id file anew");
    }
    Ok(file)
}

/// The id that the publisher wrote beside the index. Not having one only means more traffic.
async fn id_beside(index: &Location, http: &HttpClient) -> Option<IndexId> {
    match http.get_file(&index.id_file().to_string(), LONGEST_ID).await {
        Ok(found) => std::str::from_utf8(&found?).ok()?.trim().parse().ok(),
        Err(error) => {
            tracing::debug!(%error, "no .id beside the index");
            None
        }
    }
}

fn read_file(path: &Path) -> Result<Bytes, IndexFileError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => IndexFileError::Absent(path.display().to_string()),
        _ => IndexFileError::Read { path: path.to_owned(), source },
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > LONGEST {
        return Err(IndexFileError::TooLong(path.display().to_string()));
    }
    Ok(std::fs::read(path).map_err(failed)?.into())
}

fn checked(place: String, bytes: Bytes, pinned: Option<IndexId>, whence: Whence) -> Result<IndexFile, IndexFileError> {
    let id = Index::index_id(&bytes);
    if let Some(want) = pinned.filter(|want| *want != id) {
        return Err(IndexFileError::WrongId { place, want, got: id });
    }
    match Index::parse(&bytes) {
        Ok(index) if index.chunks.len() > limits::POSITIONS as usize => Err(IndexFileError::TooLong(place)),
        Ok(index) => Ok(IndexFile { id, bytes, index, whence }),
        Err(_) if bytes.trim_ascii_start().starts_with(b"<") => Err(IndexFileError::WebPage(place)),
        Err(reason) => Err(IndexFileError::Invalid { place, reason }),
    }
}
