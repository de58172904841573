//! Applying edits to bytes as they pass.
//!
//! Edits are queued for bytes that have not passed yet, in the order of their ranges, and dropped as
//! they are applied: what is kept does not grow with the page.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::BytesMut;

use super::{Target, scan::Summary};

/// A change of the page. Ranges are of bytes of the whole page.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: With,
}

/// What is put in.
#[derive(Debug)]
pub(super) enum With {
    /// The server's prefix, then `text`.
    Moved {
        /// Escaped for an attribute value.
        text: Box<str>,
        /// Path and query of the object.
        object: Box<str>,
    },
    /// This text.
    Text(&'static str),
}

/// The most bytes that wait for a decision; past it the edits that wait are given up.
const MAX_HELD: usize = 16 * 1024;

/// The bytes of a page on their way out.
#[derive(Debug)]
pub(super) struct Splice {
    target: Arc<Target>,
    edits: VecDeque<Edit>,
    /// Edits whose fate hangs on what follows in the page.
    undecided: Vec<Edit>,
    /// The bytes of the page from the first undecided edit on.
    held: Vec<u8>,
    /// Where in the page the next byte to be written stands.
    at: usize,
    /// Up to here, bytes are replaced.
    replaced: usize,
    pub(super) out: BytesMut,
    pub(super) summary: Summary,
}

// === impl Splice ===

impl Splice {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            edits: VecDeque::new(),
            undecided: Vec::new(),
            held: Vec::new(),
            at: 0,
            replaced: 0,
            out: BytesMut::new(),
            summary: Summary::default(),
        }
    }

    /// Queues the edits of one element, in any order. None of their bytes may have passed.
    pub(super) fn queue(&mut self, mut edits: Vec<Edit>) {
        edits.sort_by_key(|edit| edit.range.start);
        if self.undecided.is_empty() {
            self.edits.extend(edits);
        } else {
            // They can't be written before those; so they share their fate.
            self.undecided.extend(edits);
        }
    }

    /// Queues edits that [`decide`](Self::decide) will apply or drop.
    pub(super) fn queue_undecided(&mut self, mut edits: Vec<Edit>) {
        edits.sort_by_key(|edit| edit.range.start);
        self.undecided.extend(edits);
    }

    /// Applies or drops what is undecided.
    pub(super) fn decide(&mut self, apply: bool) {
        if apply {
            self.edits.extend(self.undecided.drain(..));
        } else {
            self.undecided.clear();
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.write(&held);
        }
    }

    /// Takes the next bytes of the page.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let Some(first) = self.undecided.first() else {
            return self.write(bytes);
        };
        let free = if self.held.is_empty() {
            first.range.start.saturating_sub(self.at).min(bytes.len())
        } else {
            0
        };
        let (free, held) = bytes.split_at(free);
        self.write(free);
        self.held.extend_from_slice(held);
        if self.held.len() > MAX_HELD {
            self.decide(false);
        }
    }

    fn write(&mut self, mut bytes: &[u8]) {
        loop {
            let replaced = self.replaced.saturating_sub(self.at).min(bytes.len());
            bytes = &bytes[replaced..];
            self.at += replaced;
            let next = self
                .edits
                .front()
                .map_or(usize::MAX, |edit| edit.range.start);
            let until = next.saturating_sub(self.at).min(bytes.len());
            self.out.extend_from_slice(&bytes[..until]);
            bytes = &bytes[until..];
            self.at += until;
            // An edit is applied with the first byte at its place.
            if bytes.is_empty() {
                return;
            }
            if let Some(edit) = self.edits.pop_front() {
                self.apply(edit);
            }
        }
    }

    fn apply(&mut self, edit: Edit) {
        self.replaced = edit.range.end;
        match edit.with {
            With::Moved { text, object } => {
                self.out
                    .extend_from_slice(self.target.escaped_prefix().as_bytes());
                self.out.extend_from_slice(text.as_bytes());
                self.summary.count(object);
            }
            With::Text(text) => self.out.extend_from_slice(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn splice() -> Splice {
        let url = Url::parse("http://t.example").unwrap();
        Splice::new(Arc::new(Target::new("t", &url, false).unwrap()))
    }

    fn moved(range: Range<usize>) -> Edit {
        Edit {
            range,
            with: With::Moved {
                text: "/n".into(),
                object: "/n".into(),
            },
        }
    }

    #[test]
    fn edits_are_applied_however_the_bytes_are_cut() {
        let page = b"0123456789";
        for cut in 1..=page.len() {
            let mut splice = splice();
            let text = Edit {
                range: 9..9,
                with: With::Text(" x"),
            };
            splice.queue(vec![text, moved(0..0), moved(3..6)]);
            page.chunks(cut).for_each(|bytes| splice.pass(bytes));
            let expected = "http://t.example/n012http://t.example/n678 x9";
            assert_eq!(splice.out, expected, "cut at {cut}");
            assert_eq!(splice.summary.links, 2);
        }
    }

    #[test]
    fn undecided_edits_hold_their_bytes_until_decided() {
        for (apply, expected) in [(true, "01http://t.example/n4567"), (false, "01234567")] {
            let mut splice = splice();
            splice.pass(b"0");
            splice.queue_undecided(vec![moved(2..4)]);
            splice.pass(b"12");
            splice.pass(b"345");
            assert_eq!(splice.out, "01");
            splice.decide(apply);
            splice.pass(b"67");
            assert_eq!(splice.out, expected);
        }
    }

    #[test]
    fn waiting_is_given_up_when_it_takes_too_long() {
        let mut splice = splice();
        splice.queue_undecided(vec![moved(0..4)]);
        let page = vec![b'x'; MAX_HELD + 1];
        splice.pass(&page);
        assert_eq!(splice.out, page);
        splice.decide(true);
        assert_eq!(splice.summary.links, 0);
    }
}
