//! caswarm: a LAN peer-to-peer network for casync images. (The architecture is described here.)

pub mod chunk;
pub mod cli;
pub mod daemon;
pub mod exit;
pub mod extract;
pub mod format;
pub mod make;
pub mod node;
pub mod source;
pub mod state_dir;
