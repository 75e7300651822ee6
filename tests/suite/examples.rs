//! The programs of `examples/`, as they were built: each checks itself. `cargo test` builds them; with `--test suite`
//! alone it does not, and `cargo build --examples` must have.

use std::path::PathBuf;
use std::process::{Command, Output};

fn run(name: &str, arguments: &[&str]) -> Output {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tidegate")).with_file_name("examples").join(name);
    assert!(program.exists(), "{} is not built: run `cargo build --examples`", program.display());
    Command::new(program).args(arguments).output().unwrap()
}

/// Runs an example without arguments; gives what it printed.
fn succeed(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{told}\n{wrong}", output.status);
    told.into_owned()
}

#[test]
fn the_engine_is_embedded() {
    let told = succeed("embed", &[]);
    assert!(told.contains("All three ways give the same."), "{told}");
}

#[test]
fn an_operator_from_outside_is_one_of_the_house() {
    let told = succeed("custom_operator", &[]);
    assert!(told.contains("deadband keeps the laws"), "{told}");
    assert!(succeed("custom_operator", &["list"]).contains("operator  deadband"));
    assert!(
        succeed("custom_operator", &["explain", "deadband"]).contains("`half_life` (a duration, required)")
    );
    let schema = succeed("custom_operator", &["schema"]);
    assert!(schema.contains("deadband"), "its keys are in the schema for editors");
}

#[test]
fn its_mistakes_have_a_place_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong.toml");
    let text = r#"[pipeline]
name = "wrong"
[source.plant]
type = "simulate"
[operator.news]
type = "deadband"
inputs = ["plant"]
column = "tempp"
band = 1.0
half_life = "1s"
[sink.out]
type = "stdout"
inputs = ["news"]
"#;
    std::fs::write(&file, text).unwrap();
    let output = run("custom_operator", &["check", file.to_str().unwrap()]);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{wrong}");
    assert!(wrong.contains("wrong.toml:8:10") && wrong.contains("did you mean \"temp\"?"), "{wrong}");
}

#[test]
fn a_model_is_pushed() {
    let told = succeed("push_model", &[]);
    assert!(told.contains("second model: 200") && told.contains("half a model: 422"), "{told}");
}
