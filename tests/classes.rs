//! `[[throttle.classes]]` over real sockets: who is turned away last, and who can't get in by saying so.

use std::net::Ipv4Addr;

use axum::Router;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::support::{
    client::{Request, get, visitor},
    config::Config,
    program::{Program, named, run},
    upstream::{HOLD, Held, Upstream},
    wait::until,
};

/// A hundred requests in flight are load 1. At 50 half of the visitors get the 503, at 70 half get no answer either.
const SHOP: &str = r#"
    load.in_flight.capacity = 100
    load.in_flight.offload = 0.2
    load.in_flight.throttle = 0.4
    load.in_flight.drop = 0.6
    primary.trusted_proxies = ["127.9.0.0/16"]
    offload.identity = { cookie = "session", key = "a long secret" }
    throttle.classes = [
        { name = "search", priority = -1, paths = ["/search"] },
        { name = "checkout", priority = 5, paths = ["/checkout/**"] },
        { name = "gold", priority = 10, identity = "gold-*" },
        { name = "paying", priority = 10, header = "x-plan: paying" },
    ]
"#;
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);
/// So many visitors of each kind are asked about.
const ASKED: usize = 12;

struct Shop {
    program: Program,
    upstream: Upstream,
    held: Held,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    Told,
    Dropped,
}

/// A cookie that the site has signed for this identity.
fn signed(identity: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a long secret").unwrap();
    mac.update(identity.as_bytes());
    let mac = mac.finalize().into_bytes();
    let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("session={identity}.{mac}")
}

impl Shop {
    async fn open(lines: &str) -> Self {
        let app = Router::new().fallback(async || "a page");
        let upstream = Upstream::start(app).await;
        let config = Config::new(SHOP)
            .with(format!(
                "primary.upstream = \"http://{}\"\nthrottle.bypass.paths = [{HOLD:?}]",
                upstream.address
            ))
            .with(lines);
        Self {
            program: Program::serve(&config).await,
            upstream,
            held: Held::none(),
        }
    }

    /// Puts so many requests in flight, and waits until the load shows it.
    async fn load(&mut self, count: usize) {
        let more = count - self.held.count();
        self.upstream
            .hold(&self.program, &mut self.held, more)
            .await;
        let expected = count as f64 / 100.0;
        until(format_args!("load {expected}"), async || {
            let load = self.program.signal("in_flight").await["load"].as_f64()?;
            ((load - expected).abs() < 0.005).then_some(())
        })
        .await;
    }

    async fn fate(&self, request: Request) -> Fate {
        match request.try_ask(self.program.site).await {
            Some(answer) if answer.status == 200 => Fate::Served,
            Some(answer) => {
                assert_eq!(answer.status, 503);
                Fate::Told
            }
            None => Fate::Dropped,
        }
    }

    /// Asks for so many visitors, each from an address of its own.
    async fn fates(&self, asked: impl Fn(usize) -> Request) -> Vec<Fate> {
        let mut fates = Vec::new();
        for number in 0..ASKED {
            fates.push(self.fate(asked(number)).await);
        }
        fates
    }

    /// Four of five visitors go to the checkout, so that nobody else is left when half of all are turned away.
    async fn crowd(&self) {
        for number in 0..200 {
            let path = if number % 5 == 0 { "/" } else { "/checkout/" };
            self.fate(get(path).from(visitor(1000 + number))).await;
        }
    }

    /// Waits until the status says that of this class.
    async fn until_class(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(format_args!("class {name}"), async || {
            last = named(&self.program.status().await["classes"], name);
            is(&last).then(|| last.clone())
        })
        .await
    }
}

fn plain(number: usize) -> Request {
    get("/").from(visitor(number))
}

fn search(number: usize) -> Request {
    get("/search").from(visitor(number))
}

fn gold(number: usize) -> Request {
    let cookie = signed(&format!("gold-{number}"));
    plain(number).header("Cookie", &cookie)
}

fn through_proxy(number: usize, plan: &str) -> Request {
    get("/")
        .from(PROXY)
        .header("X-Forwarded-For", &format!("203.0.113.{number}"))
        .header("X-Plan", plan)
}

