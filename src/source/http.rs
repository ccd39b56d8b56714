//! GET over HTTP/1.1 and HTTP/2 with everything a bad network or server can do kept in bounds: connections are kept and
//! shared, answers are limited in length while they stream, what may pass is tried again. It knows nothing of chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::RETRY_AFTER;
use reqwest::{StatusCode, Url, redirect};
use tokio::time::Instant;

use super::rate_limit::RateLimit;
use super::{SourceError, random};

/// How long the rest of an answer that nobody wants is waited for.
const DRAIN: Duration = Duration::from_secs(1);

/// How many times as long as a byte may take to come is looked at how many came, and how many they have to be: a server
/// that drips is as good as one that stalls. Even a slow line that many answers share brings more.
const LOOK: u32 = 4;
const DRIP: usize = 4 << 10;

/// What a 403 is called in messages.
pub(crate) const FORBIDDEN: &str = "the server forbids it (403)";

/// How patient a client is.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// How long a connection may take to come up, TLS included.
    pub connect_timeout: Duration,
    /// How long there may be no byte before an answer, or its rest, is given up.
    pub stall_timeout: Duration,
    /// How often a request is sent at most; what may pass is 5xx, 429, time-outs, resets, half answers, and names that
    /// do not resolve: whether a name is unknown or its server is out of reach, not every system's resolver tells.
    pub tries: u32,
    /// The pause before the second try; it doubles with every further one, and varies by half. A server that answers
    /// 429 or 503 with `Retry-After` is left alone for that long besides.
    pub backoff: Duration,
    /// The longest that a `Retry-After` is heeded: who wants more is as good as down, and others may have the file.
    pub longest_wait: Duration,
    /// How many redirects are followed.
    pub redirects: usize,
    /// Bytes per second over all requests of this client; `None` means no limit.
    pub rate_limit: Option<u64>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(15),
            tries: 4,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(10),
            redirects: 8,
            rate_limit: None,
        }
    }
}

/// Keeps connections, counts bytes, limits the rate. Cheap to clone; all clones share all three.
#[derive(Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    options: Arc<HttpOptions>,
    rate_limit: Option<Arc<RateLimit>>,
    received: Arc<AtomicU64>,
}

/// A server's answer to one request, its last try.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// 200, 403, 404 or 410; every other status is an error.
    pub(crate) status: StatusCode,
    /// The whole body; of another status than 200, nothing.
    pub(crate) body: Bytes,
    /// From sending the last try to the head of its answer.
    pub(crate) first_byte: Duration,
    /// From the first try to the last byte.
    pub(crate) total: Duration,
}

/// One file that is asked for, as often as it takes.
pub(crate) struct Request<'a> {
    client: &'a HttpClient,
    url: String,
    limit: u64,
    started: Instant,
    tried: u32,
    /// Before the next try.
    pause: Duration,
    /// Of the pause after the next failure, the part that is ours.
    backoff: Duration,
    may_pass: bool,
}

/// What became of one try.
enum Failure {
    Final(SourceError),
    /// It may pass, at the earliest after this.
    MayPass(String, Duration),
}

