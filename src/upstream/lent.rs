//! Bodies of requests that can be had back.
//!
//! Over HTTP/2 the other end may refuse a request after some of its body has gone out, and then has done nothing with it
//! (RFC 9113 section 8.7). Mostly that is little, and still at hand: what was taken is kept, as long as it is little, so that all
//! of it can go out once more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

/// So much may have been taken of a body that is given back, in bytes.
const MOST: usize = 64 << 10;
/// What a part costs beside its bytes.
const PART: usize = size_of::<Bytes>();

/// A body that is on its way.
struct Lent {
    body: Kept,
    /// How many of the kept parts have been taken this time.
    passed: usize,
    /// Its trailers have been taken this time.
    told: bool,
    back: Option<oneshot::Sender<Kept>>,
}

/// A body, and what was taken of it.
#[derive(Default)]
struct Kept {
    parts: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    /// [`None`]: it is over.
    rest: Option<Body>,
}

/// Where a body comes back to, when nobody sends it any more.
pub(super) struct Back(oneshot::Receiver<Kept>);

/// `body`, to be sent, and where it comes back to.
pub(super) fn lend(body: Body) -> (Body, Back) {
    let (back, came) = oneshot::channel();
    let kept = Kept {
        rest: Some(body),
        ..Kept::default()
    };
    (lent(kept, Some(back)), Back(came))
}

fn lent(body: Kept, back: Option<oneshot::Sender<Kept>>) -> Body {
    Body::new(Lent {
        body,
        passed: 0,
        told: false,
        back,
    })
}

// === impl Back ===

impl Back {
    /// The body as it was, to be sent again. [`None`]: too much was taken, or it broke off. Waits until nobody sends it any more.
    pub(super) async fn again(self) -> Option<Body> {
        let body = self.0.await.ok()?;
        Some(lent(body, None))
    }
}

// === impl Lent ===

impl Lent {
    /// The next of the parts that were taken before.
    fn kept(&mut self) -> Option<Bytes> {
        let part = self.body.parts.get(self.passed)?.clone();
        self.passed += 1;
        Some(part)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            // They are the last.
            self.body.trailers = Some(trailers.clone());
            self.body.rest = None;
            self.told = true;
        } else if let Some(data) = frame.data_ref()
            && self.back.is_some()
        {
            self.body.size += data.len() + PART;
            if self.body.size > MOST {
                self.give_up();
                return;
            }
            self.body.parts.push(data.clone());
            self.passed += 1;
        }
    }

    /// It does not come back.
    fn give_up(&mut self) {
        self.back = None;
        self.body.parts.clear();
        self.passed = 0;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Mostly nobody wants it.
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(part) = self.kept() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let Some(rest) = &mut self.body.rest else {
            if std::mem::replace(&mut self.told, true) {
                return Poll::Ready(None);
            }
            let trailers = self.body.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.give_up(),
            None => self.body.rest = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.passed == self.body.parts.len()
            && (self.told || self.body.trailers.is_none())
            && self.body.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.body.parts[self.passed..].iter();
        let ahead = ahead.map(|part| part.len() as u64).sum::<u64>();
        let rest = self
            .body
            .rest
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::iter;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(parts: &[usize]) -> Body {
        let parts: Vec<_> = parts
            .iter()
            .map(|&size| Ok::<_, axum::Error>(Frame::data(Bytes::from(vec![7; size]))))
            .collect();
        let mut sum = HeaderMap::new();
        sum.insert("x-sum", http::HeaderValue::from_static("7"));
        let trailers = Ok(Frame::trailers(sum));
        Body::new(StreamBody::new(iter(parts.into_iter().chain([trailers]))))
    }

    #[tokio::test]
    async fn a_body_comes_back_as_it_was_however_much_of_it_was_taken() {
        let mut body = body(&[3, 0, 5, 7]);
        for taken in 0..=6 {
            let (mut lent, back) = lend(body);
            for _ in 0..taken {
                let _ = lent.frame().await;
            }
            drop(lent);
            body = back.again().await.expect("it is small");
        }
        assert!(!body.is_end_stream());
        let whole = body.collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "7");
        assert_eq!(whole.to_bytes().len(), 15);
    }

    #[tokio::test]
    async fn of_a_large_one_only_what_has_not_been_taken() {
        let (mut lent, back) = lend(body(&[3, MOST]));
        lent.frame().await.unwrap().unwrap();
        drop(lent);
        let (mut lent, back) = lend(back.again().await.expect("little was taken"));
        for _ in 0..2 {
            lent.frame().await.unwrap().unwrap();
        }
        assert!(back.again().await.is_none());
        assert!(lent.frame().await.unwrap().unwrap().is_trailers());
    }
}
