use super::*;
use crate::servers::{on_the_wire, report::ReportSettings, settings::HealthProbe};

fn server(change: impl FnOnce(&mut ServerSettings)) -> (Server, Instant) {
    let mut settings = ServerSettings {
        name: "eu".to_owned(),
        url: "http://eu.example".to_owned(),
        health: HealthSettings::Off,
        ..ServerSettings::default()
    };
    change(&mut settings);
    let now = Instant::now();
    let url = Url::parse(&settings.url).unwrap();
    (Server::new(settings, url, now), now)
}

fn orca() -> ReportSettings {
    ReportSettings {
        kind: ReportKind::Orca,
        url: "http://eu.example/load".to_owned(),
        ..ReportSettings::default()
    }
}

/// At a time by the calendar that does not matter.
fn seen(server: &Server, now: Instant) -> ServerState {
    server.state(now, SystemTime::UNIX_EPOCH)
}

fn load(value: f64) -> Result<Ratio, String> {
    Ok(Ratio::new(value).unwrap())
}

#[test]
fn is_not_usable_until_probed() {
    let (server, now) = server(|s| s.health = HealthSettings::Probe(HealthProbe::default()));
    let state = seen(&server, now);
    assert_eq!(state.reason.as_deref(), Some("not yet probed"));
    server.observe_health(Answer::Good);
    assert!(seen(&server, now).usable);
    server.observe_health(Answer::Busy);
    assert!(seen(&server, now).reason.unwrap().starts_with("busy"));
}

#[test]
fn takes_no_work_from_its_threshold_on_and_takes_it_again_below_resume() {
    let (server, now) = server(|s| s.report = orca());
    assert_eq!(seen(&server, now).reason.as_deref(), Some("not yet probed"));
    let after = |value: f64| {
        server.observe_report(load(value), now);
        seen(&server, now).usable
    };
    assert!(after(0.76), "it was never at its threshold");
    assert!(after(0.70));
    assert!(after(0.79));
    assert!(!after(0.80));
    assert!(!after(0.76), "above resume");
    assert!(after(0.74));
}

#[test]
fn a_server_over_its_own_threshold_gets_no_work_whatever_ours_is() {
    let (server, now) = server(|s| s.report = orca());
    let says = |is_over| {
        let load = Ratio::new(0.5).unwrap();
        server.observe_orca(Ok(OrcaReport { load, is_over }), now);
        seen(&server, now)
    };
    assert!(says(false).usable);
    let state = says(true);
    assert_eq!(
        (state.usable, state.reason.as_deref()),
        (
            false,
            Some("its report says that it is over a threshold of its own")
        )
    );
    let state = says(false);
    assert_eq!((state.usable, state.ramp), (true, 1.0), "it was not away");
}

#[test]
fn half_of_a_page_has_to_fit() {
    let (server, now) = server(|s| s.capacity = "8Mbit/s".parse().ok());
    let state = seen(&server, now);
    assert!(
        server.has_room(&state, 100_000_000, now),
        "one who is idle takes any"
    );
    // 1 MB/s capacity, 2 s window: reads as 0.7 of 0.8.
    server.assign(1_330_000, now);
    assert!(server.has_room(&state, 300_000, now));
    assert!(!server.has_room(&state, 450_000, now));
}

#[test]
fn what_is_modelled_takes_room_and_costs_nothing() {
    let (server, now) = server(|s| {
        s.capacity = "8Mbit/s".parse().ok();
        s.report = orca();
    });
    server.model(800_000, now);
    server.model(800_000, now);
    server.observe_report(load(0.0), now);
    let state = seen(&server, now);
    assert!(!state.usable && !server.has_room(&state, 0, now));
    assert_eq!(state.correction, 0.0, "no report could show it");
    assert_eq!(server.assigned_bytes(), 0);
}

#[test]
fn a_report_that_is_silent_goes_stale() {
    let (server, now) = server(|s| s.report = orca());
    server.observe_report(load(0.1), now);
    assert!(seen(&server, now).usable);
    server.observe_report(Err("connection refused".to_owned()), now);
    assert!(
        seen(&server, now + Duration::from_secs(3)).usable,
        "still fresh"
    );
    let state = seen(&server, now + Duration::from_secs(5));
    assert_eq!(
        state.reason.as_deref(),
        Some("report stale: connection refused")
    );
    assert!(!state.usable);
}

#[test]
fn what_is_assigned_counts_at_once() {
    let (server, now) = server(|s| s.capacity = "8Mbit/s".parse().ok());
    let bare = seen(&server, now);
    let others = ServerState {
        correction: 0.5,
        ..bare.clone()
    };
    assert!(server.has_room(&bare, 0, now));
    // 1 MB/s capacity, 2 s window: 1.7 MB read as 0.85. On the wire there is a little more than objects.
    server.assign(1_610_000, now);
    assert_eq!(on_the_wire(1_610_000), 1_699_444);
    assert!(!server.has_room(&bare, 0, now));
    let state = seen(&server, now);
    assert!(!state.usable && (state.load.unwrap() - 0.85).abs() < 0.001);
    assert!(
        state.takes,
        "by one promise: until the next look it may have room again"
    );
    server.assign(100_000, now);
    assert!(!seen(&server, now).takes, "by more than that");
    assert!(server.has_room(&bare, 0, now + Duration::from_secs(1)));
    assert!(
        !server.has_room(&others, 0, now + Duration::from_secs(1)),
        "others' work"
    );
}

