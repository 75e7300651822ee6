//! The plant at work: steps through the arrivals in order and measures each reading. Pure.

use arrow::datatypes::SchemaRef;

use super::arrivals::{Due, PlantPosition, Timing};
use super::batches::{self, Names};
use super::config::{ClockUnit, PlantConfig};
use super::devices::{Channel, Device, DeviceId, Site, Values};
use super::faults::{self, Fault, FaultKind, Label, Schedule, Symptoms};
use super::random::Random;
use super::signals::Signal;
use crate::{Error, Result};

const MISSING: u64 = 0x22;
/// Labels in one answer, at most.
const LABELS_MAX: usize = 1_000_000;
const CENTURY_US: i64 = 3_155_760_000_000_000;
/// Every third reading of a spiking sensor spikes.
const SPIKE_EVERY: u64 = 3;

/// One reading as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Index of the device, for [`Plant::devices`].
    pub device: u32,
    /// The device's names.
    pub id: &'a DeviceId,
    /// Event time in µs since 1970, by the device's clock.
    pub time_us: i64,
    /// When it arrives, in µs since 1970.
    pub delivery_us: i64,
    /// The device's count of readings, from 0. Readings that never arrive are counted too.
    pub sequence: u64,
    /// One value per signal of [`Plant::signals`], rounded to the sensor's resolution; NaN where the device
    /// has no such signal or the value is missing.
    pub values: &'a [f64],
}

/// What is known of a reading besides its values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub device: u32,
    pub time_us: i64,
    pub delivery_us: i64,
    pub sequence: u64,
}

/// A plant at work: give it a time and it gives the readings that have arrived by then.
#[derive(Debug, Clone)]
pub struct Plant {
    site: Site,
    devices: Vec<Device>,
    ids: Vec<DeviceId>,
    schedules: Vec<Schedule>,
    phases_us: Vec<f64>,
    signals: Vec<Signal>,
    schema: SchemaRef,
    names: Names,
    timing: Timing,
    missing: f64,
    /// The arrivals in order, and which comes next.
    ready: Vec<Due>,
    next: usize,
    /// Arrivals listed already that come after ones not yet listed.
    later: Vec<Due>,
    /// The first tick not yet listed.
    tick: u64,
    last: Option<Due>,
    values: Vec<f64>,
}

impl Plant {
    /// A plant at its start.
    ///
    /// # Errors
    /// A value out of its range, a fault of an unknown device or one that does not fit it, or faults that
    /// overlap on one device.
    pub fn new(config: &PlantConfig) -> Result<Self> {
        config.check()?;
        let site =
            Site { seed: config.seed, start_us: config.start_us, noise: config.noise, shifts: config.shifts };
        let kinds = config.kinds();
        let ids: Vec<DeviceId> =
            (0..config.devices).map(|index| DeviceId::new(index, config, kinds)).collect();
        let listed = faults::resolve(&config.faults.list, &ids, config.start_us)?;
        let devices: Vec<Device> = ids
            .iter()
            .zip(0_u64..)
            .map(|(id, number)| Device::new(id.kind, &site, number, config.cycle_s()))
            .collect();
        let random = config.faults.random.as_ref();
        let schedules = devices
            .iter()
            .zip(listed)
            .map(|(device, listed)| Schedule::new(listed, random, device.kind, device.seed, site.start_us))
            .collect();
        let timing = Timing::new(config);
        let phases_us = devices.iter().map(|device| timing.phase_us(device.seed)).collect();
        let measured = |signal: &Signal| kinds.iter().any(|kind| kind.channel(*signal).is_some());
        let signals: Vec<Signal> = Signal::ALL.into_iter().filter(measured).collect();
        Ok(Self {
            site,
            devices,
            schedules,
            phases_us,
            schema: batches::schema(&signals),
            names: Names::new(config.lines, ids.iter().map(|id| id.device.clone())),
            values: vec![f64::NAN; signals.len()],
            signals,
            ids,
            timing,
            missing: config.missing,
            ready: Vec::new(),
            next: 0,
            later: Vec::new(),
            tick: 0,
            last: None,
        })
    }

