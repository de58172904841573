//! Arguments to commands.

mod check;
mod crowd;
mod demo;
mod edge;
mod explain;
mod log;
mod serve;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use crate::crowd::{Settings as Crowd, Sources};

/// Keeps a web site up when more people come than its server can serve.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// How the log is written (to stderr); what is logged is said by RUST_LOG, e.g. RUST_LOG=debug
    #[arg(long, value_enum, default_value = "text", global = true)]
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
    ///
    /// Examples:
    ///   overspill serve --site ./public
    ///   overspill serve --upstream http://127.0.0.1:3000 --listen 0.0.0.0:80
    #[command(verbatim_doc_comment)]
    Serve(ServeArguments),
    /// Give out a primary's objects: an offload server, on any machine
    ///
    /// Examples:
    ///   overspill edge --primary https://www.example.com --listen 0.0.0.0:8081
    #[command(verbatim_doc_comment)]
    Edge(EdgeArguments),
    /// See it at work: a site on a small link, two offload servers and a growing crowd, in about a minute
    Demo(DemoArguments),
    /// Check the configuration: print it as it takes effect, or every problem at once
    Check(ConfigArguments),
    /// Tell of each link of a page what happens to it, and why
    ///
    /// Examples:
    ///   overspill explain public/index.html
    ///   overspill explain https://www.example.com/ --json
    #[command(verbatim_doc_comment)]
    Explain(ExplainArguments),
    /// Send a crowd to a site of your own: visitors as browsers are, and how many get whole pages
    ///
    /// Visitors come at random, whether or not those before them have been served (open loop). Each fetches a page and
    /// all that it makes a browser fetch, over up to six connections a host, from an address of its own as far
    /// as the machine has them, and goes away when the page is whole or its patience ends. Nothing is
    /// compressed and nothing cached. At most 10,000 visitors a second, for at most 10 minutes. Ctrl-C
    /// gives the report so far.
    ///
    /// Examples:
    ///   overspill crowd http://127.0.0.1:8080/
    ///   overspill crowd http://10.0.0.5/ http://10.0.0.5/news/ --rate 40 --for 1m --verify
    ///   overspill crowd http://127.0.0.1:8080/ --addresses 127.1.0.0/24 --json
    ///   overspill crowd https://www.example.com/ --i-own-this-site --own-host eu.offload.example
    #[command(verbatim_doc_comment)]
    Crowd(CrowdArguments),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigArguments {
    /// The configuration [default: $OVERSPILL_CONFIG, else config/overspill.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// The page: a file, or an http or https URL
    #[arg(value_name = "FILE|URL")]
    page: String,
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DemoArguments {
    /// Tell the story in a quarter of the time
    #[arg(long)]
    fast: bool,
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
        Command::Demo(_) => LevelFilter::WARN,
        _ => LevelFilter::INFO,
    };
    log::start(arguments.log, usual);
    let result = match &arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Edge(arguments) => edge::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
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
