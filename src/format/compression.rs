//! Chunk files to bytes and back: zstd, xz and gzip, with contexts that are reused. Nothing is verified here but that
//! the input is exactly one whole stream; [`crate::chunk::verify`] checks what comes out.

use std::io;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use proto::message::Encoding;
use xz2::stream::{Action, Check, Filters, LzmaOptions, Status as XzStatus, Stream};
use zstd::zstd_safe::CParameter;

/// What an xz decoder may use, in bytes: enough for preset 9.
const XZ_MEMORY: u64 = 66 << 20;

/// Level, hash table and shortest match for zstd. On OS images cut at 64 KiB this takes 0.83 of the time of level 3,
/// casync's, and 0.6 % more bytes; level 2 alone takes 1.1 % more.
const ZSTD: (i32, u32, u32) = (2, 15, 4);

/// Why bytes are not one whole compressed stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes, or none come out.
    #[error("empty")]
    Empty,
    /// The stream does not end within the bytes.
    #[error("{0:?} stream is cut off")]
    Truncated(Encoding),
    /// More bytes follow the stream.
    #[error("bytes follow the end of the {0:?} stream")]
    Trailing(Encoding),
    /// More comes out than the caller allows.
    #[error("more than {limit} bytes come out")]
    TooLong {
        /// The most that was allowed.
        limit: usize,
    },
    /// The decoder refuses the bytes.
    #[error("{encoding:?} stream is damaged: {reason}")]
    Damaged {
        /// What was tried.
        encoding: Encoding,
        /// What the decoder said.
        reason: String,
    },
}

/// The encoding of a compressed chunk file, by its first bytes; `None` if it is none that casync knows.
pub fn detect(bytes: &[u8]) -> Option<Encoding> {
    let marks: [(&[u8], Encoding); 3] =
        [(b"\x28\xb5\x2f\xfd", Encoding::Zstd), (b"\xfd7zXZ\0", Encoding::Xz), (b"\x1f\x8b", Encoding::Gzip)];
    marks.into_iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, encoding)| encoding)
}

/// Decompresses chunks, one after another.
pub struct Decompressor {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// Makes one; its memory is allocated at first use.
    pub fn new() -> Self {
        Self { zstd: None }
    }

    /// Decompresses exactly one stream. Never allocates much more than `limit`, the most bytes that may come out.
    ///
    /// # Errors
    /// [`DecodeError`] for what is not one whole stream of at least one byte and at most `limit`.
    pub fn decompress(&mut self, encoding: Encoding, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        let plain = match encoding {
            Encoding::Plain if bytes.len() > limit => return Err(DecodeError::TooLong { limit }),
            Encoding::Plain => bytes.to_vec(),
            Encoding::Zstd => self.zstd(bytes, limit)?,
            Encoding::Xz => unxz(bytes, limit)?,
            Encoding::Gzip => gunzip(bytes, limit)?,
        };
        if plain.is_empty() { Err(DecodeError::Empty) } else { Ok(plain) }
    }

    fn zstd(&mut self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
        let damaged = |reason: String| DecodeError::Damaged { encoding: Encoding::Zstd, reason };
        if detect(bytes) != Some(Encoding::Zstd) {
            return Err(damaged("no zstd frame".to_owned()));
        }
        // zstd would go on with the next frame, and skips frames of its own kind.
        match zstd::zstd_safe::find_frame_compressed_size(bytes) {
            Ok(size) if size < bytes.len() => return Err(DecodeError::Trailing(Encoding::Zstd)),
            Ok(_) => {}
            Err(_) => return Err(DecodeError::Truncated(Encoding::Zstd)),
        }
        if let Ok(Some(size)) = zstd::zstd_safe::get_frame_content_size(bytes)
            && size > limit as u64
        {
            return Err(DecodeError::TooLong { limit });
        }
        let context = match &mut self.zstd {
            Some(context) => context,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| damaged(error.to_string()))?),
        };
        let mut plain = output(limit, Encoding::Zstd)?;
        match context.decompress_to_buffer(bytes, &mut plain) {
            Ok(_) => Ok(plain),
            Err(error) if error.to_string().contains("too small") => Err(DecodeError::TooLong { limit }),
            Err(error) => Err(damaged(error.to_string())),
        }
    }
}

