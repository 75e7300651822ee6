use super::super::memory::{Faults, Memory, Operation};
use super::super::{Disk, FileId};
use super::*;
use crate::core::{Chunks, Fingerprint, StateWriter};

/// A pipeline of two nodes: one with state in chunks, one without any.
#[derive(Default)]
struct Plant {
    numbers: Chunks<u64, 4>,
}

impl Plant {
    fn with(numbers: u64) -> Self {
        Self { numbers: (0..numbers).map(|number| number * 1_000_003).collect() }
    }

    fn commit(&mut self, epoch: u64) -> Commit {
        let mut writer = StateWriter::new();
        writer.value(&(epoch / 10));
        writer.chunks("numbers", "#keys value:u", &mut self.numbers);
        let node = |name: &str, state: State| NodeState {
            name: name.to_owned(),
            kind: "test".to_owned(),
            fingerprint: Fingerprint(7),
            state,
            model: None,
            watermark: -5,
            idle: false,
            edges: Vec::new(),
        };
        let nodes = vec![node("many", writer.freeze().unwrap()), node("none", State::default())];
        Commit {
            epoch: Epoch(epoch),
            offset: epoch * 100,
            snapshot: Snapshot { epoch: Epoch(epoch), now: Now::ZERO, nodes },
            sources: vec![None, Some(Position("s".to_owned()))],
            sinks: vec![Position(format!("o{epoch}"))],
        }
    }

    /// A commit as [`Plant::with`] has it after some changes: one number for each epoch from the second on.
    fn commit_changed(&mut self, epoch: u64) -> Commit {
        let at = (epoch * 7) as usize % self.numbers.len();
        self.numbers[at] = epoch;
        self.commit(epoch)
    }
}

fn saver() -> Saver {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Saver::new(names(&["a", "b"]), names(&["out"]))
}

fn save(store: &mut dyn Store, epoch: u64) -> Result<u64> {
    saver().save(store, &Plant::with(epoch * 5).commit(epoch), Now::ZERO).map(|saved| saved.remove_before)
}

fn loaded_epoch(store: &mut dyn Store) -> Option<u64> {
    let recovered = recover(store).unwrap();
    recovered.snapshot.map(|_| recovered.epoch.0)
}

fn path_of(epoch: u64) -> String {
    format!("checkpoint/{epoch:020}.ckpt")
}

#[test]
fn the_newest_of_two_comes_back_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let stores: [Box<dyn Store>; 2] = [Box::new(Memory::new()), Box::new(Disk::open(dir.path()).unwrap())];
    for mut store in stores {
        let store = store.as_mut();
        assert!(recover(store).unwrap().snapshot.is_none());
        assert_eq!(save(store, 1).unwrap(), 100);
        assert_eq!(save(store, 2).unwrap(), 100, "the older one still needs its records");
        assert_eq!(save(store, 5).unwrap(), 200);
        let recovered = recover(store).unwrap();
        let commit = Plant::with(25).commit(5);
        assert_eq!((recovered.epoch, recovered.log_offset, recovered.needed_from), (Epoch(5), 500, 200));
        assert_eq!(recovered.snapshot, Some(commit.snapshot));
        assert_eq!(recovered.sources, BTreeMap::from([("b".to_owned(), Position("s".to_owned()))]));
        assert_eq!(recovered.sinks, BTreeMap::from([("out".to_owned(), Position("o5".to_owned()))]));
        assert_eq!(recovered.passed_over, Vec::<String>::new());
        let names = store.list("checkpoint").unwrap();
        assert_eq!(names, ["00000000000000000002.ckpt", "00000000000000000005.ckpt"]);
        assert_eq!(save(store, 5).unwrap(), 200, "the same epoch again");
    }
}