#[tokio::test]
async fn the_lowest_class_is_turned_away_first_and_nobody_lifts_themselves() {
    let mut shop = Shop::open("").await;
    shop.load(50).await;
    shop.program.until_level("throttle").await;
    shop.crowd().await;
    let all = |class: &Value| class["throttled"] == 1.0;
    shop.until_class("default", all).await;
    shop.until_class("search", all).await;
    shop.until_class("checkout", |class| {
        let part = class["throttled"].as_f64().unwrap();
        part > 0.0 && part < 1.0
    })
    .await;

    let (served, told) = ([Fate::Served; ASKED], [Fate::Told; ASKED]);
    assert_eq!(shop.fates(plain).await, told);
    assert_eq!(shop.fates(search).await, told);
    assert_eq!(shop.fates(gold).await, served);
    let paying = |number| through_proxy(number, "paying");
    assert_eq!(shop.fates(paying).await, served);
    let checkout = |number| get("/checkout/pay").from(visitor(number));
    // One visitor, one answer: asked twice, with nobody between. Which part is turned away follows who comes, so it moves
    // a little with every round; that lots drawn anew agree in one of five is a chance of one in four hundred.
    let mut rounds = Vec::new();
    for _ in 0..5 {
        rounds.push((shop.fates(checkout).await, shop.fates(checkout).await));
    }
    assert!(
        rounds.iter().any(|(first, second)| first == second),
        "{rounds:?}"
    );
    let is_some = |fates: &[Fate]| fates.contains(&Fate::Served) && fates.contains(&Fate::Told);
    assert!(rounds.iter().all(|(first, _)| is_some(first)), "{rounds:?}");

    // What anybody can say.
    let unsigned = |number| plain(number).header("Cookie", "session=gold-1");
    assert_eq!(shop.fates(unsigned).await, told);
    let forged = signed("silver-1").replace("silver", "gold");
    let forged = |number| plain(number).header("Cookie", &forged);
    assert_eq!(shop.fates(forged).await, told);
    let no_proxy = |number| plain(number).header("X-Plan", "paying");
    assert_eq!(shop.fates(no_proxy).await, told);
    let twice = |number| through_proxy(number, "free").header("X-Plan", "paying");
    assert_eq!(shop.fates(twice).await, told);
    // An embedded object belongs to a page that was let in, whoever asks.
    let object = |number| get("/a.png").from(visitor(number));
    assert_eq!(shop.fates(object).await, served);

    let status = shop.program.status().await;
    let names: Vec<&str> = status["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| class["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["search", "default", "checkout", "paying", "gold"]);
    let gold = named(&status["classes"], "gold");
    assert_eq!(gold["turned_away"]["throttled"], 0);
    assert_eq!(
        named(&status["classes"], "search")["turned_away"]["throttled"],
        ASKED
    );
    let metrics = get("/metrics").ask(shop.program.admin).await;
    for line in [
        format!("overspill_turned_away_total{{class=\"search\",outcome=\"throttled\"}} {ASKED}\n"),
        "overspill_turned_away_total{class=\"gold\",outcome=\"throttled\"} 0\n".to_owned(),
    ] {
        assert!(metrics.text().contains(&line), "{}", metrics.text());
    }
    shop.upstream.release(&mut shop.held).await;
}

#[tokio::test]
async fn the_gate_closes_nobody_whom_a_class_would_let_in() {
    let mut shop = Shop::open("").await;
    // While nobody is dropped yet: who comes is measured where the gate lets everyone in.
    shop.load(50).await;
    shop.program.until_level("throttle").await;
    shop.crowd().await;
    shop.load(70).await;
    shop.program.until_level("drop").await;
    shop.until_class("default", |class| class["dropped"] == 1.0)
        .await;
    shop.until_class("gold", |class| class["dropped"] == 0.0)
        .await;
    assert_eq!(shop.fates(plain).await, [Fate::Dropped; ASKED]);
    assert_eq!(shop.fates(gold).await, [Fate::Told; ASKED]);
    let status = shop.program.status().await;
    let dropped = &named(&status["classes"], "default")["turned_away"]["dropped"];
    assert!(
        dropped.as_u64().unwrap() >= ASKED as u64,
        "the layer drops them: {dropped}"
    );
    // When everyone is dropped the gate may close everyone's connection.
    shop.program.hold_level("drop").await;
    assert_eq!(shop.fates(gold).await, [Fate::Dropped; ASKED]);
    let after = shop.program.status().await;
    assert_eq!(
        named(&after["classes"], "gold")["turned_away"]["dropped"],
        0,
        "the gate does"
    );
    shop.program.hold_level("normal").await;
    shop.upstream.release(&mut shop.held).await;
}

