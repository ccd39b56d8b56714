//! The records of an archive: their marks and how long they may be.

/// Every record begins with its size and its mark, 8 bytes each.
pub(super) const HEADER: u64 = 16;

pub(super) const ENTRY: u64 = 0x1396_fabc_ea5b_bb51;
pub(super) const USER: u64 = 0xf453_131a_aeea_ccb3;
pub(super) const GROUP: u64 = 0x25eb_6ac9_6939_6a52;
pub(super) const XATTR: u64 = 0xb815_7091_f80b_c486;
pub(super) const ACL_USER: u64 = 0x297d_c88b_2ef1_2faf;
pub(super) const ACL_GROUP: u64 = 0x36f2_acb5_6cb3_dd0b;
pub(super) const ACL_GROUP_OBJ: u64 = 0x2304_7110_441f_38f3;
pub(super) const ACL_DEFAULT: u64 = 0xfe3e_eda6_823c_8cd0;
pub(super) const ACL_DEFAULT_USER: u64 = 0xbdf0_3df9_bd01_0a91;
pub(super) const ACL_DEFAULT_GROUP: u64 = 0xa0cb_1168_782d_1f51;
pub(super) const SELINUX: u64 = 0x46fa_f060_2fd2_6c59;
pub(super) const FCAPS: u64 = 0xf726_7db0_afed_0629;
pub(super) const QUOTA_PROJID: u64 = 0x161b_af2d_8772_a72b;
pub(super) const SYMLINK: u64 = 0x664a_6fb6_830e_0d6c;
pub(super) const DEVICE: u64 = 0xac3d_ace3_69df_e643;
pub(super) const PAYLOAD: u64 = 0x8b9e_1d93_d6dc_ffc9;
pub(super) const FILENAME: u64 = 0x6dbb_6ebc_b316_1f0b;
pub(super) const GOODBYE: u64 = 0xdfd3_5c5e_8327_c403;
/// The last word of a GOODBYE.
pub(super) const GOODBYE_TAIL: u64 = 0x5744_6fa5_3370_2943;

/// The least and the greatest size of a record that is read whole; `None` for other marks.
pub(super) fn sizes(mark: u64) -> Option<(u64, u64)> {
    let text = |longest: u64| Some((HEADER + 1, HEADER + longest));
    let exactly = |size: u64| Some((size, size));
    match mark {
        ENTRY => exactly(64),
        USER | GROUP => text(256),
        XATTR => Some((HEADER + 4, HEADER + 256 + 65536)),
        ACL_USER | ACL_GROUP | ACL_DEFAULT_USER | ACL_DEFAULT_GROUP => Some((32, 32 + 256)),
        ACL_GROUP_OBJ | QUOTA_PROJID => exactly(24),
        ACL_DEFAULT => exactly(48),
        SELINUX | SYMLINK | FILENAME => text(4096),
        FCAPS => Some((HEADER, HEADER + 65536)),
        DEVICE => exactly(32),
        _ => None,
    }
}

/// What a record is called in messages.
pub(super) fn name(mark: u64) -> &'static str {
    match mark {
        ENTRY => "ENTRY",
        USER => "USER",
        GROUP => "GROUP",
        XATTR => "XATTR",
        ACL_USER => "ACL_USER",
        ACL_GROUP => "ACL_GROUP",
        ACL_GROUP_OBJ => "ACL_GROUP_OBJ",
        ACL_DEFAULT => "ACL_DEFAULT",
        ACL_DEFAULT_USER => "ACL_DEFAULT_USER",
        ACL_DEFAULT_GROUP => "ACL_DEFAULT_GROUP",
        SELINUX => "SELINUX",
        FCAPS => "FCAPS",
        QUOTA_PROJID => "QUOTA_PROJID",
        SYMLINK => "SYMLINK",
        DEVICE => "DEVICE",
        PAYLOAD => "PAYLOAD",
        FILENAME => "FILENAME",
        GOODBYE => "GOODBYE",
        _ => "unknown",
    }
}
