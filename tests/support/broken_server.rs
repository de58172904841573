//! Offload servers that are of no use.

use std::time::Duration;

use axum::{Router, http::StatusCode};
use tokio::{
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
