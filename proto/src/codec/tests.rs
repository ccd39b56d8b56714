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
        (hello(1), "00000000 0100 0100000000000000 6e 0200000000000000 7a7a 0201 0403 0300000000000000 612f31"),
        (Message::Join(Join { index: INDEX, downloads: true, has_index: false }), "01000000 I 01 00"),
        (Message::Leave { index: INDEX }, "02000000 I"),
        (
            Message::Have { index: INDEX, holdings: holdings.clone() },
            "03000000 I 1600000000000000 3a300000 01000000 0000 0200 10000000 0100 0200 0500",
        ),
        (
            Message::HaveMore { index: INDEX, holdings, started: vec![3] },
            "04000000 I 1600000000000000 3a300000 01000000 0000 0200 10000000 0100 0200 0500 0100000000000000 03000000",
        ),
        (Message::Claim { index: INDEX, groups: vec![7], origin: true }, "05000000 I 0100000000000000 07000000 01"),
        (Message::Origin { index: INDEX, reachable: false }, "06000000 I 00"),
        (
            Message::Want { index: INDEX, positions: vec![3, 256], plain: true },
            "07000000 I 0200000000000000 03000000 00010000 01",
        ),
        (Message::Cancel { index: INDEX, positions: vec![3] }, "08000000 I 0100000000000000 03000000"),
        (
            Message::Chunk { index: INDEX, position: 9, encoding: Encoding::Zstd, length: 0x1234 },
            "09000000 I 09000000 01000000 34120000",
        ),
        (Message::Absent { index: INDEX, positions: vec![], retry_ms: 250 }, "0a000000 I 0000000000000000 fa000000"),
        (Message::GetIndex { index: INDEX }, "0b000000 I"),
        (
            Message::IndexPart { index: INDEX, total: 300, offset: 256, length: 44 },
            "0c000000 I 2c01000000000000 0001000000000000 2c000000",
        ),
        (Message::NoIndex { index: INDEX }, "0d000000 I"),
        (Message::GetChunk { chunk: CHUNK }, "0e000000 C"),
        (Message::ChunkById { chunk: CHUNK, encoding: Encoding::Gzip, length: 5 }, "0f000000 C 03000000 05000000"),
        (Message::NoChunk { chunk: CHUNK }, "10000000 C"),
        (Message::Ping { nonce: 258 }, "11000000 0201000000000000"),
        (Message::Pong { nonce: 258 }, "12000000 0201000000000000"),
        (Message::Bye { reason: "x".into() }, "13000000 0100000000000000 78"),
        (
            Message::Others { index: INDEX, zones: vec![ZoneId(5)], joined: vec![], left: vec![NodeId([0xab; 32])] },
            "14000000 I 0100000000000000 0500000000000000 0000000000000000 0100000000000000 I",
        ),
        (
            Message::Peers {
                peers: vec![PeerAddress {
                    node: NodeId([0xab; 32]),
                    zone: ZoneId(5),
                    address: ([10, 0, 0, 1], 258).into(),
                }],
            },
            "15000000 0100000000000000 I 0500000000000000 00000000 0a000001 0201",
        ),
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
    assert!(matches!(decode(&[20, 0, 0, 0]), Err(DecodeError::Malformed(_))));
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
    let mut body = bytes("07000000 I");
    body.extend(u64::MAX.to_le_bytes());
    assert!(decode(&body).is_err());
    let mut body = bytes("03000000 I");
    body.extend((1u64 << 40).to_le_bytes());
    assert!(decode(&body).is_err());
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
        which in 0usize..20, changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)
    ) {
        let mut body = bytes(golden()[which].1);
        for (at, value) in changes {
            let length = body.len();
            // The tag stays within what exists, so that the fields are what is tried.
            body[at % length] = if at % length < 4 { body[at % length] } else { value };
        }
        if let Ok(message) = decode(&body) {
            prop_assert!(check(&message).is_ok());
            prop_assert_eq!(decode(&encode(&message).unwrap()[4..]), Ok(message));
        }
    }
}
