//! Arguments to commands.

mod check;
mod demo;
mod explain;
mod log;
mod serve;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

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
}

/// Where the configuration is.
#[derive(Debug, Args)]
struct ConfigArguments {
    /// The configuration [default: $OVERSPILL_CONFIG, else config/overspill.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
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
        Command::Demo(arguments) => demo::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overspill: {error}");
            ExitCode::FAILURE
        }
    }
}