fn unxz(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let damaged = |error: xz2::stream::Error| DecodeError::Damaged {
        encoding: Encoding::Xz,
        reason: io::Error::from(error).to_string(),
    };
    let mut decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(damaged)?;
    // One byte more than allowed shows that more would come.
    let mut plain = output(limit + 1, Encoding::Xz)?;
    loop {
        let before = (decoder.total_in(), plain.len());
        let status = decoder.process_vec(&bytes[before.0 as usize..], &mut plain, Action::Finish).map_err(damaged)?;
        if plain.len() > limit {
            return Err(DecodeError::TooLong { limit });
        }
        match status {
            XzStatus::StreamEnd if decoder.total_in() < bytes.len() as u64 => {
                return Err(DecodeError::Trailing(Encoding::Xz));
            }
            XzStatus::StreamEnd => return Ok(plain),
            // Without progress, the stream wants bytes that are not there.
            _ if (decoder.total_in(), plain.len()) == before => return Err(DecodeError::Truncated(Encoding::Xz)),
            _ => {}
        }
    }
}

fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decompress::new_gzip(15);
    let mut plain = output(limit + 1, Encoding::Gzip)?;
    loop {
        let before = (decoder.total_in(), plain.len());
        let rest = &bytes[before.0 as usize..];
        let status = decoder
            .decompress_vec(rest, &mut plain, FlushDecompress::None)
            .map_err(|error| DecodeError::Damaged { encoding: Encoding::Gzip, reason: error.to_string() })?;
        if plain.len() > limit {
            return Err(DecodeError::TooLong { limit });
        }
        match status {
            Status::StreamEnd if decoder.total_in() < bytes.len() as u64 => {
                return Err(DecodeError::Trailing(Encoding::Gzip));
            }
            Status::StreamEnd => return Ok(plain),
            _ if (decoder.total_in(), plain.len()) == before => return Err(DecodeError::Truncated(Encoding::Gzip)),
            _ => {}
        }
    }
}

/// Room for the output, or an error instead of an abort where memory is short.
fn output(capacity: usize, encoding: Encoding) -> Result<Vec<u8>, DecodeError> {
    let mut plain = Vec::new();
    match plain.try_reserve_exact(capacity) {
        Ok(()) => Ok(plain),
        Err(error) => Err(DecodeError::Damaged { encoding, reason: error.to_string() }),
    }
}

/// Compresses chunks, one after another, in one encoding. The same chunk always becomes the same bytes.
pub struct Compressor {
    kind: Kind,
}

enum Kind {
    Plain,
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Xz,
    Gzip,
}

impl Compressor {
    /// Makes one for stores, close to casync's in what comes out: zstd a little faster than level 3, xz preset 6 with
    /// CRC64, gzip level 6.
    ///
    /// # Errors
    /// When there is no memory for its context.
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        match encoding {
            Encoding::Zstd => {
                let (level, table, shortest) = ZSTD;
                let mut context = zstd::bulk::Compressor::new(level)?;
                context.set_parameter(CParameter::HashLog(table))?;
                context.set_parameter(CParameter::MinMatch(shortest))?;
                Ok(Self { kind: Kind::Zstd(Box::new(context)) })
            }
            Encoding::Plain => Ok(Self { kind: Kind::Plain }),
            Encoding::Xz => Ok(Self { kind: Kind::Xz }),
            Encoding::Gzip => Ok(Self { kind: Kind::Gzip }),
        }
    }

    /// Makes one for zstd of a level, as it is.
    ///
    /// # Errors
    /// When there is no memory for its context.
    pub fn zstd(level: i32) -> io::Result<Self> {
        Ok(Self { kind: Kind::Zstd(Box::new(zstd::bulk::Compressor::new(level)?)) })
    }

    /// What comes out of it.
    pub fn encoding(&self) -> Encoding {
        match self.kind {
            Kind::Plain => Encoding::Plain,
            Kind::Zstd(_) => Encoding::Zstd,
            Kind::Xz => Encoding::Xz,
            Kind::Gzip => Encoding::Gzip,
        }
    }

    /// Compresses one chunk into one stream.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn compress(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match &mut self.kind {
            Kind::Plain => Ok(plain.to_vec()),
            Kind::Zstd(context) => context.compress(plain),
            Kind::Xz => xz(plain),
            Kind::Gzip => gzip(plain),
        }
    }
}

