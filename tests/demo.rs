//! `overspill demo` tells its story to the end: every part of it over real sockets, in the built program.
//!
//! What is asked for holds whatever the machine's speed.

use std::{
    process::{Command, Output},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

const ACTS: [&str; 8] = [
    "calm",
    "a crowd",
    "offload",
    "a server dies",
    "twice the crowd",
    "throttle",
    "drop",
    "relief",
];

fn demo(arguments: &[&str]) -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_overspill"));
    demo.arg("demo").args(arguments).env_remove("RUST_LOG");
    demo
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// One plays at a time: each fills the machine.
fn alone_on_stage() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::new(());
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Played once, for all tests that look at it.
static PLAYED: LazyLock<Output> = LazyLock::new(|| {
    let _alone = alone_on_stage();
    demo(&["--fast", "--json"]).output().unwrap()
});

/// The summary, and the story to tell with what fails.
fn told_as_json() -> (Value, String) {
    let output = &*PLAYED;
    let story = text(&output.stderr);
    let summary = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("one line of JSON: {error}\n{story}"));
    (summary, story)
}

fn count(summary: &Value, pointer: &str) -> u64 {
    let count = summary.pointer(pointer).and_then(Value::as_u64);
    count.unwrap_or_else(|| panic!("{pointer} is no count: {summary}"))
}

/// All who came, by how their visits ended.
fn counted(summary: &Value, whose: &str) -> u64 {
    let ends = [
        "whole",
        "turned_away",
        "dropped",
        "too_slow",
        "broken",
        "still_there",
        "not_sent",
    ];
    let counts = ends.map(|end| count(summary, &format!("{whose}/{end}")));
    counts.iter().sum()
}

fn assert_plain(story: &str) {
    let control = story.find(|sign: char| sign.is_control() && sign != '\n');
    assert_eq!(control, None, "control codes in a pipe: {story:?}");
}

/// Each of them, and in this order.
fn assert_told<'a>(story: &str, parts: impl IntoIterator<Item = &'a str>) {
    let mut rest = story;
    for part in parts {
        let found = rest.find(part);
        rest = &rest[found.unwrap_or_else(|| panic!("no {part:?} there: {story}"))..];
    }
}

#[test]
fn the_demo_goes_through_its_levels_and_ends_where_it_began() {
    let (summary, story) = told_as_json();
    assert!(PLAYED.status.success(), "{story}");
    assert_plain(&story);
    assert_plain(&text(&PLAYED.stdout));

    assert_eq!(summary["complete"], true, "{summary}\n{story}");
    assert_eq!(summary["level"], "normal", "{summary}\n{story}");
    assert_eq!(
        *summary["acts"].as_array().unwrap(),
        ACTS,
        "{summary}\n{story}"
    );
    let levels = summary["levels"].as_array().unwrap();
    assert_eq!(levels[0], "normal");
    for level in ["offload", "throttle"] {
        assert!(
            levels.iter().any(|seen| seen == level),
            "{summary}\n{story}"
        );
    }
    for pointer in [
        "/whole",
        "/turned_away",
        "/pages_rewritten",
        "/bytes/primary",
        "/bytes/a",
        "/bytes/b",
        "/without/whole",
        "/without/bytes",
    ] {
        assert!(
            count(&summary, pointer) > 0,
            "{pointer}: {summary}\n{story}"
        );
    }
    assert_told(
        &story,
        [
            "http://127.0.0.1:",
            "1. An ordinary evening",
            "2. ",
            "normal -> offload",
            "3. ",
            "4. Offload server b is killed",
            "Overspill has noticed",
            "not healthy: ",
            "b is started again",
            "Overspill has noticed",
            "5. ",
            "6. ",
            "7. ",
            "8. ",
            "offload -> normal",
            "without",
        ],
    );
}

#[test]
fn everyone_who_comes_is_counted_once_and_comes_to_both() {
    let (summary, story) = told_as_json();
    let came = count(&summary, "/came");
    assert!(came > 500, "{summary}\n{story}");
    assert_eq!(counted(&summary, ""), came, "{summary}\n{story}");
    assert_eq!(count(&summary, "/without/came"), came, "{summary}\n{story}");
    assert_eq!(counted(&summary, "/without"), came, "{summary}\n{story}");
    assert_eq!(count(&summary, "/without/turned_away"), 0, "{summary}");
    for whose in ["", "/without"] {
        let time = |which: &str| {
            let pointer = format!("{whose}/time_to_whole/{which}");
            summary.pointer(&pointer).and_then(Value::as_f64).unwrap()
        };
        assert!(0.0 < time("p50") && time("p50") <= time("p95"), "{summary}");
    }
}

