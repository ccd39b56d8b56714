//! The bytes of every message, pinned; the limits, at and one above; decoding of anything at all.

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::*;
use crate::limits::{INDEX_BYTES, INDEX_PART_BYTES, POSITIONS};
use crate::message::PeerAddress;
use crate::message::{Encoding, Join};
use crate::{ChunkId, Holdings, IndexId, NodeId, ZoneId};

const INDEX: IndexId = IndexId([0xab; 32]);
const CHUNK: ChunkId = ChunkId([0xcd; 32]);

fn hello(text: usize) -> Message {
    Message::Hello(Hello {
        version: 1,
        network: "n".repeat(text),
        zone: "zz".into(),
        session_port: 0x0102,
        dht_port: 0x0304,
        agent: "a/1".into(),
    })
}

/// Every message and the body that it is on the wire; `I` stands for the index id, `C` for the chunk id.
fn golden() -> Vec<(Message, &'static str)> {
    let holdings: Holdings = [1, 2, 5].into_iter().collect();
    vec![
        (hello(1), "00 01 01 6e 02 7a7a fb0201 fb0403 03 612f31"),
        (Message::Join(Join { index: INDEX, downloads: true, has_index: false }), "01 I 01 00"),
        (Message::Leave { index: INDEX }, "02 I"),
        (Message::Have { index: INDEX, holdings: holdings.clone() }, "03 I 05 00 0101 0200"),
        (
            Message::Have { index: INDEX, holdings: (0..40).step_by(2).collect() },
            "03 I 29 00 0000 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100 0100",
        ),
        (Message::HaveMore { index: INDEX, holdings, started: vec![3] }, "04 I 05 00 0101 0200 01 03"),
        (Message::Claim { index: INDEX, groups: vec![7], origin: true }, "05 I 01 07 01"),
        (Message::Origin { index: INDEX, reachable: false }, "06 I 00"),
        (Message::Want { index: INDEX, positions: vec![3, 256], plain: true }, "07 I 02 03 fb0001 01"),
        (Message::Cancel { index: INDEX, positions: vec![3] }, "08 I 01 03"),
        (Message::Chunk { index: INDEX, position: 9, encoding: Encoding::Zstd, length: 0x1234 }, "09 I 09 01 fb3412"),
        (Message::Absent { index: INDEX, positions: vec![], retry_ms: 250 }, "0a I 00 fa"),
        (Message::GetIndex { index: INDEX }, "0b I"),
        (Message::IndexPart { index: INDEX, total: 300, offset: 256, length: 44 }, "0c I fb2c01 fb0001 2c"),
        (Message::NoIndex { index: INDEX }, "0d I"),
        (Message::GetChunk { chunk: CHUNK }, "0e C"),
        (Message::ChunkById { chunk: CHUNK, encoding: Encoding::Gzip, length: 5 }, "0f C 03 05"),
        (Message::NoChunk { chunk: CHUNK }, "10 C"),
        (Message::Ping { nonce: 258 }, "11 fb0201"),
        (Message::Pong { nonce: 258 }, "12 fb0201"),
        (Message::Bye { reason: "x".into() }, "13 01 78"),
        (
            Message::Others { index: INDEX, zones: vec![ZoneId(5)], joined: vec![], left: vec![NodeId([0xab; 32])] },
            "14 I 01 05 00 01 I",
        ),
        (
            Message::Peers {
                peers: vec![PeerAddress {
                    node: NodeId([0xab; 32]),
                    zone: ZoneId(5),
                    address: ([10, 0, 0, 1], 258).into(),
                }],
            },
            "15 01 I 05 00 0a000001 fb0201",
        ),
        (Message::Interest { index: INDEX, groups: (8..11).collect() }, "16 I 03 00 0802"),
    ]
}

fn bytes(text: &str) -> Vec<u8> {
    let text = text.replace(' ', "").replace('I', &"ab".repeat(32)).replace('C', &"cd".repeat(32));
    hex::decode(text).unwrap()
}

#[test]
fn every_message_has_the_bytes_that_the_specification_gives_it() {
    for (message, body) in golden() {
        let frame = encode(&message).unwrap();
        let body = bytes(body);
        assert_eq!(hex::encode(&frame[4..]), hex::encode(&body), "{message:?}");
        assert_eq!(message_length(frame[..4].try_into().unwrap()), Ok(body.len()));
        assert_eq!(decode(&body), Ok(message));
    }
}

#[test]
fn a_message_cut_short_or_with_bytes_behind_it_is_refused() {
    for (message, body) in golden() {
        let mut body = bytes(body);
        for length in 0..body.len() {
            assert!(decode(&body[..length]).is_err(), "{message:?} cut to {length}");
        }
        body.push(0);
        assert!(decode(&body).is_err(), "{message:?} and a byte");
    }
}

