//! A store on another machine, by whichever way its location names.

use futures::future::{BoxFuture, FutureExt};
use proto::ChunkId;

use super::http::HttpClient;
use super::http_store::{self, Fetched, HttpStore};
use super::location::Location;
use super::sftp_store::SftpStore;
use super::ssh_store::SshStore;
use super::{ChunkSource, SourceError};
use crate::chunk::Encoded;
use crate::remote::Place;

/// A remote store. Cheap to clone.
#[derive(Clone)]
pub enum RemoteStore {
    /// Behind HTTP or HTTPS.
    Http(HttpStore),
    /// Behind ssh.
    Ssh(SshStore, HttpClient),
    /// Behind SFTP.
    Sftp(SftpStore, HttpClient),
}

impl RemoteStore {
    /// The store there, whose chunks are no longer than `limit` as stored. Nothing is asked yet. `http` counts what comes,
    /// and limits how fast, on every way.
    ///
    /// # Errors
    /// When the location is of a kind that is not supported.
    pub fn new(location: &Location, limit: u64, http: &HttpClient) -> Result<Self, SourceError> {
        location.check_supported()?;
        let name = location.to_string();
        if let Some(place) = Place::of(location, "sftp") {
            return Ok(Self::Sftp(SftpStore::new(name, place?, limit), http.clone()));
        }
        match Place::of(location, "ssh") {
            Some(place) => Ok(Self::Ssh(SshStore::new(name, place?), http.clone())),
            None => Ok(Self::Http(HttpStore::new(&name, http.clone()).with_limit(limit))),
        }
    }

    /// A chunk to be asked for, one try at a time. Nothing is sent yet.
    pub(super) fn ask(&self, id: ChunkId) -> Asking<'_> {
        match self {
            Self::Http(store) => Asking::Http(store.ask(id)),
            Self::Ssh(store, client) => Asking::Piped(Piped::Ssh(store), client, id, Tried::default()),
            Self::Sftp(store, client) => Asking::Piped(Piped::Sftp(store), client, id, Tried::default()),
        }
    }
}

impl From<HttpStore> for RemoteStore {
    fn from(store: HttpStore) -> Self {
        Self::Http(store)
    }
}

/// A chunk that is asked for.
pub(super) enum Asking<'a> {
    Http(http_store::Asking<'a>),
    Piped(Piped<'a>, &'a HttpClient, ChunkId, Tried),
}

/// A store behind a connection of its own.
pub(super) enum Piped<'a> {
    Ssh(&'a SshStore),
    Sftp(&'a SftpStore),
}

/// How often it was asked, and whether it failed in a way that may pass.
#[derive(Default)]
pub(super) struct Tried {
    times: u32,
    failed: bool,
}

impl Asking<'_> {
    /// Where it is.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Http(asking) => asking.url(),
            Self::Piped(Piped::Ssh(store), ..) => store.name(),
            Self::Piped(Piped::Sftp(store), ..) => store.name(),
        }
    }

    /// Whether the last failure may pass, and there were not too many.
    pub(super) fn may_try_again(&self) -> bool {
        match self {
            Self::Http(asking) => asking.may_try_again(),
            // The first may have met a connection that had just ended.
            Self::Piped(.., tried) => tried.failed && tried.times < 2,
        }
    }

    /// Tries once.
    pub(super) async fn send(&mut self) -> Result<Fetched, SourceError> {
        match self {
            Self::Http(asking) => asking.send().await,
            Self::Piped(store, client, id, tried) => {
                tried.times += 1;
                let fetched = match store {
                    Piped::Ssh(store) => store.fetch_timed(*id).await,
                    Piped::Sftp(store) => store.fetch_timed(*id).await,
                };
                tried.failed = matches!(fetched, Err(SourceError::Unavailable { .. }));
                if let Ok(fetched) = &fetched {
                    client.count(fetched.wire_bytes as usize).await;
                }
                fetched
            }
        }
    }
}

impl ChunkSource for RemoteStore {
    fn fetch(&self, id: ChunkId) -> BoxFuture<'_, Result<Option<Encoded>, SourceError>> {
        match self {
            Self::Http(store) => store.fetch(id),
            Self::Ssh(store, _) => store.fetch(id),
            Self::Sftp(store, _) => async move { Ok(store.fetch_timed(id).await?.encoded) }.boxed(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Http(store) => store.name(),
            Self::Ssh(store, _) => store.name(),
            Self::Sftp(store, _) => store.name(),
        }
    }
}
