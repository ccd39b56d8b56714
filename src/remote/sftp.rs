//! Files on a machine that has no casync: SFTP by the system's `ssh -s HOST sftp`. It knows nothing of chunks.
//!
//! The crate that speaks the protocol believes whatever length the other side says; the stream it is given here does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::Child;
use tokio::sync::{Semaphore, watch};

use super::Place;
use crate::source::{SourceError, compressed_suffix, random};

/// How much is read, and written, with one request: what every server takes.
const READ: u32 = 255 << 10;
const WRITE: usize = 32 << 10;

/// The longest packet: what was asked for, and some more.
const PACKET: u32 = 300 << 10;

/// The kinds of packets that a server sends: version, status, handle, data, name, attributes, extended reply.
const ANSWERS: [u8; 7] = [2, 101, 102, 103, 104, 105, 201];

/// What is younger need not be renewed, in seconds.
const RENEWED: u32 = 60;

/// How many files are open at once.
const OPEN: usize = 16;

/// How long an answer may take; the first one includes connecting.
const CONNECTING: u64 = 90;
const ANSWER: u64 = 60;

/// A connection. Dropping it ends the other side.
pub struct Sftp {
    session: RawSftpSession,
    name: String,
    files: Semaphore,
    /// Tells when the stream is given up: the crate lets whoever waits for an answer wait on.
    alive: watch::Receiver<()>,
    _child: Child,
}

impl Sftp {
    /// Connects to the host of a place.
    ///
    /// # Errors
    /// When there is no way to it, or it speaks no SFTP.
    pub async fn connect(place: &Place) -> Result<Self, SourceError> {
        let name = format!("sftp://{}", place.host);
        let mut command = place.ssh();
        command.arg("-s").arg(&place.host).arg("sftp");
        let (child, stdin, stdout) = super::start(command, &name)?;
        let (held, alive) = watch::channel(());
        let session = RawSftpSession::new(tokio::io::join(Bounded::new(stdout, held), stdin));
        session.set_timeout(CONNECTING);
        let sftp = Self { session, name, files: Semaphore::new(OPEN), alive, _child: child };
        sftp.answer(sftp.session.init()).await.map_err(|error| sftp.failed("", &error))?;
        sftp.session.set_timeout(ANSWER);
        Ok(sftp)
    }

    /// Whether the connection is over, as far as is known.
    pub fn is_over(error: &SourceError) -> bool {
        matches!(error, SourceError::Unavailable { .. })
    }

