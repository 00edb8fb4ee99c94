//! The program. See the library for everything it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdoff::cli::main()
}
