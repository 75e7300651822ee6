//! How the time of the data goes on: the watermark, idleness, and rows ahead of the clock. Pure.

use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use serde::{Deserialize, Serialize};

use crate::core::event::micros;
use crate::core::{EventTime, Output, StateReader, StateWriter, schema};
use crate::error::Result;

/// 2024-01-01T00:00:00Z. A clock before it has not been set since the gateway came up.
const PLAUSIBLE_US: i64 = 1_704_067_200_000_000;

/// How many times are looked at at once for the next step.
const SCAN_ROWS: usize = 64;

/// What applies to rows that come as they happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub idle: Duration,
    pub ahead: Duration,
    /// The port for rows ahead of the clock.
    pub port: usize,
}

/// Where the time of one source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The watermark in µs; `i64::MIN` before the first row.
    watermark: i64,
    idle: bool,
    ended: bool,
    /// Monotonic time of the last row or, before one, of the start; `None` before the first call.
    last_row: Option<Duration>,
}

/// Sends rows on and makes the watermark of a source.
///
/// After every row the watermark is the largest multiple of the grid that is not behind the largest time so far
/// less the lateness: it depends on the rows alone. A batch is cut behind each row that moves it.
#[derive(Debug)]
pub(super) struct Progress {
    lateness: i64,
    grid: i64,
    live: Option<Live>,
    state: State,
}

impl Progress {
    /// At the start of a source. `lateness` and `grid` in µs, the grid positive.
    pub(super) fn new(lateness: i64, grid: i64, live: Option<Live>) -> Self {
        debug_assert!(lateness >= 0 && grid > 0);
        let state = State { watermark: i64::MIN, idle: false, ended: false, last_row: None };
        Self { lateness, grid, live, state }
    }

    /// Sends rows out of the main port, with the watermarks that they cause.
    ///
    /// # Errors
    /// If the batch has no times.
    pub(super) fn send(&mut self, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let batch = match self.live {
            Some(live) => split_ahead(batch, live, out)?,
            None => batch,
        };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.state.ended = false;
        if std::mem::take(&mut self.state.idle) {
            out.idle(false);
        }
        self.state.last_row = Some(out.now().mono);
        let times = schema::times(&batch)?.values().clone();
        let mut sent = 0;
        while let Some(moving) = first_from(&times, sent, self.next_step()) {
            let end = moving + 1;
            out.emit(0, batch.slice(sent, end - sent));
            sent = end;
            let reached = times.get(moving).map_or(i64::MIN, |time| self.watermark_at(*time));
            if reached > self.state.watermark {
                self.state.watermark = reached;
                out.watermark(EventTime(reached));
            }
        }
        match sent {
            0 => out.emit(0, batch),
            _ => out.emit(0, batch.slice(sent, times.len() - sent)),
        }
        Ok(())
    }

    /// The input has ended: nothing more is waited for.
    pub(super) fn end(&mut self) {
        self.state.ended = true;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let live = self.live.filter(|_| !self.state.idle && !self.state.ended)?;
        // At the start a tick at once says when that is.
        Some(self.state.last_row.map_or(Duration::ZERO, |last| last.saturating_add(live.idle)))
    }

    pub(super) fn tick(&mut self, out: &mut Output) {
        match (self.deadline(), self.state.last_row) {
            (Some(_), None) => self.state.last_row = Some(out.now().mono),
            (Some(deadline), Some(_)) if deadline <= out.now().mono => {
                self.state.idle = true;
                out.idle(true);
            }
            _ => {}
        }
    }

    pub(super) fn save(&self, state: &mut StateWriter) {
        state.value(&self.state);
    }

