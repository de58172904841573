//! A file, ready to go out: its content, or where it is, with its headers written once.

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
        LAST_MODIFIED, VARY,
    },
};

use super::{
    accept::{Accepted, CODINGS},
    answer::Asker,
    conditions::{Modified, Validators},
    files::{Opened, Stamp},
};
use crate::rewrite::coding::Coding;

/// A path that leads to a file.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it was asked for, decoded, without the leading slash.
    pub(super) path: Box<[u8]>,
    /// In a box: what every request reads is together so.
    pub(super) seen: Box<Seen>,
    pub(super) face: Face,
    pub(super) plain: Variant,
    /// In the order of [`CODINGS`].
    pub(super) coded: [Coded; CODINGS.len()],
    /// How often each coding was wanted that is not there.
    pub(super) wanted: [AtomicU8; CODINGS.len()],
    /// When it was last found to be still so, in the store's milliseconds.
    pub(super) checked: AtomicU64,
    /// When it was asked for last, in the same.
    pub(super) asked: AtomicU64,
    /// Whether it goes along on the [`rounds`](super::rounds).
    pub(super) goes_along: AtomicBool,
}

/// What was seen on the disk, to be looked at again.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) file: PathBuf,
    pub(super) stamp: Stamp,
    /// What would be served instead if it were a file.
    pub(super) instead_of: Option<PathBuf>,
    /// The encoded files beside it, also those that are not served.
    pub(super) beside: [Option<Stamp>; CODINGS.len()],
    /// Whether encoded files beside it are looked for.
    pub(super) has_beside: bool,
    /// The folder when there was none, and nothing by such a name.
    pub(super) folder: Arc<Mutex<Option<Stamp>>>,
    /// Some of it was changed only just before: it may be changed again without a trace.
    pub(super) is_fresh: bool,
}

/// What all variants say of the file.
#[derive(Debug, Clone)]
pub(super) struct Face {
    pub(super) kind: HeaderValue,
    pub(super) cache_control: Option<HeaderValue>,
    /// Whether there are several variants, or may be.
    pub(super) varies: bool,
    /// Whether those that are not there may be made.
    pub(super) compress: bool,
}

/// The file in one coding, or as it is.
#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) content: Content,
    pub(super) length: u64,
    pub(super) etag: HeaderValue,
    pub(super) modified: Option<Modified>,
    /// Those of a whole answer.
    pub(super) headers: HeaderMap,
    /// Those of an answer that the client has it: what a whole one would have said that caches go by (RFC 9110 section
    /// 15.4.5).
    pub(super) unchanged: HeaderMap,
}

/// Where a variant's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Memory(Bytes),
    Disk(Arc<File>),
}

/// A variant in one coding.
#[derive(Debug, Clone)]
pub(super) enum Coded {
    /// Not there yet.
    Unknown,
    /// It would be no smaller.
    Useless,
    There(Box<Variant>),
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(
        path: Box<[u8]>,
        seen: Seen,
        face: Face,
        plain: Variant,
        coded: [Coded; CODINGS.len()],
        checked: u64,
    ) -> Self {
        Self {
            path,
            seen: Box::new(seen),
            face,
            plain,
            coded,
            wanted: Default::default(),
            checked: AtomicU64::new(checked),
            asked: AtomicU64::new(0),
            goes_along: AtomicBool::new(false),
        }
    }

    /// The variant for `asker`, and the position of the coding that would be better and is not there.
    pub(super) fn variant(&self, asker: Asker<'_>) -> (&Variant, Option<usize>) {
        // Who does not say what it can decode gets the file as it is.
        if !self.face.varies || !asker.conditional.accept_encoding {
            return (&self.plain, None);
        }
        let accepted = Accepted::of(asker.headers);
        if asker.conditional.has_range() {
            // A part belongs to parts that came before, maybe when the coding had not been made yet.
            let beside = |place: usize| self.seen.beside[place].is_some() && self.has(place);
            return (self.coding(accepted.best(beside)), None);
        }
        let missing = |place: usize| match &self.coded[place] {
            Coded::Unknown => self.face.compress,
            Coded::Useless => false,
            Coded::There(_) => true,
        };
        let Some(best) = accepted.best(missing) else {
            return (&self.plain, None);
        };
        if self.has(best) {
            return (self.coding(Some(best)), None);
        }
        let there = accepted.best(|place| self.has(place));
        (self.coding(there), Some(best))
    }

    fn has(&self, place: usize) -> bool {
        matches!(self.coded[place], Coded::There(_))
    }

    /// The coding at `place`, else the file as it is.
    fn coding(&self, place: Option<usize>) -> &Variant {
        match place.map(|place| &self.coded[place]) {
            Some(Coded::There(variant)) => variant,
            _ => &self.plain,
        }
    }

