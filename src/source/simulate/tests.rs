//! What the plant promises as a whole: determinism, plausible ranges, faults that show where and only where
//! they should, delivery as configured, and resuming without a seam.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::*;

const PROFILES: [Profile; 5] = [
    Profile::PressLine,
    Profile::PumpVibration,
    Profile::ColdChain,
    Profile::EnergyMeters,
    Profile::WaterLoop,
];

/// A reading without its borrow.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    device: u32,
    time_us: i64,
    delivery_us: i64,
    sequence: u64,
    /// Bits, so that NaN equals NaN.
    values: Vec<u64>,
}

impl Row {
    fn value(&self, index: usize) -> f64 {
        f64::from_bits(self.values[index])
    }
}

fn rows(plant: &mut Plant, until_us: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    while let Some(reading) = plant.next(until_us) {
        rows.push(Row {
            device: reading.device,
            time_us: reading.time_us,
            delivery_us: reading.delivery_us,
            sequence: reading.sequence,
            values: reading.values.iter().map(|value| value.to_bits()).collect(),
        });
    }
    rows
}

fn run(config: &PlantConfig, seconds: f64) -> Vec<Row> {
    rows(&mut Plant::new(config).unwrap(), config.start_us + (seconds * 1e6) as i64)
}

fn bytes(config: &PlantConfig, format: PayloadFormat, readings: usize) -> Vec<u8> {
    let mut plant = Plant::new(config).unwrap();
    let encoder = Encoder::new(&plant, format);
    let mut bytes = Vec::new();
    for _ in 0..readings {
        let reading = plant.next(i64::MAX).unwrap();
        for message in 0..encoder.messages() {
            encoder.append(&reading, message, &mut bytes);
        }
    }
    bytes
}

fn troubled(profile: Profile) -> PlantConfig {
    PlantConfig {
        profile,
        devices: 5,
        rate_hz: 7.0,
        dropout: 0.05,
        missing: 0.02,
        duplicate: 0.05,
        late: 0.2,
        delay_ms_max: 900.0,
        clock_jitter_ms_max: 20.0,
        faults: Faults {
            list: Vec::new(),
            random: Some(RandomFaults {
                per_device_hour: 100.0,
                duration_s_min: 4.0,
                duration_s_max: 10.0,
                warm_up_s: 1.0,
                spacing_s: 5.0,
                ..RandomFaults::default()
            }),
        },
        ..PlantConfig::default()
    }
}

fn fault(kind: FaultKind, device: &str, signal: Option<Signal>, start_s: f64, duration_s: f64) -> FaultSpec {
    FaultSpec { kind, device: device.to_owned(), signal, start_s, duration_s, severity: 1.0 }
}

#[test]
fn a_seed_is_a_plant() {
    for profile in PROFILES {
        let config = troubled(profile);
        let first = bytes(&config, PayloadFormat::Json, 500);
        assert_eq!(first, bytes(&config, PayloadFormat::Json, 500), "{profile:?}");
        let other = PlantConfig { seed: 2, ..config };
        assert_ne!(first, bytes(&other, PayloadFormat::Json, 500), "{profile:?}");
    }
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    // Whoever changes the physics changes these on purpose, and with them every recorded expectation.
    let pinned: Vec<u32> = PROFILES
        .iter()
        .map(|profile| crc32fast::hash(&bytes(&troubled(*profile), PayloadFormat::Json, 6_000)))
        .collect();
    assert_eq!(pinned, [1_797_334_063, 905_512_520, 2_215_505_456, 3_293_022_294, 935_891_443]);
}

#[test]
fn sound_devices_stay_in_their_ranges() {
    for kind in DeviceKind::ALL {
        // A whole day, for the weather; several seeds would only widen it by what a device differs.
        let config = PlantConfig {
            kinds: vec![kind],
            devices: 20,
            rate_hz: 0.01,
            load_cycle_s: Some(900.0),
            ..PlantConfig::default()
        };
        let plant = Plant::new(&config).unwrap();
        let signals = plant.signals().to_vec();
        assert_eq!(signals, kind.channels().iter().map(|channel| channel.signal).collect::<Vec<_>>());
        let rows = run(&config, 86_400.0);
        assert_eq!(rows.len(), 20 * 864);
        for (index, signal) in signals.iter().enumerate() {
            let Channel { low, high, .. } = kind.channel(*signal).unwrap();
            let values = || rows.iter().map(|row| row.value(index));
            let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
            assert!(
                low <= least && most <= high,
                "{kind:?} {signal:?}: {least} to {most}, not {low} to {high}"
            );
            let used = (most - least) / (high - low);
            assert!(used > 0.5 || *signal == Signal::Energy, "{kind:?} {signal:?}: range used to {used}");
        }
    }
}

