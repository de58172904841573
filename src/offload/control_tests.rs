//! The control loop against the time: a paused clock in all but name, since time is an argument.

use std::time::Duration;

use super::*;
use crate::{
    load::Thresholds,
    offload::{
        ByHash, Decision, DropSettings, Kind, OffloadSettings, Parts, Reason, ThrottleSettings,
        Turning, decide,
    },
    rewrite,
    servers::{Client, HealthSettings, ServerSettings, hash},
};

const STEP: Duration = Duration::from_millis(250);

pub(super) fn ratio(value: f64) -> Ratio {
    Ratio::new(value).unwrap()
}

/// The standard configuration with these servers.
pub(super) fn compiled_with(servers: Vec<ServerSettings>, now: Instant) -> Arc<Compiled> {
    let offload = OffloadSettings {
        servers,
        ..OffloadSettings::default()
    };
    compiled(Mode::Enforce, &offload, now)
}

fn compiled(mode: Mode, offload: &OffloadSettings, now: Instant) -> Arc<Compiled> {
    let parts = Parts {
        explain_header: false,
        server_timing: false,
        over_tls: false,
        mode,
        hosts: &[],
        trusted_proxies: &[],
        offload,
        rewrite: &rewrite::Settings::default(),
        throttle: &ThrottleSettings::default(),
        drop: DropSettings::default(),
    };
    Arc::new(Compiled::new(parts, now).unwrap())
}

fn server(name: &str) -> ServerSettings {
    ServerSettings {
        name: name.to_owned(),
        url: format!("http://{name}.example"),
        health: HealthSettings::Off,
        capacity: "8Mbit/s".parse().ok(),
        ..ServerSettings::default()
    }
}

struct World {
    control: Control,
    now: Instant,
    in_flight: u64,
    /// In each step.
    let_in: u64,
}

impl World {
    fn new(mode: Mode, share: Share, hold: u64) -> Self {
        let offload = OffloadSettings {
            hold: Duration::from_secs(hold),
            share,
            servers: vec![server("a"), server("b")],
            ..OffloadSettings::default()
        };
        let now = Instant::now();
        let compiled = compiled(mode, &offload, now);
        let capacity = Capacity {
            link: "8Mbit/s".parse().ok(),
            in_flight: Some(100),
        };
        Self {
            in_flight: 0,
            let_in: 0,
            control: Control::new(compiled, ratio(0.05), capacity, None, now),
            now,
        }
    }

    /// The snapshot after `seconds` of this measured load.
    fn after(&mut self, seconds: f64, load: f64) -> Snapshot {
        self.after_of("cpu", seconds, load, 0)
    }

    /// The same of a link that was promised so many bytes a second.
    fn after_with(&mut self, seconds: f64, load: f64, promised: u64) -> Snapshot {
        self.after_of("bandwidth", seconds, load, promised)
    }

    fn after_of(&mut self, name: &str, seconds: f64, load: f64, promised: u64) -> Snapshot {
        let reading = Reading {
            name: name.into(),
            thresholds: Thresholds {
                offload: Some(ratio(0.7)),
                throttle: Some(ratio(0.9)),
                drop: Some(ratio(1.0)),
            },
            raw: Some(ratio(load)),
            load: Some(ratio(load)),
            off: None,
        };
        let mut snapshot = None;
        for _ in 0..((seconds / STEP.as_secs_f64()).round() as usize).max(1) {
            self.now += STEP;
            snapshot = Some(self.control.step(Input {
                readings: std::slice::from_ref(&reading),
                promised: promised / 4,
                unchanged: 0,
                passed: Passed::default(),
                in_flight: self.in_flight,
                let_in: self.let_in,
                now: self.now,
                wall: SystemTime::UNIX_EPOCH,
            }));
        }
        snapshot.unwrap()
    }
}

pub(super) const PAGE: Kind = Kind {
    begins: true,
    may_be_page: true,
    wants_page: true,
    redirect: false,
};
const OBJECT: Kind = Kind {
    begins: false,
    may_be_page: false,
    wants_page: false,
    redirect: false,
};
const CALL: Kind = Kind {
    begins: true,
    may_be_page: false,
    wants_page: false,
    redirect: false,
};

