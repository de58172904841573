//! `overspill check`, and `overspill serve` with a configuration that it can't serve with.

use crate::support::{
    client::get,
    config::Config,
    folder,
    program::{Finished, Program, command, run},
    wait::soon,
};

/// A configuration in which nearly everything is wrong, and what has to be said of it: the key, what was
/// expected, what was found.
const WRONG: &str = r#"
mode = "strict"
colour = "red"
[primary]
listen = "localhost"
site = "no/such/folder"
trusted_proxies = ["10.0.0.0/33"]
hosts = ["http://a/"]
[load]
interval = "fast"
release = -1
[load.cpu]
offload = 0.9
throttle = 0.7
[load.bandwidth]
capacity = 20
source = "guess"
[load.in_flight]
capacity = -5
[offload]
hold = "soon"
share = 1.5
redirect = ["/a[b"]
select = ["client", "mood"]
[[offload.servers]]
name = "eu"
url = "eu.example"
threshold = 0.8
resume = 0.9
[[offload.servers]]
name = "eu"
url = "http://eu.example"
price = -2
health = "often"
[[offload.clients]]
addresses = ["203.0.113.0/24"]
servers = ["mars"]
[throttle]
page = "no/such/page.html"
action = "shout"
retry_after = "10 parsecs"
[[throttle.classes]]
name = "default"
priority = "high"
[[throttle.classes]]
name = "customers"
identity = "gold-*"
header = "x plan"
[[throttle.classes]]
name = "customers"
paths = ["/a[b"]
[[throttle.classes]]
name = "bots"
paths = ["/"]
colour = "gold"
[drop]
method = "vanish"
[admin]
listen = "0.0.0.0:1"
"#;

const SAID: &[(&str, &[&str])] = &[
    ("mode", &["enforce", "strict"]),
    ("colour", &["is no key", "`mode`"]),
    ("primary.listen", &["localhost"]),
    (
        "primary.site",
        &["a folder that can be read", "no/such/folder"],
    ),
    (
        "primary.trusted_proxies[0]",
        &["203.0.113.0/24", "10.0.0.0/33"],
    ),
    ("primary.hosts[0]", &["www.example.com", "http://a/"]),
    ("load.interval", &["a duration such as", "fast"]),
    ("load.release", &["-1"]),
    (
        "load.cpu.throttle",
        &["must be above `load.cpu.offload` (0.9)", "found 0.7"],
    ),
    ("load.bandwidth.capacity", &["a bit rate such as", "20"]),
    ("load.bandwidth.source", &["interface", "guess"]),
    ("load.in_flight.capacity", &["-5"]),
    ("offload.hold", &["a duration such as", "soon"]),
    ("offload.share", &["auto", "1.5"]),
    ("offload.redirect[0]", &["a glob such as", "/a[b"]),
    ("offload.select[1]", &["client", "mood"]),
    (
        "offload.servers[0].url",
        &["must be a URL such as", "scheme", "eu.example"],
    ),
    (
        "offload.servers[0].resume",
        &["must not be above `threshold` (0.8)", "found 0.9"],
    ),
    ("offload.servers[1].name", &["eu", "offload.servers[0]"]),
    ("offload.servers[1].price", &["-2"]),
    ("offload.servers[1].health", &["false", "often"]),
    ("offload.clients[0].servers[0]", &["eu", "mars"]),
    (
        "throttle.page",
        &["a readable template", "no/such/page.html"],
    ),
    ("throttle.action", &["page", "drop", "shout"]),
    (
        "throttle.retry_after",
        &["a duration such as", "10 parsecs"],
    ),
    ("throttle.classes[0].priority", &["high"]),
    ("throttle.classes[0].name", &["must not be \"default\""]),
    (
        "throttle.classes[1].identity",
        &["needs `offload.identity`"],
    ),
    ("throttle.classes[1].header", &["x-plan: gold*", "x plan"]),
    (
        "throttle.classes[2].name",
        &["customers", "`throttle.classes[1]`"],
    ),
    ("throttle.classes[2].paths[0]", &["a glob such as", "/a[b"]),
    ("throttle.classes[3].colour", &["is no key", "`priority`"]),
    ("drop.method", &["close", "vanish"]),
    ("admin.token", &["must be given", "0.0.0.0:1"]),
];

/// The lines that tell a problem.
fn problems(run: &Finished) -> Vec<&str> {
    run.stderr
        .lines()
        .filter(|line| line.starts_with("  "))
        .collect()
}

#[tokio::test]
async fn every_problem_is_told_at_once_with_its_key_what_was_expected_and_what_was_found() {
    for arguments in [&["check"][..], &["serve"]] {
        let run = run(arguments, WRONG).await;
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.stdout, "");
        let problems = problems(&run);
        for (key, parts) in SAID {
            let told: Vec<&&str> = problems
                .iter()
                .filter(|line| line.contains(&format!("`{key}`")))
                .collect();
            let told = told
                .iter()
                .find(|line| line.trim_start().starts_with(&format!("`{key}`")));
            let told = told.unwrap_or_else(|| panic!("`{key}` in\n{}", run.stderr));
            for part in *parts {
                assert!(told.contains(part), "{part} in {told}");
            }
        }
        assert_eq!(
            problems.len(),
            SAID.len(),
            "each once, and nothing else:\n{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(&format!("{} problems", SAID.len())),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains("overspill.toml"),
            "the file is named: {}",
            run.stderr
        );
    }
}

