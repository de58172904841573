//! What goes out of a file: all of it, parts, or that the client has it already.

use std::{
    collections::VecDeque,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        LAST_MODIFIED,
    },
    request::Parts,
};

use super::{
    body::{Piece, SiteBody},
    conditions::{Conditional, Verdict},
    entry::{Content, Entry, Variant},
    ranges::{Asked, Part, asked, size},
};
use crate::front::error_answer;

/// What decides about an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) version: Version,
    pub(super) conditional: Conditional,
}

// === impl Asker ===

impl<'a> Asker<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            headers: request.headers(),
            version: request.version(),
            conditional: Conditional::of(request.headers()),
        }
    }

    pub(super) fn of_parts(parts: &'a Parts) -> Self {
        Self {
            method: &parts.method,
            headers: &parts.headers,
            version: parts.version,
            conditional: Conditional::of(&parts.headers),
        }
    }

    /// HTML for who wants it, else a line of text.
    pub(super) fn error(self, status: StatusCode, sentence: &'static str) -> Response<SiteBody> {
        error_answer(status, sentence, self.method, self.headers).map(SiteBody::other)
    }

    fn wants_body(self) -> bool {
        self.method != Method::HEAD
    }

    fn whole(self, variant: &Variant) -> SiteBody {
        match &variant.content {
            _ if !self.wants_body() => SiteBody::empty(),
            Content::Memory(bytes) => {
                SiteBody::whole(bytes.clone(), self.version == Version::HTTP_2)
            }
            Content::Disk(_) if variant.length == 0 => SiteBody::empty(),
            Content::Disk(file) => {
                SiteBody::pieces([Piece::File(file.clone(), 0, variant.length)].into())
            }
        }
    }

    /// The file, by the conditions and the range that are asked for.
    pub(super) fn answer(self, entry: &Entry, variant: &Variant) -> Response<SiteBody> {
        let conditional = self.conditional;
        match conditional.verdict(self.headers, variant.validators()) {
            Verdict::Send => {}
            Verdict::NotModified => {
                let mut answer = Response::new(SiteBody::empty());
                *answer.status_mut() = StatusCode::NOT_MODIFIED;
                *answer.headers_mut() = variant.unchanged.clone();
                return answer;
            }
            Verdict::Failed => {
                return self.error(
                    StatusCode::PRECONDITION_FAILED,
                    "What is at this address is not what was expected.",
                );
            }
        }
        match conditional.range(self.method, self.headers, variant.validators()) {
            None => {}
            Some(range) => match asked(range.as_bytes(), variant.length) {
                Asked::Whole => {}
                Asked::Part(part) => return self.part(variant, &part),
                Asked::Parts(parts) => return several(entry, variant, &parts),
                Asked::Nothing => return self.nothing(variant),
            },
        }
        let mut answer = Response::new(self.whole(variant));
        *answer.headers_mut() = variant.headers.clone();
        answer
    }

    /// The page for what is not there. What is said of it is not said of what was asked for.
    pub(super) fn not_found(self, variant: &Variant) -> Response<SiteBody> {
        let mut answer = Response::new(self.whole(variant));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        let mut headers = variant.headers.clone();
        for name in [ETAG, LAST_MODIFIED, ACCEPT_RANGES] {
            headers.remove(name);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        *answer.headers_mut() = headers;
        answer
    }

    fn part(self, variant: &Variant, part: &Part) -> Response<SiteBody> {
        let body = match piece(&variant.content, part) {
            Piece::Bytes(bytes) => SiteBody::whole(bytes, self.version == Version::HTTP_2),
            piece => SiteBody::pieces([piece].into()),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let mut headers = variant.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size(part)));
        headers.insert(CONTENT_RANGE, header(content_range(part, variant.length)));
        *answer.headers_mut() = headers;
        answer
    }

    fn nothing(self, variant: &Variant) -> Response<SiteBody> {
        let mut answer = self.error(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "What is at this address does not have the part that was asked for.",
        );
        let range = header(format!("bytes */{}", variant.length));
        answer.headers_mut().insert(CONTENT_RANGE, range);
        answer
    }
}

/// Several parts in one body (RFC 9110 section 14.6).
fn several(entry: &Entry, variant: &Variant, parts: &[Part]) -> Response<SiteBody> {
    let boundary = boundary();
    let kind = entry
        .face
        .kind
        .to_str()
        .unwrap_or("application/octet-stream");
    let mut pieces = VecDeque::with_capacity(parts.len() * 2 + 1);
    let mut length = 0;
    let mut add = |pieces: &mut VecDeque<Piece>, text: String| {
        length += text.len() as u64;
        pieces.push_back(Piece::Bytes(Bytes::from(text)));
    };
    for part in parts {
        let range = content_range(part, variant.length);
        let head =
            format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range}\r\n\r\n");
        add(&mut pieces, head);
        pieces.push_back(piece(&variant.content, part));
    }
    add(&mut pieces, format!("\r\n--{boundary}--\r\n"));
    length += parts.iter().map(size).sum::<u64>();
    let mut answer = Response::new(SiteBody::pieces(pieces));
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    let mut headers = variant.headers.clone();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let kind = header(format!("multipart/byteranges; boundary={boundary}"));
    headers.insert(CONTENT_TYPE, kind);
    *answer.headers_mut() = headers;
    answer
}

/// What no file has in it, since nobody can know it beforehand.
fn boundary() -> String {
    static SECRET: LazyLock<[u8; 12]> = LazyLock::new(|| {
        let mut secret = [0; 12];
        // Without chance it is still a boundary that hardly a file has.
        let _ = getrandom::fill(&mut secret);
        secret
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Relaxed);
    let mut hash = xxhash_rust::xxh3::Xxh3::with_seed(next);
    hash.update(&*SECRET);
    format!("{:032x}", hash.digest128())
}

fn piece(content: &Content, part: &Part) -> Piece {
    let (first, end) = (*part.start(), *part.end() + 1);
    match content {
        Content::Memory(bytes) => {
            let at = |place: u64| {
                usize::try_from(place)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len())
            };
            Piece::Bytes(bytes.slice(at(first)..at(end)))
        }
        Content::Disk(file) => Piece::File(file.clone(), first, end),
    }
}

fn content_range(part: &Part, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start(), part.end())
}

/// Of a text without a character that a header can't have.
fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
