//! casync's remote protocol: what its two sides say, to bytes and back. Pure code; the only file that knows the bytes.
//!
//! A message is its length (with these 16 bytes) and its kind, both 64 bits with the lowest byte first, and its body.

use bytes::Bytes;
use proto::ChunkId;

/// Bytes of length and kind.
pub const HEADER: usize = 16;

/// The longest message, header included.
pub const LONGEST: u64 = 16 << 20;

/// The most data that a chunk may have on the way.
pub const LONGEST_CHUNK: usize = LONGEST as usize - HEADER - 8 - 32;

/// The most ids in one request: some 64 KiB, as casync has them.
pub const IDS: usize = 2000;

const HELLO: u64 = 0x3c71_d094_8ca5_fbee;
const INDEX: u64 = 0xb32a_91dd_2b3e_27f8;
const INDEX_EOF: u64 = 0x4f09_32f1_0437_18f5;
const ARCHIVE: u64 = 0x95d6_428a_69ed_dcc5;
const ARCHIVE_EOF: u64 = 0x450b_ef66_3f24_cbad;
const REQUEST: u64 = 0x8ab4_27e0_f89d_9210;
const CHUNK: u64 = 0x5213_dd18_0a84_bc8c;
const MISSING: u64 = 0xd010_f9fa_c82b_7b6c;
const GOODBYE: u64 = 0xad20_5dbf_1a36_86c3;
const ABORT: u64 = 0xe7d9_136b_7efe_a352;

/// What a side has, or wants of the other, as bits of its hello.
pub mod services {
    /// Gives chunks.
    pub const READABLE_STORE: u64 = 0x1;
    /// Takes chunks.
    pub const WRITABLE_STORE: u64 = 0x2;
    /// Gives an index.
    pub const READABLE_INDEX: u64 = 0x4;
    /// Takes an index.
    pub const WRITABLE_INDEX: u64 = 0x8;
    /// Gives an archive.
    pub const READABLE_ARCHIVE: u64 = 0x10;
    /// Takes an archive.
    pub const WRITABLE_ARCHIVE: u64 = 0x20;
    /// Wants chunks.
    pub const PULL_CHUNKS: u64 = 0x40;
    /// Wants the index.
    pub const PULL_INDEX: u64 = 0x80;
    /// Wants the archive.
    pub const PULL_ARCHIVE: u64 = 0x100;
    /// Wants to give chunks.
    pub const PUSH_CHUNKS: u64 = 0x200;
    /// Wants to give an index.
    pub const PUSH_INDEX: u64 = 0x400;
    /// Wants to be asked for the chunks of that index.
    pub const PUSH_INDEX_CHUNKS: u64 = 0x800;
    /// Wants to give an archive.
    pub const PUSH_ARCHIVE: u64 = 0x1000;

    const KNOWN: u64 = 0x1fff;
    const WANTS: [(u64, u64); 7] = [
        (PULL_CHUNKS, READABLE_STORE),
        (PULL_INDEX, READABLE_INDEX),
        (PULL_ARCHIVE, READABLE_ARCHIVE),
        (PUSH_CHUNKS, WRITABLE_STORE),
        (PUSH_INDEX, WRITABLE_INDEX),
        (PUSH_INDEX_CHUNKS, WRITABLE_STORE | WRITABLE_INDEX),
        (PUSH_ARCHIVE, WRITABLE_ARCHIVE),
    ];

    /// Whether a hello has a bit that nobody knows.
    pub fn unknown(hello: u64) -> bool {
        hello & !KNOWN != 0 || hello == 0
    }

