//! Leads through the story, and tells what happens while it happens.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    LOOK,
    crowd::Tally,
    line::load,
    show::{Moment, Show},
    stage::{MORTAL, Stage},
    story::{Act, Played, Shows, Story},
    summary::{Death, Seen, Summary},
};
use crate::{app::Status, crowd::Crowd};

/// So long past their patience the last visitors are waited for.
const GRACE: Duration = Duration::from_secs(2);

/// Who leads.
pub(super) struct Director<'a> {
    stage: &'a mut Stage,
    show: &'a mut Show,
    story: Story,
    played: Arc<Played>,
    /// The one that comes to Overspill, and the same one alone.
    crowds: [Crowd; 2],
    began: Instant,
    act: Option<usize>,
    level: &'static str,
    level_since: Duration,
    /// Levels of the act.
    shown: Vec<&'static str>,
    /// What the last line has told.
    told: Moment,
    seen: Seen,
}

// === impl Director ===

impl<'a> Director<'a> {
    pub(super) fn new(
        stage: &'a mut Stage,
        show: &'a mut Show,
        story: Story,
        played: Arc<Played>,
        crowds: [Crowd; 2],
        began: Instant,
    ) -> Self {
        let level = stage.overspill.status().level;
        Self {
            stage,
            show,
            story,
            played,
            crowds,
            began,
            act: None,
            level,
            level_since: Duration::ZERO,
            shown: Vec::new(),
            told: Moment::default(),
            seen: Seen {
                levels: vec![level],
                ..Seen::default()
            },
        }
    }

    fn moment(&self) -> Moment {
        let [crowd, alone] = &self.crowds;
        Moment {
            time: self.began.elapsed(),
            tally: Tally::of(crowd),
            alone: Tally::of(alone),
            sent: self
                .stage
                .servers
                .each_ref()
                .map(|server| server.link.sent()),
            sent_alone: self.stage.alone.link.sent(),
        }
    }

    /// Until the story is over, and the last visitors have left.
    pub(super) async fn direct(&mut self) -> io::Result<()> {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            let now = self.moment();
            let status = self.stage.overspill.status();
            let is_over = self.played.is_over(now.time);
            if !is_over {
                self.acts(now.time)?;
            }
            self.levels(now.time, &status)?;
            self.death(now.time, &status).await?;
            if is_over || now.time >= self.told.time + self.story.line {
                self.show.line(&self.told, &now, self.stage, &status)?;
                self.told = now;
            }
            if is_over {
                break;
            }
            self.show
                .progress(&self.story, self.played.behind(now.time));
        }
        self.show.leaving();
        let patience = Instant::now() + self.story.patience + GRACE;
        while self
            .crowds
            .iter()
            .any(|crowd| Tally::of(crowd).still_there > 0)
            && Instant::now() < patience
        {
            ticks.tick().await;
        }
        self.seen.complete = true;
        Ok(())
    }

    /// Announces the act that has begun, and ends the one that has shown what it is about.
    fn acts(&mut self, now: Duration) -> io::Result<()> {
        let (number, since) = self.played.act(now);
        let act = self.story.acts[number];
        if self.act != Some(number) {
            self.act = Some(number);
            self.shown = vec![self.level];
            self.seen.acts.push(act.name);
            self.show.act(number, &act)?;
            if act.shows == Shows::Death {
                self.kill(now);
            }
        }
        let coming = since + Played::AHEAD;
        if coming >= act.most || self.has_shown(&act, now, coming) {
            self.played.go_on(now);
        }
        Ok(())
    }

    fn has_shown(&self, act: &Act, now: Duration, since: Duration) -> bool {
        let in_time = since >= act.length;
        match act.shows {
            Shows::Things => in_time,
            Shows::Level(wanted) => {
                in_time && self.shown.iter().any(|level| place(level) >= place(wanted))
            }
            Shows::Death => in_time && self.seen.died.is_some_and(|died| died.back.is_some()),
            Shows::Relief => self.level == "normal" && now >= self.level_since + self.story.calm,
        }
    }

    fn levels(&mut self, now: Duration, status: &Status) -> io::Result<()> {
        if status.level == self.level {
            return Ok(());
        }
        self.show.level(self.level, status.level, load(status))?;
        self.level = status.level;
        self.level_since = now;
        self.shown.push(self.level);
        if !self.seen.levels.contains(&self.level) {
            self.seen.levels.push(self.level);
        }
        Ok(())
    }

    fn kill(&mut self, now: Duration) {
        self.stage.kill();
        self.seen.died = Some(Death {
            server: self.stage.servers[MORTAL].name,
            killed: now.as_secs_f64(),
            ..Death::default()
        });
    }

    /// What becomes of the server that was killed: the status alone says what Overspill knows.
    async fn death(&mut self, now: Duration, status: &Status) -> io::Result<()> {
        let Some(mut died) = self.seen.died else {
            return Ok(());
        };
        let Some(server) = status
            .servers
            .iter()
            .find(|server| server.name == died.server)
        else {
            return Ok(());
        };
        let now = now.as_secs_f64();
        let is_ill = server.health == "ill";
        let name = died.server;
        if died.noticed.is_none() && died.started.is_none() && is_ill {
            died.noticed = Some(now);
            let after = now - died.killed;
            self.show.event(format_args!(
                "Overspill has noticed after {after:.1} s, and sends nobody to {name} any more: it is\n  \
                 {}.\n  a and the primary share its visitors.",
                server.reason.as_deref().unwrap_or(server.health)
            ))?;
        }
        let was_dead = now >= died.killed + self.story.dead.as_secs_f64();
        // Should it never be noticed, the show must go on.
        let is_due =
            died.noticed.is_some() || now >= died.killed + 2.0 * self.story.dead.as_secs_f64();
        // Where its address is taken, it is tried again.
        if died.started.is_none() && was_dead && is_due && self.stage.revive().await.is_ok() {
            died.started = Some(now);
            self.show.event(format_args!("{name} is started again."))?;
        }
        if let (Some(started), None, false) = (died.started, died.back, is_ill) {
            died.back = Some(now);
            let after = now - started;
            self.show.event(format_args!(
                "Overspill has noticed after {after:.1} s: {name} answers, and gets a little work."
            ))?;
        }
        self.seen.died = Some(died);
        Ok(())
    }

    /// What has become of the crowds so far.
    pub(super) fn summary(&self) -> Summary {
        let status = self.stage.overspill.status();
        let [crowd, alone] = &self.crowds;
        Summary::new(
            &self.moment(),
            [crowd, alone],
            &status,
            self.seen.clone(),
            self.story.patience,
        )
    }
}

/// How high a level is.
fn place(level: &str) -> usize {
    let levels = ["normal", "offload", "throttle", "drop"];
    levels.iter().position(|name| *name == level).unwrap_or(0)
}
