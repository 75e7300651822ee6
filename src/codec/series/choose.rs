//! What is chosen for a series, by trying. Pure. The same words always give the same choice.

use super::Meaning;
use super::adaptive::Shape;
use super::decimal::{self, POWERS};
use super::order::{Linear, Order};
use super::plan::{Coder, Mapping, Plan, Trend, estimated_bits, lengths};
use super::writer::{Effort, SeriesWriter, float_of};
use crate::error::Result;

/// Exponents are tried on two runs of so many words.
const RUN_WORDS: usize = 96;
/// Everything else is tried on so many neighbours from the middle of a block.
const SAMPLE_WORDS: usize = 2048;
/// Coefficients are fitted to so many.
const FITTED_VALUES: usize = 1024;
/// Fewer values are not worth coefficients.
const LINEAR_FROM_VALUES: usize = 100;
/// A balanced choice takes the adaptive coder for blocks of fewer words only.
const SHORT_WORDS: usize = 512;
/// How many orders get a trial, the most promising by an estimate.
const TRIED_ORDERS: usize = 2;

impl SeriesWriter {
    /// A plan that fits `self.buffers.words`, and how it does: appends the block to `out`.
    pub(super) fn write_chosen(&mut self, meaning: Meaning, width: usize, out: &mut Vec<u8>) -> Result<Plan> {
        let start = out.len();
        if self.buffers.words.len() > SAMPLE_WORDS {
            let mut all = std::mem::take(&mut self.all);
            std::mem::swap(&mut all, &mut self.buffers.words);
            let from = (all.len() - SAMPLE_WORDS) / 2;
            self.buffers.words.clear();
            self.buffers.words.extend_from_slice(&all[from..from + SAMPLE_WORDS]);
            let plan = self.choose(meaning, width);
            std::mem::swap(&mut all, &mut self.buffers.words);
            self.all = all;
            let plan = plan?;
            if self.buffers.apply(&plan, width, out)? {
                return Ok(plan);
            }
            // What holds for the middle does not hold for all.
            out.truncate(start);
        }
        let plan = self.choose(meaning, width)?;
        let fits = self.buffers.apply(&plan, width, out)?;
        debug_assert!(fits, "a plan fits the words that it was tried on");
        Ok(plan)
    }

    /// A plan that fits `self.buffers.words`.
    fn choose(&mut self, meaning: Meaning, width: usize) -> Result<Plan> {
        let narrowed = meaning == Meaning::Floats
            && width == 8
            && decimal::narrow(&self.buffers.words, &mut self.buffers.narrowed);
        let mapping = match meaning {
            Meaning::Signed | Meaning::Unsigned => Mapping::Integers,
            Meaning::Floats => self.mapping(width, narrowed),
        };
        let mut best = blank(narrowed, mapping);
        let mut trial = std::mem::take(&mut self.trial);
        // One value or one line is the whole series.
        for trend in [Trend::First, Trend::FirstTwo] {
            best.trend = trend;
            trial.clear();
            if self.buffers.apply(&best, width, &mut trial)? {
                self.trial = trial;
                return Ok(best);
            }
        }
        let mut best_bytes = usize::MAX;
        let mut attempt = |writer: &mut Self, plan: Plan| -> Result<()> {
            trial.clear();
            if writer.buffers.apply(&plan, width, &mut trial)? && trial.len() < best_bytes {
                best_bytes = trial.len();
                best = plan;
            }
            Ok(())
        };
        let plans = self.orders(&blank(narrowed, mapping), width);
        let allowed = self.allowed;
        // Where there is a table to send, a coder without one wins; where there is not, it is merely slower.
        let short = self.buffers.words.len() < SHORT_WORDS;
        for &plan in &plans {
            if allowed.adaptive && (!allowed.tokens || short || self.effort == Effort::Ratio) {
                attempt(self, Plan { coder: Coder::Adaptive(self.shape(1, 2)), ..plan })?;
            }
            if allowed.tokens {
                attempt(self, Plan { coder: Coder::Tokens, ..plan })?;
            }
            if allowed.packed {
                attempt(self, Plan { coder: Coder::Packed, ..plan })?;
            }
            if allowed.bytes {
                attempt(self, Plan { coder: Coder::Planes, ..plan })?;
                attempt(self, Plan { coder: Coder::Words, ..plan })?;
            }
        }
        self.trial = trial;
        self.refined(best, best_bytes, width)
    }

    /// The same with the shape of the adaptive coder that does best.
    fn refined(&mut self, mut best: Plan, mut best_bytes: usize, width: usize) -> Result<Plan> {
        if !matches!(best.coder, Coder::Adaptive(_)) {
            return Ok(best);
        }
        let shapes = [(0, 2), (0, 4), (1, 4), (1, 1), (2, 2), (2, 4), (0, 1), (2, 1)];
        let tried = if self.effort == Effort::Ratio { shapes.len() } else { 5 };
        let mut trial = std::mem::take(&mut self.trial);
        for &(context, modelled) in &shapes[..tried] {
            let plan = Plan { coder: Coder::Adaptive(self.shape(context, modelled)), ..best };
            trial.clear();
            if self.buffers.apply(&plan, width, &mut trial)? && trial.len() < best_bytes {
                best_bytes = trial.len();
                best = plan;
            }
        }
        self.trial = trial;
        Ok(best)
    }

    fn shape(&self, context: u8, modelled: u8) -> Shape {
        let rate = if self.buffers.words.len() < 400 { 6 } else { 7 };
        Shape { floor: 0, context, centre: 0, modelled, rate }
    }