    /// A plant that goes on after `position`, as if it had never stopped. The start is the position's.
    ///
    /// # Errors
    /// As [`Plant::new`], and a position that no plant can have.
    pub fn resume(config: &PlantConfig, position: &PlantPosition) -> Result<Self> {
        let config = PlantConfig { start_us: position.start_us, ..config.clone() };
        let mut plant = Self::new(&config).map_err(|error| Error { kind: crate::Kind::State, ..error })?;
        if let Some(last) = position.last {
            let since_us = last.delivery_us.checked_sub(config.start_us);
            let since_us = since_us.filter(|since| (0..CENTURY_US).contains(since)).ok_or_else(|| {
                Error::state(format!(
                    "\"{position}\" is not a position of a simulated plant: it lies before its start or a \
                     century after"
                ))
            })?;
            // A reading waits for two delays at most; one more tick for its phase and one for rounding.
            let first = (since_us as f64 - 2.0 * plant.timing.delay_us) / plant.timing.period_us - 2.0;
            plant.tick = first.max(0.0) as u64;
            plant.last = position.last;
        }
        Ok(plant)
    }

    /// Where the plant is: after the last reading delivered.
    pub fn position(&self) -> PlantPosition {
        PlantPosition { start_us: self.site.start_us, last: self.last }
    }

    /// The devices, in the order of [`Reading::device`].
    pub fn devices(&self) -> &[DeviceId] {
        &self.ids
    }

    /// The signals of all devices, in the order of [`Reading::values`].
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// The schema of [`Plant::next_batch`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Unit of `ts` in payloads.
    pub fn time_unit(&self) -> ClockUnit {
        self.timing.unit
    }

    /// Every fault that starts before `until_us` (and before the plant's end), by start and device. At most
    /// a million.
    pub fn labels(&self, until_us: i64) -> Vec<Label> {
        let ten_years_us = 315_576_000_000_000;
        let until_us = until_us.min(self.timing.end_us).min(self.site.start_us.saturating_add(ten_years_us));
        let mut labels: Vec<Label> = Vec::new();
        for (schedule, id) in self.schedules.iter().zip(&self.ids) {
            let room = LABELS_MAX - labels.len();
            labels.extend(schedule.until(until_us, room).into_iter().map(|fault| Label {
                kind: fault.kind,
                line: id.line.clone(),
                device: id.device.clone(),
                signal: fault.signal,
                start_us: fault.start_us,
                end_us: fault.end_us,
                severity: fault.severity,
            }));
        }
        labels.sort_by_key(|label| label.start_us);
        labels
    }

    /// When the next reading may arrive: how long a live source can sleep. `None` at the plant's end.
    pub fn next_due_us(&mut self) -> Option<i64> {
        self.peek().map(|due| due.delivery_us)
    }

    /// True when every reading of a plant with an end has been delivered.
    pub fn is_finished(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The next reading that arrives before `until_us`, if there is one.
    pub fn next(&mut self, until_us: i64) -> Option<Reading<'_>> {
        let arrived = self.advance(until_us)?;
        Some(Reading {
            device: arrived.device,
            id: self.ids.get(arrived.device as usize)?,
            time_us: arrived.time_us,
            delivery_us: arrived.delivery_us,
            sequence: arrived.sequence,
            values: &self.values,
        })
    }

    /// The names for dictionary columns.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Index of a device's line.
    pub(super) fn line_of(&self, device: u32) -> u32 {
        self.ids.get(device as usize).map_or(0, |id| id.line_index)
    }