#[test]
fn a_server_dies_and_comes_back_and_the_status_knows_both() {
    let (summary, story) = told_as_json();
    let died = &summary["died"];
    assert_eq!(died["server"], "b", "{summary}\n{story}");
    let [killed, noticed, started, back] = ["killed", "noticed", "started", "back"].map(|when| {
        let time = died[when].as_f64();
        time.unwrap_or_else(|| panic!("{when} never was: {summary}\n{story}"))
    });
    assert!(
        killed <= noticed && noticed <= started && started <= back,
        "{died}"
    );
}

/// The two counts of a row of the table.
fn counts(story: &str, row: &str) -> [u64; 2] {
    let line = story.lines().find(|line| line.contains(row));
    let line = line.unwrap_or_else(|| panic!("no {row:?}: {story}"));
    let (_, numbers) = line.split_once(row).unwrap();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    let number = |index: usize| numbers[index].replace(',', "").parse().unwrap();
    // Each is followed by its part and a "%".
    [number(0), number(3)]
}

fn assert_table(story: &str) {
    for line in story.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert_told(story, ["with Overspill", "without"]);
    let came = counts(story, "visitors who came");
    // One of the two may just be about to come where the story was broken off.
    assert!(
        came[0] == came[1] || story.contains("broken off"),
        "{story}"
    );
    assert!(came[0] > 0, "{story}");
    let mut left = came;
    for (row, always) in [
        ("  got a whole page", true),
        ("were turned away with a 503 page", true),
        ("were dropped without an answer", true),
        ("were let in, and lost patience", true),
        ("were let in, and found something missing", true),
        ("were still there", false),
        ("could not be sent by this machine", false),
    ] {
        if always || story.contains(row) {
            let counts = counts(story, row);
            left = [left[0] - counts[0], left[1] - counts[1]];
        }
    }
    assert_eq!(left, [0, 0], "everyone is counted once: {story}");
}

#[cfg(unix)]
mod interrupted {
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Child, ChildStdout, Stdio},
    };

    use super::*;

    /// A demo, and what it tells.
    struct Playing {
        demo: Child,
        told: BufReader<ChildStdout>,
        so_far: String,
    }

    impl Playing {
        fn new(arguments: &[&str]) -> Self {
            let mut demo = demo(arguments).stdout(Stdio::piped()).spawn().unwrap();
            let told = BufReader::new(demo.stdout.take().unwrap());
            Self {
                demo,
                told,
                so_far: String::new(),
            }
        }

        /// Reads until it has said that.
        fn until(&mut self, said: &str) {
            while !self.so_far.contains(said) {
                let read = self.told.read_line(&mut self.so_far).unwrap();
                assert_ne!(read, 0, "it ended early: {}", self.so_far);
            }
        }

        /// Interrupts it; gives what it says then.
        fn interrupt(mut self) -> String {
            let id = self.demo.id().to_string();
            let interrupted = Command::new("kill").args(["-INT", &id]).status().unwrap();
            assert!(interrupted.success());
            let mut rest = String::new();
            self.told.read_to_string(&mut rest).unwrap();
            assert!(self.demo.wait().unwrap().success(), "{rest}");
            rest
        }
    }

    impl Drop for Playing {
        /// Where a test fails, nothing is left behind.
        fn drop(&mut self) {
            let _ = self.demo.kill();
            let _ = self.demo.wait();
        }
    }

    #[test]
    fn the_demo_can_be_interrupted() {
        let mut playing = Playing::new(&[]);
        // The narrator's first sentence: the curtain is up. The first line: someone has come.
        playing.until("An ordinary evening");
        playing.until("····");
        let rest = playing.interrupt();
        assert!(rest.contains("broken off"), "{rest}");
        assert_plain(&rest);
        assert_table(&rest);
    }

    #[test]
    fn who_has_seen_enough_of_it_ends_it_quietly() {
        let mut child = demo(&["--fast"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        drop(told);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(text(&output.stderr), "");
    }

    #[test]
    fn it_shows_both_crowds_and_stays_if_asked_to() {
        use std::{io::Write, net::TcpStream};

        fn get(url: &str, path: &str) -> String {
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            let mut stream = TcpStream::connect(address).unwrap();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        }

        let _alone = alone_on_stage();
        let mut playing = Playing::new(&["--fast", "--keep"]);
        playing.until("until Ctrl-C");
        playing.until("The site: ");
        assert_plain(&playing.so_far);
        assert_table(&playing.so_far);
        let keeping = playing.so_far.rsplit("until Ctrl-C").next().unwrap();
        let urls: Vec<&str> = keeping
            .split_whitespace()
            .filter(|word| word.starts_with("http://"))
            .collect();
        let [admin, site] = urls[..] else {
            panic!("two addresses: {keeping}")
        };
        assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(admin, "/api/status").contains("\"level\":"));
        assert!(get(site, "/").starts_with("HTTP/1.1 200"));
        assert!(!playing.so_far.contains("broken off"), "{}", playing.so_far);
        playing.interrupt();
    }
}