    /// What comes of a request, or that nothing will.
    async fn answer<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut alive = self.alive.clone();
        tokio::select! {
            biased;
            answer = request => answer,
            _ = alive.changed() => Err(Error::UnexpectedBehavior("it ended".to_owned())),
        }
    }

    /// Gets a whole file of at most `limit` bytes; `None` if there is none.
    ///
    /// # Errors
    /// `Refused` when it may not be read or is longer, `Unavailable` when the connection fails.
    pub async fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, SourceError> {
        let _one = self.files.acquire().await;
        let opened = self.answer(self.session.open(path, OpenFlags::READ, FileAttributes::empty())).await;
        let handle = match opened {
            Ok(handle) => handle.handle,
            Err(error) if is(&error, StatusCode::NoSuchFile) => return Ok(None),
            Err(error) => return Err(self.failed(path, &error)),
        };
        let mut file = BytesMut::new();
        let read = loop {
            match self.answer(self.session.read(&handle, file.len() as u64, READ)).await {
                Ok(data) if data.data.is_empty() => break Ok(()),
                Ok(data) if (file.len() + data.data.len()) as u64 > limit => {
                    break Err(SourceError::refused(
                        self.place(path),
                        format!("longer than {limit} bytes, more than this file can have"),
                    ));
                }
                Ok(data) => file.extend_from_slice(&data.data),
                Err(error) if is(&error, StatusCode::Eof) => break Ok(()),
                Err(error) => break Err(self.failed(path, &error)),
            }
        };
        let _ = self.answer(self.session.close(&handle)).await;
        read.map(|()| Some(file.freeze()))
    }

    /// Whether there is a file that is not empty; if so it is from now on as young as one just written, so that who
    /// removes what is old lets it stay. One that belongs to somebody else may keep its age.
    ///
    /// # Errors
    /// When the other side will not say.
    pub async fn renew(&self, path: &str) -> Result<bool, SourceError> {
        let found = match self.answer(self.session.stat(path)).await {
            Ok(found) => found.attrs,
            Err(error) if is(&error, StatusCode::NoSuchFile) => return Ok(false),
            Err(error) => return Err(self.failed(path, &error)),
        };
        if found.size == Some(0) {
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // The protocol's time, which is of 32 bits, ends in 2106.
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        if found.mtime.is_none_or(|written| now.saturating_sub(written) > RENEWED) {
            let young = FileAttributes { atime: Some(now), mtime: Some(now), ..FileAttributes::empty() };
            let _ = self.answer(self.session.setstat(path, young)).await;
        }
        Ok(true)
    }

    /// Removes a file. Returns whether it was there.
    ///
    /// # Errors
    /// When it stays.
    pub async fn remove(&self, path: &str) -> Result<bool, SourceError> {
        match self.answer(self.session.remove(path)).await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, StatusCode::NoSuchFile) => Ok(false),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    /// Makes a directory, unless it is there.
    ///
    /// # Errors
    /// When it is not there afterwards.
    pub async fn make_directory(&self, path: &str) -> Result<(), SourceError> {
        match self.answer(self.session.mkdir(path, FileAttributes::empty())).await {
            Ok(_) => Ok(()),
            // Servers have no word of their own for what is there already.
            Err(error) => match self.answer(self.session.stat(path)).await {
                Ok(found) if found.attrs.is_dir() => Ok(()),
                _ => Err(self.failed(path, &error)),
            },
        }
    }

    /// Writes a file whole or not at all, in the place of one that is there.
    ///
    /// # Errors
    /// When it cannot be written; nothing has its name then that had not before.
    pub async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), SourceError> {
        let _one = self.files.acquire().await;
        let temporary = temporary_name(path);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let opened = self.answer(self.session.open(&temporary, flags, FileAttributes::empty())).await;
        let handle = opened.map_err(|error| self.failed(&temporary, &error))?.handle;
        let written = async {
            for (number, part) in bytes.chunks(WRITE).enumerate() {
                self.answer(self.session.write(&handle, (number * WRITE) as u64, part.to_vec())).await?;
            }
            Ok(())
        };
        let written: Result<(), Error> = written.await;
        let closed = self.answer(self.session.close(&handle)).await.map(|_| ());
        let named = match written.and(closed) {
            Ok(()) => self.rename(&temporary, path).await,
            Err(error) => Err(error),
        };
        if let Err(error) = named {
            let _ = self.answer(self.session.remove(&temporary)).await;
            return Err(self.failed(path, &error));
        }
        Ok(())
    }

    /// In the place of whatever is there, where the server can do that at once.
    async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut names = Vec::new();
        for name in [from, to] {
            names.extend_from_slice(&(name.len() as u32).to_be_bytes());
            names.extend_from_slice(name.as_bytes());
        }
        use russh_sftp::protocol::Packet;
        match self.answer(self.session.extended("posix-rename@openssh.com", names)).await {
            Ok(Packet::Status(status)) if status.status_code == StatusCode::Ok => return Ok(()),
            Ok(Packet::Status(status)) if status.status_code != StatusCode::OpUnsupported => return Err(status.into()),
            _ => {}
        }
        if self.answer(self.session.rename(from, to)).await.is_ok() {
            return Ok(());
        }
        let _ = self.answer(self.session.remove(to)).await;
        self.answer(self.session.rename(from, to)).await.map(|_| ())
    }

    fn place(&self, path: &str) -> String {
        format!("{}{path}", self.name)
    }

    fn failed(&self, path: &str, error: &Error) -> SourceError {
        match error {
            Error::Status(status) => {
                let said: String =
                    status.error_message.chars().filter(|letter| !letter.is_control()).take(200).collect();
                SourceError::refused(self.place(path), format!("the server says {}: {said}", status.status_code))
            }
            Error::Timeout => SourceError::unavailable(self.place(path), "no answer in time"),
            error => {
                let reason = format!("the connection failed: {error}; what ssh said stands above");
                SourceError::unavailable(self.place(path), reason)
            }
        }
    }
}

