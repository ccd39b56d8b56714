//! A seeded, discrete-event network of exchanges: machines with links of their own rate, one origin behind one shared
//! link, and peers that are slow, silent, lying or gone. Nothing in it touches a socket, a clock or a file.
//!
//! After every step the rules are checked from outside ([`checks`]) and the machine's own books from inside
//! (`Exchange::check`). A failure prints its seed; `CASWARM_SIM_SEED` sets it, `CASWARM_SIM_FULL=1` runs the scenarios
//! at the size of a real image.
//!
//! A simulator is trusted for what it catches. Each of these faults was put into the exchange by hand, and caught:
//! - no deadline for late requests reported: every test (no deadline within 100 ms);
//! - a departed peer's chunks not released: the books, where peers vanish or are banned;
//! - a late request never asked elsewhere: the silent peer's 300 ms;
//! - claims that never run out: the claiming machine;
//! - a corrupt answer not blamed: garbage without a ban;
//! - bytes in flight not given back: the books;
//! - announcing what is still being verified: every test (announced what is not held);
//! - an election that is not the same on all nodes, or that everybody wins: a group claimed by another than its owner;
//! - a silent peer still counted as a holder: silent peers, where nothing comes any more;
//! - a request made and the position still missing: every test (the books, asked twice);
//! - a late request repeated at the same peer, a busy peer asked again at once: asked twice, asked while busy;
//! - a suspect node never forgiven: the origin that fails for a while (its copies);
//! - the origin asked for all that fits at once: most tests (its copies);
//! - no bound on what one peer owes: the bytes outstanding at it;
//! - a peer that talks and never answers still counted as a holder: the talking peer (nothing comes any more).
//!
//! These are caught by the unit tests of `proto` beside the code, and here weakly or not at all: going on with a group
//! that a higher score claimed; all who are idle taking the same group; a short last group that is not claimed, or
//! whose claim never ends; an origin that is asked as much while it fails; `Origin` not believed; a late
//! origin not replaced by a neighbour; `Have` that adds and does not replace; one outage counted as many failures;
//! a peer that failed to answer once never asked again.

mod cases;
mod checks;
mod events;
mod file;
mod fleets;
mod liars;
mod links;
mod machine;
mod meetings;
mod misbehaviour;
mod network;
mod pace;
mod part;
mod report;
mod rng;
mod scenario;
mod sessions;
mod threads;
mod who;
