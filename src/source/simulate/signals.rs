//! What a device can measure (names, units, resolutions) and the waves that loads are made of. Pure.
//!
//! Sines come from a polynomial, not from the platform's library, whose last bit differs between machines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const TURN: f64 = std::f64::consts::TAU;

/// A measured quantity. The order is the order of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Temperature in °C.
    Temp,
    /// Vibration velocity in mm/s rms, as a vibration transmitter gives it.
    Vib,
    /// Acceleration in m/s², one instantaneous sample (raw vibration at a high rate).
    Acc,
    /// Shaft speed in revolutions per minute.
    Rpm,
    /// Current in A.
    Current,
    /// Pressure in bar.
    Pressure,
    /// Volume flow in m³/h.
    Flow,
    /// Flow into a tank in m³/h.
    FlowIn,
    /// Flow out of a tank in m³/h.
    FlowOut,
    /// Level of a tank in m.
    Level,
    /// Relative humidity in %.
    Humidity,
    /// Door: 1 open, 0 closed.
    Door,
    /// Voltage between phases in V.
    Voltage,
    /// Power factor, between 0 and 1.
    PowerFactor,
    /// Active power in kW.
    Power,
    /// Energy counter in kWh; never falls.
    Energy,
}

impl Signal {
    /// Every signal, in the order of columns.
    pub const ALL: [Self; 16] = [
        Self::Temp,
        Self::Vib,
        Self::Acc,
        Self::Rpm,
        Self::Current,
        Self::Pressure,
        Self::Flow,
        Self::FlowIn,
        Self::FlowOut,
        Self::Level,
        Self::Humidity,
        Self::Door,
        Self::Voltage,
        Self::PowerFactor,
        Self::Power,
        Self::Energy,
    ];

    /// How many signals there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The name in columns, payloads and topics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temp => "temp",
            Self::Vib => "vib",
            Self::Acc => "acc",
            Self::Rpm => "rpm",
            Self::Current => "current",
            Self::Pressure => "pressure",
            Self::Flow => "flow",
            Self::FlowIn => "flow_in",
            Self::FlowOut => "flow_out",
            Self::Level => "level",
            Self::Humidity => "humidity",
            Self::Door => "door",
            Self::Voltage => "voltage",
            Self::PowerFactor => "power_factor",
            Self::Power => "power",
            Self::Energy => "energy",
        }
    }

    /// The unit; empty for a number without one.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Temp => "°C",
            Self::Vib => "mm/s",
            Self::Acc => "m/s²",
            Self::Rpm => "1/min",
            Self::Current => "A",
            Self::Pressure => "bar",
            Self::Flow | Self::FlowIn | Self::FlowOut => "m³/h",
            Self::Level => "m",
            Self::Humidity => "%",
            Self::Door | Self::PowerFactor => "",
            Self::Voltage => "V",
            Self::Power => "kW",
            Self::Energy => "kWh",
        }
    }

    /// The sensor's resolution as digits after the decimal point; 0 makes it a whole number (`Int64`).
    pub fn decimals(self) -> u32 {
        match self {
            Self::Rpm | Self::Door => 0,
            Self::Humidity | Self::Voltage => 1,
            Self::Temp | Self::Current | Self::Flow | Self::FlowIn | Self::FlowOut => 2,
            Self::Vib | Self::Acc | Self::Pressure | Self::Level | Self::PowerFactor => 3,
            Self::Power | Self::Energy => 3,
        }
    }

    /// True for a signal that comes as a whole number.
    pub fn is_integer(self) -> bool {
        self.decimals() == 0
    }

    /// The value in units of the sensor's last digit, rounded half away from zero.
    pub(super) fn steps(self, value: f64) -> i64 {
        let scaled = value * self.scale();
        (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i64
    }

    /// The value as the sensor shows it. Dividing whole steps is correctly rounded, so a payload's decimal
    /// text parses to exactly this number.
    pub(super) fn rounded(self, value: f64) -> f64 {
        self.steps(value) as f64 / self.scale()
    }

    fn scale(self) -> f64 {
        [1.0, 10.0, 100.0, 1_000.0][self.decimals() as usize]
    }
}

/// The sine and cosine of an angle in whole turns, to about 1e-9, by plain arithmetic (Taylor's series on a
/// quarter turn).
pub(super) fn sine_cosine(turns: f64) -> (f64, f64) {
    (sine(turns), sine(turns + 0.25))
}

/// The sine of an angle in whole turns, to about 1e-9.
pub(super) fn sine(turns: f64) -> f64 {
    let part = turns - (turns + 0.5).floor();
    // Fold [-½, ½) onto [-¼, ¼], where the series is short.
    let folded = if part > 0.25 {
        0.5 - part
    } else if part < -0.25 {
        -0.5 - part
    } else {
        part
    };
    let x = folded * TURN;
    let y = x * x;
    let tail = 1.0 - y / 110.0 * (1.0 - y / 156.0);
    let tail = 1.0 - y / 42.0 * (1.0 - y / 72.0 * tail);
    x * (1.0 - y / 6.0 * (1.0 - y / 20.0 * tail))
}

