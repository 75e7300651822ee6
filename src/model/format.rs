//! The model file: what a model is, its limits, and the header that seals it. Pure: bytes in, bytes out.
//!
//! A file is a header of 128 bytes and a body. All numbers are little-endian.
//!
//! | offset | bytes | header field |
//! |---|---|---|
//! | 0 | 8 | magic `TGMODEL` and a zero byte |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | flags: bit 0, a signature is present |
//! | 12 | 4 | CRC-32 of the header with this field zero |
//! | 16 | 8 | length of the body in bytes |
//! | 24 | 32 | BLAKE3 of the body: checksum and model id in one |
//! | 56 | 8 | id of the signing key, zero without a signature |
//! | 64 | 64 | signature over the model id, zero without one |
//!
//! The signature lies outside the hashed body, so signing a model does not change its id. The body is in
//! `body.rs`. Every bit of a file is covered: the header by its CRC, the body by its hash.

use super::body;
use super::quant::{Multiplier, Quantization};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// The first eight bytes of every model file.
pub const MAGIC: [u8; 8] = *b"TGMODEL\0";
/// The format version this build writes, and the only one it reads.
pub const FORMAT_VERSION: u16 = 1;
/// The header's length in bytes.
pub const HEADER_BYTES: usize = 128;
/// The largest file that is read or written, in bytes.
pub const FILE_BYTES_MAX: usize = 64 << 20;
/// The largest number of layers.
pub const LAYERS_MAX: usize = 64;
/// The largest number of inputs or outputs of a layer, and so of columns.
pub const WIDTH_MAX: usize = 16_384;
/// The largest number of self-test vectors.
pub const SELF_TESTS_MAX: usize = 64;
/// The longest name (of the model, its producer, a column) in bytes.
pub const NAME_BYTES_MAX: usize = 256;

const FLAG_SIGNED: u16 = 1;

pub use crate::core::ModelId;

/// One input column and how its values are scaled: `(value - mean) / deviation`.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The column's name in the input schema.
    pub name: String,
    /// The mean over the training rows, in the column's own unit.
    pub mean: f64,
    /// The standard deviation over the training rows, in the column's own unit; positive.
    pub deviation: f64,
}

/// What follows a layer's affine map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Linear,
    /// `max(0, x)`.
    Relu,
}

/// One dense layer, quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The number of inputs.
    pub inputs: usize,
    /// The number of outputs.
    pub outputs: usize,
    /// What follows the affine map.
    pub activation: Activation,
    /// The weights, `outputs` rows of `inputs` each, symmetric int8 per row.
    pub weights: Vec<i8>,
    /// One bias per output, scaled by input scale × weight scale.
    pub biases: Vec<i32>,
    /// One factor per output, input scale × weight scale ÷ output scale.
    pub multipliers: Vec<Multiplier>,
    /// The quantization of the outputs.
    pub output: Quantization,
}

/// How a row becomes one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// The mean over the columns of the squared difference between scaled input and reconstruction.
    MeanSquaredError,
}

/// What is known about how the model was made; shown to people, used by nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Origin {
    /// Rows the weights were fitted to.
    pub training_rows: u64,
    /// Rows held out: they chose the epoch and the threshold.
    pub held_out_rows: u64,
    /// The share of normal rows the threshold was chosen to mark, in `[0, 1)`.
    pub false_alarm_rate: f64,
}

/// One row with the score it must give, bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfTest {
    /// Raw values in the order of the columns, before scaling.
    pub values: Vec<f64>,
    /// The score that the maker of the file computed.
    pub score: f64,
}

/// A signature over the model id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Which key signed.
    pub key_id: [u8; 8],
    /// The signature itself (Ed25519 by length; checked by whoever holds the key).
    pub bytes: [u8; 64],
}

/// A model as data: everything a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// A name for people.
    pub name: String,
    /// The maker's number for this model, larger for a later one.
    pub version: u64,
    /// When it was made, in µs since 1970, by the maker's clock.
    pub created_us: i64,
    /// What made it, e.g. `tidegate 0.1.0`.
    pub producer: String,
    /// The model it was derived from.
    pub parent: Option<ModelId>,
    /// The input columns, in the order of the first layer's inputs.
    pub columns: Vec<Column>,
    /// The quantization of the scaled inputs.
    pub input: Quantization,
    /// The layers, first to last; the last has as many outputs as there are columns.
    pub layers: Vec<Layer>,
    /// How a row becomes one number.
    pub score: Score,
    /// A row is an anomaly when its score is above this.
    pub threshold: f64,
    /// How it was made.
    pub origin: Origin,
    /// Rows that every verification runs; at least one.
    pub self_tests: Vec<SelfTest>,
    /// A signature over the id, outside the hashed body.
    pub signature: Option<Signature>,
}

