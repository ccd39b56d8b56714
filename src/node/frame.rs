//! Frames off a byte stream: a message, then its payload, each bounded before memory is given to it.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use proto::Message;
use proto::codec::{self, DecodeError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Payload memory is given ahead of the bytes up to this much, and beyond it only as the bytes arrive.
const AHEAD: usize = 256 << 10;

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// What arrived is no frame.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The stream ended, or was cut, inside a frame.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads frames. [`FrameReader::next`] can be dropped at any await and called again.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    head: BytesMut,
    state: State,
}

#[derive(Debug)]
enum State {
    Prefix,
    Body { length: usize },
    Payload { message: Message, payload: BytesMut, length: usize },
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, head: BytesMut::with_capacity(512), state: State::Prefix }
    }

    /// The next message of at most `limit` bytes and its payload, which is empty where the message has none; `None`
    /// after the other side ended the stream between two frames.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Option<(Message, Bytes)>, FrameError> {
        loop {
            match &mut self.state {
                State::Prefix => {
                    if !fill(&mut self.stream, &mut self.head, 4).await? {
                        return if self.head.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
                    }
                    let mut prefix = [0; 4];
                    prefix.copy_from_slice(&self.head[..4]);
                    let length = codec::message_length(prefix)?;
                    if length > limit {
                        return Err(DecodeError::TooLarge(length).into());
                    }
                    self.head.clear();
                    self.state = State::Body { length };
                }
                State::Body { length } => {
                    if !fill(&mut self.stream, &mut self.head, *length).await? {
                        return Err(FrameError::Truncated);
                    }
                    let message = codec::decode(&self.head)?;
                    self.head.clear();
                    let length = message.payload();
                    if length == 0 {
                        self.state = State::Prefix;
                        return Ok(Some((message, Bytes::new())));
                    }
                    let payload = BytesMut::with_capacity(length.min(AHEAD));
                    self.state = State::Payload { message, payload, length };
                }
                State::Payload { payload, length, .. } => {
                    if !fill(&mut self.stream, payload, *length).await? {
                        return Err(FrameError::Truncated);
                    }
                    if let State::Payload { message, payload, .. } = std::mem::replace(&mut self.state, State::Prefix) {
                        return Ok(Some((message, payload.freeze())));
                    }
                }
            }
        }
    }
}

/// Reads until `buffer` holds `length` bytes; false when the stream ends before.
async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, length: usize) -> io::Result<bool> {
    while buffer.len() < length {
        if buffer.len() == buffer.capacity() {
            buffer.reserve((length - buffer.len()).min(buffer.len().max(AHEAD)));
        }
        let missing = length - buffer.len();
        match stream.read_buf(&mut (&mut *buffer).limit(missing)).await {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            // TLS calls it this when the other side's system closed the connection for it.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proto::limits::MESSAGE_BYTES;
    use proto::message::Encoding;
    use proto::{ChunkId, IndexId};

    use super::*;

    fn chunk(length: u32) -> Message {
        Message::ChunkById { chunk: ChunkId([7; 32]), encoding: Encoding::Plain, length }
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let big = vec![3; 700_000];
        let mut bytes = codec::encode(&Message::Ping { nonce: 1 }).unwrap();
        bytes.extend(codec::encode(&chunk(700_000)).unwrap());
        bytes.extend(&big);
        bytes.extend(codec::encode(&Message::Leave { index: IndexId([9; 32]) }).unwrap());
        for piece in [1000, 7, 65_536] {
            let (mut tx, rx) = tokio::io::duplex(piece);
            let bytes = bytes.clone();
            tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut tx, &bytes).await });
            let mut reader = FrameReader::new(rx);
            assert_eq!(reader.next(MESSAGE_BYTES).await.unwrap().unwrap().0, Message::Ping { nonce: 1 });
            let (message, payload) = reader.next(MESSAGE_BYTES).await.unwrap().unwrap();
            assert_eq!(message, chunk(700_000));
            assert_eq!(payload, big);
            assert!(matches!(reader.next(MESSAGE_BYTES).await.unwrap(), Some((Message::Leave { .. }, _))));
            assert!(reader.next(MESSAGE_BYTES).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_reader_dropped_in_the_middle_of_a_frame_loses_nothing() {
        let (mut tx, rx) = tokio::io::duplex(64);
        let mut bytes = codec::encode(&chunk(500)).unwrap();
        bytes.extend([5; 500]);
        let mut reader = FrameReader::new(rx);
        for byte in &bytes[..bytes.len() - 1] {
            tokio::io::AsyncWriteExt::write_all(&mut tx, &[*byte]).await.unwrap();
            assert!(futures::FutureExt::now_or_never(reader.next(MESSAGE_BYTES)).is_none());
        }
        tokio::io::AsyncWriteExt::write_all(&mut tx, &bytes[bytes.len() - 1..]).await.unwrap();
        assert_eq!(reader.next(MESSAGE_BYTES).await.unwrap().unwrap().1, vec![5; 500]);
    }

    #[tokio::test]
    async fn every_truncation_is_noticed() {
        let mut bytes = codec::encode(&chunk(20)).unwrap();
        bytes.extend([5; 20]);
        for end in 1..bytes.len() {
            let result = FrameReader::new(&bytes[..end]).next(MESSAGE_BYTES).await;
            assert!(matches!(result, Err(FrameError::Truncated)), "{end}: {result:?}");
        }
    }

    #[tokio::test]
    async fn oversized_frames_are_refused_before_memory_is_given_to_them() {
        let prefix = u32::MAX.to_le_bytes();
        let result = FrameReader::new(&prefix[..]).next(MESSAGE_BYTES).await;
        assert!(matches!(result, Err(FrameError::Malformed(DecodeError::TooLarge(_)))), "{result:?}");
        let ping = codec::encode(&Message::Ping { nonce: 1 }).unwrap();
        assert!(FrameReader::new(&ping[..]).next(ping.len() - 4).await.is_ok());
        assert!(FrameReader::new(&ping[..]).next(ping.len() - 5).await.is_err());
    }
}
