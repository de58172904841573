//! `overspill explain`: what happens to each link of a page, and why.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, response::Parts};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Serialize;
use url::Url;

use super::{ExplainArguments, check::settings};
use crate::{
    config::Settings,
    rewrite::{
        BailOut, Finding, Kinds, OwnHosts, Page, Rules, Target,
        coding::decode_all,
        csp, explain,
        headers::{Unqualified, qualifies},
    },
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
    /// Those of the response; a file has none.
    parts: Option<Parts>,
    body: Bytes,
}

/// What was found in a page.
struct Seen {
    findings: Vec<Finding>,
    /// Why its end was not looked at.
    bail_out: Option<BailOut>,
    /// Why none of it is looked at.
    unqualified: Option<Unqualified>,
    server: Server,
}

/// What is told of a page.
struct Told<'a> {
    lines: Vec<Line<'a>>,
    bail_out: Option<BailOut>,
    unqualified: Option<Unqualified>,
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
    let seen = look(&settings, &source)?;
    let found = seen.findings.iter();
    let told = Told {
        lines: found.map(|found| line(found, &seen.server)).collect(),
        bail_out: seen.bail_out,
        unqualified: seen.unqualified,
    };
    let out = io::stdout();
    let written = if arguments.json {
        json(&told, out.lock())
    } else {
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        text(&told, colour, out.lock())
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

fn look(settings: &Settings, source: &Source) -> Result<Seen, BoxError> {
    let none = HeaderMap::new();
    let headers = source.parts.as_ref().map_or(&none, |parts| &parts.headers);
    let rules = Rules::new(&settings.rewrite).map_err(|errors| errors[0].to_string())?;
    let hosts = OwnHosts::new(&settings.primary.hosts).unwrap_or_default();
    let host = &source.url[url::Position::BeforeHost..url::Position::AfterPort];
    let path = &source.url[url::Position::BeforePath..url::Position::AfterQuery];
    let page = Page::new(source.url.scheme() == "https", host, path, Arc::new(hosts))
        .ok_or("the page's address has no host")?
        .with_base_allowed(!csp::restricts_base(headers))
        .with_styles_hashed(csp::hashes_inline_styles(headers));
    // Without a server: one that takes everything.
    let target = match settings.offload.servers.first() {
        Some(server) => Target::new(&server.name, &server_url(&server.url)?, server.cors)?,
        None => Target::new("any", &Url::parse("https://offload.invalid")?, true)?,
    };
    let kinds = csp::allow(&mut headers.clone(), target.origin(), target.kinds());
    let coding = match &source.parts {
        Some(parts) => qualifies(parts, &Method::GET, target.cors()),
        None => Ok(None),
    };
    let (body, unqualified) = match coding {
        Ok(Some(coding)) => {
            let body = decode_all(coding, &source.body, LARGEST);
            (
                body.map_err(|error| format!("{}: {error}", source.url))?,
                None,
            )
        }
        Ok(None) => (source.body.clone(), None),
        // What is no page has no links.
        Err(unqualified) => (Bytes::new(), Some(unqualified)),
    };
    let (findings, bail_out) = explain(Arc::new(rules), page, &body);
    Ok(Seen {
        findings,
        bail_out,
        unqualified,
        server: Server { target, kinds },
    })
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

fn json(told: &Told<'_>, mut out: impl Write) -> io::Result<()> {
    let all = serde_json::json!({
        "links": told.lines,
        "bail_out": told.bail_out.map(BailOut::label),
        "unqualified": told.unqualified.map(Unqualified::label),
    });
    writeln!(out, "{all}")
}

/// As it may be written to a terminal: what a page contains must not steer it.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

fn text(told: &Told<'_>, colour: bool, mut out: impl Write) -> io::Result<()> {
    let lines = &told.lines;
    if let Some(reason) = told.unqualified {
        return writeln!(
            out,
            "nothing moves, the response goes out as it is: {}",
            reason.reason()
        );
    }
    let place = |line: &Line<'_>| format!("{} {}", shown(line.element), shown(line.attribute));
    let width = lines
        .iter()
        .map(|line| place(line).chars().count())
        .max()
        .unwrap_or(0);
    for line in lines {
        let (word, paint) = if line.moved {
            ("moves", "\x1b[32m")
        } else {
            ("stays", "\x1b[33m")
        };
        let (paint, end) = if colour { (paint, "\x1b[0m") } else { ("", "") };
        let value = line.resolved.unwrap_or(line.value).chars().take(120);
        writeln!(
            out,
            "{paint}{word}{end}  {:width$}  {}  {}",
            place(line),
            shown(&value.collect::<String>()),
            line.reason
        )?;
    }
    let moved = lines.iter().filter(|line| line.moved).count();
    writeln!(out, "{moved} of {} links move", lines.len())?;
    match told.bail_out {
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
                parts: None,
                body: body.into(),
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
            .body(Empty::<Bytes>::new())?;
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
            parts: Some(parts),
            body,
        })
    })
}