impl ModelFile {
    /// The file's bytes and the id they carry. Refuses what [`ModelFile::read`] would refuse.
    pub fn write(&self) -> Result<(ModelId, Vec<u8>)> {
        self.check()?;
        let body = body::write(self);
        if HEADER_BYTES + body.len() > FILE_BYTES_MAX {
            return Err(Error::model(format!(
                "the model would take {} bytes; the limit is {FILE_BYTES_MAX}: use narrower layers",
                HEADER_BYTES + body.len()
            )));
        }
        Ok(seal(&body, self.signature))
    }

    /// The model in `bytes`, and its id. Refuses damage (a changed bit anywhere), other versions,
    /// anything beyond the limits, trailing bytes, and shapes that do not fit together.
    pub fn read(bytes: &[u8]) -> Result<(ModelId, Self)> {
        let (id, signature, body) = open(bytes)?;
        let mut model = body::read(body)?;
        model.signature = signature;
        model.check()?;
        Ok((id, model))
    }

    /// The number of inputs of the first layer, and of outputs of the last.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Everything that must hold beyond the mere presence of the fields.
    fn check(&self) -> Result<()> {
        check_text(&self.name, "the model's name")?;
        check_text(&self.producer, "the model's producer")?;
        self.check_columns()?;
        self.input.check("the model's input")?;
        self.check_layers()?;
        if !(self.threshold.is_finite() && self.threshold >= 0.0) {
            return Err(Error::model(format!("the threshold {} is not a number from 0 up", self.threshold)));
        }
        if !(0.0..1.0).contains(&self.origin.false_alarm_rate) {
            let rate = self.origin.false_alarm_rate;
            return Err(Error::model(format!("the false alarm rate {rate} is not in [0, 1)")));
        }
        check_count(self.self_tests.len(), SELF_TESTS_MAX, "self-test vectors")?;
        for (index, test) in self.self_tests.iter().enumerate() {
            let usable = test.values.iter().all(|value| value.is_finite()) && test.score.is_finite();
            if test.values.len() != self.width() || !usable {
                return Err(Error::model(format!(
                    "self-test vector {index} must hold {} finite values and a finite score",
                    self.width()
                )));
            }
        }
        Ok(())
    }

    fn check_columns(&self) -> Result<()> {
        check_count(self.columns.len(), WIDTH_MAX, "columns")?;
        let mut seen = BTreeSet::new();
        for column in &self.columns {
            check_text(&column.name, "a column's name")?;
            if !seen.insert(column.name.as_str()) {
                return Err(Error::model(format!("the model names column \"{}\" twice", column.name)));
            }
            let deviation_usable = column.deviation.is_normal() && column.deviation > 0.0;
            if !column.mean.is_finite() || !deviation_usable {
                return Err(Error::model(format!(
                    "column \"{}\" is scaled by mean {} and deviation {}; both must be finite, the deviation positive",
                    column.name, column.mean, column.deviation
                )));
            }
        }
        Ok(())
    }

    fn check_layers(&self) -> Result<()> {
        check_count(self.layers.len(), LAYERS_MAX, "layers")?;
        let mut width = self.width();
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.inputs != width {
                return Err(Error::model(format!(
                    "layer {index} takes {} inputs, but {width} come in",
                    layer.inputs
                )));
            }
            layer.check(index)?;
            width = layer.outputs;
        }
        if width != self.width() {
            return Err(Error::model(format!(
                "the last layer gives {width} outputs for {} columns; an autoencoder gives one for each",
                self.width()
            )));
        }
        Ok(())
    }
}

impl Layer {
    /// The codes an output can take: the whole of int8, or from the zero point up under a ReLU.
    pub fn output_stage(&self) -> super::quant::OutputStage {
        let zero_point = self.output.zero_point;
        let low = if self.activation == Activation::Relu { zero_point } else { i8::MIN };
        super::quant::OutputStage { zero_point, low, high: i8::MAX }
    }

    /// The weights of one output.
    pub fn row(&self, output: usize) -> &[i8] {
        &self.weights[output * self.inputs..][..self.inputs]
    }

    fn check(&self, index: usize) -> Result<()> {
        check_count(self.inputs, WIDTH_MAX, "inputs of a layer")?;
        check_count(self.outputs, WIDTH_MAX, "outputs of a layer")?;
        self.output.check(&format!("layer {index}"))?;
        let sizes = (self.weights.len(), self.biases.len(), self.multipliers.len());
        if sizes != (self.inputs * self.outputs, self.outputs, self.outputs) {
            return Err(Error::model(format!(
                "layer {index} of {} × {} holds {} weights, {} biases and {} factors",
                self.inputs, self.outputs, sizes.0, sizes.1, sizes.2
            )));
        }
        for (output, (&bias, multiplier)) in self.biases.iter().zip(&self.multipliers).enumerate() {
            multiplier.check(&|| format!("layer {index}, output {output}"))?;
            // With this bound no order of summation, and no kernel's correction for the zero point, can
            // leave the i32 accumulator.
            let weight_sum: i64 = self.row(output).iter().map(|&weight| i64::from(weight).abs()).sum();
            if i64::from(bias).abs() + 255 * weight_sum > i64::from(i32::MAX) {
                return Err(Error::model(format!(
                    "layer {index}, output {output}: weights and bias can overflow the 32-bit accumulator"
                )));
            }
        }
        Ok(())
    }
}

