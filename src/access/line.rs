//! How an entry reads.

use std::{io::Write as _, time::SystemTime};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    entry::Entry,
    escape::{json, quoted},
    settings::Format,
};

/// Writes lines, and remembers how the last second was written.
#[derive(Debug)]
pub(super) struct Lines {
    format: Format,
    zone: TimeZone,
    second: Option<i64>,
    time: String,
}

// === impl Lines ===

impl Lines {
    /// With local times, where they are not JSON.
    pub(super) fn new(format: Format) -> Self {
        Self::at(format, TimeZone::system())
    }

    fn at(format: Format, zone: TimeZone) -> Self {
        Self {
            format,
            zone,
            second: None,
            time: String::new(),
        }
    }

    /// Appends a line with its end.
    pub(super) fn write(&mut self, entry: &Entry, line: &mut Vec<u8>) {
        match self.format {
            Format::Common => self.common(entry, line),
            Format::Combined => {
                self.common(entry, line);
                for text in [entry.referer(), entry.agent()] {
                    field(text, line);
                }
            }
            Format::Json => return self.json(entry, line),
        }
        let server = entry.server.as_ref().map_or("", |server| server.name());
        for text in [
            entry.outcome.unwrap_or(""),
            entry.reason.unwrap_or(""),
            server,
        ] {
            field(text.as_bytes(), line);
        }
        line.push(b'\n');
    }

    /// `address - - [time] "request" status bytes`.
    fn common(&mut self, entry: &Entry, line: &mut Vec<u8>) {
        // Writing into memory does not fail.
        let _ = match entry.client {
            Some(client) => write!(line, "{client}"),
            None => write!(line, "-"),
        };
        let _ = write!(line, " - - [{}] \"", self.time(entry.at));
        match entry.protocol() {
            Some(protocol) => {
                quoted(entry.method(), line);
                line.push(b' ');
                quoted(entry.target(), line);
                let _ = write!(line, " {protocol}");
            }
            None => line.push(b'-'),
        }
        let _ = write!(line, "\" {} {}", entry.status, entry.bytes);
    }

    /// `10/Oct/2000:13:55:36 -0700`.
    fn time(&mut self, at: SystemTime) -> &str {
        let at = timestamp(at);
        if self.second != Some(at.as_second()) {
            self.second = Some(at.as_second());
            let at = at.to_zoned_datetime(self.zone.clone());
            self.time = at.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
        }
        &self.time
    }

    fn json(&mut self, entry: &Entry, line: &mut Vec<u8>) {
        let at = timestamp(entry.at);
        if self.second != Some(at.as_second()) {
            self.second = Some(at.as_second());
            self.time = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        let _ = write!(
            line,
            "{{\"time\":\"{}.{:03}Z\",\"client\":",
            self.time,
            at.subsec_millisecond()
        );
        let _ = match entry.client {
            Some(client) => write!(line, "\"{client}\""),
            None => write!(line, "null"),
        };
        let server = entry.server.as_ref().map(|server| server.name().as_bytes());
        let said = |text| {
            entry
                .version
                .is_some()
                .then_some(text)
                .filter(|text: &&[u8]| !text.is_empty())
        };
        for (name, text) in [
            ("method", said(entry.method())),
            ("target", said(entry.target())),
            ("protocol", entry.protocol().map(str::as_bytes)),
            ("host", said(entry.host())),
            ("referer", said(entry.referer())),
            ("user_agent", said(entry.agent())),
            ("level", entry.level.map(|level| level.as_str().as_bytes())),
            ("outcome", entry.outcome.map(str::as_bytes)),
            ("reason", entry.reason.map(str::as_bytes)),
            ("server", server),
        ] {
            let _ = write!(line, ",\"{name}\":");
            match text {
                Some(text) => json(text, line),
                None => line.extend_from_slice(b"null"),
            }
        }
        let _ = match entry.trace {
            Some(trace) => write!(line, ",\"trace_id\":\"{trace}\""),
            None => write!(line, ",\"trace_id\":null"),
        };
        let _ = writeln!(
            line,
            ",\"status\":{},\"bytes\":{},\"duration\":{:.6},\"aborted\":{},\"report\":{},\"sampled\":{}}}",
            entry.status,
            entry.bytes,
            entry.took.as_secs_f64(),
            entry.aborted,
            entry.report,
            entry.stands_for,
        );
    }
}

/// ` "text"`, or ` "-"`.
fn field(text: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(b" \"");
    if text.is_empty() {
        line.push(b'-');
    } else {
        quoted(text, line);
    }
    line.push(b'"');
}

fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::level::Level;

