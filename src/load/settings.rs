//! The `[load]` part of the configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::{BitRate, Ratio};

/// How load is measured, and from which load on something is done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The time from one look at the signals to the next, from 10 ms to 1 min. Default: 250 ms.
    #[serde(with = "crate::units::duration")]
    #[cfg_attr(test, schemars(with = "crate::units::DurationText"))]
    pub interval: Duration,
    /// The time constant of the moving average: a change shows to 63 % after this time, however
    /// often is sampled. `"0s"`: no smoothing. Default: 1 s.
    #[serde(with = "crate::units::duration")]
    #[cfg_attr(test, schemars(with = "crate::units::DurationText"))]
    pub smoothing: Duration,
    /// How far below its threshold a load has to be for a level to be left. Default: 0.05.
    pub release: Ratio,
    /// How busy the processors are: of the container's allowance if there is one (control groups), else of the machine.
    pub cpu: CpuSettings,
    /// How full the link is: bytes sent a second. Off where the capacity is neither given nor told by the link.
    pub bandwidth: BandwidthSettings,
    /// How many requests are being served. Off unless `capacity` is given. While there are as many as `drop` says, nobody
    /// is let in, whatever the average is: so it also keeps the queue short in front of an upstream that takes in whatever
    /// comes.
    pub in_flight: InFlightSettings,
    /// How late the runtime polls a task that is ready. Off unless `capacity` is given.
    pub queue_delay: QueueDelaySettings,
    /// How long the upstream's answers take (`primary.upstream`), and what it says of itself. Off unless `capacity` is
    /// given.
    pub upstream: UpstreamSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(250),
            smoothing: Duration::from_secs(1),
            release: Ratio::saturating(0.05),
            cpu: CpuSettings::default(),
            bandwidth: BandwidthSettings::default(),
            in_flight: InFlightSettings::default(),
            queue_delay: QueueDelaySettings::default(),
            upstream: UpstreamSettings::default(),
        }
    }
}

/// The loads at which a signal asks for each level.
///
/// They may be above 1. A level without a threshold is never entered.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholds {
    /// Pages' objects are linked to offload servers from here on.
    pub offload: Option<Ratio>,
    /// Some visitors are turned away from here on.
    pub throttle: Option<Ratio>,
    /// Some connections are closed unanswered from here on.
    pub drop: Option<Ratio>,
}

impl Thresholds {
    /// No level is ever entered.
    pub const NONE: Self = Self {
        offload: None,
        throttle: None,
        drop: None,
    };

    /// 0.70, 0.90, 0.98: what a signal has for which none of the three is written.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            offload: Some(Ratio::saturating(0.70)),
            throttle: Some(Ratio::saturating(0.90)),
            drop: Some(Ratio::saturating(0.98)),
        }
    }
}

