//! POSIX access control lists as the kernel has them in `system.posix_acl_access` and `system.posix_acl_default`: bytes
//! to entries and back. Numbers are the file system's here.

/// The list that holds for a file.
pub const ACCESS: &str = "system.posix_acl_access";
/// The list that new entries of a directory inherit.
pub const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED: u32 = u32::MAX;

/// Who an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The owner.
    UserObj,
    /// A user by number.
    User(u32),
    /// The owning group.
    GroupObj,
    /// A group by number.
    Group(u32),
    /// The most that named users and groups and the owning group may.
    Mask,
    /// Everybody else.
    Other,
}

/// One entry: who may what (4 read, 2 write, 1 execute).
pub type Permission = (Who, u16);

/// Reads the kernel's bytes; `None` if they are of another version or not a list.
pub fn parse(bytes: &[u8]) -> Option<Vec<Permission>> {
    let (version, entries) = bytes.split_first_chunk()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (entries, []) = entries.as_chunks::<8>() else { return None };
    let entry = |&[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; 8]| {
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let who = match u16::from_le_bytes([t0, t1]) {
            0x01 => Who::UserObj,
            0x02 => Who::User(id),
            0x04 => Who::GroupObj,
            0x08 => Who::Group(id),
            0x10 => Who::Mask,
            0x20 => Who::Other,
            _ => return None,
        };
        Some((who, u16::from_le_bytes([p0, p1])))
    };
    entries.iter().map(entry).collect()
}

/// The bytes that the kernel takes; it wants the entries in the order that they are sorted in.
pub fn to_bytes(mut list: Vec<Permission>) -> Vec<u8> {
    list.sort_unstable();
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (who, permissions) in list {
        let (tag, id) = match who {
            Who::UserObj => (0x01_u16, UNDEFINED),
            Who::User(id) => (0x02, id),
            Who::GroupObj => (0x04, UNDEFINED),
            Who::Group(id) => (0x08, id),
            Who::Mask => (0x10, UNDEFINED),
            Who::Other => (0x20, UNDEFINED),
        };
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_the_kernel_is_read_and_written_again() {
        let hex =
            "0200000001000700ffffffff020005000100000004000500ffffffff080000000200000010000700ffffffff20000000ffffffff";
        let bytes = hex::decode(hex).unwrap();
        let list = parse(&bytes).unwrap();
        assert_eq!(list[..3], [(Who::UserObj, 7), (Who::User(1), 5), (Who::GroupObj, 5)]);
        assert_eq!(to_bytes(list.into_iter().rev().collect()), bytes);
        assert_eq!(parse(&bytes[..10]), None);
        assert_eq!(parse(&[3, 0, 0, 0]), None);
    }
}
