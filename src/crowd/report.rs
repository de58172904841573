//! What is told of a crowd: for people, and for programs.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    hosts::HostCount,
    settings::Settings,
    tally::{ObjectCount, Tallies, Tally},
    times::Times,
};

/// So many of the things that went wrong are told.
const FAILURES: usize = 20;

/// What is told of a crowd. As JSON it is one object; fields may be added to it, none goes away.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What visitors came for.
    pub pages: Vec<String>,
    /// Visitors a second who were to come.
    pub rate: f64,
    /// Seconds that they were to come for.
    pub seconds: f64,
    /// Seconds until the last had left, or the crowd was broken off.
    pub elapsed: f64,
    /// Whether it was not broken off.
    pub complete: bool,
    /// Seconds that a visitor waits for the whole page.
    pub patience: f64,
    /// What the visitors were drawn with.
    pub seed: u64,
    /// How many addresses they came from; null where the system chose one.
    pub addresses: Option<u64>,
    /// Whether bytes were compared with the primary's.
    pub verified: bool,
    /// Visitors by how their visits ended.
    #[serde(flatten)]
    pub visitors: Tally,
    /// Whole pages a second, of those that were whole before the last visitor had come: a server's backlog
    /// after that is not added to what it can do.
    pub whole_per_second: f64,
    /// How long whole pages took; null where there was none.
    pub time_to_whole: Option<TimesToWhole>,
    /// Seconds that the latest visitor came later than drawn: of a machine that is too slow for such a crowd.
    pub late: f64,
    /// The objects of pages that arrived.
    pub objects: ObjectCount,
    /// What came from each host ("name:port"), the one with the most bytes first.
    #[serde(serialize_with = "as_map")]
    pub hosts: Vec<(String, HostCount)>,
    /// What went wrong, most often first: at most twenty.
    pub failures: Vec<Failure>,
}

/// How long it took from a visitor's arrival until the page was whole, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct TimesToWhole {
    /// Half took no longer.
    pub p50: f64,
    /// 95 of a hundred took no longer.
    pub p95: f64,
    /// 99 of a hundred took no longer.
    pub p99: f64,
    /// None took longer.
    pub max: f64,
}

/// Something that went wrong.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Failure {
    /// What was asked for.
    pub url: String,
    /// What was wrong with the answer.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// What a report knows from outside of the tallies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) rate: f64,
    pub(super) length: Duration,
    pub(super) elapsed: Duration,
    pub(super) came_for: Duration,
    pub(super) late: Duration,
    pub(super) complete: bool,
    pub(super) verified: bool,
    pub(super) addresses: Option<u64>,
}

fn as_map<S: Serializer>(hosts: &[(String, HostCount)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(hosts.len()))?;
    for (name, count) in hosts {
        map.serialize_entry(name, count)?;
    }
    map.end()
}

// === impl Report ===

impl Report {
    pub(super) fn new(
        settings: &Settings,
        hosts: Vec<(String, HostCount)>,
        visitors: Tally,
        tallies: &Tallies,
        run: Run,
    ) -> Self {
        let came_for = run.came_for.as_secs_f64().max(1e-3);
        let mut failures: Vec<Failure> = tallies
            .failures
            .iter()
            .map(|((url, trouble), count)| Failure {
                url: url.clone(),
                what: trouble.to_string(),
                count: *count,
            })
            .collect();
        failures.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.url.cmp(&b.url)));
        failures.truncate(FAILURES);
        let mut pages: Vec<String> = settings.pages.iter().map(ToString::to_string).collect();
        pages.dedup();
        Self {
            pages,
            rate: run.rate,
            seconds: run.length.as_secs_f64(),
            elapsed: run.elapsed.as_secs_f64(),
            complete: run.complete,
            patience: settings.patience.as_secs_f64(),
            seed: settings.seed,
            addresses: run.addresses,
            verified: run.verified,
            visitors,
            whole_per_second: tallies.whole_in_time as f64 / came_for,
            time_to_whole: TimesToWhole::of(&tallies.times),
            late: run.late.as_secs_f64(),
            objects: tallies.objects,
            hosts,
            failures,
        }
    }
}

