//! `config/overspill.toml` keeps up with the program: it loads, it says the defaults, and it leaves out no
//! key.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use overspill::{
    Settings,
    access::{AccessSettings, Format},
    admin::AdminSettings,
    config::PrimarySettings,
    edge::{EdgeSettings, EdgeSite},
    guard::LimitSettings,
    level::Share,
    load::{
        self, BandwidthSettings, CpuSettings, InFlightSettings, QueueDelaySettings,
        UpstreamSettings,
    },
    offload::{
        BypassSettings, ClassSettings, DropSettings, IdentitySettings, Mode, OffloadSettings,
        ThrottleSettings,
    },
    rewrite,
    servers::{
        BudgetSettings, ClientRuleSettings, Criterion, HealthProbe, HealthSettings, Period,
        ReportKind, ReportSettings, ServerSettings, SpreadBy, discovery::DiscoverySettings,
    },
    site::{CacheControlSettings, SiteSettings},
    tls::{PairSettings, TlsSettings},
    units::{BitRate, ByteSize, Price, Ratio},
    upstream::{Host, Http2, ProxySettings},
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
        (text.starts_with('[') && text.ends_with(']'))
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

fn limits() -> LimitSettings {
    LimitSettings {
        connections: 1,
        connections_per_address: 1,
        head_time: Duration::from_secs(1),
        head_size: ByteSize::new(1),
        idle: Duration::from_secs(1),
        slow_time: Duration::from_secs(1),
        slow_bytes: ByteSize::new(1),
        streams: 1,
        headers: 1,
        body_size: ByteSize::new(1),
        requests: 1,
        resets: 1,
        window: ByteSize::new(1),
        connection_window: ByteSize::new(1),
        send_buffer: ByteSize::new(1),
        drain: Duration::from_secs(1),
    }
}

fn tls() -> TlsSettings {
    TlsSettings {
        certificate: "cert.pem".into(),
        key: "key.pem".into(),
        more: vec![PairSettings {
            certificate: "other.pem".into(),
            key: "other-key.pem".into(),
        }],
        redirect: Some(([0, 0, 0, 0], 80).into()),
        redirect_port: std::num::NonZeroU16::new(443),
        hsts: Some(Duration::from_secs(365 * 24 * 3600)),
    }
}

