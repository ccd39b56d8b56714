//! Messages to bytes and back: the only file that knows the bytes.
//!
//! A frame is the length of the encoded message (u32, little endian), the message in bincode's variable-length integers,
//! then its payload. Reading is split in two so that the shell can read exactly: [`message_length`] checks the prefix,
//! [`decode`] the body.

use bincode::Options;

use crate::limits::{self, CLAIM_GROUPS, MESSAGE_BYTES, OTHERS, PAYLOAD_BYTES, PEERS, TEXT_BYTES, WANT_POSITIONS};
use crate::message::{Hello, Message};

/// Why bytes are not a message. The session that carried them has to be closed: frames cannot be found again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The prefix announces a longer message than is allowed.
    #[error("message of {0} bytes, {MESSAGE_BYTES} are allowed")]
    TooLarge(usize),
    /// A field is over its own limit.
    #[error("{0} over its limit")]
    FieldTooLarge(&'static str),
    /// The bytes are no message of this version.
    #[error("not a message: {0}")]
    Malformed(String),
}

/// Bytes that most frames fit in.
const FRAME: usize = 128;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().with_limit(MESSAGE_BYTES as u64)
}

/// The frame of `message` up to its payload: prefix and body.
///
/// # Errors
/// When the message is over a limit of [`crate::limits`]; senders split before they get here.
pub fn encode(message: &Message) -> Result<Vec<u8>, DecodeError> {
    check(message)?;
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend([0; 4]);
    options().serialize_into(&mut frame, message).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The number of body bytes that follow the 4-byte prefix.
///
/// # Errors
/// When the prefix announces more than [`MESSAGE_BYTES`].
pub fn message_length(prefix: [u8; 4]) -> Result<usize, DecodeError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MESSAGE_BYTES { Err(DecodeError::TooLarge(length)) } else { Ok(length) }
}

/// Reads the body of one message; every byte must belong to it.
///
/// # Errors
/// When the bytes are not exactly one message within the limits.
pub fn decode(body: &[u8]) -> Result<Message, DecodeError> {
    if body.len() > MESSAGE_BYTES {
        return Err(DecodeError::TooLarge(body.len()));
    }
    let message = options().deserialize(body).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    check(&message)?;
    Ok(message)
}

fn check(message: &Message) -> Result<(), DecodeError> {
    let within = |what: &'static str, size: usize, limit: usize| {
        if size > limit { Err(DecodeError::FieldTooLarge(what)) } else { Ok(()) }
    };
    within("payload", message.payload(), PAYLOAD_BYTES)?;
    match message {
        Message::Hello(Hello { network, zone, agent, .. }) => {
            within("network", network.len(), TEXT_BYTES)?;
            within("zone", zone.len(), TEXT_BYTES)?;
            within("agent", agent.len(), TEXT_BYTES)
        }
        Message::Want { positions, .. } | Message::Cancel { positions, .. } | Message::Absent { positions, .. } => {
            within("positions", positions.len(), WANT_POSITIONS)
        }
        Message::Claim { groups, .. } => within("groups", groups.len(), CLAIM_GROUPS),
        Message::HaveMore { started, .. } => within("started groups", started.len(), CLAIM_GROUPS),
        Message::Others { zones, joined, left, .. } => {
            within("zones", zones.len(), OTHERS)?;
            within("nodes", joined.len() + left.len(), OTHERS)
        }
        Message::Peers { peers } => within("peers", peers.len(), PEERS),
        Message::IndexPart { total, offset, length, .. } => {
            within("index", usize::try_from(*total).unwrap_or(usize::MAX), limits::INDEX_BYTES as usize)?;
            within("index part", *length as usize, limits::INDEX_PART_BYTES)?;
            let end = offset.checked_add(u64::from(*length));
            within("index part's end", usize::from(end.is_none_or(|end| end > *total)), 0)
        }
        Message::Bye { reason } => within("reason", reason.len(), TEXT_BYTES),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
