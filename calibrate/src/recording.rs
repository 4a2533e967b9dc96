//! Measurements on disk: JSON, a line each, written point by point.
//!
//! A file holds one or more sessions of one machine. A session begins with `session` (what was measured by what, when), and
//! ends with `end`; between them a `block` tells the clocks, and each `point` belongs to the block before it. Each line ends
//! with a checksum of what is before it. A file without a final `end` was cut short: it can be gone on with ([`Writer::resume`]) and
//! is no result ([`Recording::read`]).

mod lines;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::CalibrateError;
use crate::machine::{Clocks, Identity, Question};

pub use write::Writer;

/// The version of the format: since 2 points have parts and tell how long they took. Version 1 is read, too.
pub const FORMAT: u32 = 2;
/// The oldest version that is read.
const FORMAT_OLDEST: u32 = 1;

/// Is it a version that is read?
fn is_read(format: u32) -> bool {
    (FORMAT_OLDEST..=FORMAT).contains(&format)
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Line {
    /// A session begins.
    Session(Session),
    /// Some points follow, measured one after the other.
    Block(Block),
    /// An answer.
    Point(Point),
    /// A question without an answer on this machine.
    Skipped(Skipped),
    /// The session is over.
    End(End),
}

/// What is measured, by what, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// [`FORMAT`].
    pub format: u32,
    /// On what.
    pub machine: Identity,
    /// Day, as `2025-11-30`.
    pub date: String,
    /// Commit of the program.
    pub commit: String,
    /// Seed of the plan.
    pub seed: u64,
    /// Points of the plan.
    pub planned: u32,
    /// Seconds that it may take.
    pub budget_s: f64,
}

/// Points measured one after the other at these clocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Counted from 0 in each session.
    pub number: u32,
    /// Seconds since the session began.
    pub at_s: f64,
    /// Just before its first point.
    pub clocks: Clocks,
    /// One question asked in every block: does the machine drift? Microseconds.
    pub sentinel_us: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// What was asked.
    pub question: Question,
    /// The sentinel just before, microseconds: was the machine at its full clocks?
    pub sentinel_us: f64,
    /// Every repetition, in order, microseconds.
    pub us: Vec<f64>,
    /// What each repetition is the sum of, where it was measured part by part ([`Answer::parts`](crate::machine::Answer::parts)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Vec<f64>>,
    /// How long the answer took to get, settling and preparing included; 0 where nobody looked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seconds: f64,
}

fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// What was asked.
    pub question: Question,
    /// Why there is no answer.
    pub why: String,
}

/// The session is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Points of this session.
    pub points: u32,
    /// Planned points that no session has measured yet.
    pub missing: u32,
    /// Seconds that it took.
    pub seconds: f64,
}

/// All measurements of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The sessions, in order.
    pub sessions: Vec<Session>,
    /// Every block, with its session.
    pub blocks: Vec<(usize, Block)>,
    /// Every point, with the position of its block.
    pub points: Vec<(usize, Point)>,
    /// Questions without an answer.
    pub skipped: Vec<Skipped>,
    /// Planned points that are still missing.
    pub missing: u32,
}

impl Recording {
    /// Reads a complete file.
    ///
    /// # Errors
    /// When it cannot be read, a line is damaged, its version is another, it was cut short, or its sessions are of
    /// different machines.
    pub fn read(path: &Path) -> Result<Recording, CalibrateError> {
        let text = lines::text(path)?;
        Recording::parse(&path.display().to_string(), &text)
    }

    /// The same from a text; `origin` is what errors name.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn parse(origin: &str, text: &str) -> Result<Recording, CalibrateError> {
        let (recording, whole) = Recording::build(origin, text)?;
        if whole { Ok(recording) } else { Err(lines::cut(origin, text.lines().count())) }
    }

    /// What a file holds, and whether its last session ended.
    fn build(origin: &str, text: &str) -> Result<(Recording, bool), CalibrateError> {
        let mut recording =
            Recording { sessions: Vec::new(), blocks: Vec::new(), points: Vec::new(), skipped: Vec::new(), missing: 0 };
        let (mut open, mut points, mut has_block) = (false, 0, false);
        for (index, line) in text.lines().enumerate() {
            let damaged = |problem: &str| lines::damaged(origin, index + 1, problem);
            match lines::read(origin, index + 1, line)? {
                Line::Session(session) => {
                    if !is_read(session.format) {
                        return Err(CalibrateError::RecordingVersion {
                            origin: origin.to_owned(),
                            found: session.format,
                        });
                    }
                    if let Some(first) = recording.sessions.first() {
                        lines::same_machine(origin, index + 1, &first.machine, &session.machine)?;
                    }
                    recording.sessions.push(session);
                    (open, points, has_block) = (true, 0, false);
                }
                _ if !open => return Err(damaged("it belongs to no session")),
                Line::Block(block) => {
                    recording.blocks.push((recording.sessions.len() - 1, block));
                    has_block = true;
                }
                Line::Point(_) if !has_block => return Err(damaged("a point before its block")),
                Line::Point(point) => {
                    if point.us.is_empty() || point.us.iter().any(|us| !us.is_finite() || *us < 0.0) {
                        return Err(damaged("a point without times, or with impossible ones"));
                    }
                    points += 1;
                    recording.points.push((recording.blocks.len() - 1, point));
                }
                Line::Skipped(skipped) => recording.skipped.push(skipped),
                Line::End(end) => {
                    if end.points != points {
                        return Err(damaged(&format!(
                            "the session ends with {} points, but {points} are here",
                            end.points
                        )));
                    }
                    recording.missing = end.missing;
                    open = false;
                }
            }
        }
        let whole = !open && !recording.sessions.is_empty() && text.ends_with('\n');
        Ok((recording, whole))
    }

    /// The machine.
    pub fn machine(&self) -> &Identity {
        &self.sessions[0].machine
    }

    /// Points that count: of blocks that nothing but the power limit held back. A question measured twice counts with its last answer.
    pub fn sound(&self) -> Vec<&Point> {
        let mut last: BTreeMap<String, &Point> = BTreeMap::new();
        for (block, point) in &self.points {
            if self.blocks[*block].1.clocks.is_sound() {
                last.insert(point.question.key(), point);
            }
        }
        last.into_values().collect()
    }

    /// Points measured while the machine was too hot or slowed down by its board.
    pub fn unsound(&self) -> usize {
        self.points.iter().filter(|(block, _)| !self.blocks[*block].1.clocks.is_sound()).count()
    }

    /// Keys of the questions that need not be asked again.
    pub fn answered(&self) -> BTreeSet<String> {
        let sound = self.sound().into_iter().map(|point| point.question.key());
        sound.chain(self.skipped.iter().map(|skipped| skipped.question.key())).collect()
    }

    /// By how much the sentinel moved before points: (99th − 1st percentile) / median, percent; none with fewer than two points.
    pub fn drift_percent(&self) -> Option<f64> {
        let mut us: Vec<f64> = self.points.iter().map(|(_, point)| point.sentinel_us).collect();
        us.sort_by(f64::total_cmp);
        let at = |share: f64| us.get((share * us.len() as f64) as usize).copied();
        let (low, middle, high) = (at(0.01)?, at(0.5)?, at(0.99)?);
        (us.len() > 1).then(|| (high - low) / middle * 100.0)
    }
}
