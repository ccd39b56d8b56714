//! Who owns a file: numbers as an archive has them, and names. Numbers may be shifted, as containers with user namespaces
//! need it; names are the host's.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

use crate::format::features::{UIDS_16, UIDS_32, USER_NAMES};

/// How owners' numbers change between the file system and the archive. The default changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shift {
    /// What is subtracted from numbers that go into an archive.
    pub shift: u32,
    /// What remains is taken modulo this; 0 means 2³².
    pub range: u32,
}

impl Shift {
    /// A number of the file system as the archive's; `None` if it has none there.
    pub fn into_archive(self, id: u32) -> Option<u32> {
        let shifted = sound(id)?.checked_sub(self.shift)?;
        sound(shifted.checked_rem(self.range).unwrap_or(shifted))
    }

    /// A number of the archive as the file system's; `None` if there is none.
    pub fn out_of_archive(self, id: u32) -> Option<u32> {
        sound(id.checked_rem(self.range).unwrap_or(id).checked_add(self.shift)?)
    }
}

/// 65535 and 2³² - 1 mean "nobody" to the kernel in its two sizes.
fn sound(id: u32) -> Option<u32> {
    (id != 0xffff && id != u32::MAX).then_some(id)
}

/// Whether a user or a group is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A user.
    User,
    /// A group.
    Group,
}

/// Looks owners up in the system's databases, each once.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, Option<Vec<u8>>>,
    groups: HashMap<u32, Option<Vec<u8>>>,
    user_ids: HashMap<Vec<u8>, Option<u32>>,
    group_ids: HashMap<Vec<u8>, Option<u32>>,
}

impl Owners {
    /// The number and the name that an archive with these features has for an owner.
    ///
    /// # Errors
    /// When the archive cannot have the number.
    pub fn describe(
        &mut self,
        owner: Owner,
        id: u32,
        features: u64,
        shift: Shift,
    ) -> Result<(u32, Option<Vec<u8>>), String> {
        let numbers = features & (UIDS_16 | UIDS_32) != 0;
        let impossible = || format!("owner {id} has no number in the archive; see --uid-shift and --uid-range");
        let number = if numbers { shift.into_archive(id).ok_or_else(impossible)? } else { 0 };
        if features & UIDS_16 != 0 && number > 0xffff {
            return Err(format!("owner {number} needs more than 16 bits; use --with=32bit-uids"));
        }
        if features & USER_NAMES == 0 || id == 0 {
            return Ok((number, None));
        }
        let name = match self.name(owner, id) {
            None if !numbers => Some(shift.into_archive(id).ok_or_else(impossible)?.to_string().into_bytes()),
            name => name,
        };
        Ok((number, name))
    }

    /// The name of a number.
    pub fn name(&mut self, owner: Owner, id: u32) -> Option<Vec<u8>> {
        let known = match owner {
            Owner::User => &mut self.users,
            Owner::Group => &mut self.groups,
        };
        let look = || match owner {
            Owner::User => User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name.into_bytes()),
            Owner::Group => Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name.into_bytes()),
        };
        known.entry(id).or_insert_with(look).clone()
    }

    /// The number of a name; a name that is a number means that number.
    pub fn number(&mut self, owner: Owner, name: &[u8]) -> Option<u32> {
        let known = match owner {
            Owner::User => &mut self.user_ids,
            Owner::Group => &mut self.group_ids,
        };
        if let Some(id) = known.get(name) {
            return *id;
        }
        let text = std::str::from_utf8(name).ok()?;
        let id = match owner {
            Owner::User => User::from_name(text).ok().flatten().map(|user| user.uid.as_raw()),
            Owner::Group => Group::from_name(text).ok().flatten().map(|group| group.gid.as_raw()),
        };
        let id = id.or_else(|| text.parse().ok());
        known.insert(name.to_owned(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shifted_into_a_range_and_back() {
        let shift = Shift { shift: 1_000_000, range: 65536 };
        assert_eq!(shift.into_archive(1_000_001), Some(1));
        assert_eq!(shift.into_archive(1_065_536), Some(0));
        assert_eq!(shift.into_archive(1), None);
        assert_eq!(shift.into_archive(1_065_535), None, "65535 is nobody");
        assert_eq!(shift.out_of_archive(70_000), Some(1_004_464));
        let none = Shift::default();
        assert_eq!([none.into_archive(4_294_967_294), none.into_archive(u32::MAX)], [Some(4_294_967_294), None]);
    }

    #[test]
    fn root_has_no_name_and_a_name_without_numbers_may_be_a_number() {
        let mut owners = Owners::default();
        assert_eq!(owners.describe(Owner::User, 0, USER_NAMES, Shift::default()), Ok((0, None)));
        let nobody = 3_999_999_999;
        let described = owners.describe(Owner::Group, nobody, USER_NAMES, Shift::default());
        assert_eq!(described, Ok((0, Some(b"3999999999".to_vec()))));
        assert!(owners.describe(Owner::User, 70_000, UIDS_16, Shift::default()).is_err());
        assert_eq!(owners.number(Owner::User, b"3999999999"), Some(nobody));
        assert_eq!(owners.number(Owner::User, b"no such user"), None);
    }
}
