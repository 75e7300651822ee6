//! Checks a `decode` configuration against its input and builds the operator. Pure.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};

use super::progress::{Live, Progress};
use super::running::{BadPort, Decode, Decoding, Messages, Places};
use super::tags::{Patterns, Tags};
use super::{DecodeConfig, Format, Path, sample};
use crate::codec::csv::{CsvDecoder, CsvFormat};
use crate::codec::fields::{Field, FieldKind, RowFormat, TimeField};
use crate::codec::json::{JsonDecoder, JsonFormat};
use crate::codec::payload::PayloadDecoder;
use crate::codec::rows::Rows;
use crate::codec::value::ValueDecoder;
use crate::core::schema::{self, TIME, tag_type, time_field, time_type, type_name};
use crate::registry::{Built, Checked, Context, Problem, nearest};
use crate::units::Period;

/// The column of a bare value, if nothing else is said.
const VALUE: &str = "value";

/// The column that an operator decodes, if nothing else is said.
const PAYLOAD: &str = "payload";

/// The column that says why a payload is bad.
const REASON: &str = "reason";

/// Bounds of the grid that follows from the lateness, in µs. Below it, dense data would be cut into batches so
/// small that the cost per batch shows; above it, windows would close noticeably late.
const GRID_US: (i64, i64) = (100_000, 1_000_000);

/// The finest grid, in µs.
const GRID_US_MIN: i64 = 1_000;

/// The longest of all durations here.
const PERIOD_MAX: Period = Period::seconds(3_660 * 86_400);

/// Places of the raw schema.
const RAW: Places = Places { time: 2, payload: 1, topic: None, carried: Vec::new(), carried_bad: Vec::new() };
const RAW_TOPIC: usize = 0;

/// A format that payloads are decoded by.
struct Payload {
    row: RowFormat,
    decoder: PayloadDecoder,
    /// What a payload is taken to mean.
    meaning: String,
}

pub(super) fn build(config: DecodeConfig, context: &Context<'_>) -> Checked<Built> {
    let input = context.schema();
    match (*input == schema::raw(), config.topics.is_some()) {
        (true, _) => over_messages(&config),
        (false, true) => over_columns(&config, input),
        (false, false) => over_one_column(&config, input),
    }
}

/// The messages of a source.
fn over_messages(config: &DecodeConfig) -> Checked<Built> {
    let mut problems = Vec::new();
    if config.column.is_some() {
        let problem = Problem::new("column", "a source decodes its messages, not a column");
        problems.push(problem.help("leave `column` out; it is for operators"));
    }
    let as_they_are = matches!(config.format, None | Some(Format::None {}));
    let patterns = patterns(config.topics.as_deref().unwrap_or_default(), as_they_are, &mut problems);
    let mut places = Places { topic: Some(RAW_TOPIC).filter(|_| !patterns.tags.is_empty()), ..RAW };
    let raw = schema::raw();
    let mut columns = vec![time_field()];
    columns.extend(patterns.tags.iter().map(|tag| ArrowField::new(tag, tag_type(), true)));
    if as_they_are {
        places.carried = vec![RAW_TOPIC, RAW.payload];
        columns.extend([raw.field(RAW_TOPIC).clone(), raw.field(RAW.payload).clone()]);
        if !config.fields.0.is_empty() {
            let problem = Problem::new(
                "fields",
                "`fields` says what is in a message, but nothing says how it is written",
            );
            problems.push(problem.help("add for example `format = { type = \"json\" }`"));
        }
        let progress = progress(config, 1, &mut problems);
        let (Some(progress), true) = (progress, problems.is_empty()) else { return Err(problems) };
        let schema = Arc::new(Schema::new(columns));
        let messages = Messages::new(places, schema.clone(), Tags::new(patterns), None);
        let operator = Decode { messages: Some(messages), progress: Some(progress) };
        return Ok(own(Built::new(operator, schema.clone(), "none").port("ahead", schema)));
    }
    places.carried_bad = vec![RAW_TOPIC];
    let payload = payload(config, &patterns.tags, "a tag of the topics", &mut problems);
    let progress = progress(config, 2, &mut problems);
    let (Some(payload), Some(progress), true) = (payload, progress, problems.is_empty()) else {
        return Err(problems);
    };
    Ok(assemble(&raw, places, patterns, columns, payload, Some(progress)))
}

