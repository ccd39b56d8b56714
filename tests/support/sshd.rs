//! A real sshd on loopback, with keys of the test's own, and an `ssh` that reaches it, and nothing else, as `box`.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::lan::wait_until;
use super::need::{Need, find_program};
use super::process::{Process, run};

/// What a test needs of the machine for this.
pub const SSHD: [Need; 3] = [Need::Program("sshd"), Need::Program("ssh"), Need::Program("ssh-keygen")];

/// Serves until it is dropped.
pub struct Sshd {
    dir: tempfile::TempDir,
    _process: Process,
    /// Where it listens.
    pub port: u16,
}

impl Sshd {
    /// Starts it.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)])).ok();
        }
        if Need::Root.is_met() {
            // Where sshd locks up what speaks before anybody has proven who he is.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n\
             MaxStartups 100\nMaxSessions 100\n",
            at("host"),
            at("user.pub")
        );
        std::fs::write(at("sshd_config"), config).unwrap();
        let known = std::fs::read_to_string(at("host.pub")).unwrap();
        std::fs::write(at("known"), format!("[127.0.0.1]:{port} {known}")).unwrap();
        let config = format!(
            "Host box\nHostName 127.0.0.1\nPort {port}\nHost *\nIdentityFile {}\nIdentitiesOnly yes\n\
             UserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\nBatchMode yes\n",
            at("user"),
            at("known")
        );
        std::fs::write(at("ssh_config"), config).unwrap();
        script(&dir.path().join("ssh"), &format!("exec ssh -F {} \"$@\"", at("ssh_config")));
        let mut command = Command::new(find_program("sshd").unwrap());
        let mut process = Process::spawn(command.args(["-D", "-e", "-f", &at("sshd_config")]));
        wait_until("sshd listens", Duration::from_secs(20), || {
            assert!(process.is_running(), "sshd ended: {}", process.stderr());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { dir, _process: process, port }
    }

    /// The program to be named with `CASYNC_SSH_PATH`.
    pub fn ssh(&self) -> PathBuf {
        self.dir.path().join("ssh")
    }

    /// How many of its clients are running.
    pub fn clients(&self) -> usize {
        let config = self.dir.path().join("ssh_config").display().to_string();
        let lines = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = lines.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&config)).count()
    }
}

/// Writes a script that can be run.
pub fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