#[tokio::test]
async fn nothing_listens_when_anything_is_wrong() {
    let site = folder([("index.html", b"home".as_slice())]);
    // A port that is free now; whoever takes it meanwhile is not the program, since that has ended.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = Config::new(format!(
        "primary.site = {:?}\nprimary.listen = \"{free}\"\ndrop.method = \"vanish\"",
        site.path()
    ));
    let run = run(&["serve"], &config.to_string()).await;
    assert_eq!(run.code, Some(1));
    assert!(
        !run.stderr.contains("http://"),
        "nothing was announced: {}",
        run.stderr
    );
}

#[tokio::test]
async fn a_folder_that_is_missing_is_told() {
    for (lines, parts) in [
        (
            "primary.site = \"/no/such/folder\"",
            &["`primary.site`", "/no/such/folder"][..],
        ),
        (
            "primary.upstream = \"127.0.0.1:3000\"",
            &["`primary.upstream`", "must be a URL such as"],
        ),
        (
            "primary.upstream = \"ftp://127.0.0.1\"",
            &["`primary.upstream`", "scheme http or https"],
        ),
        (
            "primary.upstream = \"http://127.0.0.1:3000\"\nprimary.site = \"/\"",
            &[
                "`primary.upstream`",
                "not be given together with `primary.site`",
            ],
        ),
    ] {
        for command in ["check", "serve"] {
            let run = run(&[command], &Config::new(lines).to_string()).await;
            assert_eq!(run.code, Some(1), "{run:?}");
            for part in parts {
                assert!(run.stderr.contains(part), "{part} in {}", run.stderr);
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_told_with_the_place() {
    let run = run(&["check"], "mode = \"enforce\"\n[load\n").await;
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("TOML") && run.stderr.contains("line 2"),
        "{}",
        run.stderr
    );
    let nowhere = command()
        .args(["check", "--config", "/no/such/file.toml"])
        .output();
    let output = soon("it ends", nowhere).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("/no/such/file.toml"), "{said}");
}

#[tokio::test]
async fn the_effective_configuration_can_be_checked_and_served_again() {
    let site = folder([("index.html", b"home".as_slice())]);
    let config = Config::new(format!(
        r#"
        primary.site = {:?}
        load.cpu.offload = 0.5
        offload.token = "open sesame"
        offload.share = 0.25
        offload.servers = [{{ name = "eu", url = "http://127.0.0.1:9/prefix", price = 0.02, health = false }}]
        "#,
        site.path()
    ));
    let once = run(&["check"], &config.to_string()).await;
    assert_eq!((once.code, once.stderr.as_str()), (Some(0), ""), "{once:?}");
    assert!(!once.stdout.contains("sesame"), "{}", once.stdout);
    assert!(once.stdout.contains("share = 0.25"), "{}", once.stdout);
    let again = run(&["check"], &once.stdout).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(once.stdout, again.stdout, "what is printed says all");
}

#[tokio::test]
async fn a_variable_overrides_one_key_and_is_checked_like_the_file() {
    let folder = folder([(
        "overspill.toml",
        b"load.cpu.offload = 0.5\n[primary]\nsite = \".\"".as_slice(),
    )]);
    let check = |name: &str, value: &str| {
        let mut command = command();
        command
            .env(name, value)
            .args(["check", "--config", "overspill.toml"])
            .current_dir(folder.path());
        async move { soon("it ends", command.output()).await.unwrap() }
    };
    let output = check("OVERSPILL__LOAD__CPU__OFFLOAD", "0.6").await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("offload = 0.6")
    );
    for (name, key) in [
        ("OVERSPILL__LOAD__CPU__OFFLOAD", "load.cpu.offload"),
        ("OVERSPILL__OFFLOAD__HOLD", "offload.hold"),
        ("OVERSPILL__OFFLOAD__HODL", "offload.hodl"),
    ] {
        let output = check(name, "lots").await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(said.contains(&format!("`{key}`")), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_key_and_address() {
    let site = folder([("index.html", b"home".as_slice())]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["primary.listen", "admin.listen"] {
        let config = Config::new(format!(
            "primary.site = {:?}\n{key} = \"{address}\"",
            site.path()
        ));
        let run = run(&["serve"], &config.to_string()).await;
        assert_eq!(run.code, Some(1));
        let told = format!("can't listen on {address} (`{key}`): ");
        assert!(run.stderr.contains(&told), "{}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }
    drop(taken);
    let config = Config::new(format!("primary.site = {:?}", site.path()));
    let program = Program::serve(&config).await;
    assert_eq!(get("/").ask(program.site).await.text(), "home");
}

#[tokio::test]
async fn arguments_go_before_the_file() {
    let site = folder([("index.html", b"home".as_slice())]);
    let path = site.path().to_str().unwrap();
    let run = run(
        &["serve", "--site", path, "--listen", "203.0.113.255:1"],
        &Config::new("").to_string(),
    )
    .await;
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.contains("can't listen on 203.0.113.255:1"),
        "{}",
        run.stderr
    );
}
