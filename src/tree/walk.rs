//! A tree, node by node in the order of an archive: names sorted by their bytes, a directory before its entries. Leaves
//! out what casync leaves out. One directory of each level is open, and one file.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::FileStat;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::content::Content;
use super::exclude::{self, Rules};
use super::known::Known;
use super::owners::Owners;
use super::read::{self, Found};
use super::{Settings, TreeError, attributes};
use crate::format::archive::{EncodeError, Entry, Kind, MAX_DEPTH};
use crate::format::features;

const FORMAT: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// What comes next in a tree. Each node is one `Enter` and one `Leave`.
#[derive(Debug)]
pub enum Step {
    /// A node: its name in its directory (empty for the top), and what it is. If it is a regular file, its content can
    /// be read until the next step.
    Enter(Vec<u8>, Box<Entry>),
    /// The innermost node is complete.
    Leave,
}

/// A tree being read.
pub struct Walk {
    settings: Settings,
    owners: Owners,
    top: PathBuf,
    open: Vec<Level>,
    state: State,
}

enum State {
    /// The top has not been entered.
    Start(OwnedFd),
    Inside,
    /// In a node that is no directory, perhaps with content.
    Leaf(Option<Content>),
}

/// A directory that is open.
struct Level {
    fd: OwnedFd,
    path: Arc<Path>,
    names: std::vec::IntoIter<(CString, FileType)>,
    device: u64,
    magic: u64,
    mount: Option<u64>,
    rules: Rules,
}

/// A directory entry that is looked at.
struct Candidate {
    name: CString,
    fd: Option<OwnedFd>,
    stat: FileStat,
    magic: u64,
    chattr: u32,
    rules: Rules,
}

