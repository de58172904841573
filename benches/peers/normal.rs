//! A page from memory with and without the layer, for `normal.sh` and `no.sh`.
//!
//! ```text
//! normal VARIANT [LEVEL [METHOD]]
//! ```
//!
//! | variant | what is served |
//! |---|---|
//! | `bare` | the app alone, as `axum::serve(listener, app)` |
//! | `info` | … with connect info |
//! | `gate` | … with connect info, behind the gate |
//! | `layer` | … and with the layer by `Router::layer`: the README's example |
//! | `around` | … and with the layer around the whole router instead |
//! | `ungated` | with connect info and the layer by `Router::layer`, without the gate |
//!
//! LEVEL holds a level by hand, METHOD is how `drop` closes connections (`drop.method`).
//!
//! One worker thread. Prints its address, and when it is told to end (SIGTERM) the level and how many requests
//! the layer has served, throttled and dropped. The signal `cpu` is off, since the measurement keeps a core busy and the level must
//! stay `normal`; everything else is as by default.

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{
    Router, ServiceExt,
    body::Body,
    extract::Request,
    response::{Html, Response},
    routing::get,
    serve::{Listener, ListenerExt},
};
use bytes::Bytes;
use overspill::{
    Overspill, Settings,
    level::Level,
    offload::{OffloadBody, Outcome},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tower::Layer;

/// Bytes of the page.
const PAGE: usize = 13_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let variant = std::env::args().nth(1).unwrap_or_default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);

    let page = Bytes::from(page());
    let app = Router::new().route("/", get(async move || Html(page.clone())));
    // As the gate does it.
    let no_delay = |stream: &mut tokio::net::TcpStream| {
        let _ = stream.set_nodelay(true);
    };

    let level: Option<Level> = std::env::args()
        .nth(2)
        .map(|level| level.parse())
        .transpose()?;
    let mut settings = Settings::from_toml(&match std::env::args().nth(3) {
        Some(method) => format!("drop.method = {method:?}"),
        None => String::new(),
    })?;
    settings.load.cpu.enabled = false;
    let start = || -> Result<Overspill, Box<dyn Error>> {
        let overspill = Overspill::start(settings)?;
        if let Some(level) = level {
            overspill.override_level(level, Duration::from_secs(600));
        }
        Ok(overspill)
    };
    let overspill = match variant.as_str() {
        "bare" => {
            until_told(axum::serve(listener.tap_io(no_delay), app)).await?;
            return Ok(());
        }
        "info" => {
            serve(listener.tap_io(no_delay), app).await?;
            return Ok(());
        }
        "gate" => {
            let overspill = start()?;
            serve(overspill.gate(listener), app).await?;
            overspill
        }
        "layer" => {
            let overspill = start()?;
            serve(overspill.gate(listener), app.layer(overspill.layer())).await?;
            overspill
        }
        "ungated" => {
            let overspill = start()?;
            serve(listener.tap_io(no_delay), app.layer(overspill.layer())).await?;
            overspill
        }
        "around" => {
            let overspill = start()?;
            let around = overspill.layer().layer(app);
            let around = tower::ServiceExt::<Request>::map_response(
                around,
                |response: Response<OffloadBody<Body>>| response.map(Body::new),
            );
            let service =
                ServiceExt::<Request>::into_make_service_with_connect_info::<SocketAddr>(around);
            until_told(axum::serve(overspill.gate(listener), service)).await?;
            overspill
        }
        _ => return Err("expected bare, info, gate, layer, around or ungated".into()),
    };
    let shared = overspill.shared();
    println!(
        "level {} served {} throttled {} dropped {}",
        shared.snapshot().level,
        shared.counters.outcome(Outcome::Served),
        shared.counters.outcome(Outcome::Throttled),
        shared.counters.outcome(Outcome::Dropped)
    );
    Ok(())
}

/// Serves `app` with connect info.
async fn serve<L>(listener: L, app: Router) -> Result<(), Box<dyn Error>>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
    SocketAddr: for<'a> axum::extract::connect_info::Connected<axum::serve::IncomingStream<'a, L>>,
{
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    until_told(axum::serve(listener, service)).await
}

async fn until_told<F>(serving: F) -> Result<(), Box<dyn Error>>
where
    F: IntoFuture<Output = std::io::Result<()>>,
{
    let mut told = signal(SignalKind::terminate())?;
    tokio::select! {
        result = serving.into_future() => Ok(result?),
        _ = told.recv() => Ok(()),
    }
}

/// Text with links to a dozen objects.
fn page() -> String {
    let mut page = String::from("<!doctype html><html><head><title>A crowd</title></head><body>");
    for number in 0..12 {
        page.push_str(&format!("<img src=\"/images/{number}.png\" alt=\"\">"));
    }
    while page.len() < PAGE {
        page.push_str("<p>More people came than the server could serve.</p>\n");
    }
    page.truncate(PAGE);
    page
}
