//! Content codings (RFC 9110 §8.4): the first bytes of a body, decoded as far as they go and no further than a bound.
//!
//! Every byte is the host's choice. Decoders of others do the work; what each of them is told here is how much to read,
//! how much to write and how large a window to keep.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use ruzstd::decoding::errors::{FrameDecoderError, FrameHeaderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window of zstd that a server may ask for (RFC 9659).
const MAX_ZSTD_WINDOW: u64 = 8 << 20;

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// The coding that a head names. `None`: it is not known here, or there are several.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                let next = Self::named(name)?;
                coding = match (coding, next) {
                    (coding, Self::Identity) => coding,
                    (Self::Identity, next) => next,
                    _ => return None,
                };
            }
        }
        Some(coding)
    }

    fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("") || is("identity") {
            Some(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("br") {
            Some(Self::Brotli)
        } else if is("zstd") {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// Decodes what there is of a body, to at most `limit` bytes.
    pub(super) fn decode(self, bytes: &[u8], limit: usize) -> Decoded<'_> {
        let mut out = Vec::new();
        let end = match self {
            Self::Identity => {
                let shown = bytes.get(..limit).unwrap_or(bytes);
                let end = if shown.len() == bytes.len() { End::Input } else { End::Limit };
                return Decoded { bytes: Cow::Borrowed(shown), end };
            }
            Self::Gzip => gzip(bytes, limit, &mut out),
            Self::Brotli => brotli(bytes, limit, &mut out),
            Self::Zstd => zstd(bytes, limit, &mut out),
        };
        Decoded { bytes: Cow::Owned(out), end }
    }
}

/// What there is of a body, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded<'b> {
    pub(super) bytes: Cow<'b, [u8]>,
    pub(super) end: End,
}

/// Why a decoder stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There was nothing more to decode. Whether the body was complete is not said.
    Input,
    /// As much as is wanted was decoded.
    Limit,
    /// The bytes are not what the coding promises.
    Malformed,
    /// Decoding them would need more memory than is given.
    Memory,
}

fn gzip(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> End {
    // Little by little, because what is decoded in one go with an error is lost.
    let (mut decoder, mut piece) = (MultiGzDecoder::new(bytes), [0; 256]);
    while out.len() < limit {
        match decoder.read(&mut piece) {
            Ok(0) => return End::Input,
            Ok(length) => append(out, piece.get(..length).unwrap_or_default(), limit),
            Err(error) if is_missing(&error) => return End::Input,
            Err(_) => return End::Malformed,
        }
    }
    End::Limit
}

fn append(out: &mut Vec<u8>, piece: &[u8], limit: usize) {
    let room = limit.saturating_sub(out.len());
    out.extend_from_slice(piece.get(..room).unwrap_or(piece));
}

/// Whether it is that the input ended too soon.
fn is_missing(error: &(dyn Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(cause) = error {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return cause.kind() == io::ErrorKind::UnexpectedEof;
        }
        error = cause.source();
    }
    false
}

fn brotli(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> End {
    // Strict: the window of 16 MiB that the RFC allows, never a larger one; it grows as it is filled.
    let allocate = StandardAlloc::default;
    let mut state = BrotliState::new_strict(allocate(), allocate(), allocate());
    let (mut left, mut offset, mut total, mut piece) = (bytes.len(), 0, 0, [0; 1024]);
    while out.len() < limit {
        let (mut room, mut filled) = (piece.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut offset,
            bytes,
            &mut room,
            &mut filled,
            &mut piece,
            &mut total,
            &mut state,
        );
        append(out, piece.get(..filled).unwrap_or_default(), limit);
        match result {
            BrotliResult::NeedsMoreOutput if filled > 0 => {}
            BrotliResult::ResultSuccess | BrotliResult::NeedsMoreInput => return End::Input,
            BrotliResult::ResultFailure | BrotliResult::NeedsMoreOutput => return End::Malformed,
        }
    }
    End::Limit
}

fn zstd(mut rest: &[u8], limit: usize, out: &mut Vec<u8>) -> End {
    /// A block that is empty and the last, with room for the checksum that may be promised.
    const LAST: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];

    // One frame after the other. Each turn takes a header at least.
    while !rest.is_empty() {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW);
        match decoder.init(&mut rest) {
            Ok(()) => {}
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                rest = rest.get(length..).unwrap_or_default();
                continue;
            }
            Err(
                FrameDecoderError::WindowSizeTooBig { .. }
                | FrameDecoderError::FrameHeaderError(FrameHeaderError::WindowTooBig { .. }),
            ) => return End::Memory,
            Err(error) if is_missing(&error) => return End::Input,
            Err(_) => return End::Malformed,
        }
        let room = limit.saturating_sub(out.len());
        let result = decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBytes(room));
        if !decoder.is_finished() {
            // The decoder keeps a window back until the frame has its end: so it gets one.
            let _ = decoder.decode_blocks(&LAST[..], BlockDecodingStrategy::All);
        }
        append(out, &decoder.collect().unwrap_or_default(), limit);
        match result {
            Err(error) if is_missing(&error) => return End::Input,
            Err(_) => return End::Malformed,
            Ok(_) if out.len() >= limit => return End::Limit,
            Ok(_) => {}
        }
    }
    End::Input
}
