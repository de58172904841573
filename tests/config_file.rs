//! `config/overspill.toml` keeps up with the program: it loads, it says the defaults, and it leaves out no
//! key.

#![cfg(feature = "server")]

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use overspill::{
    Settings,
    admin::AdminSettings,
    level::Share,
    load::{self, BandwidthSettings, CpuSettings, InFlightSettings, QueueDelaySettings},
    offload::{
        BypassSettings, DropSettings, IdentitySettings, Mode, OffloadSettings, PrimarySettings,
        ThrottleSettings,
    },
    rewrite,
    servers::{
        ClientRuleSettings, Criterion, HealthProbe, HealthSettings, ReportKind, ReportSettings,
        ServerSettings,
    },
    units::{BitRate, Price, Ratio},
};
use serde_json::Value;

const FILE: &str = include_str!("../config/overspill.toml");

/// The file with its examples made active.
fn with_examples() -> String {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let is_example = |text: &str| {
        text.starts_with("[[")
            || text
                .split_once(" = ")
                .is_some_and(|(name, _)| is_name(name))
    };
    FILE.lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(example) if is_example(example) => example,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The paths of all keys: `offload.servers.name`, `load.cpu`, …
fn keys(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(table) => {
                for (name, value) in table {
                    let path = match path {
                        "" => name.clone(),
                        path => format!("{path}.{name}"),
                    };
                    keys.insert(path.clone());
                    walk(value, &path, keys);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, path, keys)),
            _ => {}
        }
    }
    let mut keys = BTreeSet::new();
    walk(value, "", &mut keys);
    keys
}

fn keys_of_text(text: &str) -> BTreeSet<String> {
    keys(&toml::from_str::<Value>(text).unwrap())
}

/// Settings in which nothing is left out: every struct is written with all of its fields, so that a new
/// field does not compile until it is here.
fn complete() -> Settings {
    let ratio = Ratio::new(0.5);
    let rate = BitRate::from_bits_per_second(1e9);
    Settings {
        mode: Mode::Report,
        primary: PrimarySettings {
            listen: ([127, 0, 0, 1], 1).into(),
            site: Some(PathBuf::from("site")),
            upstream: Some("http://127.0.0.1:3000".into()),
            hosts: vec!["a.example".into()],
            trusted_proxies: vec!["10.0.0.0/8".into()],
        },
        load: load::Settings {
            interval: Duration::from_secs(1),
            smoothing: Duration::from_secs(1),
            release: Ratio::ONE,
            cpu: CpuSettings {
                enabled: false,
                offload: ratio,
                throttle: ratio,
                drop: ratio,
            },
            bandwidth: BandwidthSettings {
                enabled: false,
                source: load::BandwidthSource::Responses,
                interface: "eth0".into(),
                capacity: rate,
                offload: ratio,
                throttle: ratio,
                drop: ratio,
            },
            in_flight: InFlightSettings {
                enabled: false,
                capacity: Some(1),
                offload: ratio,
                throttle: ratio,
                drop: ratio,
            },
            queue_delay: QueueDelaySettings {
                enabled: false,
                capacity: Some(Duration::from_secs(1)),
                offload: ratio,
                throttle: ratio,
                drop: ratio,
            },
        },
        offload: OffloadSettings {
            hold: Duration::from_secs(1),
            share: Share::Fixed(Ratio::ONE),
            select: vec![Criterion::Price],
            redirect: vec!["/a".into()],
            identity: Some(IdentitySettings {
                cookie: Some("a".into()),
                header: Some("a".into()),
                key: Some("a".into()),
            }),
            token: "a".into(),
            servers: vec![ServerSettings {
                name: "a".into(),
                url: "http://a.example".into(),
                threshold: Ratio::ONE,
                resume: ratio,
                price: Price::default(),
                capacity: rate,
                cors: true,
                report: ReportSettings {
                    kind: ReportKind::Orca,
                    url: "http://a.example".into(),
                    every: Duration::from_secs(2),
                },
                health: HealthSettings::Probe(HealthProbe {
                    path: "/a".into(),
                    every: Duration::from_secs(1),
                    failures: 1,
                    successes: 1,
                }),
            }],
            clients: vec![ClientRuleSettings {
                addresses: vec!["10.0.0.1".into()],
                identity: Some("a".into()),
                servers: vec!["a".into()],
            }],
        },
        rewrite: rewrite::Settings {
            include: vec!["a".into()],
            exclude: vec!["a".into()],
            attributes: vec!["a:b".into()],
            modules: true,
            fallback: true,
        },
        throttle: ThrottleSettings {
            page: Some("a.html".into()),
            action: overspill::offload::ThrottleAction::Drop,
            retry_after: Duration::from_secs(1),
            stay: Duration::from_secs(1),
            bypass: BypassSettings {
                paths: vec!["/a".into()],
                addresses: vec!["10.0.0.1".into()],
            },
        },
        drop: DropSettings {
            method: overspill::offload::DropMethod::Reset,
        },
        admin: AdminSettings {
            listen: ([127, 0, 0, 1], 2).into(),
            token: "a".into(),
        },
    }
}

#[test]
fn says_the_defaults() {
    let settings = Settings::from_toml(FILE).unwrap();
    let mut expected = Settings::default();
    // Named, so that a reader sees the key; it is what is served without it.
    expected.primary.site = Some(PathBuf::from(overspill::app::DEFAULT_SITE));
    assert_eq!(settings, expected);
}

#[test]
fn its_examples_load() {
    let settings = Settings::from_toml(&with_examples()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.offload.servers[0].name, "eu");
    assert_eq!(settings.offload.clients[0].servers, ["eu"]);
    assert!(settings.load.in_flight.capacity.is_some());
}

#[test]
fn the_defaults_of_a_server_are_those_it_tells() {
    let settings = Settings::from_toml(&with_examples()).unwrap();
    let (shown, default) = (&settings.offload.servers[0], ServerSettings::default());
    assert_eq!(shown.threshold, default.threshold);
    assert_eq!(shown.health, default.health);
    assert_eq!(shown.report.every, default.report.every);
    for told in [
        "(0.8 if left out)",
        "(0.05 below the threshold if left out)",
        "(0 if left out)",
    ] {
        assert!(FILE.contains(told), "{told}");
    }
}

#[test]
fn leaves_out_no_key() {
    let mut told = keys_of_text(&with_examples());
    // It excludes `cookie`, so the comment names it.
    assert!(FILE.contains("{ header = \"x-user\" }"));
    told.insert("offload.identity.header".into());
    let known = keys(&serde_json::to_value(complete()).unwrap());
    assert_eq!(
        known.difference(&told).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not in the file"
    );
}
