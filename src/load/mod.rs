//! How busy is this machine: *load* is a ratio, used / capacity, of one *signal*.
//!
//! | signal | used | capacity |
//! |---|---|---|
//! | [`cpu`](Cpu) | processor time | the container's allowance, else the machine |
//! | [`bandwidth`](Bandwidth) | bytes sent a second | given, else the link's speed |
//! | [`in_flight`](InFlightSignal) | requests being served | given |
//! | [`queue_delay`](QueueDelay) | how late the runtime polls a ready task | the delay that counts as 1.0 |
//! | [`upstream`](UpstreamSignal) | how long the answers of a server behind take | the time that counts as 1.0 |
//!
//! A [`Sampler`] asks them every 250 ms on a thread of its own and gives their [`Reading`]s, smoothed
//! by a moving average, to whoever decides what they mean. A signal that can't be read, or whose
//! capacity nobody knows, is *off*, with a reason: it never fails the start, and it asks for no level.
//!
//! # A signal of your own
//!
//! Whatever has a capacity can be one; here, the connections of a database pool:
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! use overspill::{load::{Signal, SignalError}, units::Ratio};
//! use tokio::time::Instant;
//!
//! struct Pool { taken: Arc<AtomicU32>, size: u32 }
//!
//! impl Signal for Pool {
//!     fn name(&self) -> &str {
//!         "database_pool"
//!     }
//!
//!     fn sample(&mut self, _now: Instant) -> Result<Option<Ratio>, SignalError> {
//!         let taken = self.taken.load(Ordering::Relaxed);
//!         Ok(Some(Ratio::saturating(f64::from(taken) / f64::from(self.size))))
//!     }
//! }
//!
//! let taken = Arc::new(AtomicU32::new(7));
//! let mut pool = Pool { taken, size: 10 };
//! assert_eq!(pool.sample(Instant::now())?, Ratio::new(0.7));
//! # Ok::<(), SignalError>(())
//! ```
//!
//! One that is read from a file says what went wrong, and is tried again at the next tick. Here it
//! joins the ones that the settings ask for:
//!
//! ```
//! use std::{path::{Path, PathBuf}, sync::mpsc};
//! use overspill::load::{self, BytesSent, InFlight, Sampler, Settings, Signal, SignalError, Thresholds, Watched};
//! use overspill::units::Ratio;
//! use tokio::time::Instant;
//!
//! struct FromFile(PathBuf);
//!
//! impl Signal for FromFile {
//!     fn name(&self) -> &str {
//!         "from_file"
//!     }
//!
//!     fn sample(&mut self, _now: Instant) -> Result<Option<Ratio>, SignalError> {
//!         let text = std::fs::read_to_string(&self.0)
//!             .map_err(|error| SignalError::unreadable(&self.0, &error))?;
//!         let load = text.trim().parse();
//!         load.map(Some).map_err(|_| SignalError::unexpected(&self.0, "a ratio", &text))
//!     }
//! }
//!
//! let runtime = tokio::runtime::Runtime::new()?;
//! let settings = Settings::default();
//! let mut signals = load::signals(&settings, &InFlight::new(), &BytesSent::new(), runtime.handle());
//! signals.push(Watched::new(FromFile("/no/such/file".into()), Thresholds::standard()));
//!
//! let (send, ticks) = mpsc::channel();
//! let sampler = Sampler::start(signals, settings.interval, settings.smoothing, move |tick| {
//!     let _ = send.send(tick.readings.to_vec());
//! })?;
//! let readings = ticks.recv()?;
//! assert_eq!(&*readings[4].name, "from_file");
//! assert!(readings[4].off.as_ref().is_some_and(|reason| reason.contains("/no/such/file")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{io, path::Path};

use tokio::{runtime::Handle, time::Instant};

use crate::units::Ratio;

pub mod ewma;
pub mod queue_delay;
pub mod sampler;

