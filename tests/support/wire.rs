//! A web server of the test's own that answers, byte by byte, what the test says: for what no decent server does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the server does next.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends zeros for as long as somebody takes them.
    Endless,
    /// Sends nothing more, and waits for the client to go.
    Stall,
    /// Ends the connection.
    Close,
    /// Ends the connection as a machine does that knows nothing of it.
    Reset,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What the request line asks for.
    pub target: String,
    /// How many requests for it there were before.
    pub before: usize,
    /// When it came.
    pub at: Instant,
}

/// Serves until it is dropped.
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

type Answer = dyn Fn(&Asked) -> Vec<Step> + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    asked: Mutex<Vec<Asked>>,
    /// Between two steps.
    pause: Mutex<Duration>,
    connections: AtomicUsize,
    over: AtomicBool,
}

impl Wire {
    /// Answers every request so.
    pub fn serve(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            asked: Mutex::default(),
            pause: Mutex::default(),
            connections: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.over.load(Ordering::Relaxed) {
                    return;
                }
                server.connections.fetch_add(1, Ordering::Relaxed);
                let server = server.clone();
                std::thread::spawn(move || server.talk(stream));
            }
        });
        Self { address, shared }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Pauses so long before each step from now on.
    pub fn dawdle(&self, pause: Duration) {
        *self.shared.pause.lock().unwrap() = pause;
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests there were for targets that contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.target.contains(part)).count()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn talk(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        while let Some(line) = lines.next() {
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let asked = {
                let mut all = self.asked.lock().unwrap();
                let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
                let before = all.iter().filter(|asked| asked.target == target).count();
                let asked = Asked { target, before, at: Instant::now() };
                all.push(asked.clone());
                asked
            };
            for step in (self.answer)(&asked) {
                std::thread::sleep(*self.pause.lock().unwrap());
                match step {
                    Step::Send(bytes) if stream.write_all(&bytes).is_ok() => {}
                    Step::Endless => while stream.write_all(&[0; 16 << 10]).is_ok() {},
                    Step::Stall => {
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
                        let _ = stream.read(&mut [0]);
                        return;
                    }
                    Step::Reset => {
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                        return;
                    }
                    Step::Send(_) | Step::Close => return,
                }
            }
        }
    }
}

/// An answer with this status, these further header lines and this body.
pub fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<Step> {
    let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    vec![Step::Send([head.as_bytes(), body].concat())]
}

/// The head of an answer that announces so many bytes.
pub fn announce(length: u64) -> Step {
    Step::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes())
}
