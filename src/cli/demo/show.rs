//! What came of a demonstration, for people and for machines.

use std::fmt;

use serde_json::Value;

use super::Published;
use super::origin::Counts;

/// The result. Sizes are in bytes.
#[derive(Debug, serde::Serialize)]
pub(super) struct Outcome {
    image_bytes: u64,
    chunks: u32,
    /// What one machine needs at least: the distinct chunks as stored.
    stored_bytes: u64,
    /// From the start of the nodes until the last image was there.
    seconds: f64,
    origin: Counts,
    /// Bytes that the origin sent over `stored_bytes`.
    origin_ratio: f64,
    nodes: Vec<Row>,
    /// Every image is the published one, byte for byte.
    pub(super) verified: bool,
}

#[derive(Debug, serde::Serialize)]
struct Row {
    seconds: f64,
    lan_bytes: u64,
    origin_bytes: u64,
    identical: bool,
}

impl Outcome {
    pub(super) fn new(
        published: &Published,
        origin: Counts,
        reports: &[Value],
        seconds: f64,
        identical: Vec<bool>,
    ) -> Self {
        let row = |(report, identical): (&Value, bool)| Row {
            seconds: report["seconds"].as_f64().unwrap_or_default(),
            lan_bytes: report["received"]["lan"].as_u64().unwrap_or_default(),
            origin_bytes: report["received"]["origin"].as_u64().unwrap_or_default(),
            identical,
        };
        Self {
            image_bytes: published.image,
            chunks: published.chunks,
            stored_bytes: published.stored,
            seconds: (seconds * 1000.0).round() / 1000.0,
            origin_ratio: (origin.bytes as f64 / published.stored.max(1) as f64 * 1000.0).round() / 1000.0,
            origin,
            verified: identical.iter().all(|same| *same),
            nodes: reports.iter().zip(identical).map(row).collect(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  {:<8} {:>20} {:>20} {:>8}   image", "", "from neighbours", "from the origin", "time")?;
        for (number, node) in (1..).zip(&self.nodes) {
            let all = (node.lan_bytes + node.origin_bytes).max(1);
            let share = |bytes: u64| format!("{} {:>3} %", size(bytes), (bytes * 100 + all / 2) / all);
            let verdict = if node.identical { "identical" } else { "DIFFERENT" };
            writeln!(
                f,
                "  node {number:<3} {:>20} {:>20} {:>6.1} s   {verdict}",
                share(node.lan_bytes),
                share(node.origin_bytes),
                node.seconds
            )?;
        }
        let machines = self.nodes.len() as u64;
        writeln!(
            f,
            "\n  One machine needs {} in {} chunks. The origin sent {} for all {machines}: {:.2} times that, not {machines} times.",
            size(self.stored_bytes),
            self.chunks,
            size(self.origin.bytes),
            self.origin_ratio
        )?;
        write!(
            f,
            "  {} requests for chunks, {} of them for one that had been asked for before; {:.1} s in all.",
            self.origin.chunk_requests, self.origin.repeated, self.seconds
        )
    }
}

/// A size in MiB.
pub(super) fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