/// What becomes of a thousand visitors' requests of this kind, with or without room at the servers.
fn decisions(snapshot: &Snapshot, kind: Kind, room: bool) -> Vec<Decision> {
    (0..1000u64)
        .map(|visitor| {
            let client = Client {
                hash: hash::mix(visitor),
                address: None,
                identity: None,
            };
            let turning = Turning::now(snapshot, snapshot.link, 0, 0);
            decide(kind, &client, snapshot, turning, &ByHash, || false, &|_| {
                room
            })
            .decision
        })
        .collect()
}

fn count(decisions: &[Decision], wanted: fn(&Decision) -> bool) -> usize {
    decisions.iter().filter(|decision| wanted(decision)).count()
}

fn offloaded(decision: &Decision) -> bool {
    matches!(decision, Decision::Offload(_))
}

#[test]
fn below_the_first_threshold_everyone_is_served_by_the_primary() {
    let snapshot = World::new(Mode::Enforce, Share::Fixed(Ratio::ONE), 0).after(5.0, 0.69);
    assert_eq!(snapshot.level, Level::Normal);
    let decisions = decisions(&snapshot, PAGE, true);
    assert!(
        decisions
            .iter()
            .all(|decision| *decision == Decision::Serve)
    );
}

#[test]
fn above_it_the_share_is_offloaded_to_any_of_the_servers_and_the_rest_is_served() {
    let snapshot = World::new(Mode::Enforce, Share::Fixed(ratio(0.3)), 0).after(1.0, 0.75);
    let decisions = decisions(&snapshot, PAGE, true);
    assert!((250..350).contains(&count(&decisions, offloaded)));
    for server in [0, 1] {
        assert!(decisions.contains(&Decision::Offload(server)), "{server}");
    }
    assert_eq!(
        count(&decisions, |d| *d == Decision::Serve),
        1000 - count(&decisions, offloaded)
    );
}

#[test]
fn a_visitor_meets_the_same_fate_again() {
    let mut world = World::new(Mode::Enforce, Share::Fixed(ratio(0.3)), 0);
    let first = decisions(&world.after(1.0, 0.75), PAGE, true);
    let second = decisions(&world.after(20.0, 0.75), PAGE, true);
    assert_eq!(first, second);
}

#[test]
fn when_no_server_has_room_offloading_stops() {
    let snapshot = World::new(Mode::Enforce, Share::Fixed(Ratio::ONE), 0).after(1.0, 0.75);
    assert_eq!(count(&decisions(&snapshot, PAGE, false), offloaded), 0);
}

#[test]
fn at_throttle_room_is_sought_for_everyone_before_anyone_is_turned_away() {
    let snapshot = World::new(Mode::Enforce, Share::Fixed(ratio(0.1)), 0).after(1.0, 0.95);
    assert_eq!(snapshot.level, Level::Throttle);
    let with_room = decisions(&snapshot, PAGE, true);
    assert!(!with_room.contains(&Decision::Throttle));
    let moved = count(&with_room, offloaded);
    assert!(
        (480..620).contains(&moved),
        "the share, and those refused otherwise: {moved}"
    );
    let full = decisions(&snapshot, PAGE, false);
    let throttled = count(&full, |d| *d == Decision::Throttle);
    assert!(
        (430..570).contains(&throttled),
        "half way from 0.9 to 1.0: {throttled}"
    );
    let calls = decisions(&snapshot, CALL, true);
    let throttled = count(&calls, |d| *d == Decision::Throttle);
    assert!(
        (430..570).contains(&throttled),
        "no server takes a call: {throttled}"
    );
    let objects = decisions(&snapshot, OBJECT, true);
    assert_eq!(
        count(&objects, |d| *d == Decision::Serve),
        1000,
        "belong to a page that was let in"
    );
}

