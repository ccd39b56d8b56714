//! One node's records become an [`Entry`], and everything is checked that can be checked without its neighbours.

use super::record::*;
use super::{Acl, AclEntry, DefaultAcl, Entry, FORMAT, Kind, MAX_METADATA, Problem};
use crate::format::features;

/// A node whose records are still coming.
#[derive(Debug)]
pub(super) struct Draft {
    features: u64,
    mode: u32,
    entry: Entry,
    /// The place of the last record in the order of records.
    stage: usize,
    /// Bytes of records so far.
    taken: u64,
}

/// The records of a node in their order. Those that may repeat are ordered among themselves by their content.
const ORDER: [u64; 13] = [
    ENTRY,
    USER,
    GROUP,
    XATTR,
    ACL_USER,
    ACL_GROUP,
    ACL_GROUP_OBJ,
    ACL_DEFAULT,
    ACL_DEFAULT_USER,
    ACL_DEFAULT_GROUP,
    SELINUX,
    FCAPS,
    QUOTA_PROJID,
];

const REPEATED: [u64; 5] = [XATTR, ACL_USER, ACL_GROUP, ACL_DEFAULT_USER, ACL_DEFAULT_GROUP];

type Checked<T> = Result<T, Problem>;

impl Draft {
    /// Begins a node with the body of its ENTRY. `expected` is the feature flags word that it must have, if known.
    pub(super) fn begin(body: &[u8], expected: Option<u64>) -> Checked<Self> {
        let [word, mode, attributes, uid, gid, mtime] = words(body)?;
        check_features(word, expected)?;
        if mode & !u64::from(FORMAT | 0o7777) != 0 {
            return invalid("a mode with unknown bits");
        }
        let mode = mode as u32;
        let permissions = mode & 0o7777;
        // What is not known yet of the kind comes with its record.
        let kind = match mode & FORMAT {
            0o040_000 => Kind::Directory,
            0o100_000 => Kind::File { size: 0 },
            0o120_000 => Kind::Symlink { target: Vec::new() },
            0o060_000 => Kind::Device { block: true, major: 0, minor: 0 },
            0o020_000 => Kind::Device { block: false, major: 0, minor: 0 },
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            _ => return invalid("a mode of no kind of file"),
        };
        check_kind(word, &kind, permissions, attributes)?;
        let [uid, gid] = [id(word, uid)?, id(word, gid)?];
        if mtime == u64::MAX || features::granularity(word).map_or(mtime, |unit| mtime % unit) != 0 {
            // Before 1970 it is the two's complement that was rounded.
            return invalid("a time that does not agree with the feature flags");
        }
        let entry = Entry { attributes, uid, gid, mtime, ..Entry::new(kind, permissions) };
        Ok(Self { features: word, mode, entry, stage: 0, taken: 0 })
    }

    /// The feature flags word.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Adds the body of one of the records of metadata.
    pub(super) fn add(&mut self, mark: u64, body: &[u8]) -> Checked<()> {
        let stage = ORDER.iter().position(|known| *known == mark).ok_or(Problem::Misplaced(name(mark)))?;
        if stage < self.stage || stage == self.stage && !REPEATED.contains(&mark) {
            return Err(Problem::Misplaced(name(mark)));
        }
        self.stage = stage;
        self.taken += HEADER + body.len() as u64;
        if self.taken > MAX_METADATA {
            return Err(Problem::TooMuchMetadata);
        }
        let needs = match mark {
            USER | GROUP => features::USER_NAMES,
            XATTR => features::XATTRS,
            SELINUX => features::SELINUX,
            FCAPS => features::FCAPS,
            QUOTA_PROJID => features::QUOTA_PROJID,
            _ => features::ACL,
        };
        if self.features & needs == 0 {
            return Err(Problem::Misplaced(name(mark)));
        }
        let word = self.features;
        let acl = &mut self.entry.acl;
        match mark {
            USER => self.entry.user = Some(owner(text(body)?)?),
            GROUP => self.entry.group = Some(owner(text(body)?)?),
            XATTR => push(&mut self.entry.xattrs, xattr(body)?, |xattr| &xattr.0)?,
            ACL_USER => push(&mut acl.users, acl_entry(word, body)?, |entry| entry)?,
            ACL_GROUP => push(&mut acl.groups, acl_entry(word, body)?, |entry| entry)?,
            ACL_DEFAULT_USER => push(&mut acl.default_users, acl_entry(word, body)?, |entry| entry)?,
            ACL_DEFAULT_GROUP => push(&mut acl.default_groups, acl_entry(word, body)?, |entry| entry)?,
            ACL_GROUP_OBJ => {
                let [may] = words(body)?;
                acl.group_obj = Some(permissions(may)?);
            }
            ACL_DEFAULT => {
                let [user, group, other, mask] = words(body)?;
                acl.default = Some(DefaultAcl {
                    user: permissions(user)?,
                    group: permissions(group)?,
                    other: permissions(other)?,
                    mask: (mask != u64::MAX).then(|| permissions(mask)).transpose()?,
                });
            }
            SELINUX => self.entry.selinux = Some(text(body)?.to_owned()),
            FCAPS => self.entry.fcaps = Some(body.to_owned()),
            _ => {
                let [projid] = words(body)?;
                self.entry.projid = match u32::try_from(projid) {
                    Ok(projid) if projid > 0 => Some(projid),
                    _ => return invalid("a project id that is 0 or needs more than 32 bits"),
                };
            }
        }
        Ok(())
    }

