//! `tidegate state show` beside a running pipeline and after it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{TIDEGATE, text, tidegate};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PIPELINE: &str = r#"
[pipeline]
name = "presses"
checkpoint = "100ms"

[source.plant]
type = "simulate"
devices = 3
rate_hz = 50.0

[operator.features]
type = "window"
inputs = ["plant"]
size = "1h"
by = ["device"]
columns = { temp = ["mean", "max", "p99"] }

[operator.odd]
type = "detect"
inputs = ["plant"]
by = ["device"]
columns = ["temp"]

[sink.out]
type = "file"
inputs = ["odd"]
path = "OUT"

[sink.windows]
type = "stdout"
inputs = ["features"]
"#;

fn show(arguments: &[&str]) -> Result<serde_json::Value, String> {
    let output = tidegate(&[&["state", "show"], arguments, &["--json"]].concat());
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(text(&output.stderr)),
    }
}

/// Looks until a checkpoint is behind an epoch.
fn shown_behind(epoch: u64, arguments: &[&str]) -> serde_json::Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(shown) = show(arguments)
            && shown[0]["epoch"].as_u64().unwrap() > epoch
        {
            return shown;
        }
        assert!(Instant::now() < until, "no checkpoint behind epoch {epoch}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn saved_state_is_shown_beside_a_running_pipeline_and_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let (data, file) = (directory.path().join("data"), directory.path().join("presses.toml"));
    let out = directory.path().join("out.ndjson");
    std::fs::write(&file, PIPELINE.replace("OUT", out.to_str().unwrap())).unwrap();
    let data = data.to_str().unwrap();
    std::fs::create_dir(data).unwrap();
    assert!(show(&[data]).unwrap_err().contains("no pipeline in "));

    let mut command = Command::new(TIDEGATE);
    command.arg("run").arg(&file).args(["--data-dir", data]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    let shown = shown_behind(4, &[data]);
    let (pipeline, nodes) = (&shown[0], shown[0]["nodes"].as_array().unwrap());
    assert_eq!(pipeline["pipeline"], "presses");
    assert_eq!(pipeline["passed_over"], serde_json::json!([]));
    assert!(pipeline["sinks"]["out"].is_string() && pipeline["sources"].is_object(), "{pipeline}");
    let types: Vec<&str> = nodes.iter().map(|node| node["type"].as_str().unwrap()).collect();
    assert!(types.contains(&"window") && types.contains(&"detect"), "{types:?}");

    let one = shown_behind(4, &[data, "--pipeline", "presses", "--node", "features"]);
    let features = &one[0]["nodes"][0];
    assert_eq!(features["keys"], 3);
    let keys = features["shown_keys"].as_array().unwrap();
    assert_eq!(keys.len(), 3);
    let rows = keys[0]["kept"]["windows"][0]["rows"].as_u64().unwrap();
    assert!(rows > 0);
    assert_eq!(keys[0]["kept"]["moments of temp"][0]["count"], rows);

    let name = keys[1]["key"].as_str().unwrap();
    let key = shown_behind(0, &[data, "--node", "odd", "--key", name]);
    let shown_keys = key[0]["nodes"][0]["shown_keys"].as_array().unwrap();
    assert_eq!((shown_keys.len(), shown_keys[0]["key"].as_str()), (1, Some(name)));
    assert!(shown_keys[0]["kept"]["estimates of temp"][0]["learned"].as_u64().unwrap() > 0);
    assert!(show(&[data, "--node", "nothing"]).unwrap_err().contains("it has "));
    Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert!(process.0.wait().unwrap().success());

    // The last cut is a whole checkpoint too; in words it says the same.
    let last = show(&[data]).unwrap()[0]["epoch"].as_u64().unwrap();
    let words = text(&tidegate(&["state", "show", data, "--node", "features"]).stdout);
    assert!(words.starts_with(&format!("presses: epoch {last}, committed 20")), "{words}");
    for part in [
        "log: goes on at offset",
        "sink out: at ",
        "features (window): ",
        ", 3 keys",
        "keys last seen: time 20",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}