fn xz(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(6)?;
    // A dictionary larger than the chunk is memory (ten times its size) for nothing.
    options.dict_size(plain.len().next_power_of_two().clamp(64 << 10, 8 << 20) as u32);
    let mut encoder = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc64)?;
    let mut bytes = Vec::with_capacity(plain.len() / 2 + 256);
    loop {
        let done = encoder.total_in() as usize;
        if encoder.process_vec(&plain[done..], &mut bytes, Action::Finish)? == XzStatus::StreamEnd {
            return Ok(bytes);
        }
        bytes.reserve(plain.len() / 4 + 256);
    }
}

fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Compress::new_gzip(flate2::Compression::new(6), 15);
    let mut bytes = Vec::with_capacity(plain.len() / 2 + 256);
    loop {
        let done = encoder.total_in() as usize;
        if encoder.compress_vec(&plain[done..], &mut bytes, FlushCompress::Finish)? == Status::StreamEnd {
            return Ok(bytes);
        }
        bytes.reserve(plain.len() / 4 + 256);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Zstd, Encoding::Xz, Encoding::Gzip];

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * i / 7 % 61) as u8).collect()
    }

    #[test]
    fn every_encoding_reads_back_and_is_recognised() {
        let mut decompressor = Decompressor::new();
        for encoding in ALL {
            let mut compressor = Compressor::new(encoding).unwrap();
            for length in [1, 2, 1000, 70_000, 300_000] {
                let bytes = compressor.compress(&text(length)).unwrap();
                assert_eq!(detect(&bytes), Some(encoding));
                assert_eq!(decompressor.decompress(encoding, &bytes, length), Ok(text(length)));
            }
        }
    }

    #[test]
    fn truncated_followed_and_too_long_streams_are_told_apart() {
        let mut decompressor = Decompressor::new();
        for encoding in ALL {
            let mut bytes = Compressor::new(encoding).unwrap().compress(&text(5000)).unwrap();
            for end in 1..bytes.len() {
                assert!(decompressor.decompress(encoding, &bytes[..end], 5000).is_err(), "{encoding:?} {end}");
            }
            assert_eq!(decompressor.decompress(encoding, &bytes, 4999), Err(DecodeError::TooLong { limit: 4999 }));
            assert_eq!(decompressor.decompress(encoding, &[], 5000), Err(DecodeError::Empty));
            let whole = bytes.clone();
            bytes.extend_from_slice(&whole);
            assert_eq!(decompressor.decompress(encoding, &bytes, 10_000), Err(DecodeError::Trailing(encoding)));
        }
    }

    #[test]
    fn a_chunk_of_nothing_is_refused() {
        for encoding in ALL {
            let bytes = Compressor::new(encoding).unwrap().compress(&[]).unwrap();
            assert_eq!(Decompressor::new().decompress(encoding, &bytes, 10), Err(DecodeError::Empty));
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        for encoding in ALL {
            let bytes = Compressor::new(encoding).unwrap().compress(&vec![0; 50 << 20]).unwrap();
            assert_eq!(
                Decompressor::new().decompress(encoding, &bytes, 1000),
                Err(DecodeError::TooLong { limit: 1000 })
            );
        }
    }
}
