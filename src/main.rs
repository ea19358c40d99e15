//! Parses the command line, runs the command, turns its outcome into an exit code.

use std::process::ExitCode;

/// Training makes and drops tensors of megabytes by the thousand; the system's allocator gives
/// each back to the kernel, which clears its pages anew: two thirds of the time of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // `lenaware ... | head` ends quietly, as other tools do.
    sigpipe::reset();
    lenaware::cli::main()
}
