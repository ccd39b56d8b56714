//! What a test needs of the machine it runs on, and what becomes of a test whose needs are not met.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

/// Something that a fresh machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The effective user is root.
    Root,
    /// A program by its name, on the PATH or where system programs lie.
    Program(&'static str),
    /// Root, and a kernel that lets it make network namespaces with bridges in them.
    Namespaces,
    /// A kernel with IPv6.
    Ipv6,
}

impl Need {
    /// Whether this machine has it.
    pub fn is_met(self) -> bool {
        match self {
            Need::Root => rustix::process::geteuid().is_root(),
            Need::Program(name) => find_program(name).is_some(),
            Need::Ipv6 => PathBuf::from("/proc/sys/net/ipv6").is_dir(),
            Need::Namespaces => {
                Need::Root.is_met()
                    && Need::Program("ip").is_met()
                    && Need::Program("tc").is_met()
                    && can_make_namespaces()
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Root => write!(f, "root"),
            Need::Program(name) => write!(f, "the program {name}"),
            Need::Ipv6 => write!(f, "IPv6 in the kernel"),
            Need::Namespaces => write!(f, "network namespaces (root, iproute2)"),
        }
    }
}

/// True if the machine has all of these. Otherwise says on standard error, past the test harness's capture, which test
/// is skipped for want of what; the caller returns.
///
/// # Panics
/// Instead of skipping, when `CASWARM_TESTS_REQUIRE_ALL` is `1`.
pub fn require(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_met()).map(Need::to_string).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let missing = missing.join(" and ");
    assert!(std::env::var_os("CASWARM_TESTS_REQUIRE_ALL").is_none_or(|v| v != "1"), "{test} needs {missing}");
    // Not eprintln!, which the harness captures.
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs {missing}");
    false
}

/// Where a program lies: on the PATH, or where Debian keeps what only root uses.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn can_make_namespaces() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let name = format!("cw{:x}probe", std::process::id());
        let ip = |args: &[&str]| {
            let ran = std::process::Command::new(find_program("ip").unwrap()).args(args).output();
            ran.is_ok_and(|output| output.status.success())
        };
        let can = ip(&["netns", "add", &name]) && ip(&["-n", &name, "link", "add", "br0", "type", "bridge"]);
        ip(&["netns", "del", &name]);
        can
    })
}
