//! The engine over random graphs of everything that is registered.

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use tidegate::builtin;
use tidegate::sim::graphs::{Tried, try_graph};

use super::number_of;

/// Graphs in the normal test.
const GRAPHS: u64 = 60;

#[test]
fn random_graphs_run_through_and_go_on_where_they_were() {
    let registry = builtin::registry();
    let (first, graphs) = (number_of("FUZZ_FIRST").unwrap_or(0), number_of("FUZZ").unwrap_or(GRAPHS));
    let mut all = Tried::default();
    for seed in first..first + graphs {
        match catch_unwind(|| try_graph(&builtin::registry(), seed)) {
            Ok(Ok(tried)) => {
                all.kinds.extend(tried.kinds);
                (all.rows, all.cuts) = (all.rows + tried.rows, all.cuts + tried.cuts);
            }
            Ok(Err(error)) => panic!("graph {seed}: {error}"),
            Err(_) => panic!("graph {seed} panics"),
        }
    }
    println!("{graphs} graphs, {} rows, {} cuts, of {:?}", all.rows, all.cuts, all.kinds);
    if graphs >= GRAPHS {
        let missing: BTreeSet<&str> = registry
            .operators
            .iter()
            .map(|kind| kind.name)
            .filter(|name| !all.kinds.contains(name))
            .collect();
        assert!(missing.is_empty(), "{missing:?} never fit in");
        assert!(all.rows > 10 * graphs && all.cuts > graphs, "{all:?}");
    }
}
