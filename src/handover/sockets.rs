//! The sockets that were handed to this process.
//!
//! By systemd (a `.socket` unit: socket activation) or by a predecessor, both in the same way: from file 3 on, as many as
//! `LISTEN_FDS` says, with the names in `LISTEN_FDNAMES`. A socket that was handed over is used in place of the address in
//! the configuration: whoever made it has said where.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
};

/// The name of a socket that nobody named, or named after its unit: the site's.
const SITE: &str = "site";
/// Those that are known by their names.
const NAMED: [&str; 3] = ["admin", "agent", "redirect"];

/// Sockets by their names; each can be taken once.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<Handed>);

struct Handed {
    name: String,
    listener: TcpListener,
    /// A predecessor's: the address in its configuration.
    configured: Option<SocketAddr>,
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.listener.local_addr())
    }
}

// === impl Sockets ===

impl Sockets {
    /// What the environment says was handed over; called once, before there are threads.
    ///
    /// # Errors
    /// Something other than a listening TCP socket was.
    #[cfg(unix)]
    pub(crate) fn from_environment() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let configured = std::env::var(super::SUCCEEDS).unwrap_or_default();
        let mut files = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for (index, name) in (0..files.len()).zip(names.split(':').chain(std::iter::repeat(""))) {
            let Some(listener) = files.take_tcp_listener(index)? else {
                continue;
            };
            listener.set_nonblocking(true)?;
            let name = if NAMED.contains(&name) { name } else { SITE };
            let configured = configured.split(',').find_map(|entry| {
                let (of, address) = entry.split_once('=')?;
                (of == name).then(|| address.parse().ok()).flatten()
            });
            sockets.push(Handed {
                name: name.to_owned(),
                listener,
                configured,
            });
        }
        Ok(Self(sockets))
    }

    /// Elsewhere none are handed over.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub(crate) fn from_environment() -> io::Result<Self> {
        Ok(Self::default())
    }

    /// The socket called `name`, which the configuration would have at `address`. A predecessor's is not taken where the
    /// configuration has changed to another address since.
    pub(crate) fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let index = self.0.iter().position(|handed| {
            handed.name == name && handed.configured.is_none_or(|before| before == address)
        })?;
        let handed = self.0.remove(index);
        if let Ok(address) = handed.listener.local_addr() {
            tracing::debug!(name, %address, "the socket was handed over");
        }
        Some(handed.listener)
    }

    /// Those that nobody took are closed; the log says so.
    pub(crate) fn close_the_rest(&mut self) {
        for handed in self.0.drain(..) {
            tracing::warn!(socket = ?handed, "a socket that was handed over is not used");
        }
    }
}
