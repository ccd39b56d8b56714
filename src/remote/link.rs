//! Messages over a pair of pipes. It reads no more of a message than has come, and waits no longer for the next byte than
//! it was told.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::message::{HEADER, Message, MessageError, header};

/// How much is read at once.
const BLOCK: usize = 64 << 10;

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side says something that is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The other side says something that does not belong here.
    #[error("{0}")]
    Unexpected(String),
    /// It gave up.
    #[error("the other side gave up: {reason}")]
    Aborted {
        /// An errno, or 0.
        errno: u64,
        /// In its words.
        reason: String,
    },
    /// It is gone.
    #[error("the connection ended too early; what ssh or the other side said stands above")]
    Ended,
    /// Nothing comes.
    #[error("no byte for {0:?}")]
    Silent(Duration),
    /// The pipe fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The half that listens.
pub struct Reader<R> {
    pipe: R,
    patience: Option<Duration>,
    /// What was read and not taken yet.
    ready: Vec<u8>,
    taken: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Listens to a pipe, waiting that long for each byte; `None` means for ever.
    pub fn new(pipe: R, patience: Option<Duration>) -> Self {
        Self { pipe, patience, ready: Vec::new(), taken: 0 }
    }

    /// The next message; `None` if the other side ended between two. An abort is an error. Dropping the future loses the
    /// message.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        if !self.fill(HEADER).await? {
            return if self.ready.len() == self.taken { Ok(None) } else { Err(LinkError::Ended) };
        }
        let mut head = [0; HEADER];
        head.copy_from_slice(&self.ready[self.taken..self.taken + HEADER]);
        let (length, kind) = header(head)?;
        self.taken += HEADER;
        if !self.fill(length).await? {
            return Err(LinkError::Ended);
        }
        let body = self.ready[self.taken..self.taken + length].to_vec();
        self.taken += length;
        match Message::parse(kind, body.into())? {
            Message::Abort { errno, reason } => Err(LinkError::Aborted { errno, reason }),
            message => Ok(Some(message)),
        }
    }

    /// The next message, where there has to be one.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn receive(&mut self) -> Result<Message, LinkError> {
        self.next().await?.ok_or(LinkError::Ended)
    }

    /// Whether so many bytes are there now; reads until they are, or the end.
    async fn fill(&mut self, length: usize) -> Result<bool, LinkError> {
        if self.taken > 0 {
            self.ready.drain(..self.taken);
            self.taken = 0;
        }
        while self.ready.len() < length {
            self.ready.reserve(BLOCK);
            let read = self.pipe.read_buf(&mut self.ready);
            let read = match self.patience {
                None => read.await?,
                Some(patience) => {
                    tokio::time::timeout(patience, read).await.map_err(|_| LinkError::Silent(patience))??
                }
            };
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The half that speaks.
pub struct Writer<W>(W);

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Speaks into a pipe.
    pub fn new(pipe: W) -> Self {
        Self(pipe)
    }

    /// Says it, and waits until it is in the pipe.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        let (head, data) = message.to_bytes();
        let sent = async {
            self.0.write_all(&head).await?;
            self.0.write_all(&data).await?;
            self.0.flush().await
        };
        match sent.await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(LinkError::Ended),
            sent => Ok(sent?),
        }
    }
}
