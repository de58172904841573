//! Listening, where nobody has handed over a socket.

use std::net::{SocketAddr, TcpListener};

use crate::{app::ServeError, handover::Sockets};

/// The socket called `name` if it was handed over, else a new one at `address`, which `key` gives.
///
/// # Errors
/// The address can't be listened on.
pub(super) async fn listen(
    sockets: &mut Sockets,
    name: &str,
    key: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, ServeError> {
    if let Some(handed) = sockets.take(name, address) {
        return Ok(handed);
    }
    // Tokio's queue is longer than that of the standard library.
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.and_then(tokio::net::TcpListener::into_std);
    listener.map_err(|error| ServeError::Listen {
        key,
        address,
        error,
    })
}