    /// Whether everything that one side wants is what the other has, and it wants anything.
    pub fn agree(wants: u64, has: u64) -> bool {
        let mut wanted = WANTS.iter().filter(|(want, _)| wants & want != 0).peekable();
        wanted.peek().is_some() && wanted.all(|(_, need)| has & need == *need)
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Both sides' first.
    Hello(u64),
    /// The next bytes of the index file.
    Index(Bytes),
    /// It is complete.
    IndexEof,
    /// The next bytes of the archive.
    Archive(Bytes),
    /// It is complete.
    ArchiveEof,
    /// Asks for chunks.
    Request {
        /// Before those that are not.
        high: bool,
        /// Which.
        ids: Vec<ChunkId>,
    },
    /// A chunk.
    Chunk {
        /// Whether `data` is compressed, by whatever its first bytes say.
        compressed: bool,
        /// Which, as the sender says.
        id: ChunkId,
        /// Unverified.
        data: Bytes,
    },
    /// There is no such chunk.
    Missing(ChunkId),
    /// The end, as agreed.
    Goodbye,
    /// The end, because of an error.
    Abort {
        /// An errno, or 0.
        errno: u64,
        /// For people.
        reason: String,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A length that no message has: mostly words for people where the protocol should be.
    #[error("what comes is not casync's protocol; does the other side's shell print something?")]
    NoProtocol,
    /// A kind that nobody knows.
    #[error("a message of the unknown kind {0:#x}")]
    Unknown(u64),
    /// A body that this kind cannot have.
    #[error("a damaged message: {0}")]
    Body(&'static str),
}

/// The length of the body and the kind of a message, from its header.
///
/// # Errors
/// A length out of bounds.
pub fn header(bytes: [u8; HEADER]) -> Result<(usize, u64), MessageError> {
    let (length, kind) = (word(&bytes), word(&bytes[8..]));
    if !(HEADER as u64..=LONGEST).contains(&length) {
        return Err(MessageError::NoProtocol);
    }
    let kinds = [HELLO, INDEX, INDEX_EOF, ARCHIVE, ARCHIVE_EOF, REQUEST, CHUNK, MISSING, GOODBYE, ABORT];
    if !kinds.contains(&kind) {
        return Err(MessageError::Unknown(kind));
    }
    Ok((length as usize - HEADER, kind))
}

impl Message {
    /// Reads a body of this kind.
    ///
    /// # Errors
    /// A body that the kind cannot have.
    pub fn parse(kind: u64, body: Bytes) -> Result<Self, MessageError> {
        let length = |right: bool, reason| if right { Ok(()) } else { Err(MessageError::Body(reason)) };
        let empty = || length(body.is_empty(), "a body where there is none");
        Ok(match kind {
            HELLO => {
                length(body.len() == 8, "a hello is one word")?;
                Self::Hello(word(&body))
            }
            INDEX | ARCHIVE => {
                length(!body.is_empty(), "no bytes of a file")?;
                if kind == INDEX { Self::Index(body) } else { Self::Archive(body) }
            }
            INDEX_EOF => empty().map(|()| Self::IndexEof)?,
            ARCHIVE_EOF => empty().map(|()| Self::ArchiveEof)?,
            GOODBYE => empty().map(|()| Self::Goodbye)?,
            REQUEST => {
                length(body.len() >= 40 && (body.len() - 8).is_multiple_of(32), "a request is of whole ids")?;
                length(word(&body) <= 1, "an unknown flag of a request")?;
                let ids = body[8..].chunks_exact(32).map(id).collect();
                Self::Request { high: word(&body) == 1, ids }
            }
            CHUNK => {
                length(body.len() > 40, "a chunk without data")?;
                length(word(&body) <= 1, "an unknown flag of a chunk")?;
                Self::Chunk { compressed: word(&body) == 1, id: id(&body[8..40]), data: body.slice(40..) }
            }
            MISSING => {
                length(body.len() == 32, "a missing chunk is one id")?;
                Self::Missing(id(&body))
            }
            ABORT => {
                length(body.len() > 8 && body.last() == Some(&0), "an abort ends with a text")?;
                let text = &body[8..body.len() - 1];
                // It is shown to people, whose terminal obeys control characters.
                let text: String = String::from_utf8_lossy(&text[..text.len().min(500)]).into_owned();
                let reason = text.chars().filter(|letter| !letter.is_control()).collect();
                Self::Abort { errno: word(&body), reason }
            }
            _ => return Err(MessageError::Unknown(kind)),
        })
    }

    /// The bytes up to a file's or chunk's data, and the data.
    pub fn to_bytes(&self) -> (Vec<u8>, Bytes) {
        let (kind, head, data) = match self {
            Self::Hello(services) => (HELLO, services.to_le_bytes().to_vec(), Bytes::new()),
            Self::Index(data) => (INDEX, Vec::new(), data.clone()),
            Self::IndexEof => (INDEX_EOF, Vec::new(), Bytes::new()),
            Self::Archive(data) => (ARCHIVE, Vec::new(), data.clone()),
            Self::ArchiveEof => (ARCHIVE_EOF, Vec::new(), Bytes::new()),
            Self::Request { high, ids } => {
                let mut body = u64::from(*high).to_le_bytes().to_vec();
                ids.iter().for_each(|id| body.extend_from_slice(&id.0));
                (REQUEST, body, Bytes::new())
            }
            Self::Chunk { compressed, id, data } => {
                let mut body = u64::from(*compressed).to_le_bytes().to_vec();
                body.extend_from_slice(&id.0);
                (CHUNK, body, data.clone())
            }
            Self::Missing(id) => (MISSING, id.0.to_vec(), Bytes::new()),
            Self::Goodbye => (GOODBYE, Vec::new(), Bytes::new()),
            Self::Abort { errno, reason } => {
                let mut body = errno.to_le_bytes().to_vec();
                body.extend_from_slice(reason.as_bytes());
                body.push(0);
                (ABORT, body, Bytes::new())
            }
        };
        let length = (HEADER + head.len() + data.len()) as u64;
        let mut bytes = Vec::with_capacity(HEADER + head.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&head);
        (bytes, data)
    }
}

/// The first eight bytes; callers have looked that there are so many.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(word)
}

fn id(bytes: &[u8]) -> ChunkId {
    let mut id = [0; 32];
    id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    ChunkId(id)
}

#[cfg(test)]
mod tests {
    use super::services::*;
    use super::*;

    fn read(bytes: &[u8]) -> Result<Message, MessageError> {
        let (length, kind) = header(bytes[..HEADER].try_into().unwrap())?;
        assert_eq!(length, bytes.len() - HEADER);
        Message::parse(kind, Bytes::copy_from_slice(&bytes[HEADER..]))
    }

    fn all() -> Vec<Message> {
        let id = ChunkId([7; 32]);
        let data = Bytes::from_static(b"data");
        vec![
            Message::Hello(PULL_CHUNKS | PULL_INDEX),
            Message::Index(data.clone()),
            Message::IndexEof,
            Message::Archive(data.clone()),
            Message::ArchiveEof,
            Message::Request { high: true, ids: vec![id, ChunkId([8; 32])] },
            Message::Chunk { compressed: true, id, data },
            Message::Missing(id),
            Message::Goodbye,
            Message::Abort { errno: 2, reason: "not here".to_owned() },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for message in all() {
            let (head, data) = message.to_bytes();
            assert_eq!(read(&[&head[..], &data[..]].concat()), Ok(message));
        }
    }

    #[test]
    fn bytes_that_are_cut_or_damaged_are_errors_or_messages_but_no_panic() {
        for message in all() {
            let (head, data) = message.to_bytes();
            let bytes = [&head[..], &data[..]].concat();
            for length in HEADER..bytes.len() {
                let mut cut = bytes[..length].to_vec();
                cut[..8].copy_from_slice(&(length as u64).to_le_bytes());
                let _ = read(&cut);
            }
            for bit in 64..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = read(&flipped);
            }
        }
        assert_eq!(header(*b"Welcome to this "), Err(MessageError::NoProtocol));
        assert_eq!(header([0; HEADER]), Err(MessageError::NoProtocol));
        let control = Message::Abort { errno: 0, reason: "\x1b[2Jgone".to_owned() }.to_bytes().0;
        assert_eq!(read(&control), Ok(Message::Abort { errno: 0, reason: "[2Jgone".to_owned() }));
    }

    #[test]
    fn sides_agree_if_what_one_wants_is_what_the_other_has() {
        assert!(agree(PULL_CHUNKS | PULL_INDEX, READABLE_STORE | READABLE_INDEX));
        assert!(!agree(PULL_CHUNKS | PULL_INDEX, READABLE_STORE));
        assert!(!agree(READABLE_STORE, READABLE_STORE));
        assert!(!agree(PUSH_INDEX_CHUNKS, WRITABLE_INDEX));
        assert!(unknown(0) && unknown(0x2000) && !unknown(0x1fff));
    }
}
