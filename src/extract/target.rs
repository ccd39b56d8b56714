//! Where the image goes: a file that appears whole under its name, a file updated in place, or a block device. Decides
//! before the first write whether the image can go there. It does not write the image: the assembly does.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::IndexId;
use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::holes::Zeros;

/// What the user asked for about the target.
#[derive(Debug, Clone, Copy)]
pub struct TargetOptions {
    /// An existing regular file is updated where it is, instead of being replaced when the new one is whole.
    pub in_place: bool,
    /// Zeros become holes where the file system has such.
    pub punch_holes: bool,
}

/// An open target of the right length, locked against a second extraction of the same thing.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: Arc<File>,
    kind: Kind,
    length: u64,
    zeros: Zeros,
    has_content: bool,
}

#[derive(Debug)]
enum Kind {
    /// A temporary file beside the final name, and the mode of the file that it replaces.
    Temporary {
        name: PathBuf,
        replaces: Option<std::fs::Permissions>,
    },
    InPlace,
    Device,
    /// A file that nobody finds again.
    Nameless,
}

/// Why the image cannot go there. No message is needed besides: each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Of a kind that cannot hold an image.
    #[error("{path}: {reason}")]
    Unsuitable {
        /// The target as named.
        path: PathBuf,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A device is shorter than the image.
    #[error("{path} holds {size} bytes, the image is {length} bytes: nothing was written")]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The image's length in bytes.
        length: u64,
    },
    /// Somebody else uses it.
    #[error("{path} is in use: {reason}")]
    Busy {
        /// The device or temporary file.
        path: PathBuf,
        /// By whom, as far as known.
        reason: &'static str,
    },
    /// The file system is full.
    #[error("{path}: the file system is full ({free} bytes free); make room and run the same command again: {kept}")]
    Full {
        /// The target as named.
        path: PathBuf,
        /// Bytes that are free for this user.
        free: u64,
        /// Where what was written is kept, for people.
        kept: String,
    },
    /// Anything else that the system says.
    #[error("{path}: {doing}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Target {
    /// Opens the target for an image of `length` bytes. Nothing that was there before is changed, except that a file
    /// updated in place is extended.
    ///
    /// # Errors
    /// [`TargetError`]: every reason that can be known before the first write.
    pub fn open(path: &Path, length: u64, index: IndexId, options: TargetOptions) -> Result<Self, TargetError> {
        if path == Path::new("-") || path == Path::new("/dev/stdout") {
            return Err(unsuitable(path, "an image is not written in order, so not to standard output; name a file"));
        }
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Self::open_device(path, length),
            Ok(found) if found.is_dir() => Err(unsuitable(path, "is a directory; name a file or a block device")),
            Ok(found) if !found.is_file() => Err(unsuitable(path, "is neither a regular file nor a block device")),
            Ok(found) => {
                let real = std::fs::canonicalize(path).map_err(|error| io_at(path, "resolving", error))?;
                if options.in_place {
                    return Self::open_in_place(&real, length, options);
                }
                Self::open_temporary(&real, length, index, options, Some(found.permissions()), false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(unsuitable(path, "is a symbolic link to nothing; remove it or name its target"));
                }
                Self::open_temporary(path, length, index, options, None, false)
            }
            Err(error) => Err(io_at(path, "looking at the target", error)),
        }
    }

    /// Opens a file that only this extraction uses, and that another run of it finds again, under a temporary name beside
    /// `path`, which it never gets. Nobody else can read it.
    ///
    /// # Errors
    /// [`TargetError`]: every reason that can be known before the first write.
    pub fn open_spool(path: &Path, length: u64, index: IndexId) -> Result<Self, TargetError> {
        let options = TargetOptions { in_place: false, punch_holes: true };
        let target = Self::open_temporary(path, length, index, options, None, true)?;
        let private = target.file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
        private.map_err(|error| target.error("making it private", error))?;
        Ok(target)
    }

    /// The same, of a new and empty file of that length that has no name, in the directory `place`.
    pub(super) fn nameless(place: PathBuf, file: File, length: u64) -> Self {
        let (file, kind, zeros) = (Arc::new(file), Kind::Nameless, Zeros::Skip);
        Self { path: place, file, kind, length, zeros, has_content: false }
    }

    /// Removes the file of [`Target::open_spool`]. Whoever has it open can go on reading.
    ///
    /// # Errors
    /// What the system said.
    pub fn discard(&self) -> Result<(), TargetError> {
        std::fs::remove_file(self.working_path()).map_err(|error| self.error("removing it", error))
    }

    /// What an extraction would find there, for a plan that writes nothing: the file to look into, if there is any.
    pub fn peek(path: &Path, index: IndexId, options: TargetOptions) -> Option<File> {
        let in_place =
            options.in_place || std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        File::open(if in_place { real } else { temporary_name(&real, index)? }).ok()
    }

    /// The target's path, symbolic links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes are while the image is not whole.
    pub fn working_path(&self) -> &Path {
        match &self.kind {
            Kind::Temporary { name, .. } => name,
            Kind::InPlace | Kind::Device | Kind::Nameless => &self.path,
        }
    }

    /// The open file: of the image's length at least.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// How zeros are to be written.
    pub fn zeros(&self) -> Zeros {
        self.zeros
    }

    /// Whether something was there already that may be right: an interrupted extraction, an older image, a device.
    pub fn has_content(&self) -> bool {
        self.has_content
    }

    /// An older file that this one will replace.
    pub fn replaced(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Temporary { replaces: Some(_), .. } => Some(&self.path),
            _ => None,
        }
    }

    /// Makes the image durable and gives it its name.
    ///
    /// # Errors
    /// [`TargetError`]; the final name is untouched then.
    pub fn finish(&self) -> Result<(), TargetError> {
        if !matches!(self.kind, Kind::Device) {
            self.file.set_len(self.length).map_err(|error| self.error("setting its length", error))?;
        }
        self.file.sync_all().map_err(|error| self.error("writing it to the disk", error))?;
        let Kind::Temporary { name, replaces } = &self.kind else { return Ok(()) };
        if let Some(mode) = replaces {
            // A mode that this file system cannot keep is no reason to refuse the image.
            let _ = self.file.set_permissions(mode.clone());
        }
        std::fs::rename(name, &self.path).map_err(|error| self.error("giving the image its name", error))?;
        if let Ok(directory) = File::open(directory_of(&self.path)) {
            directory.sync_all().map_err(|error| self.error("writing its directory to the disk", error))?;
        }
        Ok(())
    }

    /// Says what went wrong with this target. A full disk is told from the rest, because its remedy is another.
    pub fn error(&self, doing: &'static str, source: io::Error) -> TargetError {
        if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return io_at(self.working_path(), doing, source);
        }
        let free = rustix::fs::fstatvfs(&self.file).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        TargetError::Full { path: self.path.clone(), free, kept: self.kept() }
    }

    /// One clause for people about what becomes of what was written so far.
    pub fn kept(&self) -> String {
        match &self.kind {
            Kind::Temporary { name, .. } => format!("what was written is kept in {} and found again", name.display()),
            Kind::InPlace | Kind::Device => "what was written is found again".to_owned(),
            Kind::Nameless => "nothing is kept".to_owned(),
        }
    }

    /// Gives up, and says in one clause for people what becomes of what was written so far. A temporary file that was
    /// made for nothing is removed.
    pub fn abandon(&self, empty: bool) -> String {
        match &self.kind {
            Kind::Temporary { name, .. } if empty && !self.has_content => {
                let _ = std::fs::remove_file(name);
                "nothing was written".to_owned()
            }
            _ => self.kept(),
        }
    }

    fn open_device(path: &Path, length: u64) -> Result<Self, TargetError> {
        // On a block device EXCL without CREATE means: not while a file system on it is mounted.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
        let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::BUSY) => {
                return Err(TargetError::Busy { path: path.to_owned(), reason: "mounted, or part of another device" });
            }
            Err(errno) => return Err(io_at(path, "opening the device for writing", errno.into())),
        };
        let size = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|errno| io_at(path, "its size", errno.into()))?;
        if size < length {
            return Err(TargetError::TooSmall { path: path.to_owned(), size, length });
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            kind: Kind::Device,
            length,
            zeros: Zeros::Write,
            has_content: true,
        })
    }

    fn open_in_place(path: &Path, length: u64, options: TargetOptions) -> Result<Self, TargetError> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| io_at(path, "opening for writing", error))?;
        lock(&file, path)?;
        let size = file.metadata().map_err(|error| io_at(path, "its size", error))?.len();
        if size < length {
            file.set_len(length).map_err(|error| io_at(path, "extending it", error))?;
        }
        let zeros = if options.punch_holes { Zeros::Punch } else { Zeros::Write };
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            kind: Kind::InPlace,
            length,
            zeros,
            has_content: size > 0,
        })
    }

    fn open_temporary(
        path: &Path,
        length: u64,
        index: IndexId,
        options: TargetOptions,
        replaces: Option<std::fs::Permissions>,
        private: bool,
    ) -> Result<Self, TargetError> {
        let name = temporary_name(path, index).ok_or_else(|| unsuitable(path, "has no file name; name a file"))?;
        if !directory_of(path).is_dir() {
            return Err(unsuitable(path, "its directory does not exist; make it first"));
        }
        let file = loop {
            // The name can be foreseen, and somebody else may have put a link there, or a file of his own.
            let mut how = File::options();
            how.read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
            let file = match how.clone().create_new(true).open(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match how.open(&name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Ok(file) if private && !is_ours_alone(&file) => {
                        let source =
                            io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's; remove it");
                        return Err(io_at(&name, "taking up the temporary file", source));
                    }
                    opened => opened,
                },
                made => made,
            };
            let file = file.map_err(|error| io_at(&name, "making the temporary file", error))?;
            lock(&file, &name)?;
            // Whoever held the lock until now may just have renamed the file away.
            let here = file.metadata().map_err(|error| io_at(&name, "looking at it", error))?;
            match std::fs::metadata(&name) {
                Ok(there) if (there.dev(), there.ino()) == (here.dev(), here.ino()) => break file,
                _ => {}
            }
        };
        let size = file.metadata().map_err(|error| io_at(&name, "its size", error))?.len();
        file.set_len(length).map_err(|error| io_at(&name, "setting its length", error))?;
        let zeros = match (options.punch_holes, size) {
            (false, _) => Zeros::Write,
            (true, 0) => Zeros::Skip,
            (true, _) => Zeros::Punch,
        };
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            kind: Kind::Temporary { name, replaces },
            length,
            zeros,
            has_content: size > 0,
        })
    }
}

