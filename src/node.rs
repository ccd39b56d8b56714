//! A running peer. (to come)

pub mod fetch;
