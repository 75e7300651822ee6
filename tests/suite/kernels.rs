//! The kernels of `detect`, chosen from the command line: whichever runs, the output is the same to the byte.

use std::fmt::Write;

use tidegate::model::Kernel;

use crate::support::{text, tidegate};

const PIPELINE: &str = r#"
[pipeline]
name = "kernels"
[source.plant]
type = "mqtt"
url = "mqtt://localhost"
topics = ["t"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { a = "f64", b = "f64", c = "f64", d = "f64", e = "f64" }
[operator.scored]
type = "detect"
inputs = ["plant"]
model = { file = "MODEL" }
[sink.out]
type = "file"
inputs = ["scored"]
path = "unused.ndjson"
"#;

/// Five columns that go together, with strange rows and gaps among them.
fn row(number: u64) -> [Option<f64>; 5] {
    let x = (number as f64 * 0.37).sin() * 10.0;
    let noise = |seed: u64| ((number * 7919 + seed * 104_729) % 1009) as f64 / 1009.0;
    let mut row = [x, 2.0 * x, -x, x * x / 10.0, x + 5.0].map(Some);
    row.iter_mut().flatten().zip(0..).for_each(|(value, seed)| *value += noise(seed));
    if number % 101 == 7 {
        row[(number % 5) as usize] = Some(1e6);
    }
    if number % 67 == 3 {
        row[(number % 5) as usize] = None;
    }
    row
}

#[test]
fn every_kernel_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (mut table, mut recorded) = ("a,b,c,d,e\n".to_owned(), String::new());
    for number in 0..3000 {
        let values = row(number);
        let cells: Vec<String> =
            values.iter().map(|value| value.map_or_else(String::new, |value| value.to_string())).collect();
        if number < 600 {
            writeln!(table, "{}", cells.join(",")).unwrap();
        }
        write!(recorded, "{{\"ts\":{}", 1_700_000_000_000 + number).unwrap();
        for (name, value) in
            ["a", "b", "c", "d", "e"].iter().zip(&cells).filter(|(_, value)| !value.is_empty())
        {
            write!(recorded, ",\"{name}\":{value}").unwrap();
        }
        recorded += "}\n";
    }
    std::fs::write(at("normal.csv"), table).unwrap();
    std::fs::write(at("plant.ndjson"), recorded).unwrap();
    std::fs::write(at("kernels.toml"), PIPELINE.replace("MODEL", &at("m.tgm"))).unwrap();
    // Widths that are no multiples of what the kernels take at once.
    let (data, out) = (at("normal.csv"), at("m.tgm"));
    let words = ["--columns", "a,b,c,d,e", "--hidden", "37,3,37", "--epochs", "4"];
    let trained = tidegate(&[&["model", "train", &data, "--out", &out][..], &words].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));

    let mut outputs = Vec::new();
    for kernel in ["scalar", "auto", "avx2", "avx512-vnni"] {
        let (input, set) =
            (format!("plant={}", at("plant.ndjson")), format!("operator.scored.kernel={kernel}"));
        let words = ["replay", &at("kernels.toml"), "--input", &input, "--out", &at(kernel), "--set", &set];
        let replayed = tidegate(&words);
        let said = text(&replayed.stderr);
        if Kernel::parse(kernel).is_err() {
            assert_eq!(replayed.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("this processor cannot run kernel \"{kernel}\"")), "{said}");
            println!("{kernel}: not on this processor");
            continue;
        }
        assert!(replayed.status.success(), "{said}");
        let bytes = std::fs::read(directory.path().join(kernel).join("out.ndjson")).unwrap();
        let scored = memchr::memmem::find_iter(&bytes, b"\"anomaly\":true").count();
        assert!(scored > 5, "{kernel}: {scored} anomalies");
        println!("{kernel}: {} bytes, {scored} anomalies", bytes.len());
        outputs.push((kernel, bytes));
    }
    for (kernel, bytes) in &outputs {
        assert!(*bytes == outputs[0].1, "{kernel} differs from {}", outputs[0].0);
    }
    assert!(outputs.len() >= 2);
}
