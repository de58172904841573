//! Where visitors come from: an address each, as far as the machine has them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};

/// What visitors' addresses are taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sources {
    /// All that the machine has on the interface that leads to the server. To a server on this machine visitors
    /// come from 127.1.0.1 and the 65,533 that follow, where the system has them (Linux).
    #[default]
    Auto,
    /// The one that the system chooses.
    System,
    /// These.
    Listed(Vec<IpNet>),
}

/// What is wrong with a list of addresses.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SourcesError {
    /// Not an address or network.
    #[error(
        "expected \"auto\", \"system\", or addresses and networks such as 127.1.0.0/24 or 10.0.0.1,10.0.0.2, found {0:?}"
    )]
    Unreadable(String),
    /// Not of this machine.
    #[error("{0} is no address of this machine")]
    NotHere(IpAddr),
}

/// The addresses that visitors come to one server from; empty where the system chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pool {
    networks: Vec<IpNet>,
}

/// Where servers on this machine are visited from: away from 127.0.0.1, which servers often treat as one of
/// their own.
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 1, 0, 0), 16);

// === impl Sources ===

impl FromStr for Sources {
    type Err = SourcesError;

    fn from_str(text: &str) -> Result<Self, SourcesError> {
        match text {
            "auto" => Ok(Self::Auto),
            "system" => Ok(Self::System),
            list => list
                .split(',')
                .map(|one| {
                    let one = one.trim();
                    let network = one.parse().or_else(|_| one.parse().map(IpAddr::into));
                    network.map_err(|_| SourcesError::Unreadable(one.chars().take(60).collect()))
                })
                .collect::<Result<_, _>>()
                .map(Self::Listed),
        }
    }
}

impl Sources {
    /// Whether the machine has these addresses: of each network the first and the last are tried.
    ///
    /// # Errors
    /// Names the first that it does not have.
    pub fn check(&self) -> Result<(), SourcesError> {
        let Self::Listed(networks) = self else {
            return Ok(());
        };
        for network in networks {
            let ends = [nth(network, 0), nth(network, size(network) - 1)];
            for address in ends {
                UdpSocket::bind((address, 0)).map_err(|_| SourcesError::NotHere(address))?;
            }
        }
        Ok(())
    }

    /// The addresses to come to `server` from.
    pub(super) fn toward(&self, server: SocketAddr) -> Pool {
        let to = server.ip().to_canonical();
        let networks = match self {
            Self::System => Vec::new(),
            // Nobody comes from 127.0.0.0/8 into a network, or by IPv6 to IPv4.
            Self::Listed(networks) => networks
                .iter()
                .copied()
                .filter(|from| is_like(from.addr(), to))
                .collect(),
            Self::Auto if to.is_loopback() => match to {
                IpAddr::V4(_) if cfg!(target_os = "linux") => {
                    let network = Ipv4Net::new(LOOPBACK.0, LOOPBACK.1);
                    network.map(IpNet::V4).into_iter().collect()
                }
                _ => Vec::new(),
            },
            Self::Auto => on_the_way(server),
        };
        Pool { networks }
    }
}

fn is_like(from: IpAddr, to: IpAddr) -> bool {
    from.is_ipv4() == to.is_ipv4() && from.is_loopback() == to.is_loopback()
}

/// The addresses of the interface that leads to `server`; none where it has one only.
fn on_the_way(server: SocketAddr) -> Vec<IpNet> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    // Connecting a UDP socket sends nothing: it asks for the route.
    let source = UdpSocket::bind(any)
        .and_then(|socket| socket.connect(server).and_then(|()| socket.local_addr()));
    let Ok(source) = source else {
        return Vec::new();
    };
    let Ok(networks) = sysinfo::Networks::new_with_refreshed_list() else {
        return Vec::new();
    };
    let of_interfaces = networks.values().map(|interface| {
        let addresses = interface.ip_networks().iter().map(|network| network.addr);
        addresses.collect::<Vec<IpAddr>>()
    });
    several(of_interfaces, source.ip())
}

/// Of several interfaces' addresses, those beside `source` that are of its kind.
fn several(interfaces: impl IntoIterator<Item = Vec<IpAddr>>, source: IpAddr) -> Vec<IpNet> {
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let found = interfaces
        .into_iter()
        .find(|addresses| addresses.contains(&source));
    let mut addresses = found.unwrap_or_default();
    addresses.retain(|address| is_like(*address, source) && is_local(address) == is_local(&source));
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() < 2 {
        return Vec::new();
    }
    addresses.into_iter().map(IpNet::from).collect()
}

// === impl Pool ===

impl Pool {
    /// How many addresses there are.
    pub(super) fn count(&self) -> u128 {
        self.networks.iter().map(size).fold(0, u128::saturating_add)
    }

