//! What goes wrong outside the process: disks that fail, run full and rot, clocks that jump, sinks that hang. Pure.

use super::around::Surroundings;
use super::journal::LOG;
use crate::store::memory::Faults;
use crate::store::{Log, LogOptions, Memory, Store, recovery};

/// Most steps for which something hangs: longer than it takes to have all epochs under way.
const HANG_STEPS_MAX: usize = 800;
/// A full disk may have a little room: enough for a name or a block, not for what goes on.
const FREE_BYTES_MAX: usize = 700;
/// Most operations that pass before one fails.
const OPERATIONS_BEFORE_MAX: usize = 6;
/// Most syncs or reads that fail in a row.
const IN_A_ROW_MAX: usize = 4;
/// How far a clock jumps that somebody sets by hand, µs.
const JUMP_US: usize = 3_600_000_000;

/// One of the disk's next operations fails, or some in a row.
pub(super) fn disk(around: &mut Surroundings) {
    let dice = &mut around.dice;
    let after = Some(dice.below(OPERATIONS_BEFORE_MAX) as u64);
    let in_a_row = 1 + dice.below(IN_A_ROW_MAX) as u64;
    let full = Faults { disk_bytes_max: around.memory.faults().disk_bytes_max, ..Faults::default() };
    around.memory.set_faults(match dice.below(4) {
        0 => Faults { fail_sync_after: after, ..full },
        1 => Faults { fail_after: after, ..full },
        2 => Faults { fail_syncs: in_a_row, ..full },
        _ => Faults { fail_reads: in_a_row, ..full },
    });
}

/// The disk is full now, or with the next cut or commit; or it has room again. True if it is full.
pub(super) fn space(around: &mut Surroundings) -> bool {
    let faults = around.memory.faults();
    if faults.disk_bytes_max.is_some() || around.fills_at_cut {
        around.fills_at_cut = false;
        around.memory.set_faults(Faults { disk_bytes_max: None, ..faults });
        return false;
    }
    match around.dice.below(3) {
        0 => around.fill_disk(0),
        1 => {
            let free = around.dice.below(FREE_BYTES_MAX) as u64;
            around.fill_disk(free);
        }
        _ => around.fills_at_cut = true,
    }
    true
}

/// Somebody sets the clock, it falls back to 1970, or it is set right.
pub(super) fn clock(around: &mut Surroundings, right_us: i64) {
    let dice = &mut around.dice;
    around.wall_us = match dice.below(4) {
        0 => dice.below(JUMP_US) as i64,
        1 => right_us,
        _ => around.wall_us + dice.below(2 * JUMP_US) as i64 - JUMP_US as i64,
    };
}

/// A sink, the log's sync or the writer of checkpoints hangs for a while.
pub(super) fn hang(around: &mut Surroundings) {
    let who = around.dice.below(around.hung.len());
    if let Some(left) = around.hung.get_mut(who) {
        *left = (HANG_STEPS_MAX / 8 + around.dice.below(HANG_STEPS_MAX)) as u32;
    }
}

/// A bit of the log or of a checkpoint rots while no process runs. Not one that costs the very end of the log: that
/// cannot be told from a write which the power has torn, and not the last checkpoint there is.
pub(super) fn rot(around: &mut Surroundings) {
    let paths = around.memory.paths();
    let of = |dir: &str, suffix: &str| -> Vec<&String> {
        paths.iter().filter(|path| path.starts_with(dir) && path.ends_with(suffix)).collect()
    };
    let (logs, checkpoints) = (of("log/", ".log"), of("checkpoint/", ".ckpt"));
    let dice = &mut around.dice;
    let path = match dice.happens(500) {
        true => checkpoints.last(),
        false => logs.get(dice.below(logs.len())),
    };
    let Some(path) = path else { return };
    let is_log = path.starts_with("log/");
    if !is_log && around.lost.whole_checkpoints < 2 {
        return;
    }
    let bytes = around.memory.contents(path).map_or(0, |bytes| bytes.len());
    let (at, bits) = (dice.below(bytes), 1 << dice.below(8));
    let place = ((*path).clone(), at);
    // A bit that rots a second time is whole again, and with it comes back what has been given up.
    if around.lost.rotten.contains(&place) {
        return;
    }
    let fork = around.memory.fork();
    if fork.flip(path, at, bits) && is_seen(&fork, around.safe) && around.memory.flip(path, at, bits) {
        around.lost.flips += 1;
        around.lost.rotten.insert(place);
        match is_log {
            true => around.lost.log_flips += 1,
            false => around.lost.whole_checkpoints = 0,
        }
    }
}

/// Whether a start on this disk still finds a checkpoint, and the log as long as it was safe.
fn is_seen(disk: &Memory, safe: u64) -> bool {
    let mut store = disk.clone();
    let Ok(recovered) = recovery::recover(&mut store) else { return false };
    let options = LogOptions { offset_min: recovered.log_offset, ..LOG };
    disk.set_faults(Faults::default());
    Log::open(store.share(), "log", options).is_ok_and(|(log, _)| log.next_offset() >= safe)
}
