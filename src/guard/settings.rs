//! `[primary.limits]` and `[edge.limits]`.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    units::{self, ByteSize},
};

/// What clients may hold on to, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// How many connections there may be at once. Where there are more, those end that have been idle the longest, and
    /// where none is idle, new ones. Fewer where the limit of open files is low: two of them for a connection, and 64. At
    /// least 1.
    /// Default: 10000.
    pub connections: u32,
    /// The same for one address (IPv6: its /64); trusted proxies, exempt addresses and offload servers may have more.
    /// At least 1. Default: 1000.
    pub connections_per_address: u32,
    /// How long the head of a request may take, from its first byte; the first one of a connection, from its beginning.
    /// From 100 ms to 1 h. Default: 30 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub head_time: Duration,
    /// How long a head may be: longer ones are answered with 431. It is also what HTTP/1.1 gathers before it writes. From
    /// 8 KiB to 1 MiB. Default: 32 KiB.
    pub head_size: ByteSize,
    /// How long a connection may be kept between two requests; over HTTP/2 also after what silence the client is asked
    /// whether it is still there. From 100 ms to 1 h. Default: 30 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub idle: Duration,
    /// Who takes or sends less than `slow_bytes` within this time, while something waits for it, is shown out. From
    /// 100 ms to 1 h. Default: 30 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub slow_time: Duration,
    /// The bytes that have to come or go in `slow_time`. `"0B"`: any pace will do. Default: 10 KiB.
    pub slow_bytes: ByteSize,
    /// How many requests there may be at once over one HTTP/2 connection (`SETTINGS_MAX_CONCURRENT_STREAMS`, RFC 9113
    /// section 6.5.2). At least 1. Default: 100.
    pub streams: u32,
    /// How many headers a request may have: more are answered with 431. From 10 to 1000. Default: 100.
    pub headers: u32,
    /// How long the body of a request may be: longer ones are answered with 413, those whose length is told at once,
    /// others when they have become longer. Bodies are passed on as they come: none is kept. Default: 100 MiB.
    pub body_size: ByteSize,
    /// How many requests a connection may ask: the last answer says `Connection: close`, over HTTP/2 GOAWAY. At least 1.
    /// Default: 10000.
    pub requests: u32,
    /// How many requests the client of an HTTP/2 connection may take back (`RST_STREAM`) before they are answered: with
    /// more than that, and more than half of all that it asked, it is shown out. As many may wait to be seen by the server,
    /// and as many may have been ended for errors of theirs, before the connection is (CVE-2023-44487). From 1 to 100000.
    /// Default: 100.
    pub resets: u32,
    /// How much of the body of one request may be on its way before the server takes it, over HTTP/2
    /// (`SETTINGS_INITIAL_WINDOW_SIZE`, RFC 9113 section 6.9.2). From 64 KiB to 64 MiB. Default: 1 MiB.
    pub window: ByteSize,
    /// The same for all requests of an HTTP/2 connection together. From 64 KiB to 64 MiB. Default: 1 MiB.
    pub connection_window: ByteSize,
    /// How much of an answer is held for a client that opens no window, for each request over HTTP/2. From 16 KiB to
    /// 16 MiB. Default: 400 KiB.
    pub send_buffer: ByteSize,
    /// How long requests that are under way when the server stops, or a successor has taken its place, may take to finish.
    /// From 0s to 1 h. Default: 30 s.
    #[serde(with = "units::duration")]
    #[cfg_attr(test, schemars(with = "units::DurationText"))]
    pub drain: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What hyper makes room for without an allocation.
#[cfg(feature = "server")]
pub(super) const USUAL_HEADERS: u32 = 100;
const HEADERS: RangeInclusive<u32> = 10..=1000;
const RESETS: RangeInclusive<u32> = 1..=100_000;
const WINDOWS: RangeInclusive<u64> = 64 << 10..=64 << 20;
const SEND_BUFFERS: RangeInclusive<u64> = 16 << 10..=16 << 20;
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// Below hyper's least buffer nothing can be read; a head above the other is nobody's.
const HEAD_SIZES: RangeInclusive<u64> = 8 << 10..=1 << 20;
const TIMES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

// === impl LimitSettings ===

impl LimitSettings {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        connections: 10_000,
        connections_per_address: 1_000,
        head_time: Duration::from_secs(30),
        head_size: ByteSize::new(32 << 10),
        idle: Duration::from_secs(30),
        slow_time: Duration::from_secs(30),
        slow_bytes: ByteSize::new(10 << 10),
        streams: 100,
        headers: 100,
        body_size: ByteSize::new(100 << 20),
        requests: 10_000,
        resets: 100,
        window: ByteSize::new(1 << 20),
        connection_window: ByteSize::new(1 << 20),
        send_buffer: ByteSize::new(400 << 10),
        drain: Duration::from_secs(30),
    };

    /// Appends what is wrong, with `section` before each key.
    pub fn check(&self, section: &str, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, message: &dyn fmt::Display| {
            problems.push(Problem::new(format!("{section}.{name}"), message));
        };
        for (name, number) in [
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
            ("streams", self.streams),
            ("requests", self.requests),
        ] {
            if number == 0 {
                problem(name, &"must be at least 1");
            }
        }
        for (name, time) in [
            ("head_time", self.head_time),
            ("idle", self.idle),
            ("slow_time", self.slow_time),
        ] {
            if !TIMES.contains(&time) {
                problem(name, &"must be from 100ms to 1h");
            }
        }
        if !HEAD_SIZES.contains(&self.head_size.bytes()) {
            problem(
                "head_size",
                &format_args!("must be from 8KiB to 1MiB, found {}", self.head_size),
            );
        }
        for (name, number, range) in [
            ("headers", self.headers, HEADERS),
            ("resets", self.resets, RESETS),
        ] {
            if !range.contains(&number) {
                let (least, most) = range.into_inner();
                problem(
                    name,
                    &format_args!("must be from {least} to {most}, found {number}"),
                );
            }
        }
        for (name, size, range) in [
            ("window", self.window, WINDOWS),
            ("connection_window", self.connection_window, WINDOWS),
            ("send_buffer", self.send_buffer, SEND_BUFFERS),
        ] {
            if !range.contains(&size.bytes()) {
                let (least, most) = range.into_inner();
                let (least, most) = (ByteSize::new(least), ByteSize::new(most));
                problem(
                    name,
                    &format_args!("must be from {least} to {most}, found {size}"),
                );
            }
        }
        if self.drain > LONGEST_DRAIN {
            problem("drain", &"must be from 0s to 1h");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_every_key_has_bounds() {
        let mut problems = Vec::new();
        LimitSettings::default().check("primary.limits", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let nothing = LimitSettings {
            connections: 0,
            connections_per_address: 0,
            head_time: Duration::ZERO,
            head_size: ByteSize::new(1),
            idle: Duration::MAX,
            slow_time: Duration::ZERO,
            slow_bytes: ByteSize::new(0),
            streams: 0,
            headers: 0,
            body_size: ByteSize::new(0),
            requests: 0,
            resets: 0,
            window: ByteSize::new(0),
            connection_window: ByteSize::new(u64::MAX),
            send_buffer: ByteSize::new(0),
            drain: Duration::MAX,
        };
        nothing.check("primary.limits", &mut problems);
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys.len(), 14, "{keys:?}");
        assert!(keys.iter().all(|key| key.starts_with("primary.limits.")));
    }
}
