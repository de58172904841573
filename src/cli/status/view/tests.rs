use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::*;
use crate::cli::status::{paint, seen::Look};

/// 10:02:11 in UTC.
const NOW: f64 = 1_764_324_131.0;

fn status() -> Value {
    json!({
        "version": "1.2.3", "time": NOW, "uptime": 7980.0, "lifecycle": "serving", "mode": "enforce",
        "level": "throttle", "override": 43.0, "share": 0.42, "throttled": 0.2, "dropped": 0.0,
        "hold_left": 12.0, "assigned": 1.2e6, "connections": 123, "in_flight": 45, "bytes_sent": 4.2e9,
        "signals": [
            { "name": "bandwidth", "load": 0.93, "offload": 0.7, "throttle": 0.9, "drop": 0.98 },
            { "name": "in_flight", "load": null, "off": "no capacity is given" },
        ],
        "servers": [
            { "name": "eu", "load": 0.5, "threshold": 0.8, "usable": true, "health": "well", "price": 0.02,
              "assigned": 1.2e6, "cost": 3.2, "spent": 3.2, "budget": { "amount": 5.0, "per": "day" },
              "pages_spliced": 1200, "pages_scanned": 3 },
            { "name": "us", "load": 0.91, "threshold": 0.8, "usable": false, "health": "busy",
              "reason": "busy: its load 0.91 is not below 0.80" },
        ],
        "requests": { "served": 10, "offloaded": 5, "redirected": 0, "throttled": 2, "dropped": 0, "bypassed": 0 },
    })
}

fn history() -> Value {
    let times: Vec<f64> = (0..300)
        .map(|second| NOW - 300.0 + f64::from(second))
        .collect();
    let ramp: Vec<f64> = (0..300).map(|second| f64::from(second) / 300.0).collect();
    let levels: Vec<u8> = ramp
        .iter()
        .map(|load| u8::from(*load > 0.7) + u8::from(*load > 0.9))
        .collect();
    json!({
        "step": 1.0, "time": times, "level": levels, "share": ramp, "signals": { "bandwidth": ramp },
        "requests": { "served": vec![12.0; 300], "throttled": vec![1.5; 300] },
    })
}

fn decisions() -> Value {
    json!({ "decisions": [
        { "time": NOW - 60.0, "kind": "level", "text": "normal → offload: bandwidth 0.71 ≥ 0.70" },
        { "time": NOW - 1.0, "kind": "level", "text": "offload → throttle: bandwidth 0.93 ≥ 0.90" },
    ] })
}

fn seen() -> Seen {
    seen_of(status())
}

fn seen_of(status: Value) -> Seen {
    let mut seen = Seen::new("http://127.0.0.1:9901".to_owned(), TimeZone::UTC);
    let look = Look {
        status,
        history: Some(history()),
        decisions: Some(decisions()),
    };
    seen.heard(&look, NOW);
    seen
}

fn picture(seen: &Seen, width: u16, height: Option<u16>) -> String {
    paint::text(&draw(seen, NOW, width, height), false)
}

#[test]
fn a_picture_tells_all_that_is_known() {
    let picture = picture(&seen(), 100, None);
    for part in [
        "overspill 1.2.3 · http://127.0.0.1:9901 · up 2h 13m · 10:02:11",
        " THROTTLE  · some visitors get a 503 · mode enforce · HELD BY HAND for 43s more",
        "20 % of the new turned away",
        "123 connections · 45 requests in flight · 4.2 GB sent",
        "1.2 k pages spliced",
        "share         42 % ",
        "bandwidth     0.93 ",
        "≥ throttle   0.90",
        "  drop       0.98",
        "in_flight is off: no capacity is given",
        "served          12 ",
        "throttled      1.5 ",
        "eu     0.50/0.80  █████··│·· yes    well",
        "1.2 MB/s  3.20     0.02   3.20 of 5.00/day",
        "NO     busy",
        "   busy: its load 0.91 is not below 0.80",
        "10:02:10 offload → throttle: bandwidth 0.93 ≥ 0.90\n 10:01:11 normal → offload",
    ] {
        assert!(picture.contains(part), "{part}\nis not in\n{picture}");
    }
    assert!(!picture.contains('\x1b'));
}

#[test]
fn thresholds_are_drawn_through_the_plot_and_levels_have_letters() {
    let picture = picture(&seen(), 100, None);
    let row = |part: &str| {
        picture
            .lines()
            .find(|line| line.contains(part))
            .unwrap()
            .to_owned()
    };
    let highest = row("bandwidth     0.93");
    assert!(
        highest.contains("╌╌╌") && highest.ends_with(".90 .98"),
        "{highest}"
    );
    let offload = row("  drop       0.98");
    assert!(
        offload.contains("╌╌╌") && offload.ends_with(" .70"),
        "{offload}"
    );
    let levels = row("level     throttle");
    assert!(
        levels.contains("····ooo") && levels.contains("ooTTT"),
        "{levels}"
    );
}

