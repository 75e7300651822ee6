//! The fields of a model file's body, in their order. Pure.
//!
//! Texts are a `u16` length and UTF-8; lists a `u32` count and their elements. In order: name, version
//! `u64`, created `i64` µs, producer, parent (a flag byte, then 32 bytes), columns (name, mean `f64`,
//! deviation `f64`), input quantization (scale `f32`, zero point `i8`), layers, score kind `u8`, threshold
//! `f64`, training rows `u64`, held-out rows `u64`, false alarm rate `f64`, self-tests (values `f64`, score
//! `f64`). A layer is inputs `u32`, outputs `u32`, activation `u8`, output quantization, weights `i8`,
//! biases `i32`, mantissas `i32`, shifts `i8`.

use super::bytes::{Reader, Writer};
use super::format::{
    Activation, Column, LAYERS_MAX, Layer, ModelFile, ModelId, NAME_BYTES_MAX, Origin, SELF_TESTS_MAX, Score,
    SelfTest, WIDTH_MAX,
};
use super::quant::{Multiplier, Quantization};
use crate::error::{Error, Result};

/// The body's bytes for a model whose texts have been checked.
pub(super) fn write(model: &ModelFile) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(&model.name);
    out.u64(model.version);
    out.u64(model.created_us as u64);
    out.text(&model.producer);
    out.u8(u8::from(model.parent.is_some()));
    if let Some(parent) = model.parent {
        out.bytes.extend_from_slice(&parent.0);
    }
    out.u32(model.columns.len() as u32);
    for column in &model.columns {
        out.text(&column.name);
        out.f64(column.mean);
        out.f64(column.deviation);
    }
    write_quantization(&mut out, model.input);
    out.u32(model.layers.len() as u32);
    for layer in &model.layers {
        write_layer(&mut out, layer);
    }
    out.u8(match model.score {
        Score::MeanSquaredError => 1,
    });
    out.f64(model.threshold);
    out.u64(model.origin.training_rows);
    out.u64(model.origin.held_out_rows);
    out.f64(model.origin.false_alarm_rate);
    out.u32(model.self_tests.len() as u32);
    for test in &model.self_tests {
        test.values.iter().for_each(|&value| out.f64(value));
        out.f64(test.score);
    }
    out.bytes
}

fn write_quantization(out: &mut Writer, map: Quantization) {
    out.f32(map.scale);
    out.u8(map.zero_point as u8);
}

fn write_layer(out: &mut Writer, layer: &Layer) {
    out.u32(layer.inputs as u32);
    out.u32(layer.outputs as u32);
    out.u8(match layer.activation {
        Activation::Linear => 0,
        Activation::Relu => 1,
    });
    write_quantization(out, layer.output);
    out.bytes.extend(layer.weights.iter().map(|&weight| weight as u8));
    layer.biases.iter().for_each(|&bias| out.u32(bias as u32));
    layer.multipliers.iter().for_each(|multiplier| out.u32(multiplier.value as u32));
    out.bytes.extend(layer.multipliers.iter().map(|multiplier| multiplier.shift as u8));
}

/// The model in a body, without a signature (that is the header's). Every length is checked against its
/// limit and the bytes that are there; what the values mean together is checked by the caller.
pub(super) fn read(body: &[u8]) -> Result<ModelFile> {
    let mut from = Reader::new(body);
    let name = from.text(NAME_BYTES_MAX, "the model's name")?;
    let version = from.u64("the model's version")?;
    let created_us = from.u64("the creation time")? as i64;
    let producer = from.text(NAME_BYTES_MAX, "the producer")?;
    let parent = match from.u8("the parent's flag")? {
        0 => None,
        1 => Some(ModelId(from.array("the parent's id")?)),
        other => return Err(Error::model(format!("the parent's flag is {other}, not 0 or 1"))),
    };
    let columns = read_columns(&mut from)?;
    let input = read_quantization(&mut from, "the input's quantization")?;
    let layer_count = from.count(LAYERS_MAX, 14, "the number of layers")?;
    let mut layers = Vec::with_capacity(layer_count);
    for index in 0..layer_count {
        layers.push(read_layer(&mut from, &format!("layer {index}"))?);
    }
    let score = match from.u8("the kind of score")? {
        1 => Score::MeanSquaredError,
        other => return Err(Error::model(format!("score kind {other} is not known to this build"))),
    };
    let threshold = from.f64("the threshold")?;
    let origin = Origin {
        training_rows: from.u64("the number of training rows")?,
        held_out_rows: from.u64("the number of held-out rows")?,
        false_alarm_rate: from.f64("the false alarm rate")?,
    };
    let self_tests = read_self_tests(&mut from, columns.len())?;
    from.finish()?;
    Ok(ModelFile {
        name,
        version,
        created_us,
        producer,
        parent,
        columns,
        input,
        layers,
        score,
        threshold,
        origin,
        self_tests,
        signature: None,
    })
}

fn read_columns(from: &mut Reader<'_>) -> Result<Vec<Column>> {
    let count = from.count(WIDTH_MAX, 18, "the number of columns")?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let name = from.text(NAME_BYTES_MAX, "a column's name")?;
        let mean = from.f64("a column's mean")?;
        let deviation = from.f64("a column's deviation")?;
        columns.push(Column { name, mean, deviation });
    }
    Ok(columns)
}

fn read_quantization(from: &mut Reader<'_>, field: &str) -> Result<Quantization> {
    Ok(Quantization { scale: from.f32(field)?, zero_point: from.u8(field)? as i8 })
}

fn read_layer(from: &mut Reader<'_>, place: &str) -> Result<Layer> {
    let inputs = from.count(WIDTH_MAX, 1, &format!("{place}, inputs"))?;
    let outputs = from.count(WIDTH_MAX, inputs + 9, &format!("{place}, outputs"))?;
    let activation = match from.u8(place)? {
        0 => Activation::Linear,
        1 => Activation::Relu,
        other => return Err(Error::model(format!("{place}: activation {other} is not known to this build"))),
    };
    let output = read_quantization(from, place)?;
    let weights = from.take(inputs * outputs, place)?.iter().map(|&byte| byte as i8).collect();
    let biases = from.words(outputs, place, i32::from_le_bytes)?;
    let mantissas = from.words(outputs, place, i32::from_le_bytes)?;
    let shifts = from.take(outputs, place)?;
    let multipliers = mantissas
        .into_iter()
        .zip(shifts)
        .map(|(value, &shift)| Multiplier { value, shift: shift as i8 })
        .collect();
    Ok(Layer { inputs, outputs, activation, weights, biases, multipliers, output })
}

fn read_self_tests(from: &mut Reader<'_>, width: usize) -> Result<Vec<SelfTest>> {
    let count = from.count(SELF_TESTS_MAX, (width + 1) * 8, "the number of self-test vectors")?;
    let mut tests = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = from.take(width * 8, "a self-test vector")?;
        let (words, _) = bytes.as_chunks::<8>();
        let values = words.iter().map(|&word| f64::from_le_bytes(word)).collect();
        tests.push(SelfTest { values, score: from.f64("a self-test score")? });
    }
    Ok(tests)
}
