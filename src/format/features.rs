//! casync's feature flags word: which bits exist, and which combinations casync accepts. What the bits mean for the
//! nodes of an archive is no concern of this module.

/// Digests are SHA-512/256; without it, SHA-256.
pub const SHA512_256: u64 = 0x2000_0000_0000_0000;
/// What casync writes into a blob's index beside the digest's bit: two of its exclusion bits, which mean nothing there.
pub const BLOB: u64 = 0x9000_0000_0000_0000;

const KNOWN: u64 = 0xf000_0001_ffff_ffff;

const UIDS_16: u64 = 0x1;
const UIDS_32: u64 = 0x2;
const USER_NAMES: u64 = 0x4;
const SEC_TIME: u64 = 0x8;
const USEC_TIME: u64 = 0x10;
const NSEC_TIME: u64 = 0x20;
const TWO_SEC_TIME: u64 = 0x40;
const READ_ONLY: u64 = 0x80;
const PERMISSIONS: u64 = 0x100;
const NODUMP: u64 = 0x10_0000;
const SUBVOLUME: u64 = 0x400_0000;
const SUBVOLUME_RO: u64 = 0x800_0000;
const ACL: u64 = 0x2000_0000;
const EXCLUDE_NODUMP: u64 = 0x8000_0000_0000_0000;

/// The bits of a word that no casync knows; 0 for a word that can be read.
pub fn unknown(flags: u64) -> u64 {
    flags & !KNOWN
}

/// The word that casync makes of a selection of flags: bits that a stronger one replaces are dropped, bits that
/// another one needs are added. casync refuses words that this changes.
pub fn normalised(mut flags: u64) -> u64 {
    if flags & ACL != 0 && flags & (UIDS_16 | UIDS_32 | USER_NAMES) == 0 {
        flags |= UIDS_32 | USER_NAMES;
    }
    let replaced = [
        (UIDS_32, UIDS_16),
        (NSEC_TIME, USEC_TIME | SEC_TIME | TWO_SEC_TIME),
        (USEC_TIME, SEC_TIME | TWO_SEC_TIME),
        (SEC_TIME, TWO_SEC_TIME),
        (ACL, PERMISSIONS | READ_ONLY),
        (PERMISSIONS, READ_ONLY),
        (EXCLUDE_NODUMP, NODUMP),
    ];
    for (by, bits) in replaced {
        if flags & by != 0 {
            flags &= !bits;
        }
    }
    if flags & SUBVOLUME_RO != 0 {
        flags |= SUBVOLUME;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_casync_wrote_are_normalised() {
        for word in [0xb000_0001_ffef_fe26, 0x3000_0001_ffff_fe26, 0xb000_0000_0000_1f09, 0xb000_0000_0000_e0c0] {
            assert_eq!((normalised(word), unknown(word)), (word, 0), "{word:#x}");
        }
    }

    #[test]
    fn every_selection_becomes_the_word_that_casync_makes_of_it() {
        let tops = 0xb000_0000_0000_0000;
        assert_eq!(normalised(tops | 0x1_ffff_ffff), 0xb000_0001_ffef_fe26);
        assert_eq!(normalised(tops | ACL), tops | 0x2000_0006);
        assert_eq!(normalised(tops | NODUMP), tops);
        assert_eq!(normalised(tops | SUBVOLUME_RO), tops | 0xc00_0000);
    }
}
