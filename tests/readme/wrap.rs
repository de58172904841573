use axum::{Router, response::Html, routing::get};
use overspill::{Overspill, Settings};
use std::{error::Error, net::SocketAddr};
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let overspill = Overspill::start(Settings::load()?)?; // begins to measure
    let page = || async { Html("<!doctype html><img src=/hello.png>") };
    let app = Router::new().route("/", get(page)).layer(overspill.layer()); // does the work
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let listener = overspill.gate(listener); // closes connections before they cost anything
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