    /// Ends a regular file with the size of its content.
    pub(super) fn file(mut self, size: u64) -> Checked<Entry> {
        match &mut self.entry.kind {
            Kind::File { size: known } => *known = size,
            _ => return Err(Problem::Misplaced(name(PAYLOAD))),
        }
        self.finish()
    }

    /// Ends a symbolic link or a device with the body of the record that says which.
    pub(super) fn special(mut self, mark: u64, body: &[u8]) -> Checked<Entry> {
        match (&mut self.entry.kind, mark) {
            (Kind::Symlink { target }, SYMLINK) => *target = text(body)?.to_owned(),
            (Kind::Device { major, minor, .. }, DEVICE) => {
                let [high, low] = words(body)?;
                if high >= 1 << 12 || low >= 1 << 20 {
                    return invalid("a device number that Linux does not have");
                }
                (*major, *minor) = (high as u32, low as u32);
            }
            _ => return Err(Problem::Misplaced(name(mark))),
        }
        self.finish()
    }

    /// Ends a node of a kind that needs no record of its own.
    pub(super) fn plain(self) -> Checked<Entry> {
        match self.entry.kind {
            Kind::Directory | Kind::Fifo | Kind::Socket => self.finish(),
            Kind::File { .. } => invalid("a regular file without a PAYLOAD record"),
            Kind::Symlink { .. } => invalid("a symbolic link without a SYMLINK record"),
            Kind::Device { .. } => invalid("a device without a DEVICE record"),
        }
    }

    fn finish(self) -> Checked<Entry> {
        let Entry { kind, acl, .. } = &self.entry;
        let Acl { users, groups, group_obj, default, default_users, default_groups } = acl;
        let link = matches!(kind, Kind::Symlink { .. });
        if link && (!self.entry.xattrs.is_empty() || *acl != Acl::default()) {
            return invalid("extended attributes or access control lists of a symbolic link");
        }
        if (!users.is_empty() || !groups.is_empty()) && group_obj.is_none() {
            return invalid("an access control list with names but without ACL_GROUP_OBJ");
        }
        let named = !default_users.is_empty() || !default_groups.is_empty();
        if named && default.is_none_or(|default| default.mask.is_none()) {
            return invalid("a default access control list with names but without a mask");
        }
        if (named || default.is_some()) && *kind != Kind::Directory {
            return invalid("a default access control list of something that is no directory");
        }
        let regular = matches!(kind, Kind::File { .. });
        if self.entry.fcaps.is_some() && !regular {
            return invalid("file capabilities of something that is no regular file");
        }
        if self.entry.projid.is_some() && !regular && *kind != Kind::Directory {
            return invalid("a project id of something that is neither file nor directory");
        }
        debug_assert_eq!(self.mode, self.entry.mode());
        Ok(self.entry)
    }
}

fn check_features(word: u64, expected: Option<u64>) -> Checked<()> {
    if word == u64::MAX || expected.is_some_and(|expected| expected != word) {
        return invalid("a feature flags word that is not that of the archive or index");
    }
    match features::unknown(word) {
        0 if features::normalised(word) == word => Ok(()),
        0 => invalid("a feature flags word with contradictions"),
        bits => Err(Problem::UnknownFeatures(bits)),
    }
}

