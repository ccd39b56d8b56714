//! A running peer. (to come)

pub mod address;
pub mod dht;
pub mod discovery;
pub mod fetch;
pub mod frame;
pub mod identity;
pub mod known_peers;
pub mod outbox;
pub mod session;
pub mod tls;
