//! `overspill demo`: a primary, two offload servers and a crowd, in one process, over real sockets.
//!
//! ```text
//! story ──► crowd ──► visitors ══ HTTP ══► stage: primary (Overspill around the site) ── link, 24 Mbit/s
//!   │         │                                   a, b (the same site)               ── links, 32 Mbit/s
//!   └────► director (here) ◄── status, bytes sent ──┘
//!              └──► show (lines), summary
//! ```

mod crowd;
mod link;
mod show;
mod stage;
mod story;
mod summary;

use std::{
    future::Future,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use include_dir::{Dir, include_dir};
use tokio::{task::JoinSet, time::Instant};

use self::{
    crowd::Tally,
    show::{Moment, Show, load},
    stage::Stage,
    story::Story,
    summary::Summary,
};
use super::{DemoArguments, serve::asked_to_stop};
use crate::{crowd::Crowd, guard::allow_many_connections, site::Site};

type BoxError = Box<dyn std::error::Error>;

/// The site, within the program: it plays wherever it is installed.
static SITE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/static/site");

/// How often the director looks at the level.
const LOOK: Duration = Duration::from_millis(100);

/// Plays the demo.
pub(super) fn run(arguments: &DemoArguments) -> Result<(), BoxError> {
    let story = if arguments.fast {
        Story::FAST
    } else {
        Story::FULL
    };
    allow_many_connections();
    let folder = tempfile::Builder::new()
        .prefix("overspill-demo-")
        .tempdir()?;
    SITE.extract(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut show = Show::new(arguments.json);
    let played = runtime.block_on(play(folder.path(), story, &mut show, asked_to_stop(|| ())));
    // Whoever still waits for an answer gets none.
    runtime.shutdown_background();
    let told = played.and_then(|summary| {
        show.ending(&summary)?;
        if arguments.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&summary)?)?;
        }
        Ok(())
    });
    match told {
        // `overspill demo | head`: who has seen enough has seen enough.
        Err(error) if is_broken_pipe(&*error) => Ok(()),
        told => told,
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Plays the story to its end, or until `stop` is ready.
async fn play(
    folder: &Path,
    story: Story,
    show: &mut Show,
    stop: impl Future<Output = ()>,
) -> Result<Summary, BoxError> {
    let stage = Stage::set(folder, &story).await?;
    stage
        .overspill
        .learn_objects(Site::objects(folder, usize::MAX));
    show.opening(&stage, crowd::PATIENCE)?;
    let crowd = crowd::crowd(&stage.servers[0].url().parse()?, &SITE)?;
    let began = Instant::now();
    let mut visitors = JoinSet::new();
    visitors.spawn(crowd::come(crowd.clone(), story, began));
    tokio::select! {
        ended = direct(&stage, &story, &crowd, began, show) => ended,
        () = stop => {
            let status = stage.overspill.status();
            Ok(Summary::new(&moment(&stage, &crowd, began), &status, vec![status.level], false))
        }
    }
}

/// Tells what happens while it happens.
async fn direct(
    stage: &Stage,
    story: &Story,
    crowd: &Crowd,
    began: Instant,
    show: &mut Show,
) -> Result<Summary, BoxError> {
    let mut ticks = tokio::time::interval(LOOK);
    let mut act = None;
    let mut level = stage.overspill.status().level;
    let mut levels = vec![level];
    let mut level_since = began;
    let mut last = Moment::default();
    loop {
        ticks.tick().await;
        let now = moment(stage, crowd, began);
        let status = stage.overspill.status();
        let on = story.act(now.time).map(|(number, _)| number);
        if status.level != level {
            show.level(level, status.level, load(&status))?;
            level = status.level;
            level_since = Instant::now();
            if !levels.contains(&level) {
                levels.push(level);
            }
        }
        let calm =
            on == Some(story.last()) && level == "normal" && level_since.elapsed() >= story.calm;
        let Some(number) = on.filter(|_| !calm) else {
            show.line(&last, &now, stage, &status)?;
            return Ok(Summary::new(&now, &status, levels, true));
        };
        if act != Some(number) {
            act = Some(number);
            show.narrate(story.acts[number].sentence)?;
        }
        if now.time >= last.time + story.line {
            show.line(&last, &now, stage, &status)?;
            last = now;
        }
    }
}

fn moment(stage: &Stage, crowd: &Crowd, began: Instant) -> Moment {
    Moment {
        time: began.elapsed(),
        tally: Tally::of(crowd),
        sent: stage.servers.each_ref().map(|server| server.link.sent()),
    }
}
