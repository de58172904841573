//! How full the link is: bytes sent a second, of what it can carry.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    BandwidthSettings, BandwidthSource, Signal, SignalError, interface::Interfaces, rate::Rate,
};
use crate::units::{BitRate, Ratio};

/// Bytes that this process has sent: whoever sends counts here, the sampler reads.
#[derive(Debug, Clone, Default)]
pub struct BytesSent(Arc<AtomicU64>);

impl BytesSent {
    /// Nothing sent yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `bytes` more.
    pub fn add(&self, bytes: u64) {
        // No other memory depends on this number, so no order is needed.
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that was counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The signal `bandwidth`.
#[derive(Debug)]
pub struct Bandwidth {
    source: Source,
    rate: Rate,
}

#[derive(Debug)]
enum Source {
    Interface(Interface),
    Responses { sent: BytesSent, capacity: BitRate },
}

impl Bandwidth {
    /// Bytes that the interface `name` sends, or that of the default route with `"auto"`, of
    /// `capacity`, or else of the speed that the link reports.
    ///
    /// Which interface it is, and whether it can be read, is found out at the first sample and
    /// again whenever it can't: a link may come up later than this process.
    #[must_use]
    pub fn of_interface(name: impl Into<String>, capacity: Option<BitRate>) -> Self {
        Self::new(Source::Interface(Interface {
            name: name.into(),
            capacity,
            interfaces: None,
            found: None,
        }))
    }

    /// Bytes counted in `sent`, of `capacity`.
    #[must_use]
    pub fn of_responses(sent: BytesSent, capacity: BitRate) -> Self {
        Self::new(Source::Responses { sent, capacity })
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            rate: Rate::default(),
        }
    }
}

impl Signal for Bandwidth {
    fn name(&self) -> &str {
        "bandwidth"
    }

    fn sample(&mut self, now: Instant) -> Result<Option<Ratio>, SignalError> {
        let (total, capacity) = match &mut self.source {
            Source::Responses { sent, capacity } => (sent.total(), *capacity),
            Source::Interface(interface) => {
                let reading = interface.read(now);
                if interface.found.as_ref().is_none_or(|found| found.new) {
                    // Another interface's counter, or a gap: there is nothing to compare with.
                    self.rate = Rate::default();
                }
                reading?
            }
        };
        let rate = self.rate.per_second(total, now);
        Ok(rate.map(|bytes| Ratio::saturating(bytes / capacity.bytes_per_second())))
    }
}

/// What can be sent, as `settings` say or the link reports just now; none where nobody knows, or the
/// signal is disabled.
#[must_use]
pub fn capacity(settings: &BandwidthSettings) -> Option<BitRate> {
    if !settings.enabled {
        return None;
    }
    settings.capacity.or_else(|| {
        let mut interface = Interface {
            name: settings.interface.clone(),
            capacity: None,
            interfaces: None,
            found: None,
        };
        let is_interface = settings.source == BandwidthSource::Interface;
        let read = is_interface
            .then(|| interface.read(Instant::now()).ok())
            .flatten();
        read.map(|(_, capacity)| capacity)
    })
}

/// An interface by its configured name, and what that means just now.
#[derive(Debug)]
struct Interface {
    name: String,
    capacity: Option<BitRate>,
    interfaces: Option<Interfaces>,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    name: String,
    capacity: BitRate,
    at: Instant,
    /// Whether it is another one than at the last sample.
    new: bool,
}

impl Interface {
    /// How long an interface and its speed are taken for granted: routes change, links renegotiate.
    const KEEP: Duration = Duration::from_secs(10);

    /// Bytes sent so far, and the capacity.
    fn read(&mut self, now: Instant) -> Result<(u64, BitRate), SignalError> {
        let before = self.found.take();
        let mut interfaces = match self.interfaces.take() {
            Some(interfaces) => interfaces,
            None => Interfaces::new()?,
        };
        let reading = self.find(&mut interfaces, before, now);
        self.interfaces = Some(interfaces);
        let (total, found) = reading?;
        let capacity = found.capacity;
        self.found = Some(found);
        Ok((total, capacity))
    }

