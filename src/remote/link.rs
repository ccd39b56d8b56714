//! Messages over a pair of pipes. It reads no more of a message than has come, and waits no longer for the next byte than
//! it was told, not counting the time in which this side could still say something.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// How many bytes the half that speaks has said.
    said: Arc<AtomicU64>,
    /// What was read and not taken yet.
    ready: Vec<u8>,
    taken: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Listens to a pipe, waiting that long for each byte; `None` means for ever.
    pub fn new(pipe: R, patience: Option<Duration>) -> Self {
        Self { pipe, patience, said: Arc::default(), ready: Vec::new(), taken: 0 }
    }

    /// The same, waiting on as long as this one goes on speaking: it may take the other side long to hear it.
    #[must_use]
    pub fn beside<W>(self, writer: &Writer<W>) -> Self {
        Self { said: writer.said.clone(), ..self }
    }

    /// The next message; `None` if the other side ended between two. An abort is an error. After silence it can be
    /// called again.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        if !self.fill(HEADER).await? {
            return if self.ready.is_empty() { Ok(None) } else { Err(LinkError::Ended) };
        }
        let mut head = [0; HEADER];
        head.copy_from_slice(&self.ready[..HEADER]);
        let (length, kind) = header(head)?;
        let whole = HEADER + length;
        if !self.fill(whole).await? {
            return Err(LinkError::Ended);
        }
        let body = self.ready[HEADER..whole].to_vec();
        self.taken = whole;
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

    /// Whether so many bytes are there now, from the beginning on; reads until they are, or the end.
    async fn fill(&mut self, length: usize) -> Result<bool, LinkError> {
        if self.taken > 0 {
            self.ready.drain(..self.taken);
            self.taken = 0;
        }
        while self.ready.len() < length {
            self.ready.reserve(BLOCK);
            let said = self.said.load(Ordering::Relaxed);
            let read = self.pipe.read_buf(&mut self.ready);
            let read = match self.patience {
                None => read.await?,
                Some(patience) => match tokio::time::timeout(patience, read).await {
                    Ok(read) => read?,
                    Err(_) if self.said.load(Ordering::Relaxed) != said => continue,
                    Err(_) => return Err(LinkError::Silent(patience)),
                },
            };
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The half that speaks.
pub struct Writer<W> {
    pipe: W,
    said: Arc<AtomicU64>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Speaks into a pipe.
    pub fn new(pipe: W) -> Self {
        Self { pipe, said: Arc::default() }
    }

    /// Says it, and waits until it is in the pipe.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn send(&mut self, message: &Message) -> Result<(), LinkError> {
        let (head, data) = message.to_bytes();
        let sent = async {
            self.put(&head).await?;
            self.put(&data).await?;
            self.pipe.flush().await
        };
        match sent.await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(LinkError::Ended),
            sent => Ok(sent?),
        }
    }

    async fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let put = self.pipe.write(bytes).await?;
            if put == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.said.fetch_add(put as u64, Ordering::Relaxed);
            bytes = &bytes[put..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn who_is_still_being_spoken_to_is_not_silent() {
        let (here, mut there) = tokio::io::duplex(8);
        let (listen, speak) = tokio::io::split(here);
        let mut writer = Writer::new(speak);
        let mut reader = Reader::new(listen, Some(10 * STEP)).beside(&writer);
        let slow = async {
            let mut some = [0; 8];
            for _ in 0..20 {
                tokio::time::sleep(STEP).await;
                there.read_exact(&mut some).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let started = tokio::time::Instant::now();
        let speak = async {
            writer.send(&Message::Index(vec![1; 160 - HEADER].into())).await.unwrap();
            std::future::pending::<()>().await;
        };
        let heard = tokio::select! {
            heard = reader.next() => heard,
            () = speak => unreachable!(),
            () = slow => unreachable!(),
        };
        assert!(matches!(heard, Err(LinkError::Silent(_))), "{heard:?}");
        assert!(started.elapsed() > 20 * STEP, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_message_with_silence_in_it_is_whole_afterwards() {
        let (mut here, there) = tokio::io::duplex(1 << 10);
        let mut reader = Reader::new(there, Some(STEP));
        let message = Message::Index(vec![1; 100].into());
        let (head, data) = message.to_bytes();
        here.write_all(&head).await.unwrap();
        here.write_all(&data[..50]).await.unwrap();
        assert!(matches!(reader.next().await, Err(LinkError::Silent(_))));
        here.write_all(&data[50..]).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(message));
    }
}
