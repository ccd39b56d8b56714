//! The nodes of a demonstration: processes of this same program, each with a directory and a state of its own.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::workplace::Workplace;

/// The nodes. Dropping them kills those that still run.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    bars: MultiProgress,
}

struct Node {
    dir: PathBuf,
    child: Child,
    bar: Option<ProgressBar>,
}

/// Cuts the image with `caswarm make`.
pub(super) fn make(place: &Workplace) -> anyhow::Result<()> {
    let mut command = program(&place.node(0))?;
    let made = command.arg("make").arg(place.index()).arg(place.image()).stdout(Stdio::null()).output()?;
    if !made.status.success() {
        bail!("caswarm make: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    Ok(())
}

impl Nodes {
    /// Starts them all.
    pub(super) fn start(place: &Workplace, origin: &str, count: u32) -> anyhow::Result<Self> {
        // Loopback carries no multicast, so each node is told where the others are.
        let ports = free_ports(count)?;
        let network = format!("demo-{}", std::process::id());
        let mut nodes = Self { nodes: Vec::new(), bars: MultiProgress::new() };
        for (number, port) in (1..).zip(&ports) {
            let dir = place.node(number);
            std::fs::create_dir(&dir)?;
            let mut command = program(&dir.join("state"))?;
            command.args(["extract", "--json", "--linger=600", "--network", &network]);
            command.args(["--listen", &format!("127.0.0.1:{port}")]);
            for other in ports.iter().filter(|other| *other != port) {
                command.args(["--bootstrap", &format!("127.0.0.1:{other}")]);
            }
            command.arg(format!("{origin}image.caibx")).arg("image").current_dir(&dir);
            command.stdout(File::create(dir.join("report"))?).stderr(File::create(dir.join("complaints"))?);
            let child = command.spawn().context("starting a node")?;
            nodes.nodes.push(Node { dir, child, bar: None });
        }
        Ok(nodes)
    }

    /// Looks how far they are, and shows it; true when every image is there.
    pub(super) fn look(&mut self, total: u64, show: bool) -> anyhow::Result<bool> {
        let mut done = true;
        for (number, node) in (1..).zip(&mut self.nodes) {
            let finished = node.image().exists();
            if !finished && let Some(status) = node.child.try_wait()? {
                bail!("node {number} ended ({status}): {}", node.said("complaints").trim());
            }
            done &= finished;
            if show {
                let (bars, position) = (&self.bars, if finished { total } else { node.written().min(total) });
                let bar = node.bar.get_or_insert_with(|| bars.add(bar(number, total)));
                bar.set_position(position);
            }
        }
        if done {
            let _ = self.bars.clear();
        }
        Ok(done)
    }

    /// Their reports, once they all have one. The nodes end: none needs another any more.
    pub(super) async fn finish(&mut self, patience: Duration) -> anyhow::Result<Vec<Value>> {
        let deadline = Instant::now() + patience;
        let mut reports = Vec::new();
        for (number, node) in (1..).zip(&mut self.nodes) {
            loop {
                if let Ok(report) = serde_json::from_str(&node.said("report")) {
                    reports.push(report);
                    break;
                }
                if let Some(status) = node.child.try_wait()?
                    && !status.success()
                {
                    bail!("node {number} ended ({status}): {}", node.said("complaints").trim());
                }
                if Instant::now() > deadline {
                    bail!("node {number} wrote no report: {}", node.said("complaints").trim());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for node in &mut self.nodes {
            node.end();
        }
        Ok(reports)
    }

    /// For each node, whether its image is the published one, byte for byte.
    pub(super) fn identical(&self, image: &Path) -> anyhow::Result<Vec<bool>> {
        self.nodes.iter().map(|node| same(image, &node.image())).collect()
    }
}

impl Node {
    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// Bytes on disk of what is being written, under whatever name.
    fn written(&self) -> u64 {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        files.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).max().unwrap_or(0)
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program, with nothing in its environment that would make the demonstration another one.
fn program(state: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.env("CASWARM_STATE_DIR", state).stdin(Stdio::null());
    for name in ["CASYNC_STORE", "CASWARM_BOOTSTRAP", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Ports that were free a moment ago.
fn free_ports(count: u32) -> anyhow::Result<Vec<u16>> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect::<Result<_, _>>()?)
}

fn bar(number: u32, total: u64) -> ProgressBar {
    let template = "   {prefix} [{bar:40}] {percent:>3} %  {binary_bytes_per_sec}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(format!("node {number:<2}"))
}

fn same(a: &Path, b: &Path) -> anyhow::Result<bool> {
    let mut files = [File::open(a)?, File::open(b)?];
    if files[0].metadata()?.len() != files[1].metadata()?.len() {
        return Ok(false);
    }
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    loop {
        let read = files[0].read(&mut buffers[0])?;
        if read == 0 {
            return Ok(true);
        }
        files[1].read_exact(&mut buffers[1][..read])?;
        if buffers[0][..read] != buffers[1][..read] {
            return Ok(false);
        }
    }
}