fn is_ours_alone(file: &File) -> bool {
    let ours = |found: std::fs::Metadata| found.uid() == rustix::process::geteuid().as_raw() && found.nlink() <= 1;
    file.metadata().is_ok_and(ours)
}

/// `.os.img.0123abcd.caswarm` beside `os.img`: the same for every extraction of this index to this name, which is how
/// an interrupted one is found again. `None` if the path has no last component.
fn temporary_name(path: &Path, index: IndexId) -> Option<PathBuf> {
    // File systems take 255 bytes: a long name is cut, and the index keeps it unique.
    const LONGEST: usize = 255 - ".".len() - ".01234567.caswarm".len();
    let target = path.file_name()?.as_bytes();
    let mut name = b".".to_vec();
    name.extend_from_slice(&target[..target.len().min(LONGEST)]);
    name.extend_from_slice(format!(".{}.caswarm", hex::encode(&index.0[..4])).as_bytes());
    Some(path.with_file_name(std::ffi::OsStr::from_bytes(&name)))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn lock(file: &File, path: &Path) -> Result<(), TargetError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            Err(TargetError::Busy { path: path.to_owned(), reason: "another extraction of this image writes there" })
        }
        // Some network file systems have no locks; two extractions at once then cost time, never correctness.
        Err(_) => Ok(()),
    }
}

fn unsuitable(path: &Path, reason: &'static str) -> TargetError {
    TargetError::Unsuitable { path: path.to_owned(), reason }
}

fn io_at(path: &Path, doing: &'static str, source: io::Error) -> TargetError {
    TargetError::Io { path: path.to_owned(), doing, source }
}
