//! An application whose pages cost processor time, alone and with the layer, for `cpu`.
//!
//! ```text
//! app VARIANT ADDRESS FOLDER MILLISECONDS
//! ```
//!
//! | variant | what is served |
//! |---|---|
//! | `bare` | the application alone |
//! | `layer` | with the layer and the gate; settings are those of the file that `OVERSPILL_CONFIG` names |
//!
//! Every file of the folder is served from memory. A page costs so many milliseconds on the processor, on the thread
//! that serves it, as a template does. It is time on the processor that is counted, not time that goes by: so a page
//! costs the same on a machine that does much else, and while a quota holds the process up.
//!
//! With the layer, a line of JSON a second on the standard output: what [`Overspill::status`] says.

use std::{
    collections::HashMap,
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use bytes::Bytes;
use overspill::{Overspill, Settings};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::{TcpListener, TcpStream};

type Files = HashMap<String, (&'static str, Bytes)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [variant, address, folder, milliseconds] = &arguments[..] else {
        return Err("expected VARIANT ADDRESS FOLDER MILLISECONDS".into());
    };
    let cost = Duration::from_secs_f64(milliseconds.parse::<f64>()? / 1e3);
    let mut files = Files::new();
    read(Path::new(folder), "", &mut files)?;
    let files = Arc::new(files);
    let app = Router::new().fallback(async move |request: Request| answer(&files, cost, &request));

    let listener = TcpListener::bind(address).await?;
    match variant.as_str() {
        "bare" => {
            // As the gate does.
            let no_delay = |stream: &mut TcpStream| {
                let _ = stream.set_nodelay(true);
            };
            let service = app.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(listener.tap_io(no_delay), service).await?;
        }
        "layer" => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_max_level(tracing::Level::INFO)
                .init();
            let overspill = Overspill::start(Settings::load()?)?;
            let service = app
                .layer(overspill.layer())
                .into_make_service_with_connect_info::<SocketAddr>();
            let gate = overspill.gate(listener);
            thread::spawn(move || tell(&overspill));
            axum::serve(gate, service).await?;
        }
        _ => return Err("expected bare or layer".into()),
    }
    Ok(())
}

fn answer(files: &Files, cost: Duration, request: &Request) -> Response {
    let path = match request.uri().path() {
        "/" => "/index.html",
        path => path,
    };
    let Some((kind, body)) = files.get(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if *kind == "text/html" {
        compute(cost);
    }
    ([(header::CONTENT_TYPE, *kind)], body.clone()).into_response()
}

/// Keeps the processor busy until this thread has had so much of it.
fn compute(cost: Duration) {
    let until = processor_time() + cost;
    while processor_time() < until {
        std::hint::black_box((0..5_000_u64).fold(0, |sum: u64, n| sum.rotate_left(5) ^ n));
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn read(folder: &Path, prefix: &str, files: &mut Files) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &path, files)?;
            continue;
        }
        let kind = match path.rsplit('.').next() {
            Some("html") => "text/html",
            Some("css") => "text/css",
            Some("js") => "text/javascript",
            Some("jpg") => "image/jpeg",
            _ => "application/octet-stream",
        };
        files.insert(path, (kind, fs::read(entry.path())?.into()));
    }
    Ok(())
}

/// Never ends.
fn tell(overspill: &Overspill) {
    loop {
        let unix = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if let Ok(status) = serde_json::to_value(overspill.status()) {
            println!(
                "{}",
                serde_json::json!({ "time": unix.as_secs_f64(), "status": status })
            );
        }
        thread::sleep(Duration::from_secs(1));
    }
}
