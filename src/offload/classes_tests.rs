//! Who belongs to which class, and who can't get into one.

use std::time::Duration;

use http::HeaderValue;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    Settings,
    level::Turned,
    offload::{Admit, Applicant, ByHash, Decision, Verdict, arrivals::Arrivals, client, stay},
    servers::hash,
    units::Ratio,
};

const PROXY: &str = "10.0.0.1";
const VISITOR: &str = "203.0.113.9";

const SHOP: &str = r#"
    primary.trusted_proxies = ["10.0.0.0/8"]
    offload.identity = { cookie = "session", key = "Jefe" }
    [[throttle.classes]]
    name = "search"
    priority = -1
    paths = ["/search", "/search/**"]
    [[throttle.classes]]
    name = "checkout"
    priority = 5
    paths = ["/checkout/**"]
    [[throttle.classes]]
    name = "gold"
    priority = 10
    identity = "gold-*"
    [[throttle.classes]]
    name = "paying"
    priority = 10
    header = "x-plan: p*"
    [[throttle.classes]]
    name = "staff"
    priority = 20
    header = "x-staff"
    paths = ["/admin/**"]
"#;

fn problems(text: &str) -> Vec<String> {
    let error = Settings::from_toml(text).err();
    let problems = error.map(|error| error.problems).unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

/// The class of a request that comes so over a connection from `peer`.
fn class_of(config: &str, peer: &str, path: &str, pairs: &[(&str, &str)]) -> String {
    let compiled = Settings::from_toml(config).unwrap().compile().unwrap();
    let headers = headers(pairs);
    let peer = Some(peer.parse().unwrap());
    let client = client::client(peer, &headers, &compiled);
    let class = compiled.classes.of(Applying {
        client: &client,
        path,
        headers: &headers,
        trusted: client::is_trusted(peer, &compiled.trusted_proxies),
    });
    compiled.classes.iter().nth(class).unwrap().name.clone()
}

fn signed(identity: &str, key: &str) -> String {
    let mac = stay::hex(&stay::mac(key.as_bytes(), &[identity.as_bytes()]));
    format!("session={identity}.{mac}")
}

#[test]
fn a_request_is_of_the_highest_class_of_which_it_has_everything() {
    let class = |peer, path, pairs: &[(&str, &str)]| class_of(SHOP, peer, path, pairs);
    let gold = signed("gold-1", "Jefe");
    let silver = signed("silver-1", "Jefe");
    assert_eq!(class(VISITOR, "/", &[]), REST);
    assert_eq!(class(VISITOR, "/search", &[]), "search");
    let home = r#"throttle.classes = [{ name = "home", paths = ["/"] }]"#;
    assert_eq!(class_of(home, VISITOR, "/", &[]), "home");
    assert_eq!(class_of(home, VISITOR, "/a", &[]), REST);
    assert_eq!(class(VISITOR, "/checkout/pay", &[]), "checkout");
    assert_eq!(class(VISITOR, "/checkout", &[]), REST);
    assert_eq!(class(VISITOR, "/", &[("cookie", &gold)]), "gold");
    assert_eq!(class(VISITOR, "/", &[("cookie", &silver)]), REST);
    assert_eq!(class(VISITOR, "/search", &[("cookie", &gold)]), "gold");
    assert_eq!(class(PROXY, "/", &[("x-plan", "premium")]), "paying");
    assert_eq!(class(PROXY, "/", &[("x-plan", "free")]), REST);
    assert_eq!(class(PROXY, "/admin/", &[("x-staff", "1")]), "staff");
    assert_eq!(
        class(PROXY, "/", &[("x-staff", "1")]),
        REST,
        "its path is another"
    );
    assert_eq!(class(PROXY, "/admin/", &[]), REST, "its header is missing");
    assert_eq!(
        class(PROXY, "/checkout/", &[("x-plan", "pro"), ("cookie", &gold)]),
        "gold",
        "the first in the file of two with one priority"
    );
}

#[test]
fn nobody_lifts_themselves_into_a_class() {
    let class = |peer, pairs: &[(&str, &str)]| class_of(SHOP, peer, "/", pairs);
    for forged in [
        "session=gold-1".to_owned(),
        "session=gold-1.".to_owned(),
        format!("session=gold-1.{}", "0".repeat(64)),
        signed("gold-1", "another key"),
        signed("silver-1", "Jefe").replace("silver", "gold"),
        // The first of two counts.
        format!("session=gold-1; {}", signed("gold-1", "Jefe")),
    ] {
        assert_eq!(class(VISITOR, &[("cookie", &forged)]), REST, "{forged}");
    }
    assert_eq!(
        class(VISITOR, &[("x-plan", "premium")]),
        REST,
        "it is no proxy that says so"
    );
    assert_eq!(
        class(
            VISITOR,
            &[("x-plan", "premium"), ("x-forwarded-for", PROXY)]
        ),
        REST
    );
    // A proxy that adds its own and lets the visitor's stand.
    assert_eq!(
        class(PROXY, &[("x-plan", "premium"), ("x-plan", "free")]),
        REST
    );
    assert_eq!(
        class(PROXY, &[("x-plan", "free"), ("x-plan", "premium")]),
        REST
    );
}

#[test]
fn an_identity_header_that_comes_twice_is_nobodys() {
    let config = r#"
        primary.trusted_proxies = ["10.0.0.0/8"]
        offload.identity = { header = "x-user" }
        throttle.classes = [{ name = "gold", identity = "gold-*" }]
    "#;
    let class = |peer, pairs: &[(&str, &str)]| class_of(config, peer, "/", pairs);
    assert_eq!(class(PROXY, &[("x-user", "gold-1")]), "gold");
    assert_eq!(class(VISITOR, &[("x-user", "gold-1")]), REST);
    assert_eq!(
        class(PROXY, &[("x-user", "gold-1"), ("x-user", "guest")]),
        REST
    );
    assert_eq!(class(PROXY, &[("x-user", "")]), REST);
}

#[test]
fn what_anybody_could_make_up_is_refused_with_the_key_that_is_lacking() {
    let by_identity = r#"throttle.classes = [{ name = "gold", identity = "gold-*" }]"#;
    for (with, told) in [
        (
            "",
            "`throttle.classes[0].identity` needs `offload.identity`",
        ),
        (
            r#"offload.identity = { cookie = "session" }"#,
            "`throttle.classes[0].identity` needs `offload.identity.key`: a cookie that is not signed can be made up",
        ),
        (
            r#"offload.identity = { header = "x-user" }"#,
            "`throttle.classes[0].identity` needs `primary.trusted_proxies`",
        ),
    ] {
        let problems = problems(&format!("{with}\n{by_identity}"));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(told), "{problems:?}");
    }
    let empty = problems(&format!(
        "offload.identity = {{ cookie = \"session\", key = \"\" }}\n{by_identity}"
    ));
    assert!(
        empty[0].contains("`offload.identity.key` must not be empty"),
        "{empty:?}"
    );
    let header = problems(r#"throttle.classes = [{ name = "paying", header = "x-plan" }]"#);
    assert!(
        header[0].starts_with("`throttle.classes[0].header` needs `primary.trusted_proxies`"),
        "{header:?}"
    );
    assert_eq!(
        problems(r#"throttle.classes = [{ name = "checkout", paths = ["/checkout/**"] }]"#),
        Vec::<String>::new()
    );
}

#[test]
fn a_class_must_be_named_and_want_something() {
    for (class, told) in [
        (
            r#"{ name = "a" }"#,
            "`throttle.classes[0]` must have `paths`, `identity` or `header`",
        ),
        (
            r#"{ paths = ["/a"] }"#,
            "`throttle.classes[0].name` must be given",
        ),
        (
            r#"{ name = "a", paths = [""] }"#,
            "`throttle.classes[0].paths[0]` expected a glob",
        ),
    ] {
        assert!(
            problems(&format!("throttle.classes = [{class}]"))[0].starts_with(told),
            "{class}"
        );
    }
    for header in ["", ":", "x plan: a", "x-plan: [", "x-plan:"] {
        let text = format!(
            "primary.trusted_proxies = [\"10.0.0.0/8\"]\nthrottle.classes = [{{ name = \"a\", header = {header:?} }}]"
        );
        let problems = problems(&text);
        assert!(
            problems[0].starts_with("`throttle.classes[0].header` must be a header such as"),
            "{problems:?}"
        );
    }
}

#[test]
fn the_highest_class_of_a_connection_is_one_that_needs_no_proxy() {
    let highest = |config: &str| {
        let compiled = Settings::from_toml(config).unwrap().compile().unwrap();
        let highest = compiled.classes.highest_without_proxy();
        compiled
            .classes
            .iter()
            .nth(highest)
            .map(|class| class.name.clone())
    };
    assert_eq!(highest(SHOP).as_deref(), Some("gold"));
    let by_proxy = r#"
        primary.trusted_proxies = ["10.0.0.0/8"]
        offload.identity = { header = "x-user" }
        throttle.classes = [{ name = "gold", identity = "gold-*" }, { name = "paying", header = "x-plan" }]
    "#;
    assert_eq!(highest(by_proxy).as_deref(), Some(REST));
    assert_eq!(highest(""), None);
}

fn arrivals(now: Instant) -> Arrivals {
    let compiled = Settings::from_toml(SHOP).unwrap().compile().unwrap();
    Arrivals::new(compiled.classes, now)
}

fn throttled(part: f64) -> Turned {
    Turned {
        throttled: Ratio::new(part).unwrap(),
        ..Turned::default()
    }
}

/// The parts of search, the rest, checkout, paying and gold, staff.
/// What each class loses where so much of all is `turned` away.
fn laid(arrivals: &Arrivals, turned: Turned, now: Instant) -> Vec<Turned> {
    let places = arrivals.step(now);
    places.iter().map(|place| place.of(turned)).collect()
}

fn parts(classes: &[Turned]) -> Vec<f64> {
    classes
        .iter()
        .map(|turned| (turned.throttled.get() * 100.0).round() / 100.0)
        .collect()
}

#[test]
fn what_is_turned_away_follows_who_comes() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs_f64(seconds);
    let arrivals = arrivals(start);
    let come = |counts: [usize; 6]| {
        for (class, count) in counts.into_iter().enumerate() {
            (0..count).for_each(|_| arrivals.applied(class));
        }
    };
    assert_eq!(
        parts(&laid(&arrivals, throttled(0.5), at(0.25))),
        [0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        "nobody came yet"
    );
    come([10, 60, 10, 10, 10, 0]);
    assert_eq!(
        parts(&laid(&arrivals, throttled(0.4), at(0.5))),
        [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(
        parts(&laid(&arrivals, throttled(0.9), at(0.5))),
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.0],
        "of one priority alike"
    );
    assert_eq!(parts(&laid(&arrivals, throttled(1.0), at(0.5))), [1.0; 6]);
    assert_eq!(parts(&laid(&arrivals, throttled(0.0), at(0.5))), [0.0; 6]);
    // Others come: a minute later the first are forgotten.
    for second in 1..=60 {
        come([0, 10, 0, 10, 0, 0]);
        laid(&arrivals, throttled(0.0), at(0.5 + f64::from(second)));
    }
    assert_eq!(
        parts(&laid(&arrivals, throttled(0.75), at(60.5))),
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.0]
    );
    // Nobody has come for so long that nothing is known.
    assert_eq!(
        parts(&laid(&arrivals, throttled(0.75), at(1000.0))),
        [0.75, 0.0, 0.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn what_was_decided_is_counted_by_class() {
    let arrivals = arrivals(Instant::now());
    arrivals.decided(1, Decision::Throttle);
    arrivals.decided(1, Decision::Drop);
    arrivals.decided(1, Decision::Throttle);
    arrivals.decided(3, Decision::Serve);
    arrivals.decided(99, Decision::Drop);
    let counts: Vec<_> = arrivals
        .classes()
        .into_iter()
        .map(|class| (class.name, class.throttled, class.dropped))
        .collect();
    let expected = ["search", REST, "checkout", "paying", "gold", "staff"];
    for ((name, throttled, dropped), expected) in counts.into_iter().zip(expected) {
        assert_eq!(name, expected);
        assert_eq!(
            (throttled, dropped),
            if name == REST { (2, 1) } else { (0, 0) }
        );
    }
}

#[test]
fn without_classes_nothing_is_counted_and_nothing_laid_out() {
    let compiled = Settings::default().compile().unwrap();
    let arrivals = Arrivals::new(compiled.classes, Instant::now());
    arrivals.applied(0);
    arrivals.decided(0, Decision::Throttle);
    assert_eq!(laid(&arrivals, throttled(0.5), Instant::now()), Vec::new());
    assert_eq!(arrivals.classes(), Vec::new());
}

proptest! {
    /// The whole way: visitors of three classes, each with a place of its own, and a part that shall be turned away.
    #[test]
    fn so_many_visitors_are_turned_away_and_the_lowest_first(part in 0.0..=1.0_f64, epoch: u64, mix in prop::array::uniform3(1..20_usize)) {
        let config = r#"throttle.classes = [{ name = "b", paths = ["/b"] }, { name = "c", paths = ["/c"], priority = 2 }]"#;
        let compiled = Settings::from_toml(config).unwrap().compile().unwrap();
        let now = Instant::now();
        let arrivals = Arrivals::new(compiled.classes, now);
        let visitors: Vec<usize> = (0..4000).map(|number| {
            let place = number % mix.iter().sum::<usize>();
            usize::from(place >= mix[0]) + usize::from(place >= mix[0] + mix[1])
        }).collect();
        visitors.iter().for_each(|class| arrivals.applied(*class));
        let turned = laid(&arrivals, throttled(part), now);
        let (mut away, mut by_class) = (0, [(0, 0); 3]);
        for (number, class) in visitors.iter().enumerate() {
            let client = Client { hash: hash::mix(number as u64), address: None, identity: None };
            let applicant = Applicant { client: &client, class: *class, turned: turned[*class], epoch };
            let refused = ByHash.admit(&applicant) == Verdict::Throttle;
            away += usize::from(refused);
            by_class[*class].0 += usize::from(refused);
            by_class[*class].1 += 1;
        }
        let seen = away as f64 / visitors.len() as f64;
        prop_assert!((seen - part).abs() < 0.05, "{seen} instead of {part}");
        for class in 1..3 {
            if by_class[class].0 > 0 {
                let (refused, all) = by_class[class - 1];
                prop_assert_eq!(refused, all, "of class {}", class - 1);
            }
        }
    }
}
