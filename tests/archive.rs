//! Archives that casync made: read and written again byte for byte, read in any pieces, looked up by path, cut off and
//! bent at every record.

use std::ops::ControlFlow;

use caswarm::chunk::verify;
use caswarm::format::archive::{ArchiveError, Decoder, Encoder, Event, Kind, Problem, find};
use caswarm::format::digest::Digest;
use caswarm::format::index::Index;
use caswarm::format::layout::Layout;
use caswarm::source::local_store::LocalStore;

use crate::casync_formats::data;

/// Every archive in `tests/data` that casync made, with its name.
pub fn archives() -> Vec<(String, Vec<u8>)> {
    let mut found = vec![("tree/tree.catar".to_owned(), tree())];
    for directory in ["mini", "special", "exclude"] {
        for entry in std::fs::read_dir(data(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "catar") {
                let name = path.file_name().unwrap().to_str().unwrap();
                found.push((format!("{directory}/{name}"), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The archive `tree.catar`, from its index and chunks.
pub fn tree() -> Vec<u8> {
    let layout = Layout::of(&Index::parse(&std::fs::read(data("tree/tree.caidx")).unwrap()).unwrap());
    let store = LocalStore::open(data("tree/tree.castr")).unwrap();
    let mut bytes = vec![0; layout.total() as usize];
    for position in 0..layout.count() {
        let (id, length) = (layout.id(position), layout.length(position));
        let chunk = verify(&store.get(id).unwrap().unwrap(), id, layout.digest(), length).unwrap();
        for offset in layout.offsets(position) {
            bytes[*offset as usize..][..chunk.bytes().len()].copy_from_slice(chunk.bytes());
        }
    }
    bytes
}

/// Feeds an archive to a decoder in pieces and each event to `each`, with the path and where the decoder is.
fn decode(
    bytes: &[u8],
    mut piece: impl FnMut() -> usize,
    mut each: impl FnMut(&Event<'_>) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let mut decoder = Decoder::new(None);
    let mut rest = bytes;
    loop {
        let (mut input, later) = rest.split_at(piece().min(rest.len()));
        rest = later;
        let last = rest.is_empty();
        while let Some(event) = decoder.next(&mut input)? {
            let stop = each(&event).is_break() || event == Event::End;
            if stop {
                return Ok(());
            }
        }
        if last {
            return Err(decoder.truncated());
        }
    }
}

fn accepted(bytes: &[u8]) -> Result<(), ArchiveError> {
    decode(bytes, || bytes.len(), |_| ControlFlow::Continue(()))
}

/// Decodes and encodes again.
fn again(bytes: &[u8], piece: impl FnMut() -> usize) -> Vec<u8> {
    let features = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let mut encoder = Encoder::new(features);
    let mut out = Vec::new();
    let mut directories = Vec::new();
    let done = decode(bytes, piece, |event| {
        match event {
            Event::Enter(node) => {
                match node.name.as_slice() {
                    b"" => encoder.root(&node.entry, &mut out).unwrap(),
                    name => encoder.child(name, &node.entry, &mut out).unwrap(),
                }
                directories.push(node.entry.kind == Kind::Directory);
            }
            Event::Content(bytes) => {
                out.extend_from_slice(bytes);
                encoder.content(bytes.len() as u64).unwrap();
            }
            Event::Leave if directories.pop().unwrap() => encoder.end(&mut out).unwrap(),
            Event::Leave | Event::End => {}
        }
        ControlFlow::Continue(())
    });
    done.unwrap();
    assert_eq!(encoder.offset(), out.len() as u64);
    out
}

/// The offsets at which records begin, every one of them.
fn records(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        starts.push(at);
        at += u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    }
    starts
}

#[test]
fn archives_that_casync_made_are_written_again_byte_for_byte() {
    let archives = archives();
    assert!(archives.len() > 20);
    for (name, bytes) in archives {
        assert!(again(&bytes, || bytes.len()) == bytes, "{name}");
        let digest = if name == "mini/sha256.catar" { Digest::Sha256 } else { Digest::Sha512_256 };
        let known = std::fs::read_to_string(data("mini/variants.tsv")).unwrap();
        if let Some(line) =
            known.lines().find(|line| format!("mini/{}.catar", line.split('\t').next().unwrap()) == name)
        {
            assert!(line.ends_with(&digest.id(&bytes).to_string()), "{name}");
        }
    }
}

#[test]
fn an_archive_may_come_in_pieces_of_any_size() {
    for (name, bytes) in archives() {
        if bytes.len() < 10_000 {
            assert!(again(&bytes, || 1) == bytes, "{name}");
        }
        for seed in 0..5 {
            let mut random = crate::support::data::Random::new(seed);
            let most = [7, 100, 1000, 20_000, 100_000][seed as usize];
            assert!(again(&bytes, || 1 + random.below(most)) == bytes, "{name}");
        }
    }
}

#[test]
fn every_path_is_found_by_the_lookup_tables() {
    for (name, bytes) in archives() {
        let mut decoder = Decoder::new(None);
        let mut input = &bytes[..];
        let mut seen = 0;
        loop {
            let (offset, kind) = match decoder.next(&mut input).unwrap().unwrap() {
                Event::Enter(node) => (node.offset, node.entry.kind.clone()),
                Event::End => break,
                _ => continue,
            };
            let path = decoder.path();
            let mut reads = 0;
            let found = find(&path, bytes.len() as u64, |at, buffer| {
                reads += 1;
                buffer.copy_from_slice(&bytes[at as usize..][..buffer.len()]);
                Ok::<_, ArchiveError>(())
            });
            let found = found.unwrap().unwrap_or_else(|| panic!("{name}: {path:?}"));
            assert_eq!(found.offset, offset, "{name}: {path:?}");
            assert!(reads < 16 * 42, "{reads} reads for {path:?}");
            // The node alone is what it is in the whole, and ends where the lookup says.
            let features = decoder.features().unwrap();
            let mut part = Decoder::part(features, found.offset, found.end, path.clone());
            let mut alone = &bytes[found.offset as usize..found.end as usize];
            match part.next(&mut alone).unwrap().unwrap() {
                Event::Enter(node) => assert_eq!((node.offset, &node.entry.kind), (offset, &kind)),
                other => panic!("{other:?}"),
            }
            while part.next(&mut alone).unwrap().unwrap() != Event::End {}
            assert_eq!((alone, part.offset()), (&[][..], found.end));
            let missing = [&path[..], b"/no such name"].concat();
            let nothing = find(&missing, bytes.len() as u64, |at, buffer| {
                buffer.copy_from_slice(&bytes[at as usize..][..buffer.len()]);
                Ok::<_, ArchiveError>(())
            });
            assert_eq!(nothing, Ok(None), "{name}: {missing:?}");
            seen += 1;
        }
        assert!(seen > 1, "{name}");
    }
}

#[test]
fn what_casync_refuses_as_an_archive_is_refused_with_its_place() {
    // We are stricter where tools that look names up would see another tree than those that read through.
    let stricter = ["cat-unsorted.catar", "cat-duplicate.catar"];
    // And take what casync writes but cannot read.
    let wider = ["cat-usec-not-ms.catar", "cat-user-dotted.catar"];
    let results = std::fs::read_to_string(data("bad/results.tsv")).unwrap();
    let mut seen = 0;
    for line in results.lines().filter(|line| line.starts_with("cat-")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let bytes = std::fs::read(data("bad").join(fields[0])).unwrap();
        let wanted = fields[2] == "0" && !stricter.contains(&fields[0]) || wider.contains(&fields[0]);
        match accepted(&bytes) {
            Ok(()) => assert!(wanted, "accepted: {line}"),
            Err(error) => {
                assert!(!wanted, "{line}: {error}");
                assert!(error.offset <= bytes.len() as u64 && error.to_string().contains("at byte"), "{error}");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 22);
}

#[test]
fn an_archive_cut_off_anywhere_is_truncated_and_says_where() {
    for (name, bytes) in archives() {
        let all = if bytes.len() < 3000 { (0..bytes.len()).collect() } else { records(&bytes) };
        let ends = all.iter().flat_map(|&at| [at.saturating_sub(1), at, at + 1, at + 17]);
        for end in ends.filter(|end| *end < bytes.len()) {
            let error = accepted(&bytes[..end]).unwrap_err();
            assert_eq!((error.problem, error.offset), (Problem::Truncated, end as u64), "{name} {end}");
        }
    }
}

#[test]
fn a_flipped_bit_at_any_record_is_an_error_or_another_archive() {
    for (name, bytes) in archives() {
        let small = bytes.len() < 1500;
        let step = if small { 1 } else { records(&bytes).len() / 100 + 1 };
        for at in records(&bytes).into_iter().step_by(step) {
            let bits = if small { 0..200 * 8 } else { 0..8 * 24 };
            for bit in bits.step_by(if small { 1 } else { 7 }).filter(|bit| at + bit / 8 < bytes.len()) {
                let mut bent = bytes[..bytes.len().min(at + 20_000)].to_vec();
                bent[at + bit / 8] ^= 1 << (bit % 8);
                if bent.len() == bytes.len() && accepted(&bent).is_ok() {
                    assert!(again(&bent, || 50) == bent, "{name}: bit {bit} of the record at {at}");
                }
            }
        }
    }
}

#[test]
fn lookups_in_a_bent_archive_end_and_stay_inside() {
    let bytes = std::fs::read(data("mini/default.catar")).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bent = bytes.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        for path in [&b"a.txt"[..], b"sub/exe", b"sub", b"nothing", b"fifo/x"] {
            let _ = find(path, bent.len() as u64, |at, buffer| {
                let end = (at as usize).checked_add(buffer.len()).filter(|end| *end <= bent.len());
                buffer.copy_from_slice(&bent[at as usize..end.unwrap_or_else(|| panic!("bit {bit}: read at {at}"))]);
                Ok::<_, ArchiveError>(())
            });
        }
    }
}
