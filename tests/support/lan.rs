//! A LAN of network namespaces, with the Internet behind one link of its own. Root and iproute2; gone when dropped.
//!
//! ```text
//! h1 .. hN           switch sw              router rt                    origin
//! 10.77.S.i/24 ----- p1..pN  brS ---------- 10.77.S.254  10.79.0.1 ===== 10.79.0.2
//! fd77:S::i/64                              fd77:S::fe                   (not by IPv6)
//! ```
//! Multicast stays inside a segment (a bridge that floods it); the router joins the segments for everything else. Hosts
//! are cut off at the switch and silently: no process sees an error, only packets that never arrive.

mod cable;
mod link;
mod origin;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use origin::{Origin, Request, nginx};

use super::process::{Process, caswarm};

/// The origin's address.
pub const ORIGIN: &str = "10.79.0.2";

/// What a LAN is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Machines in each segment; the hosts are numbered from 1 through all of them.
    pub segments: &'static [usize],
    /// Rate of the origin's link, towards the LAN and back, Mbit/s; None: as fast as it goes.
    pub origin_mbit: Option<u32>,
    /// Whether the hosts speak IPv6 and nothing else; the origin is then out of their reach.
    pub ipv6: bool,
    /// Rate at which each host can send, and receive, Mbit/s; None: as fast as it goes.
    pub lan_mbit: Option<u32>,
    /// How long a packet takes from the origin to the router, and from there to the origin, in milliseconds.
    pub origin_delay_ms: u32,
    /// How many packets in a hundred get lost between each host and the switch.
    pub loss_percent: u32,
}

impl Plan {
    /// So many machines in one segment, nothing shaped.
    pub const fn hosts(count: &'static [usize; 1]) -> Self {
        Self::segments(count)
    }

    /// So many machines in each segment, nothing shaped.
    pub const fn segments(segments: &'static [usize]) -> Self {
        Self { segments, ipv6: false, origin_mbit: None, lan_mbit: None, origin_delay_ms: 0, loss_percent: 0 }
    }

    /// The same, where the hosts have IPv6 addresses only, link-local and unique local ones.
    pub const fn ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }

    /// The same with the origin's link shaped.
    pub const fn origin_mbit(self, mbit: u32) -> Self {
        Self { origin_mbit: Some(mbit), ..self }
    }

    /// The same with what each host sends and receives shaped.
    pub const fn lan_mbit(self, mbit: u32) -> Self {
        Self { lan_mbit: Some(mbit), ..self }
    }

    /// The same with an origin that is far away.
    pub const fn origin_delay_ms(self, ms: u32) -> Self {
        Self { origin_delay_ms: ms, ..self }
    }

    /// The same with hosts on links that lose packets.
    pub const fn loss_percent(self, percent: u32) -> Self {
        Self { loss_percent: percent, ..self }
    }
}

/// What a host is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// From the other hosts; the origin stays.
    Lan,
    /// From the origin; the other hosts stay.
    Internet,
    /// From everything.
    All,
}

/// The network. Dropping it kills what runs inside and removes it.
pub struct Lan {
    name: String,
    ipv6: bool,
    hosts: Vec<u8>,
    dir: tempfile::TempDir,
    cables: Vec<cable::Cable>,
    _alone: MutexGuard<'static, ()>,
}

impl Lan {
    /// Builds it, when there is no other: machines on two LANs at once would take the processor from each other.
    ///
    /// # Panics
    /// When the machine does not let it; ask for [`super::Need::Namespaces`] first.
    pub fn new(plan: Plan) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("cw{:x}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hosts = plan.segments.iter().zip(1..).flat_map(|(&count, segment)| vec![segment; count]).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut lan = Self { name, ipv6: plan.ipv6, hosts, dir, cables: Vec::new(), _alone: alone };
        lan.build(plan);
        lan
    }