#[test]
fn signals_follow_one_another() {
    // (kind, cause, effect, least correlation over an hour of one device)
    let table = [
        (DeviceKind::Motor, Signal::Current, Signal::Vib, 0.6),
        (DeviceKind::Motor, Signal::Current, Signal::Rpm, -0.6),
        (DeviceKind::Press, Signal::Pressure, Signal::Current, 0.7),
        (DeviceKind::Press, Signal::Pressure, Signal::Vib, 0.7),
        (DeviceKind::Pump, Signal::Flow, Signal::Current, 0.9),
        (DeviceKind::Pump, Signal::Flow, Signal::Pressure, -0.9),
        (DeviceKind::Meter, Signal::Power, Signal::Current, 0.95),
        (DeviceKind::Tank, Signal::Level, Signal::Pressure, 0.95),
    ];
    for (kind, cause, effect, expected) in table {
        let config =
            PlantConfig { kinds: vec![kind], devices: 1, lines: 1, rate_hz: 0.9, ..PlantConfig::default() };
        let signals = Plant::new(&config).unwrap().signals().to_vec();
        let place = |signal| signals.iter().position(|other| *other == signal).unwrap();
        let rows = run(&config, 3_600.0);
        let column = |index: usize| rows.iter().map(move |row| row.value(index)).collect::<Vec<_>>();
        let found = correlation(&column(place(cause)), &column(place(effect)));
        assert!(
            found * expected > 0.0 && found.abs() > expected.abs(),
            "{kind:?} {cause:?} {effect:?}: {found}"
        );
    }
}

#[test]
fn temperature_lags_behind_the_load() {
    let config = PlantConfig {
        kinds: vec![DeviceKind::Motor],
        devices: 1,
        lines: 1,
        rate_hz: 1.0,
        load_cycle_s: Some(600.0),
        ..PlantConfig::default()
    };
    let rows = run(&config, 7_200.0);
    let temp: Vec<f64> = rows.iter().map(|row| row.value(0)).collect();
    let current: Vec<f64> = rows.iter().map(|row| row.value(3)).collect();
    let at_lag = |lag: usize| correlation(&current[..current.len() - lag], &temp[lag..]);
    let best = (0..300).step_by(10).max_by(|a, b| at_lag(*a).total_cmp(&at_lag(*b))).unwrap();
    assert!((50..160).contains(&best), "best at {best} s: {}", at_lag(best));
}

#[test]
fn counters_and_balances_hold() {
    let config =
        PlantConfig { profile: Profile::EnergyMeters, devices: 3, rate_hz: 2.0, ..PlantConfig::default() };
    let rows = run(&config, 3_600.0);
    for device in 0..3 {
        let mine: Vec<&Row> = rows.iter().filter(|row| row.device == device).collect();
        assert!(mine.windows(2).all(|pair| pair[0].value(4) <= pair[1].value(4)), "a counter fell");
        let energy = mine.last().unwrap().value(4) - mine[0].value(4);
        let power: f64 = mine.iter().map(|row| row.value(3)).sum::<f64>() / mine.len() as f64;
        assert!((energy / power - 1.0).abs() < 0.005, "{energy} kWh in an hour of {power} kW");
    }
    let config = PlantConfig { profile: Profile::WaterLoop, devices: 1, lines: 1, ..PlantConfig::default() };
    let rows = run(&config, 600.0);
    // Pressure, inflow, outflow, level; the area is 1.5 m² within the cycle's tolerance.
    let gained: f64 = rows.iter().map(|row| (row.value(1) - row.value(2)) / 36_000.0).sum();
    let rise = rows.last().unwrap().value(3) - rows[0].value(3);
    assert!((gained / rise - 1.5).abs() < 0.2, "{gained} m³ for {rise} m");
}

