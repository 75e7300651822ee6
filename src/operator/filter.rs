//! `filter`: lets rows through that meet a condition; the others leave on a port of their own. Pure.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::{Operator, Output};
use crate::error::Result;
use crate::expr::Expr;
use crate::registry::{Built, Checked, Context, OperatorConfig, Problem};

/// Lets the rows through for which a condition is true. Rows for which it is false or null leave unchanged on
/// the port `rest`; together the two ports have every row, each in the order in which it came.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// The condition: an SQL expression over the columns that gives true or false, for instance
    /// `vib > 4.5 AND line <> 'test'`. As in SQL, a comparison with null is null, and null lets nothing through:
    /// write `vib IS NULL OR vib < 10` to keep rows without a value.
    #[serde(rename = "where")]
    condition: String,
}

impl OperatorConfig for FilterConfig {
    const TYPE: &'static str = "filter";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Strong vibration, test rigs left out.
where = "vib > 4.5 AND line <> 'test'"
"#,
        r#"# Only plausible readings; what is left over can be read from the port `rest`.
where = "temp BETWEEN -40 AND 150 AND rpm IS NOT NULL"
"#,
        r#"# By name and by flag.
where = "device LIKE 'pump-%' AND (ok OR note IN ('maintenance', 'start-up'))"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let schema = context.schema().clone();
        let condition = compile("where", &self.condition, &schema).map_err(|problem| vec![problem])?;
        if *condition.data_type() != DataType::Boolean {
            let kind = crate::core::schema::type_name(condition.data_type());
            let problem = Problem::new("where", format!("the condition gives {kind}, not true/false"));
            return Err(vec![
                problem.help("compare it with something, for example `… > 0` or `… IS NOT NULL`"),
            ]);
        }
        let meaning = format!("where {}", self.condition);
        Ok(Built::new(Filter { condition }, schema.clone(), meaning).port("rest", schema))
    }
}

