//! What a scan found, to be applied again without one.
//!
//! A plan does not name a server: it serves them all. Of a page that is there as a whole it is certain,
//! by identity or by a hash of all its bytes, that it is the one that was scanned. Of a page that streams
//! by under a strong ETag it is not: ETags lie. So each edit also knows a hash of all the page's bytes up to
//! where it was decided; where that differs, editing stops, and what is left goes out as it came.

use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::{
    BailOut, Page, Private, Rules, Summary,
    edit::{Allowance, Edit, With},
    scan::{self, MAX_STYLE},
    splice::Splice,
};

/// The most edits that a plan holds: a page with more is scanned each time.
const MAX_EDITS: usize = 20_000;
/// The most bytes that a plan takes.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// The edits of one page, in the order of their ranges.
#[derive(Debug)]
pub struct Plan {
    edits: Box<[Planned]>,
    /// Hashes of the paths of the objects that may move, each once.
    objects: Box<[u64]>,
    bytes: usize,
    bail_out: Option<BailOut>,
}

#[derive(Debug)]
struct Planned {
    edit: Edit,
    /// So much of the page decided about it.
    until: usize,
    /// The hash of these bytes; of a whole page it is not needed.
    prefix: u64,
}

/// Makes a plan from the edits of a scan.
pub(super) struct Recorder {
    edits: Vec<Planned>,
    /// How many of them have their hash.
    hashed: usize,
    prefix: Option<Box<Prefix>>,
    bytes: usize,
    given_up: bool,
}

/// The bytes so far, hashed.
struct Prefix {
    hash: Xxh3,
    at: usize,
}

/// A page that streams by is edited by a plan.
pub struct Replay {
    plan: Arc<Plan>,
    next: usize,
    prefix: Box<Prefix>,
    splice: Splice,
    /// Whether the page has shown to be another one.
    changed: bool,
}

/// Unlike in any other process, so that nobody can make two pages of one hash.
static SEED: LazyLock<u64> = LazyLock::new(|| getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15));

/// A short hash of a short text, of this process alone.
pub(crate) fn text_hash(text: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(text, *SEED)
}

/// A hash of a whole page, of this process alone.
pub(crate) fn page_hash(page: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(page, *SEED)
}

// === impl Prefix ===

impl Prefix {
    fn new() -> Box<Self> {
        Box::new(Self {
            hash: Xxh3::with_seed(*SEED),
            at: 0,
        })
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.at += bytes.len();
    }
}

// === impl Recorder ===

impl Recorder {
    /// Of a page that streams by.
    pub(super) fn of_stream() -> Self {
        Self {
            prefix: Some(Prefix::new()),
            ..Self::of_whole()
        }
    }

    /// Of a page that is known as a whole.
    pub(super) const fn of_whole() -> Self {
        Self {
            edits: Vec::new(),
            hashed: 0,
            prefix: None,
            bytes: 0,
            given_up: false,
        }
    }

    /// An edit that the bytes up to `until` decided. They come in the order of their ranges.
    pub(super) fn record(&mut self, edit: Edit, until: usize) {
        if self.given_up {
            return;
        }
        self.bytes += edit.size();
        // A stream would have to wait for too long.
        let waits = self.prefix.is_some() && until.saturating_sub(edit.range.start) > 2 * MAX_STYLE;
        if waits || self.edits.len() == MAX_EDITS || self.bytes > MAX_BYTES {
            self.given_up = true;
            self.edits = Vec::new();
            self.hashed = 0;
            return;
        }
        self.edits.push(Planned {
            edit,
            until,
            prefix: 0,
        });
        self.pass(&[]);
    }

    /// The next bytes of the page.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        let Some(prefix) = &mut self.prefix else {
            return;
        };
        for planned in &mut self.edits[self.hashed..] {
            let missing = planned.until.saturating_sub(prefix.at);
            if missing > bytes.len() {
                break;
            }
            let (these, rest) = bytes.split_at(missing);
            prefix.add(these);
            bytes = rest;
            planned.prefix = prefix.hash.digest();
            self.hashed += 1;
        }
        prefix.add(bytes);
    }

    pub(super) fn finish(self, bail_out: Option<BailOut>) -> Option<Plan> {
        if self.given_up {
            return None;
        }
        let mut edits = self.edits;
        if self.prefix.is_some() {
            edits.truncate(self.hashed);
        }
        let moved = edits.iter().filter_map(|planned| planned.edit.moved());
        let mut objects: Vec<u64> = moved.map(|object| object.hash).collect();
        objects.sort_unstable();
        objects.dedup();
        Some(Plan {
            bytes: size_of::<Plan>() + self.bytes + objects.len() * size_of::<u64>(),
            edits: edits.into(),
            objects: objects.into(),
            bail_out,
        })
    }
}

// === impl Plan ===

impl Plan {
    /// Scans a page that is there as a whole. `None`: the plan would be too large.
    #[must_use]
    pub fn scan(rules: Arc<Rules>, page: Page, body: &[u8]) -> Option<Self> {
        scan::plan(rules, page, body, Recorder::of_whole())
    }

    /// The same, for a page that may also stream by under its ETag ([`Replay`]).
    #[must_use]
    pub fn scan_stream(rules: Arc<Rules>, page: Page, body: &[u8]) -> Option<Self> {
        scan::plan(rules, page, body, Recorder::of_stream())
    }

