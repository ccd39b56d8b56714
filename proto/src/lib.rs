#![doc = include_str!("../SPEC.md")]
//!
//! # This crate
//!
//! Messages and decisions, without I/O: nothing here opens a socket, reads a clock, draws a random number or
//! spawns a task. Time is an argument ([`Time`]), randomness is a seed, and collections iterate in order, so that the
//! same inputs give the same outputs, in a node as in a simulation of ten thousand.
//!
//! - [`message`] and [`codec`]: what one peer may say to another, and its bytes.
//! - [`holdings`]: which positions of an index somebody holds.
//! - [`election`]: who asks the origin.
//! - [`exchange`]: who is asked for what, and when to ask another.
//! - [`index_race`]: how a node gets the index itself.
//! - [`zone`] and [`neighbours`]: who is near, and with whom a node has sessions.

mod bits;
pub mod codec;
pub mod election;
pub mod exchange;
pub mod holdings;
pub mod id;
pub mod index_race;
pub mod limits;
pub mod message;
pub mod neighbours;
mod sorted;
pub mod zone;

pub use exchange::Exchange;
pub use holdings::Holdings;
pub use id::{ChunkId, IndexId, NodeId};
pub use message::Message;
pub use neighbours::Neighbours;
pub use zone::ZoneId;

/// A moment: the time since any fixed start, the same for all calls on one machine.
pub type Time = std::time::Duration;

/// The ordinal of a chunk in an index, counting each distinct chunk once, at its first occurrence.
pub type Position = u32;

/// The version of the protocol that this crate speaks. Nodes of different versions do not talk.
pub const VERSION: u16 = 3;
