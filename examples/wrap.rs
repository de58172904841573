//! The layer around an axum app.
//!
//! ```text
//! cargo run --example wrap
//! curl -i http://127.0.0.1:3000/
//! ```
//!
//! Settings are those of `config/overspill.toml`, or of the file that `OVERSPILL_CONFIG` names.

use std::{error::Error, net::SocketAddr};

use axum::{Router, response::Html, routing::get};
use overspill::{Overspill, Settings};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The sampler and the probes of the offload servers begin their work.
    let overspill = Overspill::start(Settings::load()?)?;

    let app = Router::new()
        .route("/", get(page))
        // Last, so that it stands outside everything else: what is turned away costs nothing further in.
        .layer(overspill.layer());

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    // The gate closes connections at level `drop`; connect info tells the layer who asks.
    axum::serve(
        overspill.gate(listener),
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await?;
    Ok(())
}

async fn page() -> Html<&'static str> {
    Html(r#"<!doctype html><title>Hello</title><h1>Hello</h1><img src="/hello.png" alt="">"#)
}