#[test]
fn the_file_is_synced_before_the_rename_and_the_directory_after_it() {
    let mut store = Memory::new();
    save(&mut store, 1).unwrap();
    let _ = store.take_trace();
    save(&mut store, 2).unwrap();
    let path = path_of(2);
    let unfinished = format!("{path}.tmp");
    let bytes = store.contents(&path).unwrap().len();
    let expected = [
        Operation::Create { path: unfinished.clone() },
        Operation::Append { path: unfinished.clone(), bytes },
        Operation::Sync { path: unfinished.clone() },
        Operation::Rename { from: unfinished, to: path },
        Operation::SyncDir { dir: "checkpoint".to_owned() },
    ];
    assert_eq!(store.take_trace(), expected);
}

/// Every prefix of a file, and every byte of it with a bit turned.
fn damages(good: &[u8]) -> Vec<Vec<u8>> {
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1 << (at % 8);
        bad.push(flipped);
    }
    bad.push([good, b"\0"].concat());
    bad
}

#[test]
fn whatever_is_damaged_the_one_before_it_is_loaded_and_the_damage_told() {
    let mut store = Memory::new();
    save(&mut store, 2).unwrap();
    save(&mut store, 3).unwrap();
    let mut bad = damages(&store.contents(&path_of(2)).unwrap());
    bad.push(store.contents(&path_of(3)).unwrap());
    for bytes in bad {
        let mut store = Memory::new();
        save(&mut store, 1).unwrap();
        store.plant(&path_of(2), bytes);
        let recovered = recover(&mut store).unwrap();
        assert_eq!(recovered.snapshot, Some(Plant::with(5).commit(1).snapshot));
        assert_eq!(recovered.passed_over.len(), 1);
        assert!(recovered.passed_over[0].starts_with(&path_of(2)), "{recovered:?}");
        // It does not take the place of a good one when the next ones are kept.
        save(&mut store, 3).unwrap();
        assert!(store.contents(&path_of(1)).is_some());
    }
}

/// Two bases, two deltas; the commits of the last two.
fn with_deltas() -> (Memory, [Commit; 2]) {
    let (mut store, mut plant, mut saver) = (Memory::new(), Plant::with(40), saver());
    let kinds: Vec<bool> = (1..=4)
        .map(|epoch| saver.save(&mut store, &plant.commit_changed(epoch), Now::ZERO).unwrap().is_base)
        .collect();
    assert_eq!(kinds, [true, true, false, false]);
    // As the plant was at the third and is at the fourth.
    let last = plant.commit(4);
    plant.numbers[28] = 28 * 1_000_003;
    (store, [plant.commit(3), last])
}

#[test]
fn whatever_file_of_a_chain_is_damaged_the_other_chain_is_whole() {
    let (store, [third, fourth]) = with_deltas();
    let files: Vec<Vec<u8>> = (1..=4).map(|epoch| store.contents(&path_of(epoch)).unwrap()).collect();
    let mut fallbacks = [0; 4];
    for (file, good) in files.iter().enumerate() {
        for bytes in damages(good) {
            let mut store = Memory::new();
            for (epoch, good) in (1..).zip(&files) {
                store.plant(&path_of(epoch), good.clone());
            }
            store.plant(&path_of(file as u64 + 1), bytes);
            let recovered = recover(&mut store).unwrap();
            match recovered.epoch.0 {
                4 => assert_eq!(recovered.snapshot.as_ref(), Some(&fourth.snapshot)),
                _ => {
                    assert_eq!(recovered.snapshot.as_ref(), Some(&third.snapshot));
                    assert_eq!((recovered.epoch.0, recovered.passed_over.len()), (3, 1));
                    fallbacks[file] += 1;
                }
            }
        }
        let mut gone = store.clone();
        for (epoch, good) in (1..).zip(&files) {
            gone.plant(&path_of(epoch), good.clone());
        }
        gone.remove(&path_of(file as u64 + 1)).unwrap();
        assert!(recover(&mut gone).unwrap().snapshot.is_some(), "without file {}", file + 1);
    }
    // What the fourth needs is in the second and the fourth. The second's own manifest is no longer read.
    assert_eq!((fallbacks[0], fallbacks[2]), (0, 0));
    assert!(fallbacks[1] > 50 && fallbacks[3] > 50, "{fallbacks:?}");
}

