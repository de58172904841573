//! Whom a crowd may visit: what is on this machine or in a private network, and what its owner has named.
//!
//! A crowd at somebody else's site is an attack. So no name is believed: every address that it resolves to has to
//! be private, and connections go to the addresses that were looked at, not to the name.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The hosts that may be visited.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    own: HashSet<String>,
}

// === impl Reach ===

impl Reach {
    /// Loopback and private addresses, and `hosts` wherever they are.
    pub fn new<H: Into<String>>(hosts: impl IntoIterator<Item = H>) -> Self {
        Self {
            own: hosts.into_iter().map(Into::into).collect(),
        }
    }

    /// The first of the host's addresses that must not be visited.
    pub(super) fn refuses(&self, host: &str, addresses: &[IpAddr]) -> Option<IpAddr> {
        if self.own.contains(host) {
            return None;
        }
        addresses
            .iter()
            .copied()
            .find(|address| !is_private(*address))
    }
}

/// Whether an address is of this machine, of this link or of a private network (RFC 1918, RFC 3927, RFC 4193,
/// RFC 4291).
fn is_private(address: IpAddr) -> bool {
    let v4 = |address: Ipv4Addr| {
        address.is_loopback()
            || address.is_private()
            || address.is_link_local()
            // A connection to 0.0.0.0 goes to this machine.
            || address.is_unspecified()
    };
    let v6 = |address: Ipv6Addr| {
        address.is_loopback()
            || address.is_unique_local()
            || address.is_unicast_link_local()
            || address.is_unspecified()
    };
    match address.to_canonical() {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_and_private_addresses_are_visited() {
        for text in [
            "127.0.0.1",
            "127.255.0.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "0.0.0.0",
            "::",
        ] {
            let found = Reach::default().refuses("h", &addresses(&[text]));
            assert_eq!(found, None, "{text}");
        }
    }

    #[test]
    fn public_addresses_are_not_visited() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "172.15.0.1",
            "192.169.0.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:93.184.216.34",
            "64:ff9b::10.0.0.1",
            "ff02::1",
        ] {
            let found = Reach::default().refuses("h", &addresses(&[text]));
            assert_eq!(found, Some(text.parse::<IpAddr>().unwrap()), "{text}");
        }
    }

    #[test]
    fn one_public_address_among_private_ones_is_enough_to_refuse() {
        let mixed = addresses(&["10.0.0.1", "93.184.216.34"]);
        assert_eq!(Reach::default().refuses("h", &mixed), Some(mixed[1]));
    }

    #[test]
    fn the_owner_may_name_hosts_and_no_others_are_meant() {
        let reach = Reach::new(["www.example.com"]);
        let public = addresses(&["93.184.216.34"]);
        assert_eq!(reach.refuses("www.example.com", &public), None);
        assert_eq!(reach.refuses("example.com", &public), Some(public[0]));
    }
}
