//! A seeded, discrete-event network of exchanges: machines with links of their own rate, one origin behind one shared
//! link, and peers that are slow, silent, lying or gone. Nothing in it touches a socket, a clock or a file.
//!
//! After every step the rules are checked from outside ([`checks`]) and the machine's own books from inside
//! (`Exchange::check`). A failure prints its seed; `CASWARM_SIM_SEED` sets it, `CASWARM_SIM_FULL=1` runs the scenarios
//! at the size of a real image.

mod cases;
mod checks;
mod machine;
mod misbehaviour;
mod network;
mod pace;
mod rng;
