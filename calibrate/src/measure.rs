//! Asks a machine what a plan wants to know, within a budget, point by point.

use crate::error::CalibrateError;
use crate::machine::{Machine, MachineError, Part, Question, StepShape};
use crate::plan::{Plan, Planned};
use crate::recording::{Block, End, Line, Point, Recording, Session, Skipped, Writer};

/// What a session is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Seconds of the machine.
    pub seconds: f64,
    /// Day, for the record.
    pub date: String,
    /// Commit of the program, for the record.
    pub commit: String,
}

/// What a session did.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Points measured now.
    pub points: u32,
    /// Questions without an answer, with the reason.
    pub skipped: Vec<(Question, String)>,
    /// What is still missing, in the order of the plan.
    pub missing: Vec<Planned>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// Points measured or skipped so far, of this session.
    pub done: usize,
    /// Points that this session would measure with time without end.
    pub of: usize,
    /// Seconds so far.
    pub seconds: f64,
    /// What is asked now.
    pub question: &'a Question,
}

/// A block ends after so many seconds: clocks are read anew.
const BLOCK_S: f64 = 8.0;

/// Estimates are rough: what is left of a budget must hold so much of them.
const MARGIN: f64 = 1.3;

/// Measures what `already` lacks of the plan, and writes every answer as soon as it is there.
///
/// A question without an answer is written down with its reason, and the next is asked. Cuts of the machine's memory cost time that
/// estimates leave out; the budget is kept all the same, up to one answer.
///
/// # Errors
/// When the machine gives up or the file cannot be written. What was measured is in the file.
pub fn measure(
    machine: &mut dyn Machine,
    plan: &Plan,
    already: Option<&Recording>,
    writer: &mut Writer,
    budget: &Budget,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Measured, CalibrateError> {
    let answered = already.map(Recording::answered).unwrap_or_default();
    let todo: Vec<&Planned> =
        plan.points.iter().filter(|planned| !answered.contains(&planned.question.key())).collect();
    writer.write(&Line::Session(Session {
        format: crate::recording::FORMAT,
        machine: machine.identity().clone(),
        date: budget.date.clone(),
        commit: budget.commit.clone(),
        seed: plan.seed,
        planned: plan.points.len() as u32,
        budget_s: budget.seconds,
    }))?;
    let began = machine.seconds();
    let mut run = Run {
        machine,
        writer,
        began,
        block: None,
        blocks: 0,
        points: 0,
        skipped: Vec::new(),
        best_us: f64::INFINITY,
        settled_us: 0.0,
        heated: true,
    };
    let mut missing = Vec::new();
    let mut failed = None;
    for (done, planned) in todo.iter().enumerate() {
        let seconds = run.seconds();
        if failed.is_some() || seconds + planned.seconds * MARGIN > budget.seconds {
            missing.push((*planned).clone());
            continue;
        }
        progress(Progress { done, of: todo.len(), seconds, question: &planned.question });
        match run.point(planned) {
            Ok(()) => {}
            // The end is written whatever happens, so that the file stays one that can be read.
            Err(CalibrateError::Machine(problem)) => {
                missing.push((*planned).clone());
                failed = Some(problem);
            }
            Err(other) => return Err(other),
        }
    }
    let seconds = run.seconds();
    let (points, skipped) = (run.points, run.skipped);
    writer.write(&Line::End(End { points, missing: missing.len() as u32, seconds }))?;
    match failed {
        Some(problem) => Err(CalibrateError::Machine(problem)),
        None => Ok(Measured { points, skipped, missing, seconds }),
    }
}

/// A session under way.
struct Run<'a> {
    machine: &'a mut dyn Machine,
    writer: &'a mut Writer,
    began: f64,
    /// When the block began.
    block: Option<f64>,
    blocks: u32,
    points: u32,
    skipped: Vec<(Question, String)>,
    /// The sentinel at its best, and as it was last.
    best_us: f64,
    settled_us: f64,
    /// Did anything since then heat the machine?
    heated: bool,
}

/// After heavy work a card at its power limit is slower for a while: a question waits until the sentinel is within so much of its best, for
/// this long at a time and so often at most.
const SETTLED: f64 = 1.02;
const REST_S: f64 = 0.02;
const RESTS: u32 = 10;
/// Rows of the sentinel at most.
const SENTINEL_ROWS: u32 = 512;

