//! A web server of the test's own: files of a directory, counted, and spoilt on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What to answer instead of the file.
#[derive(Clone)]
pub enum Fault {
    /// This status, with an empty body.
    Status(u16),
    /// These bytes, as if they were the file.
    Instead(Vec<u8>),
    /// Half of what was announced.
    Half,
}

/// Serves until it is dropped.
pub struct Web {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    root: PathBuf,
    faults: Mutex<Vec<(String, Fault)>>,
    asked: Mutex<BTreeMap<String, u32>>,
    /// Slept before each answer.
    delay: Mutex<std::time::Duration>,
    over: AtomicBool,
}

impl Web {
    /// Serves the files below `root`.
    pub fn serve(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            faults: Mutex::default(),
            asked: Mutex::default(),
            delay: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.over.load(Ordering::Relaxed) {
                    return;
                }
                let server = server.clone();
                std::thread::spawn(move || server.talk(stream));
            }
        });
        Self { shared, port }
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Answers so for every path that contains `part`.
    pub fn spoil(&self, part: &str, fault: Fault) {
        self.shared.faults.lock().unwrap().push((part.to_owned(), fault));
    }

    /// Waits before each answer.
    pub fn delay(&self, delay: std::time::Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// How many requests there were for paths that contain `part`.
    pub fn asked(&self, part: &str) -> u32 {
        self.shared.asked.lock().unwrap().iter().filter(|(path, _)| path.contains(part)).map(|(_, count)| count).sum()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.shared.asked.lock().unwrap().clear();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn talk(&self, stream: TcpStream) {
        let Ok(mut out) = stream.try_clone() else { return };
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        while let Some(request) = lines.next() {
            let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            *self.asked.lock().unwrap().entry(path.clone()).or_default() += 1;
            std::thread::sleep(*self.delay.lock().unwrap());
            let fault = self.faults.lock().unwrap().iter().find(|(part, _)| path.contains(part)).map(|f| f.1.clone());
            let file = std::fs::read(self.root.join(&path));
            let (status, announced, body) = match (fault, file) {
                (Some(Fault::Status(status)), _) => (status, 0, Vec::new()),
                (Some(Fault::Instead(bytes)), _) => (200, bytes.len(), bytes),
                (Some(Fault::Half), Ok(bytes)) => (200, bytes.len(), bytes[..bytes.len() / 2].to_vec()),
                (_, Ok(bytes)) => (200, bytes.len(), bytes),
                (_, Err(_)) => (404, 0, Vec::new()),
            };
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {announced}\r\n\r\n");
            if out.write_all(&[head.as_bytes(), &body].concat()).is_err() || announced != body.len() {
                return;
            }
        }
    }
}