/// Nearly e⁻ˣ for x ≥ 0 by plain arithmetic, (1 − x/16)¹⁶, and exactly 0 from x = 16 on.
pub(super) fn decay(x: f64) -> f64 {
    let base = (1.0 - x / 16.0).max(0.0);
    let square = base * base;
    let fourth = square * square;
    let eighth = fourth * fourth;
    eighth * eighth
}

/// One sinusoidal part of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wave {
    pub amplitude: f64,
    pub frequency_hz: f64,
    pub phase_turns: f64,
}

/// A load that varies slowly around a mean: a sum of waves, so that everything that follows it with a lag,
/// adds it up or feels its change is known in closed form.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub mean: f64,
    pub waves: [Wave; 3],
}

/// A load at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadMoment {
    /// The load itself; 1 is full load.
    pub value: f64,
    /// The load through a first-order lag in its steady state (a warm body follows it so).
    pub lagged: f64,
    /// The load added up since second 0, in load-seconds.
    pub integral: f64,
    /// The change of the load per second.
    pub derivative: f64,
}

impl Load {
    /// The load `t` seconds after the start, and its lagged form with time constant `lag_s`.
    pub fn at(&self, t: f64, lag_s: f64) -> LoadMoment {
        let mut moment =
            LoadMoment { value: self.mean, lagged: self.mean, integral: self.mean * t, derivative: 0.0 };
        for wave in &self.waves {
            let speed = TURN * wave.frequency_hz;
            let (sine_now, cosine_now) = sine_cosine(wave.frequency_hz * t + wave.phase_turns);
            let lag = speed * lag_s;
            moment.value += wave.amplitude * sine_now;
            moment.lagged += wave.amplitude * (sine_now - lag * cosine_now) / (1.0 + lag * lag);
            moment.integral += wave.amplitude * (sine(wave.phase_turns + 0.25) - cosine_now) / speed;
            moment.derivative += wave.amplitude * speed * cosine_now;
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_and_decay_follow_the_real_functions() {
        for step in -4_000..4_000 {
            let turns = f64::from(step) / 997.0;
            let (sine, cosine) = sine_cosine(turns);
            assert!((sine - (turns * TURN).sin()).abs() < 2e-8, "sine of {turns} turns: {sine}");
            assert!((cosine - (turns * TURN).cos()).abs() < 2e-8, "cosine of {turns} turns: {cosine}");
        }
        for step in 0..200 {
            let x = f64::from(step) / 10.0;
            assert!((decay(x) - (-x).exp()).abs() < 0.02, "decay of {x}: {}", decay(x));
        }
    }

    #[test]
    fn lag_integral_and_derivative_agree_with_stepping() {
        let load = Load {
            mean: 0.7,
            waves: [
                Wave { amplitude: 0.2, frequency_hz: 0.05, phase_turns: 0.3 },
                Wave { amplitude: 0.1, frequency_hz: 0.13, phase_turns: 0.9 },
                Wave { amplitude: 0.05, frequency_hz: 0.001, phase_turns: 0.1 },
            ],
        };
        let (lag_s, step_s) = (4.0, 0.001);
        let mut body = load.at(0.0, lag_s).lagged;
        let mut sum = 0.0;
        for step in 0..60_000 {
            let now = load.at(f64::from(step) * step_s, lag_s);
            body += (now.value - body) * step_s / lag_s;
            sum += now.value * step_s;
        }
        let last = load.at(60.0, lag_s);
        assert!((last.lagged - body).abs() < 1e-3, "{} {body}", last.lagged);
        assert!((last.integral - sum).abs() < 1e-3, "{} {sum}", last.integral);
        let slope = (load.at(60.001, lag_s).value - last.value) / 0.001;
        assert!((last.derivative - slope).abs() < 1e-4, "{} {slope}", last.derivative);
    }

    #[test]
    fn values_round_to_the_resolution_and_their_text_parses_back() {
        let table = [
            (Signal::Temp, 21.534_9, "21.53"),
            (Signal::Temp, -0.001, "0.00"),
            (Signal::Acc, -1.234_56, "-1.235"),
            (Signal::Rpm, 1479.5, "1480"),
            (Signal::Energy, 123_456.789_4, "123456.789"),
        ];
        for (signal, value, text) in table {
            let parsed: f64 = text.parse().unwrap();
            assert_eq!(signal.rounded(value).to_bits(), parsed.to_bits(), "{signal:?} {value}");
        }
    }

    #[test]
    fn order_of_signals_is_the_order_of_columns() {
        for (index, signal) in Signal::ALL.iter().enumerate() {
            assert_eq!(*signal as usize, index);
        }
    }
}
