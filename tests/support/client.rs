//! Requests from any address of 127.0.0.0/8, and answers down to "not a byte".

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    raw::{Answer, parse},
    wait::soon,
};

/// What the admin listener answers.
const IS_ADMIN: [&str; 2] = ["/api/", "/metrics"];

/// A request over a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    line: String,
    host: String,
    lines: String,
    body: String,
    from: Ipv4Addr,
}

/// A `GET`.
pub(crate) fn get(target: &str) -> Request {
    request("GET", target)
}

/// A `POST` of JSON.
pub(crate) fn post(target: &str, json: &str) -> Request {
    let mut request = request("POST", target)
        .header("Content-Type", "application/json")
        .header("Content-Length", &json.len().to_string());
    request.body = json.to_owned();
    request
}

/// Any method.
pub(crate) fn request(method: &str, target: &str) -> Request {
    Request {
        line: format!("{method} {target} HTTP/1.1"),
        // A name for sites; the admin listener is asked under its address, as an operator would.
        host: if IS_ADMIN.iter().any(|path| target.starts_with(path)) {
            "Host: 127.0.0.1\r\n".to_owned()
        } else {
            "Host: site.example\r\n".to_owned()
        },
        lines: String::new(),
        body: String::new(),
        from: Ipv4Addr::LOCALHOST,
    }
}

/// The address of the `number`th visitor: all unlike, and unlike any server's.
pub(crate) fn visitor(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// A connection from `from`.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    socket.connect(to).await
}

/// Everything that comes until the other side ends the connection, and whether that was an error.
pub(crate) async fn drain(stream: &mut TcpStream) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut read = Vec::new();
    let ended = soon("the connection ends", stream.read_to_end(&mut read)).await;
    (read, ended.err().map(|error| error.kind()))
}

impl Request {
    /// The same with one more header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.lines += &format!("{name}: {value}\r\n");
        self
    }

    /// The same for another host, or what stands where a host should.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = format!("Host: {host}\r\n");
        self
    }

    /// The same from another address.
    pub(crate) fn from(mut self, from: Ipv4Addr) -> Self {
        self.from = from;
        self
    }

    /// As it is written to the connection.
    pub(crate) fn text(&self) -> String {
        let Self {
            line,
            host,
            lines,
            body,
            ..
        } = self;
        format!("{line}\r\n{host}Connection: close\r\n{lines}\r\n{body}")
    }

    /// Sends it; gives whatever comes back.
    pub(crate) async fn bytes(&self, to: SocketAddr) -> Vec<u8> {
        // At `drop` the connection may end in the middle of any of these: then nothing came back.
        let Ok(mut stream) = connect(self.from, to).await else {
            return Vec::new();
        };
        let _ = stream.write_all(self.text().as_bytes()).await;
        drain(&mut stream).await.0
    }

    /// Sends it; gives the answer, if one came.
    pub(crate) async fn try_ask(&self, to: SocketAddr) -> Option<Answer> {
        let bytes = self.bytes(to).await;
        (!bytes.is_empty()).then(|| parse(&bytes, self.line.starts_with("HEAD ")))
    }

    /// Sends it; gives the answer.
    ///
    /// # Panics
    /// Not a byte came.
    pub(crate) async fn ask(&self, to: SocketAddr) -> Answer {
        let answer = self.try_ask(to).await;
        answer.unwrap_or_else(|| panic!("no answer to {}", self.line))
    }
}