#[test]
fn reports_correct_the_assigned_rate_slowly_and_expire() {
    let (server, now) = server(|s| {
        s.capacity = "8Mbit/s".parse().ok();
        s.report = orca();
    });
    assert!(seen(&server, now).usable, "the assigned rate is enough");
    for second in 1..=60 {
        server.observe_report(load(0.5), now + Duration::from_secs(second));
    }
    let state = seen(&server, now + Duration::from_secs(60));
    assert!(
        (state.load.unwrap() - 0.5).abs() < 0.01,
        "others' work is seen: {state:?}"
    );
    let stale = seen(&server, now + Duration::from_secs(90));
    assert_eq!(stale.load, Some(0.0));
    assert!(stale.usable);
}

#[test]
fn an_agents_word_holds_until_it_says_otherwise() {
    let (server, now) = server(|s| s.report.kind = ReportKind::Agent);
    let mut at = now;
    let mut reason = |line: &str| {
        at += Duration::from_secs(1);
        server.observe_agent(Agent::parse(line.as_bytes()).unwrap(), at);
        // Long after it began, so that coming back is over.
        seen(&server, at);
        let later = seen(&server, at + Duration::from_secs(3));
        (later.usable, later.reason.unwrap_or_default())
    };
    assert!(reason("up ready 75%").0);
    assert_eq!(reason("drain"), (false, "its agent says \"drain\"".into()));
    assert_eq!(reason("up 80%").1, "its agent says \"drain\"");
    assert!(reason("ready").0);
    assert_eq!(
        reason("down #disk full").1,
        "its agent says that it is down: disk full"
    );
    assert!(!reason("ready 90%").0, "the keeper's word is not its own");
    assert!(reason("up").0);
    assert!(reason("10%").1.starts_with("load 0.90"));
    assert!(reason("up").1.starts_with("load 0.90"), "a weight stays");
    let silent = seen(&server, at + Duration::from_secs(10));
    assert_eq!(silent.reason.as_deref(), Some("report stale"));
}

#[test]
fn its_room_grows_when_it_comes_back() {
    let (server, now) = server(|s| {
        s.health = HealthSettings::Probe(HealthProbe::default());
        s.capacity = "8Mbit/s".parse().ok();
    });
    let second = |seconds| now + Duration::from_secs_f64(seconds);
    server.observe_health(Answer::Good);
    assert_eq!(seen(&server, now).ramp, 1.0, "it was never away");
    for _ in 0..3 {
        server.observe_health(Answer::Bad("refused".to_owned()));
    }
    let away = seen(&server, now);
    assert_eq!(away.reason.as_deref(), Some("not healthy: refused"));
    for _ in 0..2 {
        server.observe_health(Answer::Good);
    }
    let back = seen(&server, second(1.0));
    assert!(back.usable && back.ramp == 0.1, "{back:?}");
    assert_eq!(
        back.reason.as_deref(),
        Some("it came back: gets 10 % of its room")
    );
    // 0.1 of a load: below its threshold, but not below its part of it.
    server.assign(200_000, second(1.0));
    assert!(!server.has_room(&back, 0, second(1.0)));
    let half = seen(&server, second(6.0));
    assert_eq!(half.ramp, 0.5);
    assert!(server.has_room(&half, 0, second(6.0)));
    let whole = seen(&server, second(11.0));
    assert_eq!((whole.ramp, whole.reason), (1.0, None));
}

#[test]
fn a_server_that_was_only_full_or_busy_comes_back_at_once() {
    let (server, now) = server(|s| {
        s.health = HealthSettings::Probe(HealthProbe::default());
        s.report = orca();
    });
    server.observe_health(Answer::Good);
    server.observe_report(load(0.9), now);
    assert!(!seen(&server, now).usable);
    server.observe_report(load(0.1), now);
    server.observe_health(Answer::Busy);
    assert!(!seen(&server, now).usable);
    server.observe_health(Answer::Good);
    assert_eq!(seen(&server, now).ramp, 1.0);
}

#[test]
fn who_comes_back_busy_but_below_its_threshold_gets_work() {
    let (server, now) = server(|s| {
        s.health = HealthSettings::Probe(HealthProbe::default());
        s.report = orca();
        s.slow_start = Duration::ZERO;
    });
    server.observe_health(Answer::Good);
    server.observe_report(load(0.77), now);
    assert!(seen(&server, now).usable);
    for _ in 0..3 {
        server.observe_health(Answer::Bad("refused".to_owned()));
    }
    assert!(!seen(&server, now).usable);
    for _ in 0..2 {
        server.observe_health(Answer::Good);
    }
    assert!(seen(&server, now).usable, "it was ill, not full");
}