impl HttpClient {
    /// A client with these options; proxies are taken from the environment, trusted certificates from the system (or
    /// `SSL_CERT_FILE`).
    ///
    /// # Errors
    /// `Refused` when TLS cannot be set up. Having no trusted certificate is no such error: it fails who needs one.
    pub fn new(options: HttpOptions) -> Result<Self, SourceError> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("caswarm/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
                .read_timeout(options.stall_timeout)
                .redirect(redirect_policy(options.redirects))
                .referer(false)
                .http2_initial_stream_window_size(2 << 20)
                .http2_initial_connection_window_size(16 << 20)
        };
        let client = builder()
            .build()
            // A system without certificates is refused there; with a list of none, only https is.
            .or_else(|_| builder().tls_certs_only([]).build())
            .map_err(|error| SourceError::refused("HTTP client", cause(&error)))?;
        let rate_limit = options.rate_limit.map(|rate| Arc::new(RateLimit::new(rate)));
        Ok(Self { client, options: Arc::new(options), rate_limit, received: Arc::default() })
    }

    /// Body bytes received so far, those of failed tries and cancelled requests included.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Gets a whole file of at most `limit` bytes; `None` if the server says that there is none (404, 410).
    ///
    /// # Errors
    /// `Refused` when trying again would not help, `Unavailable` when it did not.
    pub async fn get_file(&self, url: &str, limit: u64) -> Result<Option<Bytes>, SourceError> {
        let answer = self.request(url.to_owned(), limit).get().await?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::FORBIDDEN => Err(SourceError::refused(url, FORBIDDEN)),
            _ => Ok(None),
        }
    }

    /// A file of at most `limit` bytes, to be asked for. Nothing is sent yet.
    pub(crate) fn request(&self, url: String, limit: u64) -> Request<'_> {
        Request {
            client: self,
            url,
            limit,
            started: Instant::now(),
            tried: 0,
            pause: Duration::ZERO,
            backoff: self.options.backoff,
            may_pass: true,
        }
    }

    async fn get_once(&self, url: &Url, limit: u64, started: Instant) -> Result<Answer, Failure> {
        let sent = Instant::now();
        let mut response = self.client.get(url.clone()).send().await.map_err(|error| self.judge(url, &error))?;
        let first_byte = sent.elapsed();
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
                self.drain(&mut response).await;
                return Ok(Answer { status, body: Bytes::new(), first_byte, total: started.elapsed() });
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let wait = retry_after(&response).min(self.options.longest_wait);
                self.drain(&mut response).await;
                return Err(Failure::MayPass(format!("the server answers {status}"), wait));
            }
            _ => {
                self.drain(&mut response).await;
                return Err(Failure::Final(SourceError::refused(url, format!("the server answers {status}"))));
            }
        }
        let too_long = || {
            let reason = format!("the answer is longer than {limit} bytes, more than this file can have");
            Failure::Final(SourceError::refused(url, reason))
        };
        let announced = response.content_length().unwrap_or(0);
        if announced > limit {
            return Err(too_long());
        }
        // What is announced is not yet there: memory is not taken on a server's word alone.
        let mut body = Body::with_capacity(announced.min(256 << 10) as usize);
        let (mut looked, mut came) = (Instant::now(), 0);
        while let Some(part) = response.chunk().await.map_err(|error| self.judge(url, &error))? {
            self.count(part.len()).await;
            came += part.len();
            if looked.elapsed() >= self.options.stall_timeout * LOOK {
                // Who limits himself may be as slow as he likes.
                if came < DRIP && self.rate_limit.is_none() {
                    let reason = format!("only {came} bytes in {:?}", looked.elapsed());
                    return Err(Failure::MayPass(reason, Duration::ZERO));
                }
                (looked, came) = (Instant::now(), 0);
            }
            if body.len() as u64 + part.len() as u64 > limit {
                return Err(too_long());
            }
            body.push(part);
        }
        Ok(Answer { status, body: body.finish(), first_byte, total: started.elapsed() })
    }

    /// Reads the rest of a short answer that nobody wants, so that its connection can be used again.
    async fn drain(&self, response: &mut reqwest::Response) {
        let rest = async {
            let mut left = 64 << 10;
            while let Ok(Some(part)) = response.chunk().await {
                self.count(part.len()).await;
                if part.len() >= left {
                    return;
                }
                left -= part.len();
            }
        };
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }

    /// Counts bytes that came, by whichever way, and waits as long as the limit wants.
    pub(super) async fn count(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
        if let Some(rate_limit) = &self.rate_limit {
            rate_limit.pass(bytes as u64).await;
        }
    }

    fn judge(&self, url: &Url, error: &reqwest::Error) -> Failure {
        let said = cause(error);
        let refused = |reason: String| Failure::Final(SourceError::refused(url, reason));
        let may_pass = |reason: String| Failure::MayPass(reason, Duration::ZERO);
        if error.is_redirect() {
            return refused(said);
        }
        if error.is_request() && said.contains("invalid peer certificate") {
            return refused(format!("{said} (SSL_CERT_FILE names the authorities to trust)"));
        }
        if error.is_builder() {
            return refused(said);
        }
        if error.is_connect() && in_chain(error, "dns error") {
            return may_pass(format!("the host name does not resolve: {said}"));
        }
        if error.is_timeout() && error.is_connect() {
            return may_pass(format!("no connection within {:?}", self.options.connect_timeout));
        }
        if error.is_timeout() {
            return may_pass(format!("no byte for {:?}", self.options.stall_timeout));
        }
        if error.is_connect() {
            return may_pass(format!("no connection: {said}"));
        }
        may_pass(format!("the transfer broke off: {said}"))
    }
}

impl Request<'_> {
    /// What is asked for.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Tries until it is answered, or as often as makes sense.
    pub(crate) async fn get(mut self) -> Result<Answer, SourceError> {
        loop {
            match self.send().await {
                Err(error) if self.may_try_again() => tracing::debug!(%error, "trying again"),
                result => return result,
            }
        }
    }

    /// Whether the last failure may pass, and there were not too many.
    pub(crate) fn may_try_again(&self) -> bool {
        self.may_pass && self.tried < self.client.options.tries
    }

    /// Tries once, after the pause that the failure before asks for.
    pub(crate) async fn send(&mut self) -> Result<Answer, SourceError> {
        // The shortest sleep is a millisecond, too long for every request.
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        self.tried += 1;
        self.may_pass = false;
        let url = Url::parse(&self.url).map_err(|error| SourceError::refused(&self.url, error))?;
        match self.client.get_once(&url, self.limit, self.started).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::MayPass(reason, wait)) => {
                self.may_pass = true;
                self.pause = wait + vary(self.backoff);
                self.backoff *= 2;
                let reason = if self.tried > 1 { format!("{reason} (tried {} times)", self.tried) } else { reason };
                Err(SourceError::unavailable(&self.url, reason))
            }
        }
    }
}

/// A body as it comes. One that arrives in one piece, as most chunks do, is never copied.
struct Body {
    first: Bytes,
    all: Vec<u8>,
    capacity: usize,
}

impl Body {
    fn with_capacity(capacity: usize) -> Self {
        Self { first: Bytes::new(), all: Vec::new(), capacity }
    }

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn push(&mut self, part: Bytes) {
        if self.len() == 0 {
            self.first = part;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.capacity.max(self.first.len() + part.len()));
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&part);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Follows so many redirects, and none from https to http: an index is trusted as far as its connection is.
fn redirect_policy(most: usize) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > most {
            attempt.error(format!("more than {most} redirects"))
        } else if secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to http")
        } else {
            attempt.follow()
        }
    })
}

/// How long a server that is overloaded wants to be left alone. A date, the other form of the header, is
/// not read: the usual pause has to do.
fn retry_after(response: &reqwest::Response) -> Duration {
    let overloaded = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let header = response.headers().get(RETRY_AFTER).filter(|_| overloaded);
    let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds)
}

/// What lies at the bottom of an error: the sentence that says most.
fn cause(error: &reqwest::Error) -> String {
    let mut bottom: &dyn std::error::Error = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    bottom.to_string()
}

fn in_chain(error: &reqwest::Error, words: &str) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(words) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Between half of it and one and a half, so that machines that failed together do not come back together.
fn vary(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64((random() >> 11) as f64 / (1u64 << 53) as f64)
}
