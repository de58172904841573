//! What a name server says, and what is made of it.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::time::Instant;

/// So many records of an answer count: as many as fit into a table of choices that is still even.
pub const MOST_RECORDS: usize = 256;

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Those with the lowest are taken first; others when none of those has room.
    pub priority: u16,
    /// The part of the visitors that it gets, beside others of its priority.
    pub weight: u16,
    /// The target, without the dot at its end; empty: there is decidedly no such server.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These records.
    Records(Vec<Record>),
    /// No record.
    Empty,
    /// None came, or one that says that something failed.
    Failed(String),
}

/// The records that hold.
#[derive(Debug)]
pub struct Records {
    keep: Duration,
    known: BTreeMap<(String, u16), Known>,
    error: Option<String>,
    /// Since when the answers are of no use.
    silent: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    priority: u16,
    weight: u16,
    /// What the last answer said instead.
    other: Option<(u16, u16)>,
    /// Since when the answers have left it out.
    missing: Option<Instant>,
}

// === impl Records ===

impl Records {
    /// None yet. Those that the answers leave out are kept for `keep`.
    #[must_use]
    pub const fn new(keep: Duration) -> Self {
        Self {
            keep,
            known: BTreeMap::new(),
            error: None,
            silent: None,
        }
    }

    /// Takes in an answer; true when the records that hold are others now.
    pub fn observe(&mut self, answer: Answer, now: Instant) -> bool {
        let mut records = match answer {
            Answer::Records(records) => records,
            Answer::Empty => {
                self.silent.get_or_insert(now);
                self.fail(format_args!("the answer names no server: {}", self.kept()));
                return false;
            }
            Answer::Failed(reason) => {
                self.silent.get_or_insert(now);
                self.fail(format_args!("{reason}: {}", self.kept()));
                return false;
            }
        };
        if let Some(since) = self.silent.take() {
            // Nobody was left out in that time.
            let silence = now.saturating_duration_since(since);
            for missing in self
                .known
                .values_mut()
                .filter_map(|known| known.missing.as_mut())
            {
                *missing += silence;
            }
        }
        // "." alone: decidedly none.
        records.retain(|record| !record.host.is_empty() && record.port > 0);
        records
            .iter_mut()
            .for_each(|record| record.host.make_ascii_lowercase());
        records.sort_by(|a, b| (a.priority, &a.host, a.port).cmp(&(b.priority, &b.host, b.port)));
        // Of one place the record that is preferred.
        let mut named = BTreeMap::new();
        let found = records.len();
        for Record {
            priority,
            weight,
            host,
            port,
        } in records
        {
            if named.len() == MOST_RECORDS {
                break;
            }
            named.entry((host, port)).or_insert((priority, weight));
        }
        if found > MOST_RECORDS {
            self.fail(format_args!(
                "the answer names {found} servers, of which the first {MOST_RECORDS} count, by priority and name"
            ));
        } else if let Some(error) = self.error.take() {
            tracing::info!(error, "the name server's answers are in order again");
        }
        self.take(named, now)
    }

    fn take(&mut self, mut named: BTreeMap<(String, u16), (u16, u16)>, now: Instant) -> bool {
        let before = self.known.len();
        let keep = self.keep;
        let mut changed = false;
        self.known.retain(|place, known| {
            let Some(says) = named.remove(place) else {
                let missing = *known.missing.get_or_insert(now);
                return now.saturating_duration_since(missing) < keep;
            };
            known.missing = None;
            // What changes from one answer to the next changes nothing.
            if says == (known.priority, known.weight) {
                known.other = None;
            } else if known.other == Some(says) {
                (known.priority, known.weight) = says;
                known.other = None;
                changed = true;
            } else {
                known.other = Some(says);
            }
            true
        });
        changed |= self.known.len() != before;
        for (place, (priority, weight)) in named {
            // Those that are kept count, too.
            if self.known.len() >= 2 * MOST_RECORDS {
                break;
            }
            changed = true;
            let known = Known {
                priority,
                weight,
                other: None,
                missing: None,
            };
            self.known.insert(place, known);
        }
        changed
    }

    fn kept(&self) -> String {
        match self.known.len() {
            0 => "there is none yet".to_owned(),
            known => format!("the {known} that are known stay"),
        }
    }

    fn fail(&mut self, reason: fmt::Arguments<'_>) {
        let reason = reason.to_string();
        if self.error.as_ref() != Some(&reason) {
            tracing::warn!(%reason, "`offload.discovery.srv`");
        }
        self.error = Some(reason);
    }

    /// What is wrong with the last answer.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The records that hold, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Record> {
        self.known.iter().map(|((host, port), known)| Record {
            priority: known.priority,
            weight: known.weight,
            host: host.clone(),
            port: *port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: &str, priority: u16, weight: u16) -> Record {
        Record {
            priority,
            weight,
            host: host.to_owned(),
            port: 80,
        }
    }

    fn answer(hosts: &[&str]) -> Answer {
        Answer::Records(hosts.iter().map(|host| record(host, 0, 0)).collect())
    }

    fn known(records: &Records) -> Vec<String> {
        records.iter().map(|record| record.host).collect()
    }

    struct World {
        records: Records,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                records: Records::new(Duration::from_secs(60)),
                now: Instant::now(),
            }
        }

