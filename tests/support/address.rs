//! Addresses for programs that others have to know before they are there.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU8, Ordering},
};

/// A free port of a host that nobody else binds to, so that nobody takes it before the program does: neither a server
/// that asks for any port, nor a connection that is given one.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id() as u8;
    let host = Ipv4Addr::new(127, 77, process, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((host, 0)).unwrap();
    listener.local_addr().unwrap()
}
