//! The gate before a server of one's own: whom it lets in, and whether the layer says the same.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{Router, routing::get as answers};
use overspill::{
    Overspill, Settings,
    level::Level,
    load::{Signal, SignalError, Thresholds},
    offload::{Admit, Applicant, Verdict},
    units::Ratio,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout},
};

use crate::support::{
    client::{connect, drain, get, visitor},
    wait::{soon, until},
};

/// A load that is what the test says.
struct Told(watch::Receiver<f64>);

impl Signal for Told {
    fn name(&self) -> &str {
        "told"
    }

    fn sample(&mut self, _: Instant) -> Result<Option<Ratio>, SignalError> {
        Ok(Ratio::new(*self.0.borrow()))
    }
}

struct Server {
    overspill: Overspill,
    address: SocketAddr,
    load: watch::Sender<f64>,
}

const QUIET: &str = r#"
    load.interval = "20ms"
    load.smoothing = "0s"
    load.cpu.enabled = false
    load.bandwidth.enabled = false
    throttle.stay = "0s"
"#;

/// Turned away from a load of 1 on, dropped from 2 on, all of them at 3.
async fn start(lines: &str) -> Server {
    start_with(lines, |builder| builder).await
}

async fn start_with(
    lines: &str,
    with: impl FnOnce(overspill::app::Builder) -> overspill::app::Builder,
) -> Server {
    let settings = Settings::from_toml(&format!("{lines}\n{QUIET}")).unwrap();
    let (load, told) = watch::channel(0.0);
    let thresholds = Thresholds {
        offload: Ratio::new(0.5),
        throttle: Ratio::new(1.0),
        drop: Ratio::new(2.0),
    };
    let builder = Overspill::builder(settings).signal(Told(told), thresholds);
    let overspill = with(builder).start().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/", answers(async || "page"))
        .layer(overspill.layer());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let gate = overspill.gate(listener);
    tokio::spawn(async move { axum::serve(gate, app).await });
    Server {
        overspill,
        address,
        load,
    }
}

impl Server {
    async fn set_load(&self, load: f64, dropped: f64) {
        self.load.send_replace(load);
        until(format_args!("{dropped} are dropped"), async || {
            let status = self.overspill.status();
            let is_there = dropped == 0.0 || status.level == "drop";
            (is_there && (status.dropped - dropped).abs() < 1e-6).then_some(())
        })
        .await;
    }

    /// Whether who comes from there gets an answer, on a connection of his own.
    async fn answers(&self, from: Ipv4Addr) -> bool {
        !get("/").from(from).bytes(self.address).await.is_empty()
    }

