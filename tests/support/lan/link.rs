//! Links with a rate: the commands that shape one, and what has gone into it.

use std::process::Command;

use super::output;

/// Most bytes that a host hands to its link at once; the kernel's default of 64 KiB would come in bursts that no link
/// of such a rate has.
const LARGEST: u32 = 16 << 10;

/// Ethernet, IP and TCP headers of a segment, with the time stamps that Linux sends.
const HEADERS: u64 = 66;

/// `ip` commands for a device that will be shaped.
pub(super) fn prepare(device: &str) -> String {
    format!("link set {device} gso_max_size {LARGEST}\n")
}

/// `tc` commands that let a device send at a rate, behind a queue of 50 ms that drops what does not fit.
pub(super) fn shape(device: &str, mbit: u32) -> String {
    let each_ms = mbit * 125;
    let (burst, queue) = (each_ms.max(2 * LARGEST), (each_ms * 50).max(4 * LARGEST));
    format!(
        "qdisc add dev {device} root handle 1: htb default 1\n\
         class add dev {device} parent 1: classid 1:1 htb rate {mbit}mbit burst {burst} cburst {burst} quantum 60000\n\
         qdisc add dev {device} parent 1:1 bfifo limit {queue}\n"
    )
}

/// `tc` commands that give a shaped device another rate.
pub(super) fn change(device: &str, mbit: u32) -> String {
    let burst = (mbit * 125).max(2 * LARGEST);
    format!(
        "class change dev {device} parent 1: classid 1:1 htb rate {mbit}mbit burst {burst} cburst {burst} quantum 60000\n"
    )
}

/// Bytes that a shaped device of a namespace has sent so far, without the headers of what they were sent in.
pub(super) fn payload_sent(namespace: &str, device: &str) -> u64 {
    let shown = output(Command::new("tc").args(["-n", namespace, "-s", "class", "show", "dev", device]));
    let counted = shown.lines().find_map(|line| {
        let mut words = line.trim().strip_prefix("Sent ")?.split(' ');
        let bytes: u64 = words.next()?.parse().ok()?;
        let packets: u64 = words.nth(1)?.parse().ok()?;
        Some(bytes.saturating_sub(HEADERS * packets))
    });
    counted.unwrap_or_else(|| panic!("{device} of {namespace} is not shaped: {shown}"))
}
