//! What tests share: what a test needs of the machine, data to work on, the program as a process.
#![allow(dead_code, unused_imports, reason = "a helper may be there before the test that uses it")]

pub mod data;
pub mod disk;
pub mod lan;
pub mod need;
pub mod nginx;
pub mod process;
pub mod published;
pub mod session;
pub mod sshd;
pub mod wire;

pub use need::{Need, require};
pub use process::{Process, Ran, caswarm, run};
