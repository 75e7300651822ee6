//! A gateway with `duty_cycle` built in: the whole `tidegate` command with one more operator.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main_with(duty_cycle::registry())
}
