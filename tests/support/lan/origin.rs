//! nginx on the origin's machine, and what it was asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Lan, ORIGIN, Process, wait_until};
use crate::support::need::find_program;

/// A web server that publishes one directory at `http://10.79.0.2/`.
pub struct Origin {
    log: PathBuf,
    nginx: Process,
}

/// One request that it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The asker's address.
    pub from: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body that went out.
    pub bytes: u64,
    /// The path asked for.
    pub path: String,
}

impl Request {
    /// Whether it is for a chunk of a store.
    pub fn is_chunk(&self) -> bool {
        self.path.ends_with(".cacnk")
    }
}

impl Origin {
    pub(super) fn start(lan: &Lan, root: &Path, dir: &Path) -> Self {
        let log = dir.join("access.log");
        Self { log, nginx: Self::serve(lan, &nginx(root, dir, "80")) }
    }

    /// Ends the web server as a power cut would.
    pub fn stop(&mut self) {
        self.nginx.kill();
    }

    /// Starts it again.
    pub fn start_again(&mut self, lan: &Lan, root: &Path) {
        self.nginx = Self::serve(lan, &nginx(root, self.log.parent().unwrap(), "80"));
    }

    fn serve(lan: &Lan, nginx: &Command) -> Process {
        let mut nginx = Process::spawn(&mut lan.inside("origin", nginx));
        let listening = || {
            let mut list = lan.inside("origin", Command::new("cat").arg("/proc/net/tcp"));
            let listening =
                list.output().is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(":0050 00000000:0000 0A"));
            assert!(nginx.is_running(), "nginx ended: {}", nginx.stderr());
            listening
        };
        wait_until("nginx listens", Duration::from_secs(10), listening);
        nginx
    }

    /// The URL of a published file.
    pub fn url(&self, path: &str) -> String {
        format!("http://{ORIGIN}/{path}")
    }

    /// Everything it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter_map(parse).collect()
    }

    /// How often each chunk was asked for, by the chunk's path.
    pub fn chunk_requests(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests().into_iter().filter(Request::is_chunk) {
            *counts.entry(request.path).or_default() += 1;
        }
        counts
    }

    /// The number of requests for chunks that came from an address.
    pub fn chunk_requests_from(&self, address: &str) -> usize {
        self.requests().iter().filter(|request| request.is_chunk() && request.from == address).count()
    }
}

/// A command that runs nginx in the foreground to publish `root` at an address, with all that it writes in `dir`.
pub fn nginx(root: &Path, dir: &Path, listen: &str) -> Command {
    std::fs::create_dir_all(dir.join("tmp")).unwrap();
    let config = dir.join("nginx.conf");
    std::fs::write(&config, configuration(root, dir, listen)).unwrap();
    let mut nginx = Command::new(find_program("nginx").unwrap());
    nginx.arg("-p").arg(dir).arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
    nginx
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.splitn(4, ' ');
    Some(Request {
        from: words.next()?.to_owned(),
        status: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().ok()?,
        path: words.next()?.to_owned(),
    })
}

fn configuration(root: &Path, dir: &Path, listen: &str) -> String {
    let (root, dir) = (root.display(), dir.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/tmp;\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\nlog_format plain '$remote_addr $status $body_bytes_sent $uri';\naccess_log {dir}/access.log plain;\n\
         sendfile on;\nkeepalive_requests 100000;\n{temporary}\
         server {{ listen {listen}; root {root}; }}\n}}\n"
    )
}
