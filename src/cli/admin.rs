//! A client of a running server's admin listener, for the commands that ask it or tell it something.

use std::{
    fmt, fs,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use url::Url;

use super::{AdminArguments, ConfigArguments, words};
use crate::{admin::AdminSettings, config::ConfigError, config::Settings};

type BoxError = Box<dyn std::error::Error>;

/// Where the token is when no file is named.
const TOKEN_VARIABLE: &str = "OVERSPILL_TOKEN";
/// A history of an hour is far smaller.
const LARGEST: usize = 16 * 1024 * 1024;
/// No token is longer.
const LONGEST_TOKEN: u64 = 16 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The admin listener of a running server.
#[derive(Clone)]
pub(super) struct Admin {
    url: Url,
    token: Option<Token>,
    patience: Duration,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What is shown, and where it was found.
#[derive(Clone)]
struct Token {
    header: HeaderValue,
    from: String,
}

/// What is wrong, in words; and whether it is worth asking again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminError {
    message: String,
    /// Asking again as it was asked can't help: the token is wrong, or the question.
    pub(super) lasts: bool,
    /// It does not know the question: an older version, or not a primary.
    pub(super) unknown: bool,
    /// When to ask again, where it says so.
    pub(super) retry: Option<Duration>,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AdminError {}

// === impl Admin ===

impl Admin {
    /// The listener and the token that the arguments name, else those of the configuration, else the usual address.
    ///
    /// # Errors
    /// The configuration's `admin` can't be read, or the file of the token.
    pub(super) fn new(
        arguments: &AdminArguments,
        config: &ConfigArguments,
    ) -> Result<Self, BoxError> {
        let settings = settings(config, arguments)?;
        let own = url_of(settings.listen)?;
        let url = arguments.admin.clone().unwrap_or_else(|| own.clone());
        let token = match (&arguments.token_file, std::env::var_os(TOKEN_VARIABLE)) {
            (Some(file), _) => Some(read_token(file)?),
            (None, Some(token)) if !token.is_empty() => {
                let token = token.into_string().unwrap_or_default();
                Some(Token::new(&token, TOKEN_VARIABLE.to_owned())?)
            }
            // A secret of this configuration is none of another server's business.
            _ if url.origin() == own.origin() && !settings.token.is_empty() => Some(Token::new(
                &settings.token,
                "`admin.token` of the configuration".to_owned(),
            )?),
            _ => None,
        };
        Self::at(url, token)
    }

    fn at(url: Url, token: Option<Token>) -> Result<Self, BoxError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        // Over plain HTTP nothing depends on whom the system trusts.
        let builder = if url.scheme() == "https" {
            builder.with_provider_and_native_roots(provider)?
        } else {
            let tls = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(tls)
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self {
            url,
            token,
            patience: PATIENCE,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// For tests: without a token.
    #[cfg(test)]
    pub(super) fn without_token(url: &str) -> Self {
        Self::at(url.parse().unwrap(), None).unwrap()
    }

    /// The same, giving up after `patience`.
    #[must_use]
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where it is, as people write it.
    pub(super) fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// Asks; `path` may carry a query.
    pub(super) async fn get(&self, path: &str) -> Result<Value, AdminError> {
        self.ask(Method::GET, path, None).await
    }

    /// Tells it something.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, AdminError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.shown())
            .parse()
            .map_err(|error| self.failed(format_args!("{}{path}: {error}", self.shown())))?;
        if let Some(token) = &self.token {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, token.header.clone());
        }
        if let Some(body) = body {
            *request.body_mut() = Full::from(body.to_string());
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        let answer = async {
            let answer = self.client.request(request).await;
            let (parts, body) = answer
                .map_err(|error| self.silent(root(&error)))?
                .into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| self.silent(root(&*error)))?;
            self.understood(path, parts.status, &parts.headers, &body.to_bytes())
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent(format_args!(
                "nothing came within {} s",
                self.patience.as_secs()
            ))),
        }
    }

    /// What answers is no primary.
    pub(super) fn stranger(&self) -> AdminError {
        AdminError {
            lasts: true,
            ..self.failed(format_args!(
                "{} answers, but is no primary (an edge?): --json shows what it says",
                self.shown()
            ))
        }
    }

    fn failed(&self, message: impl fmt::Display) -> AdminError {
        AdminError {
            message: message.to_string(),
            lasts: false,
            unknown: false,
            retry: None,
        }
    }

    fn silent(&self, why: impl fmt::Display) -> AdminError {
        self.failed(format_args!(
            "no Overspill answers at {}: {why}",
            self.shown()
        ))
    }

    fn understood(
        &self,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Value, AdminError> {
        let at = self.shown();
        let path = path.split('?').next().unwrap_or(path);
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|_| {
                self.failed(format_args!(
                    "{at}{path} answers, but not with JSON: is it the admin listener (`admin.listen`)?"
                ))
            });
        }
        let said = said(body);
        let retry = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let message = match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => format!(
                "{at} wants the token that is its `admin.token`: give it in a file with --token-file, or in \
                 {TOKEN_VARIABLE}"
            ),
            (StatusCode::UNAUTHORIZED, Some(token)) => format!(
                "{at} expects the token that is its `admin.token`, and that of {} is another",
                token.from
            ),
            (StatusCode::FORBIDDEN, _) => format!("{at} refuses: {said}"),
            (StatusCode::TOO_MANY_REQUESTS, _) => match retry {
                Some(seconds) => {
                    format!("{at} had too many wrong tokens: try again in {seconds} s")
                }
                None => format!("{at} had too many wrong tokens: try again later"),
            },
            (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => format!(
                "{at} does not know {path}: an older version, an edge, or not the admin listener (`admin.listen`)"
            ),
            (StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY, _) if !said.is_empty() => {
                said
            }
            _ if said.is_empty() => format!("{at} answers {status}"),
            _ => format!("{at} answers {status}: {said}"),
        };
        Err(AdminError {
            message,
            lasts: matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
            ),
            unknown: status == StatusCode::NOT_FOUND,
            retry: retry.map(Duration::from_secs),
        })
    }
}