/// Compiles the expression at a key of a configuration.
pub(super) fn compile(
    path: &str,
    text: &str,
    schema: &arrow::datatypes::Schema,
) -> std::result::Result<Expr, Problem> {
    Expr::parse(text, schema).map_err(|error| {
        let problem = Problem::new(path, error.message).within(error.span);
        match error.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}

struct Filter {
    condition: Expr,
}

impl Operator for Filter {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let met = match self.condition.evaluate(&batch) {
            Ok(met) => met,
            // An evaluation is bounded per batch, and a batch is cut anywhere: half of it may well do.
            Err(_) if batch.num_rows() > 1 => {
                let half = batch.num_rows() / 2;
                self.process(0, batch.slice(0, half), out)?;
                return self.process(0, batch.slice(half, batch.num_rows() - half), out);
            }
            Err(_) => {
                out.count("failed_values", "", 1);
                out.emit(1, batch);
                return Ok(());
            }
        };
        divide(&batch, met.as_boolean(), out)
    }
}

/// Sends the rows for which `met` is true out of port 0 and the others out of port 1.
fn divide(batch: &RecordBatch, met: &BooleanArray, out: &mut Output) -> Result<()> {
    let cleaned;
    let met = match met.null_count() {
        0 => met,
        _ => {
            cleaned = prep_null_mask_filter(met);
            &cleaned
        }
    };
    match met.true_count() {
        0 => out.emit(1, batch.clone()),
        all if all == batch.num_rows() => out.emit(0, batch.clone()),
        _ => {
            if out.wants(0) {
                out.emit(0, filter_record_batch(batch, met)?);
            }
            if out.wants(1) {
                out.emit(1, filter_record_batch(batch, &arrow::compute::not(met)?)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Flow, Now};
    use crate::operator::testing::{self, Row, Run, Step, build, law, problems, run};
    use proptest::prelude::*;

    fn row(time: i64, vib: Option<f64>, line: Option<&'static str>) -> Row {
        Row { time, vib, line, ..Row::default() }
    }

    #[test]
    fn true_goes_on_and_false_or_null_is_the_rest() {
        let make = || build::<FilterConfig>(r#"where = "vib > 4.5 AND line <> 'test'""#).unwrap();
        let rows = [
            (row(0, Some(5.0), Some("a")), 0),
            (row(1, Some(5.0), Some("test")), 1),
            (row(2, Some(4.5), Some("a")), 1),
            (row(3, None, Some("a")), 1),
            (row(4, Some(f64::NAN), Some("a")), 1),
            (row(5, Some(9.0), None), 1),
            (row(-6, Some(9.0), Some("b")), 0),
        ];
        let script: Vec<Step> = rows.iter().map(|(row, _)| Step::Row(row.clone())).collect();
        let outcome = run(&make, &script, &Run::default());
        for port in [0, 1] {
            let expected: Vec<Row> =
                rows.iter().filter(|(_, to)| *to == port).map(|(row, _)| row.clone()).collect();
            assert_eq!(outcome.ports[port], testing::rows(&testing::batch(&expected, false)), "port {port}");
        }
    }

    #[test]
    fn a_batch_that_goes_one_way_is_not_copied() {
        let batch = testing::batch(&[row(0, Some(5.0), None), row(1, Some(6.0), None)], false);
        for (condition, port) in [("vib > 1", 0), ("vib > 10", 1), ("vib > temp", 1)] {
            let mut built = build::<FilterConfig>(&format!("where = \"{condition}\"")).unwrap();
            let mut out = Output::new(Now::ZERO);
            built.operator.process(0, batch.clone(), &mut out).unwrap();
            let flows: Vec<(usize, Flow)> = out.drain().collect();
            let [(to, Flow::Batch(same))] = &flows[..] else { panic!("one batch: {flows:?}") };
            assert_eq!(*to, port, "{condition}");
            assert!(batch.columns().iter().zip(same.columns()).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
        }
    }

    #[test]
    fn a_port_that_nobody_reads_changes_nothing_on_the_other() {
        let batch = testing::batch(&[row(0, Some(5.0), None), row(1, Some(1.0), None)], false);
        let send = |unread: u64| {
            let mut built = build::<FilterConfig>("where = \"vib > 4.5\"").unwrap();
            let mut out = Output::new(Now::ZERO);
            out.set_unread(unread);
            built.operator.process(0, batch.clone(), &mut out).unwrap();
            let flows = out.drain().map(|(port, flow)| match flow {
                Flow::Batch(batch) => (port, testing::rows(&batch)),
                other => panic!("{other:?}"),
            });
            flows.collect::<Vec<_>>()
        };
        let both = send(0);
        assert_eq!(both.len(), 2);
        assert_eq!(send(0b10), both[..1]);
        assert_eq!(send(0b01), both[1..]);
        assert_eq!(send(0b11), []);
    }

    #[test]
    fn a_condition_too_large_for_a_batch_is_met_in_parts() {
        // Each row makes 8 MB of text; ten in one evaluation are beyond its bound.
        let rows: Vec<Step> = (0..10).map(|time| Step::Row(row(time, None, Some("x")))).collect();
        let many = "x".repeat(200);
        let text = (0..3).fold("line".to_owned(), |text, _| format!("replace({text}, 'x', '{many}')"));
        let body = format!("where = \"starts_with({text}, 'xx')\"");
        let make = || build::<FilterConfig>(&body).unwrap();
        let outcome = run(&make, &rows, &Run::default());
        assert_eq!((outcome.ports[0].len(), outcome.ports[1].len()), (10, 0));
    }

    #[test]
    fn problems_say_where() {
        for (condition, expected) in [
            ("vibr > 4", "where[0..4]: column \"vibr\" does not exist; did you mean \"vib\"?"),
            (
                "vib + 1",
                "where: the condition gives number, not true/false; compare it with something, for example `… > 0` or `… IS NOT NULL`",
            ),
        ] {
            assert_eq!(problems::<FilterConfig>(&format!("where = \"{condition}\"")), [expected]);
        }
        let found = problems::<FilterConfig>("where = \"vib > 'x'\"");
        assert!(found[0].starts_with("where["), "{found:?}");
        assert!(problems::<FilterConfig>("were = \"ok\"")[0].contains("unknown field"));
    }

    #[test]
    fn examples_are_built() {
        for example in FilterConfig::EXAMPLES {
            assert_eq!(problems::<FilterConfig>(example), Vec::<String>::new(), "{example}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn laws(rows in prop::collection::vec((0i64..50, 0usize..4, prop::option::of(0i64..9)), 1..40),
                cuts in prop::collection::vec(0usize..40, 0..6), save in 0usize..40) {
            let line = [None, Some("a"), Some("b"), Some("test")];
            let script: Vec<Step> = rows
                .iter()
                .map(|(time, name, vib)| Step::Row(row(*time, vib.map(|vib| vib as f64), line[*name])))
                .collect();
            let make = || build::<FilterConfig>(FilterConfig::EXAMPLES[0]).unwrap();
            let outcome = law(&make, &script, &cuts, save);
            prop_assert_eq!(outcome.ports.concat().len(), rows.len());
            let strong = rows.iter().filter(|(_, name, vib)| vib.is_some_and(|vib| vib > 4) && (1..3).contains(name));
            prop_assert_eq!(outcome.ports[0].len(), strong.count());
        }
    }
}