fn check_text(text: &str, field: &str) -> Result<()> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(Error::model(format!(
            "{field} must have 1 to {NAME_BYTES_MAX} bytes, not {}",
            text.len()
        )));
    }
    Ok(())
}

fn check_count(count: usize, limit: usize, what: &str) -> Result<()> {
    if count == 0 || count > limit {
        return Err(Error::model(format!("a model has 1 to {limit} {what}, not {count}")));
    }
    Ok(())
}

/// A body under its header.
pub(super) fn seal(body: &[u8], signature: Option<Signature>) -> (ModelId, Vec<u8>) {
    let id = ModelId(*blake3::hash(body).as_bytes());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    let (flags, key_id, signature) =
        signature.map_or((0, [0; 8], [0; 64]), |signed| (FLAG_SIGNED, signed.key_id, signed.bytes));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(&key_id);
    bytes.extend_from_slice(&signature);
    let crc = crc32fast::hash(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    (id, bytes)
}

/// Takes the header off and checks everything it promises about the body.
fn open(bytes: &[u8]) -> Result<(ModelId, Option<Signature>, &[u8])> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(Error::model(format!(
            "the model file has {} bytes; the limit is {FILE_BYTES_MAX}",
            bytes.len()
        )));
    }
    if !bytes.starts_with(&MAGIC) {
        return Err(Error::model("this is not a model file: it does not begin with \"TGMODEL\""));
    }
    let mut header = super::bytes::Reader::new(bytes);
    header.take(MAGIC.len(), "the magic")?;
    let version = header.u16("the format version")?;
    if version != FORMAT_VERSION {
        return Err(Error::model(format!(
            "the model file has format version {version}; this build reads version {FORMAT_VERSION}"
        )));
    }
    let flags = header.u16("the flags")?;
    let crc = header.u32("the header's checksum")?;
    let length = header.u64("the body's length")?;
    let id = ModelId(header.array("the body's hash")?);
    let signature = Signature { key_id: header.array("the key id")?, bytes: header.array("the signature")? };
    let mut zeroed = bytes[..HEADER_BYTES].to_vec();
    zeroed[12..16].fill(0);
    if crc32fast::hash(&zeroed) != crc {
        return Err(Error::model("the model file's header is damaged: its checksum does not match"));
    }
    let unsigned = signature.key_id == [0; 8] && signature.bytes == [0; 64];
    if flags & !FLAG_SIGNED != 0 || (flags == 0 && !unsigned) {
        return Err(Error::model(format!("the model file's flags {flags:#06x} are not known to this build")));
    }
    let body = &bytes[HEADER_BYTES..];
    if body.len() as u64 != length {
        return Err(Error::model(format!(
            "the model file is cut or has bytes too many: its header promises a body of {length} bytes, there are {}",
            body.len()
        )));
    }
    if *blake3::hash(body).as_bytes() != id.0 {
        return Err(Error::model("the model file is damaged: its body does not match its checksum"));
    }
    Ok((id, (flags == FLAG_SIGNED).then_some(signature), body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples;
    use proptest::prelude::*;

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let mut model = samples::small_model();
        let (id, bytes) = model.write().unwrap();
        assert_eq!(&bytes[..7], b"TGMODEL");
        assert_eq!(ModelFile::read(&bytes).unwrap(), (id, model.clone()));
        assert_eq!(id.short(), id.to_string()[..12]);

        // Parent and signature; the signature does not change the id, the parent does.
        model.signature = Some(Signature { key_id: [7; 8], bytes: [9; 64] });
        let (signed_id, signed) = model.write().unwrap();
        assert_eq!(signed_id, id);
        assert_eq!(ModelFile::read(&signed).unwrap().1, model);
        model.parent = Some(id);
        let (child_id, child) = model.write().unwrap();
        assert_ne!(child_id, id);
        assert_eq!(ModelFile::read(&child).unwrap().1.parent, Some(id));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let mut model = samples::small_model();
        model.signature = Some(Signature { key_id: [7; 8], bytes: [9; 64] });
        let (_, mut bytes) = model.write().unwrap();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ModelFile::read(&bytes).is_err(), "bit {bit} flipped, file still accepted");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(ModelFile::read(&bytes).is_ok());
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_refused() {
        let (_, mut bytes) = samples::small_model().write().unwrap();
        for length in 0..bytes.len() {
            assert!(ModelFile::read(&bytes[..length]).is_err(), "cut to {length} bytes, still accepted");
        }
        // Sealed anew, so that the body's own reader must notice.
        let body = bytes[HEADER_BYTES..].to_vec();
        for length in 0..body.len() {
            assert!(ModelFile::read(&seal(&body[..length], None).1).is_err(), "body cut to {length} bytes");
        }
        let (_, long) = seal(&[body.as_slice(), &[0]].concat(), None);
        let error = ModelFile::read(&long).unwrap_err();
        assert!(error.message.contains("1 bytes after its last field"), "{error}");
        bytes.push(0);
        assert!(ModelFile::read(&bytes).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_body_changed_and_sealed_anew_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
        ) {
            let (_, bytes) = samples::small_model().write().unwrap();
            let mut body = bytes[HEADER_BYTES..].to_vec();
            for (index, byte) in changes {
                let at = index.index(body.len());
                body[at] = byte;
            }
            // Whatever is accepted must hold every invariant, so it can be written again.
            if let Ok((id, model)) = ModelFile::read(&seal(&body, None).1) {
                prop_assert_eq!(model.write().unwrap().0, id);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(ModelFile::read(&body).is_err());
            prop_assert!(ModelFile::read(&seal(&body, None).1).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_place() {
        type Change = fn(&mut ModelFile);
        let cases: [(Change, &str); 12] = [
            (|m| m.name.clear(), "name must have 1 to 256 bytes"),
            (|m| m.columns[1].name = m.columns[0].name.clone(), "twice"),
            (|m| m.columns[0].deviation = 0.0, "deviation 0"),
            (|m| m.columns[0].mean = f64::NAN, "mean NaN"),
            (|m| m.input.scale = f32::INFINITY, "the model's input: the scale inf"),
            (|m| m.layers[1].inputs += 1, "layer 1 takes"),
            (|m| m.layers.truncate(1), "one for each"),
            (|m| m.layers[0].biases[1] = i32::MAX, "layer 0, output 1: weights and bias can overflow"),
            (|m| m.layers[0].multipliers[0].value = 5, "layer 0, output 0: 5 with shift"),
            (|m| m.threshold = -1.0, "threshold -1"),
            (|m| m.self_tests.clear(), "1 to 64 self-test vectors, not 0"),
            (|m| m.self_tests[0].values.truncate(1), "self-test vector 0"),
        ];
        for (change, reason) in cases {
            let mut model = samples::small_model();
            change(&mut model);
            let error = model.write().unwrap_err();
            assert!(error.message.contains(reason), "wanted \"{reason}\" in \"{error}\"");
            // The reader holds the same line against a file that was sealed by someone else.
            if let Ok((_, read)) = ModelFile::read(&seal(&body::write(&model), None).1) {
                panic!("accepted {read:?} in spite of: {reason}");
            }
        }
    }

    #[test]
    fn limits_are_reached_and_held() {
        let mut model = samples::small_model();
        let layer = Layer { inputs: 2, outputs: 2, ..samples::identity_layer(2) };
        model.columns.truncate(2);
        model.self_tests.iter_mut().for_each(|test| test.values.truncate(2));
        model.layers = vec![layer; LAYERS_MAX];
        assert!(ModelFile::read(&model.write().unwrap().1).is_ok());
        model.layers.push(samples::identity_layer(2));
        assert!(model.write().unwrap_err().message.contains("1 to 64 layers, not 65"));
        let (_, sealed) = seal(&body::write(&model), None);
        assert!(ModelFile::read(&sealed).unwrap_err().message.contains("the limit of 64"));
        let mut model = samples::small_model();
        model.self_tests = vec![model.self_tests[0].clone(); SELF_TESTS_MAX];
        model.name = "n".repeat(NAME_BYTES_MAX);
        let (_, bytes) = model.write().unwrap();
        assert!(ModelFile::read(&bytes).is_ok());
        type Grow = fn(&mut ModelFile);
        let beyond: [(Grow, &str); 3] = [
            (|m| m.name.push('n'), "not 257"),
            (|m| m.self_tests.push(m.self_tests[0].clone()), "self-test vectors, not 65"),
            (|m| m.columns = vec![m.columns[0].clone(); WIDTH_MAX + 1], "1 to 16384 columns, not 16385"),
        ];
        for (grow, reason) in beyond {
            let mut model = model.clone();
            grow(&mut model);
            let error = model.write().unwrap_err();
            assert!(error.message.contains(reason), "{error}");
            assert!(ModelFile::read(&seal(&body::write(&model), None).1).is_err());
        }
        let huge = vec![0; FILE_BYTES_MAX + 1];
        assert!(ModelFile::read(&huge).unwrap_err().message.contains("the limit is 67108864"));
    }
}
