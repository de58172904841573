//! What a network interface has sent, how fast its link is, and which one the default route takes.

use crate::units::BitRate;

use super::SignalError;

/// What the operating system tells about the machine's interfaces.
#[derive(Debug)]
pub(super) struct Interfaces {
    #[cfg(target_os = "linux")]
    root: std::path::PathBuf,
    #[cfg(not(target_os = "linux"))]
    networks: sysinfo::Networks,
}

/// Linux: the counters that sysinfo would read, too, but of the one interface alone. sysinfo reads
/// a dozen files for each interface there is, and a container host has hundreds.
#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs, io,
        path::{Path, PathBuf},
    };

    use super::{BitRate, Interfaces, SignalError};

    impl Interfaces {
        pub(in super::super) fn new() -> Result<Self, SignalError> {
            Ok(Self::below(PathBuf::from("/")))
        }

        /// Reads `proc` and `sys` below `root`.
        pub(in super::super) fn below(root: PathBuf) -> Self {
            Self { root }
        }

        /// The interface that the default route takes, IPv4's if there is one, else IPv6's.
        pub(in super::super) fn default_route(&self) -> Result<String, SignalError> {
            let table = |path: &str| fs::read_to_string(self.root.join(path)).unwrap_or_default();
            default_route_v4(&table("proc/net/route"))
                .or_else(|| default_route_v6(&table("proc/net/ipv6_route")))
                .ok_or_else(|| {
                    SignalError::new(
                        "there is no default route; name the interface in `load.bandwidth.interface`",
                    )
                })
        }

        /// Bytes sent since the interface came up.
        pub(in super::super) fn sent(&mut self, name: &str) -> Result<u64, SignalError> {
            let path = self.folder(name)?.join("statistics/tx_bytes");
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let bytes = text.trim().parse();
                    bytes.map_err(|_| SignalError::unexpected(&path, "a number of bytes", &text))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(name)),
                Err(error) => Err(SignalError::unreadable(&path, &error)),
            }
        }

        /// The link's speed, if it has one and tells it.
        pub(in super::super) fn speed(&self, name: &str) -> Option<BitRate> {
            let path = self.folder(name).ok()?.join("speed");
            // Mbit/s. A link that is down or has none says −1, or gives an error.
            let megabits: f64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            BitRate::from_bits_per_second(megabits * 1e6)
        }

        fn folder(&self, name: &str) -> Result<PathBuf, SignalError> {
            // The name comes from the configuration, and becomes part of a path.
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(unknown(name));
            }
            Ok(self.root.join(Path::new("sys/class/net")).join(name))
        }
    }

    fn unknown(name: &str) -> SignalError {
        SignalError::new(format!(
            "there is no interface {name:?} (`load.bandwidth.interface`)"
        ))
    }

    /// `RTF_UP` and `RTF_REJECT` of the kernel's `linux/route.h`.
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;

    fn usable(flags: u32) -> bool {
        flags & UP != 0 && flags & REJECT == 0
    }

    /// The interface of the default route with the smallest metric in `/proc/net/route`.
    pub(super) fn default_route_v4(table: &str) -> Option<String> {
        let routes = table.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // Iface Destination Gateway Flags RefCnt Use Metric Mask …
            let &[name, destination, _, flags, _, _, metric, mask, ..] = &fields[..] else {
                return None;
            };
            let everywhere = destination == "00000000" && mask == "00000000";
            let flags = u32::from_str_radix(flags, 16).ok()?;
            (everywhere && usable(flags)).then_some(())?;
            Some((metric.parse::<u32>().ok()?, name.to_owned()))
        });
        routes
            .min_by_key(|(metric, _)| *metric)
            .map(|(_, name)| name)
    }

    /// The interface of the default route with the smallest metric in `/proc/net/ipv6_route`.
    pub(super) fn default_route_v6(table: &str) -> Option<String> {
        let routes = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // destination, its prefix's length, source, its, next hop, metric, references, use,
            // flags, interface; all in hexadecimal
            let &[destination, length, _, _, _, metric, _, _, flags, name] = &fields[..] else {
                return None;
            };
            let everywhere = length == "00" && destination.bytes().all(|digit| digit == b'0');
            let flags = u32::from_str_radix(flags, 16).ok()?;
            (everywhere && usable(flags)).then_some(())?;
            Some((u32::from_str_radix(metric, 16).ok()?, name.to_owned()))
        });
        routes
            .min_by_key(|(metric, _)| *metric)
            .map(|(_, name)| name)
    }
}

