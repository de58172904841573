//! Arguments to commands.

mod admin;
mod check;
mod crowd;
mod demo;
mod edge;
mod explain;
mod hand;
mod help;
mod listen;
mod log;
mod manual;
mod serve;
mod status;
mod why;
mod words;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use crate::{
    crowd::{Settings as Crowd, Sources},
    level::Level,
};

/// Keeps a web site up when more people come than its server can serve.
#[derive(Debug, Parser)]
#[command(name = "overspill", version, about, max_term_width = 100, after_help = help::FIRST_STEPS)]
struct Arguments {
    /// How the log is written (to stderr); what is logged is said by RUST_LOG, e.g. RUST_LOG=debug
    #[arg(
        long,
        value_enum,
        default_value = "text",
        global = true,
        display_order = 900
    )]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a folder, or stand in front of an HTTP server
    #[command(after_help = help::SERVE)]
    Serve(ServeArguments),
    /// Give out a primary's objects: an offload server, on any machine
    #[command(after_help = help::EDGE)]
    Edge(EdgeArguments),
    /// See it at work: a site on a small link, two offload servers and a growing crowd, in about two minutes
    #[command(after_help = help::DEMO)]
    Demo(DemoArguments),
    /// Check the configuration: print it as it takes effect, or every problem at once
    #[command(after_help = help::CHECK)]
    Check(ConfigArguments),
    /// Tell of each link of a page what happens to it, and why; or what a running server would do for a client
    #[command(after_help = help::EXPLAIN)]
    Explain(ExplainArguments),
    /// Watch a running server: load, level, visitors and offload servers, live in the terminal
    #[command(after_help = help::STATUS)]
    Status(StatusArguments),
    /// Hold a level by hand, whatever the load; or let go
    #[command(after_help = help::OVERRIDE)]
    Override(OverrideArguments),
    /// Have a running server read its configuration again
    #[command(after_help = help::RELOAD)]
    Reload(ReloadArguments),
    /// Have a running server start its successor, and leave it its place: no connection is refused or lost
    #[command(after_help = help::RESTART)]
    Restart(RestartArguments),
    /// Have a running server finish what is under way, and end
    #[command(after_help = help::DRAIN)]
    Drain(DrainArguments),
    /// Send a crowd to a site of your own: visitors as browsers are, and how many get whole pages
    ///
    /// Visitors come at random, whether or not those before them have been served (open loop). Each fetches a page and
    /// all that it makes a browser fetch, over up to six connections a host, from an address of its own as far
    /// as the machine has them, and goes away when the page is whole or its patience ends. Nothing is
    /// compressed and nothing cached. At most 10,000 visitors a second, for at most 10 minutes. Ctrl-C
    /// gives the report so far.
    #[command(after_help = help::CROWD)]
    Crowd(CrowdArguments),
    /// Print what a shell needs to complete commands and options
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArguments),
    /// Print the manual, for `man`
    #[command(after_help = help::MAN)]
    Man(ManArguments),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigArguments {
    /// The configuration [default: $OVERSPILL_CONFIG, else config/overspill.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which running server is asked.
#[derive(Debug, Args)]
struct AdminArguments {
    /// The admin listener of the running server [default: `admin.listen` of the configuration if there is one, else
    /// http://127.0.0.1:9901]
    #[arg(long, value_name = "URL", value_parser = admin::url)]
    admin: Option<Url>,
    /// A file with the server's `admin.token` [default: $OVERSPILL_TOKEN; else, for the server of the configuration,
    /// the token that stands there]. The file goes before the variable
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The folder to serve (instead of `primary.site`)
    #[arg(long, value_name = "DIR", conflicts_with = "upstream")]
    site: Option<PathBuf>,
    /// The HTTP server to stand in front of (instead of `primary.upstream`)
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The address to listen at (instead of `primary.listen`)
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct ExplainArguments {
    /// The page: a file, or an http or https URL; with --client: a path of the site
    #[arg(value_name = "FILE|URL|PATH")]
    page: String,
    /// Ask the running server what it would do now for the client with this address
    #[arg(long, value_name = "ADDR", value_parser = why::client)]
    client: Option<IpAddr>,
    /// Who the client is by its cookie or header (`offload.identity`)
    #[arg(long, value_name = "NAME", requires = "client")]
    identity: Option<String>,
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StatusArguments {
    /// Print one picture and end
    #[arg(long)]
    once: bool,
    /// Print the status as one line of JSON; without --once a line each second
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
struct OverrideArguments {
    /// The level to hold
    #[arg(value_name = "LEVEL", required_unless_present = "release", requires = "length",
        value_parser = PossibleValuesParser::new(Level::ALL.map(Level::as_str)).try_map(|level| level.parse::<Level>()))]
    level: Option<Level>,
    /// How long it is held, such as 90s or 15m; at most 24h
    #[arg(long = "for", value_name = "DURATION", requires = "level", value_parser = hand::length)]
    length: Option<Duration>,
    /// Let go of what is held: the load decides again
    #[arg(long, conflicts_with_all = ["level", "length"])]
    release: bool,
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
struct ReloadArguments {
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
struct RestartArguments {
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
struct DrainArguments {
    #[command(flatten)]
    admin: AdminArguments,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
struct ManArguments {
    /// Write a page for each command into this folder, instead of one page with all to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DemoArguments {
    /// Tell the story in a quarter of the time
    #[arg(long)]
    fast: bool,
    /// Stay after the story: the site, the servers and the dashboard go on with a few visitors, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the summary as one line of JSON; the story goes to stderr
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CrowdArguments {
    /// The page; of several, each visitor comes for one, by chance
    #[arg(value_name = "URL", required = true, value_parser = crowd::page)]
    pages: Vec<Url>,
    /// Visitors a second, on average
    #[arg(long, value_name = "PAGES_PER_S", default_value = "5", value_parser = crowd::rate)]
    rate: f64,
    /// How long visitors come; those who are there then are waited for
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = crowd::length)]
    length: Duration,
    /// How long a visitor waits for the whole page
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crowd::patience)]
    patience: Duration,
    /// Compare every object's bytes with the site's own, which are fetched once before the crowd comes
    #[arg(long)]
    verify: bool,
    /// Where visitors come from: addresses of this machine and networks of them, separated by commas; "system":
    /// the one that the system chooses; "auto": all of the interface that leads to the site, and 127.1.0.0/16 to a
    /// site on this machine (Linux)
    #[arg(long, value_name = "ADDRESSES", default_value = "auto")]
    addresses: Sources,
    /// Visitors who may be there at once; who comes then is not started
    #[arg(long = "max-visitors", value_name = "COUNT", default_value_t = Crowd::MOST,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    most: usize,
    /// Tell visitors apart by a cookie of this name, for sites that do (`offload.identity`)
    #[arg(long, value_name = "NAME", value_parser = crowd::cookie)]
    cookie: Option<String>,
    /// Draws when visitors come and for which page: the same seed, the same crowd
    #[arg(long, value_name = "NUMBER", default_value_t = Crowd::SEED)]
    seed: u64,
    /// The site has a public address, and is yours
    #[arg(long = "i-own-this-site")]
    own: bool,
    /// Another public host that is yours: an offload server, or where a redirect leads (may be given several times).
    /// What is on others' public hosts is left out, and counted
    #[arg(long = "own-host", value_name = "HOST", requires = "own", value_parser = crowd::own_host)]
    own_hosts: Vec<String>,
    /// Print the report as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct EdgeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The server that owns the site (instead of `edge.primary`)
    #[arg(long, value_name = "URL")]
    primary: Option<String>,
    /// The address to listen at (instead of `edge.listen`)
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let usual = match &arguments.command {
        // Its narrator says the same.
        // A line of the log would stand in the middle of the picture.
        Command::Demo(_) | Command::Status(_) => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    log::start(arguments.log, usual);
    let result = match &arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Edge(arguments) => edge::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => match arguments.client {
            Some(client) => why::run(arguments, client),
            None => explain::run(arguments),
        },
        Command::Status(arguments) => status::run(arguments),
        Command::Override(arguments) => hand::override_level(arguments),
        Command::Reload(arguments) => hand::reload(arguments),
        Command::Restart(arguments) => hand::restart(arguments),
        Command::Drain(arguments) => hand::drain(arguments),
        Command::Completions(arguments) => manual::completions(arguments),
        Command::Man(arguments) => manual::man(arguments),
        Command::Crowd(arguments) => crowd::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overspill: {error}");
            ExitCode::FAILURE
        }
    }
}
