//! A crowd, the primary and its offload servers in simulation: the real control loop and decisions, links that share
//! what they carry among all who fetch, and visitors who leave when it takes them too long.

use std::time::Duration;

use super::{
    control_tests::{PAGE, compiled_with, ratio},
    *,
};
use crate::{
    load::Thresholds,
    offload::{ByHash, Decision, Turning, decide, promises::Promises},
    servers::{
        Client, HealthSettings, ReportKind, ReportSettings, ServerSettings, hash, on_the_wire,
    },
};

/// How finely links and arrivals are looked at.
const TICK: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(250);
const REPORT: Duration = Duration::from_millis(500);
/// The time constants of the loads that are measured.
const SMOOTHING: f64 = 1.0;
/// 20 Mbit/s, in bytes a second.
const LINK: f64 = 2.5e6;
/// What of it is measured when it is full.
const FULL: f64 = 0.98;
const PAGE_BYTES: u64 = 12_000;
const OBJECT_BYTES: u64 = 530_000;
const REFUSAL_BYTES: u64 = 3_000;
const PATIENCE: f64 = 10.0;
/// More visitors a second never come.
const MOST: f64 = 200.0;

/// What is on its way: of which visitor, and how many bytes are left of it.
struct Transfer {
    visitor: usize,
    left: f64,
}

/// Shares what it can carry equally among all transfers.
#[derive(Default)]
struct SharedLink {
    transfers: Vec<Transfer>,
    sent: f64,
    load: f64,
}

impl SharedLink {
    fn add(&mut self, visitor: usize, bytes: u64) {
        let left = on_the_wire(bytes) as f64;
        self.transfers.push(Transfer { visitor, left });
    }

    /// Carries for the time of a tick; gives the visitors whose transfers are over.
    fn carry(&mut self) -> Vec<usize> {
        let mut budget = LINK * FULL * TICK.as_secs_f64();
        self.transfers.sort_by(|a, b| a.left.total_cmp(&b.left));
        let mut waiting = self.transfers.len();
        for transfer in &mut self.transfers {
            let part = (budget / waiting as f64).min(transfer.left);
            transfer.left -= part;
            (budget, waiting, self.sent) = (budget - part, waiting - 1, self.sent + part);
        }
        let over = self
            .transfers
            .extract_if(.., |transfer| transfer.left <= 0.0);
        over.map(|transfer| transfer.visitor).collect()
    }

    /// The load since the last look, and smoothed.
    fn look(&mut self, over: Duration) -> (f64, f64) {
        let raw = std::mem::take(&mut self.sent) / (LINK * over.as_secs_f64());
        self.load += (raw - self.load) * (1.0 - (-over.as_secs_f64() / SMOOTHING).exp());
        (raw, self.load)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The page is on its way; the objects come from the server, or from the primary.
    Page(Option<usize>),
    Objects(usize),
    Whole(f64),
    Left,
}

struct Visitor {
    came: f64,
    stage: Stage,
}

/// What became of a crowd.
#[derive(Debug, Default)]
struct Outcome {
    offered: usize,
    let_in: usize,
    let_in_since: u64,
    offloaded: usize,
    /// How long it took for each who got everything, in order.
    whole: Vec<f64>,
    /// When the level changed, and to what.
    levels: Vec<(f64, Level)>,
    /// When the first visitor was offloaded.
    first_moved: Option<f64>,
    /// Each look's time, load of the primary and share.
    looks: Vec<(f64, f64, f64)>,
}

impl Outcome {
    fn part_whole(&self) -> f64 {
        self.whole.len() as f64 / self.let_in as f64
    }

    fn p95(&self) -> f64 {
        self.whole[self.whole.len() * 95 / 100]
    }

    fn changes_after(&self, time: f64) -> usize {
        self.levels.iter().filter(|(at, _)| *at > time).count()
    }