    fn entry(request: &Request<()>) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(971_211_336_042),
            took: Duration::from_micros(1500),
            status: 200,
            bytes: 2326,
            aborted: false,
            level: Some(Level::Offload),
            outcome: Some("served"),
            reason: Some("outside_share"),
            ..Entry::of(request, Some([127, 0, 0, 1].into()))
        }
    }

    fn line(format: Format, entry: &Entry) -> String {
        let mut line = Vec::new();
        let zone = TimeZone::fixed(jiff::tz::offset(-7));
        Lines::at(format, zone).write(entry, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn reads_as_the_usual_tools_expect() {
        let request = Request::get("/apache_pb.gif")
            .header("host", "a.example")
            .header("referer", "http://www.example.com/start.html")
            .header("user-agent", "Mozilla/4.08 \"[en]\"");
        let entry = entry(&request.body(()).unwrap());
        assert_eq!(
            line(Format::Common, &entry),
            "127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET /apache_pb.gif HTTP/1.1\" 200 2326 \"served\" \
             \"outside_share\" \"-\"\n"
        );
        assert_eq!(
            line(Format::Combined, &entry),
            "127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET /apache_pb.gif HTTP/1.1\" 200 2326 \
             \"http://www.example.com/start.html\" \"Mozilla/4.08 \\x22[en]\\x22\" \"served\" \"outside_share\" \"-\"\n"
        );
        let read: serde_json::Value = serde_json::from_str(&line(Format::Json, &entry)).unwrap();
        let expected = serde_json::json!({
            "time": "2000-10-10T20:55:36.042Z", "client": "127.0.0.1", "method": "GET", "target": "/apache_pb.gif",
            "protocol": "HTTP/1.1", "host": "a.example", "referer": "http://www.example.com/start.html",
            "user_agent": "Mozilla/4.08 \"[en]\"", "level": "offload", "outcome": "served",
            "reason": "outside_share", "server": null, "trace_id": null, "status": 200, "bytes": 2326,
            "duration": 0.0015, "aborted": false, "report": false, "sampled": 1,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_connection_that_asked_nothing_has_a_line() {
        let closed = Entry {
            outcome: Some("dropped"),
            at: SystemTime::UNIX_EPOCH,
            ..Entry::closed([127, 0, 0, 1].into())
        };
        assert_eq!(
            line(Format::Combined, &closed),
            "127.0.0.1 - - [31/Dec/1969:17:00:00 -0700] \"-\" 444 0 \"-\" \"-\" \"dropped\" \"-\" \"-\"\n"
        );
        let read: serde_json::Value = serde_json::from_str(&line(Format::Json, &closed)).unwrap();
        assert_eq!(read["method"], serde_json::Value::Null);
        assert_eq!(read["status"], 444);
    }

    proptest! {
        #[test]
        fn a_line_is_one_line_whatever_the_client_says(
            method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
            target in "\\PC*",
            host: Vec<u8>,
            referer: Vec<u8>,
            agent: Vec<u8>,
        ) {
            let mut request = Request::builder()
                .method(method.as_bytes())
                .uri(http::Uri::try_from(target).unwrap_or_default());
            for (name, bytes) in [("host", &host), ("referer", &referer), ("user-agent", &agent)] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    request = request.header(name, value);
                }
            }
            let request = request.body(()).unwrap();
            let entry = entry(&request);
            for (format, quotes) in [(Format::Common, 8), (Format::Combined, 12)] {
                let line = line(format, &entry);
                let (text, end) = line.split_at(line.len() - 1);
                prop_assert_eq!(end, "\n");
                prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", text);
                prop_assert_eq!(text.matches('"').count(), quotes);
            }
            let line = line(Format::Json, &entry);
            let (text, end) = line.split_at(line.len() - 1);
            prop_assert_eq!(end, "\n");
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", text);
            let read: serde_json::Value = serde_json::from_str(text).unwrap();
            prop_assert_eq!(read["method"].as_str().unwrap().as_bytes(), &method.as_bytes()[..method.len().min(64)]);
            let said = request.headers().get("user-agent").map(|value| value.as_bytes()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said[..said.len().min(512)]).into_owned();
            prop_assert_eq!(read["user_agent"].as_str().unwrap_or_default(), said);
        }
    }
}