#[test]
fn a_delta_holds_what_has_changed_and_a_chain_is_never_twice_its_base() {
    let (mut store, mut plant, mut saver) = (Memory::new(), Plant::with(4000), saver());
    let mut base_bytes = 0;
    let mut bases = Vec::new();
    for epoch in 1..=60 {
        let saved = saver.save(&mut store, &plant.commit_changed(epoch), Now::ZERO).unwrap();
        if saved.is_base {
            bases.push(epoch);
            base_bytes = base_bytes.max(saved.bytes);
        }
        // A delta is mostly its manifest here: parts are small.
        let delta_bytes = saved.bytes as usize;
        assert!(saved.is_base || delta_bytes < base_bytes as usize, "{delta_bytes}");
        let names = store.list("checkpoint").unwrap();
        let disk: usize =
            names.iter().map(|name| store.contents(&format!("checkpoint/{name}")).unwrap().len()).sum();
        assert!(disk as u64 <= 4 * base_bytes, "{disk} with bases of {base_bytes}");
        let recovered = recover(&mut store).unwrap();
        assert_eq!(recovered.snapshot, Some(plant.commit(epoch).snapshot));
    }
    assert!(bases.len() >= 4 && bases.len() < 40, "{bases:?}");
}

#[test]
fn state_that_is_all_new_is_a_base_each_time() {
    let (mut store, mut saver) = (Memory::new(), saver());
    for epoch in 1..8 {
        let mut plant = Plant { numbers: (0..400).map(|number| number + epoch * 1_000_000_000).collect() };
        assert!(saver.save(&mut store, &plant.commit(epoch), Now::ZERO).unwrap().is_base, "{epoch}");
    }
    assert_eq!(store.list("checkpoint").unwrap().len(), 2);
}

#[test]
fn damaged_files_do_not_pile_up() {
    let mut store = Memory::new();
    save(&mut store, 1).unwrap();
    store.plant(&path_of(2), b"rot".to_vec());
    recover(&mut store).unwrap();
    assert!(store.contents(&format!("{}.damaged", path_of(2))).is_some());
    for epoch in 2..5 {
        save(&mut store, epoch).unwrap();
    }
    assert_eq!(store.list("checkpoint").unwrap().len(), 2);
}

#[test]
fn files_kept_for_their_parts_are_no_checkpoints() {
    let (mut store, _) = with_deltas();
    // The log does not reach back to the first two.
    for epoch in [3, 4] {
        store.plant(&path_of(epoch), b"rot".to_vec());
    }
    let error = recover(&mut store).unwrap_err();
    assert!(error.message.contains("no checkpoint in checkpoint can be used"), "{error}");
}

#[test]
fn removed_checkpoints_that_a_crash_brings_back_do_no_harm() {
    let mut have_come_back = 0;
    for seed in 0..200 {
        let (mut store, mut plant) = (Memory::new(), Plant::with(400));
        let mut epoch = 0;
        for life in 0..4 {
            let mut saver = saver();
            for _ in 0..1 + (seed + life) % 7 {
                epoch += 1;
                saver.save(&mut store, &plant.commit_changed(epoch), Now::ZERO).unwrap();
            }
            let before = store.list("checkpoint").unwrap();
            store.crash(seed * 4 + life);
            let names = store.list("checkpoint").unwrap();
            have_come_back += names.iter().filter(|name| !before.contains(name)).count();
            assert!(before.iter().all(|name| names.contains(name)), "{before:?} and then {names:?}");
            let recovered = recover(&mut store).unwrap();
            assert_eq!(recovered.snapshot, Some(plant.commit(epoch).snapshot));
            assert_eq!(recovered.needed_from, epoch.saturating_sub(1).max(1) * 100);
        }
        let mut saver = saver();
        for _ in 0..2 {
            epoch += 1;
            saver.save(&mut store, &plant.commit_changed(epoch), Now::ZERO).unwrap();
        }
        assert_eq!(store.list("checkpoint").unwrap().len(), 2, "they go with the next ones");
    }
    assert!(have_come_back > 100, "{have_come_back}");
}

