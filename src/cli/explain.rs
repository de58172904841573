//! `overspill explain`: what happens to each link of a page, and why.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Serialize;
use url::Url;

use super::{ExplainArguments, check::settings};
use crate::{
    config::Settings,
    rewrite::{BailOut, Finding, Kinds, OwnHosts, Page, Rules, Target, csp, explain},
    servers::server_url,
};

type BoxError = Box<dyn std::error::Error>;

/// No page that people read is larger.
const LARGEST: usize = 64 * 1024 * 1024;
/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A page, and where it stands.
struct Source {
    url: Url,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

/// One link, for machines.
#[derive(Debug, Serialize)]
struct Line<'a> {
    element: &'a str,
    attribute: &'a str,
    value: &'a str,
    resolved: Option<&'a str>,
    moved: bool,
    /// A word for the reason why it stays.
    why: Option<&'static str>,
    reason: String,
}

/// Prints every link of the page.
pub(super) fn run(arguments: &ExplainArguments) -> Result<(), BoxError> {
    let settings = settings(&arguments.config)?;
    let source = read(&arguments.page)?;
    let (findings, bail_out, server) = look(&settings, &source)?;
    let lines: Vec<_> = findings.iter().map(|found| line(found, &server)).collect();
    let out = io::stdout();
    let written = if arguments.json {
        json(&lines, bail_out, out.lock())
    } else {
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        text(&lines, bail_out, colour, out.lock())
    };
    match written {
        // Who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// The first server that is configured, and what a page's policies let move there.
struct Server {
    target: Target,
    kinds: Kinds,
}

fn look(
    settings: &Settings,
    source: &Source,
) -> Result<(Vec<Finding>, Option<BailOut>, Server), BoxError> {
    let rules = Rules::new(&settings.rewrite).map_err(|errors| errors[0].to_string())?;
    let hosts = OwnHosts::new(&settings.primary.hosts).unwrap_or_default();
    let host = &source.url[url::Position::BeforeHost..url::Position::AfterPort];
    let path = &source.url[url::Position::BeforePath..url::Position::AfterQuery];
    let page = Page::new(source.url.scheme() == "https", host, path, Arc::new(hosts))
        .ok_or("the page's address has no host")?
        .with_base_allowed(!csp::restricts_base(&source.headers))
        .with_styles_hashed(csp::hashes_inline_styles(&source.headers));
    // Without a server: one that takes everything.
    let target = match settings.offload.servers.first() {
        Some(server) => Target::new(&server.name, &server_url(&server.url)?, server.cors)?,
        None => Target::new("any", &Url::parse("https://offload.invalid")?, true)?,
    };
    let kinds = csp::allow(&mut source.headers.clone(), target.origin(), target.kinds());
    let (findings, bail_out) = explain(Arc::new(rules), page, &source.body);
    Ok((findings, bail_out, Server { target, kinds }))
}

fn line<'a>(found: &'a Finding, server: &Server) -> Line<'a> {
    let (why, reason) = match (
        found.stays(),
        found.refused_by(&server.target, server.kinds),
    ) {
        (Some(stay), _) => (Some(stay.label()), stay.reason().to_owned()),
        (None, Some(refusal)) => (
            Some("server"),
            format!("{refusal} (server {})", server.target.name()),
        ),
        (None, None) => (None, format!("to {}", server.target.prefix())),
    };
    Line {
        element: &found.element,
        attribute: &found.attribute,
        value: &found.value,
        resolved: found.resolved.as_deref(),
        moved: why.is_none(),
        why,
        reason,
    }
}

fn json(lines: &[Line<'_>], bail_out: Option<BailOut>, mut out: impl Write) -> io::Result<()> {
    let all = serde_json::json!({ "links": lines, "bail_out": bail_out.map(BailOut::label) });
    writeln!(out, "{all}")
}

fn text(
    lines: &[Line<'_>],
    bail_out: Option<BailOut>,
    colour: bool,
    mut out: impl Write,
) -> io::Result<()> {
    let place = |line: &Line<'_>| format!("{} {}", line.element, line.attribute);
    let width = lines
        .iter()
        .map(|line| place(line).len())
        .max()
        .unwrap_or(0);
    for line in lines {
        let (word, paint) = if line.moved {
            ("moves", "\x1b[32m")
        } else {
            ("stays", "\x1b[33m")
        };
        let (paint, end) = if colour { (paint, "\x1b[0m") } else { ("", "") };
        let shown: String = line
            .resolved
            .unwrap_or(line.value)
            .chars()
            .take(120)
            .collect();
        let shown = shown.escape_debug().to_string();
        writeln!(
            out,
            "{paint}{word}{end}  {:width$}  {shown}  {}",
            place(line),
            line.reason
        )?;
    }
    let moved = lines.iter().filter(|line| line.moved).count();
    writeln!(out, "{moved} of {} links move", lines.len())?;
    match bail_out {
        Some(reason) => writeln!(
            out,
            "the rest of the page stays as it is: {}",
            reason.label()
        ),
        None => Ok(()),
    }
}

fn read(page: &str) -> Result<Source, BoxError> {
    match Url::parse(page) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => fetch(url),
        _ => {
            let body = fs::read(page).map_err(|error| format!("{page}: {error}"))?;
            Ok(Source {
                // A file stands nowhere: as if it were the site's first page.
                url: Url::parse("http://localhost/")?,
                headers: http::HeaderMap::new(),
                body,
            })
        }
    }
}

fn fetch(url: Url) -> Result<Source, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        let request = http::Request::get(url.as_str())
            .header(http::header::ACCEPT, "text/html")
            .body(http_body_util::Empty::<bytes::Bytes>::new())?;
        let answer = async {
            let (parts, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((parts, body))
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let (parts, body) = answer
            .map_err(|_| format!("{url}: no answer within {} s", PATIENCE.as_secs()))?
            .map_err(|error| format!("{url}: {error}"))?;
        if !parts.status.is_success() {
            return Err(format!("{url}: expected a page, found {}", parts.status).into());
        }
        Ok(Source {
            url,
            headers: parts.headers,
            body: body.to_vec(),
        })
    })
}
