//! What is sent twice.
//!
//! Where a request gets no answer the upstream may have done what it asks for, or not. Over HTTP/1.1 and HTTP/2 it is the same
//! (RFC 9110 section 9.2.2, RFC 9113 section 8.7):
//!
//! | what is known | what goes out again | how often |
//! |---|---|---|
//! | Nothing was done: it was never handed to the connection, or the upstream says that it has not looked at it (GOAWAY, REFUSED_STREAM). | Whatever it is, unless more of its body has gone than is kept (`lent`). | Twice. |
//! | Nobody knows: the connection was used before, and ended without an answer. | What has the same effect twice (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), and no body. | Once. |
//! | The same of a new connection, or something else. | Nothing. | |

use std::time::Duration;

use http::{Method, Request};

use super::{
    failure::Failure,
    http1::Unanswered,
    http2::Which,
    lent::Back,
    pool::Taken,
    upload::{Outgoing, Sending},
};

/// So often something goes out at most.
const MOST: u32 = 3;

/// How often a request has gone out, and whether it may once more.
pub(super) struct Attempts {
    /// The one that is next, or under way.
    count: u32,
    /// It may go out again although it may have been done.
    is_repeatable: bool,
    which: Which,
}

/// What is held back of a request, to send it once more.
pub(super) struct Spare {
    /// All of it but its body, where it may be needed.
    head: Option<Request<Outgoing>>,
    back: Option<Back>,
    is_kept: bool,
    /// The connection's number, where it is shared.
    number: Option<u64>,
}

// === impl Attempts ===

impl Attempts {
    pub(super) fn of(request: &Request<Outgoing>) -> Self {
        let has_body = !matches!(request.body(), Outgoing::Empty);
        Self {
            count: 1,
            is_repeatable: !has_body && is_idempotent(request.method()),
            which: Which::any(),
        }
    }

    /// The connections over which it may go.
    pub(super) const fn which(&self) -> Which {
        self.which
    }

    /// Has `request` ready to go out over `taken`, and holds back what is needed to send it once more.
    pub(super) fn spare(&self, request: &mut Request<Outgoing>, taken: &Taken) -> Spare {
        let is_kept = taken.is_kept();
        let shared = taken.shared();
        // Over HTTP/1.1 nobody says that nothing was done.
        let is_needed = self.count < MOST && (shared.is_some() || self.is_repeatable && is_kept);
        let head = is_needed.then(|| copy(request));
        let (number, back) = match shared {
            Some(number) => (Some(number), request.body_mut().lend()),
            None => (None, None),
        };
        Spare {
            head,
            back,
            is_kept,
            number,
        }
    }

    /// The request once more, if it may go out again. `limit`: how long its body may take to come back.
    ///
    /// # Errors
    /// It may not, or its body does not come back.
    pub(super) async fn again(
        &mut self,
        unanswered: Unanswered,
        spare: Spare,
        upload: Option<&Sending>,
        limit: Duration,
    ) -> Result<Request<Outgoing>, Failure> {
        let Unanswered { failure, unsent } = unanswered;
        if unsent.is_none() && !failure.is_undone() {
            if !self.is_repeatable || !spare.is_kept || !failure.is_closed_unanswered() {
                return Err(failure);
            }
            self.is_repeatable = false;
        }
        if self.count == MOST {
            return Err(failure);
        }
        tracing::debug!(%failure, "request goes out on another connection");
        self.count += 1;
        if let Some(number) = spare.number {
            self.which = match failure {
                Failure::RefusedStream(_) => self.which.but(number),
                _ => self.which.later(number),
            };
        }
        let (again, back) = match (unsent, spare.back) {
            (Some(unsent), None) => return Ok(*unsent),
            // Its body comes back when nobody has it any more.
            (_, back) => (spare.head, back),
        };
        let Some(mut again) = again else {
            return Err(failure);
        };
        if let Some(upload) = upload {
            let body = upload.again(back, limit).await;
            *again.body_mut() = body.ok_or(failure)?;
        }
        Ok(again)
    }
}

/// Those whose effect is the same when they come twice (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

fn copy(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.version_mut() = request.version();
    copy
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn request(method: &Method, body: &'static str) -> (Request<Outgoing>, Option<Sending>) {
        let request = Request::builder().method(method).body(Body::from(body));
        Sending::of(request.unwrap(), Instant::now())
    }

    fn spare(request: &Request<Outgoing>, is_kept: bool) -> Spare {
        Spare {
            head: Some(copy(request)),
            back: None,
            is_kept,
            number: None,
        }
    }

    /// How often it goes out where each connection ends without an answer.
    async fn times(method: Method, body: &'static str, is_kept: bool) -> u32 {
        let (mut request, upload) = request(&method, body);
        let mut attempts = Attempts::of(&request);
        for times in 1.. {
            let spare = spare(&request, is_kept);
            let ended = Failure::Ended.into();
            let again = attempts.again(ended, spare, upload.as_ref(), LIMIT).await;
            match again {
                Ok(again) => request = again,
                Err(_) => return times,
            }
        }
        unreachable!("it ends")
    }

    #[tokio::test]
    async fn what_may_have_been_done_goes_out_once_more_where_that_does_no_harm() {
        for method in [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ] {
            assert_eq!(times(method.clone(), "", true).await, 2, "{method}");
            assert_eq!(times(method.clone(), "", false).await, 1, "{method}");
            assert_eq!(times(method, "body", true).await, 1);
        }
        for method in [
            Method::POST,
            Method::PATCH,
            Method::from_bytes(b"LOCK").unwrap(),
        ] {
            assert_eq!(times(method.clone(), "", true).await, 1, "{method}");
            assert_eq!(times(method, "body", true).await, 1);
        }
    }

    #[tokio::test]
    async fn what_was_not_handed_over_goes_out_whatever_it_is_but_not_for_ever() {
        for (method, body) in [
            (Method::GET, ""),
            (Method::POST, ""),
            (Method::POST, "body"),
        ] {
            let (mut request, upload) = request(&method, body);
            let mut attempts = Attempts::of(&request);
            for time in 1..=MOST {
                let spare = spare(&request, false);
                let unanswered = Unanswered {
                    failure: Failure::Ended,
                    unsent: Some(Box::new(request)),
                };
                let again = attempts.again(unanswered, spare, upload.as_ref(), LIMIT);
                match again.await {
                    Ok(again) => request = again,
                    Err(_) => {
                        assert_eq!(time, MOST);
                        break;
                    }
                }
                assert!(time < MOST);
            }
        }
    }
}
