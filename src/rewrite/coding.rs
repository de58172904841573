//! Content codings (RFC 9110, 8.4.1): a page from an upstream that compresses is decoded, rewritten, and encoded
//! again.
//!
//! Decoding goes in steps, since a few bytes may stand for gigabytes: no step gives more than was asked for.

use bytes::{Buf, Bytes, BytesMut};
use compression_codecs::{
    BrotliDecoder, BrotliEncoder, DecodeV2, DeflateDecoder, EncodeV2, GzipDecoder, GzipEncoder,
    ZlibDecoder, ZlibEncoder, ZstdDecoder, ZstdEncoder,
    brotli::params::EncoderParams,
    core::{
        Level,
        util::{PartialBuffer, WriteBuffer},
    },
    zstd::params::DParameter,
};
use http::{HeaderMap, header::CONTENT_ENCODING};

/// A coding that pages come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// The zlib format (RFC 1950). Some servers send it without its frame (RFC 1951): that is read, too.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, with a window of at most 8 MB (RFC 9659).
    Zstd,
}

/// A coding that is not known, or several of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of the content codings gzip, deflate, br, zstd")]
pub struct UnknownCoding;

/// What can't be decoded or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodingError {
    /// Not in this coding, or damaged.
    #[error("the body is not what its content coding says: {0}")]
    Damaged(#[from] std::io::Error),
    /// The end is missing.
    #[error("the encoded body is cut short")]
    Cut,
    /// Something follows its end.
    #[error("something follows the end of the encoded body")]
    Trailing,
    /// More than was allowed.
    #[error("the body is too large when it is decoded")]
    TooLarge,
}

/// Decodes a stream.
pub struct Decoder {
    coding: Coding,
    /// Made at the first byte: which format it is may hang on it.
    inner: Option<Box<dyn DecodeV2 + Send + Sync>>,
    ended: bool,
    /// Whether more may come of what was taken already.
    full: bool,
}

/// Encodes a stream.
pub struct Encoder {
    inner: Box<dyn EncodeV2 + Send + Sync>,
    /// Whether something was taken since the last flush.
    dirty: bool,
}

/// So much is written at a time.
const STEP: usize = 8 * 1024;

// === impl Coding ===

impl Coding {
    /// The coding of a response; `None` where it is not encoded.
    ///
    /// # Errors
    /// For any other coding, and for several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, UnknownCoding> {
        let mut coding = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().map_err(|_| UnknownCoding)?.split(',') {
                let next = match name.trim().to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    _ => return Err(UnknownCoding),
                };
                if coding.replace(next).is_some() {
                    return Err(UnknownCoding);
                }
            }
        }
        Ok(coding)
    }

    fn decoder(self, first: &[u8]) -> Box<dyn DecodeV2 + Send + Sync> {
        match self {
            Self::Gzip => Box::new(GzipDecoder::new()),
            Self::Deflate if is_zlib(first) => Box::new(ZlibDecoder::new()),
            Self::Deflate => Box::new(DeflateDecoder::new()),
            Self::Brotli => Box::new(BrotliDecoder::new()),
            Self::Zstd => Box::new(ZstdDecoder::new_with_params(&[DParameter::window_log_max(
                23,
            )])),
        }
    }

    /// For what is encoded once and sent often.
    fn small_encoder(self) -> Box<dyn EncodeV2 + Send + Sync> {
        match self {
            Self::Gzip => Box::new(GzipEncoder::new(Level::Precise(9).into())),
            Self::Deflate => Box::new(ZlibEncoder::new(Level::Precise(9).into())),
            Self::Brotli => {
                let params = EncoderParams::default().quality(Level::Precise(9));
                Box::new(BrotliEncoder::new(params))
            }
            // Levels above this one take windows that clients need not have (RFC 9659).
            Self::Zstd => Box::new(ZstdEncoder::new(15)),
        }
    }

    /// Levels between those that are fast and those that are small: a server that offloads has no time to
    /// spare, and no bytes either. A brotli window of 256 KB keeps a stream's memory below a few megabytes.
    fn encoder(self) -> Box<dyn EncodeV2 + Send + Sync> {
        match self {
            Self::Gzip => Box::new(GzipEncoder::new(Level::Precise(5).into())),
            Self::Deflate => Box::new(ZlibEncoder::new(Level::Precise(5).into())),
            Self::Brotli => {
                let params = EncoderParams::default().quality(Level::Precise(4));
                Box::new(BrotliEncoder::new(params.window_size(18)))
            }
            Self::Zstd => Box::new(ZstdEncoder::new(3)),
        }
    }
}

/// Whether a stream begins as RFC 1950, 2.2 demands: 8 for deflate, and a multiple of 31.
fn is_zlib(first: &[u8]) -> bool {
    match first {
        [method, flags, ..] => {
            method & 0x0F == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
        }
        // Of a stream cut there nothing can be told.
        _ => first.first().is_none_or(|method| method & 0x0F == 8),
    }
}

// === impl Decoder ===

