//! Asks a name server for SRV records.

use std::net::SocketAddr;

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};

use super::records::{Answer, Record};

/// The name server, and the name.
#[derive(Debug)]
pub struct NameServer {
    resolver: TokioResolver,
    name: String,
}

// === impl NameServer ===

impl NameServer {
    /// Asks for `name`: at `address`, else at the system's name servers.
    ///
    /// # Errors
    /// The system's configuration can't be read.
    pub fn new(address: Option<SocketAddr>, name: &str) -> Result<Self, String> {
        let mut builder = match address {
            None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
            Some(address) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = address.port();
                }
                let server = NameServerConfig::new(address.ip(), true, connections);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        // Whoever asks again wants to know what is now.
        builder.options_mut().cache_size = 0;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        let name = format!("{}.", name.trim_end_matches('.'));
        Ok(Self { resolver, name })
    }

    /// Asks.
    pub async fn ask(&self) -> Answer {
        let found = match self.resolver.srv_lookup(self.name.as_str()).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                return Answer::Empty;
            }
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let records = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(Record {
                    priority: srv.priority,
                    weight: srv.weight,
                    host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                    port: srv.port,
                }),
                _ => None,
            });
        let records: Vec<_> = records.collect();
        if records.is_empty() {
            return Answer::Empty;
        }
        Answer::Records(records)
    }
}
