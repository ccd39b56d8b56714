//! A rate in bytes per second that any number of transfers share. Bytes are counted after they came: each waits for the
//! time they should have taken, which stops it from reading on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far behind its rate a transfer may catch up at once.
const BURST: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct RateLimit {
    bytes_per_second: f64,
    /// When everything counted so far should have come.
    due: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit of so many bytes per second; 0 is taken as 1.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1) as f64, due: Mutex::new(None) }
    }

    /// Counts `bytes` and waits until they were due.
    pub(crate) async fn pass(&self, bytes: u64) {
        // An hour is as good as for ever, and keeps the sum of any lengths and rates representable.
        let takes = Duration::from_secs_f64((bytes as f64 / self.bytes_per_second).min(3600.0));
        let now = Instant::now();
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let next = due.map_or(now, |due| due.max(earliest)) + takes;
            *due = Some(next);
            next
        };
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn transfers_share_the_rate() {
        let limit = RateLimit::new(100_000);
        let started = Instant::now();
        tokio::join!(limit.pass(10_000), limit.pass(10_000), limit.pass(5_000));
        assert!(started.elapsed() >= Duration::from_millis(245), "{:?}", started.elapsed());
    }
}
