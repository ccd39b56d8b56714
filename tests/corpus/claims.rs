//! What must hold for any bytes: shared by the fuzz targets (`tests/fuzz`) and by the test that replays their corpus.
//! Each claim panics where it is broken, and answers whether the bytes were accepted.

use bytes::Bytes;
use caswarm::chunk::{Claim, Encoded, Encoding, verify, verify_many};
use caswarm::format::archive::{ArchiveError, Decoder, Encoder, Event, find};
use caswarm::format::compression::Decompressor;
use caswarm::format::digest::Digest;
use caswarm::format::index::Index;
use caswarm::format::layout::Layout;
use proto::{ChunkId, codec};

/// An index that is read is written back as it was, and its layout covers the whole stream.
pub fn index(bytes: &[u8]) -> bool {
    let Ok(index) = Index::parse(bytes) else { return false };
    assert_eq!(index.to_bytes(), bytes);
    let layout = Layout::of(&index);
    let places = |position| layout.offsets(position).len() as u64 * u64::from(layout.length(position));
    assert_eq!((0..layout.count()).map(places).sum::<u64>(), layout.total());
    true
}

/// Bytes from outside become exactly the chunk that they were said to be, never longer than it, or nothing. The first
/// byte says the encoding, the next three the length, the rest is the chunk file.
pub fn chunk(bytes: &[u8]) -> bool {
    let Some((&[encoding, a, b, c], file)) = bytes.split_first_chunk() else { return false };
    let encoding = [Encoding::Plain, Encoding::Zstd, Encoding::Xz, Encoding::Gzip][usize::from(encoding) % 4];
    let length = u32::from_le_bytes([a, b, c & 0x0f, 0]);
    let encoded = Encoded { encoding, bytes: Bytes::copy_from_slice(file) };
    let digest = Digest::Sha512_256;
    assert!(verify(&encoded, ChunkId([0; 32]), digest, length).is_err());
    let Ok(plain) = Decompressor::new().decompress(encoding, file, length as usize) else { return false };
    assert!(plain.len() <= length as usize);
    let id = digest.id(&plain);
    let claim = |length| Claim { encoded: encoded.clone(), id, length };
    let right = plain.len() as u32;
    let answers = verify_many(&[claim(right), claim(right + 1), claim(right - 1)], digest);
    let accepted = |answer: &Result<caswarm::chunk::Chunk, _>| answer.as_ref().ok().map(|chunk| chunk.bytes().to_vec());
    assert_eq!(answers.iter().map(accepted).collect::<Vec<_>>(), [Some(plain), None, None]);
    right == length
}

/// A message that is read can be sent, and is the same when read again.
pub fn message(body: &[u8]) -> bool {
    if let Some(prefix) = body.first_chunk() {
        let _ = codec::message_length(*prefix);
    }
    let Ok(message) = codec::decode(body) else { return false };
    let frame = codec::encode(&message).unwrap_or_else(|error| panic!("{message:?} cannot be sent: {error}"));
    let (prefix, again) = frame.split_first_chunk().unwrap_or_else(|| panic!("a frame without a prefix"));
    assert_eq!(codec::message_length(*prefix), Ok(again.len()));
    assert_eq!(codec::decode(again), Ok(message));
    true
}

/// An archive that is read is written back as it was, if its lookup tables are there; each of its paths is found where
/// it was read, and nothing is read beyond its end.
pub fn archive(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(None);
    let (mut input, mut encoder, mut out) = (bytes, None, Vec::new());
    let (mut paths, mut directories) = (Vec::new(), Vec::new());
    loop {
        match decoder.next(&mut input) {
            Ok(Some(Event::Enter(node))) => {
                let word = u64::from_le_bytes(std::array::from_fn(|at| bytes[16 + at]));
                let encoder = encoder.get_or_insert_with(|| Encoder::new(word));
                let written = match node.name.as_slice() {
                    b"" => encoder.root(&node.entry, &mut out),
                    name => encoder.child(name, &node.entry, &mut out),
                };
                written.unwrap_or_else(|error| panic!("{node:?}: {error}"));
                directories.push(node.entry.is_directory());
                let offset = node.offset;
                paths.push((decoder.path(), offset));
            }
            Ok(Some(Event::Content(content))) => {
                out.extend_from_slice(content);
                encoder.as_mut().map(|encoder| encoder.content(content.len() as u64));
            }
            Ok(Some(Event::Leave)) => {
                if directories.pop() == Some(true) {
                    encoder.as_mut().map(|encoder| encoder.end(&mut out));
                }
            }
            Ok(Some(Event::End)) => break,
            Ok(None) => {
                assert_eq!(decoder.truncated().offset, bytes.len() as u64);
                return false;
            }
            Err(error) => {
                assert!(error.offset <= bytes.len() as u64);
                return false;
            }
        }
    }
    let read = &bytes[..bytes.len() - input.len()];
    assert!(out == read || out.len() > read.len(), "another archive than the one that was read");
    for (path, offset) in paths.iter().filter(|_| out == bytes) {
        let found = find(path, bytes.len() as u64, |at, buffer| {
            buffer.copy_from_slice(&bytes[at as usize..][..buffer.len()]);
            Ok::<_, ArchiveError>(())
        });
        assert_eq!(found.map(|found| found.map(|found| found.offset)), Ok(Some(*offset)), "{path:?}");
    }
    true
}