impl Run<'_> {
    fn seconds(&self) -> f64 {
        self.machine.seconds() - self.began
    }

    fn point(&mut self, planned: &Planned) -> Result<(), CalibrateError> {
        let now = self.seconds();
        if self.block.is_none_or(|began| now - began > BLOCK_S) {
            self.begin_block(now)?;
        }
        let question = planned.question.clone();
        // What it refuses is refused again when it is asked.
        self.heated |= self.machine.make_ready(&question).unwrap_or(false);
        let sentinel_us = self.settle()?;
        match self.machine.measure(&question, planned.repeats) {
            Ok(answer) => {
                self.points += 1;
                self.heated |= heats(&question);
                let rounded = |us: Vec<f64>| us.into_iter().map(|us| (us * 1e3).round() / 1e3).collect();
                let (us, parts) = (rounded(answer.us), answer.parts.into_iter().map(rounded).collect());
                let seconds = ((self.seconds() - now) * 1e4).round() / 1e4;
                self.writer.write(&Line::Point(Point { question, sentinel_us, us, parts, seconds }))
            }
            Err(MachineError::Unsupported(why)) => {
                self.skipped.push((question.clone(), why.clone()));
                self.writer.write(&Line::Skipped(Skipped { question, why }))
            }
            Err(MachineError::Failed(why)) => {
                Err(CalibrateError::Machine(format!("{why} (asked: {})", question.key())))
            }
        }
    }

    /// Rests until the machine is at its full clocks again, or has rested enough. Gives the sentinel: that of before, where nothing has
    /// heated the machine since.
    fn settle(&mut self) -> Result<f64, CalibrateError> {
        if !self.heated && self.settled_us > 0.0 {
            return Ok(self.settled_us);
        }
        self.heated = false;
        let mut us = self.sentinel(2)?;
        for _ in 0..RESTS {
            if us <= self.best_us * SETTLED {
                break;
            }
            self.machine.rest(REST_S);
            us = self.sentinel(2)?;
        }
        self.settled_us = (us * 1e3).round() / 1e3;
        Ok(self.settled_us)
    }

    /// The head over many rows: bound by arithmetic, so that it feels the clocks, and short, for a step has it once.
    fn sentinel(&mut self, repeats: u32) -> Result<f64, CalibrateError> {
        let rows = self.machine.identity().limits.sequences.min(SENTINEL_ROWS);
        let sentinel = Question::Operation { operation: Part::LmHead, shape: StepShape::decode(rows, 16) };
        let us =
            self.machine.measure(&sentinel, repeats).map_err(|error| CalibrateError::Machine(error.to_string()))?;
        // The quickest: what a machine at its full clocks can do.
        let us = us.us.into_iter().fold(f64::INFINITY, f64::min);
        self.best_us = self.best_us.min(us);
        Ok(us)
    }

    fn begin_block(&mut self, now: f64) -> Result<(), CalibrateError> {
        let sentinel_us = self.sentinel(11)?;
        // After the sentinel: clocks of a GPU at work, not of one at rest.
        let clocks = self.machine.clocks();
        let block = Block { number: self.blocks, at_s: now, clocks, sentinel_us };
        self.blocks += 1;
        self.block = Some(now);
        self.writer.write(&Line::Block(block))
    }
}

/// Does answering it bring a machine near its power limit? What multiplies many rows does.
fn heats(question: &Question) -> bool {
    /// Fewer are bound by the bytes of their weights.
    const ROWS: u32 = 64;
    let multiplies = match question {
        Question::Operation { operation, .. } => operation.is_product() || *operation == Part::PrefillAttention,
        Question::Lora { .. } | Question::Step { .. } | Question::Added { .. } | Question::Host { .. } => true,
        // Copies run beside steps, again and again.
        Question::Behind { .. }
        | Question::Served { .. }
        | Question::Load { .. }
        | Question::StepBesideLoad { .. }
        | Question::Switch { .. }
        | Question::Copy { .. } => {
            return true;
        }
    };
    multiplies && question.shape().is_some_and(|shape| shape.rows() > ROWS)
}

/// The middle of some figures; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
