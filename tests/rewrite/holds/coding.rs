//! Any bytes: a decoder gives what they stand for or an error, never more than it is asked for; and what is encoded
//! decodes to itself.
//!
//! The input's first byte says which coding, how it is cut, and how much is asked for at a time.

use bytes::{Bytes, BytesMut};
use overspill::rewrite::coding::{Coding, CodingError, Decoder, Encoder, decode_all, encode_all};

pub const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

/// More is a bomb.
const MOST: usize = 1 << 20;

pub fn coding(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else {
        return;
    };
    let coding = CODINGS[usize::from(how & 3)];
    let cut = [1, 3, 50, usize::MAX][usize::from(how >> 2 & 3)];
    let limit = [1, 7, 100, 4_000][usize::from(how >> 4 & 3)];
    // Cut or not, by much or little: the same.
    let pieces = decode(coding, data, cut, limit);
    let whole = decode_all(coding, &Bytes::copy_from_slice(data), MOST);
    match (&pieces, &whole) {
        (Ok(pieces), Ok(whole)) => assert!(pieces == whole, "cut, it becomes something else"),
        (Err(_), Err(_)) => {}
        // Which of deflate's two formats it is hangs on the first two bytes.
        _ if coding == Coding::Deflate && cut == 1 => {}
        (pieces, whole) => panic!("{pieces:?} and {whole:?}"),
    }

    let mut encoder = Encoder::new(coding);
    let (mut encoded, mut left) = (BytesMut::new(), data);
    for turn in 0..50 {
        let (piece, rest) = left.split_at(cut.min(left.len()));
        encoder.encode(piece, &mut encoded).unwrap();
        left = rest;
        if turn % 5 == usize::from(how >> 6) {
            encoder.flush(&mut encoded).unwrap();
            let mut decoder = Decoder::new(coding);
            let (sent, mut seen) = (Bytes::copy_from_slice(&encoded), BytesMut::new());
            run(&mut decoder, sent, limit, &mut seen).unwrap();
            assert!(
                seen == data[..data.len() - left.len()],
                "flushed, not all of it is there"
            );
        }
    }
    encoder.encode(left, &mut encoded).unwrap();
    encoder.finish(&mut encoded).unwrap();
    assert!(decode(coding, &encoded, cut, limit).unwrap() == data);
    let encoded = encode_all(coding, data).unwrap();
    assert!(decode_all(coding, &encoded, MOST.max(data.len())).unwrap() == data);
}

fn decode(coding: Coding, data: &[u8], cut: usize, limit: usize) -> Result<BytesMut, CodingError> {
    let mut decoder = Decoder::new(coding);
    let mut all = BytesMut::new();
    for piece in data.chunks(cut.min(data.len()).max(1)) {
        run(&mut decoder, Bytes::copy_from_slice(piece), limit, &mut all)?;
    }
    decoder.finish()?;
    Ok(all)
}

/// One piece, all of it.
fn run(
    decoder: &mut Decoder,
    mut input: Bytes,
    limit: usize,
    all: &mut BytesMut,
) -> Result<(), CodingError> {
    let mut idle = 0;
    while !input.is_empty() || decoder.is_full() {
        let (before, left) = (all.len(), input.len());
        decoder.decode(&mut input, limit, all)?;
        assert!(all.len() - before <= limit, "more than was asked for");
        // A step may do nothing visible, but not for ever.
        idle = if all.len() == before && input.len() == left {
            idle + 1
        } else {
            0
        };
        assert!(idle < 3, "no step leads any further");
        if all.len() > MOST {
            return Err(CodingError::TooLarge);
        }
    }
    Ok(())
}
