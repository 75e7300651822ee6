//! What a model file holds, as a table for people. Pure.

use super::format::{Activation, Layer, ModelFile, ModelId, Score};
use std::fmt::Write;

/// A table of everything but the weights themselves; ends with a newline.
pub fn inspect(id: &ModelId, file: &ModelFile) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_facts(&mut text, id, file);
    let _ = write_columns(&mut text, file);
    let _ = write_layers(&mut text, file);
    text
}

fn write_facts(text: &mut String, id: &ModelId, file: &ModelFile) -> std::fmt::Result {
    let mut fact = |name: &str, value: String| writeln!(text, "{name:<12}{value}");
    fact("model", format!("{}  \"{}\", version {}", id.short(), file.name, file.version))?;
    fact("id", id.to_string())?;
    fact("created", format!("{} by {}", time(file.created_us), file.producer))?;
    fact("parent", file.parent.map_or("none".to_owned(), |parent| parent.to_string()))?;
    let key = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    fact(
        "signature",
        file.signature.map_or("none".to_owned(), |signed| format!("by key {}", key(&signed.key_id))),
    )?;
    let Score::MeanSquaredError = file.score;
    fact("score", "mean squared reconstruction error of the scaled columns".to_owned())?;
    let origin = &file.origin;
    fact(
        "threshold",
        format!(
            "{} (false alarm rate {} over {} held-out rows)",
            file.threshold, origin.false_alarm_rate, origin.held_out_rows
        ),
    )?;
    fact("trained on", format!("{} rows", origin.training_rows))?;
    fact("self-test", format!("{} vectors", file.self_tests.len()))?;
    let products: usize = file.layers.iter().map(|layer| layer.weights.len()).sum();
    let biases: usize = file.layers.iter().map(|layer| layer.outputs).sum();
    fact("size", format!("{products} weights and multiply-adds per row, {biases} biases"))
}

fn write_columns(text: &mut String, file: &ModelFile) -> std::fmt::Result {
    let wide = file.columns.iter().map(|column| column.name.chars().count()).fold(6, usize::max);
    writeln!(text, "\n{:<wide$}  {:>14}  {:>14}", "column", "mean", "deviation")?;
    for column in &file.columns {
        writeln!(text, "{:<wide$}  {:>14.6}  {:>14.6}", column.name, column.mean, column.deviation)?;
    }
    Ok(())
}

fn write_layers(text: &mut String, file: &ModelFile) -> std::fmt::Result {
    let header = ["inputs", "outputs", "activation", "weight scales", "output scale", "zero point"];
    let [inputs, outputs, activation, weights, scale, zero] = header;
    writeln!(
        text,
        "\nlayer  {inputs:>7}  {outputs:>7}  {activation:<10}  {weights:<23}  {scale:>12}  {zero:>10}"
    )?;
    let mut input_scale = file.input.scale;
    writeln!(
        text,
        "input  {:>7}  {:>7}  {:<10}  {:<23}  {:>12.6}  {:>10}",
        "",
        file.width(),
        "",
        "",
        input_scale,
        file.input.zero_point
    )?;
    for (index, layer) in file.layers.iter().enumerate() {
        let activation = match layer.activation {
            Activation::Linear => "linear",
            Activation::Relu => "relu",
        };
        writeln!(
            text,
            "{index:<5}  {:>7}  {:>7}  {activation:<10}  {:<23}  {:>12.6}  {:>10}",
            layer.inputs,
            layer.outputs,
            weight_scales(layer, input_scale),
            layer.output.scale,
            layer.output.zero_point
        )?;
        input_scale = layer.output.scale;
    }
    Ok(())
}

/// The least and the largest real value of a weight's step, from the factors.
fn weight_scales(layer: &Layer, input_scale: f32) -> String {
    let factor = f64::from(layer.output.scale) / f64::from(input_scale);
    let scales = layer.multipliers.iter().map(|multiplier| multiplier.to_real() * factor);
    let (least, largest) = scales.fold((f64::INFINITY, 0_f64), |(a, b), scale| (a.min(scale), b.max(scale)));
    format!("{least:.3e} to {largest:.3e}")
}

/// RFC 3339 in UTC, or the bare number where the calendar does not reach.
fn time(us: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(us) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        None => format!("{us} µs since 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::format::Signature;
    use crate::model::samples;

    #[test]
    fn the_table_names_everything_a_person_asks_for() {
        let mut model = samples::small_model();
        model.signature = Some(Signature { key_id: [0xab; 8], bytes: [1; 64] });
        model.parent = Some(ModelId([0xcd; 32]));
        let (id, _) = model.write().unwrap();
        let text = inspect(&id, &model);
        let parent = "cd".repeat(32);
        for part in [
            id.short().as_str(),
            "\"sample\", version 3",
            "2023-11-14T22:13:20Z by tidegate test",
            parent.as_str(),
            "by key abababababababab",
            "1.5 (false alarm rate 0.01 over 20 held-out rows)",
            "24 weights and multiply-adds per row, 7 biases",
            "c2           20.000000        3.000000",
            "relu",
            "linear",
        ] {
            assert!(text.contains(part), "wanted \"{part}\" in\n{text}");
        }
        assert_eq!(time(i64::MAX), "9223372036854775807 µs since 1970");
    }
}