impl Decoder {
    /// Of a stream in `coding`.
    #[must_use]
    pub const fn new(coding: Coding) -> Self {
        Self {
            coding,
            inner: None,
            ended: false,
            full: false,
        }
    }

    /// Takes of `input` what it can, and appends at most `limit` bytes to `out`.
    ///
    /// To be called again while something is left of `input`, or [`is_full`](Self::is_full).
    ///
    /// # Errors
    /// Where the stream is damaged, or something follows its end.
    pub fn decode(
        &mut self,
        input: &mut Bytes,
        limit: usize,
        out: &mut BytesMut,
    ) -> Result<(), CodingError> {
        if self.ended {
            if input.is_empty() {
                self.full = false;
                return Ok(());
            }
            // Members and frames follow each other as if they were one.
            match (&mut self.inner, self.coding) {
                (Some(inner), Coding::Gzip | Coding::Zstd) => inner.reinit()?,
                _ => return Err(CodingError::Trailing),
            }
            self.ended = false;
        }
        let coding = self.coding;
        let inner = self.inner.get_or_insert_with(|| coding.decoder(input));
        let before = out.len();
        out.resize(before + limit, 0);
        let mut taken = PartialBuffer::new(&input[..]);
        let mut given = WriteBuffer::new_initialized(&mut out[before..]);
        let ended = inner.decode(&mut taken, &mut given);
        let (taken, given) = (taken.written_len(), given.written_len());
        input.advance(taken);
        out.truncate(before + given);
        self.ended = match ended {
            // Some call it an error that nothing is left to give.
            Err(_) if input.is_empty() && self.full && taken == 0 && given == 0 => false,
            ended => ended?,
        };
        self.full = given == limit && !self.ended;
        if taken == 0 && given == 0 && !self.ended && !input.is_empty() {
            return Err(CodingError::Trailing);
        }
        Ok(())
    }

    /// Whether more may come without more input.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// Where its end is missing.
    pub const fn finish(&self) -> Result<(), CodingError> {
        // A body of nothing is nothing, in every coding.
        if self.ended || self.inner.is_none() {
            Ok(())
        } else {
            Err(CodingError::Cut)
        }
    }
}

// === impl Encoder ===

impl Encoder {
    /// To `coding`.
    #[must_use]
    pub fn new(coding: Coding) -> Self {
        Self {
            inner: coding.encoder(),
            dirty: false,
        }
    }

    /// Takes `input` and appends what is ready to `out`.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn encode(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), CodingError> {
        let mut input = PartialBuffer::new(input);
        while !input.unwritten().is_empty() {
            self.dirty = true;
            step(out, |out| self.inner.encode(&mut input, out))?;
        }
        Ok(())
    }

    /// Appends all that was taken so far, so that it can be decoded.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn flush(&mut self, out: &mut BytesMut) -> Result<(), CodingError> {
        if std::mem::take(&mut self.dirty) {
            while !step(out, |out| self.inner.flush(out))? {}
        }
        Ok(())
    }

    /// Appends the end.
    ///
    /// # Errors
    /// Where the encoder fails.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), CodingError> {
        while !step(out, |out| self.inner.finish(out))? {}
        Ok(())
    }
}