mod bandwidth;
mod cgroup;
mod cpu;
mod in_flight;
mod interface;
mod rate;
mod reading;
mod settings;
#[cfg(test)]
mod tree;
mod upstream;

pub use bandwidth::{Bandwidth, BytesSent, capacity as bandwidth_capacity};
pub use cpu::Cpu;
pub use ewma::Ewma;
pub use in_flight::{InFlight, InFlightGuard, InFlightSignal};
pub use queue_delay::QueueDelay;
pub use reading::Reading;
pub use sampler::{Sampler, Tick, Watched};
pub use settings::{
    BandwidthSettings, BandwidthSource, CpuSettings, InFlightSettings, QueueDelaySettings,
    Settings, Thresholds, UpstreamSettings,
};
pub use upstream::{UpstreamFailure, UpstreamHealth, UpstreamMeter, UpstreamSignal, Waiting};

/// Something whose use can be measured against its capacity.
pub trait Signal: Send {
    /// The name that metrics (label `signal`), status and logs show: short, in snake case, and always
    /// the same.
    fn name(&self) -> &str;

    /// The load just now, not smoothed. Called on the sampling thread, so it may block for a moment.
    ///
    /// None is for no reading: a difference needs two of them. A load that has been read before stands
    /// until the next reading.
    ///
    /// # Errors
    /// What could not be read, and why. The signal is off until it can be; that is logged once, and
    /// the signal is sampled again at each tick. A panic counts as an error.
    fn sample(&mut self, now: Instant) -> Result<Option<Ratio>, SignalError>;
}

/// Why a signal can't be read: what was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignalError(String);

impl SignalError {
    /// Any reason, in words for whoever operates the server.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// A file that can't be read.
    #[must_use]
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self(format!("can't read {}: {error}", path.display()))
    }

    /// A file that holds something other than what was expected.
    #[must_use]
    pub fn unexpected(path: &Path, expected: &str, found: &str) -> Self {
        // The log is no place for a whole file.
        let found: String = found.trim().chars().take(60).collect();
        Self(format!(
            "{}: expected {expected}, found {found:?}",
            path.display()
        ))
    }
}

/// The signals of this machine, as `settings` want them. Those that are disabled, or have no capacity, are there
/// too, switched off with the reason.
///
/// `in_flight` and `bytes_sent` are what requests and responses count in; `runtime` is the one whose
/// delay is measured.
#[must_use]
pub fn signals(
    settings: &Settings,
    in_flight: &InFlight,
    bytes_sent: &BytesSent,
    runtime: &Handle,
) -> Vec<Watched> {
    vec![
        watch_cpu(&settings.cpu),
        watch_bandwidth(&settings.bandwidth, bytes_sent),
        watch_in_flight(&settings.in_flight, in_flight),
        watch_queue_delay(&settings.queue_delay, runtime),
    ]
}

/// The signal of a server behind, to be joined to the others.
#[must_use]
pub fn upstream_signal(settings: &UpstreamSettings, meter: &UpstreamMeter) -> Watched {
    match settings.capacity {
        _ if !settings.enabled => Watched::off("upstream", DISABLED),
        Some(capacity) if !capacity.is_zero() => {
            let signal = UpstreamSignal::new(meter.clone(), capacity);
            Watched::new(signal, settings.thresholds())
        }
        _ => no_capacity("upstream"),
    }
}

