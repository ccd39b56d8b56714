//! What encoder, decoder and lookup promise each other; that casync agrees is for `tests/archive.rs` to show.

use super::*;

const WORD: u64 = 0xb000_0001_ffef_fe26;

fn directory() -> Entry {
    Entry::new(Kind::Directory, 0o755)
}

fn file(size: u64) -> Entry {
    Entry::new(Kind::File { size }, 0o644)
}

fn decode(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, ArchiveError> {
    let mut decoder = Decoder::new(None);
    let mut found = Vec::new();
    let mut input = bytes;
    loop {
        match decoder.next(&mut input)? {
            Some(Event::Enter(node)) => found.push((node.name.clone(), node.entry.clone())),
            Some(Event::Content(_) | Event::Leave) => {}
            Some(Event::End) => return Ok(found),
            None => return Err(decoder.truncated()),
        }
    }
}

#[test]
fn the_encoder_takes_nothing_that_is_no_archive() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(WORD);
    assert_eq!(encoder.root(&file(0), &mut out), Err(EncodeError::Order));
    assert_eq!(encoder.child(b"x", &file(0), &mut out), Err(EncodeError::Order));
    encoder.root(&directory(), &mut out).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert_eq!(encoder.child(name, &file(0), &mut out), Err(EncodeError::Name(name.to_vec())));
    }
    encoder.child(b"b", &file(1), &mut out).unwrap();
    assert_eq!(encoder.child(b"c", &file(0), &mut out), Err(EncodeError::Order), "content is missing");
    assert_eq!(encoder.end(&mut out), Err(EncodeError::Order));
    assert_eq!(encoder.content(2), Err(EncodeError::Order));
    encoder.content(1).unwrap();
    assert!(encoder.child(b"b", &file(0), &mut out).is_err() && encoder.child(b"a", &file(0), &mut out).is_err());
}

#[test]
fn sixty_four_levels_are_written_and_read_and_no_more() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(WORD);
    encoder.root(&directory(), &mut out).unwrap();
    for _ in 1..MAX_DEPTH {
        encoder.child(b"d", &directory(), &mut out).unwrap();
    }
    assert_eq!(encoder.child(b"d", &directory(), &mut out), Err(EncodeError::TooDeep));
    let mut deeper = out.clone();
    (0..MAX_DEPTH).for_each(|_| encoder.end(&mut out).unwrap());
    assert_eq!(decode(&out).unwrap().len(), MAX_DEPTH);
    deeper.extend_from_slice(&out[64..][..18 + 64]);
    assert_eq!(decode(&deeper).unwrap_err().problem, Problem::TooDeep);
}

#[test]
fn names_with_equal_hashes_are_told_apart_by_the_lookup() {
    // Every item gets the same hash by lying about it in the table itself: what is found must be the name asked for.
    let mut out = Vec::new();
    let mut encoder = Encoder::new(WORD);
    encoder.root(&directory(), &mut out).unwrap();
    let names = [&b"aa"[..], b"bb", b"cc", b"dd", b"ee"];
    for name in names {
        encoder.child(name, &file(0), &mut out).unwrap();
    }
    encoder.end(&mut out).unwrap();
    let read = |bytes: &[u8], offset: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok::<_, ArchiveError>(())
    };
    let table = out.len() - goodbye::size(names.len()) as usize + 16;
    for name in names {
        for item in 0..names.len() {
            let hash = goodbye::hash(name).to_le_bytes();
            out[table + 24 * item + 16..][..8].copy_from_slice(&hash);
        }
        let found = find(name, out.len() as u64, |offset, buffer| read(&out, offset, buffer)).unwrap().unwrap();
        assert_eq!(&out[found.offset as usize - 3..][..2], name);
    }
    assert_eq!(find(b"nn", out.len() as u64, |offset, buffer| read(&out, offset, buffer)), Ok(None));
}

#[test]
fn metadata_without_end_is_refused_before_it_fills_the_memory() {
    let mut entry = directory();
    entry.xattrs = (0..300u32).map(|n| (format!("user.{n:03}").into_bytes(), vec![0; 65536])).collect();
    let mut out = Vec::new();
    Encoder::new(WORD).root(&entry, &mut out).unwrap();
    assert_eq!(decode(&out).unwrap_err().problem, Problem::TooMuchMetadata);
}

#[test]
fn what_casync_writes_and_cannot_read_is_read() {
    let times = features::normalised(features::USEC_TIME | features::USER_NAMES);
    for (user, mtime) in [(Some(b"john.doe".to_vec()), 1_000), (None, 0u64.wrapping_sub(1_000_000_000 - 6_616))] {
        let entry = Entry { user, mtime: mtime / 1000 * 1000, ..Entry::new(Kind::Directory, 0o777) };
        let mut out = Vec::new();
        let mut encoder = Encoder::new(times);
        encoder.root(&entry, &mut out).unwrap();
        encoder.end(&mut out).unwrap();
        assert_eq!(decode(&out).unwrap(), [(Vec::new(), entry)]);
    }
}
