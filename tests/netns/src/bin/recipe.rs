//! Runs a recipe of the documentation on three machines that are namespaces, and prints what happens.
//!
//! ```sh
//! cargo run -p netns-tests --bin recipe -- docs/overlay.md
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use netns_tests::Rack;
use netns_tests::recipe::Recipe;

fn main() -> ExitCode {
    let Some(page) = std::env::args().nth(1) else {
        let _ = writeln!(io::stderr(), "usage: recipe PAGE");
        return ExitCode::FAILURE;
    };
    match std::fs::read_to_string(&page) {
        Ok(text) => {
            let mut rack = Rack::bare(3, 1);
            Recipe::read(&text).run(&mut rack, |step, printed| {
                let _ = writeln!(io::stdout(), "{}# {}", step.machine, step.command);
                let _ = write!(io::stdout(), "{printed}");
            });
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "recipe: cannot read {page}: {error}");
            ExitCode::FAILURE
        }
    }
}