    /// About what it takes of memory, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hashes of the paths of the objects that may move, each once.
    #[must_use]
    pub fn objects(&self) -> &[u64] {
        &self.objects
    }

    /// Names those of its objects that are not for everyone: other ones give another number.
    #[must_use]
    pub fn private(&self, private: &Private) -> u64 {
        let objects = self.objects.iter();
        objects
            .filter(|object| private.contains(**object))
            .fold(0, |all, object| all ^ object)
    }

    /// Why the page's end is passed on as it is, if it is.
    #[must_use]
    pub const fn bail_out(&self) -> Option<BailOut> {
        self.bail_out
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// How many of its links go to which server, where `allowance` spreads them over several.
    #[must_use]
    pub fn links_by_server(&self, allowance: &Allowance) -> Vec<(usize, u32)> {
        let mut summary = Summary::default();
        for Planned { edit, .. } in &self.edits {
            if let Some(object) = edit.moved()
                && allowance.target_of(object, edit.needs).is_some()
                && let Some(server) = allowance.server_of(object.hash)
            {
                summary.count_server(server);
            }
        }
        summary.servers
    }

    /// Makes the page for one server, in one piece; `None` where nothing changes. Tells how many links moved.
    #[must_use]
    pub fn splice(&self, page: &[u8], allowance: &Allowance) -> Option<(Bytes, u32)> {
        let mut length = page.len();
        let mut changes = false;
        let mut has_fallback = false;
        for Planned { edit, .. } in &self.edits {
            let mut added = 0;
            if edit.is_fallback() && has_fallback {
                continue;
            }
            if allowance.write(edit, |bytes| added += bytes.len()) {
                length = (length + added).saturating_sub(edit.range.len());
                changes = true;
                has_fallback |= edit.is_fallback();
            }
        }
        if !changes {
            return None;
        }
        let mut out = Vec::with_capacity(length);
        let (mut at, mut links) = (0, 0);
        let mut has_fallback = false;
        for Planned { edit, .. } in &self.edits {
            if edit.is_fallback() && has_fallback {
                continue;
            }
            let between = page.get(at..edit.range.start)?;
            out.extend_from_slice(between);
            at = edit.range.start;
            if allowance.write(edit, |bytes| out.extend_from_slice(bytes)) {
                at = edit.range.end;
                has_fallback |= edit.is_fallback();
                links += u32::from(edit.moved().is_some());
            }
        }
        out.extend_from_slice(page.get(at..)?);
        Some((out.into(), links))
    }
}

// === impl Replay ===

impl Replay {
    /// `plan` is of a page that is likely this one: each of its edits is checked.
    #[must_use]
    pub fn new(plan: Arc<Plan>, allowance: Allowance) -> Self {
        let mut replay = Self {
            plan,
            next: 0,
            prefix: Prefix::new(),
            splice: Splice::new(allowance),
            changed: false,
        };
        replay.wait();
        replay
    }

    fn wait(&mut self) {
        if let Some(next) = self.plan.edits.get(self.next) {
            self.splice.hold(next.edit.range.start);
        }
    }

    /// Takes the next bytes of the page and appends what is ready to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        std::mem::swap(&mut self.splice.out, out);
        while let Some(next) = self.plan.edits.get(self.next) {
            let missing = next.until.saturating_sub(self.prefix.at);
            let (these, rest) = bytes.split_at(missing.min(bytes.len()));
            self.prefix.add(these);
            self.splice.pass(these);
            bytes = rest;
            if these.len() < missing {
                break;
            }
            if self.prefix.hash.digest() == next.prefix {
                let (until, plan) = (next.until, self.plan.clone());
                let decided = plan.edits[self.next..].iter();
                for planned in decided.take_while(|planned| planned.until == until) {
                    self.splice.queue(planned.edit.clone());
                    self.next += 1;
                }
            } else {
                // Another page under the same ETag.
                self.next = self.plan.edits.len();
                self.changed = true;
            }
            self.splice.release();
            self.wait();
        }
        self.splice.pass(bytes);
        std::mem::swap(&mut self.splice.out, out);
    }

    /// The page has ended.
    pub fn finish(&mut self, out: &mut BytesMut) -> Summary {
        std::mem::swap(&mut self.splice.out, out);
        self.splice.release();
        std::mem::swap(&mut self.splice.out, out);
        // Its end may have come before the edit that was next.
        self.changed |= self.next < self.plan.edits.len();
        Summary {
            bail_out: self.changed.then_some(BailOut::Changed),
            ..std::mem::take(&mut self.splice.summary)
        }
    }
}

// === impl Edit ===

impl Edit {
    /// The object that it moves, if it moves one.
    pub(super) fn moved(&self) -> Option<super::edit::Object> {
        match self.with {
            With::Moved(..) => self.object,
            _ => None,
        }
    }

    pub(super) const fn is_fallback(&self) -> bool {
        matches!(self.with, With::Fallback)
    }

    /// About what it takes of memory, in bytes.
    fn size(&self) -> usize {
        let text = match &self.with {
            With::Moved(_, text) | With::Policy { text, .. } => text.len(),
            With::Text(_) | With::Fallback => 0,
        };
        size_of::<Planned>() + text
    }
}