/// What an answer that is no success says: its `error`, or its text.
fn said(body: &[u8]) -> String {
    const MOST: usize = 20_000;
    let text = String::from_utf8_lossy(body);
    let error = serde_json::from_slice::<Value>(body).ok();
    let error = error.as_ref().and_then(|body| body["error"].as_str());
    let text = error.unwrap_or_else(|| {
        // A page of somebody else's server explains nothing.
        if text.trim_start().starts_with('<') {
            ""
        } else {
            text.trim()
        }
    });
    let lines = text
        .lines()
        .map(words::plain)
        .collect::<Vec<_>>()
        .join("\n");
    lines.chars().take(MOST).collect()
}

/// What is at the bottom of an error: "Connection refused", not that the client failed.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// `admin` of the configuration; what is wrong elsewhere in it does not matter here.
fn settings(
    config: &ConfigArguments,
    arguments: &AdminArguments,
) -> Result<AdminSettings, ConfigError> {
    let named = config.config.is_some();
    let file = config.config.clone().or_else(Settings::default_file);
    let (settings, mut problems) = Settings::read_leniently(file.as_deref());
    let whole = file.as_ref().map(|file| file.display().to_string());
    problems
        .retain(|problem| problem.key.starts_with("admin") || whole.as_ref() == Some(&problem.key));
    // With the address at hand nothing is needed of a file that was not asked for by name.
    if problems.is_empty() || (arguments.admin.is_some() && !named) {
        return Ok(settings.admin);
    }
    Err(ConfigError { file, problems })
}

