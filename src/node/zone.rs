//! The zone of a machine that was not told one: the network that its segment is, by its routes. Machines of one segment
//! come to the same name without a word, and those of another to another.

use std::net::Ipv4Addr;

use super::address::is_private;

/// Bytes of a zone's name: all of it fits into an announcement by mDNS.
pub const ZONE_BYTES: usize = 63;

/// The name of this machine's zone: the label, or else the IPv4 network of its segment, or else empty.
pub fn zone_name(label: &str) -> String {
    if label.is_empty() {
        return std::fs::read_to_string("/proc/net/route").map(|routes| segment(&routes)).unwrap_or_default();
    }
    cut(label).to_owned()
}

/// As much of a label as is a zone's name.
pub(super) fn cut(label: &str) -> &str {
    let mut end = label.len().min(ZONE_BYTES);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    &label[..end]
}

/// The private network on the interface of the default route, or, where there is none, the first private one; by the
/// kernel's table of IPv4 routes. A machine whose way out has a public address has none, whatever bridges it has besides.
fn segment(routes: &str) -> String {
    let rows = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The numbers are in the machine's own order, which is that of the bytes as they are in memory.
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(|n| Ipv4Addr::from(n.to_ne_bytes()));
        Some((*fields.first()?, number(1)?, number(2)?, number(7)?))
    });
    let rows: Vec<(&str, Ipv4Addr, Ipv4Addr, Ipv4Addr)> = rows.collect();
    let way_out = rows.iter().find(|(_, to, _, mask)| to.is_unspecified() && mask.is_unspecified());
    let way_out = way_out.map(|(interface, ..)| *interface);
    let networks = rows.iter().filter(|(interface, to, gateway, mask)| {
        gateway.is_unspecified()
            && !mask.is_unspecified()
            && !to.is_loopback()
            && *interface != "lo"
            && is_private((*to).into())
            && way_out.is_none_or(|out| out == *interface)
    });
    let first = networks.min_by_key(|(_, to, ..)| *to);
    first.map_or_else(String::new, |(_, to, _, mask)| format!("{to}/{}", u32::from(*mask).leading_ones()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn row(interface: &str, to: [u8; 4], gateway: [u8; 4], mask: [u8; 4]) -> String {
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        format!("{interface}\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(to), hex(gateway), hex(mask))
    }

    #[test]
    fn the_zone_is_the_network_of_the_way_out_and_not_that_of_a_bridge_of_the_machine_itself() {
        let docker = row("docker0", [10, 0, 0, 0], [0; 4], [255, 255, 0, 0]);
        let lan = row("eth0", [10, 77, 2, 0], [0; 4], [255, 255, 255, 0]);
        let out = row("eth0", [0; 4], [10, 77, 2, 254], [0; 4]);
        assert_eq!(segment(&format!("{HEAD}{docker}{lan}{out}")), "10.77.2.0/24");
        assert_eq!(segment(&format!("{HEAD}{lan}")), "10.77.2.0/24", "there may be no way out");
    }

    #[test]
    fn who_has_no_private_network_has_no_name_and_a_label_is_one_that_can_be_announced() {
        let public = row("eth0", [203, 0, 112, 0], [0; 4], [255, 255, 255, 0]);
        assert_eq!(segment(&format!("{HEAD}{public}")), "");
        let (bridge, out) =
            (row("docker0", [172, 17, 0, 0], [0; 4], [255, 255, 0, 0]), row("eth0", [0; 4], [203, 0, 112, 1], [0; 4]));
        assert_eq!(segment(&format!("{HEAD}{bridge}{public}{out}")), "", "a bridge of the machine itself");
        assert_eq!(segment("nonsense"), "");
        assert_eq!(zone_name("rack-17"), "rack-17");
        assert_eq!(zone_name(&"é".repeat(60)).len(), 62);
    }
}