/// The rows of a source that has columns of its own: only their time is of interest.
fn over_columns(config: &DecodeConfig, input: &SchemaRef) -> Checked<Built> {
    let mut problems = Vec::new();
    let nothing = "this source gives columns; there is nothing to decode";
    if !matches!(config.format, None | Some(Format::None {})) {
        problems.push(Problem::new("format", nothing).help("leave `format` out"));
    }
    if !config.fields.0.is_empty() {
        let problem = Problem::new("fields", nothing);
        problems.push(problem.help("leave `fields` out; `select` picks columns and changes their types"));
    }
    check_time(input, &mut problems);
    let progress = progress(config, 1, &mut problems);
    let (Some(progress), true) = (progress, problems.is_empty()) else { return Err(problems) };
    let operator = Decode { messages: None, progress: Some(progress) };
    Ok(own(Built::new(operator, input.clone(), "columns").port("ahead", input.clone())))
}

/// One column of rows that were decoded before.
fn over_one_column(config: &DecodeConfig, input: &SchemaRef) -> Checked<Built> {
    let mut problems = Vec::new();
    check_time(input, &mut problems);
    let time = input.index_of(TIME).ok();
    let place = column(config, input, &mut problems);
    let others: Vec<usize> =
        (0..input.fields().len()).filter(|column| Some(*column) != time && Some(*column) != place).collect();
    let names: Vec<String> = others.iter().map(|column| input.field(*column).name().clone()).collect();
    if matches!(config.format, None | Some(Format::None {})) {
        let problem = Problem::new("format", "it is not said how the payload is written");
        problems.push(problem.help("add for example `format = { type = \"json\" }`"));
        return Err(problems);
    }
    let payload = payload(config, &names, "a column of the input", &mut problems);
    let own_time = payload.as_ref().is_some_and(|payload| matches!(payload.row.time, TimeField::At { .. }));
    let mut progress_of_its_own = None;
    if own_time {
        progress_of_its_own = progress(config, 2, &mut problems);
    } else if payload.is_some() {
        for (key, given) in [("event_time", config.event_time.is_some()), ("live", config.live)] {
            if given {
                let problem = Problem::new(
                    key,
                    format!(
                        "`{key}` does not apply: rows keep the time of the input, and its watermark with it"
                    ),
                );
                problems
                    .push(problem.help("say where the payload has a time (`format.time`), or leave it out"));
            }
        }
    }
    let (Some(payload), Some(time), Some(place), true) = (payload, time, place, problems.is_empty()) else {
        return Err(problems);
    };
    let mut columns = vec![time_field()];
    columns.extend(others.iter().map(|column| input.field(*column).clone()));
    let not_reason = |column: &usize| input.field(*column).name() != REASON;
    let carried_bad = others.iter().copied().filter(not_reason).collect();
    let places = Places { time, payload: place, topic: None, carried: others, carried_bad };
    Ok(assemble(input, places, Patterns::default(), columns, payload, progress_of_its_own))
}

