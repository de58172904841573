//! Offload servers that are of no use.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Broken {
    /// Nobody listens there.
    Refuses,
    Answers503,
    /// It takes connections, and says nothing.
    Hangs,
    /// It does not even answer who wants to connect.
    #[allow(
        dead_code,
        reason = "benches/fallback.rs measures it, no test waits for it"
    )]
    Silent,
}

/// Such a server; it goes with its handle.
#[derive(Debug)]
pub(crate) struct BrokenServer {
    pub(crate) url: String,
    held: Held,
}

/// What keeps it as it is.
#[derive(Debug)]
#[allow(dead_code, reason = "held until it is dropped")]
enum Held {
    /// Bound, but nobody listens.
    Socket(TcpSocket),
    Task(JoinHandle<()>),
    /// Those who wait to be accepted leave no room for others.
    Full(TcpListener, Vec<TcpStream>),
}

// === impl BrokenServer ===

impl BrokenServer {
    pub(crate) async fn start(broken: Broken) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let held = match broken {
            Broken::Refuses => Held::Socket(socket),
            Broken::Answers503 => {
                let app = Router::new().fallback(async || StatusCode::SERVICE_UNAVAILABLE);
                let listener = socket.listen(1024).unwrap();
                Held::Task(tokio::spawn(async move {
                    axum::serve(listener, app).await.unwrap();
                }))
            }
            Broken::Hangs => {
                let listener = socket.listen(1024).unwrap();
                Held::Task(tokio::spawn(async move {
                    let mut held: Vec<TcpStream> = Vec::new();
                    loop {
                        held.push(listener.accept().await.unwrap().0);
                    }
                }))
            }
            Broken::Silent => {
                let listener = socket.listen(0).unwrap();
                let mut waiting = Vec::new();
                // On loopback an answer takes no time: who waits so long gets none.
                while let Ok(connected) =
                    timeout(Duration::from_millis(500), TcpStream::connect(address)).await
                {
                    waiting.push(connected.unwrap());
                }
                Held::Full(listener, waiting)
            }
        };
        Self {
            url: format!("http://{address}"),
            held,
        }
    }
}

impl Drop for BrokenServer {
    fn drop(&mut self) {
        if let Held::Task(task) = &self.held {
            task.abort();
        }
    }
}

/// A server that is killed in the middle of its answers: of every file it sends the half and waits.
#[derive(Debug)]
pub(crate) struct DyingServer {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

// === impl DyingServer ===

impl DyingServer {
    /// With the files below `root`.
    pub(crate) async fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (root, seen) = (root.to_owned(), asked.clone());
        let task = tokio::spawn(async move {
            // They go with this task.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(half(stream, root.clone(), seen.clone()));
            }
        });
        Self { url, asked, task }
    }

    /// The paths that it was asked for so far, sorted.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked
    }

    /// All connections end as they are, and nobody listens any more.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for DyingServer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn half(
    stream: TcpStream,
    root: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let name = path.split('?').next().unwrap_or_default();
    let file = fs::read(root.join(name.trim_start_matches('/')))?;
    let kind = match name.rsplit('.').next() {
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("svg") => "image/svg+xml",
        _ => "image/bmp",
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Access-Control-Allow-Origin: *\r\n\r\n",
        file.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&file[..file.len() / 2]).await?;
    stream.flush().await?;
    asked.lock().unwrap().push(path);
    std::future::pending().await
}