#[test]
fn an_unknown_tag_is_refused() {
    assert!(matches!(decode(&[23]), Err(DecodeError::Malformed(_))));
}

#[test]
fn lists_and_texts_are_taken_at_their_limit_and_refused_one_above() {
    type Of = fn(usize) -> Message;
    let cases: [(Of, usize); 8] = [
        (hello, TEXT_BYTES),
        (|n| Message::Bye { reason: "r".repeat(n) }, TEXT_BYTES),
        (|n| Message::Want { index: INDEX, positions: vec![1; n], plain: false }, WANT_POSITIONS),
        (|n| Message::Cancel { index: INDEX, positions: vec![1; n] }, WANT_POSITIONS),
        (|n| Message::Absent { index: INDEX, positions: vec![1; n], retry_ms: 0 }, WANT_POSITIONS),
        (|n| Message::Claim { index: INDEX, groups: vec![1; n], origin: true }, CLAIM_GROUPS),
        (|n| Message::Chunk { index: INDEX, position: 0, encoding: Encoding::Plain, length: n as u32 }, PAYLOAD_BYTES),
        (|n| Message::IndexPart { index: INDEX, total: INDEX_BYTES, offset: 0, length: n as u32 }, INDEX_PART_BYTES),
    ];
    for (of, limit) in cases {
        let frame = encode(&of(limit)).unwrap();
        assert!(decode(&frame[4..]).is_ok(), "{:?}", of(limit));
        assert!(matches!(encode(&of(limit + 1)), Err(DecodeError::FieldTooLarge(_))), "{:?}", of(limit + 1));
        let mut above = Vec::new();
        options().serialize_into(&mut above, &of(limit + 1)).unwrap();
        assert!(matches!(decode(&above), Err(DecodeError::FieldTooLarge(_))), "{:?}", of(limit + 1));
    }
}

#[test]
fn an_index_part_lies_within_an_index_of_allowed_length() {
    let part = |total, offset, length| Message::IndexPart { index: INDEX, total, offset, length };
    assert!(encode(&part(INDEX_BYTES, INDEX_BYTES - 1, 1)).is_ok());
    assert!(encode(&part(INDEX_BYTES, INDEX_BYTES, 1)).is_err());
    assert!(encode(&part(INDEX_BYTES + 1, 0, 1)).is_err());
    assert!(encode(&part(10, u64::MAX, 1)).is_err());
}

#[test]
fn a_prefix_is_taken_at_the_limit_and_refused_one_above() {
    assert_eq!(message_length((MESSAGE_BYTES as u32).to_le_bytes()), Ok(MESSAGE_BYTES));
    assert_eq!(message_length((MESSAGE_BYTES as u32 + 1).to_le_bytes()), Err(DecodeError::TooLarge(MESSAGE_BYTES + 1)));
    assert_eq!(decode(&vec![0; MESSAGE_BYTES + 1]), Err(DecodeError::TooLarge(MESSAGE_BYTES + 1)));
}

#[test]
fn the_holdings_of_the_largest_index_fit_into_a_message_however_scattered() {
    let every_other: RoaringBitmap = (0..POSITIONS).step_by(2).collect();
    for set in [every_other, (0..POSITIONS).collect()] {
        let message = Message::Have { index: INDEX, holdings: set.into() };
        let frame = encode(&message).unwrap();
        assert_eq!(decode(&frame[4..]), Ok(message));
    }
}

#[test]
fn a_position_beyond_the_largest_index_is_refused() {
    for (position, fine) in [(POSITIONS - 1, true), (POSITIONS, false), (u32::MAX, false)] {
        let message = Message::Have { index: INDEX, holdings: [position].into_iter().collect() };
        assert_eq!(decode(&encode(&message).unwrap()[4..]).is_ok(), fine, "{position}");
    }
}

#[test]
fn a_list_that_announces_more_than_the_message_has_is_refused_without_allocating_it() {
    for tag in ["07 I fd", "03 I fd"] {
        for length in [u64::MAX, 1 << 40] {
            let mut body = bytes(tag);
            body.extend(length.to_le_bytes());
            assert!(decode(&body).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_decodes_to_an_error_or_to_what_encodes_back(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = decode(&body) {
            prop_assert_eq!(decode(&encode(&message).unwrap()[4..]), Ok(message));
        }
    }

    #[test]
    fn a_message_with_bytes_changed_decodes_to_an_error_or_to_what_encodes_back(
        which in 0..golden().len(), changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)
    ) {
        let mut body = bytes(golden()[which].1);
        for (at, value) in changes {
            let length = body.len();
            // The tag stays within what exists, so that the fields are what is tried.
            body[at % length] = if at % length == 0 { body[0] } else { value };
        }
        if let Ok(message) = decode(&body) {
            prop_assert!(check(&message).is_ok());
            prop_assert_eq!(decode(&encode(&message).unwrap()[4..]), Ok(message));
        }
    }
}