    /// A connection from there that asks for nothing is left open, or else ended: the layer has no part in that.
    async fn lets_in(&self, from: Ipv4Addr, is_let_in: bool) {
        // It may be over before it shows as begun.
        let Ok(mut stream) = connect(from, self.address).await else {
            assert!(!is_let_in, "{from}");
            return;
        };
        if is_let_in {
            let end = timeout(Duration::from_millis(300), stream.read_u8()).await;
            assert!(end.is_err(), "{from}");
        } else {
            assert!(soon("its end", stream.read_u8()).await.is_err(), "{from}");
        }
    }
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n";

/// Asks on a connection that was there before; whether an answer came, the page or a 503.
async fn is_answered(stream: &mut TcpStream) -> bool {
    if stream.write_all(ASK).await.is_err() {
        return false;
    }
    let mut read = Vec::new();
    while !is_whole(&read) {
        match soon("an answer or an end", stream.read_buf(&mut read)).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// Whether that is an answer with all of its body.
fn is_whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() == length.unwrap().parse::<usize>().unwrap()
}

#[tokio::test]
async fn the_part_that_is_dropped_follows_the_load_and_gate_and_layer_agree() {
    const VISITORS: usize = 300;
    let server = start("").await;
    // Connections that are there before, by which the layer alone is asked. Nothing was asked for on them: who was
    // given a page a moment ago would be let in for its objects.
    let mut kept = Vec::new();
    for number in 0..VISITORS {
        kept.push(Some(
            connect(visitor(number), server.address).await.unwrap(),
        ));
    }
    until("all are let in", async || {
        (server.overspill.status().connections == VISITORS).then_some(())
    })
    .await;
    for (load, dropped) in [(2.25, 0.25), (2.5, 0.5), (2.75, 0.75), (3.0, 1.0)] {
        server.set_load(load, dropped).await;
        let epoch = server.overspill.shared().snapshot().epoch;
        let (mut answered, mut disagree) = (0, Vec::new());
        for (number, kept) in kept.iter_mut().enumerate() {
            let is_let_in = server.answers(visitor(number)).await;
            answered += usize::from(is_let_in);
            if let Some(stream) = kept
                && is_answered(stream).await != is_let_in
            {
                disagree.push(number);
            }
            // One that was dropped has ended.
            if !is_let_in {
                *kept = None;
            }
        }
        // In the middle of it lots may have been drawn anew.
        if server.overspill.shared().snapshot().epoch == epoch {
            assert!(disagree.is_empty(), "at {load}: {disagree:?}");
        }
        let part = 1.0 - answered as f64 / VISITORS as f64;
        // Four standard deviations of 300 lots.
        assert!((part - dropped).abs() < 0.12, "{part}, not {dropped}");
    }
    server.set_load(0.0, 0.0).await;
    assert!(server.answers(visitor(1)).await);
}

#[tokio::test]
async fn at_drop_only_proxies_exempt_addresses_and_offload_servers_pass() {
    let lines = r#"
        primary.trusted_proxies = ["127.1.0.1"]
        throttle.bypass.addresses = ["127.1.0.2"]
        offload.servers = [{ name = "eu", url = "http://127.1.0.3:9", health = false }]
    "#;
    let server = start(lines).await;
    let hour = Duration::from_secs(3600);
    server.overspill.override_level(Level::Drop, hour);
    for number in [1, 2, 3] {
        server.lets_in(visitor(number), true).await;
    }
    for number in 4..10 {
        server.lets_in(visitor(number), false).await;
    }
}

/// Drops the odd addresses.
#[derive(Debug)]
struct OnlyEven;

impl Admit for OnlyEven {
    fn admit(&self, applicant: &Applicant<'_>) -> Verdict {
        match applicant.client.address {
            Some(IpAddr::V4(address)) if address.octets()[3] % 2 == 1 => Verdict::Drop,
            _ => Verdict::Admit,
        }
    }
}

#[tokio::test]
async fn the_gate_heeds_an_admission_of_ones_own() {
    let server = start_with("", |builder| builder.admit(OnlyEven)).await;
    server.set_load(2.5, 0.5).await;
    for number in 2..10 {
        let from = visitor(number);
        server.lets_in(from, number % 2 == 0).await;
        assert_eq!(server.answers(from).await, number % 2 == 0, "{from}");
    }
}

#[tokio::test]
async fn with_stall_whoever_comes_waits_until_it_opens() {
    let server = start("drop.method = \"stall\"").await;
    server.set_load(3.0, 1.0).await;
    // One was being waited for already; the layer drops what it asks for.
    let mut first = connect(visitor(1), server.address).await.unwrap();
    assert!(!is_answered(&mut first).await);
    let address = server.address;
    let waiting = tokio::spawn(async move { get("/").from(visitor(2)).bytes(address).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    // For half of the time it is open, and then everyone comes in and is asked by the layer.
    server.set_load(2.5, 0.5).await;
    let mut answered = 0;
    for number in 10..60 {
        let mut stream = connect(visitor(number), server.address).await.unwrap();
        answered += usize::from(is_answered(&mut stream).await);
    }
    // Four standard deviations of 50 lots.
    assert!((11..40).contains(&answered), "{answered}");
    soon("who waited comes in", waiting).await.unwrap();
    server.set_load(0.0, 0.0).await;
    let mut last = connect(visitor(3), server.address).await.unwrap();
    last.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(drain(&mut last).await.0.ends_with(b"page"));
}

#[tokio::test]
async fn nothing_is_dropped_while_it_only_reports() {
    let server = start("mode = \"report\"").await;
    let hour = Duration::from_secs(3600);
    server.overspill.override_level(Level::Drop, hour);
    for number in 0..20 {
        assert!(server.answers(visitor(number)).await);
    }
}