    /// Whether it can be kept.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.plain.content, Content::Memory(_))
    }

    /// What it takes, with what the table around it takes.
    pub(super) fn weight(&self) -> u64 {
        /// Of this struct, and the table.
        const ENTRY: u64 = 1200;
        let coded = self.coded.iter().map(|coded| match coded {
            Coded::There(variant) => variant.weight(),
            _ => 0,
        });
        let texts = self.path.len() + self.seen.file.as_os_str().len();
        ENTRY + texts as u64 + self.plain.weight() + coded.sum::<u64>()
    }

    /// Takes over from what was there `before` what is still true: the very bytes, by which others know it, and the
    /// codings that were made of them.
    pub(super) fn inherit(&mut self, before: &Entry) {
        if before.plain.etag != self.plain.etag || !self.is_in_memory() || !before.is_in_memory() {
            return;
        }
        self.plain.content = before.plain.content.clone();
        for (place, coded) in self.coded.iter_mut().enumerate() {
            match (&*coded, &before.coded[place]) {
                (Coded::Unknown, Coded::There(made))
                    if before.seen.beside[place].is_none() && self.face.compress =>
                {
                    let Content::Memory(bytes) = &made.content else {
                        continue;
                    };
                    let modified = self.plain.modified.clone();
                    let coding = Some(CODINGS[place]);
                    let made = Variant::in_memory(bytes.clone(), modified, &self.face, coding);
                    *coded = Coded::There(Box::new(made));
                }
                (Coded::Unknown, Coded::Useless) if before.face.compress => {
                    *coded = Coded::Useless;
                }
                (Coded::There(own), Coded::There(made)) if own.etag == made.etag => {
                    let mut own = own.clone();
                    own.content = made.content.clone();
                    *coded = Coded::There(own);
                }
                _ => {}
            }
        }
    }

    /// The same with one coding more.
    pub(super) fn with(&self, place: usize, coded: Coded) -> Self {
        let mut all = self.coded.clone();
        all[place] = coded;
        let wanted = Default::default();
        Self {
            path: self.path.clone(),
            seen: self.seen.clone(),
            face: self.face.clone(),
            plain: self.plain.clone(),
            coded: all,
            wanted,
            checked: AtomicU64::new(self.checked.load(Relaxed)),
            asked: Default::default(),
            goes_along: Default::default(),
        }
    }
}

// === impl Variant ===

impl Variant {
    /// Of a file on the disk.
    pub(super) fn on_disk(opened: Opened, face: &Face, coding: Option<Coding>) -> Self {
        let Opened { file, stamp, at } = opened;
        let since = stamp
            .modified
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let mut tag = format!(
            "\"{:x}-{:x}-{:x}",
            stamp.length,
            since.as_nanos(),
            stamp.place.1
        );
        if stamp.is_fresh(at) {
            // It may be changed again, and look the same: this tag is never given again.
            let now = at.duration_since(std::time::SystemTime::UNIX_EPOCH);
            tag += &format!("-{:x}", now.unwrap_or_default().as_nanos());
        }
        tag.push('"');
        let etag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        let modified = Modified::of(stamp.modified, at);
        let content = Content::Disk(Arc::new(file));
        Self::new(content, stamp.length, etag, modified, face, coding)
    }

    /// Of bytes, which are their own validator: neither times nor machines make a difference.
    pub(super) fn in_memory(
        bytes: Bytes,
        modified: Option<Modified>,
        face: &Face,
        coding: Option<Coding>,
    ) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
        let tag = match coding {
            None => format!("\"{hash:032x}\""),
            Some(coding) => format!("\"{hash:032x}-{}\"", name(coding)),
        };
        let etag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        let length = bytes.len() as u64;
        Self::new(Content::Memory(bytes), length, etag, modified, face, coding)
    }

    fn new(
        content: Content,
        length: u64,
        etag: HeaderValue,
        modified: Option<Modified>,
        face: &Face,
        coding: Option<Coding>,
    ) -> Self {
        let (etag, modified, told_length) = together(&etag, modified, length);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, face.kind.clone());
        headers.insert(CONTENT_LENGTH, told_length);
        headers.insert(ETAG, etag.clone());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(modified) = &modified {
            headers.insert(LAST_MODIFIED, modified.value.clone());
        }
        if let Some(coding) = coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name(coding)));
        }
        if let Some(value) = &face.cache_control {
            headers.insert(CACHE_CONTROL, value.clone());
        }
        if face.varies {
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }
        let mut unchanged = HeaderMap::with_capacity(4);
        for name in [ETAG, LAST_MODIFIED, CACHE_CONTROL, VARY] {
            if let Some(value) = headers.get(&name) {
                unchanged.insert(name, value.clone());
            }
        }
        Self {
            content,
            length,
            etag,
            modified,
            headers,
            unchanged,
        }
    }

    pub(super) const fn validators(&self) -> Validators<'_> {
        Validators {
            etag: &self.etag,
            modified: self.modified.as_ref(),
        }
    }

    fn weight(&self) -> u64 {
        /// Of its headers.
        const HEADERS: u64 = 2000;
        match &self.content {
            Content::Memory(bytes) => HEADERS + bytes.len() as u64,
            Content::Disk(_) => HEADERS,
        }
    }
}

/// The values of a file's own in one piece of memory: of ten thousand files that are asked for in random order each piece
/// is a wait for memory.
fn together(
    etag: &HeaderValue,
    modified: Option<Modified>,
    length: u64,
) -> (HeaderValue, Option<Modified>, HeaderValue) {
    let length = length.to_string();
    let date = modified.as_ref().map(|modified| &modified.value);
    let texts = [
        etag.as_bytes(),
        date.map_or(b"", |date| date.as_bytes()),
        length.as_bytes(),
    ];
    let all = Bytes::from(texts.concat());
    let mut at = 0;
    let [etag, date, length] = texts.map(|text| {
        let begin = at;
        at += text.len();
        // What is made of values is one.
        HeaderValue::from_maybe_shared(all.slice(begin..at)).unwrap_or(HeaderValue::from_static(""))
    });
    let modified = modified.map(|modified| modified.with(date));
    (etag, modified, length)
}

/// As `Content-Encoding` has it.
const fn name(coding: Coding) -> &'static str {
    match coding {
        Coding::Gzip => "gzip",
        Coding::Deflate => "deflate",
        Coding::Brotli => "br",
        Coding::Zstd => "zstd",
    }
}

/// What is put behind a file's name.
pub(super) const fn extension(coding: Coding) -> &'static str {
    match coding {
        Coding::Gzip => ".gz",
        Coding::Deflate => ".zz",
        Coding::Brotli => ".br",
        Coding::Zstd => ".zst",
    }
}