    /// When the load was back at the first threshold after it had been above it.
    fn back(&self) -> Option<f64> {
        let above = self.looks.iter().position(|look| look.1 > FIRST)?;
        let back = self.looks[above..]
            .iter()
            .find(|look| look.1 <= FIRST + 0.02);
        back.map(|look| look.0)
    }
}

/// The thresholds of the primary's link.
const FIRST: f64 = 0.80;
const SECOND: f64 = 0.95;
const THIRD: f64 = 0.99;

fn orca(number: usize) -> ReportSettings {
    ReportSettings {
        kind: ReportKind::Orca,
        every: REPORT,
        url: format!("http://{number}.example/load"),
        ..ReportSettings::default()
    }
}

/// Offers so many visitors a second as `rate` says for each time, from as many addresses as a small town has.
fn offer(
    servers: usize,
    reports: bool,
    seconds: f64,
    seed: u64,
    rate: impl Fn(f64) -> f64,
) -> Outcome {
    let settings = (0..servers).map(|number| ServerSettings {
        name: number.to_string(),
        url: format!("http://{number}.example"),
        health: HealthSettings::Off,
        capacity: "20Mbit/s".parse().ok(),
        threshold: ratio(0.96),
        report: if reports {
            orca(number)
        } else {
            ReportSettings::default()
        },
        ..ServerSettings::default()
    });
    let start = Instant::now();
    let compiled = compiled_with(settings.collect(), start);
    let capacity = Capacity {
        link: "20Mbit/s".parse().ok(),
        in_flight: None,
    };
    let mut control = Control::new(compiled.clone(), ratio(0.05), capacity, None, start);
    let promises = Promises::default();
    let mut links: Vec<SharedLink> = (0..=servers).map(|_| SharedLink::default()).collect();
    let mut visitors: Vec<Visitor> = Vec::new();
    let mut outcome = Outcome::default();
    let mut random = seed;
    let mut chance = || {
        random = hash::mix(random.wrapping_add(1));
        (random >> 11) as f64 / (1u64 << 53) as f64
    };
    let (mut raw, mut load) = (0.0, 0.0);
    let mut snapshot: Option<Snapshot> = None;
    let mut next_visitor = 0.0;
    let ticks = ((seconds + PATIENCE) / TICK.as_secs_f64()) as u32;
    for tick in 0..ticks {
        let now = start + TICK * tick;
        let time = (TICK * tick).as_secs_f64();
        let is_time = |every: Duration| tick % (every.as_millis() / TICK.as_millis()) as u32 == 0;
        if is_time(LOOK) {
            (raw, load) = links[0].look(LOOK);
        }
        if reports && is_time(REPORT) {
            for (server, link) in compiled.servers.iter().zip(&mut links[1..]) {
                let (_, load) = link.look(REPORT);
                server.observe_report(Ok(ratio(load)), now);
            }
        }
        let look = |control: &mut Control, outcome: &mut Outcome| {
            let reading = Reading {
                name: "bandwidth".into(),
                thresholds: Thresholds {
                    offload: Some(ratio(FIRST)),
                    throttle: Some(ratio(SECOND)),
                    drop: Some(ratio(THIRD)),
                },
                raw: Some(ratio(raw)),
                load: Some(ratio(load)),
                off: None,
            };
            let next = control.step(Input {
                readings: &[reading],
                promised: promises.take(),
                unchanged: 0,
                passed: Passed::default(),
                in_flight: 0,
                let_in: std::mem::take(&mut outcome.let_in_since),
                now,
                wall: SystemTime::UNIX_EPOCH,
            });
            let is_normal = next.level == Level::Normal;
            promises.set_alarm(
                next.link
                    .filter(|_| is_normal)
                    .and_then(|link| link.until_offload()),
            );
            if outcome.levels.last().map_or(Level::Normal, |last| last.1) != next.level {
                outcome.levels.push((time, next.level));
            }
            let seen = next.readings[0].load.map_or(0.0, Ratio::get);
            outcome.looks.push((time, seen, next.share.get()));
            next
        };
        if is_time(LOOK) {
            snapshot = Some(look(&mut control, &mut outcome));
        }
        while next_visitor <= time && time < seconds {
            // By thinning (Lewis and Shedler 1979): so it does not matter how the rate changes.
            next_visitor += -(1.0 - chance()).ln() / MOST;
            if chance() >= rate(time) / MOST {
                continue;
            }
            let known = snapshot.as_ref().unwrap();
            outcome.offered += 1;
            let address = (chance() * 200.0) as u64;
            let client = Client {
                hash: hash::mix(address),
                address: None,
                identity: None,
            };
            let link = known.link.map(|link| link.after(promises.pending(), now));
            let turning = Turning::now(known, link, 0, 0);
            let has_room = |server: usize| {
                compiled.servers[server].has_room(&known.servers[server], OBJECT_BYTES, now)
            };
            let decision =
                decide(PAGE, &client, known, turning, &ByHash, || false, &has_room).decision;
            let visitor = visitors.len();
            let (bytes, stage) = match decision {
                Decision::Serve => {
                    outcome.let_in_since += 1;
                    (PAGE_BYTES + OBJECT_BYTES, Stage::Page(None))
                }
                Decision::Offload(server) => {
                    compiled.servers[server].assign(OBJECT_BYTES, now);
                    outcome.offloaded += 1;
                    outcome.first_moved.get_or_insert(time);
                    (PAGE_BYTES, Stage::Page(Some(server)))
                }
                _ => (REFUSAL_BYTES, Stage::Left),
            };
            outcome.let_in += usize::from(stage != Stage::Left);
            links[0].add(
                visitor,
                if stage == Stage::Left {
                    REFUSAL_BYTES
                } else {
                    PAGE_BYTES
                },
            );
            visitors.push(Visitor { came: time, stage });
            if promises.add(on_the_wire(bytes)) {
                snapshot = Some(look(&mut control, &mut outcome));
            }
        }
        for link in 0..links.len() {
            for visitor in links[link].carry() {
                let next = match visitors[visitor].stage {
                    Stage::Page(server) => Stage::Objects(server.map_or(0, |server| server + 1)),
                    Stage::Objects(_) => Stage::Whole(time - visitors[visitor].came),
                    stage => stage,
                };
                if let Stage::Objects(link) = next {
                    links[link].add(visitor, OBJECT_BYTES);
                }
                visitors[visitor].stage = next;
            }
            let visitors = &mut visitors;
            links[link].transfers.retain(|transfer| {
                let visitor = &mut visitors[transfer.visitor];
                let stays = time - visitor.came < PATIENCE;
                if !stays {
                    visitor.stage = Stage::Left;
                }
                stays
            });
        }
    }
    outcome.whole = visitors
        .iter()
        .filter_map(|visitor| match visitor.stage {
            Stage::Whole(took) => Some(took),
            _ => None,
        })
        .collect();
    outcome.whole.sort_by(f64::total_cmp);
    outcome
}

/// Whole pages a second that the links of so many servers and the primary can carry.
fn ideal(servers: usize) -> f64 {
    (servers + 1) as f64 * LINK * FULL / on_the_wire(PAGE_BYTES + OBJECT_BYTES) as f64
}

/// A visitor a second, and the crowd from the tenth second on.
fn step(crowd: f64) -> impl Fn(f64) -> f64 {
    move |time| if time < 10.0 { 1.0 } else { crowd }
}

/// A crowd that stays: three times what the primary carries, what all links together carry, twice as much, ten times.
#[test]
fn nearly_as_much_gets_through_as_the_links_carry_however_large_the_crowd_is() {
    for (servers, crowd) in [(1, 17.0), (2, 26.0), (4, 40.0), (4, 200.0), (8, 77.0)] {
        for (reports, seed) in [(false, 1), (false, 2), (true, 3), (true, 4)] {
            let it = offer(servers, reports, 70.0, seed, step(crowd));
            let case =
                format!("{servers} servers, reports: {reports}, seed {seed}, {crowd} a second");
            let of_ideal = it.whole.len() as f64 / 60.0 / ideal(servers);
            assert!(of_ideal > 0.93, "{case}: {of_ideal}");
            assert!(it.part_whole() >= 0.995, "{case}: {}", it.part_whole());
            // Ten times as many cost a quarter of the primary's link to be told so.
            let most = if crowd < 100.0 { 5.0 } else { 7.0 };
            assert!(it.p95() < most, "{case}: {}", it.p95());
            assert_eq!(it.changes_after(12.0), 0, "{case}: {:?}", it.levels);
            assert!(
                it.levels.iter().all(|(_, level)| *level < Level::Drop),
                "{case}"
            );
        }
    }
}

#[test]
fn whom_all_links_together_can_carry_is_let_in_and_gets_everything() {
    for crowd in [8.0, 13.8, 16.0] {
        for (reports, seed) in [(false, 1), (false, 2), (true, 3), (true, 4)] {
            let it = offer(4, reports, 70.0, seed, step(crowd));
            let case = format!(
                "reports: {reports}, seed {seed}, {crowd} a second: {:?}",
                it.levels
            );
            assert!(
                it.let_in as f64 >= 0.99 * it.offered as f64,
                "{case}: {}",
                it.let_in
            );
            assert_eq!(it.whole.len(), it.let_in, "{case}");
            assert!(it.p95() < 2.5, "{case}: {}", it.p95());
        }
    }
}

#[test]
fn whom_the_primary_can_carry_is_its_own_but_for_the_odd_burst() {
    for seed in 1..5 {
        let it = offer(4, false, 70.0, seed, step(3.0));
        assert_eq!(it.whole.len(), it.offered, "{seed}");
        assert!(it.offloaded * 5 < it.offered, "{seed}: {}", it.offloaded);
    }
}

#[test]
fn a_crowd_that_comes_all_at_once_is_moved_at_once_and_the_load_comes_back() {
    for seed in 1..7 {
        let it = offer(4, false, 70.0, seed, step(13.8));
        let (moved, back) = (it.first_moved.unwrap() - 10.0, it.back().unwrap() - 10.0);
        // When the crowd's first visitors come is the seed's.
        assert!(moved < 1.2, "{seed}: {moved}");
        assert!(back < 7.0, "{seed}: {back}");
    }
}

#[test]
fn waves_and_bursts_leave_nobody_waiting_who_was_let_in() {
    type Shape = fn(f64) -> f64;
    let shapes: [(&str, Shape); 4] = [
        ("ramp", |time| time),
        ("sine", |time| {
            20.0 + 18.0 * (time * std::f64::consts::TAU / 20.0).sin()
        }),
        (
            "on and off",
            |time| {
                if time % 20.0 < 10.0 { 2.0 } else { 40.0 }
            },
        ),
        ("bursts", |time| if time % 6.0 < 0.5 { 80.0 } else { 4.0 }),
    ];
    for (name, shape) in shapes {
        for (reports, seed) in [(false, 1), (true, 2)] {
            let it = offer(4, reports, 80.0, seed, shape);
            let case = format!("{name}, reports: {reports}, {:?}", it.levels);
            let can = (0..80).map(|second| shape(f64::from(second)).min(ideal(4)));
            let of_ideal = it.whole.len() as f64 / can.sum::<f64>();
            assert!(it.part_whole() > 0.99, "{case}: {}", it.part_whole());
            assert!(of_ideal > 0.85, "{case}: {of_ideal}");
            assert!(it.changes_after(20.0) <= 4, "{case}");
        }
    }
}
