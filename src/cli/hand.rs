//! The operator's hand: `overspill override`, `reload`, `restart` and `drain`.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    DrainArguments, OverrideArguments, ReloadArguments, RestartArguments, admin::Admin, words,
};
use crate::units;

type BoxError = Box<dyn std::error::Error>;

/// The longest that a level may be held by hand: a day. Who wants more has to say so again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// A reload reads files and asks for names.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);
/// The server gives its successor a minute.
const RESTART_PATIENCE: Duration = Duration::from_secs(70);

/// Reads `--for`.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    let length = units::duration::parse(text).map_err(|error| error.to_string())?;
    if length.is_zero() || length > LONGEST {
        let found = words::duration(length);
        return Err(format!(
            "expected more than 0s and at most 24h, found {found}"
        ));
    }
    Ok(length)
}

/// Holds a level, or lets go.
pub(super) fn override_level(arguments: &OverrideArguments) -> Result<(), BoxError> {
    let admin = Admin::new(&arguments.admin, &arguments.config)?;
    let request = match (arguments.level, arguments.length) {
        (Some(level), Some(length)) => {
            json!({ "level": level, "for": words::duration(length) })
        }
        _ => json!({ "level": null }),
    };
    let answer = tell(&admin, "/api/override", &request)?;
    println!("{}", overridden(&answer, words::now(), &TimeZone::system()));
    Ok(())
}

fn overridden(answer: &Value, now: f64, zone: &TimeZone) -> String {
    let Some(level) = answer["level"].as_str() else {
        return "let go: the load decides again".to_owned();
    };
    let level = words::plain(level);
    match answer["seconds"].as_f64() {
        Some(seconds) => format!(
            "{level} is held for {}, until {}, whatever the load; `overspill override --release` lets go",
            words::length(seconds),
            words::clock(now + seconds, now, zone)
        ),
        None => format!("{level} is held, whatever the load"),
    }
}

/// Has it read its configuration again.
pub(super) fn reload(arguments: &ReloadArguments) -> Result<(), BoxError> {
    let admin = Admin::new(&arguments.admin, &arguments.config)?.with_patience(RELOAD_PATIENCE);
    let answer = tell(&admin, "/api/reload", &json!({})).map_err(|error| {
        format!("nothing was taken over, what was in force stays in force: {error}")
    })?;
    println!("{}", reloaded(&answer));
    Ok(())
}

fn reloaded(answer: &Value) -> String {
    let keys = |name: &str| {
        let keys = answer[name].as_array().into_iter().flatten();
        let keys = keys.filter_map(|key| Some(words::plain(key.as_str()?)));
        keys.collect::<Vec<_>>().join(", ")
    };
    let mut told = match keys("changed") {
        keys if keys.is_empty() => "reloaded: nothing has changed".to_owned(),
        keys => format!("reloaded: {keys}"),
    };
    let waiting = keys("restart_needed");
    if !waiting.is_empty() {
        told += &format!("; changed in the file, but takes effect with a restart only: {waiting}");
    }
    told
}

/// Has it start a successor.
pub(super) fn restart(arguments: &RestartArguments) -> Result<(), BoxError> {
    let admin = Admin::new(&arguments.admin, &arguments.config)?.with_patience(RESTART_PATIENCE);
    let answer = tell(&admin, "/api/restart", &json!({}))
        .map_err(|error| format!("no restart, what served before goes on: {error}"))?;
    let process = answer["process"].as_u64().unwrap_or_default();
    println!("restarted: process {process} serves, the old one finishes what is under way");
    Ok(())
}

/// Has it end when what is under way is done.
pub(super) fn drain(arguments: &DrainArguments) -> Result<(), BoxError> {
    let admin = Admin::new(&arguments.admin, &arguments.config)?;
    tell(&admin, "/api/drain", &json!({}))?;
    println!("draining: it takes no new connections, and ends when what is under way is done");
    Ok(())
}

fn tell(admin: &Admin, path: &str, body: &Value) -> Result<Value, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(admin.post(path, body))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_durations_and_none_are_refused() {
        assert_eq!(length("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(length("24h"), Ok(LONGEST));
        for (text, part) in [
            ("0s", "more than 0s"),
            ("25h", "at most 24h, found 1day 1h"),
            ("soon", "expected a duration"),
            ("-5s", "expected a duration"),
        ] {
            let error = length(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_was_done_is_told_in_one_line() {
        let held = json!({ "level": "offload", "seconds": 90.0 });
        let told = overridden(&held, 1_764_324_131.0, &TimeZone::UTC);
        assert!(
            told.starts_with("offload is held for 1m 30s, until 10:03:41"),
            "{told}"
        );
        assert!(overridden(&json!({ "level": null }), 0.0, &TimeZone::UTC).starts_with("let go"));
        assert_eq!(reloaded(&json!({})), "reloaded: nothing has changed");
        let both =
            json!({ "changed": ["offload.hold", "mode"], "restart_needed": ["primary.listen"] });
        assert_eq!(
            reloaded(&both),
            "reloaded: offload.hold, mode; changed in the file, but takes effect with a restart only: primary.listen"
        );
    }
}