    pub(super) fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.state = state.value()?;
        Ok(())
    }

    /// The watermark when `time` is the largest so far. The end of all time is kept for the end.
    fn watermark_at(&self, time: i64) -> i64 {
        let reached = time.saturating_sub(self.lateness);
        reached.saturating_sub(reached.rem_euclid(self.grid)).min(i64::MAX - 1)
    }

    /// The earliest time that moves the watermark. It need not stand on the grid: that can change on a reload.
    fn next_step(&self) -> i64 {
        if self.state.watermark == i64::MIN {
            return i64::MIN;
        }
        let step = self.grid - self.state.watermark.rem_euclid(self.grid);
        self.state.watermark.saturating_add(step).saturating_add(self.lateness)
    }
}

/// The first place from `start` on with a time that is `limit` or later.
fn first_from(times: &[i64], start: usize, limit: i64) -> Option<usize> {
    let mut at = start;
    for block in times.get(start..)?.chunks(SCAN_ROWS) {
        // Without a way out in the middle this is a plain loop over the block.
        if block.iter().fold(false, |found, time| found | (*time >= limit)) {
            return block.iter().position(|time| *time >= limit).map(|place| at + place);
        }
        at += block.len();
    }
    None
}

/// Sends rows that are ahead of the clock out of their port and gives back the others.
fn split_ahead(batch: RecordBatch, live: Live, out: &mut Output) -> Result<RecordBatch> {
    let wall = out.now().wall;
    if wall.0 < PLAUSIBLE_US {
        return Ok(batch);
    }
    let latest = wall.0.saturating_add(micros(live.ahead));
    let times = schema::times(&batch)?.values();
    if times.iter().fold(i64::MIN, |largest, time| largest.max(*time)) <= latest {
        return Ok(batch);
    }
    let ahead: BooleanArray = times.iter().map(|time| Some(*time > latest)).collect();
    out.count("ahead_rows", "", ahead.true_count() as u64);
    if out.wants(live.port) {
        out.emit(live.port, filter_record_batch(&batch, &ahead)?);
    }
    Ok(filter_record_batch(&batch, &not(&ahead)?)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::core::{Flow, Now};

    const SECOND: i64 = 1_000_000;
    const MS: i64 = 1_000;

    fn batch(times: &[i64]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![schema::time_field()]));
        RecordBatch::try_new(schema, vec![schema::time_array(times.to_vec())]).unwrap()
    }

    fn now(mono_s: u64, wall_us: i64) -> Now {
        Now { mono: Duration::from_secs(mono_s), wall: EventTime(wall_us) }
    }

    /// What came out: rows as their times, watermarks as `w<µs>`.
    fn said(out: &mut Output) -> Vec<String> {
        out.drain()
            .map(|(port, flow)| match flow {
                Flow::Batch(batch) => {
                    format!("{port}:{:?}", schema::times(&batch).unwrap().values().as_ref())
                }
                Flow::Watermark(to) => format!("w{}", to.0),
                Flow::Idle(idle) => format!("idle {idle}"),
            })
            .collect()
    }

    #[test]
    fn the_watermark_follows_the_largest_time_on_its_grid() {
        for (lateness, times, expected) in [
            (0, &[5 * MS][..], &["0:[5000]", "w0"][..]),
            (0, &[99 * MS, 100 * MS, 101 * MS], &["0:[99000]", "w0", "0:[100000]", "w100000", "0:[101000]"]),
            (0, &[5 * MS, 4 * MS, 3 * MS], &["0:[5000]", "w0", "0:[4000, 3000]"]),
            (0, &[0, SECOND, 20 * MS], &["0:[0]", "w0", "0:[1000000]", "w1000000", "0:[20000]"]),
            // The grid is that of the watermark: windows that end on it close when lateness has passed to the µs.
            (
                30 * MS,
                &[0, 129_999, 130 * MS],
                &["0:[0]", "w-100000", "0:[129999]", "w0", "0:[130000]", "w100000"],
            ),
            (
                0,
                &[i64::MIN, i64::MAX],
                &["0:[-9223372036854775808]", "0:[9223372036854775807]", "w9223372036854700000"],
            ),
        ] {
            let mut progress = Progress::new(lateness, 100 * MS, None);
            let mut out = Output::new(Now::ZERO);
            progress.send(batch(times), &mut out).unwrap();
            assert_eq!(said(&mut out), expected, "{times:?}");
        }
    }

    #[test]
    fn times_are_searched_in_blocks() {
        for (length, place) in
            [(0, None), (1, Some(0)), (64, Some(63)), (65, Some(64)), (500, Some(130)), (500, None)]
        {
            let mut times = vec![0; length];
            if let Some(place) = place {
                times[place] = 7;
            }
            assert_eq!(first_from(&times, 0, 7), place);
            assert_eq!(first_from(&times, place.map_or(0, |place: usize| place + 1), 7), None);
        }
        assert_eq!(first_from(&[7], 5, 7), None);
    }

    #[test]
    fn rows_ahead_of_a_clock_that_is_set_go_elsewhere_and_move_nothing() {
        let live = Live { idle: Duration::from_secs(30), ahead: Duration::from_secs(10), port: 2 };
        let today = PLAUSIBLE_US + 50 * SECOND;
        let far = today + 11 * SECOND;
        for (wall, times, expected, count) in [
            (today, &[today, far, today - 1][..], &["2:[FAR]", "0:[TODAY]", "wTODAY", "0:[BEFORE]"][..], 1),
            (today, &[today + 10 * SECOND], &["0:[LIMIT]", "wLIMIT"], 0),
            (today, &[far, far], &["2:[FAR, FAR]"], 2),
            // Before 2024 the clock is not set.
            (PLAUSIBLE_US - 1, &[far], &["0:[FAR]", "wFAR"], 0),
        ] {
            let mut progress = Progress::new(0, SECOND, Some(live));
            let mut out = Output::new(now(5, wall));
            progress.send(batch(times), &mut out).unwrap();
            let named =
                [(far, "FAR"), (today, "TODAY"), (today - 1, "BEFORE"), (today + 10 * SECOND, "LIMIT")];
            let said: Vec<String> = said(&mut out)
                .into_iter()
                .map(|said| {
                    named.iter().fold(said, |said, (time, name)| said.replace(&time.to_string(), name))
                })
                .collect();
            assert_eq!(said, expected);
            let counts: Vec<_> = out.drain_counts().map(|(what, by)| (what.what, by)).collect();
            assert_eq!(counts, if count > 0 { vec![("ahead_rows", count)] } else { vec![] });
            // Rows ahead are not what an idle source is waited for.
            assert_eq!(
                progress.state.last_row.is_none(),
                times.iter().all(|time| *time == far && wall == today)
            );
        }
    }

    #[test]
    fn a_source_without_rows_is_idle_until_the_next_one() {
        let live = Live { idle: Duration::from_secs(30), ahead: Duration::from_secs(10), port: 2 };
        let mut progress = Progress::new(0, SECOND, Some(live));
        let mut out = Output::new(now(7, 0));
        assert_eq!(progress.deadline(), Some(Duration::ZERO));
        // The first tick only says when the start was.
        for (at, deadline, expected) in
            [(7, Some(37), &[][..]), (36, Some(37), &[]), (37, None, &["idle true"]), (90, None, &[])]
        {
            out.set_now(now(at, 0));
            progress.tick(&mut out);
            assert_eq!(progress.deadline(), deadline.map(Duration::from_secs), "at {at}");
            assert_eq!(said(&mut out), expected);
        }
        out.set_now(now(100, 0));
        progress.send(batch(&[5]), &mut out).unwrap();
        assert_eq!(said(&mut out), ["idle false", "0:[5]", "w0"]);
        assert_eq!(progress.deadline(), Some(Duration::from_secs(130)));
        progress.end();
        assert_eq!(progress.deadline(), None);
        assert_eq!(Progress::new(0, SECOND, None).deadline(), None);
    }
}
