//! The end of a WebSocket when the server stops: said to the client, where one frame ends and before the next begins.
//!
//! What is carried is the upstream's and the client's affair. But who is cut off in the middle learns nothing, and who is
//! told to go (`1001`, RFC 6455 section 7.4.1) comes again at once, to whoever serves by then. The client's answer goes to
//! the upstream, as if the client had wanted to leave by itself, and so both ends close in order.

use std::{
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// A frame: Close, of two bytes, which are 1001 (going away).
const GOODBYE: &[u8] = &[0x88, 2, 0x03, 0xE9];
const CLOSE: u8 = 8;

/// Where the frames of one direction begin and end (RFC 6455 section 5.2).
#[derive(Debug, Default)]
struct Frames {
    /// Of the frame that begins: 2 to 14 bytes.
    head: [u8; 14],
    have: usize,
    /// Of the payload.
    left: u64,
    /// The last frame was a Close.
    is_closed: bool,
}

// === impl Frames ===

impl Frames {
    /// How long the head is, as far as can be told.
    fn head_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        // A server masks nothing; what does is another's fault, and has an end as well.
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        match self.head[1] & 0x7F {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            length => length.into(),
        }
    }

    /// These bytes come.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken =
                    usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= taken as u64;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = (self.head_length() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            // The second byte tells whether there are more.
            if self.have == self.head_length() {
                self.left = self.payload_length();
                self.is_closed |= self.head[0] & 0x0F == CLOSE;
                self.have = 0;
            }
        }
    }

    /// So many bytes may come before a frame ends, at least; 0: none has begun.
    fn to_border(&self) -> u64 {
        match (self.left, self.have) {
            (0, 0) => 0,
            (0, have) => (self.head_length() - have) as u64,
            (left, _) => left,
        }
    }
}

/// Whether a WebSocket is to end.
#[derive(Debug, Default)]
pub(super) struct Parting {
    is_wanted: AtomicBool,
    /// The client has been told.
    pub(super) said: Notify,
}

// === impl Parting ===

impl Parting {
    /// Tells the client as soon as a frame ends. Whoever carries has to be polled after that.
    pub(super) fn begin(&self) {
        self.is_wanted.store(true, Relaxed);
    }
}

/// The upstream's end of a WebSocket: what is read from it ends with a goodbye, where that is wanted.
pub(super) struct Parted<'a, S> {
    inner: S,
    /// [`None`]: it is another protocol.
    parting: Option<&'a Parting>,
    frames: Frames,
    /// What is still to be said.
    goodbye: Option<&'static [u8]>,
}

// === impl Parted ===