/// Settings in which nothing is left out: every struct is written with all of its fields, so that a new
/// field does not compile until it is here.
fn complete() -> Settings {
    let ratio = Ratio::new(0.5);
    let rate = BitRate::from_bits_per_second(1e9);
    Settings {
        mode: Mode::Report,
        explain_header: true,
        server_timing: true,
        primary: PrimarySettings {
            listen: ([127, 0, 0, 1], 1).into(),
            site: Some(PathBuf::from("site")),
            upstream: Some("http://127.0.0.1:3000".into()),
            hosts: vec!["a.example".into()],
            trusted_proxies: vec!["10.0.0.0/8".into()],
            proxy: ProxySettings {
                connect_timeout: Duration::from_secs(2),
                first_byte_timeout: Duration::from_secs(2),
                idle_timeout: Duration::from_secs(2),
                keep: Duration::from_secs(2),
                host: Host::Upstream,
                http2: Http2::Always,
                forwarded: true,
            },
            limits: limits(),
            tls: Some(tls()),
            files: SiteSettings {
                memory: ByteSize::new(1),
                file_size: ByteSize::new(1),
                compress: false,
                tidy_urls: true,
                cache_control: vec![CacheControlSettings {
                    paths: vec!["/a/**".into()],
                    value: "max-age=1".into(),
                }],
            },
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
            upstream: UpstreamSettings {
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
            spread: SpreadBy::Object,
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
                budget: Some(BudgetSettings {
                    amount: 1.0,
                    per: Period::Month,
                }),
                slow_start: Duration::from_secs(1),
                report: ReportSettings {
                    kind: ReportKind::Prometheus,
                    url: "http://a.example".into(),
                    every: Duration::from_secs(2),
                    metric: "a".into(),
                    labels: [("device".into(), "a".into())].into(),
                    rate: true,
                    capacity: Some(1.0),
                },
                health: HealthSettings::Probe(HealthProbe {
                    path: "/a".into(),
                    every: Duration::from_secs(1),
                    failures: 1,
                    successes: 1,
                }),
            }],
            discovery: DiscoverySettings {
                file: Some("a.toml".into()),
                srv: Some("a.example".into()),
                name_server: Some(([127, 0, 0, 1], 53).into()),
                every: Duration::from_secs(1),
                keep: Duration::from_secs(1),
                template: Some(Box::default()),
            },
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
            classes: vec![ClassSettings {
                name: "a".into(),
                priority: 2,
                paths: vec!["/a".into()],
                identity: Some("a".into()),
                header: Some("a".into()),
            }],
        },
        drop: DropSettings {
            method: overspill::offload::DropMethod::Reset,
        },
        edge: EdgeSettings {
            listen: ([127, 0, 0, 1], 3).into(),
            agent: Some(([127, 0, 0, 1], 4).into()),
            primary: "http://127.0.0.1:1".into(),
            hosts: vec!["a.example".into()],
            name: "a".into(),
            capacity: rate,
            memory: ByteSize::new(1),
            largest: ByteSize::new(1),
            token: "a".into(),
            fresh: Duration::from_secs(1),
            stale_while_revalidate: Duration::from_secs(1),
            stale_if_error: Duration::from_secs(1),
            patience: Duration::from_secs(1),
            limits: limits(),
            tls: Some(tls()),
            sites: vec![EdgeSite {
                host: Some("a.example".into()),
                prefix: Some("/a".into()),
                primary: "http://127.0.0.1:1".into(),
                token: Some("a".into()),
            }],
        },
        access_log: AccessSettings {
            path: "a.log".into(),
            format: Format::Json,
            sample: Ratio::ONE,
            rate: 1,
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
    assert_eq!(settings.throttle.classes[0].priority, 10);
    assert!(settings.load.in_flight.capacity.is_some());
}

#[test]
fn the_defaults_of_a_server_are_those_it_tells() {
    let settings = Settings::from_toml(&with_examples()).unwrap();
    let (shown, default) = (&settings.offload.servers[0], ServerSettings::default());
    assert_eq!(shown.threshold, default.threshold);
    assert_eq!(shown.health, default.health);
    assert_eq!(shown.report.every, default.report.every);
    assert_eq!(shown.slow_start, default.slow_start);
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
    // It needs a trusted proxy.
    assert!(FILE.contains("# or: header = \"x-plan: gold*\""));
    told.insert("throttle.classes.header".into());
    // Keys of another kind of report than the active example's.
    let line = FILE
        .lines()
        .find(|line| line.contains("kind = \"prometheus\""));
    let report: Value = toml::from_str(line.unwrap().trim_start_matches("# or: ")).unwrap();
    told.extend(
        keys(&report)
            .iter()
            .map(|key| format!("offload.servers.{key}")),
    );
    let mut known = keys(&serde_json::to_value(complete()).unwrap());
    // It says that they are those of a server.
    let template = "offload.discovery.template";
    known.retain(|key| !key.starts_with(&format!("{template}.")));
    // As those of the primary.
    known.retain(|key| !key.starts_with("edge.tls.more"));
    assert!(told.iter().any(|key| key.starts_with(template)));
    assert_eq!(
        known.difference(&told).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not in the file"
    );
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let text = include_str!("../docs/configuration.md");
    let headings = |depth: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(depth));
        let lines = lines.map(|line| line.trim_matches(['`', '[', ']']).to_owned());
        lines.collect()
    };
    let (tables, mut told) = (headings("## "), headings("### "));
    told.extend(tables.iter().cloned());
    let mut known = keys(&serde_json::to_value(complete()).unwrap());
    // Of these it says whose keys they have; and a label is no key.
    for same in ["offload.discovery.template", "edge.limits", "edge.tls"] {
        assert!(tables.contains(same), "{same}");
        known.retain(|key| !key.starts_with(&format!("{same}.")));
    }
    known.remove("offload.servers.report.labels.device");
    assert_eq!(known, told);
}

