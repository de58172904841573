//! One visitor: a page and all that it makes a browser fetch, over at most six connections to a host.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::objects;

/// As many as browsers open to one host for HTTP/1.1.
const CONNECTIONS: usize = 6;
/// After that a visitor goes away.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// The cookie that tells visitors apart.
pub(super) const COOKIE: &str = "visitor";

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// The page is there, with all its objects, each of the right length.
    Whole,
    /// A 503.
    TurnedAway,
    /// The connection was closed without an answer.
    Dropped,
    /// The visitor lost patience.
    TooSlow,
    /// Something else than the page came, or an object is missing or has the wrong length.
    Broken,
}

/// The sizes of the site's files, by path: what the visitors hold the answers to.
pub(super) type Sizes = HashMap<String, u64>;

/// Visits `page` as visitor number `visitor`.
pub(super) async fn visit(visitor: u64, page: &Url, sizes: &Sizes) -> Visit {
    let visitor = Visitor {
        cookie: format!("{COOKIE}={visitor}"),
        sizes,
        idle: Mutex::default(),
    };
    match tokio::time::timeout(PATIENCE, visitor.visit(page)).await {
        Ok(Ok(())) => Visit::Whole,
        Ok(Err(Trouble(how))) => how,
        Err(_) => Visit::TooSlow,
    }
}

/// Why a page is not whole.
#[derive(Debug)]
struct Trouble(Visit);

const BROKEN: Trouble = Trouble(Visit::Broken);

struct Visitor<'a> {
    cookie: String,
    sizes: &'a Sizes,
    /// Connections by their host.
    idle: Mutex<HashMap<String, Vec<Connection>>>,
}

type Connection = SendRequest<Empty<Bytes>>;

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Visitor ===

impl Visitor<'_> {
    async fn visit(&self, page: &Url) -> Result<(), Trouble> {
        let mut connection = self.connection(page).await?;
        let sent = request(&mut connection, page, "document", &self.cookie).await;
        let answer = sent.map_err(|_| Trouble(Visit::Dropped))?;
        self.keep(page, connection);
        let text = match answer.status {
            StatusCode::OK => std::str::from_utf8(&answer.body).map_err(|_| BROKEN)?,
            StatusCode::SERVICE_UNAVAILABLE => return Err(Trouble(Visit::TurnedAway)),
            _ => return Err(BROKEN),
        };
        // A rewritten page has another length than its file.
        if !text.trim_end().ends_with("</html>") {
            return Err(BROKEN);
        }
        let objects = objects::of_page(text, page);
        let stylesheets = self.fetch_all(objects.clone()).await?;
        let mut more: Vec<Url> = stylesheets
            .iter()
            .flat_map(|(url, css)| objects::of_stylesheet(css, url))
            .collect();
        more.retain(|url| !objects.contains(url));
        self.fetch_all(more).await.map(|_| ())
    }

    /// Fetches from all hosts at once; gives the stylesheets.
    async fn fetch_all(&self, urls: Vec<Url>) -> Result<Vec<(Url, String)>, Trouble> {
        let mut hosts: BTreeMap<String, VecDeque<Url>> = BTreeMap::new();
        for url in urls {
            hosts.entry(host(&url)).or_default().push_back(url);
        }
        let workers = hosts.into_values().map(|urls| async {
            let count = urls.len().min(CONNECTIONS);
            let queue = Mutex::new(urls);
            try_join_all((0..count).map(|_| self.work(&queue))).await
        });
        let found = try_join_all(workers).await?;
        Ok(found.into_iter().flatten().flatten().collect())
    }

    /// Fetches over one connection as long as there is something to fetch.
    async fn work(&self, queue: &Mutex<VecDeque<Url>>) -> Result<Vec<(Url, String)>, Trouble> {
        let mut stylesheets = Vec::new();
        let mut connection: Option<(Url, Connection)> = None;
        while let Some(url) = pop(queue) {
            let (_, sender) = match &mut connection {
                Some(connection) => connection,
                none => none.insert((url.clone(), self.connection(&url).await?)),
            };
            let sent = request(sender, &url, "empty", &self.cookie).await;
            let answer = sent.map_err(|_| BROKEN)?;
            if answer.status != StatusCode::OK
                || self.sizes.get(url.path()).copied() != Some(answer.body.len() as u64)
            {
                return Err(BROKEN);
            }
            let is_css = answer
                .headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"text/css"));
            if is_css {
                let css = String::from_utf8_lossy(&answer.body).into_owned();
                stylesheets.push((url, css));
            }
        }
        if let Some((url, connection)) = connection {
            self.keep(&url, connection);
        }
        Ok(stylesheets)
    }

    /// An open connection to the host of `url`, else a new one.
    async fn connection(&self, url: &Url) -> Result<Connection, Trouble> {
        loop {
            let idle = self.idle().get_mut(&host(url)).and_then(Vec::pop);
            let Some(mut connection) = idle else { break };
            // Between two answers the server may have closed it.
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(host(url)).await.map_err(|_| BROKEN)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| BROKEN)?;
        // Ends with the sender; what goes wrong is told to who waits for the answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn keep(&self, url: &Url, connection: Connection) {
        self.idle().entry(host(url)).or_default().push(connection);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pop(queue: &Mutex<VecDeque<Url>>) -> Option<Url> {
    queue
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

/// Host and port.
fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    format!("{name}:{}", url.port_or_known_default().unwrap_or(80))
}

/// Sends one request and reads its answer. A body that is shorter than announced is an error.
async fn request(
    connection: &mut Connection,
    url: &Url,
    dest: &str,
    cookie: &str,
) -> Result<Answer, hyper::Error> {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let accept = if dest == "document" {
        "text/html"
    } else {
        "*/*"
    };
    let mut request = Request::new(Empty::new());
    if let Ok(target) = path.parse() {
        *request.uri_mut() = target;
    }
    for (name, value) in [
        (header::HOST, host(url).as_str()),
        (header::ACCEPT, accept),
        (header::COOKIE, cookie),
    ] {
        if let Ok(value) = value.parse() {
            request.headers_mut().insert(name, value);
        }
    }
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    })
}