impl<'a, S> Parted<'a, S> {
    /// `early` has come before.
    pub(super) fn new(inner: S, parting: Option<&'a Parting>, early: &[u8]) -> Self {
        let mut frames = Frames::default();
        if parting.is_some() {
            frames.pass(early);
        }
        Self {
            inner,
            parting,
            frames,
            goodbye: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Parted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(parting) = this.parting else {
            return pin!(&mut this.inner).poll_read(cx, buffer);
        };
        if parting.is_wanted.load(Relaxed) && !this.frames.is_closed {
            let to_border = this.frames.to_border();
            if to_border > 0 {
                let most = usize::try_from(to_border).unwrap_or(usize::MAX);
                let most = most.min(buffer.remaining());
                let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
                ready!(pin!(&mut this.inner).poll_read(cx, &mut part))?;
                this.frames.pass(part.filled());
                let count = part.filled().len();
                buffer.advance(count);
                return Poll::Ready(Ok(()));
            }
            let rest = this.goodbye.get_or_insert(GOODBYE);
            if !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
                buffer.put_slice(now);
                *rest = later;
                if later.is_empty() {
                    parting.said.notify_one();
                }
                return Poll::Ready(Ok(()));
            }
            // Nothing may follow (RFC 6455 section 5.5.1): what the upstream still says is read, and that is all.
            let mut nobodys = [0; 1024];
            loop {
                let mut buffer = ReadBuf::new(&mut nobodys);
                ready!(pin!(&mut this.inner).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let before = buffer.filled().len();
        ready!(pin!(&mut this.inner).poll_read(cx, buffer))?;
        this.frames.pass(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Parted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        pin!(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A frame by hand, its length written in as many bytes as `wide` says where it fits.
    fn frame(opcode: u8, is_last: bool, is_masked: bool, wide: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![opcode | if is_last { 0x80 } else { 0 }];
        let mask = if is_masked { 0x80 } else { 0 };
        match (payload.len(), wide) {
            (length @ ..126, 0) => frame.push(mask | length as u8),
            (length @ ..0x1_0000, 0 | 1) => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            (length, _) => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if is_masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(payload);
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![
            Just(0_usize),
            0..130_usize,
            Just(125),
            Just(126),
            Just(127),
            Just(70_000)
        ];
        let one = (
            0..8_u8,
            any::<bool>(),
            any::<bool>(),
            0..3_u8,
            length,
            any::<u8>(),
        );
        let one = one.prop_map(|(opcode, is_last, is_masked, wide, length, byte)| {
            frame(opcode, is_last, is_masked, wide, &vec![byte; length])
        });
        proptest::collection::vec(one, 1..6)
    }

    /// Bytes in pieces of these lengths, again and again.
    fn pieces<'a>(bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = bytes;
        lengths.iter().cycle().map_while(move |length| {
            let (piece, after) = rest.split_at(rest.len().min(*length));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
    }

    proptest! {
        #[test]
        fn borders_are_where_frames_end(frames in frames(), lengths in proptest::collection::vec(1..3000_usize, 1..5)) {
            let bytes = frames.concat();
            let borders: std::collections::BTreeSet<usize> = std::iter::once(0)
                .chain(frames.iter().scan(0, |end, frame| {
                    *end += frame.len();
                    Some(*end)
                }))
                .collect();
            let (mut seen, mut at) = (Frames::default(), 0);
            for piece in pieces(&bytes, &lengths) {
                seen.pass(piece);
                at += piece.len();
                prop_assert_eq!(seen.to_border() == 0, borders.contains(&at), "{}", at);
                // Never farther than to the next one.
                let next = borders.range(at..).next().unwrap();
                prop_assert!(at as u64 + seen.to_border() <= *next as u64);
            }
            prop_assert!(!seen.is_closed);
        }

        #[test]
        fn a_goodbye_stands_between_two_frames_and_nothing_follows_it(
            frames in frames(),
            lengths in proptest::collection::vec(1..3000_usize, 1..5),
            room in 1..5000_usize,
            before in 0..5_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let bytes = frames.concat();
                let (upstream, mut far) = tokio::io::duplex(1 << 20);
                for piece in pieces(&bytes, &lengths) {
                    far.write_all(piece).await.unwrap();
                }
                drop(far);
                let parting = Parting::default();
                let mut upstream = Parted::new(upstream, Some(&parting), b"");
                let (mut read, mut count) = (Vec::new(), 0);
                loop {
                    if count == before {
                        parting.begin();
                    }
                    let mut part = vec![0; room];
                    match upstream.read(&mut part).await.unwrap() {
                        0 => break,
                        taken => read.extend_from_slice(&part[..taken]),
                    }
                    count += 1;
                }
                read
            });
            if before == 0 {
                prop_assert_eq!(&*read, GOODBYE);
            }
            let mut whole = Vec::new();
            let mut ends = vec![0];
            for frame in &frames {
                whole.extend_from_slice(frame);
                ends.push(whole.len());
            }
            match read.strip_suffix(GOODBYE) {
                Some(said) if ends.contains(&said.len()) => prop_assert!(whole.starts_with(said)),
                _ => prop_assert!(read == whole, "it was over before"),
            }
        }
    }

    #[tokio::test]
    async fn who_has_said_goodbye_already_is_left_alone() {
        let parting = Parting::default();
        let (upstream, mut far) = tokio::io::duplex(1 << 10);
        let close = frame(CLOSE, true, false, 0, b"\x03\xe8");
        let mut upstream = Parted::new(upstream, Some(&parting), &close);
        parting.begin();
        far.write_all(b"what should not be").await.unwrap();
        drop(far);
        let mut read = Vec::new();
        upstream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"what should not be");
    }
}
