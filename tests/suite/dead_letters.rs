//! Messages that nobody can read, from a source to the dead letters and to a person's eyes, by the program itself.

use crate::support::{text, tidegate};

#[test]
fn bad_payloads_become_dead_letters_that_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let messages = directory.path().join("plant.ndjson");
    std::fs::write(
        &messages,
        b"{\"ts\":1,\"temp\":20.5}\n{\"ts\":2,\"temp\":\n{\"ts\":3,\"temp\":\"\xff\"}\n",
    )
    .unwrap();
    let out = directory.path().join("out.ndjson");
    let data = directory.path().join("data").display().to_string();
    let pipeline = directory.path().join("letters.toml").display().to_string();
    let file = format!(
        "[pipeline]\nname = \"letters\"\n[source.plant]\ntype = \"file\"\npath = {messages:?}\n\
         format = {{ type = \"json\", time = \"ts\", time_unit = \"ms\" }}\nfields = {{ temp = \"f64\" }}\n\
         [sink.out]\ntype = \"file\"\ninputs = [\"plant\"]\npath = {out:?}\n\
         [sink.bad]\ntype = \"dead_letters\"\ninputs = [\"plant.bad\"]\n"
    );
    std::fs::write(&pipeline, &file).unwrap();
    let refused = tidegate(&["check", &pipeline]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("without a data directory none are kept") && said.contains("--data-dir"), "{said}");
    let off = tidegate(&["check", &pipeline, "--data-dir", &data, "--set", "pipeline.dead_letters=\"off\""]);
    assert!(text(&off.stderr).contains("`dead_letters = \"off\"` keeps none"), "{}", text(&off.stderr));

    let ran = tidegate(&["run", &pipeline, "--data-dir", &data]);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let list = text(&tidegate(&["dead-letters", "list", "--data-dir", &data, "letters"]).stdout);
    assert!(list.ends_with("plant: 2 letters bad_payload, 2 rows\n"), "{list}");
    let numbers: Vec<&str> =
        list.lines().take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    let show = |number: &str, more: &[&str]| {
        let args = [&["dead-letters", "show", "--data-dir", &data, "letters", number], more].concat();
        tidegate(&args)
    };
    let first = show(numbers[0], &[]);
    assert_eq!(text(&first.stdout), "{\"ts\":2,\"temp\":\n");
    let head = text(&first.stderr);
    assert!(
        head.contains("kind    bad_payload\nnode    plant\n") && head.contains("reason  malformed"),
        "{head}"
    );
    let second = text(&show(numbers[1], &[]).stdout);
    assert!(second.starts_with("00000000  7b 22 74 73 22 3a 33 2c "), "{second}");
    assert_eq!(show(numbers[1], &["--raw"]).stdout, b"{\"ts\":3,\"temp\":\"\xff\"}");
}
