//! `select`: chooses, computes and renames columns. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::filter::compile;
use crate::core::schema::{TIME, time_type};
use crate::core::{Operator, Output};
use crate::error::Result;
use crate::expr::Expr;
use crate::registry::{Built, Checked, Context, OperatorConfig, Problem, nearest};

/// Chooses, computes and renames columns, in this order: `add` computes columns from those of the input, `keep`
/// or `drop` chooses among them, `rename` gives the chosen ones their names.
///
/// `time` always stays, as the first column and as it is: windows and watermarks are made of it. A value that
/// cannot be computed is null.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectConfig {
    /// The columns that stay, in this order behind `time`; columns of `add` that are not in the list follow in
    /// the order of `add`. Without it all columns stay.
    keep: Option<Vec<String>>,
    /// The columns that go; the others stay where they are. Either `keep` or `drop`.
    #[serde(default)]
    drop: Vec<String>,
    /// New columns: a name and the SQL expression it is computed by. All expressions see the columns of the
    /// input. The name of a column of the input replaces that column, in its place; other names follow at the
    /// end, in the order given here.
    #[serde(default)]
    add: IndexMap<String, String>,
    /// New names for columns that stay: the old name and the new one. Two columns can trade their names.
    #[serde(default)]
    rename: BTreeMap<String, String>,
}

impl OperatorConfig for SelectConfig {
    const TYPE: &'static str = "select";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Three columns, one of them computed.
keep = ["device", "temp"]
add = { vib_g = "vib / 9.81" }
"#,
        r#"# Fahrenheit in place of Celsius, a tag under another name, raw bytes left out.
drop = ["payload", "note"]
add = { temp = "temp * 1.8 + 32" }
rename = { device = "machine", temp = "temp_f" }
"#,
        r#"# Texts and times: a full name, and how long after the full minute.
keep = ["name", "ok"]
add = { name = "line || '/' || device", seconds = "epoch(time - date_trunc('minute', time))" }
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = Vec::new();
        if input.fields().first().is_none_or(|f| f.name() != TIME || *f.data_type() != time_type()) {
            let problem = Problem::new("", "the input has no `time` column in the first place");
            return Err(vec![problem.help("put a `decode` operator before this one")]);
        }
        if self.keep.is_none() && self.drop.is_empty() && self.add.is_empty() && self.rename.is_empty() {
            let problem = Problem::new("", "nothing is selected: all columns stay as they are");
            return Err(vec![
                problem.help("add `keep`, `drop`, `add` or `rename`, or leave this operator out"),
            ]);
        }
        let candidates = self.candidates(input, &mut problems);
        let chosen = self.choose(&candidates, &mut problems);
        let names = self.names(&candidates, &chosen, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut all: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
        let (mut fields, mut parts, mut meaning) = (Vec::new(), Vec::new(), Vec::new());
        for (place, name) in chosen.into_iter().zip(names) {
            let Some(candidate) = all[place].take() else { continue };
            meaning.push(format!("{name:?} = {:?}; ", candidate.origin));
            fields.push(candidate.field.with_name(name));
            parts.push(candidate.part);
        }
        let schema = Arc::new(Schema::new(fields));
        // In whatever order the columns stand, they mean the same.
        meaning.sort_unstable();
        Ok(Built::new(Select { schema: schema.clone(), parts }, schema, meaning.concat()))
    }
}

/// A column that may stay.
struct Candidate {
    field: Field,
    part: Part,
    /// Where it comes from: the name of a column of the input, or an expression.
    origin: String,
}

enum Part {
    Column(usize),
    Computed(Expr),
}

