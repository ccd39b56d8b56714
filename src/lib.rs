//! caswarm: a LAN peer-to-peer network for casync images. This page is the architecture.
//!
//! # Bird's eye
//!
//! [`make`](mod@make) cuts an image into casync's chunks. [`extract`] builds it again: an index names the chunks; what the target,
//! seeds and local stores do not have is asked of a [`node`]. The node talks to its neighbours on the LAN and to the
//! origin's stores, but whom it asks for what is decided by the machines of [`proto`], which do no I/O. Arrivals are
//! verified on the extraction's worker threads, written into the target, and from then on served to neighbours from
//! there. [`daemon`] is a node that stays, with a control socket.
//!
//! # Code map
//!
//! - [`proto`] (its own crate): messages and their bytes, holdings, the election of who asks the origin, the exchange
//!   that says whom to ask for which position, the race for the index. `proto/SPEC.md` is normative.
//! - [`format`](mod@format): casync on disk, pure code: [`format::index`] and the [`format::layout`] of its distinct chunks,
//!   [`format::chunker`], [`format::digest`], [`format::compression`], [`format::chunk_sizes`], [`format::features`],
//!   [`format::archive`] (`.catar`).
//! - [`chunk`]: bytes as found, and bytes that were verified.
//! - [`source`]: what yields chunks: [`source::local_store`] (`.castr`), [`source::seed`] (chunks inside local files),
//!   [`source::http_store`] over [`source::http`], [`source::ssh_store`] over [`remote`] and [`source::sftp_store`] over
//!   [`remote::sftp`], each a [`source::remote_store`], several of them as [`source::origin_stores`];
//!   [`source::location`] says where something is, as typed.
//! - [`remote`]: casync's protocol over ssh, both sides of it; SFTP, the asking side.
//! - [`tree`]: trees of files: [`tree::walk`] reads one, [`tree::archiver`] serialises it, [`tree::unpack`] writes one.
//! - [`make`](mod@make): a file, device or tree becomes an index and chunks in a store, or a tree its archive; pipeline, input,
//!   output and the sizes of file systems on devices are its parts.
//! - [`gc`] removes from a store what no index needs, [`mod@verify`] finds chunks in it that are damaged.
//! - [`browse`]: looks into archives, indexes of archives and directories: `list`, `mtree`, `stat`, `digest`.
//! - [`extract`]: [`extract::index_file`] gets the index, [`extract::target`] is the file or device,
//!   [`extract::assembly`] its content so far, [`extract::plan`] says what comes from where,
//!   [`extract::local`] works through target, seeds and stores, [`extract::workers`] check and write,
//!   [`extract::holes`] leaves zeros out, [`extract::progress`] counts, [`extract::report`] tells.
//!   [`extract::network`] is the seam to whatever fetches the rest. [`extract::tree`] makes a tree of an archive, or of
//!   the index of one; [`extract::stdout`] takes an image in order.
//! - [`node`]: [`node::hub`] is the event loop that owns everything; [`node::discovery`] (mDNS), [`node::dht`] (libp2p's
//!   Kademlia) and [`node::known_peers`] produce addresses; [`node::session`], [`node::tls`], [`node::frame`] and
//!   [`node::outbox`] talk to one neighbour; [`node::holder`] is what can be served, `node::tree_holder` a tree on
//!   disk among it; [`node::identity`] is the key;
//!   [`node::fetch`] hands chunks over, and [`node::lan`] puts a node behind the extraction's seam.
//! - [`daemon`]: a node that stays; [`daemon::control`] answers `caswarm status` and takes finished images.
//! - [`cli`]: the command line, one subcommand a file, and `demo`, which runs the program as its users do. [`exit`] holds
//!   the exit codes, [`state_dir`] the place of everything that a node keeps.
//!
//! # Who may use whom
//!
//! `proto ← format ← chunk ← source, tree ← make, extract, browse ← node ← daemon ← cli`. Of `extract`, `tree` uses
//! [`extract::holes`], and `browse` the opening of indexes and stores; [`extract::tree`] reads archives by `browse`. `node` implements the trait that `extract`
//! declares in [`extract::network`]; `extract` uses of `node` only the words of that conversation, [`node::fetch`].
//! [`node::lan`] looks for a running daemon's socket, which is the one step back.
//!
//! # Invariants
//!
//! **Invariant:** bytes from outside are [`chunk::Encoded`] until [`chunk::verify`] or its like for batches returned a
//! [`chunk::Chunk`], which has no other constructor. These are the only places that decompress chunks, and never past
//! the length that the index gives.
//!
//! **Invariant:** absence is a value, `Ok(None)`; failure is an error; neither hides the next source, and a corrupt answer
//! is blamed on who gave it.
//!
//! **Invariant:** the node does not decide. If a branch of the event loop needs a policy, the policy belongs in [`proto`].
//!
//! **Invariant:** there is no clock, no randomness and no hash map in [`proto`]: same inputs, same outputs.
//!
//! **Invariant:** whatever a neighbour can make grow has a bound: messages, requests, sessions, queued bytes, known
//! peers, records of the DHT.
//!
//! **Invariant:** a chunk in a store and an image that is a regular file appear under their names only whole, also
//! across `kill -9`; `--in-place` and devices are the exceptions, and there the next run finds again what is right.
//!
//! **Invariant:** below its top, a tree is walked and written one name at a time in directories that are open, and no
//! symbolic link is followed.
//!
//! **Invariant:** nothing that a neighbour, an origin, an index or an archive says can panic the program or be written outside the
//! target. There is no journal and no index of what was done: what the disk holds is found out by hashing it.

pub mod background;
pub mod blocks;
pub mod browse;
pub mod chunk;
pub mod cli;
pub mod daemon;
pub mod exit;
pub mod extract;
pub mod format;
pub mod gc;
pub mod make;
pub mod node;
pub mod remote;
pub mod source;
pub mod state_dir;
mod temporary;
pub mod tree;
pub mod verify;