#[test]
fn every_size_has_a_picture_and_none_is_wider_than_asked() {
    let seen = seen();
    for width in (1..45).chain([59, 60, 75, 76, 100, 139]) {
        for height in [None, Some(0), Some(1), Some(24)] {
            let buffer = draw(&seen, NOW, width, height);
            assert_eq!(buffer.area.width, width.max(NARROWEST));
            assert!(height.is_none_or(|height| buffer.area.height == height));
        }
    }
    for width in [40, 60, 80, 100] {
        for line in lines(&seen, NOW, width, None) {
            assert!(line.width() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn plots_make_room_for_what_else_there_is() {
    let rows = |height| picture(&seen(), 80, Some(height));
    for height in [24, 30, 60] {
        let picture = rows(height);
        for part in ["bandwidth", "served", "us ", "10:02:10", "q leaves"] {
            assert!(picture.contains(part), "{height}: {part}\n{picture}");
        }
    }
    assert!(!rows(22).contains("≥ throttle"), "one line a signal");
    assert!(rows(60).contains("≥ throttle"));
}

#[test]
fn in_a_low_window_what_matters_comes_first() {
    let mut many = status();
    let server = many["servers"][1].clone();
    many["servers"] = json!(vec![server; 30]);
    let seen = seen_of(many);
    for (width, height) in [(40, 24), (80, 20), (100, 30)] {
        let picture = picture(&seen, width, Some(height));
        for part in [
            "THROTTLE",
            "bandwidth",
            "served",
            "us ",
            "window shows the",
            "10:02:10",
            "q leaves",
        ] {
            assert!(
                picture.contains(part),
                "{width}x{height}: {part}\n{picture}"
            );
        }
    }
}

#[test]
fn while_the_server_is_away_what_was_known_last_is_grey() {
    let mut seen = seen();
    seen.missed(
        "no Overspill answers at http://127.0.0.1:9901: connection refused",
        NOW - 20.0,
    );
    seen.missed(
        "no Overspill answers at http://127.0.0.1:9901: connection refused",
        NOW - 10.0,
    );
    let buffer = draw(&seen, NOW, 100, Some(30));
    let text = paint::text(&buffer, false);
    assert!(
        text.contains("connection refused, since 10:01:51 (20s); trying"),
        "{text}"
    );
    assert!(text.contains("THROTTLE"), "{text}");
    let coloured = buffer.content[300..]
        .iter()
        .filter(|cell| cell.symbol() != " ");
    assert!(coloured.clone().count() > 100);
    assert!(coloured.clone().all(|cell| cell.fg == Color::DarkGray));
    seen.heard(
        &Look {
            status: status(),
            ..Look::default()
        },
        NOW,
    );
    assert!(!picture(&seen, 100, Some(30)).contains("since"));
}

#[test]
fn an_older_versions_status_is_enough() {
    let seen = seen_of(
        json!({ "level": "normal", "signals": [{ "name": "cpu" }], "servers": [{ "name": "eu" }] }),
    );
    let picture = picture(&seen, 80, None);
    assert!(
        picture.contains("NORMAL") && picture.contains("eu"),
        "{picture}"
    );
}

#[test]
fn names_do_not_steer_the_terminal() {
    let mut odd = status();
    odd["servers"][0]["name"] = json!("\u{1b}[2Jeu\u{202e}");
    odd["servers"][1]["reason"] = json!("\u{1b}]0;title\u{7}");
    odd["signals"][1]["off"] = json!("a\nb\u{9b}c");
    odd["level"] = json!("\u{1b}c");
    odd["mode"] = json!("\u{1b}c");
    let picture = picture(&seen_of(odd), 100, None);
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(
        !picture.contains(|c| steers(c) || c == '\u{202e}'),
        "{picture:?}"
    );
}

#[test]
fn long_words_and_wide_characters_are_broken_to_fit() {
    assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
    assert_eq!(
        wrapped("ab abcdefghij k", 4),
        ["ab", "abcd", "efgh", "ij k"]
    );
    assert_eq!(wrapped("日本語", 4), ["日本", "語"]);
    assert_eq!(wrapped("日", 1), ["日"]);
    assert_eq!(wrapped("a b\n  c\td\r\n", 4), ["a b", "c d"]);
    assert!(wrapped("", 4).is_empty());
    assert_eq!(fitted("abcdef", 4), "abc…");
    assert_eq!(fitted("日本語", 4), "日… ");
    assert_eq!(fitted("ab", 4), "ab  ");
}