impl SelectConfig {
    /// The columns of the input, replaced where `add` says so, and behind them the new ones.
    fn candidates(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<Candidate> {
        let columns = input.fields().iter().enumerate().map(|(index, field)| Candidate {
            field: field.as_ref().clone(),
            part: Part::Column(index),
            origin: field.name().clone(),
        });
        let mut candidates: Vec<Candidate> = columns.collect();
        for (name, text) in &self.add {
            match computed(name, text, input) {
                Err(problem) => problems.push(problem),
                Ok(candidate) => match input.index_of(name) {
                    Ok(place) => candidates[place] = candidate,
                    Err(_) => candidates.push(candidate),
                },
            }
        }
        candidates
    }

    /// Which candidates stay, in order.
    fn choose(&self, candidates: &[Candidate], problems: &mut Vec<Problem>) -> Vec<usize> {
        let place = |name: &str| candidates.iter().position(|candidate| candidate.field.name() == name);
        let mut find = |path: String, name: &str| {
            let found = place(name);
            // A column whose expression is wrong has its problem already.
            if found.is_none() && !self.add.contains_key(name) {
                problems.push(no_column(path, name, candidates));
            }
            found
        };
        let Some(keep) = &self.keep else {
            let mut dropped = HashSet::new();
            for (index, name) in self.drop.iter().enumerate() {
                dropped.extend(find(format!("drop[{index}]"), name));
            }
            for (index, name) in self.drop.iter().enumerate() {
                let path = format!("drop[{index}]");
                if name == TIME {
                    let problem = Problem::new(path, "the column \"time\" always stays");
                    problems.push(problem.help("leave it out of this list"));
                } else if self.add.contains_key(name) {
                    let message = format!("the column \"{name}\" is computed by `add` and left out here");
                    problems.push(Problem::new(path, message).help("do one of the two"));
                }
            }
            return (0..candidates.len()).filter(|place| !dropped.contains(place)).collect();
        };
        let (mut chosen, mut seen, mut twice) = (vec![0], HashSet::new(), Vec::new());
        for (index, name) in keep.iter().enumerate() {
            let path = format!("keep[{index}]");
            if seen.insert(name.as_str()) {
                chosen.extend(find(path, name).filter(|place| *place != 0));
            } else {
                twice.push(Problem::new(path, format!("\"{name}\" is in the list already")));
            }
        }
        problems.append(&mut twice);
        if !self.drop.is_empty() {
            let problem = Problem::new("drop", "`keep` and `drop` exclude each other");
            problems.push(problem.help("what is not in `keep` goes anyhow: leave `drop` out"));
        }
        let added = candidates.iter().enumerate().filter(|(_, one)| self.add.contains_key(one.field.name()));
        let missing: Vec<usize> = added.map(|(place, _)| place).filter(|at| !chosen.contains(at)).collect();
        chosen.extend(missing);
        chosen
    }

    /// The names of the columns that stay.
    fn names(&self, candidates: &[Candidate], chosen: &[usize], problems: &mut Vec<Problem>) -> Vec<String> {
        let stays = |name: &str| chosen.iter().any(|place| candidates[*place].field.name() == name);
        for (old, new) in &self.rename {
            let path = format!("rename.{old}");
            if old == TIME {
                let problem = Problem::new(path, "the column \"time\" keeps its name");
                problems.push(problem.help("a copy under another name: `add = { NAME = \"time\" }`"));
            } else if new.is_empty() {
                problems.push(Problem::new(path, "a column needs a name"));
            } else if !stays(old) && !self.add.contains_key(old) {
                let all = candidates.iter().any(|candidate| candidate.field.name() == old);
                problems.push(if all {
                    Problem::new(path, format!("the column \"{old}\" does not stay"))
                        .help("leave it out of `rename`, or let it stay")
                } else {
                    no_column(path, old, candidates)
                });
            }
        }
        let mut taken: HashMap<String, &str> = HashMap::new();
        let mut names = Vec::with_capacity(chosen.len());
        for place in chosen {
            let old = candidates[*place].field.name();
            let new = self.rename.get(old).unwrap_or(old);
            if let Some(other) = taken.insert(new.clone(), old) {
                let renamed = if self.rename.contains_key(old) { old } else { other };
                let message = format!("two columns would be called \"{new}\": \"{other}\" and \"{old}\"");
                let help = "choose another name, or leave one of them out";
                problems.push(Problem::new(format!("rename.{renamed}"), message).help(help));
            }
            names.push(new.clone());
        }
        names
    }
}

fn computed(name: &str, text: &str, input: &Schema) -> std::result::Result<Candidate, Problem> {
    let path = format!("add.{name}");
    if name.is_empty() {
        return Err(Problem::new("add", "a column needs a name"));
    }
    if name == TIME {
        let problem = Problem::new(path, "the column \"time\" stays as it is: watermarks are made of it");
        return Err(problem.help("choose another name; event time is set where messages are decoded"));
    }
    let expr = compile(&path, text, input)?;
    if matches!(expr.data_type(), DataType::Duration(_)) {
        let problem = Problem::new(path, "the expression gives a duration, and no column holds one");
        return Err(problem.help("use `epoch(…)` around it: the number of seconds"));
    }
    // A text that would be too long is null, whatever the columns it is made of.
    let nullable = expr.nullable() || *expr.data_type() == DataType::Utf8;
    let field = Field::new(name, expr.data_type().clone(), nullable);
    Ok(Candidate { field, part: Part::Computed(expr), origin: format!("({text})") })
}

fn no_column(path: String, wanted: &str, candidates: &[Candidate]) -> Problem {
    let names: Vec<&str> = candidates.iter().map(|candidate| candidate.field.name().as_str()).collect();
    let problem = Problem::new(path, format!("column \"{wanted}\" does not exist"));
    match nearest(wanted, names.iter().copied()) {
        Some(near) => problem.help(format!("did you mean \"{near}\"?")),
        None => problem.help(format!("the columns here are: {}", names.join(", "))),
    }
}

struct Select {
    schema: SchemaRef,
    parts: Vec<Part>,
}

impl Operator for Select {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let rows = batch.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.parts.len());
        for (part, field) in self.parts.iter().zip(self.schema.fields()) {
            let column = match part {
                Part::Column(index) => batch.column(*index).clone(),
                Part::Computed(expr) => match expr.evaluate(&batch) {
                    Ok(column) => column,
                    // An evaluation is bounded per batch, and a batch is cut anywhere: half of it may well do.
                    Err(_) if rows > 1 => {
                        self.process(0, batch.slice(0, rows / 2), out)?;
                        return self.process(0, batch.slice(rows / 2, rows - rows / 2), out);
                    }
                    Err(_) if field.is_nullable() => {
                        out.count("failed_values", "", 1);
                        new_null_array(field.data_type(), rows)
                    }
                    Err(error) => return Err(error),
                },
            };
            columns.push(column);
        }
        out.emit(0, RecordBatch::try_new(self.schema.clone(), columns)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::testing::{Row, Run, Step, build, law, problems, run};
    use proptest::prelude::*;

    fn row() -> Row {
        Row {
            time: 61_500_000,
            line: Some("l"),
            device: Some("d"),
            seq: Some(7),
            temp: Some(10.0),
            vib: None,
            rpm: Some(3),
            ok: Some(true),
            note: Some("n"),
        }
    }

    #[test]
    fn columns_are_chosen_computed_and_renamed() {
        for (body, names, values) in [
            ("keep = [\"rpm\", \"temp\"]", "time rpm temp", "3 10.0"),
            ("keep = [\"rpm\", \"time\"]", "time rpm", "3"),
            ("keep = []", "time", ""),
            ("keep = []\nadd = { b = \"1\", a = \"rpm + seq\" }", "time b a", "1 10"),
            ("keep = [\"b\", \"rpm\"]\nadd = { b = \"1\", a = \"2\" }", "time b rpm a", "1 3 2"),
            ("keep = [\"rpm\"]\nadd = { rpm = \"rpm * 2\", x = \"rpm\" }", "time rpm x", "6 3"),
            ("keep = [\"rpm\", \"seq\"]\nrename = { rpm = \"seq\", seq = \"rpm\" }", "time seq rpm", "3 7"),
            ("keep = []\nadd = { x = \"vib + 1\" }\nrename = { x = \"y\" }", "time y", "-"),
            (
                "drop = [\"payload\", \"note\", \"ok\", \"line\", \"vib\"]\nrename = { device = \"m\" }",
                "time m seq temp rpm",
                "d 7 10.0 3",
            ),
            (SelectConfig::EXAMPLES[2], "time name ok seconds", "l/d true 1.5"),
        ] {
            let make = || build::<SelectConfig>(body).unwrap();
            let schema = make().ports[0].schema.clone();
            let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(found.join(" "), names, "{body}");
            assert_eq!((schema.field(0).data_type(), schema.field(0).is_nullable()), (&time_type(), false));
            let outcome = run(&make, &[Step::Row(row())], &Run::default());
            let expected = format!("61500000 {values}").trim_end().to_owned();
            assert_eq!(outcome.ports[0], [expected], "{body}");
        }
    }

    #[test]
    fn the_meaning_is_the_same_in_any_order() {
        let meaning = |body: &str| build::<SelectConfig>(body).unwrap().meaning;
        let one = meaning("keep = [\"rpm\", \"temp\"]\nadd = { b = \"1\", a = \"2\" }");
        assert_eq!(meaning("keep = [\"temp\", \"rpm\"]\nadd = { a = \"2\", b = \"1\" }"), one);
        assert_ne!(meaning("keep = [\"temp\", \"rpm\"]\nadd = { a = \"1\", b = \"2\" }"), one);
    }

    #[test]
    fn a_text_too_long_for_a_batch_is_made_in_parts_and_alone_is_null() {
        let many = "x".repeat(200);
        let text =
            |levels| (0..levels).fold("line".to_owned(), |t, _| format!("replace({t}, 'x', '{many}')"));
        let body =
            format!("keep = []\nadd = {{ n = \"starts_with({}, 'xx')\", big = \"{}\" }}", text(3), text(4));
        let make = || build::<SelectConfig>(&body).unwrap();
        let script: Vec<Step> = ["x", "", "x"].map(|l| Step::Row(Row { line: Some(l), ..row() })).to_vec();
        let outcome = run(&make, &script, &Run::default());
        let ends: Vec<&str> = outcome.ports[0].iter().map(|row| &row[9..]).collect();
        assert_eq!(ends, ["true -", "false ", "true -"]);
        assert_eq!(outcome.count("failed_values", ""), 2);
    }

    #[test]
    fn problems_say_where() {
        for (body, expected) in [
            ("keep = [\"tmp\"]", "keep[0]: column \"tmp\" does not exist; did you mean \"temp\"?"),
            ("keep = [\"rpm\", \"rpm\"]", "keep[1]: \"rpm\" is in the list already"),
            ("drop = [\"time\"]", "drop[0]: the column \"time\" always stays; leave it out of this list"),
            (
                "keep = [\"rpm\"]\ndrop = [\"ok\"]",
                "drop: `keep` and `drop` exclude each other; what is not in `keep` goes anyhow: leave `drop` out",
            ),
            (
                "drop = [\"ok\"]\nadd = { ok = \"true\" }",
                "drop[0]: the column \"ok\" is computed by `add` and left out here; do one of the two",
            ),
            (
                "add = { time = \"time\" }",
                "add.time: the column \"time\" stays as it is: watermarks are made of it; choose another name; event time is set where messages are decoded",
            ),
            (
                "add = { d = \"time - time\" }",
                "add.d: the expression gives a duration, and no column holds one; use `epoch(…)` around it: the number of seconds",
            ),
            (
                "add = { x = \"1 + vibb\" }",
                "add.x[4..8]: column \"vibb\" does not exist; did you mean \"vib\"?",
            ),
            (
                "rename = { time = \"t\" }",
                "rename.time: the column \"time\" keeps its name; a copy under another name: `add = { NAME = \"time\" }`",
            ),
            (
                "keep = [\"rpm\"]\nrename = { ok = \"x\" }",
                "rename.ok: the column \"ok\" does not stay; leave it out of `rename`, or let it stay",
            ),
            (
                "rename = { ok = \"rpm\" }",
                "rename.ok: two columns would be called \"rpm\": \"rpm\" and \"ok\"; choose another name, or leave one of them out",
            ),
            ("rename = { ok = \"\" }", "rename.ok: a column needs a name"),
            (
                "",
                ": nothing is selected: all columns stay as they are; add `keep`, `drop`, `add` or `rename`, or leave this operator out",
            ),
        ] {
            assert_eq!(problems::<SelectConfig>(body), [expected], "{body}");
        }
        let several = "keep = [\"x\", \"y\"]\nadd = { x = \"nope\" }";
        let found = problems::<SelectConfig>(several);
        assert_eq!(found.len(), 2, "all problems at once: {found:?}");
    }

    #[test]
    fn examples_are_built() {
        for example in SelectConfig::EXAMPLES {
            assert_eq!(problems::<SelectConfig>(example), Vec::<String>::new(), "{example}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn laws(rows in prop::collection::vec((0i64..50, prop::option::of(-9i64..9)), 1..30),
                cuts in prop::collection::vec(0usize..30, 0..6), save in 0usize..30) {
            let script: Vec<Step> = rows
                .iter()
                .map(|(time, seq)| Step::Row(Row { time: *time, seq: *seq, temp: seq.map(|n| n as f64), ..row() }))
                .collect();
            for example in SelectConfig::EXAMPLES {
                let outcome = law(&|| build::<SelectConfig>(example).unwrap(), &script, &cuts, save);
                prop_assert_eq!(outcome.ports[0].len(), rows.len());
            }
        }
    }
}