    /// Which integers stand for floats: tried on a sample.
    fn mapping(&mut self, width: usize, narrowed: bool) -> Mapping {
        if width == 2 {
            return Mapping::Ordered;
        }
        let float = float_of(width, narrowed);
        let buffers = &mut self.buffers;
        let words = if narrowed { &buffers.narrowed } else { &buffers.words };
        let mut sample = [0u64; 2 * RUN_WORDS];
        let sample = if words.len() <= sample.len() {
            &words[..]
        } else {
            let (first, second) = (words.len() / 4, words.len() * 3 / 4 - RUN_WORDS / 2);
            sample[..RUN_WORDS].copy_from_slice(&words[first..first + RUN_WORDS]);
            sample[RUN_WORDS..].copy_from_slice(&words[second..second + RUN_WORDS]);
            &sample[..]
        };
        decimal::order(float, sample, &mut buffers.integers);
        let mut best = (rough_bits(&buffers.integers, &mut buffers.residuals), Mapping::Ordered);
        for exponent in 0..POWERS.len() {
            let missing =
                decimal::scale(float, exponent, sample, &mut buffers.integers, &mut buffers.missing);
            let mut bits = rough_bits(&buffers.integers, &mut buffers.residuals);
            if missing {
                Order::None.residuals(&buffers.missing, &mut buffers.residuals);
                bits += estimated_bits(&lengths(&buffers.residuals));
            }
            if bits < best.0 {
                best = (bits, Mapping::Decimal { exponent, missing });
            }
            if !missing {
                break;
            }
        }
        best.1
    }

    /// The orders that are worth a trial.
    fn orders(&mut self, plan: &Plan, width: usize) -> Vec<Plan> {
        let buffers = &mut self.buffers;
        if buffers.map(plan.narrowed, plan.mapping, width).is_none() {
            return Vec::new();
        }
        let values = std::mem::take(&mut buffers.integers);
        let step = common_step(&values);
        let plan = Plan { step, ..*plan };
        let mut linear = [Linear::default(); 6];
        let mut fitted = 0;
        let mut x = std::mem::take(&mut self.centred);
        if self.effort > Effort::Speed && values.len() >= LINEAR_FROM_VALUES {
            x.clear();
            x.extend_from_slice(&values[..values.len().min(FITTED_VALUES)]);
            if Trend::Mean.line(&values, step).remove(&mut x) {
                fitted = Linear::fitted(&x, &mut linear);
            }
        }
        let mut ways = vec![
            (Trend::Mean, Order::None, 0),
            (Trend::First, Order::Delta, 0),
            (Trend::FirstTwo, Order::Second, 1),
            (Trend::Ends, Order::None, 1),
        ];
        ways.extend(
            linear[..fitted].iter().map(|linear| (Trend::Mean, Order::Linear(*linear), linear.head_bytes())),
        );
        let mut plans = Vec::new();
        for (trend, order, head_bytes) in ways {
            x.clear();
            x.extend_from_slice(&values);
            if trend.line(&values, step).remove(&mut x) {
                order.residuals(&x, &mut buffers.residuals);
                let bits = estimated_bits(&lengths(&buffers.residuals)) + 8.0 * head_bytes as f64;
                plans.push((bits, Plan { trend, order, ..plan }));
            }
        }
        plans.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut chosen: Vec<Plan> = plans.iter().take(TRIED_ORDERS).map(|(_, plan)| *plan).collect();
        let plain = Plan { trend: Trend::Mean, order: Order::None, ..plan };
        // Repetitions are found in the values themselves, however large the residuals are.
        if self.allowed.bytes && !chosen.contains(&plain) {
            chosen.push(plain);
        }
        x.clear();
        x.extend_from_slice(&values);
        x.sort_unstable();
        x.dedup();
        if self.effort > Effort::Speed && x.len() * 4 <= values.len() {
            let ranked = Plan { ranked: true, step: 1, ..plan };
            chosen.push(Plan { trend: Trend::Mean, order: Order::None, ..ranked });
            chosen.push(Plan { trend: Trend::First, order: Order::Delta, ..ranked });
        }
        self.centred = x;
        self.buffers.integers = values;
        chosen
    }
}

/// What the trials begin from.
fn blank(narrowed: bool, mapping: Mapping) -> Plan {
    Plan {
        narrowed,
        mapping,
        trend: Trend::First,
        step: 1,
        order: Order::None,
        ranked: false,
        coder: Coder::Zeros,
    }
}

/// About how many bits integers take, as they are or as differences.
fn rough_bits(integers: &[i64], residuals: &mut Vec<u64>) -> f64 {
    let mut least = f64::INFINITY;
    let line = Trend::Mean.line(integers, 1);
    residuals.clear();
    residuals.extend(integers.iter().map(|value| super::order::zigzag(value.wrapping_sub(line.base))));
    least = least.min(estimated_bits(&lengths(residuals)));
    Order::Delta.residuals(integers, residuals);
    if let Some(first) = residuals.first_mut() {
        *first = 0;
    }
    least.min(estimated_bits(&lengths(residuals)))
}

/// The greatest number that divides all differences, or 1.
fn common_step(values: &[i64]) -> u64 {
    let Some(&first) = values.first() else { return 1 };
    let mut step = 0u64;
    for value in values {
        let (mut a, mut b) = (step, value.wrapping_sub(first).unsigned_abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        step = a;
        if step == 1 {
            break;
        }
    }
    if step == 0 || i64::try_from(step).is_err() { 1 } else { step }
}