/// A stream of packets, each with its length before it, none longer than [`PACKET`]. It ends at the first that is not.
struct Bounded<R> {
    stream: R,
    /// What is known of the next packet's length, and of its kind.
    head: [u8; 5],
    known: usize,
    /// What is still to come of this one.
    left: usize,
    /// Something was wrong: nothing after it is what it seems.
    bad: bool,
    _held: watch::Sender<()>,
}

impl<R> Bounded<R> {
    /// `held` is dropped with it.
    fn new(stream: R, held: watch::Sender<()>) -> Self {
        Self { stream, head: [0; 5], known: 0, left: 0, bad: false, _held: held }
    }

    /// Follows what came. Whether all lengths in it are what they may be.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first().filter(|_| !self.bad) {
            if self.left > 0 {
                let now = self.left.min(bytes.len());
                self.left -= now;
                bytes = &bytes[now..];
                continue;
            }
            let [_, a, b, c, d] = self.head;
            self.head = [a, b, c, d, *first];
            self.known += 1;
            bytes = rest;
            if self.known == self.head.len() {
                let length = u32::from_be_bytes([a, b, c, d]);
                self.known = 0;
                self.bad = !(1..=PACKET).contains(&length) || !ANSWERS.contains(first);
                // Its kind was the first of it.
                self.left = (length as usize).saturating_sub(1);
            }
        }
        !self.bad
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bad {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        // An error it would complain about for ever; at the end of the stream it gives up.
        if !self.follow(&buffer.filled()[before..]) {
            tracing::debug!("what comes is not SFTP");
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

/// As casync names it, so that a gc there knows it for what it is: a chunk's has no suffix before the number.
fn temporary_name(path: &str) -> String {
    let suffix = compressed_suffix();
    format!("{}.{:016x}.tmp", path.strip_suffix(suffix.as_str()).unwrap_or(path), random())
}

fn is(error: &Error, code: StatusCode) -> bool {
    matches!(error, Error::Status(status) if status.status_code == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::chunk_path;
    use crate::source::local_store::{FileKind, LocalStore};

    #[test]
    fn a_chunk_that_was_left_half_written_is_a_leftover_to_a_gc_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open_or_create(dir.path()).unwrap();
        for suffix in [compressed_suffix(), String::new()] {
            let name = temporary_name(&chunk_path(&proto::ChunkId([0xab; 32]), &suffix));
            let path = dir.path().join(&name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "half").unwrap();
            let files = store.files("abab").unwrap();
            assert!(files.iter().any(|file| name.ends_with(&file.name)), "{name}");
            assert!(files.iter().all(|file| file.kind == FileKind::Temporary));
        }
    }

    #[test]
    fn a_length_that_no_packet_has_is_found_wherever_it_is_cut() {
        let packets = |last: u32, kind: u8| {
            let mut bytes = Vec::new();
            for length in [1, 5, 3] {
                bytes.extend_from_slice(&u32::to_be_bytes(length));
                bytes.push(ANSWERS[length as usize]);
                bytes.extend(vec![0xff; length as usize - 1]);
            }
            bytes.extend_from_slice(&last.to_be_bytes());
            bytes.push(kind);
            bytes
        };
        for (last, kind, right) in
            [(PACKET, 101, true), (PACKET + 1, 101, false), (u32::MAX, 2, false), (0, 2, false), (9, 3, false)]
        {
            let bytes = packets(last, kind);
            for cut in 0..bytes.len() {
                let mut bounded = Bounded::new((), watch::channel(()).0);
                assert_eq!(bounded.follow(&bytes[..cut]) & bounded.follow(&bytes[cut..]), right, "{last} at {cut}");
                assert_eq!(bounded.follow(b"more"), right);
            }
        }
    }
}
