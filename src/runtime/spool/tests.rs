//! The spool as a sink, before a receiver that follows a script.

use std::collections::VecDeque;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;

use super::*;
use crate::core::{Attempt, Parcel, Refusal};
use crate::store::dead_letters;
use crate::store::{Memory, Store};

/// What the receiver does with a try.
#[derive(Debug, Clone)]
enum Does {
    /// Takes everything.
    Take,
    /// Is away.
    Away,
    /// Takes one delivery and goes.
    TakeOne,
    /// Refuses the first row of each delivery, with a status.
    Refuse(u16),
    /// Cannot be helped.
    Fail,
    /// Never answers.
    Hang,
}

#[derive(Default)]
struct Script {
    does: VecDeque<Does>,
    /// What it does when the script has run out.
    then_away: bool,
    /// Names, numbers and marks of what was taken, in order.
    taken: Vec<(String, Vec<i64>, bool)>,
    tries: usize,
}

struct Receiver(Arc<Mutex<Script>>);

fn numbers(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn take(script: &mut Script, parcel: &mut Parcel) {
    parcel.settled = parcel.rows.num_rows();
    script.taken.push((parcel.id.to_string(), numbers(&parcel.rows), parcel.replayed));
}

#[async_trait]
impl Peer for Receiver {
    async fn open(&mut self) -> Result<()> {
        Ok(())
    }

    async fn deliver(&mut self, parcels: &mut [Parcel]) -> Result<Attempt> {
        let does = {
            let mut script = locked(&self.0);
            script.tries += 1;
            let rest = if script.then_away { Does::Away } else { Does::Take };
            script.does.pop_front().unwrap_or(rest)
        };
        let away = Attempt::Away { reason: "no route".to_owned(), after: None };
        if let Does::Hang = does {
            std::future::pending::<()>().await;
        }
        let mut script = locked(&self.0);
        match does {
            Does::Take | Does::Hang => parcels.iter_mut().for_each(|parcel| take(&mut script, parcel)),
            Does::Away => return Ok(away),
            Does::Fail => return Err(Error::data("a column of lead")),
            Does::TakeOne => {
                parcels.iter_mut().take(1).for_each(|parcel| take(&mut script, parcel));
                return Ok(away);
            }
            Does::Refuse(status) => {
                for parcel in parcels {
                    take(&mut script, parcel);
                    let refusal = Refusal { rows: 0..1, status: Some(status), reason: "not this".to_owned() };
                    parcel.refused.push(refusal);
                }
            }
        }
        Ok(Attempt::Settled)
    }
}

const SETTINGS: Spooling = Spooling {
    bytes_max: 1 << 20,
    on_full: SpoolFull::Block,
    max_age: None,
    priority: Priority::Order,
    rows_per_second: None,
};

struct Bench {
    memory: Memory,
    script: Arc<Mutex<Script>>,
    counters: Arc<SinkCounters>,
    settings: Spooling,
}

impl Bench {
    fn new(does: &[Does], settings: Spooling) -> Self {
        let script = Script { does: does.iter().cloned().collect(), ..Script::default() };
        Self {
            memory: Memory::new(),
            script: Arc::new(Mutex::new(script)),
            counters: Arc::default(),
            settings,
        }
    }

    async fn open(&self, committed: Option<&Position>) -> Spooled {
        let letters = Letters::open(self.memory.share(), 1 << 20).unwrap();
        let peer = Box::new(Receiver(Arc::clone(&self.script)));
        let counters = Arc::clone(&self.counters);
        let mut sink =
            Spooled::new("cloud", self.memory.share(), self.settings, peer, Some(letters), counters);
        sink.open(committed).await.unwrap();
        sink
    }

    fn taken(&self) -> Vec<i64> {
        locked(&self.script).taken.iter().flat_map(|(_, numbers, _)| numbers.clone()).collect()
    }

    async fn until(&self, what: &str, done: impl Fn(&Script) -> bool) {
        for _ in 0..20_000 {
            if done(&locked(&self.script)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain for {what}");
    }

    /// Waits until the status says so.
    async fn is_away(&self) {
        let away =
            |status: &Option<SpoolStatus>| status.as_ref().is_some_and(|status| status.link == Link::Away);
        for _ in 0..1000 {
            if away(&locked(&self.counters.spool)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it is never said to be away");
    }

    fn letters(&self) -> Vec<Letter> {
        let mut letters = Vec::new();
        let met = dead_letters::read(self.memory.share().as_mut(), |_, letter| {
            letters.push(letter);
            Ok(())
        });
        met.unwrap();
        letters
    }

    fn counted(&self, what: &str) -> u64 {
        locked(&self.counters.others).iter().filter(|(count, _)| count.what == what).map(|(_, by)| by).sum()
    }
}

fn id(offset: u64) -> DeliveryId {
    DeliveryId { origin: "box/p/cloud".into(), offset, nth: 0 }
}

fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

async fn write(sink: &mut Spooled, offsets: std::ops::Range<i64>) {
    for offset in offsets {
        sink.write(id(offset as u64), rows(2 * offset..2 * offset + 2)).await.unwrap();
    }
}

#[tokio::test]
async fn epochs_are_flushed_and_the_sink_closes_while_the_receiver_is_away_and_a_later_start_delivers() {
    let bench = Bench::new(&[], SETTINGS);
    locked(&bench.script).then_away = true;
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..5).await;
    let position = tokio::time::timeout(Duration::from_secs(5), sink.flush(Epoch(1))).await.unwrap().unwrap();
    bench.is_away().await;
    let status = locked(&bench.counters.spool).clone().unwrap();
    assert_eq!((status.link, status.stats.bytes_max), (Link::Away, 1 << 20));
    assert_eq!(status.error.as_deref(), Some("no route"));
    write(&mut sink, 5..7).await;
    sink.flush(Epoch(2)).await.unwrap();
    sink.committed(Epoch(2)).await.unwrap();
    let started = std::time::Instant::now();
    sink.close().await;
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(bench.taken(), Vec::<i64>::new());

    bench.memory.crash(9);
    locked(&bench.script).then_away = false;
    // Epoch 1 was committed: what comes behind it comes again, and is known.
    let mut sink = bench.open(Some(&position)).await;
    write(&mut sink, 5..8).await;
    sink.end().await.unwrap();
    assert_eq!(bench.taken(), (0..16).collect::<Vec<_>>());
    assert_eq!(bench.counted("delivered_rows"), 16);
    let names: Vec<String> = locked(&bench.script).taken.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!(names[6], "box/p/cloud/6-0");
    sink.close().await;
    let status = locked(&bench.counters.spool).clone().unwrap();
    assert_eq!(status.link, Link::Connected);
}

#[tokio::test]
async fn what_was_taken_before_the_receiver_went_is_not_sent_again_and_failures_are_tried_again() {
    let bench = Bench::new(&[Does::Away, Does::TakeOne, Does::Away, Does::TakeOne], SETTINGS);
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..4).await;
    bench.until("all rows", |script| script.taken.len() == 4).await;
    assert_eq!(bench.taken(), (0..8).collect::<Vec<_>>());
    assert!(bench.counted("delivery_failures") >= 3);
    sink.close().await;
}

#[tokio::test]
async fn refusals_become_dead_letters_and_the_rest_goes_on() {
    let bench = Bench::new(&[Does::Refuse(400)], SETTINGS);
    let mut sink = bench.open(None).await;
    write(&mut sink, 3..4).await;
    bench.until("the refusal", |script| script.taken.len() == 1).await;
    write(&mut sink, 4..5).await;
    sink.end().await.unwrap();
    sink.close().await;
    let [letter] = bench.letters().try_into().unwrap();
    assert_eq!((letter.kind, letter.status, &*letter.node), (LetterKind::Refused, Some(400), "cloud"));
    assert_eq!((&*letter.place, letter.offset, &*letter.reason), ("box/p/cloud/3-0", Some(3), "not this"));
    assert_eq!(letter.body, LetterBody::Rows(rows(6..7)));
    assert_eq!((bench.counted("refused_deliveries"), bench.counted("delivered_rows")), (1, 3));
    assert_eq!(bench.counted("dead_letter_rows"), 1);
}

#[tokio::test]
async fn what_waited_for_too_long_expires_and_is_not_sent() {
    let settings = Spooling { max_age: Some(Duration::from_millis(300)), ..SETTINGS };
    let bench = Bench::new(&[], settings);
    locked(&bench.script).then_away = true;
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..3).await;
    for _ in 0..1000 {
        if bench.counted("expired_rows") == 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    locked(&bench.script).then_away = false;
    write(&mut sink, 3..4).await;
    sink.close().await;
    assert_eq!(
        bench.letters().iter().map(|letter| letter.kind).collect::<Vec<_>>(),
        [LetterKind::Expired; 3]
    );
    assert!(bench.letters()[0].reason.contains("`max_age`"));
}

#[tokio::test]
async fn new_rows_go_first_and_what_has_gathered_says_so_and_keeps_its_rate() {
    let settings = Spooling { priority: Priority::Live, rows_per_second: Some(20), ..SETTINGS };
    let bench = Bench::new(&[], settings);
    locked(&bench.script).then_away = true;
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..1).await;
    bench.is_away().await;
    write(&mut sink, 1..11).await;
    locked(&bench.script).then_away = false;
    bench.until("its return", |script| !script.taken.is_empty()).await;
    let back = std::time::Instant::now();
    write(&mut sink, 11..20).await;
    bench.until("all rows", |script| script.taken.len() == 20).await;
    let taken = locked(&bench.script).taken.clone();
    let waited = |gathered: bool| -> Vec<i64> {
        taken
            .iter()
            .filter(|(.., replayed)| *replayed == gathered)
            .flat_map(|(_, rows, _)| rows.clone())
            .collect()
    };
    // Each lane in its order.
    assert_eq!(waited(true), (2..22).collect::<Vec<_>>());
    assert_eq!(waited(false), (0..2).chain(22..40).collect::<Vec<_>>());
    let last = taken.iter().position(|(_, rows, _)| rows.contains(&39)).unwrap();
    assert!(last < 19, "the last of the new rows is not the last of all: {taken:?}");
    // Twenty rows at twenty a second, the first of them at once.
    assert!(back.elapsed() > Duration::from_millis(400), "{:?}", back.elapsed());
    assert_eq!(bench.counted("replayed_rows"), 20);
    sink.close().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_neither_flush_nor_close_and_a_hopeless_one_fails_the_sink() {
    let bench = Bench::new(&[Does::Hang], SETTINGS);
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..100).await;
    let soon = Duration::from_secs(2);
    tokio::time::timeout(soon, sink.flush(Epoch(1))).await.unwrap().unwrap();
    tokio::time::timeout(soon, sink.close()).await.unwrap();

    let bench = Bench::new(&[Does::Fail], SETTINGS);
    let mut sink = bench.open(None).await;
    write(&mut sink, 0..1).await;
    bench.until("the failure", |script| script.tries > 0).await;
    for _ in 0..200 {
        if let Err(error) = sink.flush(Epoch(1)).await {
            assert_eq!(error.to_string(), "cloud: a column of lead");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the failure is never told");
}

#[tokio::test]
async fn a_full_spool_makes_the_pipeline_wait_until_there_is_room() {
    let bench = Bench::new(&[], SETTINGS);
    locked(&bench.script).then_away = true;
    let mut sink = bench.open(None).await;
    let many = |offset: i64| {
        // Numbers that zstd cannot make small.
        let mix =
            |n: i64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64).rotate_left(23) ^ n.wrapping_mul(n);
        let column: ArrayRef =
            Arc::new(Int64Array::from_iter_values((0..4000).map(|n| mix(offset * 4000 + n))));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    };
    let mut offset = 0;
    let blocked = loop {
        let mut write = sink.write(id(offset as u64), many(offset));
        match tokio::time::timeout(Duration::from_millis(300), &mut write).await {
            Ok(written) => written.unwrap(),
            Err(_) => break offset,
        }
        offset += 1;
        assert!(offset < 100);
    };
    assert!(blocked > 20, "{blocked}");
    locked(&bench.script).then_away = false;
    tokio::time::timeout(Duration::from_secs(40), sink.write(id(blocked as u64), many(blocked)))
        .await
        .unwrap()
        .unwrap();
    sink.end().await.unwrap();
    assert_eq!(bench.taken().len(), 4000 * (blocked as usize + 1));
    sink.close().await;
}