#[test]
fn no_slow_start_is_none() {
    let (server, now) = server(|s| {
        s.health = HealthSettings::Probe(HealthProbe::default());
        s.slow_start = Duration::ZERO;
    });
    server.observe_health(Answer::Bad("refused".to_owned()));
    seen(&server, now);
    for _ in 0..2 {
        server.observe_health(Answer::Good);
    }
    assert_eq!(seen(&server, now).ramp, 1.0);
}

#[test]
fn what_was_fades_slowly() {
    let (server, now) = server(|s| s.report = orca());
    let mut at = now;
    let mut after = |value: f64, seconds: u32| {
        let mut previous = 0.0;
        for _ in 0..seconds {
            at += Duration::from_secs(1);
            server.observe_report(load(value), at);
            previous = seen(&server, at).previous.unwrap();
        }
        previous
    };
    assert_eq!(after(0.2, 5), 0.2);
    let spike = after(0.7, 1);
    assert!((0.35..0.45).contains(&spike), "{spike}");
    let lasting = after(0.7, 30);
    assert!((0.69..0.71).contains(&lasting), "{lasting}");
}

#[test]
fn over_its_budget_it_gets_no_work_until_the_next_day() {
    let (server, now) = server(|s| {
        s.price = crate::units::Price::new(0.5).unwrap();
        s.budget = Some(crate::servers::BudgetSettings {
            amount: 2.0,
            per: crate::servers::Period::Day,
        });
    });
    let day = |number: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(number * 86_400 + 3600);
    let state = |number| server.state(now, day(number));
    assert!(state(1).usable);
    server.assign(3_900_000_000, now);
    assert!(state(1).usable);
    server.assign(200_000_000, now);
    let over = state(1);
    assert_eq!(
        over.reason.as_deref(),
        Some("budget spent: 2.05 of 2 for the day")
    );
    assert_eq!(over.spent, Some(2.05));
    assert!(!over.usable);
    assert!(state(2).usable, "a new day");
    assert_eq!(state(2).spent, Some(0.0));
}

#[test]
fn who_was_never_heard_of_does_not_come_back_but_begins() {
    let (server, now) = server(|s| s.report = orca());
    let refused = || Err("connection refused".to_owned());
    server.observe_report(refused(), now);
    let state = seen(&server, now);
    assert_eq!(
        state.reason.as_deref(),
        Some("report stale: connection refused")
    );
    server.observe_report(load(0.1), now);
    assert_eq!(seen(&server, now).ramp, 1.0);
    // Then it is silent, and is heard of again.
    let later = now + Duration::from_secs(10);
    server.observe_report(refused(), later);
    assert!(!seen(&server, later).usable);
    server.observe_report(load(0.1), later);
    assert_eq!(seen(&server, later).ramp, FIRST_STEP);
}

#[test]
fn under_new_settings_what_is_known_stays() {
    let (server, now) = server(|s| {
        s.health = HealthSettings::Probe(HealthProbe::default());
        s.report = orca();
        s.capacity = "8Mbit/s".parse().ok();
    });
    server.observe_health(Answer::Bad("refused".to_owned()));
    seen(&server, now);
    for _ in 0..2 {
        server.observe_health(Answer::Good);
    }
    server.observe_report(load(0.3), now);
    server.assign(500_000, now);
    server.page_done(3, true);
    seen(&server, now);
    let mut settings = server.settings().clone();
    settings.price = crate::units::Price::new(0.5).unwrap();
    let renewed = server.renewed(settings.clone(), server.url().clone());
    let later = now + Duration::from_secs(1);
    assert_eq!(seen(&renewed, later), seen(&server, later));
    assert_eq!(seen(&renewed, later).ramp, 0.1, "the slow start goes on");
    assert_eq!(renewed.assigned_bytes(), 500_000);
    assert_eq!((renewed.links(), renewed.pages()), (3, [0, 1]));
    // But what another source said of its load says nothing any more.
    settings.report.url = "http://eu.example/other".to_owned();
    let other = server.renewed(settings, server.url().clone());
    assert_eq!(seen(&other, later).reported, None);
    assert_eq!(seen(&other, later).health, "well");
}

#[test]
fn a_report_of_less_than_was_promised_changes_little_at_first() {
    let (server, mut now) = server(|s| {
        s.capacity = "8Mbit/s".parse().ok();
        s.report = orca();
    });
    let mut after = |reported: f64| {
        for _ in 0..4 {
            now += Duration::from_millis(500);
            server.assign(350_000, now);
            server.observe_report(load(reported), now);
        }
        seen(&server, now).correction
    };
    // Pages are on their way, and nothing is fetched yet.
    let late = after(0.0);
    assert!((-0.1..0.0).contains(&late), "{late}");
    let others = after(1.5);
    assert!(others > 0.15, "others' work counts sooner: {others}");
    // Then it is gone, and so is what was learnt of it, but hardly more.
    assert!(after(0.0) > -0.05);
}
