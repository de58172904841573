//! `overspill edge`.

use std::sync::Arc;

use super::{
    EdgeArguments, check,
    listen::{listen, listen_without_tls},
    log,
    serve::{asked_to_stop, give_up, leave, restart_when_asked},
};
use crate::{
    admin::{Admin, AdminSettings, Lifecycle},
    config::ConfigError,
    edge::{self, Edge},
    guard::allow_many_connections,
    handover::{self, Predecessor, Restarter, Sockets},
    tls::Certificates,
};

type BoxError = Box<dyn std::error::Error>;

/// Serves until told to stop.
pub(super) fn run(arguments: &EdgeArguments) -> Result<(), BoxError> {
    let mut predecessor = Predecessor::from_environment();
    let result = serve(arguments, &mut predecessor);
    if let (Err(error), Some(waiting)) = (&result, predecessor) {
        waiting.failed(error);
    }
    result
}

fn serve(arguments: &EdgeArguments, predecessor: &mut Option<Predecessor>) -> Result<(), BoxError> {
    let mut sockets = Sockets::from_environment()?;
    let mut settings = check::settings(&arguments.config)?;
    if let Some(primary) = &arguments.primary {
        settings.edge.primary.clone_from(primary);
    }
    if let Some(listen) = arguments.listen {
        settings.edge.listen = listen;
    }
    let mut problems = Vec::new();
    settings.edge.check(&mut problems);
    let tls = settings.edge.tls.as_ref().filter(|_| problems.is_empty());
    let certificates = tls.and_then(|tls| {
        let read = Certificates::read(tls, "edge.tls");
        read.map_err(|found| problems.extend(found)).ok()
    });
    if !problems.is_empty() {
        let file = arguments.config.config.clone();
        return Err(ConfigError { file, problems }.into());
    }
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let admin_at = settings.admin.listen;
        let admin = match listen(&mut sockets, "admin", "admin.listen", admin_at).await {
            // Beside a primary, or another edge, on one machine: the usual address is taken.
            Err(_) if settings.admin.listen == AdminSettings::default().listen => {
                let mut elsewhere = settings.admin.clone();
                elsewhere.listen.set_port(0);
                Admin::bind(&elsewhere)?
            }
            listener => Admin::on(listener?, &settings.admin),
        };
        let edge = Edge::start(&settings.edge, &settings.load)?;
        let address = settings.edge.listen;
        let tls = settings.edge.tls.as_ref();
        let listener = listen(&mut sockets, "site", "edge.listen", address).await?;
        let restarter = Arc::new(Restarter::new());
        restarter.hand_on("site", address, &listener)?;
        restarter.hand_on("admin", admin_at, admin.listener())?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let redirect = listen_without_tls(&mut sockets, &restarter, "edge.tls.redirect", tls).await?;
        let access_log = log::of_edge(&settings.access_log)?;
        let lifecycle = Lifecycle::new();
        let mut agent = None;
        if let Some(address) = settings.edge.agent {
            let agents = listen(&mut sockets, "agent", "edge.agent", address).await?;
            restarter.hand_on("agent", address, &agents)?;
            let agents = tokio::net::TcpListener::from_std(agents)?;
            tracing::info!(agent = %agents.local_addr()?, "telling the load to agent checks");
            agent = Some(tokio::spawn(edge::answer_agents(edge.clone(), lifecycle.clone(), agents)));
        }
        sockets.close_the_rest();
        tracing::info!(admin = %format_args!("http://{}", admin.local_addr()?), "status and metrics");
        let (open, guarded) = edge::admin(edge.clone(), lifecycle.clone());
        let admin = admin.restarting(restarter.clone());
        let answering = admin.answer(open, guarded)?;
        if settings.edge.token.is_empty() {
            tracing::warn!(
                "`edge.token` is not set: pulls are treated as visitors by the primary, and nobody may purge"
            );
        }
        tracing::info!(
            site = %format_args!("{}://{}", if tls.is_some() { "https" } else { "http" }, listener.local_addr()?),
            primary = settings.edge.primary,
            sites = settings.edge.sites.len(),
            "serving"
        );
        lifecycle.serving();
        tokio::spawn(restart_when_asked(restarter.clone()));
        tokio::spawn(handover::watch(|| true));
        match predecessor.take() {
            // It tells the service manager.
            Some(waiting) => waiting.ready(),
            None => handover::serving(),
        }
        let mut answering = Some(answering);
        let mut ending = None;
        let stop = async {
            tokio::select! {
                () = asked_to_stop(reads_at_start) => {}
                () = lifecycle.drained() => {}
                () = restarter.succeeded() => {}
            }
            lifecycle.drain();
            // Also one that has taken over just when this process was asked to stop.
            let successor = restarter.let_go();
            if let (Some(agent), Some(_)) = (&agent, successor) {
                // This one would say that the edge stops.
                agent.abort();
            }
            ending = leave(successor, &lifecycle, &mut answering);
            tracing::info!("draining");
            tokio::spawn(give_up(successor.is_some(), access_log.clone()));
        };
        let listening = edge::Listening { listener, tls: certificates, redirect, access_log: access_log.clone() };
        edge::serve(edge, listening, stop).await;
        if let Some(log) = access_log {
            log.end();
        }
        if let Some(answering) = answering {
            answering.end().await;
        }
        if let Some(ending) = ending {
            // It has no way to fail.
            let _ = ending.await;
        }
        tracing::info!("stopped");
        Ok(())
    })
}

fn reads_at_start() {
    tracing::warn!("SIGHUP: an edge reads its configuration at start only");
}
