//! A web server for a demonstration: HTTP/1.1 on loopback, files of one directory, one link's rate shared by everyone,
//! every byte counted. Not for anything else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes that go out at once: small, so that the rate is even.
const PIECE: usize = 16 << 10;

/// Bytes of a request's head, at most.
const HEAD: u64 = 16 << 10;

/// The server. Dropping it ends it.
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What it was asked and what it sent.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Counts {
    /// Requests for chunks.
    pub(super) chunk_requests: u64,
    /// Requests for a chunk that had been asked for before.
    pub(super) repeated: u64,
    /// Requests for the index or its id.
    pub(super) index_requests: u64,
    /// Bytes of all answers: heads and bodies, chunks and everything else.
    pub(super) bytes: u64,
}

struct Shared {
    root: PathBuf,
    rate: Option<u64>,
    link_free: Mutex<Instant>,
    counts: Mutex<(Counts, BTreeMap<String, u64>)>,
}

impl Origin {
    /// Publishes `root` on a free port of 127.0.0.1, at `rate` bytes a second for all together.
    pub(super) async fn start(root: PathBuf, rate: Option<u64>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Shared { root, rate, link_free: Mutex::new(Instant::now()), counts: Mutex::default() };
        let shared = Arc::new(shared);
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// The URL of the directory, with a slash at its end.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What happened so far.
    pub(super) fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    // A client that goes away in the middle is its own business.
                    let _ = serve(stream, &shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some((method, path)) = request(&mut stream).await? {
        let file = if method == "GET" || method == "HEAD" { shared.open(&path).await } else { None };
        let Some((mut file, length)) = file else {
            shared.count(&path, 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        shared.count(&path, head.len() as u64);
        stream.write_all(head.as_bytes()).await?;
        let mut left = if method == "HEAD" { 0 } else { length };
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let some = left.min(PIECE as u64) as usize;
            file.read_exact(&mut piece[..some]).await?;
            shared.wait_for_the_link(some as u64).await;
            stream.write_all(&piece[..some]).await?;
            shared.add(some as u64);
            left -= some as u64;
        }
    }
    Ok(())
}

/// The method and path of the next request; None when the client is done.
async fn request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, String)>> {
    let mut head = stream.take(HEAD);
    let mut first = String::new();
    if head.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        match head.read_line(&mut line).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some((method.to_owned(), path.to_owned())))
}

impl Shared {
    async fn open(&self, path: &str) -> Option<(tokio::fs::File, u64)> {
        let relative = Path::new(path.strip_prefix('/')?);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let file = tokio::fs::File::open(self.root.join(relative)).await.ok()?;
        let meta = file.metadata().await.ok()?;
        meta.is_file().then_some((file, meta.len()))
    }

    fn count(&self, path: &str, bytes: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (totals, paths) = &mut *counts;
        totals.bytes += bytes;
        if path.ends_with(".cacnk") {
            totals.chunk_requests += 1;
            let times = paths.entry(path.to_owned()).or_default();
            totals.repeated += u64::from(*times > 0);
            *times += 1;
        } else {
            totals.index_requests += 1;
        }
    }

    fn add(&self, bytes: u64) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).0.bytes += bytes;
    }

    /// Returns when these bytes' turn on the link has come.
    async fn wait_for_the_link(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let turn = {
            let mut free = self.link_free.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*free).max(Instant::now());
            *free = turn + Duration::from_secs_f64(bytes as f64 / rate as f64);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(origin: &Origin, requests: &str) -> String {
        let mut stream = TcpStream::connect(origin.address).await.unwrap();
        stream.write_all(requests.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn origin_serves_its_directory_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("www")).unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::fs::write(dir.path().join("www/a.cacnk"), "chunk").unwrap();
        let origin = Origin::start(dir.path().join("www"), None).await.unwrap();
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = ask(&origin, &(get("/a.cacnk") + &get("/a.cacnk") + &get("/../secret") + &get("/b"))).await;
        assert_eq!(answer.matches("200 OK").count(), 2);
        assert_eq!(answer.matches("404 Not Found").count(), 2);
        assert_eq!(answer.matches("chunk").count(), 2);
        let counts = origin.counts();
        assert_eq!((counts.chunk_requests, counts.repeated, counts.index_requests), (2, 1, 2));
    }

    #[tokio::test]
    async fn origin_keeps_to_the_rate_of_its_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![b'x'; 200_000]).unwrap();
        let origin = Origin::start(dir.path().to_owned(), Some(1_000_000)).await.unwrap();
        let started = Instant::now();
        ask(&origin, "GET /file HTTP/1.1\r\n\r\n").await;
        assert!(started.elapsed() > Duration::from_millis(150), "{:?}", started.elapsed());
    }
}
