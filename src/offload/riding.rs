//! Load reports that ride on offload servers' pulls, so that a busy server is known without being asked.
//!
//! The token is not enough to believe one: caches that are not ours add it to what a visitor sent, so the report may be
//! the visitor's. It has to be signed with the token, which the visitor does not know: `X-Overspill-Signature` is
//! `<time>.<mac>`, the second, counted from 1970, at which it was sent, and an HMAC-SHA256 keyed by the token, in
//! hexadecimal, over four lines: `overspill load report`, the time, the name and the report as in their headers. One
//! that is unsigned, from the future or old counts for nothing. Delivering one takes no lock: it is put into a slot that
//! the control loop empties.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{
    service::{LOAD_HEADER, NAME_HEADER, SIGNATURE_HEADER},
    shared::Shared,
    snapshot::Snapshot,
    stay::{hex, mac},
};
use crate::servers::{OrcaReport, ReportKind, Server, read_report};

/// The longest that is read.
const LONGEST: usize = 4096;
/// How far two servers' clocks may be apart, in seconds.
const APART: u64 = 60;
/// What is signed begins with this: what else is made with the token is no report's signature.
const PURPOSE: &[u8] = b"overspill load report";

/// What came with a pull.
pub(super) struct Riding {
    name: Option<HeaderValue>,
    load: Option<HeaderValue>,
    signature: Option<HeaderValue>,
}

/// Signs the report among a pull's `headers`, if there is one.
#[cfg(any(feature = "server", test))]
pub(crate) fn sign(headers: &mut HeaderMap, token: &[u8], now: SystemTime) {
    let Some(load) = headers.get(LOAD_HEADER) else {
        return;
    };
    let time = unix(now).to_string();
    let mac = signature(token, &time, headers.get(NAME_HEADER), load);
    if let Ok(signature) = HeaderValue::try_from(format!("{time}.{mac}")) {
        headers.insert(HeaderName::from_static(SIGNATURE_HEADER), signature);
    }
}

fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// No value of a header has an end of line in it, so no two reports are the same lines.
fn signature(token: &[u8], time: &str, name: Option<&HeaderValue>, load: &HeaderValue) -> String {
    let name = name.map_or(&b""[..], HeaderValue::as_bytes);
    let lines = [PURPOSE, time.as_bytes(), name, load.as_bytes()];
    hex(&mac(token, &[&lines.join(&b'\n')]))
}

// === impl Riding ===

impl Riding {
    /// Takes it off the request: the application has no use for it.
    pub(super) fn take(headers: &mut HeaderMap) -> Self {
        let mut take = |name| headers.remove(HeaderName::from_static(name));
        Self {
            name: take(NAME_HEADER),
            load: take(LOAD_HEADER),
            signature: take(SIGNATURE_HEADER),
        }
    }

    /// Hands it to the server that it names, if that is to tell its load so.
    pub(super) fn deliver(self, snapshot: &Snapshot, shared: &Shared) {
        let Some(load) = &self.load else { return };
        let name = self.name.as_ref().and_then(|name| name.to_str().ok());
        if let Err(reason) = self.check(
            load,
            snapshot.compiled.token.as_bytes(),
            unix(SystemTime::now()),
        ) {
            if shared.wrong_report.is_due() {
                tracing::warn!(
                    name,
                    reason,
                    "a load report that came with a pull counts for nothing: an offload server that is not ours hands \
                     on what a visitor made up, or the clocks differ"
                );
            }
            return;
        }
        let servers = &snapshot.compiled.servers;
        let Some(server) = name.and_then(|name| servers.iter().find(|server| is(server, name)))
        else {
            if shared.unknown_server.is_due() {
                tracing::warn!(
                    name,
                    "a pull brings a load report of no server of ours: set `edge.name` there to a name in \
                     `offload.servers`"
                );
            }
            return;
        };
        // Whose load is told in another way, or not at all, has no say in it here.
        if server.settings().report.kind == ReportKind::Orca {
            server.observe_riding(read(load), Instant::now());
        }
    }

    /// Whether it is of who has the `token`, and of now.
    fn check(&self, load: &HeaderValue, token: &[u8], unix: u64) -> Result<(), String> {
        let signature = self.signature.as_ref().ok_or("it is not signed")?;
        let (time, mac) = signature
            .to_str()
            .ok()
            .and_then(|signature| signature.split_once('.'))
            .ok_or("its signature is none")?;
        if load.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let ours = self::signature(token, time, self.name.as_ref(), load);
        if !bool::from(subtle::ConstantTimeEq::ct_eq(
            mac.as_bytes(),
            ours.as_bytes(),
        )) {
            return Err("its signature is not that of our token".to_owned());
        }
        let at: u64 = time.parse().map_err(|_| "its time is none")?;
        match (at.saturating_sub(unix), unix.saturating_sub(at)) {
            (ahead, _) if ahead > APART => Err(format!(
                "it is from the future: {ahead} s ahead of our clock"
            )),
            (_, age) if age > APART => Err(format!("it is {age} s old")),
            _ => Ok(()),
        }
    }
}

