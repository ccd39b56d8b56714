//! The program, and others, as processes: bounded in time, always reaped, and quoted with what they said when a claim
//! about them fails.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command that runs the caswarm program with a state directory of its own and nothing of the caller's environment that
/// changes what it does.
pub fn caswarm(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caswarm"));
    command.env("CASWARM_STATE_DIR", state);
    for name in
        ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
    {
        command.env_remove(name);
    }
    for name in ["CASWARM_BOOTSTRAP", "CASWARM_NETWORK_KEY"] {
        command.env_remove(name);
    }
    for name in ["RUST_LOG", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end, [`PATIENCE`] at most.
pub fn run(command: &mut Command) -> Ran {
    Process::spawn(command).wait(PATIENCE)
}

/// A process under way. Dropping it kills and reaps it.
pub struct Process {
    line: String,
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

/// What became of a process.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Process {
    /// Starts a command without standard input.
    pub fn spawn(command: &mut Command) -> Self {
        let line = line_of(command);
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let child = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
        Self { line, child, stdout, stderr, started: Instant::now() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer; the process is then dead, and quoted.
    pub fn wait(mut self, patience: Duration) -> Ran {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let took = self.started.elapsed();
                return Ran { line: self.line.clone(), status, stdout: self.stdout(), stderr: self.stderr(), took };
            }
            if Instant::now() > deadline {
                self.kill();
                panic!("{}: still running after {patience:?}\n{}{}", self.line, self.stdout(), self.stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ran {
    /// Itself, if the process ended well.
    ///
    /// # Panics
    /// Otherwise, with the command line and all that it said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Itself, if the process ended with an error of its own (neither success nor a signal).
    #[track_caller]
    pub fn failed(self) -> Self {
        assert!(self.status.code().is_some_and(|code| code != 0), "{self}");
        self
    }

    /// Itself, if it said all of these on standard error.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "nothing of {part:?} in\n{self}");
        }
        self
    }

    /// The last line of standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .or_else(|_| serde_json::from_str(&self.stdout))
            .unwrap_or_else(|e| panic!("no JSON ({e}) from {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}\n{} after {:?}", self.line, self.status, self.took)?;
        write!(f, "--- standard output\n{}\n--- standard error\n{}", self.stdout, self.stderr)
    }
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Everything in the file, from its start; the writer's place in it is not ours to move, so a handle of its own reads.
fn text(file: &File) -> String {
    use std::os::fd::AsRawFd;
    let mut bytes = Vec::new();
    let reopened = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let read = reopened.and_then(|mut file| {
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)
    });
    if read.is_err() { "(unreadable)".to_owned() } else { String::from_utf8_lossy(&bytes).into_owned() }
}
