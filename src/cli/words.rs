//! Numbers, times and other people's text, as they are shown to people.

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};

/// Text of others as it may be written to a terminal: nothing in it steers the terminal or turns its direction.
pub(super) fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let shown = |c| match c {
        '\t' | '\n' | '\r' => ' ',
        c if steers(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// JSON for a terminal as well: it escapes fewer of the letters that steer one.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if c.is_control() {
            text += &format!("\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

/// "42 %", "0.3 %".
pub(super) fn percent(part: f64) -> String {
    let part = part * 100.0;
    if part > 0.0 && part < 1.0 {
        format!("{part:.1} %")
    } else {
        format!("{part:.0} %")
    }
}

/// "2h 13m", "43s": at most two units.
pub(super) fn length(seconds: f64) -> String {
    let seconds = if seconds.is_finite() {
        seconds.max(0.0)
    } else {
        0.0
    };
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m {}s", whole % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A duration as the configuration takes it: "1m 30s".
pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Three digits or so, with a prefix: "1.2 k", "34 M".
pub(super) fn quantity(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let prefixes = ["", " k", " M", " G", " T"];
    let (mut number, mut prefix) = (number, 0);
    while number.abs() >= 999.5 && prefix + 1 < prefixes.len() {
        number /= 1000.0;
        prefix += 1;
    }
    let digits = usize::from(number.abs() < 99.95 && number.fract() != 0.0);
    format!("{number:.digits$}{}", prefixes[prefix])
}

/// "1.2 MB", "0 B".
pub(super) fn bytes(number: f64) -> String {
    let text = quantity(number);
    let gap = if text.contains(' ') { "" } else { " " };
    format!("{text}{gap}B")
}

/// Money: no less than cents, no more than is needed.
pub(super) fn money(amount: f64) -> String {
    if amount > 0.0 && amount < 0.0001 {
        "<0.0001".to_owned()
    } else if amount != 0.0 && amount.abs() < 0.01 {
        format!("{amount:.4}")
    } else {
        format!("{amount:.2}")
    }
}

/// The local clock at `time` (unix seconds), with the day where that is another than `now`'s.
pub(super) fn clock(time: f64, now: f64, zone: &TimeZone) -> String {
    let local = |time: f64| {
        let stamp = Timestamp::from_millisecond((time * 1000.0) as i64).ok()?;
        Some(stamp.to_zoned_datetime(zone.clone()))
    };
    match (local(time), local(now)) {
        (Some(at), Some(now)) if at.date() == now.date() => at.strftime("%H:%M:%S").to_string(),
        (Some(at), _) => at.strftime("%b %d %H:%M:%S").to_string(),
        (None, _) => "–".to_owned(),
    }
}

/// Writes to stdout. Who reads there and goes away has seen enough.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// This machine's clock, in unix seconds.
pub(super) fn now() -> f64 {
    Timestamp::now().as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.34, 12.0, 99.99, 1234.0, 999_999.0, 2.5e9, 1e16].map(quantity);
        assert_eq!(
            shown,
            [
                "0", "0.3", "12", "100", "1.2 k", "1.0 M", "2.5 G", "10000 T"
            ]
        );
        assert_eq!([0.0, 1.2e6].map(bytes), ["0 B", "1.2 MB"]);
        assert_eq!([0.004, 0.426, 1.0].map(percent), ["0.4 %", "43 %", "100 %"]);
        assert_eq!(
            [0.000_01, 0.002, 3.2].map(money),
            ["<0.0001", "0.0020", "3.20"]
        );
        assert_eq!(quantity(f64::NAN), "–");
    }

    #[test]
    fn lengths_have_two_units_at_most() {
        let shown = [-1.0, 43.2, 123.0, 7980.0, 200_000.0].map(length);
        assert_eq!(shown, ["0s", "43s", "2m 3s", "2h 13m", "2d 7h"]);
    }

    #[test]
    fn the_clock_tells_another_day() {
        let noon = 1_764_324_131.0;
        assert_eq!(clock(noon, noon + 60.0, &TimeZone::UTC), "10:02:11");
        assert_eq!(
            clock(noon, noon + 86_400.0, &TimeZone::UTC),
            "Nov 28 10:02:11"
        );
        assert_eq!(clock(f64::MAX, noon, &TimeZone::UTC), "–");
    }
}
