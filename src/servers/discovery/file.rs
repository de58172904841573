//! A file that is read again and again.
//!
//! It is read as a whole and compared with what it was: times and sizes of files tell less. What differs is taken
//! when it is the same at two looks in a row, and for as long as its taker wants it to stand: who writes it in place may
//! pause, and half of a list must not be taken for a shorter one.

use std::time::Duration;

use tokio::time::Instant;

/// The longest file that is read, in bytes.
pub const LIMIT: u64 = 4 * 1024 * 1024;

/// What was seen of it.
#[derive(Debug, Default)]
pub struct Watched {
    looked: bool,
    last: Option<Last>,
    taken: Option<Result<Vec<u8>, String>>,
}

/// What it was at the last look.
#[derive(Debug)]
struct Last {
    content: Result<Vec<u8>, String>,
    since: Instant,
    stands_for: Duration,
}

// === impl Watched ===

impl Watched {
    /// Takes in what it holds at `now`, or why it can't be read; gives that where it is news. `hold` says how long
    /// such news has to stand.
    pub fn look(
        &mut self,
        content: Result<Vec<u8>, String>,
        now: Instant,
        hold: impl FnOnce(&Result<Vec<u8>, String>) -> Duration,
    ) -> Option<&Result<Vec<u8>, String>> {
        // At first there is nothing that it could differ from.
        let is_first = !std::mem::replace(&mut self.looked, true);
        if self.taken.as_ref() == Some(&content) {
            self.last = None;
            return None;
        }
        let last = self.last.take().filter(|last| last.content == content);
        if is_first
            || last
                .as_ref()
                .is_some_and(|last| now.saturating_duration_since(last.since) >= last.stands_for)
        {
            return Some(self.taken.insert(content));
        }
        self.last = Some(last.unwrap_or_else(|| Last {
            stands_for: hold(&content),
            content,
            since: now,
        }));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_is_left_alone() {
        let mut file = Watched::default();
        let mut look = |content: &str| {
            let content = Ok(content.as_bytes().to_vec());
            let news = file.look(content, Instant::now(), |_| Duration::ZERO);
            news.is_some()
        };
        assert!(look("a"), "the first look counts");
        assert!(!look("a"));
        assert!(!look("a b"));
        assert!(!look("a b c"), "it is still growing");
        assert!(look("a b c"));
        assert!(!look("a b c"));
        assert!(!look("x"));
        assert!(!look("a b c"), "as it was");
        assert!(!look("x"));
        assert!(look("x"));
    }

    #[test]
    fn what_has_to_stand_is_taken_once_it_has_stood() {
        let mut file = Watched::default();
        let start = Instant::now();
        let mut look = |content: &str, second| {
            let now = start + Duration::from_secs(second);
            let content = Ok(content.as_bytes().to_vec());
            file.look(content, now, |_| Duration::from_secs(5))
                .is_some()
        };
        assert!(look("a b", 0), "the first look counts");
        assert!(!look("a", 1));
        assert!(!look("a", 5));
        assert!(!look("", 6), "another one begins anew");
        assert!(!look("a", 7));
        assert!(!look("a", 11));
        assert!(look("a", 12));
        assert!(!look("", 13));
        assert!(!look("a", 20), "as it was");
    }

    #[test]
    fn that_it_is_gone_is_news_once() {
        let mut file = Watched::default();
        let mut look = |content| {
            file.look(content, Instant::now(), |_| Duration::ZERO)
                .is_some()
        };
        let gone = || Err("not found".to_owned());
        assert!(look(gone()));
        assert!(!look(gone()));
        assert!(!look(Ok(vec![1])));
        assert!(look(Ok(vec![1])));
        assert!(!look(gone()));
        assert!(look(gone()));
    }
}