impl TimesToWhole {
    fn of(times: &Times) -> Option<Self> {
        let seconds = |part| times.percentile(part).map(|time| time.as_secs_f64());
        Some(Self {
            p50: seconds(0.50)?,
            p95: seconds(0.95)?,
            p99: seconds(0.99)?,
            max: times.longest()?.as_secs_f64(),
        })
    }
}

/// As people read it.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds < 1.0 => write!(f, "{:.1} ms", seconds * 1000.0),
            seconds => write!(f, "{seconds:.2} s"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { visitors, rate, .. } = self;
        let ended = if self.complete { "" } else { ", broken off" };
        let from = match self.addresses {
            Some(1) => "one address".to_owned(),
            Some(count) => format!("{count} addresses"),
            None => "the address that the system chose".to_owned(),
        };
        writeln!(
            f,
            "{rate} visitors a second for {} s to {}, from {from}; it took {:.1} s{ended}.\n",
            self.seconds,
            self.pages.join(", "),
            self.elapsed
        )?;
        let part = |count: u64| 100.0 * count as f64 / visitors.offered.max(1) as f64;
        for (count, what, always) in [
            (visitors.offered, "visitors were offered", true),
            (visitors.whole, "got the whole page", true),
            (
                visitors.partial,
                "got the page, but not all its objects",
                true,
            ),
            (visitors.throttled, "were turned away with a 503", true),
            (visitors.dropped, "were dropped without a byte", true),
            (visitors.timed_out, "got no page in time", true),
            (visitors.refused, "were refused a connection", false),
            (visitors.failed, "got something else", false),
            (visitors.unfinished, "were still there", false),
            (
                visitors.not_started,
                "were not sent: too many for this machine or --max-visitors",
                false,
            ),
        ] {
            if always || count > 0 {
                writeln!(f, "{count:>9}  {:>5.1} %  {what}", part(count))?;
            }
        }
        writeln!(f, "\n{:>9.1}  whole pages a second", self.whole_per_second)?;
        if let Some(times) = self.time_to_whole {
            let TimesToWhole { p50, p95, p99, max } = times;
            let [p50, p95, p99, max] = [p50, p95, p99, max].map(Seconds);
            writeln!(
                f,
                "           to the whole page: median {p50}, p95 {p95}, p99 {p99}, longest {max}"
            )?;
        }
        if self.late > 0.1 {
            writeln!(
                f,
                "           this machine was late with visitors, by up to {:.1} s",
                self.late
            )?;
        }
        self.tell_objects(f)?;
        self.tell_hosts(f)?;
        if !self.failures.is_empty() {
            writeln!(f, "\nWhat went wrong:")?;
        }
        for Failure { url, what, count } in &self.failures {
            // What a page contains must not steer a terminal.
            let shown = |text: &str| text.replace(char::is_control, "?");
            let url: String = url.chars().take(120).collect();
            writeln!(f, "{count:>9}  {}  {}", shown(&url), shown(what))?;
        }
        Ok(())
    }
}

impl Report {
    fn tell_objects(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objects = &self.objects;
        write!(f, "{:>9}  objects arrived", objects.whole)?;
        if self.verified {
            write!(f, ", the primary's bytes")?;
        }
        for (count, what) in [
            (objects.failed, "failed"),
            (objects.throttled, "were answered with a 503"),
            (objects.timed_out, "did not come in time"),
            (objects.wrong, "have other bytes than the primary's"),
            (objects.unverified, "of them unknown to the primary"),
            (objects.missing, "that the site does not have"),
            (objects.foreign, "on others' hosts were left out"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        writeln!(f)
    }

    fn tell_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.hosts.iter().map(|(name, _)| name.len()).max();
        let Some(width) = width.map(|width| width.max(9)) else {
            return Ok(());
        };
        writeln!(f)?;
        for (name, count) in &self.hosts {
            writeln!(
                f,
                "{name:>width$}  {:>8} requests  {:>7} connections  {:>9.2} MB",
                count.requests,
                count.connections,
                count.bytes as f64 / 1e6
            )?;
        }
        Ok(())
    }
}
