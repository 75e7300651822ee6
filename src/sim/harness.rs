//! One operator alone: a script goes in, what it says comes out as comparable texts. Pure.
//!
//! The driver does what the engine does around a node and nothing else, so what holds here holds there.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;

use super::cells;
use crate::core::operator::Flow;
use crate::core::{EventTime, Now, Output, StateReader, StateWriter};
use crate::registry::{
    BatchLimits, Built, ComponentType, Context, InputSchema, Inputs, NoFiles, example_schema,
};
use crate::{Error, Result};

/// The port on which rows behind the watermark may always leave.
const LATE: &str = "late";

/// What an operator is given, in order.
#[derive(Debug, Clone)]
pub enum Step {
    /// Rows on one of its inputs.
    Rows {
        /// Which input.
        port: usize,
        /// The rows.
        batch: RecordBatch,
        /// When they enter.
        now: Now,
    },
    /// No row before this will come; [`EventTime::MAX`] is the end.
    Watermark(EventTime),
    /// Time has passed; only given on if the operator's deadline has come.
    Tick(Now),
}

/// An operator type with one configuration over [`example_schema`].
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The type.
    pub component: &'a ComponentType<Built>,
    /// The body of its table, in TOML.
    pub body: &'a str,
}

impl Subject<'_> {
    /// How many inputs it is driven with.
    pub fn inputs(&self) -> usize {
        match self.component.inputs {
            Some(Inputs::Many) => 2,
            _ => 1,
        }
    }

    /// Builds the operator, as the pipeline file would.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, in one text.
    pub fn build(&self) -> Result<Built> {
        let table: toml::Table =
            toml::from_str(self.body).map_err(|error| Error::config(error.to_string()))?;
        let inputs: Vec<InputSchema> = (0..self.inputs())
            .map(|input| InputSchema { name: format!("input{input}"), schema: example_schema() })
            .collect();
        let context = Context {
            name: "subject",
            pipeline: "harness",
            inputs: &inputs,
            files: &NoFiles,
            batch: BatchLimits::default(),
        };
        (self.component.build)(table, &context).map_err(|problems| {
            let told: Vec<String> = problems
                .iter()
                .map(|problem| {
                    let help = problem.help.as_deref().unwrap_or_default();
                    format!("{}: {} {help}", problem.path, problem.message)
                })
                .collect();
            Error::config(told.join("; "))
        })
    }
}

/// What an operator has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// For each port: its rows, and the watermarks and idleness that went out between them.
    pub ports: Vec<Vec<String>>,
    /// What it has counted, over all calls.
    pub counts: BTreeMap<String, u64>,
    /// What it must not have said: rows behind the watermark, anything after the end, a watermark that goes back.
    pub breaches: Vec<String>,
}

/// An operator being driven.
pub struct Driver {
    built: Built,
    said: Said,
    output: Output,
    /// What those who read from it know: no row before this will come.
    watermark: i64,
    /// Times of the rows that came in behind the watermark: their results may be behind it too.
    late: BTreeSet<i64>,
    ended: bool,
}

impl Driver {
    /// A driver around an operator just built.
    pub fn new(built: Built) -> Self {
        let said = Said { ports: vec![Vec::new(); built.ports.len()], ..Said::default() };
        Self {
            built,
            said,
            output: Output::new(Now::ZERO),
            watermark: i64::MIN,
            late: BTreeSet::new(),
            ended: false,
        }
    }

    /// The same with ports that nobody reads, a bit for each.
    #[must_use]
    pub fn with_unread(mut self, ports: u64) -> Self {
        self.output.set_unread(ports);
        self
    }

