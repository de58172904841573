//! `overspill crowd`, the built program, against small servers that do as they are told: each way in which a visit
//! can end, who the visitors are, and what they leave alone.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::Notify,
    task::JoinHandle,
};

use crate::support::{
    self,
    address::own_address,
    broken_server::{Broken, BrokenServer},
    config::Config,
    folder,
    offload_server::OffloadServer,
    process::Nginx,
    program::{Finished, Program, command},
    wait::{soon, until},
};

/// What a server does with a request.
enum Reply {
    /// 200.
    Ok(&'static str, &'static str),
    Status(u16),
    /// A 307.
    Redirect(String),
    /// 200 with other header lines, too.
    With(String, &'static str, &'static str),
    /// 200 and half of the body.
    Half(&'static str),
    /// 200, and the connection ends without a word about that.
    ThenClose(&'static str, &'static str),
    /// 200, once so many requests from this address wait.
    Together(usize),
    /// No byte.
    Close,
    /// No byte, and no proper end.
    Reset,
    /// Nothing, ever.
    Hang,
    Garbage,
}

/// A request that came.
#[derive(Debug, Clone)]
struct Came {
    from: IpAddr,
    path: String,
    head: String,
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Came>>,
    /// Of each address: connections now, the most at once, and requests that wait.
    visitors: Mutex<HashMap<IpAddr, Visitor>>,
}

#[derive(Default)]
struct Visitor {
    open: usize,
    most: usize,
    waiting: usize,
    together: Arc<Notify>,
}

type Answers = Arc<dyn Fn(&Came) -> Reply + Send + Sync>;

/// A server; it goes with its handle.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answers: impl Fn(&Came) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answers) = (Arc::new(Seen::default()), Arc::new(answers) as Answers);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    let (stream, peer) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, peer.ip(), seen.clone(), answers.clone()));
                }
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> Vec<Came> {
        self.seen.requests.lock().unwrap().clone()
    }

    fn asked_for(&self, path: &str) -> usize {
        let requests = self.requests().into_iter();
        requests.filter(|came| came.path == path).count()
    }

    /// The most connections that one visitor had at once.
    fn most_connections(&self) -> usize {
        let visitors = self.seen.visitors.lock().unwrap();
        visitors.values().map(|visitor| visitor.most).max().unwrap()
    }
}

async fn serve(stream: TcpStream, from: IpAddr, seen: Arc<Seen>, answers: Answers) {
    let count = |change: fn(&mut Visitor)| {
        let mut visitors = seen.visitors.lock().unwrap();
        change(visitors.entry(from).or_default());
    };
    count(|visitor| {
        visitor.open += 1;
        visitor.most = visitor.most.max(visitor.open);
    });
    let _ = converse(stream, from, &seen, &answers).await;
    count(|visitor| visitor.open -= 1);
}

async fn converse(
    stream: TcpStream,
    from: IpAddr,
    seen: &Seen,
    answers: &Answers,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let came = Came { from, path, head };
        seen.requests.lock().unwrap().push(came.clone());
        let text = match answers(&came) {
            Reply::Ok(kind, body) => ok(kind, body, ""),
            Reply::With(lines, kind, body) => ok(kind, body, &lines),
            Reply::Status(status) => format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nno"),
            Reply::Redirect(to) => {
                format!("HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
            }
            Reply::Half(body) => {
                let text = ok("text/html", body, "");
                stream
                    .write_all(&text.as_bytes()[..text.len() - body.len() / 2])
                    .await?;
                return Ok(());
            }
            Reply::ThenClose(kind, body) => {
                stream.write_all(ok(kind, body, "").as_bytes()).await?;
                return Ok(());
            }
            Reply::Together(all) => {
                together(seen, from, all).await;
                ok("image/png", "png", "")
            }
            Reply::Close => return Ok(()),
            Reply::Reset => {
                stream.get_ref().set_zero_linger()?;
                return Ok(());
            }
            Reply::Hang => {
                // Until the visitor goes.
                stream.read_to_end(&mut Vec::new()).await?;
                return Ok(());
            }
            Reply::Garbage => "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
        };
        stream.write_all(text.as_bytes()).await?;
    }
}

