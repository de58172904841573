//! `overspill crowd`.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::time::Instant;
use url::Url;

use super::CrowdArguments;
use crate::{
    crowd::{Crowd, Reach, Settings, Tally},
    guard::allow_many_connections,
    units::duration,
};

type BoxError = Box<dyn std::error::Error>;

/// No server needs longer to show what it can do, and no mistake should last longer.
const LONGEST: Duration = Duration::from_secs(600);
const MOST_PATIENT: Duration = Duration::from_secs(600);
const FASTEST: f64 = 10_000.0;

/// Sends the crowd, and tells what became of it; when it is broken off, what has become of it so far.
pub(super) fn run(arguments: &CrowdArguments) -> Result<(), BoxError> {
    arguments
        .addresses
        .check()
        .map_err(|error| format!("--addresses: {error}"))?;
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let came = runtime.block_on(come(arguments));
    // Whoever still waits for an answer gets none.
    runtime.shutdown_background();
    let Some((crowd, took)) = came? else {
        return Err("broken off before the crowd came".into());
    };
    let report = crowd.report(arguments.rate, arguments.length, took);
    let mut out = io::stdout().lock();
    let told = if arguments.json {
        let json = serde_json::to_string(&report)?;
        writeln!(out, "{json}")
    } else {
        write!(out, "{report}")
    };
    match told {
        // `overspill crowd … | head`: who has seen enough has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => Ok(told?),
    }
}

async fn come(arguments: &CrowdArguments) -> Result<Option<(Crowd, Duration)>, BoxError> {
    let stop = broken_off();
    tokio::pin!(stop);
    let crowd = tokio::select! {
        crowd = Crowd::prepared(settings(arguments), arguments.verify) => crowd?,
        () = &mut stop => return Ok(None),
    };
    let began = Instant::now();
    let coming = tokio::spawn({
        let (crowd, rate, length) = (crowd.clone(), arguments.rate, arguments.length);
        async move { crowd.come(|_| rate, length, began).await }
    });
    tokio::select! {
        came = coming => came?,
        () = &mut stop => {}
        () = tell(&crowd, began) => {}
    }
    Ok(Some((crowd, began.elapsed())))
}

fn settings(arguments: &CrowdArguments) -> Settings {
    let own = arguments
        .own
        .then_some(&arguments.pages)
        .into_iter()
        .flatten();
    let own = own.filter_map(Url::host_str).map(str::to_owned);
    let named = arguments.own_hosts.iter().cloned();
    Settings {
        patience: arguments.patience,
        most: arguments.most,
        sources: arguments.addresses.clone(),
        reach: Reach::new(own.chain(named)),
        cookie: arguments.cookie.clone(),
        seed: arguments.seed,
        ..Settings::new(arguments.pages.clone())
    }
}

/// SIGINT, SIGTERM; elsewhere than on Unix, Ctrl-C. A closed terminal ends the crowd as it ends other programs.
#[cfg(unix)]
async fn broken_off() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without them the system's own way of ending a process still works.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(not(unix))]
async fn broken_off() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// A line each second, where someone watches. Never ends.
async fn tell(crowd: &Crowd, began: Instant) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut last = crowd.tally();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = crowd.tally();
        eprintln!("{}", line(began.elapsed(), &last, &now));
        last = now;
    }
}

/// What happened since the last line.
fn line(time: Duration, last: &Tally, now: &Tally) -> String {
    let mut line = format!(
        "{:>4.0} s  {:>5} came  {:>5} whole  {:>5} there",
        time.as_secs_f64(),
        now.offered - last.offered,
        now.whole - last.whole,
        now.unfinished
    );
    for (now, last, what) in [
        (now.partial, last.partial, "partial"),
        (now.throttled, last.throttled, "503"),
        (now.dropped, last.dropped, "dropped"),
        (now.timed_out, last.timed_out, "timed out"),
        (now.refused, last.refused, "refused"),
        (now.failed, last.failed, "failed"),
        (now.not_started, last.not_started, "not started"),
    ] {
        if now > last {
            line += &format!("  {:>5} {what}", now - last);
        }
    }
    line
}

/// `URL`.
pub(super) fn page(text: &str) -> Result<Url, String> {
    // `localhost:8080` is a URL, too: one with the scheme `localhost`.
    let expected = || format!("expected a URL such as http://127.0.0.1:8080/, found {text:?}");
    let mut url = Url::parse(text).map_err(|_| expected())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(expected());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a crowd does not log in: leave out name and password".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// `--rate`.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse().ok();
    rate.filter(|rate| *rate > 0.0 && *rate <= FASTEST)
        .ok_or_else(|| {
            format!("expected visitors a second, above 0 and at most {FASTEST}, found {text:?}")
        })
}

/// `--for`.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    up_to(text, LONGEST)
}

/// `--patience`.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    up_to(text, MOST_PATIENT)
}

fn up_to(text: &str, most: Duration) -> Result<Duration, String> {
    let found = duration::parse(text).map_err(|error| error.to_string())?;
    if found.is_zero() || found > most {
        let most = humantime::format_duration(most);
        return Err(format!(
            "expected more than 0s and at most {most}, found {text:?}"
        ));
    }
    Ok(found)
}

/// `--own-host`.
pub(super) fn own_host(text: &str) -> Result<String, String> {
    // As URLs have it: in small letters, other scripts in Punycode.
    let host = url::Host::parse(text).map(|host| host.to_string());
    host.map_err(|_| format!("expected a host's name or address, found {text:?}"))
}

/// `--cookie`.
pub(super) fn cookie(text: &str) -> Result<String, String> {
    // RFC 6265: a token (RFC 9110, section 5.6.2).
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(format!("expected the name of a cookie, found {text:?}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_out_of_bounds_and_says_what_was_expected() {
        for text in ["0", "-1", "10001", "NaN", "inf", "fast", ""] {
            let error = rate(text).unwrap_err();
            assert!(
                error.contains("at most 10000") && error.contains(text),
                "{error}"
            );
        }
        for text in ["0s", "601s", "11m"] {
            let error = length(text).unwrap_err();
            assert!(
                error.contains("at most 10m") && error.contains(text),
                "{error}"
            );
        }
        assert!(length("ten").unwrap_err().contains("30s"));
        for text in [
            "",
            "localhost:8080",
            "ftp://a/",
            "/a",
            "http://me:pw@a/",
            "http://",
        ] {
            assert!(page(text).is_err(), "{text}");
        }
        assert!(cookie("a b").is_err() && cookie("a;b=c").is_err() && cookie("").is_err());
        assert!(own_host("http://a/").is_err() && own_host("a:80").is_err());
        assert_eq!(own_host("EU.Example").unwrap(), "eu.example");
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(length("10m"), Ok(LONGEST));
        assert_eq!(page("http://a#b").unwrap().as_str(), "http://a/");
    }

    #[test]
    fn a_line_tells_what_happened_since_the_last() {
        let last = Tally::default();
        let mut now = last;
        (now.offered, now.whole, now.throttled) = (12, 9, 3);
        let line = line(Duration::from_secs(3), &last, &now);
        assert_eq!(
            line,
            "   3 s     12 came      9 whole      0 there      3 503"
        );
    }
}
