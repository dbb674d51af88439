//! How far an import is: a bar on a terminal, now and then a line in a log.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::{Failure, note};
use crate::daemon::import::Step;

/// Pause between two lines.
const LINE_PAUSE_S: u64 = 30;
/// How often the bar is drawn at most.
const DRAWS_PER_S: u8 = 10;

/// Shows the steps of an import on standard error.
pub(super) enum Progress {
    /// For a person.
    Bar(ProgressBar),
    /// For a log.
    Lines(Pace),
}

/// When the next line is due.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
}

impl Progress {
    pub(super) fn start(now: Instant) -> Result<Self, Failure> {
        if !io::stderr().is_terminal() {
            return Ok(Self::Lines(Pace::start(now)));
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S));
        bar.set_style(ProgressStyle::with_template(
            "{msg} [{wide_bar}] {human_pos}/{human_len}",
        )?);
        Ok(Self::Bar(bar))
    }

    pub(super) fn show(&mut self, step: Step, now: Instant) {
        match (self, step) {
            (Self::Bar(bar), Step::Writing { done, of }) => {
                bar.set_message("written");
                bar.set_length(of);
                bar.set_position(done);
            }
            (Self::Bar(bar), Step::Publishing { left }) => {
                bar.set_message("published");
                let of = bar.length().unwrap_or(0);
                bar.set_position(of.saturating_sub(left.unwrap_or(of)));
            }
            (Self::Lines(pace), step) => {
                if pace.is_due(now) {
                    note(&line_of(step));
                }
            }
        }
    }

    /// Removes the bar, so that what is said next has the line.
    pub(super) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn line_of(step: Step) -> String {
    match step {
        Step::Writing { done, of } => format!("inboxd: {done} of {of} are in the store"),
        Step::Publishing { left: Some(left) } => {
            format!("inboxd: {left} changes wait until the daemon publishes them")
        }
        Step::Publishing { left: None } => "inboxd: publishing what is in the store".to_owned(),
    }
}

impl Pace {
    fn start(now: Instant) -> Self {
        Self {
            next: now + Duration::from_secs(LINE_PAUSE_S),
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next;
        if is_due {
            self.next = now + Duration::from_secs(LINE_PAUSE_S);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_now_and_then() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = Pace::start(begun);
        let due: Vec<u64> = (0..95).filter(|&second| pace.is_due(at(second))).collect();
        assert_eq!(due, [30, 60, 90]);
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        for (step, line) in [
            (
                Step::Writing {
                    done: 2_000,
                    of: 4_321,
                },
                "inboxd: 2000 of 4321 are in the store",
            ),
            (
                Step::Publishing { left: Some(7) },
                "inboxd: 7 changes wait until the daemon publishes them",
            ),
            (
                Step::Publishing { left: None },
                "inboxd: publishing what is in the store",
            ),
        ] {
            assert_eq!(line_of(step), line);
        }
    }
}