#[test]
fn machines_idle_at_night_when_asked() {
    let config = PlantConfig {
        kinds: vec![DeviceKind::Motor],
        devices: 1,
        lines: 1,
        rate_hz: 0.01,
        shifts: true,
        ..PlantConfig::default()
    };
    let rows = run(&config, 86_400.0);
    let mean = |from: f64, to: f64, index: usize| {
        let hour = |row: &&Row| ((row.time_us - config.start_us) as f64) / 3.6e9;
        let values: Vec<f64> =
            rows.iter().filter(|row| (from..to).contains(&hour(row))).map(|row| row.value(index)).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    assert!(mean(1.0, 5.0, 3) < 0.6 * mean(8.0, 20.0, 3), "current");
    assert!(mean(1.0, 5.0, 0) < mean(8.0, 20.0, 0) - 10.0, "temperature");
    assert!(mean(23.0, 24.0, 3) < 0.6 * mean(8.0, 20.0, 3), "current after the late shift");
}

/// Which signals a fault changes: those it must move, of a kind of device that has it.
const SHOWS: [(FaultKind, DeviceKind, &[Signal]); 12] = [
    (FaultKind::BearingWear, DeviceKind::Press, &[Signal::Temp, Signal::Vib, Signal::Current]),
    (FaultKind::BearingWear, DeviceKind::Motor, &[Signal::Temp, Signal::Vib, Signal::Current]),
    (FaultKind::BearingWear, DeviceKind::Bearing, &[Signal::Temp, Signal::Vib, Signal::Acc]),
    (FaultKind::BearingWear, DeviceKind::Pump, &[Signal::Temp, Signal::Vib, Signal::Acc, Signal::Current]),
    (
        FaultKind::Cavitation,
        DeviceKind::Pump,
        &[Signal::Vib, Signal::Acc, Signal::Current, Signal::Pressure, Signal::Flow],
    ),
    (FaultKind::CoolingLoss, DeviceKind::Fridge, &[Signal::Temp, Signal::Humidity, Signal::Power]),
    (FaultKind::Leak, DeviceKind::Tank, &[Signal::Pressure, Signal::FlowIn, Signal::Level]),
    (FaultKind::Stuck, DeviceKind::Press, &[Signal::Vib]),
    (FaultKind::Spike, DeviceKind::Meter, &[Signal::Power]),
    (FaultKind::Drift, DeviceKind::Fridge, &[Signal::Temp]),
    (FaultKind::Spike, DeviceKind::Tank, &[Signal::Level]),
    (FaultKind::Stuck, DeviceKind::Pump, &[Signal::Current]),
];

#[test]
fn a_fault_changes_its_signals_in_its_window_and_nothing_else() {
    for (kind, device, shown) in SHOWS {
        let sound =
            PlantConfig { kinds: vec![device], devices: 2, lines: 1, rate_hz: 2.0, ..PlantConfig::default() };
        let signal = kind.is_sensor_fault().then(|| shown[0]);
        let list = vec![fault(kind, &format!("{}-02", device.name()), signal, 300.0, 400.0)];
        let faulty = PlantConfig { faults: Faults { list, random: None }, ..sound.clone() };
        let plant = Plant::new(&faulty).unwrap();
        let label = plant.labels(i64::MAX).remove(0);
        let (twin, faulty) = (run(&sound, 1_000.0), run(&faulty, 1_000.0));
        assert_eq!(twin.len(), faulty.len());
        let mut changed = vec![0_usize; plant.signals().len()];
        for (sound, faulty) in twin.iter().zip(&faulty) {
            let inside = (label.start_us..label.end_us).contains(&faulty.time_us) && faulty.device == 1;
            if !inside {
                assert_eq!(sound, faulty, "{kind:?} of {device:?}: changed outside of its window");
            }
            for (count, (a, b)) in changed.iter_mut().zip(sound.values.iter().zip(&faulty.values)) {
                *count += usize::from(a != b);
            }
        }
        for (signal, count) in plant.signals().iter().zip(changed) {
            // The fault lasts 800 readings of 400 s.
            let least = if kind == FaultKind::Spike { 260 } else { 250 };
            if shown.contains(signal) {
                assert!(count > least, "{kind:?} of {device:?}: {signal:?} changed {count} times only");
            } else {
                assert_eq!(count, 0, "{kind:?} of {device:?}: {signal:?}");
            }
        }
    }
}

#[test]
fn silence_is_silent_and_stuck_is_stuck() {
    let list = vec![
        fault(FaultKind::Silence, "press-02", None, 10.0, 5.0),
        fault(FaultKind::Stuck, "press-01", Some(Signal::Current), 10.0, 5.0),
    ];
    let config = PlantConfig { faults: Faults { list, random: None }, ..PlantConfig::default() };
    let rows = run(&config, 30.0);
    let (from, to) = (config.start_us + 10_000_000, config.start_us + 15_000_000);
    let silent = |row: &&Row| row.device == 1 && (from..to).contains(&row.time_us);
    assert_eq!(rows.iter().filter(silent).count(), 0);
    let sequences: Vec<u64> = rows.iter().filter(|row| row.device == 1).map(|row| row.sequence).collect();
    assert_eq!(sequences.len(), 250);
    assert_eq!(sequences.last(), Some(&299), "readings that are not sent are counted");
    let current: HashSet<u64> = rows
        .iter()
        .filter(|row| row.device == 0 && (from..to).contains(&row.time_us))
        .map(|row| row.values[3])
        .collect();
    assert_eq!(current.len(), 1);
}

/// Mean, standard deviation and (where there are enough values) kurtosis of each signal in windows of 5 s,
/// the features that the pipelines give their detectors.
fn features(rows: &[Row], device: u32, signals: usize) -> Vec<(i64, Vec<f64>)> {
    let mut windows: Vec<(i64, Vec<Vec<f64>>)> = Vec::new();
    for row in rows.iter().filter(|row| row.device == device) {
        let start = row.time_us.div_euclid(5_000_000) * 5_000_000;
        if windows.last().is_none_or(|(last, _)| *last != start) {
            windows.push((start, vec![Vec::new(); signals]));
        }
        for (index, values) in windows.last_mut().unwrap().1.iter_mut().enumerate() {
            values.push(row.value(index));
        }
    }
    let stats = |values: &Vec<f64>| {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / count;
        [mean, moment(2).sqrt()]
    };
    windows.iter().map(|(start, columns)| (*start, columns.iter().flat_map(stats).collect())).collect()
}

/// Distance from the median in units of the scaled median deviation, of the feature that is farthest off.
fn farthest(window: &[f64], usual: &[(f64, f64)]) -> f64 {
    let scores = window.iter().zip(usual).map(|(value, (middle, spread))| (value - middle).abs() / spread);
    scores.fold(0.0, f64::max)
}

fn usual(windows: &[(i64, Vec<f64>)]) -> Vec<(f64, f64)> {
    let middle = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (0..windows[0].1.len())
        .map(|index| {
            let mut values: Vec<f64> = windows.iter().map(|(_, window)| window[index]).collect();
            let median = middle(&mut values);
            let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
            (median, (1.4826 * middle(&mut deviations)).max(1e-6))
        })
        .collect()
}

#[test]
fn faults_stand_out_of_windows_and_sound_machines_do_not() {
    // A detector of the simplest kind: robust z-scores over features of 5 s, learned on five sound minutes.
    const ALARM: f64 = 7.0;
    let (learn_s, sound_s) = (300.0, 600.0);
    for device in [DeviceKind::Press, DeviceKind::Motor, DeviceKind::Bearing, DeviceKind::Pump] {
        let kinds: Vec<FaultKind> = FaultKind::ALL
            .into_iter()
            .filter(|kind| kind.fits(device) && *kind != FaultKind::Silence)
            .collect();
        let list: Vec<FaultSpec> = kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| {
                let name = format!("{}-{:02}", device.name(), index + 1);
                let signal = kind.is_sensor_fault().then_some(Signal::Vib);
                fault(*kind, &name, signal, sound_s, 30.0)
            })
            .collect();
        let config = PlantConfig {
            kinds: vec![device],
            devices: list.len() as u32,
            lines: 1,
            rate_hz: 10.0,
            faults: Faults { list, random: None },
            ..PlantConfig::default()
        };
        let signals = Plant::new(&config).unwrap().signals().len();
        let rows = run(&config, sound_s + 30.0);
        for (index, kind) in kinds.iter().enumerate() {
            let windows = features(&rows, index as u32, signals);
            let usual = usual(&windows[..(learn_s / 5.0) as usize]);
            let scores: Vec<f64> = windows.iter().map(|(_, window)| farthest(window, &usual)).collect();
            let (sound, faulty) = scores.split_at((sound_s / 5.0) as usize);
            let highest = |scores: &[f64]| scores.iter().copied().fold(0.0, f64::max);
            println!("{device:?} {kind:?}: sound {:.1}, faulty {faulty:.1?}", highest(sound));
            assert!(highest(sound) < ALARM, "{device:?}: a false alarm, {}", highest(sound));
            let found = faulty.iter().filter(|score| **score > ALARM).count();
            assert!(found >= 2, "{device:?} {kind:?}: found in {found} of {} windows", faulty.len());
        }
    }
}

