//! Broken indexes and chunk files: an error that says what is wrong, never a panic, never much memory.

use bytes::Bytes;
use caswarm::chunk::{Encoded, Encoding, verify};
use caswarm::format::index::Index;
use caswarm::format::layout::Layout;
use caswarm::source::local_store::LocalStore;

use crate::casync_formats::data;

#[test]
fn what_casync_refuses_as_an_index_is_refused() {
    let results = std::fs::read_to_string(data("bad/results.tsv")).unwrap();
    // These two are well-formed; only the chunks show that they lie.
    let lies = ["idx-flags-sha256.caibx", "idx-size-mismatch.caibx"];
    for line in results.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if !fields[0].starts_with("idx-") {
            continue;
        }
        let bytes = std::fs::read(data("bad").join(fields[0])).unwrap();
        let accepted = fields[2] == "0" || lies.contains(&fields[0]);
        match Index::parse(&bytes) {
            Ok(index) if accepted => {
                let layout = Layout::of(&index);
                let store = LocalStore::open(data("blob/default.castr")).unwrap();
                let sound = (0..layout.count()).all(|position| {
                    let id = layout.id(position);
                    store
                        .get(id)
                        .unwrap()
                        .is_some_and(|found| verify(&found, id, layout.digest(), layout.length(position)).is_ok())
                });
                assert_eq!(sound, fields[2] == "0", "{line}");
            }
            Ok(_) => panic!("accepted: {line}"),
            Err(error) => assert!(!accepted, "{line}: {error}"),
        }
    }
}

#[test]
fn an_index_cut_off_anywhere_is_refused() {
    let bytes = std::fs::read(data("blob/default.caibx")).unwrap();
    for end in 0..bytes.len() {
        assert!(Index::parse(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_flipped_bit_in_an_index_is_an_error_or_another_index() {
    let bytes = std::fs::read(data("blob/default.caibx")).unwrap();
    let sound = Index::parse(&bytes).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(index) = Index::parse(&bytes) {
            assert_ne!(index, sound);
            assert_eq!(index.to_bytes(), bytes);
            Layout::of(&index);
        }
    }
}

#[test]
fn a_damaged_chunk_file_never_becomes_another_chunk() {
    let layout = Layout::of(&Index::parse(&std::fs::read(data("blob/default.caibx")).unwrap()).unwrap());
    for name in ["default", "xz", "gzip", "raw"] {
        let store = LocalStore::open(data("blob").join(format!("{name}.castr"))).unwrap();
        // The shortest chunk file of all, so that every bit of it gets its turn.
        let of = |position: u32| store.get(layout.id(position)).unwrap().unwrap();
        let position = (0..layout.count()).min_by_key(|&position| of(position).bytes.len()).unwrap();
        let (id, length, found) = (layout.id(position), layout.length(position), of(position));
        let check = |bytes: Vec<u8>| {
            let encoded = Encoded { encoding: found.encoding, bytes: Bytes::from(bytes) };
            verify(&encoded, id, layout.digest(), length)
        };
        let sound = check(found.bytes.to_vec()).unwrap();
        let step = (found.bytes.len() / 500).max(1);
        for end in (0..found.bytes.len()).step_by(step) {
            assert!(check(found.bytes[..end].to_vec()).is_err(), "{name} {end}");
            let mut flipped = found.bytes.to_vec();
            flipped[end] ^= 1 << (end % 8);
            // Some bits of a header mean nothing to the content.
            if let Ok(chunk) = check(flipped) {
                assert_eq!(chunk.bytes(), sound.bytes());
                assert_ne!(found.encoding, Encoding::Plain);
            }
        }
        assert!(check([&found.bytes[..], b"x"].concat()).is_err(), "{name}");
    }
}
