//! Who reports when, and in which order it arrives. Pure.
//!
//! Reading number `tick` of a device has its turn at `start + tick · period + phase`. It arrives at that time,
//! or later if it is delayed; a duplicate arrives later again. All arrivals are totally ordered by [`Due`], so
//! the last one delivered *is* the position: resuming means to list the arrivals of one delay window again and
//! to leave out those up to it.

use std::fmt;
use std::str::FromStr;

use super::config::{ClockUnit, PlantConfig};
use super::random::{Random, derive};
use crate::{Error, Result};

const DELIVERY: u64 = 0x21;
const PHASE: u64 = 0x23;
/// Arrivals listed in one go, at least; sorting them together costs least per reading around here.
const LISTED_MIN: u64 = 512;

/// One arrival: the order of these is the order of delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub delivery_us: i64,
    pub device: u32,
    pub copy: u32,
    pub tick: u64,
}

/// Where a plant is: after the last reading that was delivered. As text it is its numbers with `/` between
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlantPosition {
    pub(super) start_us: i64,
    pub(super) last: Option<Due>,
}

impl PlantPosition {
    /// The event time at which the plant was started: on resuming it counts, not the configured one.
    pub fn start_us(&self) -> i64 {
        self.start_us
    }
}

impl fmt::Display for PlantPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start_us)?;
        match self.last {
            Some(last) => write!(f, "/{}/{}/{}/{}", last.delivery_us, last.device, last.copy, last.tick),
            None => Ok(()),
        }
    }
}

impl FromStr for PlantPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::state(format!("\"{text}\" is not a position of a simulated plant"));
        fn part<T: FromStr>(parts: &mut std::str::Split<'_, char>) -> Option<T> {
            parts.next()?.parse().ok()
        }
        let mut parts = text.split('/');
        let start_us = part(&mut parts).ok_or_else(bad)?;
        if text.matches('/').count() == 0 {
            return Ok(Self { start_us, last: None });
        }
        let last = Due {
            delivery_us: part(&mut parts).ok_or_else(bad)?,
            device: part(&mut parts).ok_or_else(bad)?,
            copy: part(&mut parts).ok_or_else(bad)?,
            tick: part(&mut parts).ok_or_else(bad)?,
        };
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self { start_us, last: Some(last) })
    }
}

/// When readings are taken and when they arrive.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    pub start_us: i64,
    pub end_us: i64,
    pub period_us: f64,
    jitter_us: f64,
    pub delay_us: f64,
    late: f64,
    dropout: f64,
    duplicate: f64,
    pub unit: ClockUnit,
    /// Ticks listed in one go.
    pub ticks_listed: u64,
}

impl Timing {
    pub fn new(config: &PlantConfig) -> Self {
        let period_us = 1e6 / config.rate_hz;
        let delay_us = config.delay_ms_max * 1e3;
        let for_size = LISTED_MIN.div_ceil(u64::from(config.devices));
        let for_delay = (2.0 * delay_us / period_us).ceil() as u64;
        let start_us = config.start_us;
        let lasts_us = |seconds: f64| start_us.saturating_add((seconds * 1e6) as i64);
        Self {
            start_us,
            end_us: config.duration_s.map_or(i64::MAX, lasts_us),
            period_us,
            jitter_us: config.clock_jitter_ms_max * 1e3,
            delay_us,
            late: config.late,
            dropout: config.dropout,
            duplicate: config.duplicate,
            unit: config.time_unit,
            ticks_listed: for_size.max(for_delay),
        }
    }

    /// When a tick begins: no reading of it or of a later one arrives before.
    pub fn tick_us(&self, tick: u64) -> i64 {
        self.start_us.saturating_add((tick as f64 * self.period_us) as i64)
    }

    /// By how much a device's turn differs from the begin of a tick.
    pub fn phase_us(&self, device_seed: u64) -> f64 {
        Random::at(derive(device_seed, PHASE), 0).uniform() * self.period_us
    }

    /// The first tick of a device whose turn is not before `time_us`.
    pub fn first_tick(&self, time_us: i64, phase_us: f64) -> u64 {
        let since_us = time_us.saturating_sub(self.start_us) as f64 - phase_us;
        (since_us / self.period_us).ceil().max(0.0) as u64
    }

    /// When a device has its turn. Rounding must not carry it into the next tick.
    fn turn_us(&self, tick: u64, phase_us: f64) -> i64 {
        let turn = self.start_us.saturating_add((tick as f64 * self.period_us + phase_us) as i64);
        turn.min(self.tick_us(tick + 1))
    }

    /// The event time that the device writes on its reading.
    pub fn event_us(&self, tick: u64, phase_us: f64, device_seed: u64) -> i64 {
        let turn = self.turn_us(tick, phase_us);
        let unit = self.unit.us();
        if self.jitter_us == 0.0 {
            return turn - turn.rem_euclid(unit);
        }
        let mut random = Random::at(device_seed ^ PHASE, tick);
        let moment = turn + (self.jitter_us * random.signed()) as i64;
        moment - moment.rem_euclid(unit)
    }

    /// Lists the arrivals of one reading: none, one or two.
    pub fn list(&self, tick: u64, device: u32, phase_us: f64, device_seed: u64, into: &mut Vec<Due>) {
        let turn = self.turn_us(tick, phase_us);
        if turn >= self.end_us {
            return;
        }
        let mut due = Due { delivery_us: turn, device, copy: 0, tick };
        if self.dropout == 0.0 && self.late == 0.0 && self.duplicate == 0.0 {
            into.push(due);
            return;
        }
        let mut random = Random::at(device_seed ^ DELIVERY, tick);
        if random.uniform() < self.dropout {
            return;
        }
        if random.uniform() < self.late {
            due.delivery_us += (self.delay_us * random.uniform()) as i64;
        }
        into.push(due);
        if random.uniform() < self.duplicate {
            due.delivery_us += (self.delay_us * random.uniform()) as i64;
            due.copy = 1;
            into.push(due);
        }
    }
}
