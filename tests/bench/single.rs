//! One machine's work, beside casync and desync where they are installed: make, extract from a local store and over HTTP
//! on loopback, and extract with the version before as seed. Times, CPU time and memory are medians of runs that take
//! turns, so that whatever else the machine does hits all alike.
//!
//! `cargo bench --bench single` for the defaults, `cargo bench --bench single -- --help` for the rest. Every extraction
//! is compared with the image, outside of the time. casync cuts a seed itself and takes no index of it; desync needs one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the tests")]
mod support {
    pub mod data;
    pub mod lan;
    pub mod need;
    pub mod process;
}
#[allow(unreachable_pub)]
mod common;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use common::process::{Cost, measured};
use common::published::{PublishArgs, Published, Version};
use common::{assert_same_bytes, median, mib};
use support::lan::{nginx, wait_until};
use support::need::find_program;
use support::process::{Process, caswarm};

/// One machine makes and extracts an image, with each program in turn.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench single --", max_term_width = 110)]
struct Args {
    /// What to measure [default: all of it].
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// Runs of each; what is printed is the median.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    publish: PublishArgs,
    /// Where everything is written [default: /dev/shm].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Make an index and a new store.
    Make,
    /// Extract from a local store.
    Extract,
    /// Extract from a web server on loopback.
    Http,
    /// Extract from a local store, with the version before as seed and no index of it.
    Seed,
    /// Extract from a local store, with the version before as seed and its index.
    SeedIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    Caswarm,
    Casync,
    Desync,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Caswarm => "caswarm",
            Program::Casync => "casync",
            Program::Desync => "desync",
        }
    }
}

/// Where things are.
struct Place<'a> {
    published: &'a Published,
    old: &'a Version,
    base: Option<String>,
    work: &'a Path,
}

fn chunks_of(index: &Path) -> Vec<caswarm::format::index::IndexChunk> {
    caswarm::format::index::Index::parse(&std::fs::read(index).unwrap()).unwrap().chunks
}

impl Place<'_> {
    /// What a program writes when it makes, and when it extracts.
    fn outputs(&self) -> [PathBuf; 3] {
        ["made.caibx", "made.castr", "out.img"].map(|name| self.work.join(name))
    }

    fn clean(&self) {
        let [index, store, out] = self.outputs();
        let _ = std::fs::remove_file(&index);
        let _ = std::fs::remove_file(format!("{}.id", index.display()));
        let _ = std::fs::remove_file(&out);
        let _ = std::fs::remove_dir_all(&store);
    }

    /// How a program is told to do it; None if it cannot.
    fn command(&self, row: Row, program: Program) -> Option<Command> {
        let [made, store, out] = self.outputs();
        let mut command = match program {
            Program::Caswarm => caswarm(&self.work.join("state")),
            other => Command::new(find_program(other.name())?),
        };
        let desync = program == Program::Desync;
        if row == Row::Make {
            command.arg("make");
            if desync {
                std::fs::create_dir_all(&store).unwrap();
                command.arg("-s").arg(store);
            } else {
                command.arg(format!("--store={}", store.display()));
            }
            command.arg(made).arg(&self.published.new.image);
            return Some(command);
        }
        let root = match row {
            Row::Http => self.base.clone()?,
            _ => self.published.root.display().to_string(),
        };
        let (index, store) = (&self.published.new.index, &self.published.store);
        let (index, store) = (format!("{root}/{index}"), format!("{root}/{store}"));
        command.arg("extract");
        match desync {
            true => command.arg("-s").arg(store),
            false => command.arg(format!("--store={store}")),
        };
        if program == Program::Caswarm {
            command.arg("--linger=0");
        }
        let (seed, seed_index) = (self.seed().display().to_string(), self.published.index(self.old));
        let with_index = format!("{}:{seed}", seed_index.display());
        match (row, program) {
            (Row::Seed, Program::Desync) | (Row::SeedIndex, Program::Casync) => return None,
            (Row::Seed, _) => command.arg(format!("--seed={seed}")),
            (Row::SeedIndex, Program::Desync) => command.arg("--seed").arg(with_index),
            (Row::SeedIndex, _) => command.arg(format!("--seed={with_index}")),
            _ => &mut command,
        };
        command.arg(index).arg(out);
        Some(command)
    }

    /// The old image under a name that has no index beside it.
    fn seed(&self) -> PathBuf {
        self.work.join("seed.img")
    }

    fn run(&self, row: Row, program: Program) -> Option<Cost> {
        self.clean();
        let cost = measured(&mut self.command(row, program)?);
        if row == Row::Make {
            let [made, store, _] = self.outputs();
            let published = self.published.index(&self.published.new);
            match program {
                // It writes other feature flags into the head.
                Program::Desync => assert_eq!(chunks_of(&made), chunks_of(&published), "chunks of {made:?}"),
                _ => assert_same_bytes(&made, &published),
            }
            println!("{:>10} {:>8}: store of {:.1} MiB", "make", program.name(), mib(size_of(&store)));
        } else {
            assert_same_bytes(&self.work.join("out.img"), &self.published.new.image);
        }
        Some(cost)
    }
}