/// The operator of checked parts. `columns` are those before the fields.
fn assemble(
    input: &SchemaRef,
    places: Places,
    patterns: Patterns,
    mut columns: Vec<ArrowField>,
    payload: Payload,
    progress: Option<Progress>,
) -> Built {
    columns.extend(payload.row.arrow_fields().into_iter().skip(1));
    let schema = Arc::new(Schema::new(columns));
    let mut bad = vec![time_field()];
    bad.extend(places.carried_bad.iter().map(|column| input.field(*column).clone()));
    bad.push(ArrowField::new(REASON, DataType::Utf8, false));
    bad.push(input.field(places.payload).clone());
    let bad_port = BadPort { port: 1, schema: Arc::new(Schema::new(bad)) };
    let bad_schema = bad_port.schema.clone();
    let rows = Rows::new(&payload.row);
    let decoding = Decoding { decoder: payload.decoder, rows, bad_port, bad: Vec::new() };
    let messages = Messages::new(places, schema.clone(), Tags::new(patterns), Some(decoding));
    let own_time = progress.is_some();
    let operator = Decode { messages: Some(messages), progress };
    let built = Built::new(operator, schema.clone(), payload.meaning).port("bad", bad_schema);
    if own_time { own(built.port("ahead", schema)) } else { built }
}

fn own(mut built: Built) -> Built {
    built.own_watermark = true;
    built
}

fn check_time(input: &Schema, problems: &mut Vec<Problem>) {
    match input.field_with_name(TIME) {
        Ok(field) if *field.data_type() == time_type() && !field.is_nullable() => {}
        Ok(_) => problems.push(Problem::new(
            "",
            "the column \"time\" of the input must be a time in microseconds, UTC, and never null",
        )),
        Err(_) => problems.push(Problem::new("", "the input has no column \"time\"")),
    }
}

/// The place of the column to decode.
fn column(config: &DecodeConfig, input: &Schema, problems: &mut Vec<Problem>) -> Option<usize> {
    let name = config.column.as_deref().unwrap_or(PAYLOAD);
    let Ok(place) = input.index_of(name) else {
        problems.push(match config.column {
            Some(_) => Problem::no_column("column", name, input),
            None => Problem::new("", "it is not said which column to decode")
                .help("add `column = \"…\"`, a column of bytes or text"),
        });
        return None;
    };
    let data_type = input.field(place).data_type();
    if !matches!(data_type, DataType::Binary | DataType::Utf8) {
        let shown = match data_type {
            DataType::Dictionary(..) => "a tag",
            other => type_name(other),
        };
        problems.push(Problem::new("column", format!("column \"{name}\" is {shown}, not bytes or text")));
        return None;
    }
    Some(place)
}

/// The patterns of the topics, whose tags must not have the names of other columns.
fn patterns(topics: &[String], as_they_are: bool, problems: &mut Vec<Problem>) -> Patterns {
    let mut patterns = Patterns::default();
    for (index, topic) in topics.iter().enumerate() {
        let known = patterns.tags.len();
        if let Err(tag) = patterns.add(topic) {
            let problem =
                Problem::new(format!("topics[{index}]"), format!("the tag `{{{tag}}}` occurs twice"));
            problems.push(problem.help("give each level a name of its own, or `+` where none is needed"));
        }
        for tag in patterns.tags.iter().skip(known) {
            let taken = tag == TIME || as_they_are && ["topic", PAYLOAD].contains(&tag.as_str());
            if taken {
                let message = format!("the tag `{{{tag}}}` has the name of a column that every message has");
                problems.push(Problem::new(format!("topics[{index}]"), message).help("call it otherwise"));
            }
        }
    }
    patterns
}