impl Walk {
    /// Opens the directory that is the top of the tree.
    ///
    /// # Errors
    /// When it cannot be opened or is no directory.
    pub fn open(top: &Path, settings: Settings) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(top, flags, Mode::empty());
        let fd =
            opened.map_err(|error| TreeError::Io { path: top.to_owned(), doing: "opening", error: error.into() })?;
        let (owners, open) = (Owners::default(), Vec::new());
        Ok(Self { settings, owners, top: top.to_owned(), open, state: State::Start(fd) })
    }

    /// The next step; `None` after the top was left.
    ///
    /// # Errors
    /// Whatever cannot be read, by its path. There is no going on after that.
    pub fn step(&mut self) -> Result<Option<Step>, TreeError> {
        match std::mem::replace(&mut self.state, State::Inside) {
            State::Start(fd) => self.enter_top(fd).map(Some),
            State::Leaf(content) => {
                if let Some(content) = content {
                    content.check_unchanged()?;
                }
                Ok(Some(Step::Leave))
            }
            State::Inside => self.next_entry(),
        }
    }

    /// Reads content of the file that was entered last into `buffer`, and fills it unless there is no more. Returns how
    /// much.
    ///
    /// # Errors
    /// When it cannot be read, or the file is shorter than it was.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TreeError> {
        match &mut self.state {
            State::Leaf(Some(content)) => content.read(buffer),
            _ => Ok(0),
        }
    }

    /// Leaves out content of the file that was entered last, at most so much. Returns how much.
    pub fn skip(&mut self, most: u64) -> u64 {
        match &mut self.state {
            State::Leaf(Some(content)) => {
                let skipped = content.left().min(most);
                content.skip(skipped);
                skipped
            }
            _ => 0,
        }
    }

    /// The file that was entered last, if it was one, as it is now known.
    pub fn known(&self) -> Option<Known> {
        match (&self.state, self.open.last()) {
            (State::Leaf(Some(content)), Some(level)) => Some(content.known(level.path.clone())),
            _ => None,
        }
    }

    /// Gives away the file that was entered last, for somebody else to read. `None` if that was none, or if it is given
    /// away already.
    pub fn take_content(&mut self) -> Option<Content> {
        match &mut self.state {
            State::Leaf(content) => content.take(),
            _ => None,
        }
    }

    fn enter_top(&mut self, fd: OwnedFd) -> Result<Step, TreeError> {
        let at_top = |doing| move |error: Errno| (doing, io::Error::from(error));
        let opened = (|| {
            let stat = read::stat(&fd).map_err(at_top("looking at it"))?;
            let magic = read::magic(&fd).map_err(at_top("looking at its file system"))?;
            let chattr = self.chattr(&fd).map_err(at_top("reading its attributes"))?;
            let found = Found { fd: Some(fd.as_fd()), place: None, stat: &stat, magic, chattr };
            let entry = read::entry(&found, &self.settings, &mut self.owners)?;
            Ok((stat, magic, entry))
        })();
        let (stat, magic, entry) = opened.map_err(|failed| self.failed(&[], failed))?;
        self.push(fd, &[], stat.st_dev, magic, Rules::default())?;
        Ok(Step::Enter(Vec::new(), Box::new(entry)))
    }

    fn next_entry(&mut self) -> Result<Option<Step>, TreeError> {
        loop {
            let Some(level) = self.open.last_mut() else { return Ok(None) };
            let Some((name, kind)) = level.names.next() else {
                self.open.pop();
                return Ok(Some(Step::Leave));
            };
            let bytes = name.to_bytes().to_owned();
            if self.open.len() >= MAX_DEPTH {
                return Err(TreeError::Archive { path: self.path(&bytes), error: EncodeError::TooDeep });
            }
            let candidate = self.look(name, kind).map_err(|failed| self.failed(&bytes, failed))?;
            if let Some(candidate) = candidate {
                return self.enter(candidate).map(Some);
            }
        }
    }

    /// Looks at a directory entry. `None`: it is left out.
    fn look(&self, name: CString, kind: FileType) -> Result<Option<Candidate>, read::Failed> {
        let failed = |doing: &'static str| move |error: Errno| (doing, io::Error::from(error));
        let Some(level) = self.open.last() else { return Ok(None) };
        let mut stat = None;
        let directory = match kind {
            FileType::Directory => true,
            FileType::RegularFile => false,
            _ => {
                let found = read::stat_at(&level.fd, &name).map_err(failed("looking at it"))?;
                if !self.is_wanted(&found) {
                    return Ok(None);
                }
                stat = Some(found);
                found.st_mode & FORMAT == DIRECTORY
            }
        };
        let (excluded, rules) = level.rules.apply(name.to_bytes(), directory);
        if excluded {
            return Ok(None);
        }
        if let Some(stat) = stat.filter(|stat| ![DIRECTORY, REGULAR].contains(&(stat.st_mode & FORMAT))) {
            return Ok(Some(Candidate { name, fd: None, stat, magic: level.magic, chattr: 0, rules }));
        }
        // A pipe that took the file's place must not keep us waiting.
        let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if directory {
            flags |= OFlags::DIRECTORY;
        }
        let fd = rustix::fs::openat(&level.fd, &name, flags, Mode::empty()).map_err(failed("opening"))?;
        let stat = read::stat(&fd).map_err(failed("looking at it"))?;
        if !directory && stat.st_mode & FORMAT != REGULAR {
            // So it is under fakeroot, where a device is a file that says that it is one.
            let candidate = Candidate { name, fd: None, stat, magic: level.magic, chattr: 0, rules };
            return Ok(self.is_wanted(&stat).then_some(candidate));
        }
        let chattr = self.chattr(&fd).map_err(failed("reading its attributes"))?;
        if self.settings.features & features::EXCLUDE_NODUMP != 0
            && features::from_chattr(chattr) & features::NODUMP != 0
        {
            return Ok(None);
        }
        if level.mount.is_some() && mount(fd.as_fd())? != level.mount {
            return Ok(None);
        }
        let magic = match stat.st_dev == level.device {
            true => level.magic,
            false => read::magic(&fd).map_err(failed("looking at its file system"))?,
        };
        Ok(Some(Candidate { name, fd: Some(fd), stat, magic, chattr, rules }))
    }

    /// Whether the feature flags want this kind of file.
    fn is_wanted(&self, stat: &FileStat) -> bool {
        let needs = match stat.st_mode & FORMAT {
            0o120_000 => features::SYMLINKS,
            0o060_000 | 0o020_000 => features::DEVICE_NODES,
            0o010_000 => features::FIFOS,
            0o140_000 => features::SOCKETS,
            _ => 0,
        };
        self.settings.features & needs == needs
    }

    fn enter(&mut self, candidate: Candidate) -> Result<Step, TreeError> {
        let Candidate { name, fd, stat, magic, chattr, rules } = candidate;
        let bytes = name.to_bytes().to_owned();
        let entry = {
            let place = self.open.last().map(|level| (level.fd.as_fd(), name.as_c_str()));
            let found = Found { fd: fd.as_ref().map(AsFd::as_fd), place, stat: &stat, magic, chattr };
            read::entry(&found, &self.settings, &mut self.owners)
        };
        let entry = entry.map_err(|failed| self.failed(&bytes, failed))?;
        match (&entry.kind, fd) {
            (Kind::Directory, Some(fd)) => self.push(fd, &bytes, stat.st_dev, magic, rules)?,
            (Kind::File { size }, Some(fd)) => {
                let content = Content::new(fd.into(), self.path(&bytes), stat, *size);
                self.state = State::Leaf(Some(content));
            }
            _ => self.state = State::Leaf(None),
        }
        Ok(Step::Enter(bytes, Box::new(entry)))
    }

    /// Opens a level: its names, and what rules it has itself.
    fn push(&mut self, fd: OwnedFd, name: &[u8], device: u64, magic: u64, mut rules: Rules) -> Result<(), TreeError> {
        let word = self.settings.features;
        let failed = |doing: &'static str| move |error: Errno| (doing, io::Error::from(error));
        let opened = (|| {
            let names = match read::is_virtual(magic) {
                true => Vec::new(),
                false => names(fd.as_fd()).map_err(failed("reading the directory"))?,
            };
            let mount = match word & features::EXCLUDE_SUBMOUNTS {
                0 => None,
                _ => mount(fd.as_fd())?,
            };
            let with_rules = names.binary_search_by(|(name, _)| name.to_bytes().cmp(exclude::FILE)).is_ok();
            if with_rules && word & features::EXCLUDE_FILE != 0 {
                let doing = "reading .caexclude";
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
                let file = rustix::fs::openat(&fd, exclude::FILE, flags, Mode::empty()).map_err(failed(doing))?;
                let mut text = Vec::new();
                File::from(file).read_to_end(&mut text).map_err(|error| (doing, error))?;
                rules.add(&text).map_err(|error| (doing, io::Error::other(error)))?;
            }
            Ok((names, mount))
        })();
        let (names, mount) = opened.map_err(|error| self.failed(name, error))?;
        let path = self.path(name).into();
        self.open.push(Level { fd, path, names: names.into_iter(), device, magic, mount, rules });
        Ok(())
    }

    fn chattr(&self, fd: impl AsFd) -> Result<u32, Errno> {
        match self.settings.features & (features::CHATTR | features::EXCLUDE_NODUMP) {
            0 => Ok(0),
            _ => attributes::chattr(fd),
        }
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        let directory = self.open.last().map_or(self.top.as_path(), |level| &*level.path);
        if name.is_empty() { directory.to_owned() } else { directory.join(OsStr::from_bytes(name)) }
    }

    fn failed(&self, name: &[u8], (doing, error): read::Failed) -> TreeError {
        TreeError::Io { path: self.path(name), doing, error }
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if ![&b"."[..], b".."].contains(&name.to_bytes()) {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(names)
}

/// The mount that an open file was reached by: not its file system, which may be mounted several times.
fn mount(file: BorrowedFd<'_>) -> Result<Option<u64>, read::Failed> {
    let doing = "looking up its mount";
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let info = std::fs::read_to_string(path).map_err(|error| (doing, error))?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(line.and_then(|id| id.trim().parse().ok()))
}