        fn after(&mut self, seconds: u64, answer: Answer) -> bool {
            self.now += Duration::from_secs(seconds);
            self.records.observe(answer, self.now)
        }
    }

    #[test]
    fn who_is_named_comes_at_once_and_who_is_left_out_goes_later() {
        let mut world = World::new();
        assert!(world.after(0, answer(&["a", "B"])));
        assert_eq!(known(&world.records), ["a", "b"]);
        assert!(!world.after(10, answer(&["b", "a"])));
        assert!(!world.after(10, answer(&["b"])));
        assert!(!world.after(59, answer(&["b"])));
        assert!(world.after(1, answer(&["b"])));
        assert_eq!(known(&world.records), ["b"]);
    }

    #[test]
    fn answers_that_come_and_go_move_nobody() {
        let mut world = World::new();
        world.after(0, answer(&["a", "b", "c"]));
        for round in 0..100 {
            let named: &[&str] = [&["a", "b"][..], &["b", "c"], &["c"]][round % 3];
            assert!(!world.after(15, answer(named)));
        }
        for round in 0..100 {
            let weight = [3, 4][round % 2];
            let records = ["a", "b", "c"].map(|host| record(host, 0, weight));
            assert!(!world.after(15, Answer::Records(records.into())));
        }
        // What stays is believed.
        let other = || Answer::Records(["a", "b", "c"].map(|host| record(host, 1, 9)).into());
        assert!(!world.after(15, other()));
        assert!(world.after(15, other()));
        assert_eq!(world.records.iter().next(), Some(record("a", 1, 9)));
    }

    #[test]
    fn an_empty_answer_and_none_change_nothing_and_are_told() {
        let mut world = World::new();
        assert!(!world.after(0, Answer::Empty));
        assert!(world.records.error().unwrap().contains("there is none yet"));
        world.after(1, answer(&["a"]));
        assert_eq!(world.records.error(), None);
        for _ in 0..100 {
            assert!(!world.after(60, Answer::Empty));
            assert!(!world.after(60, Answer::Failed("timed out".to_owned())));
        }
        assert_eq!(
            world.records.error(),
            Some("timed out: the 1 that are known stay")
        );
    }

    #[test]
    fn the_time_without_answers_is_no_time_of_being_left_out() {
        let mut world = World::new();
        world.after(0, answer(&["a", "b"]));
        world.after(10, answer(&["b"]));
        for _ in 0..10 {
            world.after(10, Answer::Failed("timed out".to_owned()));
            world.after(10, Answer::Empty);
        }
        assert!(!world.after(10, answer(&["b"])));
        assert_eq!(known(&world.records), ["a", "b"]);
        // What was before the silence counts: ten seconds until the first answer of no use.
        assert!(!world.after(49, answer(&["b"])));
        assert!(world.after(1, answer(&["b"])));
        assert_eq!(known(&world.records), ["b"]);
    }

    #[test]
    fn a_dot_is_decidedly_no_server() {
        let mut world = World::new();
        world.after(0, answer(&["a"]));
        assert!(!world.after(10, answer(&[""])));
        assert!(world.after(60, answer(&[""])));
        assert!(known(&world.records).is_empty());
    }

    #[test]
    fn of_ten_thousand_records_the_first_count() {
        let mut world = World::new();
        let many: Vec<_> = (0..10_000_u16)
            .map(|number| record(&format!("s{number:05}"), number / 100, 1))
            .rev()
            .collect();
        assert!(world.after(0, Answer::Records(many.clone())));
        let records: Vec<_> = world.records.iter().collect();
        assert_eq!(records.len(), MOST_RECORDS);
        assert!(records.iter().all(|record| record.priority <= 2));
        let error = world.records.error().unwrap();
        assert!(error.contains("names 10000 servers"), "{error}");
        assert!(!world.after(10, Answer::Records(many)), "the same ones");
        assert!(world.after(10, answer(&["a"])));
        assert_eq!(world.records.error(), None);
    }

    proptest::proptest! {
        #[test]
        fn whoever_is_named_is_known_and_nobody_goes_early(
            rounds in proptest::collection::vec(
                (0..40_u64, proptest::option::of(proptest::collection::vec(0..6_usize, 0..6))), 1..60),
        ) {
            let mut world = World::new();
            let mut named_at: BTreeMap<String, Instant> = BTreeMap::new();
            for (seconds, named) in rounds {
                let before = known(&world.records);
                let Some(named) = named else {
                    let changed = world.after(seconds, Answer::Empty);
                    proptest::prop_assert!(!changed);
                    continue;
                };
                let hosts: Vec<_> = named.iter().map(|number| format!("s{number}")).collect();
                let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
                let changed = world.after(seconds, answer(&hosts));
                let after = known(&world.records);
                proptest::prop_assert_eq!(changed, before != after);
                for host in &hosts {
                    named_at.insert((*host).to_owned(), world.now);
                    proptest::prop_assert!(after.iter().any(|known| known == host));
                }
                for gone in before.iter().filter(|host| !after.contains(host)) {
                    proptest::prop_assert!(world.now - named_at[gone] >= Duration::from_secs(60));
                }
            }
        }
    }
}
