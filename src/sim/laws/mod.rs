//! The laws that every operator keeps, over random scripts of rows, watermarks and ticks at fixed positions. Pure.
//!
//! - *determinism*: the same script gives the same;
//! - *cuts*: cutting the batches otherwise changes nothing;
//! - *state*: saving and loading into a fresh operator at any point changes nothing;
//! - *form*: sliced arrays, and dictionaries in another order, are the same rows;
//! - *ports*: a port that nobody reads changes nothing on the others, nor what is counted;
//! - *watermark*: nothing is emitted behind the watermark (but on a port called `late`) or after the end.
//!
//! They are for operators of any crate: `laws::hold::<MyConfig>()` in a test tries each of its examples.

pub(super) mod script;

use std::fmt;

use super::dice::Dice;
use super::harness::{self, Said, Step, Subject};
use crate::registry::{Built, ComponentType, OperatorConfig, Registry};
use crate::{Error, Result};
use script::{Drawn, Form, Item, items, steps};

/// Random scripts for each example.
pub const SCRIPTS: usize = 12;

/// Most runs that are spent on making a script that breaks a law shorter.
const SHRINKS_MAX: usize = 400;

/// Builds the operator under test, always the same one.
pub type Build<'a> = dyn Fn() -> Result<Built> + 'a;

/// A law that is broken, by whom, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The type and the example, where it is known.
    pub subject: String,
    /// The law, as it is called at the head of this module; `examples` if there is none to try, `silent` if the
    /// operator says nothing on any script, which proves nothing, `going on` if it fails.
    pub law: &'static str,
    /// What was expected and what came.
    pub reason: String,
    /// The shortest script found that shows it.
    pub script: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{} breaks the law of ", self.subject)?;
        }
        write!(f, "{}: {}", self.law, self.reason)?;
        if !self.script.is_empty() {
            write!(f, "\non this script:\n{}", self.script)?;
        }
        Ok(())
    }
}

impl std::error::Error for Broken {}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Self::data(broken.to_string())
    }
}

/// Holds an operator type to all laws, on each of its examples over the columns of
/// [`example_schema`](crate::registry::example_schema).
///
/// # Errors
/// The first law that is broken, with the shortest script found that shows it.
pub fn hold<C: OperatorConfig>() -> std::result::Result<(), Broken> {
    Registry::new().operator::<C>().operators.iter().try_for_each(|component| hold_type(component, SCRIPTS))
}

/// The same for an operator type out of a registry, with a number of scripts for each example.
///
/// # Errors
/// As for [`hold`].
pub fn hold_type(component: &ComponentType<Built>, scripts: usize) -> std::result::Result<(), Broken> {
    if component.examples.is_empty() {
        let reason = "it has no example: nothing holds it to the laws".to_owned();
        let subject = component.name.to_owned();
        return Err(Broken { subject, law: "examples", reason, script: String::new() });
    }
    component.examples.iter().try_for_each(|body| {
        let subject = Subject { component, body };
        hold_built(&|| subject.build(), subject.inputs(), scripts).map_err(|broken| {
            let subject = format!("`{}` with\n{}\n", component.name, body.trim_end());
            Broken { subject, ..broken }
        })
    })
}

/// The same for an operator however it is built. The scripts are always the same ones.
///
/// # Errors
/// As for [`hold`].
pub fn hold_built(build: &Build<'_>, inputs: usize, scripts: usize) -> std::result::Result<(), Broken> {
    let mut dice = Dice::new(7);
    let mut said = 0;
    for _ in 0..scripts {
        let (drawn, chance) = (script::draw(&mut dice), dice.roll());
        match try_all(build, &items(&drawn, inputs), chance) {
            Ok(rows) => said += rows,
            Err(breach) => return Err(shrink(build, drawn, inputs, chance, breach)),
        }
    }
    match said {
        0 => Err(Broken {
            subject: String::new(),
            law: "silent",
            reason: "it never says anything, which proves nothing".to_owned(),
            script: String::new(),
        }),
        _ => Ok(()),
    }
}

