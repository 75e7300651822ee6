//! How the program is linked. Run by cargo before it builds; not a part of the program.

use std::env;
use std::path::Path;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER");
    // Functions whose machine code is the same are kept once. Only LLD does that: the linker of this target, unless
    // somebody has chosen another, or the compiler came without it.
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let is_chosen = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if is("TARGET", TARGET) && is("PROFILE", "release") && !is_chosen && has_lld() {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}

/// Whether the compiler has an LLD of its own.
fn has_lld() -> bool {
    let Some(rustc) = env::var_os("RUSTC") else { return false };
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Path::new(&root).join("lib/rustlib").join(TARGET).join("bin/gcc-ld/ld.lld").exists()
}
