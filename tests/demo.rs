//! `overspill demo` tells its story to the end: every part of it over real sockets, in the built program.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_goes_through_its_levels_and_ends_where_it_began() {
    let output = Command::new(env!("CARGO_BIN_EXE_overspill"))
        .args(["demo", "--fast", "--json"])
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{story}");
    let summary: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("one line of JSON: {error}\n{story}"));

    assert_eq!(summary["complete"], true, "{summary}\n{story}");
    assert_eq!(summary["level"], "normal", "{summary}\n{story}");
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
    ] {
        let count = summary.pointer(pointer).and_then(Value::as_u64);
        assert!(count > Some(0), "{pointer}: {summary}\n{story}");
    }
    assert_eq!(summary["broken"], 0, "{summary}\n{story}");
    assert!(story.contains("normal -> offload"), "{story}");
}

#[test]
#[cfg(unix)]
fn the_demo_can_be_interrupted() {
    use std::{
        io::{BufRead, BufReader, Read},
        process::Stdio,
    };

    let mut demo = Command::new(env!("CARGO_BIN_EXE_overspill"))
        .arg("demo")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(demo.stdout.take().unwrap());
    // The narrator's first sentence: the curtain is up.
    let mut line = String::new();
    while !line.contains("An ordinary evening") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &demo.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert!(demo.wait().unwrap().success());
    assert!(rest.contains("broken off"), "{rest}");
}