fn check_kind(word: u64, kind: &Kind, permissions: u32, attributes: u64) -> Checked<()> {
    if kind.feature() & !word != 0 {
        return invalid("a kind of file that the feature flags exclude");
    }
    let directory = *kind == Kind::Directory;
    let fits = match kind {
        Kind::Symlink { .. } => permissions == 0o777,
        _ if word & (features::PERMISSIONS | features::ACL) != 0 => true,
        _ if permissions == if directory { 0o777 } else { 0o666 } => true,
        _ => word & features::READ_ONLY != 0 && permissions == if directory { 0o555 } else { 0o444 },
    };
    if !fits {
        return invalid("permissions that the feature flags exclude");
    }
    let subvolume = features::SUBVOLUME | features::SUBVOLUME_RO;
    let possible = match kind {
        Kind::Directory => features::FAT_ATTRS | features::CHATTR | subvolume,
        Kind::File { .. } => features::FAT_ATTRS | features::CHATTR,
        _ => 0,
    };
    if attributes & !(word & possible) != 0 {
        return invalid("attributes that the feature flags or the kind of file exclude");
    }
    Ok(())
}

/// Numbers that are "nobody" to the kernel in 16 or 32 bits are no owners.
fn id(word: u64, id: u64) -> Checked<u32> {
    let fits = match () {
        () if word & features::UIDS_16 != 0 => id < 0xffff,
        () if word & features::UIDS_32 != 0 => id < 0xffff_ffff && id != 0xffff,
        () => id == 0,
    };
    if fits { Ok(id as u32) } else { invalid("an owner's number that is none") }
}

/// A user's or group's name. casync's reader takes fewer names than its writer writes; these are all that
/// `/etc/passwd` can hold.
fn owner(name: &[u8]) -> Checked<Vec<u8>> {
    let fits = |byte: &u8| *byte > b' ' && *byte != 0x7f && *byte != b':' && *byte != b'/';
    if name == b"root" || !name.iter().all(fits) {
        return invalid("a user's or group's name that may not be");
    }
    Ok(name.to_owned())
}

fn xattr(body: &[u8]) -> Checked<(Vec<u8>, Vec<u8>)> {
    let end = body.iter().take(256).position(|byte| *byte == 0);
    let Some(end) = end else { return invalid("an extended attribute without the end of its name") };
    let (name, value) = (&body[..end], &body[end + 1..]);
    let sound = name.iter().position(|byte| *byte == b'.').is_some_and(|dot| dot > 0 && dot + 1 < name.len());
    if !sound || value.len() > 65536 {
        return invalid("an extended attribute whose name or value may not be");
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn acl_entry(word: u64, body: &[u8]) -> Checked<AclEntry> {
    let (numbers, rest) = body.split_at_checked(16).ok_or(Problem::Size("ACL", body.len() as u64))?;
    let [number, may] = words(numbers)?;
    let name = match rest {
        [] => None,
        _ if word & features::USER_NAMES == 0 => return invalid("a name where the feature flags exclude names"),
        rest => Some(owner(text(rest)?)?),
    };
    Ok(AclEntry { id: id(word, number)?, name, permissions: permissions(may)? })
}

fn permissions(may: u64) -> Checked<u64> {
    if may <= 7 { Ok(may) } else { invalid("permissions beyond read, write and execute") }
}

/// Adds to a list that must be strictly sorted.
fn push<T, K: Ord + ?Sized>(list: &mut Vec<T>, item: T, key: impl Fn(&T) -> &K) -> Checked<()> {
    if list.last().is_some_and(|last| key(last) >= key(&item)) {
        return invalid("records that are not sorted");
    }
    list.push(item);
    Ok(())
}

/// A text that ends in its only NUL and is not empty.
pub(super) fn text(body: &[u8]) -> Checked<&[u8]> {
    match body.split_last() {
        Some((0, text)) if !text.is_empty() && !text.contains(&0) => Ok(text),
        _ => invalid("a text that is empty, has a NUL inside or none at its end"),
    }
}

fn words<const N: usize>(body: &[u8]) -> Checked<[u64; N]> {
    let mut words = [0; N];
    if body.len() != 8 * N {
        return Err(Problem::Size("fixed", HEADER + body.len() as u64));
    }
    for (word, bytes) in words.iter_mut().zip(body.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(words)
}

fn invalid<T>(what: &'static str) -> Checked<T> {
    Err(Problem::Invalid(what))
}