/// How payloads are decoded. `taken` are names of columns that are there anyway, `as_what` says as what.
fn payload(
    config: &DecodeConfig,
    taken: &[String],
    as_what: &str,
    problems: &mut Vec<Problem>,
) -> Option<Payload> {
    let before = problems.len();
    let format = config.format.as_ref()?;
    if config.fields.0.is_empty() && !matches!(format, Format::Value { .. }) {
        time(format, problems);
        let sampler = config.topics.is_some().then(|| sample::sampler(format, taken)).flatten();
        problems.push(match sampler {
            Some(sampler) => Problem {
                sampler: Some(sampler),
                ..Problem::new("format", "the columns are unknown until messages are seen").help(
                    "add `fields`, which `tidegate infer` writes from sample messages, or check with `--sample FILE`",
                )
            },
            None => Problem::new("format", "it is not said which fields a message has").help(
                "add for example `fields = { temp = \"f64\" }`; `tidegate infer` writes it from sample messages",
            ),
        });
        return None;
    }
    let dotted = matches!(format, Format::Json { .. });
    let mut fields: Vec<Field> = Vec::with_capacity(config.fields.0.len());
    for (name, spec) in &config.fields.0 {
        let path = match spec.path() {
            None => vec![name.clone()],
            Some(path) if dotted => path.keys(),
            Some(path) => vec![path.name()],
        };
        fields.push(Field { name: name.clone(), kind: spec.kind(), path });
    }
    let time = time(format, problems);
    if let Format::Value { column } = format {
        fields = value_field(config, column.as_deref(), fields, problems)?;
    }
    check_names(&fields, taken, as_what, problems);
    let mut row = RowFormat::new(fields, time);
    if let Format::Json { lenient, .. } = format {
        row.lenient = *lenient;
    }
    if let Format::Csv { columns, .. } = format {
        check_csv_columns(&row, columns, problems);
    }
    if problems.len() > before {
        return None;
    }
    let built = decoder(format, &row);
    built
        .map(|(decoder, layout)| Payload { decoder, meaning: meaning(&layout, &row), row })
        .map_err(|problem| problems.push(problem))
        .ok()
}

/// What a payload is taken to mean, in whatever order its fields are named.
fn meaning(layout: &str, row: &RowFormat) -> String {
    let mut row = row.clone();
    row.fields.sort_by(|one, other| one.name.cmp(&other.name));
    format!("{layout} {row:?}")
}

fn time(format: &Format, problems: &mut Vec<Problem>) -> TimeField {
    let (path, unit) = match format {
        Format::Json { time, time_unit, .. } => (time.as_ref().map(Path::keys), *time_unit),
        Format::Csv { time, time_unit, .. } => (time.clone().map(|name| vec![name]), *time_unit),
        Format::Value { .. } | Format::None {} => (None, None),
    };
    match (path, unit) {
        (Some(path), unit) => TimeField::At { path, unit: unit.unwrap_or_default().time_unit() },
        (None, None) => TimeField::Arrival,
        (None, Some(_)) => {
            let problem = Problem::new("format.time_unit", "there is a unit of time, but no time");
            problems.push(problem.help("add `time = \"…\"`, where in a message its time stands"));
            TimeField::Arrival
        }
    }
}

/// The one field of a bare value.
fn value_field(
    config: &DecodeConfig,
    column: Option<&str>,
    fields: Vec<Field>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Field>> {
    if let Some((name, _)) = config.fields.0.iter().find(|(_, spec)| spec.path().is_some()) {
        let problem = Problem::new(format!("fields.{name}.path"), "a bare value has no inner parts");
        problems.push(problem.help("leave `path` out"));
        return None;
    }
    match (column, fields.as_slice()) {
        (column, []) => Some(vec![Field::new(column.unwrap_or(VALUE), FieldKind::F64)]),
        (None, [_]) => Some(fields),
        (Some(column), [field]) if field.name == column => Some(fields),
        (Some(column), [field]) => {
            let message = format!("the value goes to \"{column}\", but the field is \"{}\"", field.name);
            problems.push(Problem::new("format.column", message).help("leave `column` out here"));
            None
        }
        (_, several) => {
            let message = format!("a bare value fills one column, not {}", several.len());
            problems.push(Problem::new("fields", message).help("name exactly one field"));
            None
        }
    }
}

fn check_names(fields: &[Field], taken: &[String], as_what: &str, problems: &mut Vec<Problem>) {
    for field in fields {
        let name = &field.name;
        let path = format!("fields.{name}");
        let problem = match name.as_str() {
            "" => Problem::new("fields", "a field has an empty name"),
            TIME => Problem::new(path, "\"time\" is the column that holds the time of every row")
                .help("call the field otherwise; if it is the time, write `format = { …, time = \"time\" }`"),
            _ if taken.contains(name) => {
                Problem::new(path, format!("there is a column \"{name}\" already: it is {as_what}"))
                    .help(format!("give it another name: `other = {{ type = \"…\", path = \"{name}\" }}`"))
            }
            _ => continue,
        };
        problems.push(problem);
    }
}

/// Whether all columns that are wanted of CSV are there, where `columns` names them.
fn check_csv_columns(row: &RowFormat, columns: &[String], problems: &mut Vec<Problem>) {
    if columns.is_empty() {
        return;
    }
    let time = match &row.time {
        TimeField::At { path, .. } => Some(("format.time".to_owned(), path)),
        TimeField::Arrival => None,
    };
    let fields = row.fields.iter().map(|field| (format!("fields.{}", field.name), &field.path));
    for (at, path) in time.into_iter().chain(fields) {
        let wanted = path.join(".");
        if columns.contains(&wanted) {
            continue;
        }
        let problem = Problem::new(at, format!("`format.columns` has no column \"{wanted}\""));
        problems.push(match nearest(&wanted, columns.iter().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean \"{near}\"?")),
            None => problem.help(format!("the columns are: {}", columns.join(", "))),
        });
    }
}

