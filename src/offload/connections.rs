//! The connections that the gate let in, each with a switch that ends it without another byte.
//!
//! An HTTP answer can be withheld from within a service only by an error in its body, and of a HEAD the body
//! is never asked for. The switch closes the connection itself. A request finds its connection by the
//! address of its other end, since that is all that axum hands on. Both maps and locks are touched when a
//! connection comes and goes and when one is dropped, never by a request that is served.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::task::AtomicWaker;

const SHARDS: usize = 16;

/// Ends a connection.
#[derive(Debug, Default)]
pub struct Switch {
    off: AtomicBool,
    waker: AtomicWaker,
}

// === impl Switch ===

impl Switch {
    /// From now on nothing is read from or written to the connection.
    pub fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was turned off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Whom to wake when it is turned off.
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }
}

/// The open connections by the address of their other end.
#[derive(Debug, Default)]
pub struct Connections {
    shards: [Mutex<HashMap<SocketAddr, Arc<Switch>>>; SHARDS],
}

/// An open connection; dropping it takes it off the list.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
    peer: SocketAddr,
    /// Its switch.
    pub switch: Arc<Switch>,
}

// === impl Connections ===

impl Connections {
    fn shard(&self, peer: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Switch>>> {
        let shard = &self.shards[usize::from(peer.port()) % SHARDS];
        // A map is whole after every single operation.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was accepted.
    pub fn open(self: &Arc<Self>, peer: SocketAddr) -> Connection {
        let switch = Arc::new(Switch::default());
        self.shard(peer).insert(peer, switch.clone());
        Connection {
            connections: self.clone(),
            peer,
            switch,
        }
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        let count = |shard: &Mutex<HashMap<_, _>>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).len()
        };
        self.shards.iter().map(count).sum()
    }

    /// The switch of the connection from `peer`, if it came through the gate.
    #[must_use]
    pub fn switch(&self, peer: SocketAddr) -> Option<Arc<Switch>> {
        self.shard(peer).get(&peer).cloned()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut shard = self.connections.shard(self.peer);
        // The same address may have come again before this one was let go.
        if shard
            .get(&self.peer)
            .is_some_and(|switch| Arc::ptr_eq(switch, &self.switch))
        {
            shard.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_while_it_lives() {
        let connections = Arc::new(Connections::default());
        let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let first = connections.open(peer);
        assert!(Arc::ptr_eq(
            &connections.switch(peer).unwrap(),
            &first.switch
        ));
        let second = connections.open(peer);
        drop(first);
        assert!(Arc::ptr_eq(
            &connections.switch(peer).unwrap(),
            &second.switch
        ));
        drop(second);
        assert!(connections.switch(peer).is_none());
        assert_eq!(connections.count(), 0);
    }
}