#[test]
fn bearing_wear_makes_acceleration_impulsive() {
    let kurtosis = |faults: Faults, rate_hz: f64| {
        let kinds = vec![DeviceKind::Bearing];
        let config = PlantConfig { kinds, devices: 1, lines: 1, rate_hz, faults, ..PlantConfig::default() };
        let rows = run(&config, 4_000.0 / rate_hz);
        let values: Vec<f64> = rows.iter().map(|row| row.value(2)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>();
        moment(4) * values.len() as f64 / moment(2).powi(2)
    };
    for rate_hz in [10.0, 2_000.0] {
        let list = vec![fault(FaultKind::BearingWear, "bearing-01", None, 0.0, 4_000.0 / rate_hz)];
        let (sound, worn) =
            (kurtosis(Faults::default(), rate_hz), kurtosis(Faults { list, random: None }, rate_hz));
        assert!(sound < 3.0 && worn > 4.0, "at {rate_hz} Hz: {sound} sound, {worn} worn");
    }
}

#[test]
fn random_faults_come_at_their_rate_and_never_touch() {
    let random = RandomFaults { per_device_hour: 6.0, ..RandomFaults::default() };
    let listed = fault(FaultKind::Spike, "pump-01", None, 1_000.0, 600.0);
    let config = PlantConfig {
        profile: Profile::PumpVibration,
        devices: 40,
        rate_hz: 1.0,
        faults: Faults { list: vec![listed], random: Some(random) },
        ..PlantConfig::default()
    };
    let mut plant = Plant::new(&config).unwrap();
    let hours = 10.0;
    let labels = plant.labels(config.start_us + (hours * 3.6e9) as i64);
    let rate = labels.len() as f64 / 40.0 / hours;
    assert!((rate / 6.0 - 1.0).abs() < 0.1, "{rate} faults per device and hour");
    let kinds: HashSet<FaultKind> = labels.iter().map(|label| label.kind).collect();
    assert_eq!(kinds.len(), 6, "every kind that fits a pump: {kinds:?}");
    let mut ends: HashMap<&str, i64> = HashMap::new();
    for label in &labels {
        assert!(label.start_us >= config.start_us + 120_000_000, "in the warm-up");
        assert!(label.end_us > label.start_us);
        assert_eq!(label.signal.is_some(), label.kind.is_sensor_fault());
        if let Some(end) = ends.insert(&label.device, label.end_us) {
            assert!(label.start_us >= end + 60_000_000, "{label:?} is too near to the one before");
        }
    }
    // The labels say what the readings do: silence is the plainest.
    let rows = rows(&mut plant, config.start_us + 1_800_000_000);
    for label in labels.iter().filter(|label| label.kind == FaultKind::Silence) {
        let index = plant.devices().iter().position(|id| id.device == label.device).unwrap();
        let window = label.start_us..label.end_us;
        assert!(!rows.iter().any(|row| row.device == index as u32 && window.contains(&row.time_us)));
    }
}

#[test]
fn delivery_is_as_configured() {
    let config = PlantConfig {
        devices: 10,
        rate_hz: 20.0,
        dropout: 0.1,
        duplicate: 0.05,
        late: 0.2,
        delay_ms_max: 2_000.0,
        clock_jitter_ms_max: 3.0,
        missing: 0.03,
        duration_s: Some(200.0),
        ..PlantConfig::default()
    };
    let rows = run(&config, 1_000.0);
    let total = 10.0 * 20.0 * 200.0;
    let distinct: HashSet<(u32, u64)> = rows.iter().map(|row| (row.device, row.sequence)).collect();
    let share = |count: usize| count as f64 / total;
    assert!((share(distinct.len()) - 0.9).abs() < 0.01, "dropout: {}", share(distinct.len()));
    let duplicates = share(rows.len() - distinct.len()) / 0.9;
    assert!((duplicates - 0.05).abs() < 0.005, "duplicates: {duplicates}");
    assert!(rows.windows(2).all(|pair| pair[0].delivery_us <= pair[1].delivery_us));
    let late = |row: &&Row| row.delivery_us - row.time_us > 5_000;
    let late_share = rows.iter().filter(late).count() as f64 / rows.len() as f64;
    assert!((late_share - 0.24).abs() < 0.02, "late: {late_share}");
    let delays = rows.iter().map(|row| row.delivery_us - row.time_us);
    assert!(delays.clone().min().unwrap() >= -3_000);
    assert!(delays.max().unwrap() <= 4_004_000);
    let jittered = rows.iter().filter(|row| row.delivery_us < row.time_us).count();
    assert!(jittered > rows.len() / 4, "clocks run ahead and behind");
    let cells = rows.len() * 5;
    let missing =
        rows.iter().flat_map(|row| &row.values).filter(|bits| f64::from_bits(**bits).is_nan()).count();
    assert!((missing as f64 / cells as f64 - 0.03).abs() < 0.005);
    let mut plant = Plant::new(&config).unwrap();
    assert!(!plant.is_finished());
    while plant.next(i64::MAX).is_some() {}
    assert!(plant.is_finished() && plant.next_due_us().is_none());
}

#[test]
fn waiting_changes_nothing() {
    let config = troubled(Profile::PumpVibration);
    let whole = run(&config, 60.0);
    let mut plant = Plant::new(&config).unwrap();
    let mut pieces = Vec::new();
    for step in 0..600 {
        let until_us = config.start_us + step * 100_000;
        pieces.extend(rows(&mut plant, until_us));
        assert!(plant.next_due_us().unwrap() >= until_us);
    }
    pieces.extend(rows(&mut plant, config.start_us + 60_000_000));
    assert_eq!(whole, pieces);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn resuming_leaves_no_seam(
        seed in 0_u64..1_000,
        taken in 0_usize..600,
        devices in 1_u32..7,
        rate_hz in 0.5_f64..40.0,
        delay_ms_max in 1.0_f64..3_000.0,
        profile in 0_usize..5,
    ) {
        let mut config = troubled(PROFILES[profile]);
        config = PlantConfig { seed, devices, lines: 1, rate_hz, delay_ms_max, ..config };
        let mut plant = Plant::new(&config).unwrap();
        for _ in 0..taken {
            plant.next(i64::MAX);
        }
        let text = plant.position().to_string();
        let position: PlantPosition = text.parse().unwrap();
        prop_assert_eq!(position, plant.position());
        // The configured start does not count any more.
        let later = PlantConfig { start_us: config.start_us + 5_000_000, ..config };
        let mut resumed = Plant::resume(&later, &position).unwrap();
        for _ in 0..300 {
            let next = plant.next(i64::MAX).map(|reading| format!("{reading:?}"));
            prop_assert_eq!(next, resumed.next(i64::MAX).map(|reading| format!("{reading:?}")));
        }
        prop_assert_eq!(plant.position(), resumed.position());
    }

    #[test]
    fn any_text_is_a_position_or_refused(text in "[0-9/a-]{0,40}") {
        if let Ok(position) = text.parse::<PlantPosition>() {
            let config = PlantConfig { rate_hz: 1.0, ..PlantConfig::default() };
            if let Ok(mut plant) = Plant::resume(&config, &position) {
                plant.next(i64::MAX);
            }
        }
    }
}

#[test]
fn resuming_late_costs_no_more_than_early() {
    // Three years into the plant: the way there is not walked.
    let config = PlantConfig { rate_hz: 1_000.0, late: 0.1, delay_ms_max: 500.0, ..PlantConfig::default() };
    let late_us = config.start_us + 94_000_000_000_000;
    let position: PlantPosition = format!("{}/{late_us}/0/0/94000000000", config.start_us).parse().unwrap();
    let mut plant = Plant::resume(&config, &position).unwrap();
    let reading = plant.next(i64::MAX).unwrap();
    assert!((late_us..late_us + 10_000).contains(&reading.delivery_us), "{reading:?}");
}

#[test]
fn batches_hold_the_readings() {
    let kinds = vec![DeviceKind::Motor, DeviceKind::Fridge];
    let config = PlantConfig { kinds, ..troubled(Profile::PressLine) };
    let until_us = config.start_us + 20_000_000;
    let expected = run(&config, 20.0);
    let mut plant = Plant::new(&config).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = plant.next_batch(64, until_us).unwrap() {
        assert!(batch.num_rows() <= 64);
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let (lines, devices) = (batch.column(1).as_dictionary::<Int32Type>(), batch.column(2));
        let devices = devices.as_dictionary::<Int32Type>();
        let sequences = batch.column(3).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let device = devices.keys().value(row) as u32;
            let id = &plant.devices()[device as usize];
            assert_eq!(devices.values().as_string::<i32>().value(device as usize), id.device);
            let line = lines.keys().value(row) as usize;
            assert_eq!(lines.values().as_string::<i32>().value(line), id.line);
            let cells =
                batch.columns()[4..].iter().map(|column| match column.as_primitive_opt::<Int64Type>() {
                    _ if column.is_null(row) => f64::NAN.to_bits(),
                    Some(whole) => (whole.value(row) as f64).to_bits(),
                    None => column.as_primitive::<Float64Type>().value(row).to_bits(),
                });
            found.push((device, times.value(row), sequences.value(row) as u64, cells.collect::<Vec<u64>>()));
        }
    }
    let expected: Vec<_> =
        expected.into_iter().map(|row| (row.device, row.time_us, row.sequence, row.values)).collect();
    assert_eq!(found, expected);
    assert!(plant.next_batch(64, until_us).unwrap().is_none());
}

