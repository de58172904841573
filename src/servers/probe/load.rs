//! Asks a server for its load, again and again, in the form that it has.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Uri};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{PATIENCE, ask::HttpClient, ticks};
use crate::servers::{
    report::{self, Agent, OrcaReport, Rate, ReportKind, agent},
    server::Server,
    settings::absolute_url,
};

/// Where and how a load is told.
#[derive(Debug)]
pub(super) enum Question {
    Orca(Uri, Option<HeaderValue>),
    Prometheus(Uri, Rate),
    /// Host and port.
    Agent(String),
}

/// What was told.
enum Told {
    Load(crate::units::Ratio),
    Orca(OrcaReport),
    Agent(Agent),
    /// A counter that was looked at for the first time.
    NothingYet,
}

// === impl Question ===

impl Question {
    /// The question to `server`, if it has one. The `token` is shown to those that give ORCA reports: they may
    /// be ours.
    pub(super) fn of(server: &Server, token: &str) -> Option<Self> {
        let settings = &server.settings().report;
        let uri = || absolute_url(&settings.url).ok()?.as_str().parse().ok();
        Some(match settings.kind {
            ReportKind::None => return None,
            ReportKind::Orca => Self::Orca(uri()?, authorization(token)),
            ReportKind::Prometheus => Self::Prometheus(uri()?, Rate::default()),
            ReportKind::Agent => Self::Agent(settings.url.clone()),
        })
    }

    /// Asks for ever.
    pub(super) async fn ask(mut self, client: HttpClient, server: Arc<Server>) {
        let every = server.settings().report.every;
        let mut ticks = ticks(every);
        let patience = every.clamp(Duration::from_millis(500), PATIENCE);
        loop {
            ticks.tick().await;
            let told = timeout(patience, self.ask_once(&client, &server))
                .await
                .unwrap_or_else(|_| Err(format!("no report within {patience:?}")));
            match told {
                Ok(Told::Orca(report)) => server.observe_orca(Ok(report), Instant::now()),
                Ok(Told::Load(load)) => server.observe_report(Ok(load), Instant::now()),
                Ok(Told::Agent(agent)) => server.observe_agent(agent, Instant::now()),
                Ok(Told::NothingYet) => {}
                Err(reason) => server.observe_report(Err(reason), Instant::now()),
            }
        }
    }

    async fn ask_once(&mut self, client: &HttpClient, server: &Server) -> Result<Told, String> {
        let told = match self {
            Self::Orca(uri, authorization) => {
                let body = client
                    .text(uri, authorization.as_ref(), report::LIMIT)
                    .await?;
                report::read(&body).map(Told::Orca)
            }
            Self::Prometheus(uri, rate) => {
                let body = client.text(uri, None, report::prometheus::LIMIT).await?;
                let settings = &server.settings().report;
                let unix = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0.0, |since| since.as_secs_f64());
                report::find(&body, &settings.metric, &settings.labels, unix).and_then(|value| {
                    let value = if settings.rate {
                        rate.observe(value, Instant::now())
                    } else {
                        Some(value)
                    };
                    value.map_or(Ok(Told::NothingYet), |value| {
                        report::measured(value, settings.capacity.unwrap_or(1.0)).map(Told::Load)
                    })
                })
            }
            Self::Agent(address) => {
                let stream = TcpStream::connect(&**address)
                    .await
                    .map_err(|error| error.to_string())?;
                Agent::parse(&line(stream).await?).map(Told::Agent)
            }
        };
        told.map_err(|error| error.to_string())
    }
}

pub(in crate::servers) fn authorization(token: &str) -> Option<HeaderValue> {
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads to the end of the line, or to the end of all: some agents leave the line open.
async fn line(stream: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut stream = stream.take(agent::LIMIT as u64);
    let mut line = Vec::with_capacity(64);
    loop {
        let read = stream.read_buf(&mut line).await;
        let read = read.map_err(|error| error.to_string())?;
        if line.contains(&b'\n') {
            return Ok(line);
        }
        if read == 0 {
            if line.len() >= agent::LIMIT {
                return Err(format!("expected a line of at most {} bytes", agent::LIMIT));
            }
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_ends_with_its_end_or_with_all_and_is_never_endless() {
        assert_eq!(line(&b"75%\nmore"[..]).await.unwrap(), b"75%\nmore");
        assert_eq!(line(&b"75%"[..]).await.unwrap(), b"75%");
        assert_eq!(line(&b""[..]).await.unwrap(), b"");
        let error = line(tokio::io::repeat(b'7')).await.unwrap_err();
        assert!(error.contains("at most 1024 bytes"), "{error}");
    }
}
