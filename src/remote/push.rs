//! What goes to the other side: an index, and of its chunks those that the other side asks for; or an archive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use proto::ChunkId;
use tokio::sync::mpsc;

use super::link::LinkError;
use super::message::{LONGEST_CHUNK, Message, services};
use super::{Place, Remote, Subject};
use crate::chunk::{Encoded, Encoding};
use crate::source::SourceError;

/// How much of a file goes in one message.
const PART: usize = 256 << 10;

/// Where the chunks that are asked for come from. Blocks.
pub type Read = dyn Fn(ChunkId) -> Result<Option<Encoded>, SourceError> + Send + Sync;

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes on the way.
    pub bytes: u64,
}

/// Pushes an index with `rows` rows, and the chunks of it that the other side lacks; returns when it has said that all is
/// there. `threads` chunks are read at a time.
///
/// # Errors
/// When the connection ends, the other side gives up, or a chunk it asks for cannot be read.
pub async fn index(
    index: &Place,
    store: &Place,
    bytes: Bytes,
    rows: usize,
    read: Arc<Read>,
    threads: usize,
) -> Result<Pushed, SourceError> {
    let subject = Subject { index: Some(index), store: Some(store), ..Subject::default() };
    let wants = services::PUSH_CHUNKS | services::PUSH_INDEX | services::PUSH_INDEX_CHUNKS;
    let remote = Remote::start("push", &subject, wants).await?;
    let Remote { child, mut reader, mut writer, name } = remote;
    let failed = |error: LinkError| super::failed(&name, error);
    let (wanted, wants) = mpsc::unbounded_channel();
    let reading = &mut reader;
    // How much of what it wants it has not been sent.
    let owed = AtomicUsize::new(0);
    let listen = async {
        // Its end is the end of what is wanted, and with that of the speaker.
        let wanted = wanted;
        // No more than the index has, twice: that bounds what waits here.
        let mut left = 2 * rows + 16;
        loop {
            let message = match reading.receive().await {
                // With all that it wants on the way, or there, it may have to work for long.
                Err(LinkError::Silent(_)) if owed.load(Ordering::Relaxed) == 0 => continue,
                message => message.map_err(failed)?,
            };
            match message {
                Message::Request { ids, .. } if ids.len() <= left => {
                    left -= ids.len();
                    owed.fetch_add(ids.len(), Ordering::Relaxed);
                    ids.into_iter().for_each(|id| {
                        let _ = wanted.send(id);
                    });
                }
                Message::Request { .. } => {
                    let reason = "it asks for more chunks than the index has".to_owned();
                    return Err(failed(LinkError::Unexpected(reason)));
                }
                Message::Goodbye => return Ok(()),
                _ => return Err(failed(LinkError::Unexpected("it sends something else than requests".to_owned()))),
            }
        }
    };
    let speak = async {
        for part in parts(&bytes) {
            writer.send(&Message::Index(part)).await.map_err(failed)?;
        }
        writer.send(&Message::IndexEof).await.map_err(failed)?;
        let ids = futures::stream::unfold(wants, |mut wants| async { Some((wants.recv().await?, wants)) });
        let answers = ids.map(|id| {
            let read = read.clone();
            async move { (id, tokio::task::spawn_blocking(move || read(id)).await) }
        });
        let mut answers = std::pin::pin!(answers.buffered(threads.max(1)));
        let mut pushed = Pushed::default();
        while let Some((id, answer)) = answers.next().await {
            let found = answer.map_err(|error| SourceError::unavailable(&name, error))??;
            let found = found.ok_or_else(|| {
                let reason = format!("it asks for chunk {id}, which is not there any more; did the image change?");
                SourceError::refused(&name, reason)
            })?;
            if found.bytes.len() > LONGEST_CHUNK {
                let reason = format!("chunk {id} is too long for casync's protocol; use a smaller --chunk-size");
                return Err(SourceError::refused(&name, reason));
            }
            pushed.chunks += 1;
            pushed.bytes += found.bytes.len() as u64;
            let compressed = found.encoding != Encoding::Plain;
            writer.send(&Message::Chunk { compressed, id, data: found.bytes }).await.map_err(failed)?;
            owed.fetch_sub(1, Ordering::Relaxed);
        }
        Ok::<_, SourceError>(pushed)
    };
    let pushed = match futures::future::select(std::pin::pin!(listen), std::pin::pin!(speak)).await {
        futures::future::Either::Left((ended, speak)) => {
            ended?;
            speak.await?
        }
        // It only ends by itself when something is wrong; what the other side said may tell more.
        futures::future::Either::Right((Err(error), listen)) => {
            let said = tokio::time::timeout(super::ENDING, listen).await;
            return Err(said.ok().and_then(Result::err).filter(|_| may_pass(&error)).unwrap_or(error));
        }
        futures::future::Either::Right((Ok(pushed), listen)) => {
            listen.await?;
            pushed
        }
    };
    finish(Remote { child, reader, writer, name }).await?;
    Ok(pushed)
}

/// Pushes a file as it is, as an archive; parts come from `next`, `None` at the end.
///
/// # Errors
/// When the connection ends, the other side gives up, or `next` says so.
pub async fn archive<E: From<SourceError>>(
    place: &Place,
    mut next: impl AsyncFnMut() -> Result<Option<Bytes>, E>,
) -> Result<(), E> {
    let subject = Subject { archive: Some(place), ..Subject::default() };
    let mut remote = Remote::start("push", &subject, services::PUSH_ARCHIVE).await?;
    while let Some(block) = next().await? {
        for part in parts(&block) {
            let sent = remote.writer.send(&Message::Archive(part)).await;
            sent.map_err(|error| remote.failed(error))?;
        }
    }
    let sent = remote.writer.send(&Message::ArchiveEof).await;
    sent.map_err(|error| remote.failed(error))?;
    let said = loop {
        match remote.reader.receive().await {
            // The last of it is on the way, and then to be written to the disk.
            Err(LinkError::Silent(_)) => {}
            said => break said,
        }
    };
    match said {
        Ok(Message::Goodbye) => {}
        Ok(_) => {
            let unexpected = LinkError::Unexpected("it does not say goodbye when it has the file".to_owned());
            return Err(remote.failed(unexpected).into());
        }
        Err(error) => return Err(remote.failed(error).into()),
    }
    Ok(finish(remote).await?)
}

fn parts(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    (0..bytes.len()).step_by(PART).map(|start| bytes.slice(start..bytes.len().min(start + PART)))
}

/// It is done when the other side's program says so: casync gives the index its name only after its goodbye.
async fn finish(remote: Remote) -> Result<(), SourceError> {
    let name = remote.name.clone();
    match remote.end().await {
        true => Ok(()),
        false => Err(SourceError::unavailable(name, "the other side did not end well; what it said stands above")),
    }
}

fn may_pass(error: &SourceError) -> bool {
    matches!(error, SourceError::Unavailable { .. })
}
