//! From foreign bytes to a model that may run: the gate every model passes before it meets data. Pure.

use super::dense::{Dense, Scratch};
use super::format::ModelFile;
use super::kernels::Kernel;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Columns listed in a message.
const NAMED_MAX: usize = 20;

/// Checks a model file and prepares it for a kernel.
///
/// `expect` holds the columns that the node offers; the model's columns must be among them. The file must
/// be whole and within its limits, and every self-test vector must give its score bit for bit on this
/// machine with this kernel. Errors are written for the person who sent the model.
pub fn verify(bytes: &[u8], expect: &[String], kernel: Kernel) -> Result<Arc<Dense>> {
    let (id, file) = ModelFile::read(bytes)?;
    check_columns(&file, expect)?;
    let dense = Dense::new(id, file, kernel);
    run_self_tests(&dense)?;
    Ok(Arc::new(dense))
}

/// Runs every self-test vector; refuses the first score that differs in any bit.
fn run_self_tests(dense: &Dense) -> Result<()> {
    let mut scratch = Scratch::default();
    for (index, test) in dense.file().self_tests.iter().enumerate() {
        let columns: Vec<&[f64]> = test.values.chunks(1).collect();
        let mut score = [0.0];
        dense.score_columns(&mut scratch, &columns, &mut score);
        if score[0].to_bits() != test.score.to_bits() {
            return Err(Error::model(format!(
                "model {}: self-test vector {index} gives {} where the file says {}: the file was made by {}, \
                 whose arithmetic differs from this build's (tidegate {}, kernel {}); train or export it anew",
                dense.id().short(),
                score[0],
                test.score,
                dense.file().producer,
                env!("CARGO_PKG_VERSION"),
                dense.kernel()
            )));
        }
    }
    Ok(())
}

fn check_columns(file: &ModelFile, offered: &[String]) -> Result<()> {
    let missing: Vec<&str> =
        file.columns.iter().map(|column| column.name.as_str()).filter(|name| !has(offered, name)).collect();
    let Some(&first) = missing.first() else {
        return Ok(());
    };
    let plural = if missing.len() == 1 { "" } else { "s" };
    let near = offered.iter().max_by(|a, b| similarity(a, first).total_cmp(&similarity(b, first)));
    let hint = match near {
        Some(name) if similarity(name, first) > 0.8 => format!("; did you mean \"{name}\"?"),
        _ => String::new(),
    };
    Err(Error::model(format!(
        "model \"{}\" wants column{plural} {} that the input does not have; it has {}{hint}",
        file.name,
        list(&missing),
        list(&offered.iter().map(String::as_str).collect::<Vec<_>>())
    )))
}

fn has(offered: &[String], name: &str) -> bool {
    offered.iter().any(|column| column == name)
}

fn similarity(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

/// Quoted names, the first twenty of them.
fn list(names: &[&str]) -> String {
    let mut text: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("\"{name}\"")).collect();
    if text.is_empty() {
        return "none".to_owned();
    }
    if names.len() > NAMED_MAX {
        text.push(format!("and {} more", names.len() - NAMED_MAX));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_sound_model_passes_with_every_kernel() {
        let model = samples::small_model();
        let (id, bytes) = model.write().unwrap();
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.available()) {
            // More columns than wanted, in another order: the node picks.
            let dense = verify(&bytes, &names(&["x", "c2", "c1", "c0"]), kernel).unwrap();
            assert_eq!((dense.id(), dense.kernel(), dense.file()), (id, kernel, &model));
        }
    }

    #[test]
    fn a_missing_column_is_named_beside_what_there_is() {
        let mut model = samples::small_model();
        model.columns[0].name = "vib_rms".to_owned();
        let (_, bytes) = model.write().unwrap();
        let refuse = |offered: &[&str]| verify(&bytes, &names(offered), Kernel::Scalar).unwrap_err().message;
        assert_eq!(
            refuse(&["vib_rsm", "c1", "c2"]),
            "model \"sample\" wants column \"vib_rms\" that the input does not have; it has \"vib_rsm\", \"c1\", \
             \"c2\"; did you mean \"vib_rsm\"?"
        );
        assert_eq!(
            refuse(&["temperature", "c1"]),
            "model \"sample\" wants columns \"vib_rms\", \"c2\" that the input does not have; it has \
             \"temperature\", \"c1\""
        );
        assert!(refuse(&[]).ends_with("it has none"));
        let many: Vec<String> = (10..40).map(|index| format!("x{index}")).collect();
        let error = verify(&bytes, &many, Kernel::Scalar).unwrap_err().message;
        assert!(error.ends_with("\"x29\", and 10 more"), "{error}");
    }

    #[test]
    fn a_score_that_differs_in_its_last_bit_is_refused() {
        let mut model = samples::small_model();
        let score = &mut model.self_tests[1].score;
        let (right, wrong) = (*score, f64::from_bits(score.to_bits() ^ 1));
        *score = wrong;
        let (_, bytes) = model.write().unwrap();
        let error = verify(&bytes, &names(&["c0", "c1", "c2"]), Kernel::best()).unwrap_err().message;
        let want = format!(
            "self-test vector 1 gives {right} where the file says {wrong}: the file was made by tidegate test"
        );
        assert!(error.contains(&want), "{error}");
    }

    #[test]
    fn changed_weights_do_not_pass_the_self_test() {
        let mut model = samples::small_model();
        for weight in &mut model.layers[1].weights {
            *weight = weight.wrapping_neg();
        }
        let (_, bytes) = model.write().unwrap();
        let error = verify(&bytes, &names(&["c0", "c1", "c2"]), Kernel::best()).unwrap_err();
        assert!(error.message.contains("self-test vector 0 gives"), "{error}");
    }
}
