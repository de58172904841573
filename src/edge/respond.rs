//! From an object, whole or still coming, to an answer: conditions, ranges, HEAD.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    },
};
use http_body::{Frame, SizeHint};

use super::{
    fill::{Head, Reader},
    headers::{Came, DRESS, dress},
    object::Object,
    policy::millis,
};
use crate::{
    guard::Answering,
    load::{BytesSent, InFlightGuard},
};

/// What is given at a time over HTTP/2, which takes all that it is given before the client has room for it.
const PIECE: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Counts a request while its answer is under way, and the bytes of it.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) _in_flight: InFlightGuard,
    pub(super) bytes: BytesSent,
}

/// The body of an edge's answer.
pub struct EdgeBody {
    source: Source,
    meter: Option<Meter>,
    /// Of the connection, which knows by it that an answer is under way, and who waits for whom.
    answering: Option<Answering>,
    in_pieces: bool,
}

enum Source {
    Whole(Option<Bytes>),
    /// Rare, and large: answers are moved often.
    Coming(Box<Coming>),
    Other(Body),
}

/// What is still coming.
struct Coming {
    reader: Reader,
    skip: u64,
    /// What is still to be sent, where the length is known.
    left: Option<u64>,
}

impl std::fmt::Debug for EdgeBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeBody").finish_non_exhaustive()
    }
}

// === impl EdgeBody ===

impl EdgeBody {
    fn new(source: Source, meter: Meter) -> Self {
        Self {
            source,
            meter: Some(meter),
            answering: None,
            in_pieces: false,
        }
    }

    pub(super) fn other(body: Body, meter: Option<Meter>) -> Self {
        Self {
            source: Source::Other(body),
            meter,
            answering: None,
            in_pieces: false,
        }
    }

    /// Keeps it as long as this body is there.
    pub(super) fn hold(&mut self, answering: Answering) {
        self.in_pieces = answering.is_http2();
        self.answering = Some(answering);
    }
}

impl Drop for EdgeBody {
    fn drop(&mut self) {
        if http_body::Body::is_end_stream(self)
            && let Some(answering) = &mut self.answering
        {
            answering.is_whole();
        }
    }
}

impl http_body::Body for EdgeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match &mut this.source {
            Source::Whole(bytes) => {
                let piece = match bytes {
                    Some(bytes) if this.in_pieces && bytes.len() > PIECE => {
                        Some(bytes.split_to(PIECE))
                    }
                    bytes => bytes.take(),
                };
                Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Source::Coming(coming) => coming.poll_frame(cx),
            Source::Other(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        };
        if let Some(answering) = &mut this.answering {
            answering.polled(&polled);
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(data), Some(meter)) = (frame.data_ref(), &this.meter)
        {
            meter.bytes.add(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::Coming(coming) => coming.left == Some(0),
            Source::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Coming(coming) => {
                let left = coming.left;
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Other(body) => body.size_hint(),
        }
    }
}

// === impl Coming ===

impl Coming {
    fn poll_frame(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.left == Some(0) {
                return Poll::Ready(None);
            }
            let mut chunk = match std::task::ready!(self.reader.poll_chunk(cx)) {
                None => return Poll::Ready(None),
                Some(Err(cut)) => return Poll::Ready(Some(Err(cut.into()))),
                Some(Ok(chunk)) => chunk,
            };
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            // Never more than the chunk has.
            chunk = chunk.slice(usize::try_from(skipped).unwrap_or(chunk.len())..);
            if let Some(left) = &mut self.left {
                let taken = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                chunk.truncate(taken);
                *left -= taken as u64;
            }
            if !chunk.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
        }
    }
}

/// Who asks, and for what of it.
pub(super) struct Asker<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
}

/// An answer from what is kept.
pub(super) fn kept(
    object: &Object,
    asker: &Asker<'_>,
    now: SystemTime,
    came: Came,
    meter: Meter,
) -> Response<EdgeBody> {
    let mut headers = object.headers(DRESS);
    headers.insert(AGE, HeaderValue::from(object.life.age(millis(now))));
    let length = Some(object.length());
    let plan = plan(object.status(), headers, length, asker, came);
    finish(plan, meter, |range| {
        let body = match range {
            None => object.body(),
            Some((first, last)) => {
                let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
                object.body().slice(at(first)..at(last) + 1)
            }
        };
        Source::Whole(Some(body))
    })
}

/// An answer from what is still coming.
pub(super) fn coming(
    head: &Head,
    reader: Reader,
    asker: &Asker<'_>,
    came: Came,
    meter: Meter,
) -> Response<EdgeBody> {
    let plan = plan(head.status, head.headers.clone(), head.length, asker, came);
    let length = head.length;
    finish(plan, meter, |range| match range {
        None => Source::Coming(Box::new(Coming {
            reader,
            skip: 0,
            left: length,
        })),
        Some((first, last)) => Source::Coming(Box::new(Coming {
            reader,
            skip: first,
            left: Some(last + 1 - first),
        })),
    })
}

struct Plan {
    status: StatusCode,
    headers: HeaderMap,
    /// [`None`]: no body. Else all of it, or from one byte to another.
    body: Option<Option<(u64, u64)>>,
}

