//! How much of a block device its file system uses, by the superblock: a device is often larger than the image on it,
//! and casync leaves the rest out. Knows sizes only, of the file systems that casync knows.

/// How many bytes from the start of a device [`size`] looks at.
pub(super) const HEAD: usize = 2048;

/// The size in bytes of the file system that begins with these bytes; `None` if it is none of those known.
pub(super) fn size(head: &[u8]) -> Option<u64> {
    squashfs(head).or_else(|| android_boot(head)).or_else(|| fat(head)).or_else(|| ext(head))
}

fn squashfs(head: &[u8]) -> Option<u64> {
    head.starts_with(b"hsqs").then(|| u64_at(head, 40))?.and_then(|used| used.checked_next_multiple_of(4096))
}

fn android_boot(head: &[u8]) -> Option<u64> {
    if !head.starts_with(b"ANDROID!") {
        return None;
    }
    let page = u32_at(head, 36).filter(|page| page.is_power_of_two())?;
    // The header itself, then kernel, initrd, second stage and device tree.
    let parts = [Some(608), u32_at(head, 8), u32_at(head, 16), u32_at(head, 24), u32_at(head, 40)];
    parts.into_iter().map(|part| Some(u64::from(part?).next_multiple_of(u64::from(page)))).sum()
}

fn fat(head: &[u8]) -> Option<u64> {
    let marked = head.get(510..512)? == [0x55, 0xaa];
    let named = head.get(54..57)? == b"FAT" || head.get(82..85)? == b"FAT";
    let sector = u64::from(u16_at(head, 11)?);
    if !marked || !named || !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
        return None;
    }
    let small = u64::from(u16_at(head, 19)?);
    let sectors = if small != 0 { small } else { u64::from(u32_at(head, 32)?) };
    (sectors != 0).then_some(sectors * sector)
}

fn ext(head: &[u8]) -> Option<u64> {
    const SUPERBLOCK: usize = 1024;
    const INCOMPATIBLE_64BIT: u32 = 0x80;
    if u16_at(head, SUPERBLOCK + 56)? != 0xef53 {
        return None;
    }
    let wide = u32_at(head, SUPERBLOCK + 96)? & INCOMPATIBLE_64BIT != 0;
    let high = if wide { u64::from(u32_at(head, SUPERBLOCK + 336)?) } else { 0 };
    let blocks = high << 32 | u64::from(u32_at(head, SUPERBLOCK + 4)?);
    let block = 1u64.checked_shl(u32_at(head, SUPERBLOCK + 24)?.checked_add(10)?)?;
    blocks.checked_mul(block)
}

fn array<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at + N)?.try_into().ok()
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    array(head, at).map(u16::from_le_bytes)
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    array(head, at).map(u32::from_le_bytes)
}

fn u64_at(head: &[u8], at: usize) -> Option<u64> {
    array(head, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        fields.iter().for_each(|(at, bytes)| head[*at..at + bytes.len()].copy_from_slice(bytes));
        head
    }

    #[test]
    fn squashfs_is_rounded_up_to_its_pages() {
        assert_eq!(size(&head(&[(0, b"hsqs"), (40, &5000u64.to_le_bytes())])), Some(8192));
        assert_eq!(size(&head(&[(0, b"hsqs"), (40, &u64::MAX.to_le_bytes())])), None);
    }

    #[test]
    fn ext_is_its_blocks_also_beyond_32_bits() {
        let ext: [(usize, &[u8]); 3] = [(1080, &[0x53, 0xef]), (1028, &[0, 16, 0, 0]), (1048, &[2])];
        assert_eq!(size(&head(&ext)), Some(4096 * 4096));
        let wide: [(usize, &[u8]); 2] = [(1120, &[0x80]), (1360, &[1])];
        assert_eq!(size(&head(&[&ext[..], &wide].concat())), Some((1 << 32 | 4096) * 4096));
        assert_eq!(size(&head(&[&ext[..2], &[(1048, &[255; 4])]].concat())), None);
    }

    #[test]
    fn fat_counts_sectors_in_either_field() {
        let fat: [(usize, &[u8]); 3] = [(510, &[0x55, 0xaa]), (54, b"FAT16   "), (11, &[0, 2])];
        assert_eq!(size(&head(&[&fat[..], &[(19, &[0, 4])]].concat())), Some(1024 * 512));
        assert_eq!(size(&head(&[&fat[..], &[(32, &[0, 0, 1, 0])]].concat())), Some(65536 * 512));
        assert_eq!(size(&head(&fat)), None);
    }

    #[test]
    fn android_boot_images_are_whole_pages() {
        let boot: [(usize, &[u8]); 3] = [(0, b"ANDROID!"), (36, &[0, 8]), (8, &[1])];
        assert_eq!(size(&head(&boot)), Some(4096));
    }

    #[test]
    fn anything_else_has_no_size() {
        assert_eq!(size(&[]), None);
        assert_eq!(size(&head(&[])), None);
        assert_eq!(size(&[0xff; HEAD]), None);
    }
}