#[test]
fn what_the_documentation_and_the_ready_files_say_loads() {
    let cdn = include_str!("../docs/cdn.md");
    let mut texts: Vec<String> = cdn
        .split("```toml\n")
        .skip(1)
        .filter_map(|text| Some(text.split_once("```")?.0.to_owned()))
        .collect();
    for file in [
        include_str!("../config/nginx-offload.conf"),
        include_str!("../config/varnish-offload.vcl"),
    ] {
        let lines = file.lines().map_while(|line| line.strip_prefix('#'));
        let lines = lines.skip_while(|line| line.trim() != "[offload]");
        texts.push(lines.collect::<Vec<_>>().join("\n"));
    }
    assert_eq!(texts.len(), 3);
    for text in texts {
        let settings = Settings::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(settings.offload.servers.len(), 1, "{text}");
        assert!(settings.offload.servers[0].cors, "{text}");
    }
}

fn report_problems(report: &str) -> Vec<String> {
    let text = format!(
        "[[offload.servers]]\nname = \"eu\"\nurl = \"http://eu.example\"\nreport = {report}"
    );
    let error = Settings::from_toml(&text).err();
    let problems = error.map(|error| error.problems).unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_kind_of_report_is_read() {
    for report in [
        r#"{ kind = "none" }"#,
        r#"{ kind = "orca", url = "http://eu.example/load", every = "250ms" }"#,
        r#"{ kind = "agent", url = "eu.example:9999" }"#,
        r#"{ kind = "agent", url = "[::1]:9999" }"#,
        r#"{ kind = "prometheus", url = "http://eu.example/metrics", metric = "a_b:c", capacity = 4 }"#,
        r#"{ kind = "prometheus", url = "http://eu.example/metrics", metric = "a", capacity = 1.5, rate = true, labels = { b = "c" } }"#,
    ] {
        assert_eq!(report_problems(report), Vec::<String>::new(), "{report}");
    }
}

#[test]
fn what_a_kind_lacks_or_has_no_use_for_is_told() {
    for (report, told) in [
        (
            r#"{ kind = "smoke" }"#,
            "`offload.servers[0].report.kind` expected one of \"none\", \"orca\", \"agent\", \"prometheus\"",
        ),
        (
            r#"{ url = "http://eu.example" }"#,
            "report.url` needs `report.kind`",
        ),
        (r#"{ kind = "orca" }"#, "report.url` must be a URL such as"),
        (
            r#"{ kind = "agent", url = "http://eu.example" }"#,
            "must be the agent's host and port",
        ),
        (
            r#"{ kind = "agent", url = "eu.example:0" }"#,
            "must be the agent's host and port",
        ),
        (
            r#"{ kind = "agent", url = "eu.example:1", every = "1ms" }"#,
            "report.every` must be from 50ms to 1h",
        ),
        (
            r#"{ kind = "prometheus", url = "http://eu.example", metric = "a b", capacity = 1 }"#,
            "report.metric` must be the name of a metric",
        ),
        (
            r#"{ kind = "prometheus", url = "http://eu.example", metric = "a" }"#,
            "report.capacity` must be the value that is a load of 1.0, above 0, found nothing",
        ),
        (
            r#"{ kind = "prometheus", url = "http://eu.example", metric = "a", capacity = -1 }"#,
            "found -1",
        ),
        (
            r#"{ kind = "orca", url = "http://eu.example", rate = true }"#,
            "report.rate` needs `report.kind` = \"prometheus\"",
        ),
    ] {
        let problems = report_problems(report);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(told), "{told} is not in {problems:?}");
    }
}

#[test]
fn what_is_wrong_with_a_budget_is_told() {
    for (keys, told) in [
        (
            "budget = { amount = 5.0 }",
            "budget` needs `price`: what costs nothing spends nothing",
        ),
        (
            "price = 1\nbudget = { per = \"hour\" }",
            "budget.amount` must be above 0, found 0",
        ),
        (
            "price = 1\nbudget = { amount = 1.0, per = \"decade\" }",
            "budget.per` expected one of \"hour\", \"day\", \"month\", found \"decade\"",
        ),
        ("slow_start = \"2h\"", "slow_start` must be at most 1h"),
    ] {
        let server = "[[offload.servers]]\nname = \"eu\"\nurl = \"http://eu.example\"";
        let error = Settings::from_toml(&format!("{server}\n{keys}")).unwrap_err();
        let problems = error.problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        let problem = problems[0].to_string();
        assert!(problem.contains(told), "{told} is not in {problem}");
    }
}
