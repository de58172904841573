//! `overspill serve`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::serve::Listener;
use tokio::task::JoinHandle;

use super::{
    ServeArguments,
    check::checked,
    listen::{listen, listen_without_tls},
    log,
};
use crate::{
    Settings,
    access::AccessLog,
    admin::{Admin, Answering, Lifecycle},
    app::{self, Inner, Overspill, Reloader, Serving},
    config::ConfigError,
    guard::allow_many_connections,
    handover::{self, Predecessor, Restarter, Sockets},
    journal::Event,
};

type BoxError = Box<dyn std::error::Error>;

/// A machine that is short of everything may look at its load that much later than it should.
const LATE: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), BoxError> {
    let mut predecessor = Predecessor::from_environment();
    let result = serve(arguments, &mut predecessor);
    if let (Err(error), Some(waiting)) = (&result, predecessor) {
        waiting.failed(error);
    }
    result
}

fn serve(
    arguments: &ServeArguments,
    predecessor: &mut Option<Predecessor>,
) -> Result<(), BoxError> {
    let mut sockets = Sockets::from_environment()?;
    let (settings, inner) = read(arguments)?;
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (at, admin_at) = (settings.primary.listen, settings.admin.listen);
        let admin = listen(&mut sockets, "admin", "admin.listen", admin_at).await?;
        let admin = Admin::on(admin, &settings.admin);
        let listener = listen(&mut sockets, "site", "primary.listen", at).await?;
        let restarter = Arc::new(Restarter::new());
        restarter.hand_on("site", at, &listener)?;
        restarter.hand_on("admin", admin_at, admin.listener())?;
        let tls = settings.primary.tls.as_ref();
        let redirect = listen_without_tls(&mut sockets, &restarter, "primary.tls.redirect", tls).await?;
        sockets.close_the_rest();
        let overspill = Overspill::start(settings.clone())?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut serving = Serving::on(listener, redirect, &settings, inner.clone(), overspill.clone())?;
        let access_log = log::of_primary(&settings.access_log, overspill.shared().clone())?;
        serving.access_log = Some(access_log.clone());
        let lifecycle = Lifecycle::new();
        tracing::info!(admin = %format_args!("http://{}", admin.local_addr()?), "dashboard, status, metrics and overrides");
        let arguments = arguments.clone();
        let reloader = Reloader::new(overspill.clone(), move || Ok(read(&arguments)?.0)).serving(serving.renewals());
        let reloader = Arc::new(reloader);
        let answering = admin
            .reloading(reloader.clone())
            .restarting(restarter.clone())
            .start(overspill.clone(), lifecycle.clone())?;
        if let Inner::Site(_) = inner {
            app::weigh(app::folder(&settings.primary), overspill.clone());
        }
        tracing::info!(
            site = %format_args!("{}://{}", if serving.tls.is_some() { "https" } else { "http" }, serving.listener.local_addr()?),
            mode = settings.mode.as_str(),
            servers = settings.offload.servers.len(),
            "serving"
        );
        lifecycle.serving();
        tokio::spawn(restart_when_asked(restarter.clone()));
        tokio::spawn(handover::watch(heartbeat(&overspill, settings.load.interval)));
        match predecessor.take() {
            // It tells the service manager.
            Some(waiting) => waiting.ready(),
            None => handover::serving(),
        }
        let mut answering = Some(answering);
        let mut ending = None;
        let stop = async {
            tokio::select! {
                () = asked_to_stop(|| reload(&reloader)) => {}
                () = lifecycle.drained() => {}
                () = restarter.succeeded() => {}
            }
            lifecycle.drain();
            // Also one that has taken over just when this process was asked to stop.
            let successor = restarter.let_go();
            ending = leave(successor, &lifecycle, &mut answering);
            overspill.shared().journal.record(Event::Drain, SystemTime::now());
            tokio::spawn(give_up(successor.is_some(), Some(access_log.clone())));
        };
        app::serve(serving, stop).await;
        access_log.end();
        lifecycle.end();
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

/// The end begins: the service manager is told. Where there is a successor it answers the administrator as well, from now
/// on.
pub(super) fn leave(
    successor: Option<u32>,
    lifecycle: &Lifecycle,
    answering: &mut Option<Answering>,
) -> Option<JoinHandle<()>> {
    let Some(successor) = successor else {
        handover::stopping();
        return None;
    };
    handover::taken_over(successor);
    tracing::info!(successor, "a successor has taken over");
    lifecycle.end();
    Some(tokio::spawn(answering.take()?.end()))
}

/// Ends the process when it is asked to stop once more: what is under way is given up. Who has a `successor` was not asked
/// yet: a service manager asks both at once.
pub(super) async fn give_up(has_successor: bool, access_log: Option<AccessLog>) {
    if has_successor {
        asked_to_stop(|| ()).await;
    }
    asked_to_stop(|| ()).await;
    tracing::warn!("asked to stop again: what is under way is given up");
    if let Some(log) = access_log {
        log.end();
    }
    std::process::exit(1);
}

/// Starts a successor at each SIGUSR2.
#[cfg(unix)]
pub(super) async fn restart_when_asked(restarter: Arc<Restarter>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut asked) = signal(SignalKind::user_defined2()) else {
        return;
    };
    while asked.recv().await.is_some() {
        if let Err(error) = restarter.restart().await {
            tracing::error!(%error, "no restart: all stays as it was");
        }
    }
}

#[cfg(not(unix))]
pub(super) async fn restart_when_asked(_restarter: Arc<Restarter>) {}

/// Whether the load has been looked at of late: nothing is decided where it is not.
fn heartbeat(overspill: &Overspill, interval: Duration) -> impl Fn() -> bool + use<> {
    let shared = overspill.shared().clone();
    let most = interval * 3 + LATE;
    move || shared.snapshot().at.elapsed() < most
}

/// The configuration, with what the arguments say in its place.
fn read(arguments: &ServeArguments) -> Result<(Settings, Inner), ConfigError> {
    checked(&arguments.config, |settings| {
        if let Some(site) = &arguments.site {
            settings.primary.site = Some(site.clone());
            settings.primary.upstream = None;
        }
        if let Some(upstream) = &arguments.upstream {
            settings.primary.upstream = Some(upstream.clone());
            settings.primary.site = None;
        }
        if let Some(listen) = arguments.listen {
            settings.primary.listen = listen;
        }
    })
}

/// Reads the configuration anew, aside: the disk may let one wait. The decision log tells what came of it.
fn reload(reloader: &Arc<Reloader>) {
    let reloader = reloader.clone();
    tokio::task::spawn_blocking(move || {
        let _ = reloader.reload();
    });
}

/// SIGTERM, SIGINT; elsewhere than on Unix, Ctrl-C. `hang_up` is called at each SIGHUP: without a word a closed terminal
/// would end the site.
#[cfg(unix)]
pub(super) async fn asked_to_stop(hang_up: impl Fn()) {
    let called = hang_up;
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        // Without them the system's own way of ending a process still works.
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            _ = hang_up.recv() => called(),
        }
    }
}

#[cfg(not(unix))]
pub(super) async fn asked_to_stop(_hang_up: impl Fn()) {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