fn plan(
    status: StatusCode,
    mut headers: HeaderMap,
    length: Option<u64>,
    asker: &Asker<'_>,
    came: Came,
) -> Plan {
    dress(&mut headers, came);
    let wants_body = asker.method != Method::HEAD;
    if status == StatusCode::OK {
        if is_unchanged(asker.headers, &headers) {
            for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING] {
                headers.remove(name);
            }
            let status = StatusCode::NOT_MODIFIED;
            return Plan {
                status,
                headers,
                body: None,
            };
        }
        if let Some(length) = length {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            if wants_body && let Some(range) = range(asker.headers, &headers, length) {
                return ranged(headers, range, length);
            }
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = wants_body.then_some(None);
    Plan {
        status,
        headers,
        body,
    }
}

fn ranged(mut headers: HeaderMap, range: Option<(u64, u64)>, length: u64) -> Plan {
    let Some((first, last)) = range else {
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_TYPE);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Ok(all) = HeaderValue::try_from(format!("bytes */{length}")) {
            headers.insert(CONTENT_RANGE, all);
        }
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        return Plan {
            status,
            headers,
            body: None,
        };
    };
    if let Ok(part) = HeaderValue::try_from(format!("bytes {first}-{last}/{length}")) {
        headers.insert(CONTENT_RANGE, part);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(last + 1 - first));
    Plan {
        status: StatusCode::PARTIAL_CONTENT,
        headers,
        body: Some(Some((first, last))),
    }
}

fn finish(
    plan: Plan,
    meter: Meter,
    source: impl FnOnce(Option<(u64, u64)>) -> Source,
) -> Response<EdgeBody> {
    let source = match plan.body {
        None => Source::Whole(None),
        Some(range) => source(range),
    };
    let mut response = Response::new(EdgeBody::new(source, meter));
    *response.status_mut() = plan.status;
    *response.headers_mut() = plan.headers;
    response
}

/// Whether the client has the object already (RFC 9110 section 13.2.2).
fn is_unchanged(asked: &HeaderMap, object: &HeaderMap) -> bool {
    if asked.contains_key(IF_NONE_MATCH) {
        let weak = |tag: &[u8]| {
            tag.strip_prefix(b"W/")
                .map_or_else(|| tag.to_vec(), <[u8]>::to_vec)
        };
        let own = object.get(ETAG).map(|tag| weak(tag.as_bytes()));
        return asked.get_all(IF_NONE_MATCH).iter().any(|line| {
            line.as_bytes().split(|byte| *byte == b',').any(|tag| {
                let tag = tag.trim_ascii();
                tag == b"*" || own.as_deref() == Some(&weak(tag)[..])
            })
        });
    }
    let date = |headers: &HeaderMap, name| {
        httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
    };
    match (date(asked, IF_MODIFIED_SINCE), date(object, LAST_MODIFIED)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// The range that is asked for, if one is to be answered; [`None`] within: there is nothing there. More than one
/// is answered with the whole, as RFC 9110 section 14.2 allows.
fn range(asked: &HeaderMap, object: &HeaderMap, length: u64) -> Option<Option<(u64, u64)>> {
    let mut lines = asked.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    if let Some(validator) = asked.get(IF_RANGE) {
        let current = if validator.as_bytes().starts_with(b"\"") {
            object.get(ETAG)
        } else {
            object.get(LAST_MODIFIED)
        };
        if current != Some(validator) {
            return None;
        }
    }
    let (first, last) = line
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is too large to be a number is beyond the end.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        return Some((suffix > 0).then(|| (length - suffix, length - 1)));
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    };
    if last < first {
        return None;
    }
    Some((first < length).then(|| (first, last.min(length - 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_range_is_answered_and_many_are_the_whole() {
        let object = headers(&[("etag", "\"1\"")]);
        for (asked, expected) in [
            ("bytes=0-3", Some(Some((0, 3)))),
            ("bytes=4-", Some(Some((4, 9)))),
            ("bytes=-3", Some(Some((7, 9)))),
            ("bytes=-99", Some(Some((0, 9)))),
            ("bytes=0-99999999999999999999999", Some(Some((0, 9)))),
            ("bytes=10-", Some(None)),
            ("bytes=99999999999999999999999-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=3-1", None),
            ("bytes=0-1,3-4", None),
            ("items=0-1", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
        ] {
            let asked_for = headers(&[("range", asked)]);
            assert_eq!(range(&asked_for, &object, 10), expected, "{asked}");
        }
        let with = |validator| headers(&[("range", "bytes=0-1"), ("if-range", validator)]);
        assert!(range(&with("\"1\""), &object, 10).is_some());
        assert!(range(&with("\"2\""), &object, 10).is_none());
        assert!(range(&with("W/\"1\""), &object, 10).is_none());
        assert_eq!(
            range(&headers(&[("range", "bytes=0-")]), &object, 0),
            Some(None)
        );
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let object = headers(&[
            ("etag", "W/\"1\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        for (name, value, is) in [
            ("if-none-match", "\"0\", \"1\"", true),
            ("if-none-match", "W/\"1\"", true),
            ("if-none-match", "*", true),
            ("if-none-match", "\"2\"", false),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT", false),
            ("if-modified-since", "yesterday", false),
        ] {
            assert_eq!(
                is_unchanged(&headers(&[(name, value)]), &object),
                is,
                "{name}: {value}"
            );
        }
    }
}
