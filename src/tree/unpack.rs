//! Nodes of an archive become files: the other way round of [`super::walk`]. Never outside of the target: every step
//! down is one name in a directory that is open, and no symbolic link is followed below the top. A file appears under
//! its name when it is whole, unless its directory is new too; what is there already is replaced, or kept if it is a
//! directory. Metadata are put in the order in which one does not undo the other.
//!
//! What the file system or the user cannot have of metadata is no reason to stop: it is collected, by path, for the
//! caller to judge. Nothing is written through to the disk here, as casync does not either.

mod directory;
mod metadata;
mod place;
mod share;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use proto::ChunkId;

use super::known::{Known, Share};
use super::owners::{Owners, Shift};
use super::read;
use crate::extract::holes::write_sparse;
use crate::format::archive::{Entry, Kind, encode_node};
use crate::format::digest::{Digest, Hasher};
use crate::format::features;
use directory::inherits;
use share::Sharing;

/// How a tree is put back.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which features are put back, of those that the archive has.
    pub wanted: u64,
    /// How owners' numbers change.
    pub shift: Shift,
    /// Remove what is not in the archive.
    pub delete: bool,
    /// What is in the way may be immutable or append-only.
    pub undo_immutable: bool,
    /// Zeros become holes.
    pub punch_holes: bool,
}

/// Why unpacking ended early.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {doing}: {error}")]
pub struct UnpackError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was being done.
    pub doing: &'static str,
    /// What the system said.
    pub error: io::Error,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and all others, the top included.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Of these, how many are in blocks shared with seeds.
    pub shared: u64,
    /// Files that became hard links to files of seeds.
    pub linked: u64,
    /// How many things could not be put back.
    pub complaints_total: u64,
    /// The first hundred of them, each with its path.
    pub complaints: Vec<String>,
}

/// How many complaints are kept word for word.
const COMPLAINTS: usize = 100;

/// A tree being written.
pub struct Unpacker {
    options: Options,
    owners: Owners,
    top: PathBuf,
    open: Vec<Directory>,
    file: Option<NewFile>,
    done: Unpacked,
    temporary: u64,
    equal: Option<Equal>,
}

/// Answers with a file that has the hard link digest, if one is known.
type Equal = Box<dyn Fn(&ChunkId) -> Option<Arc<Known>> + Send>;

/// A directory that is open.
struct Directory {
    fd: Arc<OwnedFd>,
    name: CString,
    /// What it is to become; `None` for a top that is only there to hold what is unpacked.
    becomes: Option<(Entry, u64)>,
    /// It was made just now, and nobody else looks at it.
    fresh: bool,
    /// What is made in it may get attributes from it.
    inherits: bool,
    /// The names that belong into it, in order, unless it is fresh and has no others.
    names: Vec<Vec<u8>>,
}

/// A file that is being written.
struct NewFile {
    file: File,
    name: CString,
    temporary: Option<CString>,
    entry: Entry,
    replay: u64,
    offset: u64,
    /// It ends in a hole that was skipped, not written.
    short: bool,
    sharing: Option<Sharing>,
    /// For its hard link digest.
    hasher: Option<Hasher>,
}