    fn find(
        &self,
        interfaces: &mut Interfaces,
        before: Option<Found>,
        now: Instant,
    ) -> Result<(u64, Found), SignalError> {
        let fresh = |found: &Found| now.saturating_duration_since(found.at) < Self::KEEP;
        if let Some(found) = before.as_ref().filter(|found| fresh(found)) {
            let total = interfaces.sent(&found.name)?;
            let found = Found {
                name: found.name.clone(),
                new: false,
                ..*found
            };
            return Ok((total, found));
        }
        let name = match self.name.as_str() {
            "auto" => interfaces.default_route()?,
            name => name.to_owned(),
        };
        let total = interfaces.sent(&name)?;
        let capacity = self.capacity.or_else(|| interfaces.speed(&name));
        let capacity = capacity.ok_or_else(|| {
            SignalError::new(format!(
                "no capacity given (`load.bandwidth.capacity`) and the link {name} reports none"
            ))
        })?;
        let new = before.is_none_or(|before| before.name != name);
        let found = Found {
            name,
            capacity,
            at: now,
            new,
        };
        Ok((total, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn megabits(number: f64) -> BitRate {
        BitRate::from_bits_per_second(number * 1e6).unwrap()
    }

    #[test]
    fn responses_are_measured_against_their_capacity() {
        let start = Instant::now();
        let sent = BytesSent::new();
        let mut signal = Bandwidth::of_responses(sent.clone(), megabits(8.0));
        sent.add(5_000);
        assert_eq!(signal.sample(start).unwrap(), None);
        sent.add(1_400_000);
        let load = signal.sample(start + 2 * SECOND).unwrap();
        assert_eq!(load, Ratio::new(0.7));
        assert_eq!(sent.total(), 1_405_000);
    }

    #[cfg(target_os = "linux")]
    mod linux {
        use std::io::{Read, Write};

        use super::{super::super::tree::Tree, *};

        fn tree() -> Tree {
            let route = "Iface\neth0\t00000000\t0\t0003\t0\t0\t0\t00000000\n";
            Tree::new()
                .with("proc/net/route", route)
                .with("sys/class/net/eth0/speed", "80\n")
                .with("sys/class/net/eth0/statistics/tx_bytes", "1000\n")
                .with("sys/class/net/eth1/speed", "-1\n")
                .with("sys/class/net/eth1/statistics/tx_bytes", "9000000000\n")
        }

        fn signal(tree: &Tree, name: &str, capacity: Option<BitRate>) -> Bandwidth {
            let mut signal = Bandwidth::of_interface(name, capacity);
            if let Source::Interface(interface) = &mut signal.source {
                interface.interfaces = Some(Interfaces::below(tree.path().to_owned()));
            }
            signal
        }

        #[test]
        fn auto_is_the_default_routes_interface_with_the_speed_of_its_link() {
            let (tree, start) = (tree(), Instant::now());
            let mut signal = signal(&tree, "auto", None);
            assert_eq!(signal.sample(start).unwrap(), None);
            tree.write("sys/class/net/eth0/statistics/tx_bytes", "5001000\n");
            let load = signal.sample(start + SECOND).unwrap();
            assert_eq!(load, Ratio::new(0.5));
        }

        #[test]
        fn a_capacity_given_goes_before_the_speed_of_the_link() {
            let (tree, start) = (tree(), Instant::now());
            let mut signal = signal(&tree, "eth0", Some(megabits(160.0)));
            signal.sample(start).unwrap();
            tree.write("sys/class/net/eth0/statistics/tx_bytes", "5001000\n");
            let load = signal.sample(start + SECOND).unwrap();
            assert_eq!(load, Ratio::new(0.25));
        }

        #[test]
        fn without_any_capacity_it_says_which_key_to_set() {
            let tree = tree();
            let mut signal = signal(&tree, "eth1", None);
            let error = signal.sample(Instant::now()).unwrap_err().to_string();
            assert!(error.contains("`load.bandwidth.capacity`"), "{error}");
            assert!(error.contains("eth1 reports none"), "{error}");
        }

        #[test]
        fn another_default_route_gives_no_absurd_load() {
            let (tree, start) = (tree(), Instant::now());
            let mut signal = signal(&tree, "auto", Some(megabits(80.0)));
            signal.sample(start).unwrap();
            let route = "Iface\neth1\t00000000\t0\t0003\t0\t0\t0\t00000000\n";
            tree.write("proc/net/route", route);
            assert_eq!(signal.sample(start + Interface::KEEP).unwrap(), None);
            let load = signal.sample(start + Interface::KEEP + SECOND).unwrap();
            assert_eq!(load, Some(Ratio::ZERO));
        }

        #[test]
        fn an_interface_that_goes_and_comes_back_is_an_error_and_then_begins_again() {
            let (tree, start) = (tree(), Instant::now());
            let mut signal = signal(&tree, "eth0", None);
            signal.sample(start).unwrap();
            tree.remove("sys/class/net/eth0/statistics/tx_bytes");
            assert!(signal.sample(start + SECOND).is_err());
            tree.write("sys/class/net/eth0/statistics/tx_bytes", "999999999\n");
            assert_eq!(signal.sample(start + 2 * SECOND).unwrap(), None);
            let load = signal.sample(start + 3 * SECOND).unwrap();
            assert_eq!(load, Some(Ratio::ZERO));
        }

        #[test]
        fn bytes_really_sent_over_loopback_raise_the_load() {
            let start = Instant::now();
            let mut signal = Bandwidth::of_interface("lo", Some(megabits(1.0)));
            assert_eq!(signal.sample(start).unwrap(), None);

            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                far.read_to_end(&mut received).unwrap();
                received.len()
            });
            near.write_all(&[7; 1 << 20]).unwrap();
            drop(near);
            assert_eq!(reader.join().unwrap(), 1 << 20);

            // Had it taken a second, this would be 8.4 Mbit/s; others may use the loopback, too.
            let load = signal.sample(start + SECOND).unwrap().unwrap().get();
            assert!(load >= 8.388_608, "{load}");
        }
    }
}