#[test]
fn when_offloading_everyone_does_not_help_those_are_turned_away_too() {
    let mut world = World::new(Mode::Enforce, Share::Fixed(ratio(0.1)), 0);
    assert_eq!(world.after(3.0, 0.95).turned_offloaded, Turned::default());
    let snapshot = world.after(2.0, 0.95);
    assert_eq!(snapshot.turned_offloaded, snapshot.turned);
    let decisions = decisions(&snapshot, PAGE, true);
    let throttled = count(&decisions, |d| *d == Decision::Throttle);
    assert!((430..570).contains(&throttled), "{throttled}");
    assert_eq!(world.after(4.0, 0.5).turned_offloaded, Turned::default());
}

#[test]
fn above_the_third_threshold_some_get_no_answer_and_the_rest_the_503() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let snapshot = world.after(3.0, 1.05);
    assert_eq!(snapshot.level, Level::Drop);
    let decisions = decisions(&snapshot, PAGE, false);
    let dropped = count(&decisions, |d| *d == Decision::Drop);
    assert!((430..570).contains(&dropped), "{dropped}");
    assert_eq!(
        count(&decisions, |d| *d == Decision::Throttle),
        1000 - dropped
    );
}

#[test]
fn a_retry_in_the_next_epoch_has_a_new_chance() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let first = decisions(&world.after(1.0, 0.95), PAGE, false);
    let second = decisions(&world.after(31.0, 0.95), PAGE, false);
    let changed = first.iter().zip(&second).filter(|(a, b)| a != b).count();
    assert!((430..570).contains(&changed), "drawn anew: {changed}");
}

#[test]
fn what_is_promised_counts_although_the_link_reads_full() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    // 1 MB/s of capacity.
    let snapshot = world.after_with(30.0, 0.2, 1_200_000);
    assert_eq!(snapshot.level, Level::Drop);
    let load = snapshot.readings[0].load.unwrap().get();
    assert!((load - 1.2).abs() < 0.1, "{load}");
    assert_eq!(snapshot.readings[0].raw, Some(ratio(0.2)));
}

#[test]
fn a_link_that_others_fill_turns_visitors_away_as_its_thresholds_say() {
    let mut world = World::new(Mode::Enforce, Share::Fixed(Ratio::ZERO), 0);
    let snapshot = world.after_with(20.0, 0.95, 0);
    let throttled = count(&decisions(&snapshot, PAGE, false), |d| {
        *d == Decision::Throttle
    });
    assert!((430..570).contains(&throttled), "{throttled}");
}

#[test]
fn promises_are_counted_between_two_looks() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let snapshot = world.after_with(20.0, 0.5, 800_000);
    assert_eq!(snapshot.turned, Turned::default());
    let link = snapshot.link.unwrap();
    let now = snapshot.at;
    let turned = |pending| {
        Turning::now(&snapshot, Some(link.after(pending, now)), 0, 0)
            .alone
            .throttled
    };
    assert_eq!(turned(0), Ratio::ZERO);
    assert_eq!(turned(700_000), Ratio::ZERO, "a burst");
    assert_eq!(turned(3_000_000), Ratio::ONE);
}

#[test]
fn an_override_holds_for_its_time_whatever_the_load() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    world.after(1.0, 0.1);
    let until = world.now + Duration::from_secs(10);
    for (level, page) in [
        (Level::Normal, Decision::Serve),
        (Level::Throttle, Decision::Throttle),
        (Level::Drop, Decision::Drop),
    ] {
        let now = world.now;
        world.control.hold(Some(Override { level, until }), now);
        let snapshot = world.after(1.0, if level == Level::Normal { 2.0 } else { 0.1 });
        assert_eq!(snapshot.level, level);
        assert!(
            decisions(&snapshot, PAGE, true).iter().all(|d| *d == page),
            "{level}"
        );
    }
    let everything = decisions(&world.after(0.25, 0.1), OBJECT, true);
    assert_eq!(
        count(&everything, |d| *d == Decision::Drop),
        1000,
        "every request"
    );
    let now = world.now;
    world.control.hold(
        Some(Override {
            level: Level::Offload,
            until,
        }),
        now,
    );
    let snapshot = world.after(0.25, 0.1);
    assert_eq!(
        count(&decisions(&snapshot, PAGE, true), offloaded),
        1000,
        "everyone where auto"
    );
    assert_eq!(world.after(10.0, 0.1).level, Level::Normal, "over");
}