/// A signal's settings: what all have in common, and its own.
///
/// The three thresholds belong together: who writes one of them writes them all, so that one left
/// out is a level never entered. Only where none is written, the standard ones hold. That takes a
/// look at the three after reading, hence `remote = "Self"`.
macro_rules! signal_settings {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        // In place, since all would be called `Self`.
        #[cfg_attr(test, schemars(inline))]
        #[serde(remote = "Self", default, deny_unknown_fields)]
        pub struct $name {
            /// Whether this signal is looked at. Default: yes.
            pub enabled: bool,
            $($(#[$field_doc])* pub $field: $type,)*
            /// From this load on pages' objects are linked to an offload server. It may be above 1. Default: 0.70 where
            /// none of the three thresholds is given, else none: the level is never entered.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub offload: Option<Ratio>,
            /// From this load on some visitors get a page that says that the server is overloaded (503). Above
            /// `offload`. Default: 0.90 where none of the three thresholds is given, else none: the level is never
            /// entered.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub throttle: Option<Ratio>,
            /// From this load on some connections are closed without an answer. Above `throttle`. Default: 0.98 where
            /// none of the three thresholds is given, else none: the level is never entered.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub drop: Option<Ratio>,
        }

        impl $name {
            /// The three thresholds.
            #[must_use]
            pub const fn thresholds(&self) -> Thresholds {
                Thresholds {
                    offload: self.offload,
                    throttle: self.throttle,
                    drop: self.drop,
                }
            }

            /// The same settings with other thresholds.
            #[must_use]
            pub fn with_thresholds(self, Thresholds { offload, throttle, drop }: Thresholds) -> Self {
                Self { offload, throttle, drop, ..self }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                let Thresholds { offload, throttle, drop } = Thresholds::standard();
                Self { enabled: true, $($field: $default,)* offload, throttle, drop }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                // The inherent function that `remote = "Self"` makes.
                Self::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let read = Self::deserialize(deserializer)?;
                Ok(if read.thresholds() == Thresholds::NONE {
                    read.with_thresholds(Thresholds::standard())
                } else {
                    read
                })
            }
        }
    };
}

signal_settings! {
    /// Signal `cpu`: processor time used, of the container's allowance if there is one, else of the
    /// machine.
    CpuSettings {}
}

signal_settings! {
    /// Signal `bandwidth`: bytes sent a second, of the link's capacity. Off unless the capacity is
    /// known.
    BandwidthSettings {
        /// Whose bytes count. Default: the interface's.
        source: BandwidthSource = BandwidthSource::Interface,
        /// The interface's name, with source `interface`. `"auto"`: the one that the default route takes. Default: auto.
        interface: String = "auto".to_owned(),
        /// What can be sent. Links of virtual machines seldom report their speed, and a provider's cap may be far below it:
        /// then it must be given. Default: the speed that the link reports.
        #[serde(skip_serializing_if = "Option::is_none")]
        capacity: Option<BitRate> = None,
    }
}

signal_settings! {
    /// Signal `in_flight`: requests being served. Off unless `capacity` is given.
    InFlightSettings {
        /// So many requests in flight are a load of 1.0. In front of an upstream: as many as it works off in a second
        /// or two.
        #[serde(skip_serializing_if = "Option::is_none")]
        capacity: Option<u32> = None,
    }
}

signal_settings! {
    /// Signal `queue_delay`: how late the runtime polls a ready task. Off unless `capacity` is given.
    QueueDelaySettings {
        /// The delay that is a load of 1.0.
        #[serde(with = "crate::units::duration::option", skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "Option<crate::units::DurationText>"))]
        capacity: Option<Duration> = None,
    }
}

signal_settings! {
    /// Signal `upstream`: the time from a request to the first byte of its answer, the upstream's; and while it answers
    /// with 503, for as long as its `Retry-After` says (a second at least, a minute at most), the part of the answers
    /// that are one. Off unless `capacity` is given.
    UpstreamSettings {
        /// The time to the first byte that is a load of 1.0: several times what it is on a usual day, and less than
        /// visitors have patience for.
        #[serde(with = "crate::units::duration::option", skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "Option<crate::units::DurationText>"))]
        capacity: Option<Duration> = None,
    }
}

/// Whose bytes the signal `bandwidth` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BandwidthSource {
    /// All that the machine sent over one interface.
    #[default]
    Interface,
    /// The bodies that this process sent.
    Responses,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Settings, serde_json::Error> {
        serde_json::from_value(value)
    }

    fn ratio(value: f64) -> Option<Ratio> {
        Ratio::new(value)
    }

    #[test]
    fn an_empty_table_is_the_default() {
        let settings = read(json!({ "cpu": {}, "bandwidth": {} })).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.interval, Duration::from_millis(250));
        assert_eq!(settings.cpu.thresholds(), Thresholds::standard());
        assert!(settings.queue_delay.enabled);
    }

    #[test]
    fn a_threshold_left_out_beside_others_is_a_level_never_entered() {
        let settings = read(json!({ "cpu": { "offload": 0.5 } })).unwrap();
        let only_offload = Thresholds {
            offload: ratio(0.5),
            ..Thresholds::NONE
        };
        assert_eq!(settings.cpu.thresholds(), only_offload);
        assert_eq!(settings.bandwidth.thresholds(), Thresholds::standard());
    }

    #[test]
    fn every_key_of_a_signal_is_read() {
        let settings = read(json!({
            "interval": "100ms", "smoothing": "0s", "release": "2%",
            "bandwidth": { "source": "responses", "interface": "eth7", "capacity": "20Mbit/s",
                           "offload": 0.6, "throttle": 1.2, "drop": "150%" },
            "in_flight": { "capacity": 1000 },
            "queue_delay": { "capacity": "100ms", "enabled": false },
        }))
        .unwrap();
        assert_eq!(settings.smoothing, Duration::ZERO);
        assert_eq!(settings.bandwidth.source, BandwidthSource::Responses);
        assert_eq!(settings.bandwidth.interface, "eth7");
        assert_eq!(
            settings.bandwidth.capacity,
            BitRate::from_bits_per_second(20e6)
        );
        assert_eq!(settings.bandwidth.drop, ratio(1.5));
        assert_eq!(settings.in_flight.capacity, Some(1000));
        assert_eq!(
            settings.queue_delay.capacity,
            Some(Duration::from_millis(100))
        );
        assert!(!settings.queue_delay.enabled);
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let settings = read(json!({
            "cpu": { "throttle": 0.5 }, "queue_delay": { "capacity": "2s" },
        }))
        .unwrap();
        let printed = serde_json::to_value(&settings).unwrap();
        assert_eq!(printed["interval"], "250ms");
        assert_eq!(printed["queue_delay"]["capacity"], "2s");
        assert!(printed["cpu"].get("offload").is_none());
        assert_eq!(read(printed).unwrap(), settings);
    }

    #[test]
    fn refuses_an_unknown_key_and_a_wrong_unit() {
        for (value, expected) in [
            (json!({ "cpus": {} }), "unknown field `cpus`"),
            (
                json!({ "cpu": { "offlaod": 0.5 } }),
                "unknown field `offlaod`",
            ),
            (json!({ "interval": "fast" }), "a duration such as"),
            (
                json!({ "queue_delay": { "capacity": "1" } }),
                "a duration such as",
            ),
            (
                json!({ "bandwidth": { "capacity": 20 } }),
                "a bit rate such as",
            ),
            (
                json!({ "bandwidth": { "source": "both" } }),
                "unknown variant `both`",
            ),
            (json!({ "in_flight": { "capacity": -1 } }), "expected u32"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