fn main() {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("not a release build: these are no figures (cargo bench makes one)");
    }
    let (work, at) = (common::workplace(args.work.as_deref()), common::workplace(args.work.as_deref()));
    let published = Published::new(&args.publish, work.path(), true);
    let Some(old) = &published.old else { common::lacks("this needs --seed-image and --seed-index beside --publish") };
    let server = serve(&published.root, work.path());
    let base = server.as_ref().map(|(_, base)| base.clone());
    let place = Place { published: &published, old, base, work: at.path() };
    std::os::unix::fs::symlink(&old.image, place.seed()).unwrap();

    let rows = if args.rows.is_empty() { Row::value_variants() } else { &args.rows };
    let programs: Vec<Program> =
        Program::value_variants().iter().copied().filter(|&program| installed(program)).collect();
    let mut costs = vec![Vec::new(); rows.len() * programs.len()];
    let pairs = || rows.iter().flat_map(|&row| programs.iter().map(move |&program| (row, program)));
    for _ in 0..args.runs {
        for ((row, program), costs) in pairs().zip(&mut costs) {
            costs.extend(place.run(row, program));
        }
    }
    place.clean();

    println!("{:>10} {:>8} {:>9} {:>9} {:>11} {:>16}", "", "", "time", "CPU", "peak", "caswarm's time /");
    let middle = |costs: &[Cost], of: fn(&Cost) -> f64| median(costs.iter().map(of));
    let mut ours = f64::NAN;
    for ((row, program), costs) in pairs().zip(&costs).filter(|(_, costs)| !costs.is_empty()) {
        let (seconds, cpu) = (middle(costs, |cost| cost.seconds), middle(costs, |cost| cost.cpu));
        let memory = middle(costs, |cost| mib(cost.memory));
        let row = row.to_possible_value().map_or_else(String::new, |row| row.get_name().to_owned());
        print!("{row:>10} {:>8} {seconds:>7.2} s {cpu:>7.2} s {memory:>7.1} MiB", program.name());
        if program == Program::Caswarm {
            ours = seconds;
            println!();
        } else {
            println!("{:>16.2}", ours / seconds);
        }
    }
}

/// Whether a program is there; says so if it is not.
fn installed(program: Program) -> bool {
    let installed = program == Program::Caswarm || find_program(program.name()).is_some();
    if !installed {
        println!("skipped: {} is not installed", program.name());
    }
    installed
}

/// Publishes a directory on loopback; None, and says so, where there is no nginx.
fn serve(root: &Path, work: &Path) -> Option<(Process, String)> {
    if find_program("nginx").is_none() {
        println!("skipped: extracting over HTTP, nginx is not installed");
        return None;
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut server = Process::spawn(&mut nginx(root, &work.join("nginx"), &address));
    wait_until("nginx listens", Duration::from_secs(10), || {
        assert!(server.is_running(), "nginx ended: {}", server.stderr());
        TcpStream::connect(&address).is_ok()
    });
    Some((server, format!("http://{address}")))
}

/// Bytes of all files under a directory.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => size_of(&entry.path()),
        meta => meta.len(),
    };
    entries.map(size).sum()
}