/// The thresholds of all, by their names.
pub(crate) fn thresholds(settings: &Settings) -> [(&'static str, Thresholds); 5] {
    [
        ("cpu", settings.cpu.thresholds()),
        ("bandwidth", settings.bandwidth.thresholds()),
        ("in_flight", settings.in_flight.thresholds()),
        ("queue_delay", settings.queue_delay.thresholds()),
        ("upstream", settings.upstream.thresholds()),
    ]
}

const DISABLED: &str = "disabled by configuration";

fn watch_cpu(settings: &CpuSettings) -> Watched {
    if !settings.enabled {
        return Watched::off("cpu", DISABLED);
    }
    Watched::new(Cpu::new(), settings.thresholds())
}

fn watch_bandwidth(settings: &BandwidthSettings, sent: &BytesSent) -> Watched {
    if !settings.enabled {
        return Watched::off("bandwidth", DISABLED);
    }
    let signal = match (settings.source, settings.capacity) {
        (BandwidthSource::Interface, capacity) => {
            Bandwidth::of_interface(&settings.interface, capacity)
        }
        (BandwidthSource::Responses, Some(capacity)) => {
            Bandwidth::of_responses(sent.clone(), capacity)
        }
        (BandwidthSource::Responses, None) => return no_capacity("bandwidth"),
    };
    Watched::new(signal, settings.thresholds())
}

fn watch_in_flight(settings: &InFlightSettings, gauge: &InFlight) -> Watched {
    match settings.capacity {
        _ if !settings.enabled => Watched::off("in_flight", DISABLED),
        None | Some(0) => no_capacity("in_flight"),
        Some(capacity) => Watched::new(
            InFlightSignal::new(gauge.clone(), capacity),
            settings.thresholds(),
        ),
    }
}

fn watch_queue_delay(settings: &QueueDelaySettings, runtime: &Handle) -> Watched {
    match settings.capacity {
        _ if !settings.enabled => Watched::off("queue_delay", DISABLED),
        Some(capacity) if !capacity.is_zero() => {
            Watched::new(QueueDelay::start(runtime, capacity), settings.thresholds())
        }
        _ => no_capacity("queue_delay"),
    }
}

/// The default of most signals, so no cause for a warning.
fn no_capacity(name: &str) -> Watched {
    Watched::off(name, format!("no capacity given (`load.{name}.capacity`)"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Name, and why it is off.
    fn watched(settings: serde_json::Value) -> Vec<(String, Option<String>)> {
        let settings = serde_json::from_value(settings).unwrap();
        let (in_flight, sent) = (InFlight::new(), BytesSent::new());
        signals(&settings, &in_flight, &sent, &Handle::current())
            .iter()
            .map(|watched| {
                let off = watched.off_reason().map(str::to_owned);
                (watched.name().to_owned(), off)
            })
            .collect()
    }

    #[tokio::test]
    async fn signals_without_a_capacity_are_off_and_name_the_key() {
        for settings in [
            json!({ "bandwidth": { "source": "responses" } }),
            json!({
                "bandwidth": { "source": "responses" },
                "in_flight": { "capacity": 0 },
                "queue_delay": { "capacity": "0s" },
            }),
        ] {
            let off = |name: &str| {
                let reason = format!("no capacity given (`load.{name}.capacity`)");
                (name.to_owned(), Some(reason))
            };
            let expected = [
                ("cpu".to_owned(), None),
                off("bandwidth"),
                off("in_flight"),
                off("queue_delay"),
            ];
            assert_eq!(watched(settings), expected);
        }
    }

    #[tokio::test]
    async fn signals_with_a_capacity_are_on() {
        let settings = json!({
            "bandwidth": { "source": "responses", "capacity": "1Mbit/s" },
            "in_flight": { "capacity": 10 },
            "queue_delay": { "capacity": "100ms" },
        });
        assert!(watched(settings).iter().all(|(_, off)| off.is_none()));
    }

    #[tokio::test]
    async fn disabled_signals_say_so_even_with_a_capacity() {
        let settings = json!({
            "cpu": { "enabled": false },
            "bandwidth": { "enabled": false, "capacity": "1Mbit/s" },
            "in_flight": { "enabled": false, "capacity": 10 },
            "queue_delay": { "enabled": false, "capacity": "100ms" },
        });
        for (name, off) in watched(settings) {
            assert_eq!(off.as_deref(), Some(DISABLED), "{name}");
        }
    }
}