    /// The values of the reading delivered last.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Steps to the next reading before `until_us` and measures its values.
    pub(super) fn advance(&mut self, until_us: i64) -> Option<Arrived> {
        loop {
            let due = self.peek().filter(|due| due.delivery_us < until_us)?;
            self.next += 1;
            self.last = Some(due);
            let index = due.device as usize;
            let time_us = self.timing.event_us(due.tick, self.phases_us[index], self.devices[index].seed);
            let fault = self.schedules[index].active(time_us);
            if fault.is_some_and(|fault| fault.kind == FaultKind::Silence) {
                continue;
            }
            self.measure(index, due.tick, time_us, fault);
            let Due { delivery_us, device, tick, .. } = due;
            return Some(Arrived { device, time_us, delivery_us, sequence: tick });
        }
    }

    /// The next arrival, listing more of them where the list has run out.
    fn peek(&mut self) -> Option<Due> {
        while self.next == self.ready.len() {
            let over = self.timing.tick_us(self.tick) >= self.timing.end_us;
            if over && self.later.is_empty() {
                return None;
            }
            self.list_more(over);
        }
        self.ready.get(self.next).copied()
    }

    /// Lists the arrivals of the next ticks; when the plant is `over`, only what is still under way is left.
    fn list_more(&mut self, over: bool) {
        self.ready.clear();
        self.next = 0;
        self.ready.append(&mut self.later);
        if !over {
            let until = self.tick + self.timing.ticks_listed;
            for tick in self.tick..until {
                for ((device, phase), index) in self.devices.iter().zip(&self.phases_us).zip(0_u32..) {
                    self.timing.list(tick, index, *phase, device.seed, &mut self.ready);
                }
            }
            self.tick = until;
            let last = self.last;
            self.ready.retain(|due| Some(*due) > last);
        }
        self.ready.sort_unstable();
        if !over {
            let complete_us = self.timing.tick_us(self.tick);
            let complete = self.ready.partition_point(|due| due.delivery_us < complete_us);
            self.later.extend(self.ready.drain(complete..));
        }
    }

    /// Fills `self.values` with what the device's sensors show.
    fn measure(&mut self, index: usize, tick: u64, time_us: i64, fault: Option<Fault>) {
        let device = &self.devices[index];
        let symptoms = fault.map_or_else(Symptoms::default, |fault| fault.symptoms(time_us));
        let mut values: Values = [f64::NAN; Signal::COUNT];
        device.measure(&self.site, time_us, tick, &symptoms, &mut values);
        if let Some((fault, signal)) = fault.and_then(|fault| Some((fault, fault.signal?))) {
            self.misread(index, tick, time_us, &fault, signal, &mut values);
        }
        for (shown, signal) in self.values.iter_mut().zip(&self.signals) {
            let value = values[*signal as usize];
            *shown = if value.is_nan() { f64::NAN } else { signal.rounded(value) };
        }
        if self.missing > 0.0 {
            let mut random = Random::at(device.seed ^ MISSING, tick);
            for shown in &mut self.values {
                if random.uniform() < self.missing {
                    *shown = f64::NAN;
                }
            }
        }
    }

    /// What a failing sensor makes of one value.
    fn misread(
        &self,
        index: usize,
        tick: u64,
        time_us: i64,
        fault: &Fault,
        signal: Signal,
        values: &mut Values,
    ) {
        let device = &self.devices[index];
        let Some(Channel { low, high, .. }) = device.kind.channel(signal) else { return };
        let span = high - low;
        let first_tick = || self.timing.first_tick(fault.start_us, self.phases_us[index]);
        let value = &mut values[signal as usize];
        match fault.kind {
            FaultKind::Stuck => {
                let mut then: Values = [f64::NAN; Signal::COUNT];
                device.measure(&self.site, fault.start_us, first_tick(), &Symptoms::default(), &mut then);
                *value = then[signal as usize];
            }
            FaultKind::Spike if tick.wrapping_sub(first_tick()).is_multiple_of(SPIKE_EVERY) => {
                *value += fault.severity * span;
            }
            FaultKind::Drift => *value += fault.severity * span * fault.progress(time_us),
            _ => {}
        }
    }
}