#[test]
fn an_older_one_does_not_take_the_place_of_a_damaged_one() {
    for crash in [false, true] {
        let mut store = Memory::new();
        for epoch in 1..=4 {
            save(&mut store, epoch).unwrap();
        }
        if crash {
            // Epoch 2 was removed last, and comes back.
            let brings_back = |seed: &u64| {
                let disk = store.fork();
                disk.crash(*seed);
                disk.contents(&path_of(2)).is_some()
            };
            let seed = (0..100).find(brings_back).unwrap();
            store.crash(seed);
        } else {
            // As if it held parts of another.
            let mut other = Memory::new();
            save(&mut other, 2).unwrap();
            store.plant(&path_of(2), other.contents(&path_of(2)).unwrap());
        }
        assert!(store.flip(&path_of(4), 70, 1));
        assert_eq!(loaded_epoch(&mut store), Some(3), "4 is set aside");
        assert_eq!(recover(&mut store).unwrap().needed_from, 300);
        assert!(store.flip(&path_of(3), 70, 1));
        let error = recover(&mut store).unwrap_err();
        assert!(error.message.starts_with("no checkpoint in checkpoint can be used"), "{error}");
        assert!(store.flip(&path_of(3), 70, 1));
        save(&mut store, 5).unwrap();
        assert!(store.flip(&path_of(5), 70, 1));
        assert_eq!(loaded_epoch(&mut store), Some(3), "what was loaded is one of the two again");
    }
}

#[test]
fn nothing_whole_is_an_error_and_another_format_is_refused() {
    let mut store = Memory::new();
    store.plant(&path_of(2), b"rot".to_vec());
    let error = recover(&mut store).unwrap_err();
    assert_eq!(error.kind, crate::Kind::State);
    assert!(error.message.contains("is damaged: it ends after 3 bytes"), "{error}");
    for version in [1u16, 3] {
        save(&mut store, 3).unwrap();
        let mut bytes = store.contents(&path_of(3)).unwrap();
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        store.plant(&path_of(3), bytes);
        let error = recover(&mut store).unwrap_err();
        assert_eq!(error.kind, crate::Kind::State);
        assert!(
            error.message.contains(&format!("format version {version} and this program reads 2")),
            "{error}"
        );
    }
}

#[test]
fn an_unreadable_file_is_an_error_and_not_passed_over() {
    let mut store = Memory::new();
    save(&mut store, 1).unwrap();
    save(&mut store, 2).unwrap();
    store.set_faults(Faults { fail_reads: 1, ..Faults::default() });
    assert_eq!(recover(&mut store).unwrap_err().kind, crate::Kind::Io);
    assert_eq!(loaded_epoch(&mut store), Some(2));
}

#[test]
fn a_failed_save_leaves_the_last_one_and_no_remains() {
    for operations in 0..5 {
        let (mut store, mut plant, mut saver) = (Memory::new(), Plant::with(40), saver());
        let mut give = |store: &mut Memory, plant: &mut Plant, epoch| {
            saver.save(store, &plant.commit_changed(epoch), Now::ZERO)
        };
        give(&mut store, &mut plant, 1).unwrap();
        store.set_faults(Faults { fail_after: Some(operations), ..Faults::default() });
        give(&mut store, &mut plant, 2).unwrap_err();
        assert_eq!(loaded_epoch(&mut store), Some(if operations == 4 { 2 } else { 1 }));
        let names = store.list("checkpoint").unwrap();
        assert!(names.iter().all(|name| name.ends_with(".ckpt")), "{names:?}");
        for epoch in 3..6 {
            give(&mut store, &mut plant, epoch).unwrap();
            assert_eq!(recover(&mut store).unwrap().snapshot, Some(plant.commit(epoch).snapshot));
        }
    }
}

