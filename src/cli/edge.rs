//! `overspill edge`.

use super::{EdgeArguments, check, log, serve::asked_to_stop};
use crate::{
    admin::{Admin, AdminSettings, Lifecycle},
    app::ServeError,
    config::ConfigError,
    edge::{self, Edge},
    guard::allow_many_connections,
};

type BoxError = Box<dyn std::error::Error>;

/// Serves until told to stop.
pub(super) fn run(arguments: &EdgeArguments) -> Result<(), BoxError> {
    let mut settings = check::settings(&arguments.config)?;
    if let Some(primary) = &arguments.primary {
        settings.edge.primary.clone_from(primary);
    }
    if let Some(listen) = arguments.listen {
        settings.edge.listen = listen;
    }
    let mut problems = Vec::new();
    settings.edge.check(&mut problems);
    if !problems.is_empty() {
        let file = arguments.config.config.clone();
        return Err(ConfigError { file, problems }.into());
    }
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let admin = match Admin::bind(&settings.admin) {
            // Beside a primary, or another edge, on one machine: the usual address is taken.
            Err(_) if settings.admin.listen == AdminSettings::default().listen => {
                let mut elsewhere = settings.admin.clone();
                elsewhere.listen.set_port(0);
                Admin::bind(&elsewhere)?
            }
            bound => bound?,
        };
        let edge = Edge::start(&settings.edge, &settings.load)?;
        let address = settings.edge.listen;
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| ServeError::Listen { key: "edge.listen", address, error })?;
        let access_log = log::access(&settings.access_log, None)?;
        let lifecycle = Lifecycle::new();
        if let Some(address) = settings.edge.agent {
            let agents = tokio::net::TcpListener::bind(address)
                .await
                .map_err(|error| ServeError::Listen { key: "edge.agent", address, error })?;
            tracing::info!(agent = %agents.local_addr()?, "telling the load to agent checks");
            tokio::spawn(edge::answer_agents(edge.clone(), lifecycle.clone(), agents));
        }
        tracing::info!(admin = %format_args!("http://{}", admin.local_addr()?), "status and metrics");
        let (open, guarded) = edge::admin(edge.clone(), lifecycle.clone());
        let answering = admin.answer(open, guarded)?;
        if settings.edge.token.is_empty() {
            tracing::warn!(
                "`edge.token` is not set: pulls are treated as visitors by the primary, and nobody may purge"
            );
        }
        tracing::info!(
            site = %format_args!("http://{}", listener.local_addr()?),
            primary = settings.edge.primary,
            sites = settings.edge.sites.len(),
            "serving"
        );
        lifecycle.serving();
        let stop = async {
            tokio::select! {
                () = asked_to_stop(reads_at_start) => lifecycle.drain(),
                () = lifecycle.drained() => {}
            }
            tracing::info!("draining");
            tokio::spawn(async {
                asked_to_stop(reads_at_start).await;
                tracing::warn!("asked to stop again: what is under way is given up");
                std::process::exit(1);
            });
        };
        edge::serve(edge, listener, access_log.clone(), stop).await;
        if let Some(log) = access_log {
            log.end();
        }
        answering.end().await;
        tracing::info!("stopped");
        Ok(())
    })
}

fn reads_at_start() {
    tracing::warn!("SIGHUP: an edge reads its configuration at start only");
}
