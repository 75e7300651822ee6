//! The `tidegate` command.

use std::process::ExitCode;

use tidegate::{builtin, cli};

/// Column buffers come and go by the megabyte; this allocator keeps them instead of giving them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main_with(builtin::registry())
}
