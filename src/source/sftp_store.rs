//! A chunk store on a machine that has no casync: its files by SFTP, of the compressed form only, over one connection that
//! is made when the first chunk is asked for and made anew when it broke. It does not check that an answer is the chunk.

use std::sync::Arc;
use std::time::Duration;

use proto::ChunkId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::http_store::Fetched;
use super::{SourceError, chunk_path, compressed_suffix, detect};
use crate::chunk::Encoded;
use crate::remote::Place;
use crate::remote::sftp::Sftp;

/// How long after a failed connection the next is tried at the earliest.
const PAUSE: Duration = Duration::from_secs(1);

/// A store behind SFTP. Cheap to clone; all clones use one connection.
#[derive(Clone)]
pub struct SftpStore {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    name: String,
    suffix: String,
    limit: u64,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    sftp: Option<Arc<Sftp>>,
    failed: Option<(Instant, SourceError)>,
}

impl SftpStore {
    /// The store there, whose chunk files are no longer than `limit`. Nothing is asked yet.
    pub fn new(name: String, place: Place, limit: u64) -> Self {
        let suffix = compressed_suffix();
        Self { inner: Arc::new(Inner { place, name, suffix, limit, connection: Mutex::default() }) }
    }

    /// What to call it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Asks for a chunk and says how long it took.
    ///
    /// # Errors
    /// `Unavailable` when the other side is not reached or ends, `Refused` when what it has is no chunk.
    pub async fn fetch_timed(&self, id: ChunkId) -> Result<Fetched, SourceError> {
        let started = Instant::now();
        let sftp = self.connection().await?;
        let path = format!("{}/{}", self.inner.place.path.trim_end_matches('/'), chunk_path(&id, &self.inner.suffix));
        let read = sftp.read(&path, self.inner.limit).await;
        if read.as_ref().is_err_and(Sftp::is_over) {
            let mut connection = self.inner.connection.lock().await;
            connection.sftp.take_if(|open| Arc::ptr_eq(open, &sftp));
        }
        let total = started.elapsed();
        let found = read?;
        let wire_bytes = found.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let encoded = match found {
            // An empty file is what a power failure leaves of a chunk.
            Some(bytes) if bytes.is_empty() => None,
            Some(bytes) => {
                let encoding = detect(&bytes).ok_or_else(|| {
                    SourceError::refused(format!("{}: {path}", self.name()), "compressed by nothing known")
                })?;
                Some(Encoded { encoding, bytes })
            }
            None => None,
        };
        Ok(Fetched { encoded, forbidden: false, first_byte: total, total, wire_bytes })
    }

    async fn connection(&self) -> Result<Arc<Sftp>, SourceError> {
        let mut connection = self.inner.connection.lock().await;
        if let Some(sftp) = &connection.sftp {
            return Ok(sftp.clone());
        }
        // Many ask at once: one failure answers all of them.
        if let Some((_, error)) = connection.failed.as_ref().filter(|(when, _)| when.elapsed() < PAUSE) {
            return Err(error.clone());
        }
        match Sftp::connect(&self.inner.place).await {
            Ok(sftp) => Ok(connection.sftp.insert(Arc::new(sftp)).clone()),
            Err(error) => {
                connection.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