/// A law, and how it was broken.
type Breach = (&'static str, String);

/// Leaves parts of the script out, large ones first, as long as the same law is still broken.
fn shrink(
    build: &Build<'_>,
    mut drawn: Vec<Drawn>,
    inputs: usize,
    chance: u64,
    mut breach: Breach,
) -> Broken {
    let mut runs = 0;
    let mut part = drawn.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < drawn.len() && runs < SHRINKS_MAX {
            let end = drawn.len().min(at + part);
            let shorter: Vec<Drawn> = drawn[..at].iter().chain(&drawn[end..]).cloned().collect();
            runs += 1;
            match try_all(build, &items(&shorter, inputs), chance) {
                Err(other) if other.0 == breach.0 => (drawn, breach) = (shorter, other),
                _ => at = end,
            }
        }
        part /= 2;
    }
    let script: Vec<String> = items(&drawn, inputs).iter().map(|item| format!("  {item:?}")).collect();
    Broken { subject: String::new(), law: breach.0, reason: breach.1, script: script.join("\n") }
}

/// Holds one operator to all laws on one script and gives the number of rows that it said.
fn try_all(build: &Build<'_>, items: &[Item], chance: u64) -> std::result::Result<usize, Breach> {
    let cut = |law, form, cut: &mut dyn FnMut() -> bool| {
        steps(items, form, cut).map_err(|error| (law, error.to_string()))
    };
    let run = |law, steps: &[Step], moves: &dyn Fn(usize) -> bool| {
        harness::run(build, steps, moves).map_err(|error| (law, error.to_string()))
    };
    let plain = cut("going on", Form::Plain, &mut || false)?;
    let expected = run("going on", &plain, &|_| false)?;
    if let Some(breach) = expected.breaches.first() {
        return Err(("watermark", breach.clone()));
    }
    let same = |law, steps: &[Step], moves: &dyn Fn(usize) -> bool| {
        let actual = run(law, steps, moves)?;
        first_difference(&expected, &actual).map_or(Ok(()), |difference| Err((law, difference)))
    };
    same("determinism", &plain, &|_| false)?;
    same("form", &cut("form", Form::Sliced, &mut || false)?, &|_| false)?;
    same("form", &cut("form", Form::Reordered, &mut || false)?, &|_| false)?;
    let mut dice = Dice::new(chance);
    let somewhere = cut("cuts", Form::Plain, &mut || dice.below(4) == 0)?;
    let everywhere = cut("cuts", Form::Plain, &mut || true)?;
    same("cuts", &everywhere, &|_| false)?;
    same("cuts", &somewhere, &|_| false)?;
    same("state", &everywhere, &|_| true)?;
    let once = dice.below(somewhere.len());
    same("state", &somewhere, &|step| step == once)?;
    same("form", &cut("form", Form::Reordered, &mut || true)?, &|step| step == once)?;
    ports(build, &plain, &expected)?;
    Ok(expected.ports.iter().map(Vec::len).sum())
}

/// Where each port but one goes unread, that one says the same.
fn ports(build: &Build<'_>, script: &[Step], expected: &Said) -> std::result::Result<(), Breach> {
    let several = expected.ports.len() > 1;
    for port in (0..expected.ports.len().min(u64::BITS as usize)).filter(|_| several) {
        let actual = harness::run_unread(build, script, &|_| false, !(1 << port))
            .map_err(|error| ("ports", error.to_string()))?;
        let only = |said: &Said| Said { ports: vec![said.ports[port].clone()], ..said.clone() };
        if let Some(difference) = first_difference(&only(expected), &only(&actual)) {
            return Err(("ports", format!("with port {port} alone being read: {difference}")));
        }
    }
    Ok(())
}

fn first_difference(expected: &Said, actual: &Said) -> Option<String> {
    for (port, (left, right)) in expected.ports.iter().zip(&actual.ports).enumerate() {
        if let Some(row) = (0..left.len().max(right.len())).find(|row| left.get(*row) != right.get(*row)) {
            let (left, right) = (left.get(row), right.get(row));
            return Some(format!("row {row} of port {port} was\n  {left:?}\nand is\n  {right:?}"));
        }
    }
    if expected.counts != actual.counts {
        return Some(format!("it had counted {:?} and counts {:?}", expected.counts, actual.counts));
    }
    (expected.breaches != actual.breaches).then(|| format!("breaches {:?}", actual.breaches))
}