    /// Gives the operator one step of a script.
    ///
    /// # Errors
    /// If the operator cannot go on.
    pub fn give(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Rows { port, batch, now } => {
                self.output.set_now(*now);
                self.expect_late(batch);
                self.built.operator.process(*port, batch.clone(), &mut self.output)?;
                self.listen()
            }
            Step::Watermark(to) => {
                let is_end = *to == EventTime::MAX;
                // A node that makes its own watermark hears only of the end.
                if !self.built.own_watermark || is_end {
                    self.built.operator.watermark(*to, &mut self.output)?;
                    self.listen()?;
                    self.watermark = self.watermark.max(to.0);
                }
                self.ended |= is_end;
                Ok(())
            }
            Step::Tick(now) => {
                self.output.set_now(*now);
                if self.built.operator.deadline().is_some_and(|deadline| deadline <= now.mono) {
                    self.built.operator.tick(&mut self.output)?;
                    self.listen()?;
                }
                Ok(())
            }
        }
    }

    /// Saves the operator's state and goes on with a fresh one that has loaded it.
    ///
    /// # Errors
    /// If the state cannot be written or read back to its last byte.
    pub fn move_to(&mut self, fresh: Built) -> Result<()> {
        let mut writer = StateWriter::new();
        self.built.operator.save(&mut writer);
        let bytes = writer.finish()?;
        self.built = fresh;
        let mut reader = StateReader::new(&bytes);
        self.built.operator.load(&mut reader)?;
        reader.finish()
    }

    /// What was said in all.
    pub fn finish(self) -> Said {
        self.said
    }

    fn expect_late(&mut self, batch: &RecordBatch) {
        for time in cells::times(batch) {
            // Whoever makes a watermark makes it from rows: in one call some may already be behind it.
            if self.built.own_watermark || time < self.watermark {
                self.late.insert(time);
                // A decoder of `payload` sees whole milliseconds.
                self.late.insert(time.div_euclid(1000) * 1000);
            }
        }
    }

    fn listen(&mut self) -> Result<()> {
        for (count, by) in self.output.drain_counts() {
            *self.said.counts.entry(format!("{} {}", count.what, count.reason)).or_default() += by;
        }
        let flows: Vec<(usize, Flow)> = self.output.drain().collect();
        for (port, flow) in flows {
            if self.ended {
                self.said.breaches.push(format!("after the end: {flow:?}"));
            }
            match flow {
                Flow::Batch(batch) => self.hear(port, &batch)?,
                Flow::Watermark(to) if to.0 < self.watermark => {
                    self.said.breaches.push(format!("the watermark goes back to {}", to.0));
                }
                Flow::Watermark(to) => {
                    self.watermark = to.0;
                    self.tell_all(&format!("-- no row before {}", to.0));
                }
                Flow::Idle(idle) => self.tell_all(&format!("-- idle {idle}")),
            }
        }
        Ok(())
    }

    fn hear(&mut self, port: usize, batch: &RecordBatch) -> Result<()> {
        let Some(place) = self.built.ports.get(port) else {
            return Err(Error::data(format!("rows on port {port}, which it does not have")));
        };
        if place.schema != batch.schema() {
            return Err(Error::data(format!(
                "port {port} promises {:?} and gives {:?}",
                place.schema,
                batch.schema()
            )));
        }
        let rows = cells::rows(batch)?;
        if place.name != LATE {
            for (time, row) in cells::times(batch).into_iter().zip(&rows) {
                if time < self.watermark && !self.late.contains(&time) {
                    self.said.breaches.push(format!("behind the watermark {}: {row}", self.watermark));
                }
            }
        }
        self.said.ports[port].extend(rows);
        Ok(())
    }

    fn tell_all(&mut self, what: &str) {
        for port in &mut self.said.ports {
            port.push(what.to_owned());
        }
    }
}

/// Runs a whole script. Before each step that `moves` names, the operator is saved and loaded into a fresh one.
///
/// # Errors
/// If the operator cannot be built, cannot go on, or breaks its promise of columns.
pub fn run(
    build: &dyn Fn() -> Result<Built>,
    script: &[Step],
    moves: &dyn Fn(usize) -> bool,
) -> Result<Said> {
    run_unread(build, script, moves, 0)
}

/// The same where nobody reads some of the ports: a bit for each of these.
///
/// # Errors
/// As for [`run`].
pub fn run_unread(
    build: &dyn Fn() -> Result<Built>,
    script: &[Step],
    moves: &dyn Fn(usize) -> bool,
    unread: u64,
) -> Result<Said> {
    let mut driver = Driver::new(build()?).with_unread(unread);
    for (index, step) in script.iter().enumerate() {
        if moves(index) {
            driver.move_to(build()?)?;
        }
        driver.give(step)?;
    }
    Ok(driver.finish())
}
