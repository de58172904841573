//! HTTP/1.1 by hand: client libraries tidy up what these tests are about.

use std::net::SocketAddr;

use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An answer, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Chunks joined.
    pub(crate) body: Vec<u8>,
    /// Did all of the body arrive that was promised?
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends `request` as it is and reads the answer until the server closes.
pub(crate) async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses in the middle of a request may close before it has read the rest.
    let _ = stream.write_all(request.as_ref()).await;
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    parse(&read, request.as_ref().starts_with(b"HEAD "))
}

/// `METHOD target` with a proper Host, more `lines` (each ending in CRLF), and `Connection: close`.
pub(crate) async fn ask(address: SocketAddr, line: &str, lines: &str) -> Answer {
    let request =
        format!("{line} HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n{lines}\r\n");
    exchange(address, request).await
}

/// Reads an answer out of everything that a connection gave.
pub(crate) fn parse(read: &[u8], is_head: bool) -> Answer {
    let end = read
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an answer has a head");
    let head = std::str::from_utf8(&read[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.trim().parse().unwrap(),
        );
    }
    let rest = &read[end + 4..];
    let (body, is_whole) = if headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding == "chunked")
    {
        dechunk(rest)
    } else {
        let length = headers
            .get("content-length")
            .map(|length| length.to_str().unwrap().parse().unwrap());
        (
            rest.to_vec(),
            is_head || length.is_none_or(|length: usize| length == rest.len()),
        )
    };
    Answer {
        status,
        headers,
        body,
        is_whole,
    }
}

/// The chunks' content, and whether the last chunk was there.
fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (body, true);
        }
        let chunk = &rest[end + 2..];
        body.extend_from_slice(&chunk[..length.min(chunk.len())]);
        rest = chunk.get(length + 2..).unwrap_or_default();
    }
    (body, false)
}