#[cfg(not(target_os = "linux"))]
impl Interfaces {
    pub(super) fn new() -> Result<Self, SignalError> {
        let networks = sysinfo::Networks::new();
        Ok(Self {
            networks: networks.map_err(|error| SignalError::new(error.to_string()))?,
        })
    }

    pub(super) fn default_route(&self) -> Result<String, SignalError> {
        Err(SignalError::new(
            "the default route can't be told on this system; name the interface in \
             `load.bandwidth.interface`",
        ))
    }

    pub(super) fn sent(&mut self, name: &str) -> Result<u64, SignalError> {
        self.networks.refresh(true);
        let network = self.network(name);
        network
            .map(|network| network.total_transmitted())
            .ok_or_else(|| {
                SignalError::new(format!(
                    "there is no interface {name:?} (`load.bandwidth.interface`)"
                ))
            })
    }

    pub(super) fn speed(&self, name: &str) -> Option<BitRate> {
        let bits = self.network(name)?.transmit_link_speed()?;
        BitRate::from_bits_per_second(bits as f64)
    }

    fn network(&self, name: &str) -> Option<&sysinfo::NetworkData> {
        self.networks
            .iter()
            .find_map(|(found, network)| (found == name).then_some(network))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{
        super::tree::Tree,
        linux::{default_route_v4, default_route_v6},
        *,
    };

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth1\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
gone\t00000000\t010200C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    fn v6_route(destination: &str, length: &str, metric: &str, flags: &str, name: &str) -> String {
        let zeros = "0".repeat(32);
        format!(
            "{destination:0<32} {length} {zeros} 00 {zeros} {metric} 00000001 00000000 {flags} {name:>8}\n"
        )
    }

    #[test]
    fn the_default_route_is_the_usable_one_with_the_smallest_metric() {
        assert_eq!(default_route_v4(V4).as_deref(), Some("eth1"));
        let v6 = [
            v6_route("", "00", "ffffffff", "00200200", "lo"),
            v6_route("fe80", "40", "00000100", "00000001", "eth0"),
            v6_route("", "00", "00000400", "00000003", "eth2"),
            v6_route("", "00", "00000064", "00000003", "eth3"),
        ]
        .concat();
        assert_eq!(default_route_v6(&v6).as_deref(), Some("eth3"));
    }

    #[test]
    fn no_default_route_asks_for_the_interface() {
        for table in [
            "",
            "Iface\n",
            "garbage\nmore garbage\n",
            "h\neth0\t00000000\tx\tq\t0\t0\tz\t00000000\n",
        ] {
            assert_eq!(default_route_v4(table), None);
            assert_eq!(default_route_v6(table), None);
        }
        let tree = Tree::new();
        let interfaces = Interfaces::below(tree.path().to_owned());
        let error = interfaces.default_route().unwrap_err().to_string();
        assert!(error.contains("load.bandwidth.interface"), "{error}");
    }

    #[test]
    fn ipv6_answers_where_ipv4_has_no_default_route() {
        let tree = Tree::new()
            .with("proc/net/route", "Iface\n")
            .with("proc/net/ipv6_route", &v6_route("", "00", "1", "3", "eth6"));
        let interfaces = Interfaces::below(tree.path().to_owned());
        assert_eq!(interfaces.default_route().unwrap(), "eth6");
    }

    #[test]
    fn reads_the_counter_and_names_what_is_wrong_with_it() {
        let tree = Tree::new()
            .with("sys/class/net/eth0/statistics/tx_bytes", "123456789012\n")
            .with("sys/class/net/eth1/statistics/tx_bytes", "many\n");
        let mut interfaces = Interfaces::below(tree.path().to_owned());
        assert_eq!(interfaces.sent("eth0").unwrap(), 123_456_789_012);
        assert!(
            interfaces
                .sent("eth1")
                .unwrap_err()
                .to_string()
                .contains("many")
        );
        for name in ["eth9", "", ".", "..", "../net/eth0", "/"] {
            let error = interfaces.sent(name).unwrap_err().to_string();
            assert!(error.contains(&format!("no interface {name:?}")), "{error}");
        }
    }

    #[test]
    fn a_link_without_a_speed_has_none() {
        let tree = Tree::new()
            .with("sys/class/net/eth0/speed", "1000\n")
            .with("sys/class/net/eth1/speed", "-1\n")
            .with("sys/class/net/eth2/speed", "")
            .with("sys/class/net/eth3/speed", "0\n");
        let interfaces = Interfaces::below(tree.path().to_owned());
        let speed = |name| interfaces.speed(name).map(BitRate::bits_per_second);
        assert_eq!(speed("eth0"), Some(1e9));
        for name in ["eth1", "eth2", "eth3", "eth4"] {
            assert_eq!(speed(name), None, "{name}");
        }
    }
}