/// By its name, or by the host of its URL, with or without the port.
fn is(server: &Server, name: &str) -> bool {
    let url = server.url();
    let host = url.host_str().unwrap_or_default();
    server.name() == name
        || name.eq_ignore_ascii_case(host)
        || url
            .port_or_known_default()
            .is_some_and(|port| name.eq_ignore_ascii_case(&format!("{host}:{port}")))
}

fn read(load: &HeaderValue) -> Result<OrcaReport, String> {
    read_report(load.as_bytes()).map_err(|error| format!("with a pull: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TOKEN: &[u8] = b"a long secret";
    const NOW: u64 = 1_000_000_000;
    const LOAD: &str = r#"{"application_utilization":0.7}"#;

    fn signed(token: &[u8], name: &'static str, load: &str, at: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NAME_HEADER, HeaderValue::from_static(name));
        headers.insert(LOAD_HEADER, HeaderValue::try_from(load).unwrap());
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        sign(&mut headers, token, at);
        headers
    }

    fn check(headers: &HeaderMap) -> Result<(), String> {
        let riding = Riding::take(&mut headers.clone());
        riding.check(riding.load.as_ref().unwrap(), TOKEN, NOW)
    }

    #[test]
    fn a_signature_is_what_it_is_described_to_be() {
        // printf 'overspill load report\n1000000000\neu\n{"application_utilization":0.7}' |
        //     openssl dgst -sha256 -hmac 'a long secret'
        assert_eq!(
            signed(TOKEN, "eu", LOAD, NOW)[SIGNATURE_HEADER],
            "1000000000.de7a6b517b525ee5fe0ceca21226a2a135623369a682b9de23b4d2fe7701d79c"
        );
        let mut none = HeaderMap::new();
        sign(&mut none, TOKEN, SystemTime::now());
        assert!(none.is_empty(), "nothing is signed where nothing is told");
    }

    #[test]
    fn a_report_is_believed_when_it_is_signed_and_of_now() {
        for at in [NOW - 60, NOW, NOW + 60] {
            assert_eq!(check(&signed(TOKEN, "eu", LOAD, at)), Ok(()));
        }
        let changed = |name: &'static str, value: &str| {
            let mut headers = signed(TOKEN, "eu", LOAD, NOW);
            headers.insert(name, HeaderValue::try_from(value).unwrap());
            headers
        };
        let mut bare = signed(TOKEN, "eu", LOAD, NOW);
        bare.remove(SIGNATURE_HEADER);
        let mut nameless = signed(TOKEN, "eu", LOAD, NOW);
        nameless.remove(NAME_HEADER);
        let later = signed(TOKEN, "eu", LOAD, NOW)[SIGNATURE_HEADER]
            .to_str()
            .unwrap()
            .replace("1000000000.", "1000000001.");
        for (headers, reason) in [
            (bare, "not signed"),
            (changed(SIGNATURE_HEADER, ""), "signature is none"),
            (changed(SIGNATURE_HEADER, "1000000000."), "not that of our"),
            (changed(SIGNATURE_HEADER, &later), "not that of our"),
            (changed(NAME_HEADER, "us"), "not that of our"),
            (
                changed(LOAD_HEADER, "TEXT cpu_utilization=9"),
                "not that of our",
            ),
            (nameless, "not that of our"),
            (signed(b"a guess", "eu", LOAD, NOW), "not that of our"),
            (signed(b"", "eu", LOAD, NOW), "not that of our"),
            (signed(TOKEN, "eu", LOAD, NOW + 61), "61 s ahead"),
            (signed(TOKEN, "eu", LOAD, NOW - 61), "61 s old"),
            (signed(TOKEN, "eu", &"1".repeat(5000), NOW), "longer than"),
        ] {
            let error = check(&headers).unwrap_err();
            assert!(error.contains(reason), "{headers:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_load_is_refused_with_its_reason() {
        let load = |text| read(&HeaderValue::from_static(text)).map(|report| report.load.get());
        assert_eq!(load(LOAD), Ok(0.7));
        for (text, reason) in [
            (r#"{"application_utilization":-1}"#, "found -1"),
            ("nonsense", "JSON"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
