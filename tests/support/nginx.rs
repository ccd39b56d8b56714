//! nginx on loopback: the server that most stores lie behind, with whatever the test configures.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::lan::wait_until;
use super::need::find_program;
use super::process::{Process, run};

/// Serves until it is dropped.
pub struct Nginx {
    dir: tempfile::TempDir,
    _process: Process,
    /// Where it speaks HTTP/1.1.
    pub plain: u16,
    /// Where it speaks HTTP/2 over TLS, with a certificate for `localhost` and `127.0.0.1`.
    pub secure: u16,
}

/// One request that it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The number of the connection.
    pub connection: String,
    /// Such as `HTTP/2.0`.
    pub protocol: String,
    /// The status of the answer.
    pub status: u16,
    /// The path asked for.
    pub path: String,
}

impl Nginx {
    /// Serves the files below `root`; `locations` are further lines of both its servers, in which `PLAIN` and `SECURE`
    /// become the ports.
    pub fn serve(root: &Path, locations: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certify(dir.path());
        let ports = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [plain, secure] = ports.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(ports);
        let config = dir.path().join("nginx.conf");
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let text = configuration(root, dir.path(), plain, secure, locations);
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(find_program("nginx").unwrap());
        command.arg("-p").arg(dir.path()).arg("-c").arg(&config).arg("-e").arg(dir.path().join("error.log"));
        let mut process = Process::spawn(&mut command);
        let answers = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("nginx listens", Duration::from_secs(20), || {
            let log = std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
            assert!(process.is_running(), "nginx ended: {}{log}", process.stderr());
            answers(plain) && answers(secure)
        });
        Self { dir, _process: process, plain, secure }
    }

    /// A URL without TLS.
    pub fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.plain)
    }

    /// A URL with TLS.
    pub fn https(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.secure)
    }

    /// The certificate of the authority that vouches for it; for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The certificate of an authority that does not.
    pub fn stranger(&self) -> PathBuf {
        self.dir.path().join("stranger.pem")
    }

    /// Everything it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(Request {
                connection: words.next()?,
                protocol: words.next()?,
                status: words.next()?.parse().ok()?,
                path: words.next()?,
            })
        };
        log.lines().filter_map(parse).collect()
    }

    /// What it said about handshakes that failed.
    pub fn failed_handshakes(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("SSL_do_handshake() failed")).map(str::to_owned).collect()
    }
}

/// `ca.pem` vouches for `cert.pem`, whose key is `key.pem`; `stranger.pem` does not.
fn certify(dir: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new(find_program("openssl").unwrap());
        run(command.args(arguments.split(' ')).current_dir(dir)).ok();
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for (name, subject) in [("ca", "/CN=origin"), ("stranger", "/CN=stranger")] {
        openssl(&format!("{new} -keyout {name}.key -out {name}.pem -subj {subject}"));
    }
    let names = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("{new} -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem -subj /CN=localhost {names}"));
}

fn configuration(root: &Path, dir: &Path, plain: u16, secure: u16, locations: &str) -> String {
    let (root, dir) = (root.display(), dir.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/tmp;\n"))
        .concat();
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let locations = locations.replace("PLAIN", &plain.to_string()).replace("SECURE", &secure.to_string());
    format!(
        "daemon off;\nmaster_process off;\n{user}pid {dir}/nginx.pid;\nerror_log {dir}/error.log info;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\nlog_format plain '$connection $server_protocol $status $uri';\naccess_log {dir}/access.log plain;\n\
         keepalive_requests 100000;\n{temporary}root {root};\n\
         ssl_certificate {dir}/cert.pem;\nssl_certificate_key {dir}/key.pem;\n\
         server {{ listen 127.0.0.1:{plain}; {locations} }}\n\
         server {{ listen 127.0.0.1:{secure} ssl http2; {locations} }}\n}}\n"
    )
}