fn ok(kind: &str, body: &str, lines: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{lines}\r\n{body}",
        body.len()
    )
}

/// Waits until `all` requests from this address do.
async fn together(seen: &Seen, from: IpAddr, all: usize) {
    let notify = {
        let mut visitors = seen.visitors.lock().unwrap();
        let visitor = visitors.entry(from).or_default();
        visitor.waiting += 1;
        if visitor.waiting == all {
            visitor.waiting = 0;
            // Those who wait from now on wait for the next.
            std::mem::take(&mut visitor.together).notify_waiters();
            return;
        }
        visitor.together.clone().notified_owned()
    };
    notify.await;
}

async fn run(arguments: &[&str]) -> Finished {
    let mut command = command();
    command.arg("crowd").args(arguments);
    let output = soon("the crowd goes", command.output()).await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A crowd of about 20 visitors, and what is told of it.
async fn crowd(url: &str, more: &[&str]) -> Value {
    let mut arguments = vec![url, "--rate", "40", "--for", "500ms", "--json"];
    arguments.extend(more);
    if !more.contains(&"--patience") {
        // However busy the machine is, nobody goes before everything has come.
        arguments.extend(["--patience", "3m"]);
    }
    let finished = run(&arguments).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(finished.stdout.matches('\n').count(), 1, "{finished:?}");
    let offered = report["offered"].as_u64().unwrap();
    assert!(offered > 5, "{report}");
    // Whatever became of them, everyone is counted once.
    let outcomes = [
        "whole",
        "partial",
        "throttled",
        "dropped",
        "timed_out",
        "refused",
        "failed",
        "unfinished",
    ];
    let ended: u64 = outcomes
        .iter()
        .map(|name| report[name].as_u64().unwrap())
        .sum();
    assert_eq!(report["arrived"], ended, "{report}");
    assert_eq!(
        ended + report["not_started"].as_u64().unwrap(),
        offered,
        "{report}"
    );
    report
}

/// Every visitor's visit ended like that.
fn all(report: &Value, outcome: &str) -> u64 {
    assert_eq!(report[outcome], report["offered"], "{outcome}: {report}");
    report["offered"].as_u64().unwrap()
}

const PAGE: &str = r#"<!doctype html><html><link rel=stylesheet href="s.css"><script src="/a.js"></script>
    <img srcset="b.png 1x, never.png 2x"><a href="/never.html">x</a></html>"#;

/// [`PAGE`] and its objects, of which `/news/b.png` is what `b` says.
fn site(path: &str, b: impl Fn() -> Reply) -> Reply {
    match path {
        "/news/" => Reply::Ok("text/html; charset=utf-8", PAGE),
        "/news/s.css" => Reply::Ok(
            "text/css",
            "@import '/more.css'; p { background: url(c.png) }",
        ),
        "/more.css" => Reply::Ok("text/css", "@font-face { src: url('f.woff2') }"),
        "/a.js" => Reply::Ok("text/javascript", "'never.js'"),
        "/news/b.png" => b(),
        "/news/c.png" => Reply::Ok("image/png", "cccc"),
        "/f.woff2" => Reply::Ok("font/woff2", "font"),
        _ => Reply::Status(404),
    }
}

fn whole_site(came: &Came) -> Reply {
    site(&came.path, || Reply::Ok("image/png", "bbbb"))
}

#[tokio::test]
async fn a_page_is_whole_with_all_that_it_and_its_stylesheets_fetch() {
    let server = Server::start(whole_site).await;
    let report = crowd(&server.url("/news/"), &[]).await;
    let visitors = all(&report, "whole");
    assert_eq!(report["objects"]["whole"], visitors * 6, "{report}");
    for path in [
        "/news/",
        "/news/s.css",
        "/more.css",
        "/a.js",
        "/news/b.png",
        "/news/c.png",
        "/f.woff2",
    ] {
        assert_eq!(server.asked_for(path) as u64, visitors, "{path}");
    }
    assert_eq!(
        server.requests().len() as u64,
        visitors * 7,
        "and nothing else"
    );
    let host = &report["hosts"][server.address.to_string()];
    assert_eq!(host["requests"], visitors * 7);
    let body = |path: &str| match whole_site(&Came {
        from: server.address.ip(),
        path: path.to_owned(),
        head: String::new(),
    }) {
        Reply::Ok(_, body) => body.len() as u64,
        _ => unreachable!(),
    };
    let paths: HashSet<String> = server
        .requests()
        .into_iter()
        .map(|came| came.path)
        .collect();
    let bytes: u64 = paths.iter().map(|path| body(path)).sum();
    assert_eq!(host["bytes"], visitors * bytes, "{report}");
    assert!(host["wire_bytes"].as_u64() > host["bytes"].as_u64());
}

#[tokio::test]
async fn the_report_has_these_fields() {
    let server = Server::start(whole_site).await;
    let report = crowd(&server.url("/news/"), &["--verify", "--seed", "7"]).await;
    assert_eq!(report["pages"], serde_json::json!([server.url("/news/")]));
    assert_eq!(
        (&report["rate"], &report["seconds"]),
        (&40.0.into(), &0.5.into())
    );
    assert_eq!(
        (&report["patience"], &report["seed"]),
        (&180.0.into(), &7.into())
    );
    assert_eq!(
        (&report["verified"], &report["complete"]),
        (&true.into(), &true.into())
    );
    let url = server.url("/news/");
    let finished = run(&[&url, "--rate", "40", "--for", "100ms", "--json"]).await;
    let default: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(default["patience"], 10.0, "where nothing is said");
    assert!(report["elapsed"].as_f64() >= Some(0.5), "{report}");
    assert!(report["whole_per_second"].as_f64() > Some(0.0), "{report}");
    assert_eq!(report["failures"], serde_json::json!([]));
    let times =
        ["p50", "p95", "p99", "max"].map(|name| report["time_to_whole"][name].as_f64().unwrap());
    assert!(times[0] > 0.0 && times.is_sorted(), "{report}");
    let objects = report["objects"].as_object().unwrap();
    for name in [
        "whole",
        "failed",
        "throttled",
        "timed_out",
        "wrong",
        "unverified",
        "missing",
        "foreign",
    ] {
        assert!(objects[name].is_u64(), "{name}: {report}");
    }
    for name in ["requests", "connections", "bytes", "wire_bytes"] {
        assert!(
            report["hosts"][server.address.to_string()][name].is_u64(),
            "{name}: {report}"
        );
    }
}

#[tokio::test]
async fn the_same_is_told_to_people() {
    let server = Server::start(whole_site).await;
    let finished = run(&[&server.url("/news/"), "--rate", "40", "--for", "500ms"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for words in [
        "got the whole page",
        "whole pages a second",
        "p95",
        "objects arrived",
        "requests",
    ] {
        assert!(
            finished.stdout.contains(words),
            "{words}: {}",
            finished.stdout
        );
    }
    assert!(
        finished.stdout.contains(&server.address.to_string()),
        "{}",
        finished.stdout
    );
}

#[tokio::test]
async fn wrong_and_cut_bytes_are_found_whichever_host_they_come_from() {
    /// Below a prefix, as an offload server may be.
    const OFFLOADED: &str = "/prefix/news/b.png";
    for (reply, kind) in [
        (
            (|| Reply::Ok("image/png", "bbbb")) as fn() -> Reply,
            "whole",
        ),
        (|| Reply::Ok("image/png", "bbxb"), "wrong"),
        (|| Reply::Ok("image/png", "bbb"), "wrong"),
        (|| Reply::Half("bbbb"), "failed"),
        (|| Reply::Status(404), "failed"),
        (|| Reply::Status(503), "throttled"),
        (|| Reply::Close, "failed"),
    ] {
        let edge = Server::start(move |came| match came.path.as_str() {
            OFFLOADED => reply(),
            _ => Reply::Status(404),
        })
        .await;
        let offloaded = edge.url(OFFLOADED);
        let page: &str = format!("<img src='{offloaded}'><img src=/a.png>").leak();
        // The primary has it, too.
        let primary = Server::start(move |came| match came.path.as_str() {
            "/" => Reply::Ok("text/html", page),
            "/a.png" => Reply::Ok("image/png", "aaaa"),
            path => site(path, || Reply::Ok("image/png", "bbbb")),
        })
        .await;
        let report = crowd(&primary.url("/"), &["--verify"]).await;
        let visitors = report["offered"].as_u64().unwrap();
        if kind == "whole" {
            all(&report, "whole");
            assert_eq!(report["objects"]["unverified"], 0, "{report}");
            continue;
        }
        assert_eq!(all(&report, "partial"), visitors);
        assert_eq!(report["objects"][kind], visitors, "{kind}: {report}");
        assert_eq!(
            report["objects"]["whole"], visitors,
            "the other one: {report}"
        );
        assert_eq!(report["failures"][0]["url"], offloaded, "{report}");
        assert_eq!(report["failures"][0]["count"], visitors, "{report}");
    }
}

#[tokio::test]
async fn a_page_that_is_cut_short_is_no_page() {
    let server = Server::start(|_| Reply::Half(PAGE)).await;
    let report = crowd(&server.url("/"), &[]).await;
    all(&report, "failed");
    assert_eq!(report["failures"][0]["what"], "cut short", "{report}");
}

#[tokio::test]
async fn objects_that_the_site_does_not_have_are_not_missed_when_that_is_known() {
    let server = Server::start(|came| site(&came.path, || Reply::Status(404))).await;
    let report = crowd(&server.url("/news/"), &[]).await;
    let visitors = all(&report, "partial");
    assert_eq!(report["objects"]["failed"], visitors, "{report}");
    let report = crowd(&server.url("/news/"), &["--verify"]).await;
    let visitors = all(&report, "whole");
    assert_eq!(report["objects"]["missing"], visitors, "{report}");
}

#[tokio::test]
async fn who_is_turned_away_dropped_refused_or_kept_waiting_is_told_apart() {
    let nobody = BrokenServer::start(Broken::Refuses).await;
    let refused = format!("{}/", nobody.url);
    all(&crowd(&refused, &[]).await, "refused");
    for (reply, outcome) in [
        ((|| Reply::Status(503)) as fn() -> Reply, "throttled"),
        (|| Reply::Close, "dropped"),
        (|| Reply::Reset, "dropped"),
        (|| Reply::Hang, "timed_out"),
        (|| Reply::Status(500), "failed"),
        (|| Reply::Garbage, "failed"),
        (|| Reply::Redirect("/".to_owned()), "failed"),
        (|| Reply::Redirect("mailto:a@b".to_owned()), "failed"),
    ] {
        let server = Server::start(move |_| reply()).await;
        let patience = if outcome == "timed_out" { "1s" } else { "1m" };
        let report = crowd(&server.url("/"), &["--patience", patience]).await;
        all(&report, outcome);
        assert_eq!(report["whole_per_second"], 0.0, "{report}");
        assert_eq!(report["time_to_whole"], Value::Null, "{report}");
    }
}

#[tokio::test]
async fn who_loses_patience_over_an_object_has_a_part_of_the_page() {
    let server = Server::start(|came| site(&came.path, || Reply::Hang)).await;
    let report = crowd(&server.url("/news/"), &["--patience", "10s"]).await;
    let visitors = all(&report, "partial");
    assert_eq!(report["partial_timed_out"], visitors, "{report}");
    assert_eq!(report["objects"]["timed_out"], visitors, "{report}");
    assert_eq!(
        report["objects"]["whole"],
        visitors * 5,
        "the others came: {report}"
    );
}

#[tokio::test]
async fn a_visitor_has_six_connections_to_a_host_and_keeps_them() {
    let page: &str = (0..24)
        .map(|n| format!("<img src=/{n}.png>"))
        .collect::<String>()
        .leak();
    let server = Server::start(move |came| match came.path.as_str() {
        "/" => Reply::Ok("text/html", page),
        // With fewer than six nobody is answered.
        _ => Reply::Together(6),
    })
    .await;
    let report = crowd(&server.url("/"), &[]).await;
    let visitors = all(&report, "whole");
    assert_eq!(server.most_connections(), 6);
    let host = &report["hosts"][server.address.to_string()];
    assert_eq!(host["connections"], visitors * 6, "{report}");
    assert_eq!(host["requests"], visitors * 25, "{report}");
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_meanwhile_is_replaced() {
    let server = Server::start(|came| match whole_site(came) {
        Reply::Ok(kind, body) => Reply::ThenClose(kind, body),
        other => other,
    })
    .await;
    let report = crowd(&server.url("/news/"), &[]).await;
    all(&report, "whole");
}

#[tokio::test]
async fn redirects_are_followed_to_the_offload_server() {
    let edge = Server::start(whole_site).await;
    let to = edge.url("");
    let primary = Server::start(move |came| match came.path.as_str() {
        "/old" => Reply::Redirect("/news/".to_owned()),
        "/news/b.png" | "/news/s.css" => Reply::Redirect(format!("{to}{}", came.path)),
        _ => whole_site(came),
    })
    .await;
    let report = crowd(&primary.url("/old"), &["--verify"]).await;
    let visitors = all(&report, "whole");
    // Once for the crowd, and once before it.
    assert_eq!(edge.asked_for("/news/b.png") as u64, visitors + 1);
    assert_eq!(
        edge.asked_for("/news/c.png") as u64,
        visitors,
        "named by a stylesheet there"
    );
    assert_eq!(
        report["hosts"][edge.address.to_string()]["requests"],
        visitors * 5,
        "{report}"
    );
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn visitors_come_from_the_addresses_that_they_are_given() {
    let server = Server::start(whole_site).await;
    let url = server.url("/news/");
    let from = || -> HashSet<String> {
        let requests = server.requests().into_iter();
        let from = requests.map(|came| came.from.to_string()).collect();
        server.seen.requests.lock().unwrap().clear();
        from
    };
    let set = |addresses: &[&str]| -> HashSet<String> {
        addresses
            .iter()
            .map(|&address| address.to_owned())
            .collect()
    };
    let report = crowd(&url, &["--addresses", "127.1.0.0/30,127.9.8.7"]).await;
    all(&report, "whole");
    assert_eq!(from(), set(&["127.1.0.1", "127.1.0.2", "127.9.8.7"]));
    assert_eq!(report["addresses"], 3);

    let report = crowd(&url, &["--addresses", "system"]).await;
    all(&report, "whole");
    assert_eq!(from(), set(&["127.0.0.1"]));
    assert_eq!(report["addresses"], Value::Null);

    // One for each where nothing is said.
    let report = crowd(&url, &[]).await;
    let visitors = all(&report, "whole");
    let from = from();
    assert_eq!(from.len() as u64, visitors);
    assert!(
        from.iter().all(|address| address.starts_with("127.1.")),
        "{from:?}"
    );
}

#[tokio::test]
async fn cookies_are_kept_for_the_visit_and_tell_visitors_apart() {
    let server = Server::start(|came| match came.path.as_str() {
        "/news/" => Reply::With(
            "Set-Cookie: stay=in; Path=/; HttpOnly\r\n".to_owned(),
            "text/html",
            PAGE,
        ),
        _ => whole_site(came),
    })
    .await;
    let report = crowd(&server.url("/news/"), &["--cookie", "who"]).await;
    let visitors = all(&report, "whole");
    let mut pages = HashSet::new();
    for came in server.requests() {
        let lines = came.head.lines();
        let cookie = lines
            .filter_map(|line| line.strip_prefix("cookie: "))
            .next()
            .unwrap();
        if came.path == "/news/" {
            assert!(cookie.starts_with("who="), "{cookie}");
            pages.insert(cookie.to_owned());
        } else {
            assert!(
                cookie.starts_with("who=") && cookie.ends_with("; stay=in"),
                "{cookie}"
            );
        }
    }
    assert_eq!(pages.len() as u64, visitors, "each has its own");
}

#[tokio::test]
async fn nobody_goes_where_others_are() {
    // RFC 5737: addresses for documentation.
    for url in [
        "http://203.0.113.7/",
        "http://[2001:db8::1]/",
        "http://[::ffff:203.0.113.7]/",
        "http://3405803783/",
    ] {
        let finished = run(&[url]).await;
        assert_eq!(finished.code, Some(1), "{url}: {finished:?}");
        for words in ["public", "--i-own-this-site"] {
            assert!(finished.stderr.contains(words), "{url}: {finished:?}");
        }
        assert_eq!(finished.stdout, "");
    }
    // One of several is enough.
    let server = Server::start(whole_site).await;
    let finished = run(&[&server.url("/news/"), "http://203.0.113.7/"]).await;
    assert_eq!(
        (finished.code, server.requests().len()),
        (Some(1), 0),
        "{finished:?}"
    );
}

#[tokio::test]
async fn what_is_on_the_hosts_of_others_is_left_out() {
    let server = Server::start(|came| match came.path.as_str() {
        "/" => Reply::Ok(
            "text/html",
            "<img src=http://203.0.113.7/a.png><img src=/b.png><img src=/c.png>",
        ),
        "/c.png" => Reply::Redirect("https://203.0.113.8/c.png".to_owned()),
        "/away" => Reply::Redirect("http://203.0.113.7/".to_owned()),
        _ => Reply::Ok("image/png", "b"),
    })
    .await;
    let report = crowd(&server.url("/"), &[]).await;
    let visitors = all(&report, "whole");
    assert_eq!(report["objects"]["foreign"], visitors * 2, "{report}");
    assert_eq!(report["objects"]["whole"], visitors, "{report}");
    let hosts = report["hosts"].as_object().unwrap();
    assert_eq!(hosts.len(), 1, "nobody else was asked: {report}");

    let report = crowd(&server.url("/away"), &[]).await;
    all(&report, "failed");
    assert_eq!(report["hosts"].as_object().unwrap().len(), 1, "{report}");
    let what = report["failures"][0]["what"].as_str().unwrap();
    assert!(what.contains("203.0.113.7"), "{what}");
}

#[tokio::test]
async fn no_more_visitors_are_there_at_once_than_there_may_be() {
    let server = Server::start(|_| Reply::Hang).await;
    let report = crowd(
        &server.url("/"),
        &["--max-visitors", "2", "--patience", "10s"],
    )
    .await;
    assert_eq!(report["arrived"], 2, "{report}");
    assert_eq!(report["timed_out"], 2, "{report}");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn names_are_looked_up_and_every_address_tried() {
    // Often ::1 as well, where nobody listens.
    let server = Server::start(whole_site).await;
    let url = format!("http://localhost:{}/news/", server.address.port());
    all(&crowd(&url, &[]).await, "whole");
    let finished = run(&["http://no-such-host.invalid/"]).await;
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("no-such-host.invalid"),
        "{finished:?}"
    );
}

#[tokio::test]
async fn every_visitor_comes_for_one_of_the_pages_by_the_seed() {
    let server =
        Server::start(|came| Reply::Ok("text/html", if came.path == "/a" { "a" } else { "b" }))
            .await;
    let visits = async |seed: &str| {
        let (a, b) = (server.url("/a"), server.url("/b"));
        let finished = run(&[
            &a, &b, "--rate", "100", "--for", "500ms", "--seed", seed, "--json",
        ])
        .await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let found = (server.asked_for("/a"), server.asked_for("/b"));
        server.seen.requests.lock().unwrap().clear();
        found
    };
    let (a, b) = visits("3").await;
    assert!(a > 5 && b > 5, "{a} {b}");
    assert_eq!(visits("3").await, (a, b));
    assert_ne!(visits("4").await, (a, b));
}

#[tokio::test]
async fn what_is_wrong_with_an_option_is_told_by_its_name() {
    let url = "http://127.0.0.1:1/";
    for (arguments, words) in [
        (&["127.0.0.1:80"][..], ["<URL>", "http://127.0.0.1:8080/"]),
        (&["file:///etc/passwd"], ["<URL>", "http://127.0.0.1:8080/"]),
        (&[url, "--rate", "0"], ["--rate", "above 0"]),
        (&[url, "--rate", "10001"], ["--rate", "at most 10000"]),
        (&[url, "--for", "11m"], ["--for", "at most 10m"]),
        (&[url, "--for", "long"], ["--for", "duration"]),
        (&[url, "--patience", "0s"], ["--patience", "more than 0s"]),
        (&[url, "--max-visitors", "0"], ["--max-visitors", "1.."]),
        (
            &[url, "--addresses", "there"],
            ["--addresses", "127.1.0.0/24"],
        ),
        (
            &[url, "--addresses", "203.0.113.7"],
            ["--addresses", "203.0.113.7"],
        ),
        (&[url, "--cookie", "a b"], ["--cookie", "name"]),
        (
            &[url, "--own-host", "a.example"],
            ["--own-host", "--i-own-this-site"],
        ),
    ] {
        let finished = run(arguments).await;
        assert!(finished.code.is_some_and(|code| code > 0), "{finished:?}");
        for word in words {
            assert!(
                finished.stderr.contains(word),
                "{word}: {}",
                finished.stderr
            );
        }
    }
}

#[tokio::test]
async fn there_is_no_crowd_where_the_bytes_to_compare_with_cannot_be_had() {
    let server = Server::start(|_| Reply::Status(503)).await;
    let finished = run(&[&server.url("/news/"), "--verify"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for words in ["--verify", &server.url("/news/"), "503"] {
        assert!(finished.stderr.contains(words), "{words}: {finished:?}");
    }
}

#[tokio::test]
#[cfg(unix)]
async fn who_breaks_it_off_gets_the_report_so_far() {
    let server =
        Server::start(
            |came| match came.from.to_string().ends_with(['1', '3', '5', '7', '9']) {
                true => Reply::Hang,
                false => Reply::Ok("text/html", "there"),
            },
        )
        .await;
    let mut command = command();
    command
        .args([
            "crowd",
            &server.url("/"),
            "--rate",
            "20",
            "--for",
            "10m",
            "--patience",
            "10m",
            "--json",
        ])
        .args(["--addresses", "127.1.0.1,127.1.0.2"])
        .stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    until("visitors are there, and some have left", async || {
        let asked = |from: &str| {
            let requests = server.requests().into_iter();
            requests
                .filter(|came| came.from.to_string() == from)
                .count()
        };
        let visitors = server.seen.visitors.lock().unwrap();
        let open = |from: &str| {
            visitors
                .get(&from.parse().unwrap())
                .map_or(0, |one| one.open)
        };
        // Who has the page ends the connection.
        let left = asked("127.1.0.2").saturating_sub(open("127.1.0.2"));
        (asked("127.1.0.1") > 5 && left > 5).then_some(())
    })
    .await;
    let id = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .await
            .unwrap()
            .success()
    );
    let output = soon("it ends", child.wait_with_output()).await.unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["complete"], false, "{report}");
    assert!(report["unfinished"].as_u64() >= Some(4), "{report}");
    assert!(report["whole"].as_u64() >= Some(4), "{report}");
}

#[tokio::test]
async fn a_crowd_sees_the_levels_of_the_real_server() {
    let files = folder([
        (
            "index.html",
            &b"<html><img src=a.png><img src=b.png></html>"[..],
        ),
        ("a.png", b"a"),
        ("b.png", b"b"),
    ]);
    let program = Program::serve(&Config::new(format!("primary.site = {:?}", files.path()))).await;
    let url = format!("http://{}/", program.site);
    all(&crowd(&url, &["--verify"]).await, "whole");
    for (level, outcome) in [
        ("throttle", "throttled"),
        ("drop", "dropped"),
        ("normal", "whole"),
    ] {
        program.hold_level(level).await;
        program.until_level(level).await;
        all(&crowd(&url, &[]).await, outcome);
    }
}

#[tokio::test]
async fn a_crowd_that_is_offloaded_is_held_to_the_bytes_of_the_primary() {
    let files = [
        (
            "index.html",
            &b"<html><img src=a.png><img src=b.png></html>"[..],
        ),
        ("a.png", b"aaaa"),
        ("b.png", b"bbbb"),
    ];
    let (primary, copy) = (folder(files), folder(files));
    let edge = OffloadServer::start(copy.path(), 0.1).await;
    let program = Program::serve(&Config::new(format!(
        "primary.site = {:?}
         offload.servers = [{}]",
        primary.path(),
        edge.entry("eu", "")
    )))
    .await;
    program.until_usable("eu", true).await;
    program.hold_level("offload").await;
    program.until_level("offload").await;
    let url = format!("http://{}/", program.site);

    let report = crowd(&url, &["--verify"]).await;
    let visitors = all(&report, "whole");
    assert_eq!(report["objects"]["unverified"], 0, "{report}");
    let from_edge = &report["hosts"][edge.address.to_string()];
    assert_eq!(from_edge["requests"], visitors * 2, "{report}");

    support::write(copy.path(), "b.png", b"bbxb");
    let report = crowd(&url, &["--verify"]).await;
    let visitors = all(&report, "partial");
    assert_eq!(report["objects"]["wrong"], visitors, "{report}");
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_crowd_comes_by_tls_to_servers_that_can_be_trusted() {
    let files = folder([
        (
            "index.html",
            &b"<html><img src=a.png><img src=b.png></html>"[..],
        ),
        ("a.png", b"a"),
        ("b.png", b"b"),
    ]);
    let (key, certificate) = (files.path().join("key.pem"), files.path().join("cert.pem"));
    let address = own_address();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", "/CN=nginx", "-addext"])
        .arg(format!("subjectAltName=IP:{}", address.ip()))
        .args([
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "2",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let (root, key, certificate) = (files.path().display(), key.display(), certificate.display());
    let _nginx = Nginx::configured(
        "",
        &format!(
            "listen {address} ssl; root {root};
             ssl_certificate {certificate}; ssl_certificate_key {key};"
        ),
    );
    let url = format!("https://{address}/");
    for (trusted, outcome) in [(true, "whole"), (false, "failed")] {
        let mut command = command();
        if trusted {
            command.env("SSL_CERT_FILE", certificate.to_string());
        }
        command.args(["crowd", &url, "--rate", "40", "--for", "500ms", "--json"]);
        command.args(["--patience", "3m"]);
        let output = soon("the crowd goes", command.output()).await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        all(&report, outcome);
    }
}

/// What is decided in report mode happens to nobody, and what it would do is counted.
#[tokio::test]
async fn report_mode_counts_what_would_become_of_a_crowd() {
    let picture = vec![7; 10_000];
    let site = folder([
        ("index.html", b"<!doctype html><img src=/a.png>".as_slice()),
        ("a.png", &picture),
    ]);
    // The crowd asks for eight times what this link carries.
    let program = Program::serve(&Config::new(format!(
        "mode = \"report\"\nprimary.site = {:?}\nload.bandwidth.enabled = true\n\
         load.bandwidth.source = \"responses\"\nload.bandwidth.capacity = \"200kbit/s\"\n\
         offload.servers = [{{ name = \"eu\", url = \"http://offload.example\", capacity = \"200kbit/s\", \
         health = false }}]",
        site.path()
    )))
    .await;
    let url = format!("http://{}/", program.site);
    let finished = run(&[
        &url,
        "--rate",
        "20",
        "--for",
        "6s",
        "--json",
        "--patience",
        "3m",
    ])
    .await;
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["whole"], report["offered"], "{report}");
    let hosts = report["hosts"].as_object().unwrap();
    assert_eq!(hosts.len(), 1, "nobody was sent elsewhere: {hosts:?}");
    let status = program.status().await;
    assert_ne!(status["level"], "normal", "{status}");
    for outcome in ["offloaded", "throttled"] {
        assert!(
            status["requests"][outcome].as_u64() > Some(0),
            "{outcome}: {status}"
        );
    }
    let server = program.server("eu").await;
    assert!(server["load"].as_f64() > Some(0.0), "{server}");
    assert_eq!(
        server["assigned_bytes"], 0,
        "it was promised nothing: {server}"
    );
}