#[test]
fn who_was_let_in_stays_in() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let until = world.now + Duration::from_secs(10);
    let now = world.now;
    world.control.hold(
        Some(Override {
            level: Level::Throttle,
            until,
        }),
        now,
    );
    let snapshot = world.after(0.25, 0.1);
    let client = Client {
        hash: 7,
        address: None,
        identity: None,
    };
    let turning = Turning::now(&snapshot, snapshot.link, 0, 0);
    let stays = decide(PAGE, &client, &snapshot, turning, &ByHash, || true, &|_| {
        false
    });
    assert_eq!(stays.decision, Decision::Serve);
    assert_eq!(stays.reason, Reason::Stays);
}

#[test]
fn in_report_mode_the_share_stands_still_since_nothing_is_done() {
    let mut world = World::new(Mode::Report, Share::Auto, 0);
    let begun = world.after(0.5, 0.89).share;
    assert!((begun.get() - (1.0 - 0.7 / 0.89)).abs() < 1e-9, "{begun}");
    assert_eq!(world.after(20.0, 0.89).share, begun);
    let mut enforced = World::new(Mode::Enforce, Share::Auto, 0);
    assert!(enforced.after(20.0, 0.89).share > begun);
}

#[test]
fn report_mode_goes_back_to_normal_when_the_crowd_is_gone() {
    let mut world = World::new(Mode::Report, Share::Auto, 2);
    assert_eq!(world.after(1.0, 0.89).level, Level::Offload);
    assert_eq!(world.after(3.0, 0.1).level, Level::Normal);
}

#[test]
fn the_hold_that_is_left_is_told() {
    let mut world = World::new(Mode::Enforce, Share::Fixed(ratio(0.5)), 30);
    assert_eq!(world.after(1.0, 0.8).hold_left, Duration::from_secs(30));
    assert_eq!(world.after(10.0, 0.1).hold_left, Duration::from_secs(20));
    let over = world.after(20.0, 0.1);
    assert_eq!(
        (over.level, over.hold_left),
        (Level::Normal, Duration::ZERO)
    );
}

#[test]
fn a_level_held_by_hand_promises_no_more_than_a_hold_since_it_can_be_let_go() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 30);
    let (now, level) = (world.now, Level::Offload);
    let until = now + Duration::from_secs(3600);
    world.control.hold(Some(Override { level, until }), now);
    assert_eq!(world.after(1.0, 0.1).hold_left, Duration::from_secs(30));
    let until = world.now + Duration::from_secs(10);
    world
        .control
        .hold(Some(Override { level, until }), world.now);
    assert_eq!(world.after(1.0, 0.1).hold_left, Duration::from_secs(9));
}

mod other_servers {
    use super::*;
    use crate::servers::discovery::{Found, Source};

    fn found(names: &[&str]) -> Vec<Found> {
        names
            .iter()
            .map(|name| Found {
                settings: server(name),
                source: Source::File,
            })
            .collect()
    }

    fn choices(snapshot: &Snapshot) -> Vec<String> {
        (0..1000u64)
            .map(|visitor| {
                let client = Client {
                    hash: hash::mix(visitor),
                    address: None,
                    identity: None,
                };
                let chosen = snapshot.choose.choose(&client, &|_| true).unwrap();
                snapshot.compiled.servers[chosen].name().to_owned()
            })
            .collect()
    }

    #[test]
    fn an_episode_goes_on_and_so_does_what_is_known_of_who_stays() {
        let mut world = World::new(Mode::Enforce, Share::Auto, 30);
        let before = world.after(10.0, 0.9);
        assert!(before.level >= Level::Offload);
        let share = before.share;
        before.compiled.servers[0].assign(300_000, world.now);
        let list = found(&["b", "a", "c"]);
        let offload = OffloadSettings::default();
        let compiled = world.control.compiled().clone();
        let next = compiled.with_servers(&offload, &list, world.now).unwrap();
        assert!(Arc::ptr_eq(&next.servers[1], &before.compiled.servers[0]));
        world.control.replace(Arc::new(next));
        let after = world.after(0.25, 0.9);
        assert!(after.level == before.level && after.share >= share);
        assert!(after.hold_left > Duration::ZERO);
        assert!(after.servers.iter().all(|server| server.usable));
        assert!(after.servers[1].assigned_bytes_per_second > 0.0);
        // The same list again is none.
        let compiled = world.control.compiled().clone();
        assert!(compiled.with_servers(&offload, &list, world.now).is_none());
        // An order of its own moves nobody.
        let order = compiled.with_servers(&offload, &found(&["c", "b", "a"]), world.now);
        world.control.replace(Arc::new(order.unwrap()));
        assert_eq!(choices(&world.after(0.25, 0.9)), choices(&after));
        let none = compiled.with_servers(&offload, &[], world.now).unwrap();
        world.control.replace(Arc::new(none));
        let nobody = world.after(0.25, 0.9);
        assert!(nobody.servers.is_empty());
    }

