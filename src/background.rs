//! Staying in the background: everybody else's work on this machine and this network goes first. What the network is
//! asked for is a mark on packets, which routers and queues that know of it (RFC 8622) honour.

use std::io;

use socket2::SockRef;

/// The lower-effort code point, in the place that it has in the header.
const LOWER_EFFORT: u32 = 1 << 2;

/// How much nicer this process becomes.
const NICE: i32 = 10;

/// Lowers this thread, and the threads that it starts later, for the processor and the disks. To be called before there
/// are other threads.
pub fn lower_this_process() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!("--background: the processor's time is shared as before: {error}");
    }
    if let Err(error) = idle_disk_class() {
        tracing::warn!("--background: the disks' time is shared as before: {error}");
    }
}

/// Marks what is sent on a socket, by IPv4 and IPv6. Where one of them cannot be marked it has none of it.
pub fn mark(socket: &SockRef<'_>) {
    let marked = [socket.set_tos_v4(LOWER_EFFORT), socket.set_tclass_v6(LOWER_EFFORT)];
    if marked.iter().all(Result::is_err) {
        tracing::debug!(?marked, "packets are not marked as lower effort");
    }
}

#[allow(unsafe_code)]
fn idle_disk_class() -> io::Result<()> {
    use nix::libc;
    /// Of `ioprio_set(2)`, which has no wrapper: a process or thread, and the idle class.
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes three numbers and touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