#[test]
fn raw_batches_hold_the_messages() {
    for format in [PayloadFormat::Json, PayloadFormat::Tags] {
        let config = troubled(Profile::WaterLoop);
        let until_us = config.start_us + 10_000_000;
        let mut plant = Plant::new(&config).unwrap();
        let encoder = Encoder::new(&plant, format);
        let mut expected = Vec::new();
        while let Some(reading) = plant.next(until_us) {
            for message in 0..encoder.messages() {
                let mut payload = Vec::new();
                if encoder.append(&reading, message, &mut payload) {
                    let topic = encoder.topic(reading.device, message).to_owned();
                    expected.push((topic, payload, reading.delivery_us));
                }
            }
        }
        let mut plant = Plant::new(&config).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = plant.next_raw_batch(&encoder, 50, until_us).unwrap() {
            assert!(batch.num_rows() <= 50);
            let topics = batch.column(0).as_dictionary::<Int32Type>();
            let names = topics.values().as_string::<i32>();
            let payloads = batch.column(1).as_binary::<i32>();
            let arrivals = batch.column(2).as_primitive::<TimestampMicrosecondType>();
            for row in 0..batch.num_rows() {
                let topic = names.value(topics.keys().value(row) as usize).to_owned();
                found.push((topic, payloads.value(row).to_vec(), arrivals.value(row)));
            }
        }
        assert_eq!(found, expected, "{format:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_way_out() {
    let base = PlantConfig::default();
    let with = |change: &dyn Fn(&mut PlantConfig)| {
        let mut config = base.clone();
        change(&mut config);
        Plant::new(&config).map(|_| ()).unwrap_err().message
    };
    let listed = |spec: FaultSpec| move |config: &mut PlantConfig| config.faults.list.push(spec.clone());
    let table = [
        (with(&|c| c.devices = 0), "devices = 0 is out of range; use a value from 1 to 100000"),
        (with(&|c| c.lines = 9), "lines = 9 is out of range; use a value from 1 to 8"),
        (with(&|c| c.rate_hz = f64::NAN), "rate_hz = NaN is out of range; use a value from 0.001 to 50000"),
        (with(&|c| c.dropout = 1.0), "dropout = 1 is out of range; use a value from 0 to 0.9"),
        (with(&|c| c.late = 0.1), "late readings need a delay; set delay_ms_max above 0, or late = 0"),
        (
            with(&|c| (c.devices, c.rate_hz, c.delay_ms_max) = (100, 1_000.0, 60_000.0)),
            "up to 48000400 readings could be under way at once, more than 4000000; use fewer devices, a lower \
             rate_hz or a shorter delay_ms_max",
        ),
        (
            with(&listed(fault(FaultKind::Stuck, "press-9", None, 0.0, 1.0))),
            "a fault names device \"press-9\", which does not exist; did you mean \"press-08\"?",
        ),
        (
            with(&listed(fault(FaultKind::Leak, "press-01", None, 0.0, 1.0))),
            "device \"press-01\" cannot have leak; use one of bearing_wear, stuck, spike, drift, silence",
        ),
        (
            with(&listed(fault(FaultKind::Stuck, "press-01", Some(Signal::Rpm), 0.0, 1.0))),
            "device \"press-01\" has no sensor \"rpm\" that can have stuck; use one of temp, vib, current, pressure",
        ),
        (
            with(&listed(fault(FaultKind::Silence, "press-01", Some(Signal::Temp), 0.0, 1.0))),
            "silence of device \"press-01\" is a fault of the whole device; leave out signal = \"temp\"",
        ),
        (
            with(&|c| {
                c.faults.list = vec![
                    fault(FaultKind::Silence, "press-01", None, 5.0, 10.0),
                    fault(FaultKind::Drift, "press-01", None, 1.0, 6.0),
                ];
            }),
            "two faults of device \"press-01\" overlap: drift ends 2 s after silence starts; move or shorten one",
        ),
        (
            with(&|c| {
                c.faults.random = Some(RandomFaults { per_device_hour: 30.0, ..RandomFaults::default() });
            }),
            "faults.random.per_device_hour = 30 leaves no room for faults of 60 s with 60 s between them; use \
             at most 15.0, or shorter faults or spacing",
        ),
    ];
    for (found, expected) in table {
        assert_eq!(found, expected);
    }
    for text in ["", "x", "1/2", "1/2/3/4/5/6", "1/2/3/4/x", "9/8/0/0/0", "0/9223372036854775807/0/0/0"] {
        let refused = text.parse::<PlantPosition>().and_then(|position| Plant::resume(&base, &position));
        assert!(refused.is_err(), "{text}");
    }
}

#[test]
fn configuration_reads_from_toml_and_refuses_unknown_keys() {
    let text = r#"
        profile = "pump-vibration"
        devices = 12
        time_unit = "us"
        [faults]
        list = [{ kind = "bearing_wear", device = "pump-03", start_s = 60, duration_s = 30 }]
        random = { per_device_hour = 2, kinds = ["cavitation"] }
    "#;
    let config: PlantConfig = toml::from_str(text).unwrap();
    assert_eq!(config.faults.list[0].severity, 1.0);
    assert_eq!(config.faults.random.as_ref().unwrap().kinds, [FaultKind::Cavitation]);
    assert!(Plant::new(&config).is_ok());
    for text in ["device = 3", "[faults]\nrandom = { rate = 1 }", "profile = \"farm\""] {
        assert!(toml::from_str::<PlantConfig>(text).is_err(), "{text}");
    }
}

#[test]
fn every_field_is_documented_in_the_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(PlantConfig)).unwrap();
    let mut structs: Vec<&serde_json::Value> = schema["$defs"].as_object().unwrap().values().collect();
    structs.push(&schema);
    let fields = structs.iter().filter_map(|part| part["properties"].as_object()).flatten();
    let undocumented: Vec<&String> =
        fields.clone().filter(|(_, field)| field["description"].is_null()).map(|(name, _)| name).collect();
    assert!(fields.count() > 30);
    assert!(undocumented.is_empty(), "{undocumented:?}");
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let product =
        |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    product(&|a, b| a * b) / (product(&|a, _| a * a) * product(&|_, b| b * b)).sqrt()
}
