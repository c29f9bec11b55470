//! The `atoll` executable: reads the environment once and hands it on.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == atoll::up::GUARDIAN)
    {
        // What it cannot read it has ended; there is nobody to tell.
        return match atoll_fleet::guardian_main(std::io::stdin().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    // Read here, once, for everybody.
    let environment = std::env::vars_os()
        // What is not UTF-8 can be named neither in the file nor by us.
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    atoll::cli::main(std::env::args_os(), environment)
}