type Doing<T> = Result<T, (&'static str, Errno)>;

impl Unpacker {
    /// Opens the directory that is the target, or makes it.
    ///
    /// # Errors
    /// When there is something else, or it cannot be opened.
    pub fn open(top: &Path, options: Options) -> Result<Self, UnpackError> {
        let failed = |doing| move |error: Errno| UnpackError { path: top.to_owned(), doing, error: error.into() };
        let fresh = match rustix::fs::mkdir(top, Mode::from_raw_mode(0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed("making the directory")(error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(top, flags, Mode::empty()).map_err(failed("opening the directory"))?;
        let inherits = inherits(&fd);
        let base =
            Directory { fd: Arc::new(fd), name: CString::default(), becomes: None, fresh, inherits, names: Vec::new() };
        Ok(Self {
            options,
            owners: Owners::default(),
            top: top.to_owned(),
            open: vec![base],
            file: None,
            done: Unpacked::default(),
            temporary: crate::source::random(),
            equal: None,
        })
    }

    /// The same, with hard links to known files where `equal` knows one with the digest.
    #[must_use]
    pub fn linking(self, equal: impl Fn(&ChunkId) -> Option<Arc<Known>> + Send + 'static) -> Self {
        Self { equal: Some(Box::new(equal)), ..self }
    }

    /// What of the file that was entered last may share blocks, in order. To be said before its content.
    pub fn share(&mut self, shares: Vec<Share>) {
        if let Some(file) = self.file.as_mut().filter(|_| !shares.is_empty())
            && let Kind::File { size } = file.entry.kind
        {
            file.sharing = Some(Sharing::new(shares, size));
        }
    }

    /// The next node. With an empty name it is the top itself, else an entry of the innermost open directory. `word` is
    /// the archive's feature flags word.
    ///
    /// # Errors
    /// When it cannot be made; metadata that cannot be had are complaints.
    pub fn enter(&mut self, name: &[u8], entry: Entry, word: u64) -> Result<(), UnpackError> {
        let replay = features::replayed(word, self.options.wanted);
        if entry.kind.feature() & !replay != 0 {
            return Ok(());
        }
        self.done.entries += 1;
        if name.is_empty() {
            let entered = self.enter_top(entry, replay);
            return entered.map_err(|(doing, error)| self.failed(&[], doing, error));
        }
        // The decoder let no NUL through.
        let c_name = CString::new(name).map_err(|_| self.failed(name, "its name", Errno::INVAL))?;
        let entered = match entry.kind {
            Kind::Directory => self.enter_directory(c_name, entry, replay),
            Kind::File { .. } => self.enter_file(c_name, entry, replay, word),
            _ => self.make_special(&c_name, &entry, replay),
        };
        entered.map_err(|(doing, error)| self.failed(name, doing, error))
    }

    /// The next bytes of the file that was entered last.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn content(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Some(hasher) = &mut file.hasher {
            hasher.update(bytes);
        }
        let (punch, short, handle) = (self.options.punch_holes, &mut file.short, &file.file);
        let mut write = |bytes: &[u8], offset, occupied| match punch {
            true => write_sparse(handle, bytes, offset, occupied).map(|to_the_end| *short = !to_the_end),
            false => handle.write_all_at(bytes, offset),
        };
        let written = match &mut file.sharing {
            Some(sharing) => sharing.content(handle, bytes, write),
            None => write(bytes, file.offset, false),
        };
        file.offset += bytes.len() as u64;
        self.done.bytes += bytes.len() as u64;
        let name = file.name.clone();
        written.map_err(|error| UnpackError { path: self.path(name.to_bytes()), doing: "writing", error })
    }

    /// The innermost node is complete. If it is a file, returns the names on the way to it from [`Unpacker::top`].
    ///
    /// # Errors
    /// When it cannot be given its name, or what does not belong there cannot be removed.
    pub fn leave(&mut self, directory: bool) -> Result<Option<Vec<CString>>, UnpackError> {
        if let Some(file) = self.file.take() {
            let name = file.name.clone();
            let left = self.leave_file(file);
            left.map_err(|(doing, error)| self.failed(name.to_bytes(), doing, error))?;
            let above = self.open.iter().skip(1).map(|directory| directory.name.clone());
            return Ok(Some(above.chain([name]).collect()));
        }
        if directory && let Some(directory) = self.open.pop() {
            let name = directory.name.clone();
            let left = self.leave_directory(directory);
            left.map_err(|(doing, error)| self.failed(name.to_bytes(), doing, error))?;
        }
        Ok(None)
    }

    /// The target itself; `None` after it was left.
    pub fn top(&self) -> Option<Arc<OwnedFd>> {
        self.open.first().map(|top| top.fd.clone())
    }

    /// What was done, after the last node was left.
    pub fn finish(self) -> Unpacked {
        self.done
    }

    fn enter_file(&mut self, name: CString, entry: Entry, replay: u64, word: u64) -> Doing<()> {
        let parent = self.parent(&name)?;
        let (fresh, inherits) = self.open.last().map_or((false, false), |parent| (parent.fresh, parent.inherits));
        let mode = if metadata::has_permissions(replay) { 0o600 } else { 0o666 };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let temporary = if fresh { None } else { Some(self.temporary_name()) };
        let open = |name: &CString| rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(mode));
        let opened = open(temporary.as_ref().unwrap_or(&name));
        let file: File = opened.map_err(|error| ("making the file", error))?.into();
        let early = metadata::early(&entry, replay);
        if inherits || early.is_some_to_set() {
            let done = early.apply(&file);
            self.complain_all(name.to_bytes(), done);
        }
        // Only who puts everything back as it is can have the same file.
        let all = replay == features::replayed(word, features::ALL) && self.options.shift == Shift::default();
        let hasher = self.equal.as_ref().filter(|_| all).map(|_| {
            let (mut hasher, mut records) = (Digest::of_features(word).hasher(), Vec::new());
            encode_node(word, &entry, &mut records);
            hasher.update(&records);
            hasher
        });
        let (offset, short, sharing) = (0, false, None);
        self.file = Some(NewFile { file, name, temporary, entry, replay, offset, short, sharing, hasher });
        Ok(())
    }

    fn leave_file(&mut self, new: NewFile) -> Doing<()> {
        let NewFile { file, name, temporary, entry, replay, offset, short, sharing, hasher } = new;
        let discard = |unpacker: &Self, error| {
            if let (Some(temporary), Some(parent)) = (&temporary, unpacker.open.last()) {
                let _ = place::unlink(&parent.fd, temporary);
            }
            error
        };
        if let Some(known) = hasher.zip(self.equal.as_ref()).and_then(|(hasher, equal)| equal(&hasher.finish()))
            && self.link(&known, temporary.as_ref(), &name).map_err(|error| discard(self, error))?
        {
            self.done.linked += 1;
            return Ok(());
        }
        self.done.shared += sharing.map_or(0, |sharing| sharing.shared());
        if short {
            let sized = rustix::fs::ftruncate(&file, offset);
            sized.map_err(|error| discard(self, ("setting its length", error)))?;
        }
        let inherits = self.open.last().is_some_and(|parent| parent.inherits);
        let done = metadata::apply(&file, &entry, replay, self.options.shift, &mut self.owners, inherits);
        self.complain_all(name.to_bytes(), done);
        if let Some(temporary) = &temporary {
            self.install(temporary, &name).map_err(|error| discard(self, error))?;
        }
        let done = metadata::late(&file, &entry, replay, inherits);
        self.complain_all(name.to_bytes(), done);
        Ok(())
    }

    /// Puts a known file into the place of one that was written just now. `false`: it cannot be.
    fn link(&mut self, known: &Known, written: Option<&CString>, name: &CString) -> Doing<bool> {
        let Some(parent) = self.open.last().map(|parent| parent.fd.clone()) else { return Ok(false) };
        // It may be there already: then there is nothing to replace.
        if read::stat_at(&parent, name).is_ok_and(|stat| known.is_file_of(&stat)) {
            if known.open().is_none() {
                return Ok(false);
            }
        } else {
            let temporary = self.temporary_name();
            if known.link(&parent, &temporary).is_err() {
                return Ok(false);
            }
            self.install(&temporary, name).inspect_err(|_| {
                let _ = place::unlink(&parent, &temporary);
            })?;
        }
        match written {
            Some(written) => place::unlink(&parent, written).map_err(|error| ("removing a copy", error)).map(|()| true),
            None => Ok(true),
        }
    }

    /// Symbolic links, devices, pipes and sockets.
    fn make_special(&mut self, name: &CString, entry: &Entry, replay: u64) -> Doing<()> {
        let parent = self.parent(name)?;
        let fresh = self.open.last().is_some_and(|parent| parent.fresh);
        let temporary = if fresh { None } else { Some(self.temporary_name()) };
        let at = temporary.as_ref().unwrap_or(name);
        match place::make(&parent, at, entry) {
            Ok(()) => {}
            Err(error @ (Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV)) => {
                self.complain(name.to_bytes(), "cannot be made here", error.into());
                return Ok(());
            }
            Err(error) => return Err(("making it", error)),
        }
        let done = metadata::apply_at(&parent, at, entry, replay, self.options.shift, &mut self.owners);
        self.complain_all(name.to_bytes(), done);
        match &temporary {
            Some(temporary) => self.install(temporary, name).inspect_err(|_| {
                let _ = place::unlink(&parent, temporary);
            }),
            None => Ok(()),
        }
    }

    /// The innermost open directory, which gets one more name that belongs into it.
    fn parent(&mut self, name: &CString) -> Doing<Arc<OwnedFd>> {
        let Some(parent) = self.open.last_mut() else { return Err(("looking for its directory", Errno::NOENT)) };
        if !parent.fresh {
            parent.names.push(name.to_bytes().to_owned());
        }
        Ok(parent.fd.clone())
    }

    /// Gives something that is complete its name, in the place of whatever has it.
    fn install(&self, temporary: &CString, name: &CString) -> Doing<()> {
        let Some(parent) = self.open.last() else { return Ok(()) };
        let installed = place::rename(&parent.fd, temporary, name).or_else(|error| match error {
            Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::PERM => {
                place::remove(&parent.fd, name, self.options.undo_immutable)?;
                place::rename(&parent.fd, temporary, name)
            }
            error => Err(error),
        });
        installed.map_err(|error| ("replacing what is there", error))
    }

    fn temporary_name(&mut self) -> CString {
        self.temporary = self.temporary.wrapping_add(1);
        CString::new(format!(".#caswarm{:016x}", self.temporary)).unwrap_or_default()
    }

    fn complain_all(&mut self, name: &[u8], failures: Vec<metadata::Failure>) {
        failures.into_iter().for_each(|(what, error)| self.complain(name, what, error));
    }

    fn complain(&mut self, name: &[u8], what: &str, error: io::Error) {
        let path = self.path(name);
        self.complain_text(path, format!("{what}: {error}"));
    }

    fn complain_text(&mut self, path: PathBuf, what: String) {
        self.done.complaints_total += 1;
        if self.done.complaints.len() < COMPLAINTS {
            self.done.complaints.push(format!("{}: {what}", path.display()));
        }
    }

    /// The path of something in the innermost open directory.
    fn path(&self, name: &[u8]) -> PathBuf {
        let mut path = self.top.clone();
        let names = self.open.iter().map(|directory| directory.name.to_bytes()).chain([name]);
        names.filter(|name| !name.is_empty()).for_each(|name| path.push(OsStr::from_bytes(name)));
        path
    }

    fn failed(&self, name: &[u8], doing: &'static str, error: Errno) -> UnpackError {
        UnpackError { path: self.path(name), doing, error: error.into() }
    }
}