#[tokio::test]
async fn who_is_let_in_by_a_path_stays_in_there_alone() {
    let mut shop = Shop::open("throttle.stay = \"5m\"").await;
    shop.load(50).await;
    shop.program.until_level("throttle").await;
    shop.crowd().await;
    shop.until_class("default", |class| class["throttled"] == 1.0)
        .await;
    // Somebody whom the lot lets in.
    let mut found = None;
    for number in 0..100 {
        let asked = get("/checkout/pay").from(visitor(number));
        let answer = asked.ask(shop.program.site).await;
        if answer.status == 200 {
            let cookie = answer.header("set-cookie").unwrap();
            found = Some((number, cookie.split(';').next().unwrap().to_owned()));
            break;
        }
    }
    let (number, cookie) = found.expect("most are let in");
    // Everyone is turned away who is not in.
    shop.program.hold_level("throttle").await;
    let ask = |path| {
        let asked = get(path).from(visitor(number)).header("Cookie", &cookie);
        shop.fate(asked)
    };
    assert_eq!(ask("/checkout/").await, Fate::Served);
    assert_eq!(ask("/").await, Fate::Told);
    assert_eq!(ask("/search").await, Fate::Told);
    let lower = cookie.replace(".5.", ".");
    assert_ne!(lower, cookie, "it tells its priority");
    let asked = plain(number).header("Cookie", &lower);
    assert_eq!(shop.fate(asked).await, Fate::Told, "which is signed");
    assert_eq!(shop.fates(gold).await, [Fate::Told; ASKED]);
    shop.program.hold_level("normal").await;
    shop.upstream.release(&mut shop.held).await;
}

#[tokio::test]
async fn who_is_in_everywhere_stays_so_when_a_path_lets_them_in() {
    let mut shop = Shop::open("throttle.stay = \"5m\"").await;
    // A breath past the second threshold: nearly everyone is let in, whatever the class.
    shop.load(41).await;
    shop.program.until_level("throttle").await;
    let mut cookie = None;
    for number in 0..100 {
        let answer = plain(number).ask(shop.program.site).await;
        if let Some(given) = answer.header("set-cookie") {
            cookie = Some((number, given.split(';').next().unwrap().to_owned()));
            break;
        }
    }
    let (number, cookie) = cookie.expect("nearly everyone is let in");
    let checkout = get("/checkout/")
        .from(visitor(number))
        .header("Cookie", &cookie)
        .ask(shop.program.site)
        .await;
    let renewed = checkout.header("set-cookie").unwrap();
    let renewed = renewed.split(';').next().unwrap();
    shop.program.hold_level("throttle").await;
    let asked = plain(number).header("Cookie", renewed);
    assert_eq!(shop.fate(asked).await, Fate::Served, "{renewed}");
    shop.program.hold_level("normal").await;
    shop.upstream.release(&mut shop.held).await;
}

#[tokio::test]
async fn report_mode_counts_by_class_and_changes_nothing() {
    let mut shop = Shop::open("mode = \"report\"").await;
    shop.load(50).await;
    shop.program.until_level("throttle").await;
    shop.crowd().await;
    shop.until_class("default", |class| class["throttled"] == 1.0)
        .await;
    assert_eq!(shop.fates(plain).await, [Fate::Served; ASKED]);
    let status = shop.program.status().await;
    let class = named(&status["classes"], "default");
    assert!(class["turned_away"]["throttled"].as_u64().unwrap() >= ASKED as u64);
    shop.upstream.release(&mut shop.held).await;
}

#[tokio::test]
async fn without_classes_there_is_no_word_of_them() {
    let program = Program::serve(&Config::new("primary.upstream = \"http://127.0.0.1:9\"")).await;
    assert_eq!(
        program.status().await["classes"].as_array().unwrap().len(),
        0
    );
    let metrics = get("/metrics").ask(program.admin).await;
    assert!(!metrics.text().contains("overspill_turned_away"));
}

#[tokio::test]
async fn check_refuses_a_class_that_an_unsigned_cookie_lifts_into() {
    let config = r#"
        primary.upstream = "http://127.0.0.1:9"
        offload.identity = { cookie = "session" }
        [[throttle.classes]]
        name = "gold"
        identity = "gold-*"
    "#;
    for command in [&["check"][..], &["serve"]] {
        let run = run(command, config).await;
        assert_eq!(run.code, Some(1), "{run:?}");
        let told = "`throttle.classes[0].identity` needs `offload.identity.key`";
        assert!(run.stderr.contains(told), "{}", run.stderr);
    }
    let signed = config.replace("\"session\"", "\"session\", key = \"a long secret\"");
    let run = run(&["check"], &signed).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("throttle.classes"), "{}", run.stdout);
}