    /// Visitor number `visitor`'s: one after the other, and from the start again.
    pub(super) fn pick(&self, visitor: u64) -> Option<IpAddr> {
        let mut index = u128::from(visitor).checked_rem(self.count())?;
        self.networks.iter().find_map(|network| {
            let size = size(network);
            let found = (index < size).then(|| nth(network, index));
            index = index.saturating_sub(size);
            found
        })
    }
}

/// IPv4's network and broadcast addresses are nobody's.
fn edges(network: &IpNet) -> u128 {
    u128::from(network.max_prefix_len() == 32 && network.prefix_len() < 31)
}

fn size(network: &IpNet) -> u128 {
    let bits = network.max_prefix_len() - network.prefix_len();
    1u128
        .checked_shl(u32::from(bits))
        .map_or(u128::MAX, |size| size - 2 * edges(network))
}

fn nth(network: &IpNet, index: u128) -> IpAddr {
    let index = index + edges(network);
    match network {
        // Below 2³², since a network is not larger.
        IpNet::V4(network) => (u32::from(network.network()).wrapping_add(index as u32))
            .to_be_bytes()
            .into(),
        IpNet::V6(network) => u128::from(network.network())
            .wrapping_add(index)
            .to_be_bytes()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(sources: &str, server: &str, visitors: u64) -> Vec<String> {
        let sources: Sources = sources.parse().unwrap();
        let pool = sources.toward(server.parse().unwrap());
        let picked = (0..visitors).map(|visitor| pool.pick(visitor));
        picked
            .flatten()
            .map(|address| address.to_string())
            .collect()
    }

    #[test]
    fn visitors_take_turns() {
        assert_eq!(
            picks("127.1.0.0/30, 127.2.0.7", "127.0.0.1:80", 4),
            ["127.1.0.1", "127.1.0.2", "127.2.0.7", "127.1.0.1"]
        );
        assert_eq!(
            picks("10.0.0.2/31", "10.9.9.9:80", 3),
            ["10.0.0.2", "10.0.0.3", "10.0.0.2"]
        );
        assert_eq!(
            picks("fd00::/126", "[fd01::1]:80", 5)[..2],
            ["fd00::", "fd00::1"]
        );
        let pool = "0.0.0.0/0".parse::<Sources>().unwrap();
        assert_eq!(
            pool.toward("1.1.1.1:80".parse().unwrap()).count(),
            (1 << 32) - 2
        );
    }

    #[test]
    fn nobody_comes_from_where_there_is_no_way() {
        assert_eq!(picks("127.1.0.0/24", "10.0.0.1:80", 3), [""; 0]);
        assert_eq!(picks("10.0.0.0/24", "[fd00::1]:80", 3), [""; 0]);
        assert_eq!(picks("system", "127.0.0.1:80", 3), [""; 0]);
        assert_eq!(picks("auto", "[::1]:80", 3), [""; 0]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_server_on_this_machine_has_visitors_with_an_address_each() {
        assert_eq!(picks("auto", "127.0.0.1:80", 2), ["127.1.0.1", "127.1.0.2"]);
        assert_eq!(picks("auto", "[::ffff:127.0.0.1]:80", 1), ["127.1.0.1"]);
    }

    #[test]
    fn the_addresses_of_an_interface_are_used_where_there_are_several() {
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let interfaces = [
            addresses(&["127.0.0.1", "::1"]),
            addresses(&["10.0.0.3", "10.0.0.2", "fe80::1", "fd00::1", "169.254.0.1"]),
        ];
        let found = |source: &str| several(interfaces.clone(), source.parse().unwrap());
        let expected: Vec<IpNet> = addresses(&["10.0.0.2", "10.0.0.3"])
            .into_iter()
            .map(IpNet::from)
            .collect();
        assert_eq!(found("10.0.0.2"), expected);
        assert_eq!(found("fd00::1"), [], "one: the system's own choice");
        assert_eq!(found("192.0.2.1"), []);
    }

    #[test]
    fn tells_what_is_no_address_and_whose_it_is_not() {
        for text in [
            "",
            "everywhere",
            "10.0.0.0/33",
            "10.0.0.1,",
            "10.0.0.1;10.0.0.2",
        ] {
            let error = text.parse::<Sources>().unwrap_err().to_string();
            assert!(error.contains("127.1.0.0/24"), "{error}");
        }
        let here: Sources = "127.0.0.1".parse().unwrap();
        assert!(here.check().is_ok());
        // RFC 5737: documentation's.
        let error = "203.0.113.0/24".parse::<Sources>().unwrap().check();
        assert!(error.unwrap_err().to_string().contains("203.0.113.1 "));
    }
}
