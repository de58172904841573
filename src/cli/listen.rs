//! Listening, where nobody has handed over a socket.

use std::net::{SocketAddr, TcpListener};

use crate::{
    app::ServeError,
    handover::{Restarter, Sockets},
    tls::TlsSettings,
};

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

/// Where requests without TLS are sent to https; `key` is that of the address. The socket is handed on, too.
///
/// # Errors
/// The address can't be listened on; there are too many open files.
pub(super) async fn listen_without_tls(
    sockets: &mut Sockets,
    restarter: &Restarter,
    key: &'static str,
    tls: Option<&TlsSettings>,
) -> Result<Option<tokio::net::TcpListener>, Box<dyn std::error::Error>> {
    let Some(address) = tls.and_then(|tls| tls.redirect) else {
        return Ok(None);
    };
    let listener = listen(sockets, "redirect", key, address).await?;
    restarter.hand_on("redirect", address, &listener)?;
    Ok(Some(tokio::net::TcpListener::from_std(listener)?))
}
