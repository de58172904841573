//! `overspill serve`.

use std::{sync::Arc, time::SystemTime};

use axum::serve::Listener;

use super::{ServeArguments, check::checked, log};
use crate::{
    Settings,
    admin::{Admin, Lifecycle},
    app::{self, Inner, Overspill, Reloader, Serving},
    config::ConfigError,
    guard::allow_many_connections,
    journal::Event,
    site::Site,
};

type BoxError = Box<dyn std::error::Error>;

/// More files than that are not weighed beforehand.
const MOST_OBJECTS: usize = 100_000;

/// Serves until told to stop.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), BoxError> {
    let (settings, inner) = read(arguments)?;
    allow_many_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let admin = Admin::bind(&settings.admin)?;
        let overspill = Overspill::start(settings.clone())?;
        let mut serving = Serving::new(&settings, inner.clone(), overspill.clone()).await?;
        let access_log = log::access(&settings.access_log, Some(overspill.shared().clone()))?;
        serving.access_log.clone_from(&access_log);
        let lifecycle = Lifecycle::new();
        tracing::info!(admin = %format_args!("http://{}", admin.local_addr()?), "dashboard, status, metrics and overrides");
        let arguments = arguments.clone();
        let reloader = Reloader::new(overspill.clone(), move || Ok(read(&arguments)?.0));
        let reloader = Arc::new(reloader);
        let answering = admin
            .reloading(reloader.clone())
            .start(overspill.clone(), lifecycle.clone())?;
        if let Inner::Site(_) = inner {
            weigh(&settings.primary.site.clone().unwrap_or_else(|| app::DEFAULT_SITE.into()), overspill.clone());
        }
        tracing::info!(
            site = %format_args!("http://{}", serving.listener.local_addr()?),
            mode = settings.mode.as_str(),
            servers = settings.offload.servers.len(),
            "serving"
        );
        lifecycle.serving();
        let stop = async {
            tokio::select! {
                () = asked_to_stop(|| reload(&reloader)) => lifecycle.drain(),
                () = lifecycle.drained() => {}
            }
            overspill.shared().journal.record(Event::Drain, SystemTime::now());
            tokio::spawn(async {
                asked_to_stop(|| ()).await;
                tracing::warn!("asked to stop again: what is under way is given up");
                std::process::exit(1);
            });
        };
        app::serve(serving, stop).await;
        if let Some(log) = access_log {
            log.end();
        }
        lifecycle.end();
        answering.end().await;
        tracing::info!("stopped");
        Ok(())
    })
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

/// Learns the sizes of the folder's objects, aside: a large folder takes a while to walk.
fn weigh(folder: &std::path::Path, overspill: Overspill) {
    let folder = folder.to_path_buf();
    tokio::task::spawn_blocking(move || {
        overspill.learn_objects(Site::objects(&folder, MOST_OBJECTS))
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
