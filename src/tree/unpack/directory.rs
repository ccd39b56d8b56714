//! Directories of a tree that is unpacked: opened or made on the way in, and given what they are to become on the way
//! out, when nothing in them changes any more.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Directory, Doing, Unpacker, metadata, place};
use crate::format::archive::Entry;
use crate::format::features;
use crate::tree::{attributes, posix_acl, read};

impl Unpacker {
    pub(super) fn enter_top(&mut self, entry: Entry, replay: u64) -> Doing<()> {
        let subvolume = replay & entry.attributes & features::SUBVOLUME != 0;
        let Some(mut base) = self.open.pop() else { return Ok(()) };
        if base.fresh && subvolume {
            base.fd = Arc::new(self.top_as_subvolume()?);
        } else if base.fresh && metadata::has_permissions(replay) {
            // Nobody else looks inside before it has its own permissions.
            let _ = place::chmod(&base.fd, 0o700);
        } else if !base.fresh {
            if replay & features::SUBVOLUME != 0 {
                self.check_subvolume(&base.fd, &base.name, subvolume)?;
            }
            self.prepare_directory(&base.fd)?;
        }
        let early = metadata::early(&entry, replay);
        if base.inherits || !base.fresh || early.is_some_to_set() {
            let done = early.apply(&base.fd);
            self.complain_all(&[], done);
        }
        base.inherits = inherits(&base.fd);
        base.becomes = Some((entry, replay));
        self.open.push(base);
        Ok(())
    }

    /// Replaces the top, which was made just now, by a subvolume.
    fn top_as_subvolume(&self) -> Doing<OwnedFd> {
        let doing = "making it a subvolume";
        let real = self.top.canonicalize().map_err(|_| (doing, Errno::NOENT))?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else { return Err((doing, Errno::EXIST)) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| (doing, error))?;
        rustix::fs::rmdir(&real).map_err(|error| (doing, error))?;
        attributes::create_subvolume(&parent, name.as_bytes()).map_err(|error| (doing, error))?;
        rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| (doing, error))
    }

    pub(super) fn enter_directory(&mut self, name: CString, entry: Entry, replay: u64) -> Doing<()> {
        let subvolume = replay & entry.attributes & features::SUBVOLUME != 0;
        let parent = self.parent(&name)?;
        // Nobody else looks inside before it has its own permissions.
        let mode = if metadata::has_permissions(replay) { 0o700 } else { 0o777 };
        let (fd, fresh) = self.open_directory(&parent, &name, subvolume, mode)?;
        if !fresh && replay & features::SUBVOLUME != 0 {
            self.check_subvolume(&fd, &name, subvolume)?;
        }
        if !fresh {
            self.prepare_directory(&fd)?;
        }
        let early = metadata::early(&entry, replay);
        let inherited = self.open.last().is_some_and(|parent| parent.inherits);
        if inherited || !fresh || early.is_some_to_set() {
            let done = early.apply(&fd);
            self.complain_all(name.to_bytes(), done);
        }
        let inherits = inherits(&fd);
        let becomes = Some((entry, replay));
        self.open.push(Directory { fd: Arc::new(fd), name, becomes, fresh, inherits, names: Vec::new() });
        Ok(())
    }

    /// An existing directory must let us in.
    fn prepare_directory(&mut self, fd: &OwnedFd) -> Doing<()> {
        let stat = read::stat(fd).map_err(|error| ("looking at it", error))?;
        if self.options.undo_immutable {
            let _ = attributes::set_chattr(fd, 0, place::UNCHANGEABLE);
        }
        if stat.st_mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root() {
            let _ = place::chmod(fd, stat.st_mode & 0o7777 | 0o700);
        }
        Ok(())
    }

    pub(super) fn leave_directory(&mut self, directory: Directory) -> Doing<()> {
        let Some((entry, replay)) = &directory.becomes else { return Ok(()) };
        if self.options.delete && !directory.fresh {
            let base = self.path(directory.name.to_bytes());
            let mut left = Vec::new();
            place::delete_others(&directory.fd, &directory.names, self.options.undo_immutable, &base, &mut left)?;
            left.into_iter().for_each(|(name, what)| self.complain_text(name, what));
        }
        let name = directory.name.to_bytes();
        let done = metadata::apply(&directory.fd, entry, *replay, self.options.shift, &mut self.owners, true);
        self.complain_all(name, done);
        let done = metadata::late(&directory.fd, entry, *replay, true);
        self.complain_all(name, done);
        Ok(())
    }

    fn open_directory(&self, parent: &OwnedFd, name: &CString, subvolume: bool, mode: u32) -> Doing<(OwnedFd, bool)> {
        let make = || match subvolume {
            true => attributes::create_subvolume(parent, name.to_bytes()),
            false => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)),
        };
        let mut made = make();
        if made == Err(Errno::EXIST) && place::is_directory(parent, name) == Some(false) {
            place::remove(parent, name, self.options.undo_immutable)
                .map_err(|error| ("replacing what is there", error))?;
            made = make();
        }
        let fresh = match made {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(("making the directory", error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(parent, name, flags, Mode::empty());
        let opened = open().or_else(|error| match error {
            Errno::ACCESS if !fresh => {
                place::chmod_at(parent, name, 0o700)?;
                open()
            }
            error => Err(error),
        });
        Ok((opened.map_err(|error| ("opening the directory", error))?, fresh))
    }

    fn check_subvolume(&mut self, fd: &OwnedFd, name: &CString, wanted: bool) -> Doing<()> {
        let is = attributes::is_read_only_subvolume(fd);
        if wanted != is.is_ok() {
            let reason = io::Error::other("is there already, but one is a subvolume and the other is not");
            self.complain(name.to_bytes(), "subvolume", reason);
        }
        if is == Ok(true) {
            let writable = attributes::set_read_only_subvolume(fd, false);
            return writable.map_err(|error| ("making the subvolume writable", error));
        }
        Ok(())
    }
}

/// Whether what is made in a directory may get attributes or an access control list from it.
pub(super) fn inherits(directory: &OwnedFd) -> bool {
    let list = rustix::fs::fgetxattr(directory, posix_acl::DEFAULT, &mut [0; 0][..]);
    attributes::chattr(directory).is_ok_and(|flags| flags != 0) || list.is_ok_and(|length| length > 0)
}