/// One write of at most [`STEP`] bytes.
fn step<T>(
    out: &mut BytesMut,
    write: impl FnOnce(&mut WriteBuffer<'_>) -> std::io::Result<T>,
) -> Result<T, CodingError> {
    let before = out.len();
    out.resize(before + STEP, 0);
    let mut given = WriteBuffer::new_initialized(&mut out[before..]);
    let result = write(&mut given);
    let given = given.written_len();
    out.truncate(before + given);
    Ok(result?)
}

/// Decodes a whole body.
///
/// # Errors
/// Where it is damaged or cut, and where it would be more than `most` bytes.
pub fn decode_all(coding: Coding, body: &Bytes, most: usize) -> Result<Bytes, CodingError> {
    let mut decoder = Decoder::new(coding);
    let (mut input, mut out) = (body.clone(), BytesMut::new());
    while !input.is_empty() || decoder.is_full() {
        decoder.decode(&mut input, 4 * STEP, &mut out)?;
        if out.len() > most {
            return Err(CodingError::TooLarge);
        }
    }
    decoder.finish()?;
    Ok(out.freeze())
}

/// Encodes a whole body.
///
/// # Errors
/// Where the encoder fails.
pub fn encode_all(coding: Coding, body: &[u8]) -> Result<Bytes, CodingError> {
    encode_by(Encoder::new(coding), body)
}

/// Encodes a whole body as small as can be in reasonable time: some ten times that of [`encode_all`].
///
/// # Errors
/// Where the encoder fails.
pub fn encode_small(coding: Coding, body: &[u8]) -> Result<Bytes, CodingError> {
    let inner = coding.small_encoder();
    encode_by(
        Encoder {
            inner,
            dirty: false,
        },
        body,
    )
}

fn encode_by(mut encoder: Encoder, body: &[u8]) -> Result<Bytes, CodingError> {
    let mut out = BytesMut::new();
    encoder.encode(body, &mut out)?;
    encoder.finish(&mut out)?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

    fn of(values: &[&'static str]) -> Result<Option<Coding>, UnknownCoding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers)
    }

    #[test]
    fn reads_content_encoding() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity", ""]), Ok(None));
        assert_eq!(of(&["X-GZIP"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&[" br , identity"]), Ok(Some(Coding::Brotli)));
        assert_eq!(of(&["zstd"]), Ok(Some(Coding::Zstd)));
        assert_eq!(of(&["gzip, br"]), Err(UnknownCoding));
        assert_eq!(of(&["gzip", "gzip"]), Err(UnknownCoding));
        assert_eq!(of(&["compress"]), Err(UnknownCoding));
    }

    #[test]
    fn reads_what_others_wrote() {
        // `hello\n` by zlib 1.3, framed as gzip, as zlib and not at all.
        let raw = [0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0xe7, 0x02, 0x00];
        let gzip = [
            &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..],
            &raw,
            &[0x20, 0x30, 0x3a, 0x36, 6, 0, 0, 0],
        ]
        .concat();
        let zlib = [&[0x78, 0x9c][..], &raw, &[0x08, 0x4b, 0x02, 0x1f]].concat();
        for (coding, bytes) in [
            (Coding::Gzip, &gzip[..]),
            (Coding::Deflate, &zlib),
            (Coding::Deflate, &raw),
        ] {
            let decoded = decode_all(coding, &Bytes::copy_from_slice(bytes), 100);
            assert_eq!(decoded.unwrap(), "hello\n", "{coding:?}");
        }
        let twice = Bytes::from([&gzip[..], &gzip].concat());
        assert_eq!(
            decode_all(Coding::Gzip, &twice, 100).unwrap(),
            "hello\nhello\n"
        );
    }

    #[test]
    fn a_bomb_gives_no_more_than_is_asked_for() {
        for coding in ALL {
            let bomb = encode_all(coding, &vec![0; 20_000_000]).unwrap();
            assert!(bomb.len() < 200_000, "{coding:?}: {}", bomb.len());
            assert!(matches!(
                decode_all(coding, &bomb, 1_000_000),
                Err(CodingError::TooLarge)
            ));
            let (mut decoder, mut input) = (Decoder::new(coding), bomb);
            let mut sum = 0;
            while !input.is_empty() || decoder.is_full() {
                let mut out = BytesMut::new();
                decoder.decode(&mut input, 1_000, &mut out).unwrap();
                assert!(out.len() <= 1_000);
                sum += out.len();
            }
            decoder.finish().unwrap();
            assert_eq!(sum, 20_000_000, "{coding:?}");
        }
    }

    #[test]
    fn what_is_cut_or_followed_is_an_error() {
        for coding in ALL {
            let whole = encode_all(coding, b"some text that is long enough to be cut").unwrap();
            for end in 1..whole.len() {
                assert!(decode_all(coding, &whole.slice(..end), 1_000).is_err());
            }
            let followed = Bytes::from([&whole[..], b"xyz"].concat());
            assert!(decode_all(coding, &followed, 1_000).is_err(), "{coding:?}");
            assert_eq!(decode_all(coding, &Bytes::new(), 1_000).unwrap(), "");
        }
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        for coding in ALL {
            let (mut encoder, mut sent) = (Encoder::new(coding), BytesMut::new());
            encoder.encode(b"first", &mut sent).unwrap();
            encoder.flush(&mut sent).unwrap();
            let length = sent.len();
            encoder.flush(&mut sent).unwrap();
            assert_eq!(sent.len(), length, "nothing new, nothing sent");
            let (mut decoder, mut out) = (Decoder::new(coding), BytesMut::new());
            decoder.decode(&mut sent.freeze(), 1_000, &mut out).unwrap();
            assert_eq!(out, "first", "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(
            pieces in vec(vec(select(&b"abc <>\0\xff"[..]), 0..300), 0..20),
            cut in 1usize..50,
            limit in 1usize..100,
        ) {
            for coding in ALL {
                let (mut encoder, mut encoded) = (Encoder::new(coding), BytesMut::new());
                for piece in &pieces {
                    encoder.encode(piece, &mut encoded).unwrap();
                    if piece.len() % 3 == 0 {
                        encoder.flush(&mut encoded).unwrap();
                    }
                }
                encoder.finish(&mut encoded).unwrap();
                let (mut decoder, mut out) = (Decoder::new(coding), BytesMut::new());
                let mut encoded = encoded.freeze();
                while !encoded.is_empty() {
                    let mut input = encoded.split_to(cut.min(encoded.len()));
                    while !input.is_empty() || decoder.is_full() {
                        decoder.decode(&mut input, limit, &mut out).unwrap();
                    }
                }
                decoder.finish().unwrap();
                prop_assert_eq!(&out[..], pieces.concat());
            }
        }

        #[test]
        fn garbage_is_an_error_or_something_else(bytes in vec(any::<u8>(), 0..200)) {
            for coding in ALL {
                if let Ok(decoded) = decode_all(coding, &bytes.clone().into(), 100_000) {
                    prop_assert!(decoded.len() <= 100_000);
                }
            }
        }
    }
}