/// The decoder, and its layout in words.
fn decoder(format: &Format, row: &RowFormat) -> Result<(PayloadDecoder, String), Problem> {
    let at = |path: &'static str| move |error: crate::Error| Problem::new(path, error.message);
    match format {
        Format::Json { array, .. } => {
            let json = JsonFormat { records: array.as_ref().map(Path::keys).unwrap_or_default() };
            let decoder = JsonDecoder::new(row, &json).map_err(at("fields"))?;
            Ok((PayloadDecoder::Json(decoder), format!("{json:?}")))
        }
        Format::Csv { delimiter, header, columns, .. } => {
            let &[delimiter] = delimiter.as_bytes() else {
                return Err(Problem::new("format.delimiter", format!("`{delimiter}` cannot be a delimiter"))
                    .help("use one of , ; | : # tab or space"));
            };
            let csv = CsvFormat { delimiter, header: *header, columns: columns.clone() };
            let decoder = CsvDecoder::new(row, &csv).map_err(at("format"))?;
            Ok((PayloadDecoder::Csv(decoder), format!("{csv:?}")))
        }
        Format::Value { .. } => {
            let decoder = ValueDecoder::new(row).map_err(at("format"))?;
            Ok((PayloadDecoder::Value(decoder), "value".to_owned()))
        }
        Format::None {} => Err(Problem::new("format", "there is nothing to decode")),
    }
}

/// The time of a source, with its port for rows ahead of the clock.
fn progress(config: &DecodeConfig, port: usize, problems: &mut Vec<Problem>) -> Option<Progress> {
    let keys = config.event_time.unwrap_or_default();
    let before = problems.len();
    let durations = [
        ("lateness", Some(keys.lateness), Period::seconds(0)),
        ("idle", Some(keys.idle), Period(std::time::Duration::from_millis(1))),
        ("ahead", Some(keys.ahead), Period::seconds(0)),
        ("grid", keys.grid, Period(std::time::Duration::from_micros(GRID_US_MIN.unsigned_abs()))),
    ];
    for (key, period, least) in durations {
        if let Some(period) = period.filter(|period| *period < least || *period > PERIOD_MAX) {
            problems.push(Problem::new(
                format!("event_time.{key}"),
                format!(
                    "`event_time.{key}` is \"{period}\"; it must be from \"{least}\" to \"{PERIOD_MAX}\""
                ),
            ));
        }
    }
    if problems.len() > before {
        return None;
    }
    let lateness = keys.lateness.micros();
    let grid = keys.grid.map_or_else(|| (lateness / 5).clamp(GRID_US.0, GRID_US.1), Period::micros);
    let live = config.live.then_some(Live { idle: keys.idle.0, ahead: keys.ahead.0, port });
    Some(Progress::new(lateness, grid, live))
}
