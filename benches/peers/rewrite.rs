//! A page from memory, rewritten and not, for `rewrite.sh`.
//!
//! ```text
//! rewrite VARIANT KILOBYTES
//! ```
//!
//! | variant | what is served |
//! |---|---|
//! | `bare` | the page by the app alone |
//! | `normal` | the page with the layer at `normal` |
//! | `known` | the page with the layer at `offload`: the same bytes each time |
//! | `copied` | the same, but each time in a new place in memory |
//! | `first` | another page each time, with the layer at `offload` |
//! | `print` | prints the page |
//!
//! One worker thread. Prints its address.

use std::{
    error::Error,
    fmt::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Html, routing::get, serve::ListenerExt};
use bytes::Bytes;
use overspill::{Overspill, Settings, level::Level};
use tokio::net::TcpListener;

const SERVER: &str = r#"
load.cpu.enabled = false
offload.share = 1.0
offload.servers = [{ name = "eu", url = "https://eu.offload.example", cors = true, health = false }]
primary.trusted_proxies = []
"#;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let variant = arguments.next().unwrap_or_default();
    let size = arguments.next().unwrap_or_default().parse::<usize>()? * 1_000;
    let page = page(size);
    if variant == "print" {
        print!("{page}");
        return Ok(());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let bytes = Bytes::from(page.clone());
    let number = AtomicU64::new(0);
    let app = Router::new();
    let app = match variant.as_str() {
        "bare" | "normal" | "known" => app.route("/", get(async move || Html(bytes.clone()))),
        "copied" => app.route("/", get(async move || Html(page.clone()))),
        "first" => {
            let number = Arc::new(number);
            app.route(
                "/",
                get(async move || {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    Html(format!("{page}<!-- {number} -->"))
                }),
            )
        }
        _ => return Err("expected bare, normal, known, copied, first or print".into()),
    };
    if variant == "bare" {
        let no_delay = |stream: &mut tokio::net::TcpStream| {
            let _ = stream.set_nodelay(true);
        };
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        return Ok(axum::serve(listener.tap_io(no_delay), service).await?);
    }
    let overspill = Overspill::start(Settings::from_toml(SERVER)?)?;
    while !overspill.status().servers[0].usable {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let level = match variant.as_str() {
        "normal" => Level::Normal,
        _ => Level::Offload,
    };
    overspill.override_level(level, Duration::from_secs(3600));
    let service = app
        .layer(overspill.layer())
        .into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(overspill.gate(listener), service).await?)
}

/// A page of documentation: text, with a link to an object for every five hundred bytes or so.
fn page(size: usize) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Manual</title>\n\
         <link rel=\"stylesheet\" href=\"/static/manual.css\"><script src=\"/static/manual.js\"></script></head><body>\n",
    );
    let mut number = 0;
    while page.len() < size - 300 {
        number += 1;
        let _ = write!(
            page,
            "<h2 id=\"s{number}\">Section {number}</h2>\n<p>When more people come than a server can serve, \
             each of them gets <a href=\"/manual/{number}.html\">less and less</a>, until <em>nobody</em> gets \
             anything that is whole. This section tells what to do about it, step by step, and why.</p>\n\
             <ul><li>Measure the load.</li><li>Move what can be moved.</li><li>Turn away the rest.</li></ul>\n\
             <p><img src=\"/images/figure-{number}.png\" alt=\"Figure {number}\" width=\"640\" height=\"480\"></p>\n"
        );
    }
    page.push_str("</body></html>\n");
    page.extend(std::iter::repeat_n(' ', size.saturating_sub(page.len())));
    page
}
