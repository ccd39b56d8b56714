//! A running peer. (to come)

pub mod fetch;
pub mod frame;
pub mod identity;
pub mod outbox;
pub mod session;
pub mod tls;