/// Where an address that is listened at is asked: one that stands for all is asked on this machine.
fn url_of(listen: SocketAddr) -> Result<Url, url::ParseError> {
    let address = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Url::parse(&format!(
        "http://{}",
        SocketAddr::new(address, listen.port())
    ))
}

/// Reads `--admin`: an http or https URL, or "host:port" of one.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let expected = || {
        let found: String = text.chars().take(60).collect();
        format!("expected a URL such as http://127.0.0.1:9901, found {found:?}")
    };
    let text = text.trim();
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&whole).map_err(|_| expected())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(expected());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a URL with a name or password is not taken: the token goes into a file".into(),
        );
    }
    url.set_query(None);
    url.set_fragment(None);
    let all = match url.host() {
        Some(url::Host::Ipv4(ip)) if ip.is_unspecified() => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        Some(url::Host::Ipv6(ip)) if ip.is_unspecified() => Some(IpAddr::from(Ipv6Addr::LOCALHOST)),
        _ => None,
    };
    if let Some(ip) = all {
        url.set_ip_host(ip).map_err(|()| expected())?;
    }
    Ok(url)
}

/// What `admin.token` may be made of.
fn is_shown(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

// === impl Token ===

impl Token {
    fn new(token: &str, from: String) -> Result<Self, BoxError> {
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        match header {
            Ok(mut header) if token.bytes().all(is_shown) => {
                header.set_sensitive(true);
                Ok(Self { header, from })
            }
            _ => Err(format!("{from}: expected a token of visible characters in one line").into()),
        }
    }
}

fn read_token(file: &Path) -> Result<Token, BoxError> {
    let name = file.display();
    let read = || {
        let file = fs::File::open(file)?;
        let open_to_all = is_open_to_all(&file)?;
        let mut text = String::new();
        file.take(LONGEST_TOKEN).read_to_string(&mut text)?;
        Ok::<_, io::Error>((text, open_to_all))
    };
    let (text, open_to_all) =
        read().map_err(|error| format!("--token-file {name} can't be read: {error}"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(
            format!("--token-file {name} is empty: expected the token of `admin.token`").into(),
        );
    }
    if open_to_all {
        eprintln!(
            "overspill: everyone on this machine can read {name}: `chmod 600` keeps the token a secret"
        );
    }
    Token::new(token, format!("--token-file {name}"))
}

#[cfg(unix)]
fn is_open_to_all(file: &fs::File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &fs::File) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_stands_for_all_is_asked_on_this_machine() {
        let listen = |text: &str| url_of(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(listen("0.0.0.0:9901"), "http://127.0.0.1:9901/");
        assert_eq!(listen("[::]:9901"), "http://[::1]:9901/");
        assert_eq!(listen("10.0.0.5:80"), "http://10.0.0.5/");
        assert_eq!(
            url("http://0.0.0.0:9901").unwrap().as_str(),
            "http://127.0.0.1:9901/"
        );
    }

    #[test]
    fn a_listener_is_named_by_a_url_or_by_its_address() {
        assert_eq!(
            url("localhost:9901").unwrap().as_str(),
            "http://localhost:9901/"
        );
        assert_eq!(
            url("https://a.example/op/?x#y").unwrap().as_str(),
            "https://a.example/op/"
        );
        for wrong in [
            "",
            "ftp://a.example",
            "http://",
            "http://name:word@a.example",
            "a b",
        ] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_are_read_as_json_and_as_text_and_never_steer_the_terminal() {
        assert_eq!(said(br#"{"error":"`for`: too long"}"#), "`for`: too long");
        assert_eq!(said(b"no\n"), "no");
        assert_eq!(said(b"<html>no"), "");
        assert_eq!(said(b"a\x1b[31m\nb"), "a\u{fffd}[31m\nb");
    }

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        assert!(Token::new("two words", String::new()).is_ok());
        for wrong in ["two\nlines", "é"] {
            assert!(Token::new(wrong, String::new()).is_err(), "{wrong}");
        }
    }
}