    /// Numbers of the hosts, from 1.
    pub fn hosts(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.hosts.len()
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> String {
        let segment = self.hosts[host - 1];
        if self.ipv6 { format!("fd77:{segment}::{host:x}") } else { format!("10.77.{segment}.{host}") }
    }

    /// Takes a host's interface down, with its addresses, or up again.
    pub fn plug(&self, host: usize, plugged: bool) {
        match plugged {
            true => self.configure(host),
            false => self.ip(&format!("h{host}"), "link set eth0 down\naddr flush dev eth0\n"),
        }
    }

    /// A directory of the host's own: targets, stores, and its state under `state`.
    pub fn dir(&self, host: usize) -> PathBuf {
        let dir = self.dir.path().join(format!("h{host}"));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A command that runs caswarm on a host, in the host's directory and with its state.
    pub fn caswarm(&self, host: usize) -> Command {
        let dir = self.dir(host);
        let mut command = self.inside(&format!("h{host}"), &caswarm(&dir.join("state")));
        command.current_dir(dir);
        command
    }

    /// Starts caswarm on a host with these arguments.
    pub fn start(&self, host: usize, arguments: &[&str]) -> Process {
        Process::spawn(self.caswarm(host).args(arguments))
    }

    /// Starts another program on a host.
    pub fn run(&self, host: usize, command: &Command) -> Process {
        Process::spawn(&mut self.inside(&format!("h{host}"), command))
    }

    /// Does something on a host from a thread of this process: sockets that it opens, and threads that it starts, are
    /// the host's.
    pub fn on<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        self.at(&format!("h{host}"), work)
    }

    fn at<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(Path::new("/run/netns").join(self.ns(node))).unwrap();
        std::thread::scope(|scope| {
            let entered = scope.spawn(move || {
                let network = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), network).unwrap();
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What names mean on a host, in the form of `/etc/hosts`, for programs started after the first call. No name server
    /// answers there.
    pub fn names(&self, host: usize, hosts: &str) {
        let dir = self.etc(&format!("h{host}"));
        std::fs::create_dir_all(&dir).unwrap();
        // Written in place: it is mounted, and a new file would not be seen.
        std::fs::write(dir.join("hosts"), hosts).unwrap();
        std::fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    }

    /// Publishes a directory on the origin with nginx.
    pub fn origin(&self, root: &Path) -> Origin {
        Origin::start(self, root, &self.dir.path().join("origin"))
    }

    /// Cuts a host off, on top of what it is cut off from already. IPv4 only.
    pub fn cut(&self, host: usize, cut: Cut) {
        assert!(!self.ipv6);
        const LAN: &str = "match ip dst 10.77.0.0/16";
        let (to_switch, to_host): (&[&str], &[&str]) = match cut {
            Cut::Lan => (&[LAN, "match ip dst 224.0.0.0/4"], &["match ip src 10.77.0.0/16"]),
            Cut::Internet => (&["match ip dst 10.79.0.0/24"], &["match ip src 10.79.0.0/24"]),
            Cut::All => (&["match u32 0 0"], &["match u32 0 0"]),
        };
        let mut batch = format!("qdisc replace dev p{host} clsact\n");
        for (direction, matches) in [("ingress", to_switch), ("egress", to_host)] {
            for what in matches {
                // Not `action drop`, which is a module that small kernels lack.
                let sink = "action mirred egress redirect dev sink";
                batch += &format!("filter add dev p{host} {direction} protocol ip prio 1 u32 {what} {sink}\n");
            }
        }
        self.tc("sw", &batch);
    }

    /// Splits the LAN: these hosts and the others do not hear each other any more, multicast neither. The origin stays.
    pub fn split(&self, apart: &[usize]) {
        assert!(!self.ipv6);
        for host in self.hosts() {
            let others = self.hosts().filter(|other| apart.contains(other) != apart.contains(&host));
            let mut batch = format!("qdisc replace dev p{host} clsact\n");
            for other in others {
                let from = self.address(other);
                let sink = "action mirred egress redirect dev sink";
                batch += &format!("filter add dev p{host} egress protocol ip prio 1 u32 match ip src {from} {sink}\n");
            }
            self.tc("sw", &batch);
        }
    }

    /// Gives a host's link a rate of its own, up and down; the links of this LAN have to be shaped.
    pub fn slow(&self, host: usize, mbit: u32) {
        for (node, device) in [(format!("h{host}"), "eth0".to_owned()), ("sw".to_owned(), format!("p{host}"))] {
            self.tc(&node, &link::change(&device, mbit));
        }
    }

    /// Undoes every cut of a host, and its part in a split.
    pub fn heal(&self, host: usize) {
        self.tc("sw", &format!("qdisc del dev p{host} clsact\n"));
    }

    /// Gives a host another address.
    pub fn add_address(&self, host: usize, address: &str) {
        self.ip(&format!("h{host}"), &format!("addr add {address} dev eth0\n"));
    }

    /// Packets that a host has sent so far, of whatever kind.
    pub fn sent_packets(&self, host: usize) -> u64 {
        let namespace = self.ns(&format!("h{host}"));
        let shown = output(Command::new("ip").args(["-s", "-j", "-n", &namespace, "link", "show", "dev", "eth0"]));
        let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
        links[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or_else(|| panic!("no counter in {shown}"))
    }

    /// Bytes that the origin has sent into its link so far, headers included.
    pub fn origin_sent(&self) -> u64 {
        let shown =
            output(Command::new("ip").args(["-s", "-j", "-n", &self.ns("origin"), "link", "show", "dev", "eth0"]));
        let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
        links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap_or_else(|| panic!("no counter in {shown}"))
    }

    /// Bytes that the origin has sent so far into its link, which has to be shaped: what TCP carried, exact to the
    /// segment.
    pub fn origin_payload_sent(&self) -> u64 {
        link::payload_sent(&self.ns("origin"), "eth0")
    }

    /// What `ip netns exec` mounts over `/etc`.
    fn etc(&self, node: &str) -> PathBuf {
        Path::new("/etc/netns").join(self.ns(node))
    }

    fn ns(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// The same command, run in the namespace of a node. `ip` replaces itself by it, so the process id is the program's.
    fn inside(&self, node: &str, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.ns(node)]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    fn nodes(&self) -> Vec<String> {
        let hosts = self.hosts().map(|host| format!("h{host}"));
        ["sw", "rt", "origin"].map(str::to_owned).into_iter().chain(hosts).collect()
    }

    fn build(&mut self, plan: Plan) {
        for node in self.nodes() {
            output(Command::new("ip").args(["netns", "add", &self.ns(&node)]));
            let forward = u8::from(node == "rt");
            let without = u8::from(!plan.ipv6);
            let six = |what: &str| format!("for c in all default; do echo {what}; done; ");
            let six = six(&format!("{without} > ipv6/conf/$c/disable_ipv6"))
                + &if plan.ipv6 {
                    six("0 > ipv6/conf/$c/accept_dad") + &six(&format!("{forward} > ipv6/conf/$c/forwarding"))
                } else {
                    String::new()
                };
            let settings = format!(
                "cd /proc/sys/net; {six} echo {forward} > ipv4/ip_forward; echo 0 > ipv4/conf/all/rp_filter; \
                 ip link set lo up"
            );
            let mut shell = Command::new("sh");
            output(&mut self.inside(&node, shell.args(["-c", &settings])));
        }
        let link = |a: &str, at: &str, b: &str, bt: &str| {
            let (a, b) = (self.ns(a), self.ns(b));
            format!("link add {at} netns {a} type veth peer name {bt} netns {b}\n")
        };
        let mut links = link("sw", "sink", "sw", "hole");
        if plan.origin_delay_ms == 0 {
            links += &link("origin", "eth0", "rt", "wan");
        }
        let mut switch = "link set sink up\nlink set hole up\n".to_owned();
        let mut router = "addr add 10.79.0.1/24 dev wan\nlink set wan up\n".to_owned();
        for segment in 1..=plan.segments.len() {
            links += &link("sw", &format!("r{segment}"), "rt", &format!("lan{segment}"));
            switch += &format!(
                "link add br{segment} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br{segment} up\n\
                 link set r{segment} master br{segment} up\n"
            );
            let address = if plan.ipv6 { format!("fd77:{segment}::fe/64") } else { format!("10.77.{segment}.254/24") };
            router += &format!("addr add {address} dev lan{segment}\nlink set lan{segment} up\n");
        }
        for host in self.hosts() {
            if plan.loss_percent == 0 {
                links += &link(&format!("h{host}"), "eth0", "sw", &format!("p{host}"));
            }
            switch += &format!("link set p{host} master br{} up\n", self.hosts[host - 1]);
        }
        batch("ip", &[], &links);
        if plan.origin_delay_ms > 0 {
            self.lay([("origin", "eth0"), ("rt", "wan")], plan.origin_delay_ms, 0);
        }
        if plan.loss_percent > 0 {
            for host in self.hosts() {
                self.lay([(&format!("h{host}"), "eth0"), ("sw", &format!("p{host}"))], 0, plan.loss_percent);
            }
        }
        self.ip("sw", &switch);
        self.ip("rt", &router);
        self.ip("origin", "addr add 10.79.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.79.0.1\n");
        for host in self.hosts() {
            self.configure(host);
        }
        if let Some(mbit) = plan.lan_mbit {
            for host in self.hosts() {
                self.shape(&format!("h{host}"), "eth0", mbit);
                self.shape("sw", &format!("p{host}"), mbit);
            }
        }
        if let Some(mbit) = plan.origin_mbit {
            self.shape("origin", "eth0", mbit);
            self.shape("rt", "wan", mbit);
        }
    }

    /// Joins two new devices by a cable.
    fn lay(&mut self, ends: [(&str, &str); 2], delay_ms: u32, loss_percent: u32) {
        let ends = ends.map(|(node, device)| self.at(node, || cable::end(device)));
        self.cables.push(cable::Cable::join(ends, Duration::from_millis(delay_ms.into()), loss_percent));
    }

    fn shape(&self, node: &str, device: &str, mbit: u32) {
        self.ip(node, &link::prepare(device));
        self.tc(node, &link::shape(device, mbit));
    }

    /// Gives a host its addresses and routes.
    fn configure(&self, host: usize) {
        let (address, segment) = (self.address(host), self.hosts[host - 1]);
        let commands = if self.ipv6 {
            format!("addr add {address}/64 dev eth0\nlink set eth0 up\nroute add default via fd77:{segment}::fe\n")
        } else {
            format!(
                "addr add {address}/24 broadcast + dev eth0\nlink set eth0 up\n\
                 route add default via 10.77.{segment}.254\nroute add 224.0.0.0/4 dev eth0\n"
            )
        };
        self.ip(&format!("h{host}"), &commands);
    }

    fn ip(&self, node: &str, commands: &str) {
        batch("ip", &["-n", &self.ns(node)], commands);
    }

    fn tc(&self, node: &str, commands: &str) {
        batch("tc", &["-n", &self.ns(node)], commands);
    }

    fn end_processes(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut left = false;
            for node in self.nodes() {
                let listed = Command::new("ip").args(["netns", "pids", &self.ns(&node)]).output();
                let listed =
                    listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
                for pid in listed.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                        left = true;
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
            }
            if !left || Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.end_processes();
        self.cables.clear();
        for node in self.nodes() {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(&node)]).stderr(Stdio::null()).status();
            let _ = std::fs::remove_dir_all(self.etc(&node));
        }
    }
}

/// Waits until something holds.
///
/// # Panics
/// When it does not within the time.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "after {patience:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn batch(program: &str, arguments: &[&str], commands: &str) {
    use std::io::{Read, Seek, Write};
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(commands.as_bytes()).unwrap();
    input.rewind().unwrap();
    let mut command = Command::new(program);
    let mut complaints = tempfile::tempfile().unwrap();
    command.args(arguments).args(["-batch", "-"]).stdin(input).stderr(complaints.try_clone().unwrap());
    let status = command.stdout(Stdio::null()).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut said = String::new();
    complaints.rewind().unwrap();
    complaints.read_to_string(&mut said).unwrap();
    assert!(status.success(), "{program} {arguments:?}: {said}\n{commands}");
}