#[test]
fn a_commit_that_the_disk_has_refused_is_saved_at_another_try() {
    // The first two are bases, the third is a delta, and each is refused wherever it can be, twice.
    for refused in 1..=3 {
        for operations in 0..5 {
            let (mut store, mut plant, mut saver) = (Memory::new(), Plant::with(400), saver());
            for epoch in 1..=6 {
                let commit = plant.commit_changed(epoch);
                for _ in 0..if epoch == refused { 2 } else { 0 } {
                    let (full, used) = (operations == 0, store.used_bytes());
                    store.set_faults(Faults {
                        fail_after: (!full).then_some(operations),
                        disk_bytes_max: full.then_some(used),
                        ..Faults::default()
                    });
                    assert_eq!(saver.save(&mut store, &commit, Now::ZERO).unwrap_err().kind, crate::Kind::Io);
                    store.set_faults(Faults::default());
                }
                let saved = saver.save(&mut store, &commit, Now::ZERO).unwrap();
                assert_eq!(saved.is_base, epoch <= 2, "epoch {epoch}, refused {refused} at {operations}");
                assert_eq!(saved.remove_before, epoch.saturating_sub(1).max(1) * 100);
                store.crash(epoch);
                assert_eq!(recover(&mut store).unwrap().snapshot, Some(commit.snapshot));
            }
        }
    }
}

/// A store that forgets one of its duties: the crash test below must notice.
struct Careless {
    store: Memory,
    forget_sync: bool,
    forget_sync_dir: bool,
}

impl Store for Careless {
    fn create_dir(&mut self, dir: &str) -> Result<()> {
        self.store.create_dir(dir)
    }
    fn list(&mut self, dir: &str) -> Result<Vec<String>> {
        self.store.list(dir)
    }
    fn create(&mut self, path: &str) -> Result<FileId> {
        self.store.create(path)
    }
    fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()> {
        self.store.append(file, bytes)
    }
    fn sync(&mut self, file: FileId) -> Result<()> {
        if self.forget_sync { Ok(()) } else { self.store.sync(file) }
    }
    fn close(&mut self, file: FileId) {
        self.store.close(file);
    }
    fn sync_dir(&mut self, dir: &str) -> Result<()> {
        if self.forget_sync_dir { Ok(()) } else { self.store.sync_dir(dir) }
    }
    fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.store.read(path, offset, buffer)
    }
    fn len(&mut self, path: &str) -> Result<u64> {
        self.store.len(path)
    }
    fn truncate(&mut self, path: &str, len: u64) -> Result<()> {
        self.store.truncate(path, len)
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.store.rename(from, to)
    }
    fn remove(&mut self, path: &str) -> Result<()> {
        self.store.remove(path)
    }
    fn share(&self) -> Box<dyn Store> {
        Box::new(Careless { store: self.store.clone(), ..*self })
    }
}

/// Saves, with a fault somewhere, crashes, loads: at least the last saved one must come back. The first seed at
/// which it does not.
fn first_loss(forget_sync: bool, forget_sync_dir: bool) -> Option<u64> {
    (0..600).find(|seed| {
        let memory = Memory::new();
        let mut store = Careless { store: memory.clone(), forget_sync, forget_sync_dir };
        let (mut plant, mut saver) = (Plant::with(40), saver());
        let (mut saved, mut given) = (0, BTreeMap::new());
        for epoch in 1..6 {
            if epoch == 1 + seed % 5 {
                memory.set_faults(Faults { fail_after: Some(seed / 5 % 9), ..Faults::default() });
            }
            let commit = plant.commit_changed(epoch);
            if saver.save(&mut store, &commit, Now::ZERO).is_ok() {
                saved = epoch;
            }
            given.insert(epoch, commit.snapshot);
        }
        memory.set_faults(Faults::default());
        memory.crash(*seed);
        match recover(&mut store) {
            Ok(Recovered { snapshot: Some(found), epoch, .. }) => {
                epoch.0 < saved || given.get(&epoch.0) != Some(&found)
            }
            Ok(_) => saved > 0,
            Err(_) => true,
        }
    })
}

#[test]
fn a_saved_checkpoint_survives_every_crash() {
    assert_eq!(first_loss(false, false), None);
}

#[test]
fn a_store_that_does_not_sync_is_found_out() {
    assert!(first_loss(true, false).is_some(), "files were not synced and nothing was lost");
    assert!(first_loss(false, true).is_some(), "the directory was not synced and nothing was lost");
}
