//! The line of a HAProxy agent, as [HAProxy's manual] defines it for `agent-check`.
//!
//! Words separated by spaces, tabs or commas, up to the end of the line; what a word does not tell stays as it
//! was told before:
//!
//! | word | means |
//! |---|---|
//! | `75%` | a weight: the server takes three quarters of its share, so its load is 0.25 |
//! | `ready`, `drain`, `maint` | its keeper's word: `drain` and `maint` hold until `ready` |
//! | `up`, `down`, `fail`, `stopped` | its own state, the last three until `up`; what follows a `#` is the reason |
//! | `maxconn:30` | nothing here |
//!
//! [HAProxy's manual]: https://docs.haproxy.org/2.6/configuration.html#5.2-agent-check

use super::{ReportError, shown};
use crate::units::Ratio;

/// The longest line that is read, in bytes.
pub(in crate::servers) const LIMIT: usize = 1024;
/// How much of a reason is kept.
const REASON: usize = 100;

/// What a line says; what it does not say is as it was.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Agent {
    /// The load: what the weight lacks to 100 %.
    pub load: Option<Ratio>,
    /// What its keeper wants: to take work, or why not.
    pub keeper: Option<Result<(), &'static str>>,
    /// Whether it is up, or how it says that it is not.
    pub up: Option<Result<(), String>>,
}

// === impl Agent ===

impl Agent {
    /// Reads a line. What stands behind its end is not looked at.
    ///
    /// # Errors
    /// Where a word is none that an agent has, or there is no word at all.
    pub fn parse(line: &[u8]) -> Result<Self, ReportError> {
        let line = line
            .split(|byte| matches!(byte, b'\n' | b'\r' | 0))
            .next()
            .unwrap_or_default();
        let (words, reason) = match line.iter().position(|byte| *byte == b'#') {
            Some(at) => (&line[..at], line[at + 1..].trim_ascii()),
            None => (line, &b""[..]),
        };
        let mut agent = Self::default();
        let mut is_empty = true;
        let words = words.split(|byte| matches!(byte, b' ' | b'\t' | b','));
        for word in words.filter(|word| !word.is_empty()) {
            agent
                .hear(word, reason)
                .ok_or_else(|| ReportError::NotAnAgent(shown(word)))?;
            is_empty = false;
        }
        if is_empty {
            return Err(ReportError::NotAnAgent(shown(line)));
        }
        Ok(agent)
    }

    fn hear(&mut self, word: &[u8], reason: &[u8]) -> Option<()> {
        let word = std::str::from_utf8(word).ok()?.to_ascii_lowercase();
        match word.as_str() {
            "ready" => self.keeper = Some(Ok(())),
            "drain" => self.keeper = Some(Err("drain")),
            "maint" => self.keeper = Some(Err("maint")),
            "up" => self.up = Some(Ok(())),
            "down" | "fail" | "stopped" => {
                let reason: String = String::from_utf8_lossy(reason)
                    .chars()
                    .filter(|char| !char.is_control())
                    .take(REASON)
                    .collect();
                self.up = Some(Err(match reason.as_str() {
                    "" => word,
                    reason => format!("{word}: {reason}"),
                }));
            }
            word => {
                if let Some(count) = word.strip_prefix("maxconn:") {
                    number(count)?;
                } else {
                    let weight = number(word.strip_suffix('%')?)?;
                    // A weight may be above 100 %: more than its share is no more than empty.
                    self.load = Some(Ratio::saturating(1.0 - f64::from(weight.min(100)) / 100.0));
                }
            }
        }
        Some(())
    }
}

fn number(text: &str) -> Option<u32> {
    // `parse` would take a sign as well.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// What an agent answers HAProxy for a server of this load: up, ready, and the weight that is left.
///
/// ```
/// use overspill::{servers::report::agent_line, units::Ratio};
///
/// assert_eq!(agent_line(Ratio::new(0.25).unwrap()), "up ready 75%\n");
/// ```
#[must_use]
pub fn agent_line(load: Ratio) -> String {
    let weight = ((1.0 - load.get()) * 100.0).clamp(0.0, 100.0).round();
    format!("up ready {weight}%\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(line: &str) -> Agent {
        Agent::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_weight_is_what_the_load_leaves() {
        for (line, load) in [
            ("75%\n", 0.25),
            ("up 0%\r\n", 1.0),
            ("\t100%,ready", 0.0),
            ("200%", 0.0),
            ("maxconn:30 50%", 0.5),
        ] {
            assert_eq!(agent(line).load.map(Ratio::get), Some(load), "{line}");
        }
    }

    #[test]
    fn words_tell_what_they_tell_and_nothing_else() {
        assert_eq!(
            agent("ready"),
            Agent {
                keeper: Some(Ok(())),
                ..Agent::default()
            }
        );
        assert_eq!(agent("DRAIN").keeper, Some(Err("drain")));
        assert_eq!(agent("maint, up").keeper, Some(Err("maint")));
        assert_eq!(agent("maint, up").up, Some(Ok(())));
        assert_eq!(
            agent("down #disk full\nup").up,
            Some(Err("down: disk full".to_owned()))
        );
        assert_eq!(agent("stopped").up, Some(Err("stopped".to_owned())));
        assert_eq!(
            agent("fail#a\u{1b}[2Jb").up,
            Some(Err("fail: a[2Jb".to_owned()))
        );
    }

    #[test]
    fn other_words_are_refused_and_told() {
        for line in [
            "",
            "\n",
            "#why",
            "hello",
            "up hello",
            "-5%",
            "+5%",
            "5 %",
            "1e2%",
            "NaN%",
            "%",
            "maxconn:x",
            "99999999999%",
        ] {
            let error = Agent::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("an agent's words"), "{line}: {error}");
        }
        let long = [b'x'; 5000];
        assert!(Agent::parse(&long).unwrap_err().to_string().len() < 200);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_sane_load_or_none(line: Vec<u8>) {
            if let Ok(Agent { load: Some(load), .. }) = Agent::parse(&line) {
                proptest::prop_assert!((0.0..=1.0).contains(&load.get()));
            }
        }

        #[test]
        fn what_we_answer_reads_as_it_was_meant(load in 0.0..3.0f64) {
            let agent = agent(&agent_line(Ratio::saturating(load)));
            proptest::prop_assert!((agent.load.unwrap().get() - load.min(1.0)).abs() <= 0.005 + 1e-9);
            proptest::prop_assert_eq!((agent.keeper, agent.up), (Some(Ok(())), Some(Ok(()))));
        }
    }
}
