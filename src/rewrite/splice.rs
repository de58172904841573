//! Applying edits to bytes as they pass.
//!
//! Edits are queued for bytes that have not passed yet, in the order of their ranges, and dropped as
//! they are applied: what is kept does not grow with the page.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{
    edit::{Allowance, Edit},
    scan::{MAX_STYLE, PIECE, Summary},
};

/// Room for what waits, as a rule.
const FEW: usize = 1024;
/// Room for the most that waits, and the piece that was one too many.
const MOST: usize = MAX_STYLE + PIECE;

/// The bytes of a page on their way out.
#[derive(Debug)]
pub(super) struct Splice {
    allowance: Allowance,
    edits: VecDeque<Edit>,
    /// From here on bytes wait, since edits may come for them.
    hold: Option<usize>,
    held: Vec<u8>,
    /// Where in the page the next byte to be written stands.
    at: usize,
    /// Up to here, bytes are replaced.
    replaced: usize,
    /// Whether the page has the fallback script.
    has_fallback: bool,
    pub(super) out: BytesMut,
    pub(super) summary: Summary,
}

// === impl Splice ===

impl Splice {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            edits: VecDeque::new(),
            hold: None,
            held: Vec::new(),
            at: 0,
            replaced: 0,
            has_fallback: false,
            out: BytesMut::new(),
            summary: Summary::default(),
        }
    }

    /// Queues an edit. None of its bytes may have been written.
    pub(super) fn queue(&mut self, edit: Edit) {
        self.edits.push_back(edit);
    }

    /// From `place` on, bytes wait for [`release`](Self::release).
    pub(super) fn hold(&mut self, place: usize) {
        self.hold.get_or_insert(place);
    }

    /// What waits goes on, with the edits that were queued for it.
    pub(super) fn release(&mut self) {
        self.hold = None;
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.write(&held);
        }
    }

    /// Takes the next bytes of the page.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let Some(hold) = self.hold else {
            return self.write(bytes);
        };
        let free = if self.held.is_empty() {
            hold.saturating_sub(self.at).min(bytes.len())
        } else {
            0
        };
        let (free, held) = bytes.split_at(free);
        self.write(free);
        self.keep(held);
    }

    /// Bytes wait: few as a rule, or as many as may wait at all. To grow in between would copy them, and take
    /// twice the memory meanwhile.
    fn keep(&mut self, bytes: &[u8]) {
        let needed = self.held.len() + bytes.len();
        if needed > self.held.capacity() {
            let room = if needed <= FEW { FEW } else { MOST.max(needed) };
            self.held.reserve_exact(room - self.held.len());
        }
        self.held.extend_from_slice(bytes);
    }

    /// What waits, from `place` on.
    pub(super) fn held_from(&self, place: usize) -> &[u8] {
        self.held
            .get(place.saturating_sub(self.at)..)
            .unwrap_or_default()
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
        let out = &mut self.out;
        let is_fallback = edit.is_fallback();
        if is_fallback && self.has_fallback {
            return;
        }
        if !self
            .allowance
            .write(&edit, |bytes| out.extend_from_slice(bytes))
        {
            return;
        }
        self.has_fallback |= is_fallback;
        self.replaced = edit.range.end;
        if let Some(object) = edit.moved() {
            self.summary.count(object.hash);
            if let Some(server) = self.allowance.server_of(object.hash) {
                self.summary.count_server(server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::Arc};

    use url::Url;

    use super::*;
    use crate::rewrite::{
        Kinds, Private, Target,
        edit::{Needs, Object, Place, With},
    };

    fn splice() -> Splice {
        let url = Url::parse("http://t.example").unwrap();
        let target = Target::new("t", &url, false).unwrap();
        Splice::new(Allowance::new(Arc::new(target), Kinds::ALL))
    }

    fn moved(range: Range<usize>) -> Edit {
        Edit {
            range,
            needs: Needs::default(),
            object: Some(Object { hash: 1 }),
            with: With::Moved(Place::Attribute, "/n".into()),
        }
    }

    #[test]
    fn edits_are_applied_however_the_bytes_are_cut() {
        let page = b"0123456789";
        for cut in 1..=page.len() {
            let mut splice = splice();
            let text = Edit {
                with: With::Text(" x"),
                ..moved(9..9)
            };
            for edit in [moved(0..0), moved(3..6), text] {
                splice.queue(edit);
            }
            page.chunks(cut).for_each(|bytes| splice.pass(bytes));
            let expected = "http://t.example/n012http://t.example/n678 x9";
            assert_eq!(splice.out, expected, "cut at {cut}");
            assert_eq!(splice.summary.links, 2);
        }
    }

    #[test]
    fn what_the_server_cannot_take_stays() {
        let mut splice = splice();
        let needs = Needs {
            cors: true,
            ..Needs::default()
        };
        splice.queue(Edit {
            needs,
            ..moved(1..2)
        });
        let not_for_everyone = Private::default();
        not_for_everyone.remember(9);
        splice.allowance.private = Some(Arc::new(not_for_everyone));
        let private = Object { hash: 9 };
        splice.queue(Edit {
            object: Some(private),
            ..moved(3..4)
        });
        splice.pass(b"012345");
        assert_eq!(splice.out, "012345");
        assert_eq!(splice.summary.links, 0);
    }

    #[test]
    fn held_bytes_wait_for_their_edits() {
        let mut splice = splice();
        splice.pass(b"0");
        splice.hold(2);
        splice.pass(b"12");
        splice.pass(b"345");
        assert_eq!(splice.out, "01");
        splice.queue(moved(2..4));
        splice.release();
        splice.pass(b"67");
        assert_eq!(splice.out, "01http://t.example/n4567");
    }
}
