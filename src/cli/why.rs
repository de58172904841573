//! `overspill explain PATH --client ADDR`: what a running server would do for one client now, and why.

use std::{fmt::Write as _, net::IpAddr};

use serde_json::Value;
use url::{Url, form_urlencoded};

use super::{ExplainArguments, admin::Admin, words};

type BoxError = Box<dyn std::error::Error>;

/// Asks, and prints the answer.
pub(super) fn run(arguments: &ExplainArguments, client: IpAddr) -> Result<(), BoxError> {
    let path = path(&arguments.page)?;
    let admin = Admin::new(&arguments.admin, &arguments.config)?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("path", &path)
        .append_pair("client", &client.to_string())
        .extend_pairs(arguments.identity.iter().map(|name| ("identity", name)))
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(admin.get(&format!("/api/explain?{query}")))?;
    Ok(words::print(&if arguments.json {
        format!("{}\n", words::json(&answer))
    } else {
        told(&answer)
    })?)
}

/// Reads `--client`.
pub(super) fn client(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        let found: String = text.chars().take(60).collect();
        format!("expected an IP address such as 203.0.113.7, found {found:?}")
    })
}

/// The path that is asked for: as it is given, or that of a URL.
fn path(page: &str) -> Result<String, String> {
    if page.starts_with('/') {
        return Ok(page.to_owned());
    }
    match Url::parse(page) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            Ok(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
        }
        _ => Err(format!(
            "with --client expected a path of the site such as /news/, or a URL, found {page:?}"
        )),
    }
}

/// The answer in words; what an older or newer version leaves out is left out.
fn told(answer: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| value.as_str().map(words::plain);
    let outcome = text(&answer["outcome"]).unwrap_or_else(|| "?".to_owned());
    let why = text(&answer["text"]).unwrap_or_else(|| meaning(&outcome).to_owned());
    let _ = writeln!(out, "{outcome}: {why}");
    let mut line = |name: &str, words: String| {
        if !words.is_empty() {
            let _ = writeln!(out, "  {name:9} {words}");
        }
    };
    line("path", text(&answer["path"]).unwrap_or_default());
    let mut client = text(&answer["client"]).unwrap_or_default();
    if let Some(identity) = text(&answer["identity"]) {
        client += &format!(", known as {identity}");
    }
    line("client", client);
    let mut level = text(&answer["level"]).unwrap_or_default();
    if let Some(mode) = text(&answer["mode"]) {
        level += &format!(" (mode {mode})");
    }
    line("level", level);
    line("share", share(answer));
    line("admission", admission(&answer["admission"]));
    line("rule", rule(&answer["rule"]));
    let servers = answer["servers"].as_array().map_or(&[][..], Vec::as_slice);
    if servers.is_empty() {
        line("servers", "none is configured".to_owned());
        return out;
    }
    line(
        "servers",
        format!("{}, in the order in which they stand", servers.len()),
    );
    let name = |server: &Value| text(&server["name"]).unwrap_or_default();
    let width = servers
        .iter()
        .map(|server| name(server).chars().count())
        .max();
    let width = width.unwrap_or(0);
    for server in servers {
        let flag = |key: &str| server[key].as_bool();
        let state = match (flag("chosen"), flag("considered"), flag("usable")) {
            (Some(true), _, _) => "chosen",
            (_, Some(false), _) => "not asked",
            (_, _, Some(false)) => "not usable",
            _ => "passed by",
        };
        let why = text(&server["why"]).unwrap_or_default();
        // "chosen", or "chosen: it has the most room".
        let why = why
            .strip_prefix(state)
            .map_or(&*why, |rest| rest.trim_start_matches([':', ' ']));
        let _ = writeln!(out, "    {:width$}  {state:10}  {why}", name(server));
    }
    out.lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// What an outcome means, where the server does not say it itself.
fn meaning(outcome: &str) -> &'static str {
    match outcome {
        "serve" => "the primary serves it, and the objects of its pages",
        "offload" => "the primary serves the page, an offload server its objects",
        "redirect" => "sent on to an offload server",
        "throttle" => "a page that says that the server is overloaded",
        "drop" => "closed without an answer",
        "bypass" => "exempt: served whatever the load",
        _ => "this version does not know the outcome",
    }
}

fn share(answer: &Value) -> String {
    let Some(share) = answer["share"].as_f64() else {
        return String::new();
    };
    let mut told = format!("{} of the visitors are offloaded", words::percent(share));
    if let Some(place) = answer["place"].as_f64() {
        told += &format!("; this one's place is {place:.2}");
    }
    match answer["in_share"].as_bool() {
        Some(true) => told += &format!(", below {share:.2}: among them"),
        Some(false) => told += &format!(", not below {share:.2}: not among them"),
        None => {}
    }
    told
}

fn admission(admission: &Value) -> String {
    let part = |name: &str| admission[name].as_f64();
    let (Some(throttled), Some(dropped)) = (part("throttled"), part("dropped")) else {
        return String::new();
    };
    let mut told = format!(
        "{} of the new visitors get no page, {} no answer",
        words::percent(throttled),
        words::percent(dropped)
    );
    if let Some(place) = part("place") {
        told += &format!("; this one's place is {place:.2}");
    }
    if let Some(class) = admission["class"].as_str() {
        told += &format!(", in class {}", words::plain(class));
    }
    told
}

fn rule(rule: &Value) -> String {
    let Some(index) = rule["index"].as_u64() else {
        return String::new();
    };
    let servers = rule["servers"].as_array().into_iter().flatten();
    let servers: Vec<_> = servers
        .filter_map(|name| Some(words::plain(name.as_str()?)))
        .collect();
    format!("offload.clients[{index}]: {}", servers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_answer_is_told_in_words() {
        let answer = json!({
            "path": "/x", "client": "203.0.113.7", "identity": null, "mode": "enforce", "level": "offload",
            "outcome": "offload", "server": "eu", "text": "the page's objects are linked to eu",
            "share": 0.42, "place": 0.13, "in_share": true,
            "admission": { "throttled": 0.0, "dropped": 0.0, "place": 0.77, "class": "members" },
            "rule": { "index": 0, "servers": ["eu"] },
            "servers": [
                { "name": "eu", "usable": true, "considered": true, "chosen": true, "why": "chosen: the least load" },
                { "name": "asia", "usable": false, "considered": true, "chosen": false, "why": "busy" },
            ],
        });
        let expected = "\
offload: the page's objects are linked to eu
  path      /x
  client    203.0.113.7
  level     offload (mode enforce)
  share     42 % of the visitors are offloaded; this one's place is 0.13, below 0.42: among them
  admission 0 % of the new visitors get no page, 0 % no answer; this one's place is 0.77, in class members
  rule      offload.clients[0]: eu
  servers   2, in the order in which they stand
    eu    chosen      the least load
    asia  not usable  busy
";
        assert_eq!(told(&answer), expected);
    }

    #[test]
    fn what_an_answer_leaves_out_is_left_out() {
        assert_eq!(
            told(&json!({ "outcome": "serve" })),
            "serve: the primary serves it, and the objects of its pages\n  servers   none is configured\n"
        );
        let steering = told(&json!({ "outcome": "serve", "text": "a\u{1b}[2Jb" }));
        assert!(!steering.contains('\u{1b}'));
    }

    #[test]
    fn a_page_is_named_by_its_path_or_its_url() {
        assert_eq!(path("/x?y").unwrap(), "/x?y");
        assert_eq!(path("https://www.example.com/a?b#c").unwrap(), "/a?b");
        assert!(path("index.html").is_err());
    }
}
