//! Where there is no way to hand sockets on.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
};

use super::RestartError;

/// Nobody's successor.
#[derive(Debug)]
pub(crate) enum Predecessor {}

// === impl Predecessor ===

impl Predecessor {
    pub(crate) const fn from_environment() -> Option<Self> {
        None
    }

    pub(crate) fn ready(self) {
        match self {}
    }

    pub(crate) fn failed(self, _why: &dyn fmt::Display) {
        match self {}
    }
}

/// Starts no successor.
#[derive(Debug)]
pub(crate) struct Restarter;

// === impl Restarter ===

impl Restarter {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn hand_on(
        &self,
        _name: &'static str,
        _configured: SocketAddr,
        _listener: &TcpListener,
    ) -> io::Result<()> {
        Ok(())
    }

    pub(crate) async fn restart(&self) -> Result<u32, RestartError> {
        Err(RestartError::Elsewhere)
    }

    pub(crate) async fn succeeded(&self) {
        std::future::pending().await
    }

    pub(crate) const fn let_go(&self) -> Option<u32> {
        None
    }
}