    #[test]
    fn when_one_goes_the_others_keep_their_visitors_and_a_returning_one_gets_its_own() {
        let mut world = World::new(Mode::Enforce, Share::Auto, 30);
        let offload = OffloadSettings::default();
        let mut list = |names: &[&str]| {
            let compiled = world.control.compiled().clone();
            let next = compiled.with_servers(&offload, &found(names), world.now);
            world.control.replace(Arc::new(next.unwrap()));
            choices(&world.after(0.25, 0.5))
        };
        let all = list(&["a", "b", "c", "d", "e"]);
        let without = list(&["a", "b", "d", "e"]);
        let moved = all
            .iter()
            .zip(&without)
            .filter(|(all, without)| *all != "c" && all != without);
        assert!(
            moved.count() < 60,
            "a few in a hundred, since the list is another"
        );
        assert_eq!(list(&["a", "b", "c", "d", "e"]), all);
    }
}

#[test]
fn while_too_many_are_in_flight_nobody_is_let_in_whatever_their_average_is() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    world.in_flight = 99;
    let snapshot = world.after_of("in_flight", 1.0, 0.3, 0);
    assert_eq!(
        (snapshot.level, snapshot.turned),
        (Level::Normal, Turned::default())
    );
    world.in_flight = 100;
    let snapshot = world.after_of("in_flight", 0.25, 0.3, 0);
    assert_eq!(
        (snapshot.level, snapshot.turned.throttled),
        (Level::Throttle, Ratio::ONE)
    );
    // The next look finds them gone.
    world.in_flight = 0;
    let snapshot = world.after_of("in_flight", 0.25, 0.3, 0);
    let turned = |others| {
        let turning = Turning::now(&snapshot, None, others, 0);
        (
            turning.alone.throttled.get(),
            turning.offloaded.throttled.get(),
        )
    };
    assert_eq!(
        turned(99),
        (0.0, 0.0),
        "one visitor more or less makes no difference"
    );
    assert_eq!(turned(100), (1.0, 0.0));
    assert!(turned(105).0 == 1.0 && (turned(105).1 - 0.5).abs() < 1e-9);
}

#[test]
fn nobody_is_dropped_while_new_visitors_are_let_in() {
    let level_after = |let_in| {
        let mut world = World::new(Mode::Enforce, Share::Auto, 0);
        world.let_in = let_in;
        world.after(6.0, 1.2).level
    };
    assert_eq!(level_after(1), Level::Throttle);
    assert_eq!(level_after(0), Level::Drop);
}

#[test]
fn whom_a_level_held_by_hand_lets_in_was_not_turned_away() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let until = world.now + Duration::from_secs(6);
    let held = Override {
        level: Level::Offload,
        until,
    };
    world.control.hold(Some(held), world.now);
    world.after(5.0, 1.2);
    assert_eq!(
        world.after(1.25, 1.2).level,
        Level::Throttle,
        "not yet `drop`"
    );
}

#[test]
fn where_others_would_be_dropped_those_with_a_server_are_turned_away_at_once() {
    let mut world = World::new(Mode::Enforce, Share::Auto, 0);
    let snapshot = world.after(0.25, 1.05);
    assert_eq!(snapshot.level, Level::Throttle);
    assert!((snapshot.turned_offloaded.throttled.get() - 0.5).abs() < 1e-9);
    assert_eq!(snapshot.turned_offloaded.dropped, Ratio::ZERO);
}
