//! A real name server on loopback, whose SRV records change when the test says so.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_server::{
    Server,
    net::runtime::TokioRuntimeProvider,
    proto::rr::{
        Name, RData, Record, RecordSet, RecordType, RrKey,
        rdata::{SOA, SRV},
    },
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use tokio::net::{TcpListener, UdpSocket};

/// The name that is asked for.
pub(crate) const NAME: &str = "_overspill._tcp.example.test";

/// Priority, weight, port and target.
pub(crate) type Srv<'a> = (u16, u16, u16, &'a str);

/// The server; it goes with its handle.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Arc<InMemoryZoneHandler<TokioRuntimeProvider>>,
    _server: Server<Catalog>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

impl NameServer {
    /// Answers with these records.
    pub(crate) async fn start(records: &[Srv<'_>]) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let origin = name("example.test");
        let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(
            origin.clone(),
            ZoneType::Primary,
            AxfrPolicy::Deny,
        );
        let soa = SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 0);
        let soa = Record::from_rdata(origin.clone(), 0, RData::SOA(soa));
        assert!(zone.upsert_mut(soa, 0));
        let zone = Arc::new(zone);
        let mut catalog = Catalog::new();
        catalog.upsert((&origin).into(), vec![zone.clone()]);
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(60), 128);
        let server = Self {
            address,
            zone,
            _server: server,
        };
        server.set(records).await;
        server
    }

    /// From now on it answers with these.
    pub(crate) async fn set(&self, records: &[Srv<'_>]) {
        let owner = name(NAME);
        let mut set = RecordSet::with_ttl(owner.clone(), RecordType::SRV, 0);
        for (priority, weight, port, target) in records {
            set.add_rdata(RData::SRV(SRV::new(
                *priority,
                *weight,
                *port,
                name(target),
            )));
        }
        let key = RrKey::new((&owner).into(), RecordType::SRV);
        let mut all = self.zone.records_mut().await;
        if records.is_empty() {
            all.remove(&key);
        } else {
            all.insert(key, Arc::new(set));
        }
    }
}

/// Both of one port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Somebody else may have it.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}
